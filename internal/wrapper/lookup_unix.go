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

func identify(path string) (id fileID, mode uint32, err error) {
	var st unix.Stat_t
	for {
		if err = unix.Stat(path, &st); err != unix.EINTR {
			break
		}
	}
	return fileID{uint64(st.Dev), uint64(st.Ino)}, uint32(st.Mode), err
}

// finder looks programs up as execvp does, except that hpcc itself, under
// whatever name or link, is never what it finds.
type finder struct {
	self fileID
	path string // the variable PATH
	cwd  string
}

func newFinder(env environment, cwd string) *finder {
	path, ok := env.lookup("PATH")
	if !ok {
		path = "/bin:/usr/bin" // what execvp of glibc and musl assumes
	}
	self, _, _ := identify(selfExe())
	return &finder{self: self, path: path, cwd: cwd}
}

// compiler returns the absolute path of the compiler called name. A name with
// a slash is taken as it is, unless it is a link to hpcc; then, as for a bare
// name, PATH decides. active are the compilers to pass over.
func (f *finder) compiler(name string, active []string) (string, error) {
	if len(active) >= maxActive {
		return "", errLoop
	}
	if strings.Contains(name, "/") {
		path := f.absolute(name)
		id, err := f.executable(path)
		if err != nil {
			return "", err
		}
		if id != f.self {
			return path, nil
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
	for dir := range strings.SplitSeq(f.path, ":") {
		if dir == "" {
			dir = "." // an empty element is the working directory
		}
		path := f.absolute(strings.TrimSuffix(dir, "/") + "/" + name)
		id, err := f.executable(path)
		switch {
		case err == errNotExecutable:
			result = err // as execvp: said only if nothing better comes
		case err == nil && id != f.self && !slices.Contains(skip, path):
			return path, nil
		}
	}
	return "", result
}

// executable returns what path is, if it is a program. The error is
// errNotFound or errNotExecutable.
func (f *finder) executable(path string) (fileID, error) {
	id, mode, err := identify(path)
	switch {
	case err == unix.EACCES:
		return id, errNotExecutable
	case err != nil:
		return id, errNotFound
	case mode&unix.S_IFMT != unix.S_IFREG, unix.Access(path, unix.X_OK) != nil:
		return id, errNotExecutable
	}
	return id, nil
}

func (f *finder) absolute(path string) string {
	if strings.HasPrefix(path, "/") {
		return path
	}
	return strings.TrimSuffix(f.cwd, "/") + "/" + strings.TrimPrefix(path, "./")
}

// hpccd returns the path of the other program: beside this one, where it was
// installed, or else in PATH.
func (f *finder) hpccd() (string, error) {
	if exe, err := os.Executable(); err == nil {
		if exe, err = filepath.EvalSymlinks(exe); err == nil {
			path := filepath.Join(filepath.Dir(exe), "hpccd")
			if _, err := f.executable(path); err == nil {
				return path, nil
			}
		}
	}
	return f.search("hpccd", nil)
}
