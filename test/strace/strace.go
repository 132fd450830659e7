// Package strace runs programs under strace(1) and reads which paths each of
// their processes asked the kernel for. Tests use it as the judge of what a
// compiler looked up: it knows nothing of compilers, and nothing of hpcc.
package strace

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Command is what goes before a program's own command line for its look-ups,
// and those of all processes that it starts, to be written to files beginning
// with prefix, one per process. Only system calls that take a path are
// stopped, so that a compile takes about a tenth longer.
func Command(prefix string) []string {
	return []string{"strace", "-ff", "--seccomp-bpf", "-qq", "-y", "-s", "4096",
		"-e", "trace=%file", "-e", "signal=none", "-o", prefix}
}

// Process is what one process asked for.
type Process struct {
	// Program is what it ran, as execve was told; "" before its first.
	Program string
	Lookups []Lookup
}

// Lookup is one path in one system call.
type Lookup struct {
	// Call is the system call's name.
	Call string
	// Path is as the program spelled it, and Dir what it is relative to; ""
	// where strace does not tell, which is the working directory.
	Dir, Path string
	// Errno is "" where the call succeeded, else ENOENT and the like.
	Errno string
	// Directory: a directory was found there.
	Directory bool
	// Writes: the call creates, changes, renames or removes what is there.
	Writes bool
}

// Found reports whether something was at the path.
func (l *Lookup) Found() bool { return l.Errno == "" }

// Read returns the processes whose traces begin with prefix, a Process for each
// program that one ran. The files are removed: a build's traces are large.
func Read(prefix string) ([]Process, error) {
	names, err := filepath.Glob(prefix + ".*")
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("strace left nothing at %s", prefix)
	}
	var all []Process
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		processes, err := read(f)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, processes...)
		if err := os.Remove(name); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func read(f *os.File) ([]Process, error) {
	processes := []Process{{}}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	// gcc asks for the components of each header's path, over and over.
	seen := make(map[string]struct{})
	for lines.Scan() {
		line := lines.Text()
		if _, again := seen[line]; again {
			continue
		}
		seen[line] = struct{}{}
		found, err := Parse(line)
		if err != nil {
			return nil, err
		}
		for _, l := range found {
			last := &processes[len(processes)-1]
			last.Lookups = append(last.Lookups, l)
			if l.Call == "execve" && l.Found() {
				processes = append(processes, Process{Program: l.Path})
			}
		}
	}
	return processes, lines.Err()
}

const quoted = `"((?:[^"\\]|\\.)*)"`

var (
	// name(AT_FDCWD</dir>, "path", …) = result ERRNO; a directory is given to
	// those calls that take one, and a second path to rename and its like.
	syscallLine = regexp.MustCompile(`^(\w+)\((?:(?:AT_FDCWD|\d+)<((?:[^>\\]|\\.)*)>, )?` + quoted + `(\.\.\.)?(.*)\) += +(-?\d+|\?)(?:<.*>)?(?: (E[A-Z0-9]+))?`)
	secondPath  = regexp.MustCompile(`^, (?:(?:AT_FDCWD|\d+)<((?:[^>\\]|\\.)*)>, )?` + quoted)
)

// writers are the calls that do not merely look.
var writers = []string{"unlink", "unlinkat", "rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat",
	"chmod", "fchmodat", "chown", "fchownat", "lchown", "utimensat", "utime", "utimes", "truncate", "mkdir", "mkdirat", "rmdir",
	"creat", "mknod", "mknodat"}

// Parse reads one line of a trace. It gives no Lookup for a call without a
// path, two for one with two, and an error for a line that it does not know.
func Parse(line string) ([]Lookup, error) {
	name, _, _ := strings.Cut(line, "(")
	switch {
	case name == "getcwd" || name == "fchdir" || line == "" || strings.HasPrefix(line, "+++ ") || strings.HasPrefix(line, "--- "):
		return nil, nil
	case strings.HasPrefix(line, name+"(AT_FDCWD") && strings.Contains(line, "NULL"): // utimensat on a descriptor
		return nil, nil
	}
	m := syscallLine.FindStringSubmatch(line)
	if m == nil || m[4] != "" {
		return nil, fmt.Errorf("not understood: %.200s", line)
	}
	arguments := m[5]
	l := Lookup{Call: name, Dir: unescape(m[2]), Path: unescape(m[3]), Errno: m[7]}
	l.Writes = slices.Contains(writers, name) ||
		strings.Contains(arguments, "O_WRONLY") || strings.Contains(arguments, "O_RDWR") || strings.Contains(arguments, "O_CREAT")
	l.Directory = strings.Contains(arguments, "st_mode=S_IFDIR") || strings.Contains(arguments, "stx_mode=S_IFDIR") ||
		strings.Contains(arguments, "O_DIRECTORY")
	if l.Path == "" { // fstat by another name
		return nil, nil
	}
	lookups := []Lookup{l}
	if s := secondPath.FindStringSubmatch(arguments); l.Writes && s != nil {
		l.Dir, l.Path = unescape(s[1]), unescape(s[2])
		lookups = append(lookups, l)
	}
	if name == "chdir" && l.Found() {
		return nil, errors.New("the program changes its working directory: relative paths cannot be told")
	}
	return lookups, nil
}

// unescape undoes the escapes of C strings that strace writes.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		switch c := s[i]; c {
		case 'n':
			b.WriteByte('\n')
		case 't':
			b.WriteByte('\t')
		case 'r':
			b.WriteByte('\r')
		case 'v':
			b.WriteByte('\v')
		case 'f':
			b.WriteByte('\f')
		case '0', '1', '2', '3', '4', '5', '6', '7':
			n := 0
			for k := 0; k < 3 && i < len(s) && '0' <= s[i] && s[i] <= '7'; k++ {
				n = n*8 + int(s[i]-'0')
				i++
			}
			i--
			b.WriteByte(byte(n))
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
