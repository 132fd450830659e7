package strace

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

func TestParse(t *testing.T) {
	tests := []struct {
		line string
		want []Lookup
	}{
		{`openat(AT_FDCWD</w/p>, "a\tb\303\244.h", O_RDONLY|O_NOCTTY) = -1 ENOENT (No such file or directory)`,
			[]Lookup{{Call: "openat", Dir: "/w/p", Path: "a\tbä.h", Errno: "ENOENT"}}},
		{`openat(AT_FDCWD</w>, "/etc/ld.so.cache", O_RDONLY|O_CLOEXEC) = 3</etc/ld.so.cache>`,
			[]Lookup{{Call: "openat", Dir: "/w", Path: "/etc/ld.so.cache"}}},
		{`openat(AT_FDCWD</w>, "x.o", O_RDWR|O_CREAT|O_TRUNC, 0666) = 3</w/x.o>`,
			[]Lookup{{Call: "openat", Dir: "/w", Path: "x.o", Writes: true}}},
		{`newfstatat(AT_FDCWD</w>, "inc", {st_mode=S_IFDIR|0755, st_size=4096, ...}, 0) = 0`,
			[]Lookup{{Call: "newfstatat", Dir: "/w", Path: "inc", Directory: true}}},
		{`newfstatat(3</w/a.h>, "", {st_mode=S_IFREG|0644, st_size=180, ...}, AT_EMPTY_PATH) = 0`, nil},
		{`readlink("/usr", 0x7ffce578e2a0, 1023)  = -1 EINVAL (Invalid argument)`,
			[]Lookup{{Call: "readlink", Path: "/usr", Errno: "EINVAL"}}},
		{`rename("a-1.o.tmp", "a.o")             = 0`,
			[]Lookup{{Call: "rename", Path: "a-1.o.tmp", Writes: true}, {Call: "rename", Path: "a.o", Writes: true}}},
		{`execve("/usr/bin/as", ["as", "\"", "--64"], 0x10086a50 /* 39 vars */) = 0`,
			[]Lookup{{Call: "execve", Path: "/usr/bin/as"}}},
		{`getcwd("/w/p", 4096)                    = 5`, nil},
		{`+++ exited with 0 +++`, nil},
	}
	for _, tt := range tests {
		got, err := Parse(tt.line)
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s\ngot  %+v, %v\nwant %+v", tt.line, got, err, tt.want)
		}
	}
	for _, line := range []string{
		`openat(AT_FDCWD</w>, "abc"..., O_RDONLY) = 3</x>`, // shortened: which path it was is lost
		`execve("/usr/bin/as", ["as"], 0x1 <unfinished ...>`,
		`what is this`,
	} {
		if got, err := Parse(line); err == nil {
			t.Errorf("%s: understood as %+v", line, got)
		}
	}
}

// TestTrace runs the programs that it is for, on look-ups that are known.
func TestTrace(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		if os.Getenv("HPCC_TEST_REQUIRE") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	prefix := filepath.Join(dir, "trace")
	cmd := exec.Command("strace", append(Command(prefix)[1:], "sh", "-c", `: >"$1"; test -e gone; ls sub; true`, "sh", "ä\nb")...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	processes, err := Read(prefix)
	if err != nil {
		t.Fatal(err)
	}
	has := func(program string, match func(Lookup) bool) bool {
		return slices.ContainsFunc(processes, func(p Process) bool {
			return filepath.Base(p.Program) == program && slices.ContainsFunc(p.Lookups, match)
		})
	}
	if !has("sh", func(l Lookup) bool { return l.Path == "ä\nb" && l.Dir == dir && l.Writes && l.Found() }) {
		t.Errorf("the file that sh made is not in the trace: %+v", processes)
	}
	if !has("sh", func(l Lookup) bool { return l.Path == "gone" && l.Errno == "ENOENT" }) {
		t.Errorf("the file that sh missed is not in the trace: %+v", processes)
	}
	if !has("ls", func(l Lookup) bool { return l.Path == "sub" && l.Directory && !l.Writes && l.Found() }) {
		t.Errorf("the directory that ls read is not in the trace: %+v", processes)
	}
	if left, _ := filepath.Glob(prefix + "*"); len(left) > 0 {
		t.Errorf("traces are left: %q", left)
	}
}
