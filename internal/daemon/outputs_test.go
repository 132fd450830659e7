package daemon

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestWriteOutputAsTheCompilerWould puts an output where something is already
// and compares the result with what gcc leaves there: kind, mode, links and
// content.
func TestWriteOutputAsTheCompilerWould(t *testing.T) {
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		if os.Getenv("HPCC_TEST_REQUIRE") != "" {
			t.Fatal("gcc is missing: run make setup")
		}
		t.Skip("gcc is missing")
	}
	syscall.Umask(0o022)
	src := filepath.Join(t.TempDir(), "a.c")
	if err := os.WriteFile(src, []byte("int a;\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name    string
		prepare func(dir string) error
	}{
		{"nothing there", func(string) error { return nil }},
		{"a plain file", func(d string) error { return os.WriteFile(d+"/out", []byte("old"), 0o644) }},
		{"a longer file", func(d string) error { return os.WriteFile(d+"/out", make([]byte, 1<<20), 0o644) }},
		{"another mode", func(d string) error { return os.WriteFile(d+"/out", []byte("old"), 0o600) }},
		{"execute bits", func(d string) error { return os.WriteFile(d+"/out", []byte("old"), 0o755) }},
		{"a symbolic link", func(d string) error {
			return join(os.WriteFile(d+"/target", []byte("old"), 0o640), os.Symlink("target", d+"/out"))
		}},
		{"a dangling link", func(d string) error { return os.Symlink("target", d+"/out") }},
		{"a hard link", func(d string) error {
			return join(os.WriteFile(d+"/other", []byte("old"), 0o644), os.Link(d+"/other", d+"/out"))
		}},
		{"the null device", func(d string) error { return os.Symlink("/dev/null", d+"/out") }},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			theirs, ours := t.TempDir(), t.TempDir()
			if err := join(c.prepare(theirs), c.prepare(ours)); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(gcc, "-c", src, "-o", theirs+"/out").CombinedOutput(); err != nil {
				t.Fatalf("gcc: %v\n%s", err, out)
			}
			plain := filepath.Join(t.TempDir(), "plain.o")
			if out, err := exec.Command(gcc, "-c", src, "-o", plain).CombinedOutput(); err != nil {
				t.Fatalf("gcc: %v\n%s", err, out)
			}
			data, _, err := readOutput(plain)
			if err != nil {
				t.Fatal(err)
			}
			if err := writeOutput(ours+"/out", data, 0o644, nil); err != nil {
				t.Fatal(err)
			}
			if got, want := describe(t, ours), describe(t, theirs); got != want {
				t.Errorf("left\n%swant, as gcc does,\n%s", got, want)
			}
		})
	}
}

func join(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// describe lists a directory: name, mode, links, target, content.
func describe(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		st, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		target, _ := os.Readlink(path)
		sum := []byte{}
		if target != "/dev/null" {
			sum, _ = os.ReadFile(path)
		}
		b.WriteString(strings.Join([]string{
			e.Name(), st.Mode().String(), target,
			string('0' + rune(st.Sys().(*syscall.Stat_t).Nlink)),
		}, " "))
		if bytes.HasPrefix(sum, []byte("\x7fELF")) {
			b.WriteString(" object")
		}
		b.WriteString("\n")
	}
	return b.String()
}
