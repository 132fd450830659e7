//go:build unix

package wrapper

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// What a shell says of a command that it cannot run, and the status it ends
// with then; build systems know both.
var (
	errNotFound      = errors.New("command not found")    // 127
	errNotExecutable = errors.New("permission denied")    // 126
	errLoop          = errors.New("calls itself forever") // 126
)

func statusOf(err error) int {
	if errors.Is(err, errNotFound) || errors.Is(err, unix.ENOENT) {
		return 127
	}
	return 126
}

// fileID tells files apart whatever they are called.
type fileID struct{ device, inode uint64 }

// finder looks programs up as execvp does, except that hpcc itself, under
// whatever name or link, is never what it finds.
type finder struct {
	self fileID
	link fileID // what links named after compilers lead to, if not to self
	path string // the variable PATH
	cwd  string
	buf  [256]byte // candidates are made here; longer ones elsewhere
}

func newFinder(env environment, cwd string) finder {
	path, ok := env.lookup("PATH")
	if !ok {
		path = "/bin:/usr/bin" // what execvp of glibc and musl assumes
	}
	f := finder{path: path, cwd: cwd}
	f.self, _, _ = identify(append(f.buf[:0], selfExe()...))
	return f
}

func (f *finder) own(id fileID) bool { return id == f.self || id == f.link && id != (fileID{}) }

// compiler returns the absolute path of the compiler called name. A name with
// a slash is taken as it is, unless it is a link to hpcc; then, as for a bare
// name, PATH decides. active are the compilers to pass over.
func (f *finder) compiler(name string, active []string) (string, error) {
	if len(active) >= maxActive {
		return "", errLoop
	}
	if strings.Contains(name, "/") {
		path := f.join("", name)
		id, err := executable(path)
		if err != nil {
			return "", err
		}
		if !f.own(id) {
			return string(path), nil
		}
		name = filepath.Base(name)
	}
	path, err := f.search(name, active)
	if err != nil && len(active) > 0 {
		// Only the outer compiler itself is left. It may well mean to call
		// itself again, and would find itself without hpcc.
		path, err = f.search(name, nil)
	}
	return path, err
}

// search looks for a bare name in PATH.
func (f *finder) search(name string, skip []string) (string, error) {
	if name == "" {
		return "", errNotFound
	}
	result := errNotFound
	for rest, more := f.path, true; more; {
		var dir string
		dir, rest, more = strings.Cut(rest, ":")
		path := f.join(dir, name)
		id, err := executable(path)
		switch {
		case err == errNotExecutable:
			result = err // as execvp: said only if nothing better comes
		case err == nil && !f.own(id) && !slices.Contains(skip, string(path)):
			return string(path), nil
		}
	}
	return "", result
}

// join makes the absolute path of name in dir, an element of PATH; an empty
// one is the working directory. It is good until the next call.
func (f *finder) join(dir, name string) []byte {
	path := f.buf[:0]
	if dir == "." {
		dir = ""
	}
	if !strings.HasPrefix(dir, "/") && (dir != "" || !strings.HasPrefix(name, "/")) {
		path = append(append(path, strings.TrimSuffix(f.cwd, "/")...), '/')
	}
	if path = append(path, dir...); dir != "" && !strings.HasSuffix(dir, "/") {
		path = append(path, '/')
	}
	return append(path, strings.TrimPrefix(name, "./")...)
}

// executable returns what path is, if it is a program. The error is
// errNotFound or errNotExecutable.
func executable(path []byte) (fileID, error) {
	id, mode, err := identify(path)
	switch {
	case err == unix.EACCES:
		return id, errNotExecutable
	case err != nil:
		return id, errNotFound
	case mode&unix.S_IFMT != unix.S_IFREG, unix.Access(string(path), unix.X_OK) != nil:
		return id, errNotExecutable
	}
	return id, nil
}

// hpccd returns the path of the other program.
func (f *finder) hpccd() (string, error) { return f.other("hpccd") }

// other returns the path of a program of hpcc's: beside this one, where it was
// installed, or else in PATH.
func (f *finder) other(name string) (string, error) {
	if exe, err := os.Executable(); err == nil {
		if exe, err = filepath.EvalSymlinks(exe); err == nil {
			path := filepath.Join(filepath.Dir(exe), name)
			if _, err := executable([]byte(path)); err == nil {
				return path, nil
			}
		}
	}
	return f.search(name, nil)
}
