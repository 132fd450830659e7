package daemon

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"hpcc.dev/hpcc/internal/compiler"
)

// TestWriteOutputAsTheCompilerWould puts each kind of output where something
// is already and compares what is left with what the compilers leave there:
// kind, mode, links, and which names hold the new content.
func TestWriteOutputAsTheCompilerWould(t *testing.T) {
	syscall.Umask(0o022)
	src := filepath.Join(t.TempDir(), "a.c")
	if err := os.WriteFile(src, []byte("int a; int f(void) { return a; }\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	type output struct {
		role, suffix string
		args         []string
	}
	gnu := []output{
		{"object", "o", []string{"-c"}},
		{"assembly", "o", []string{"-S"}},
		{"dwo", "dwo", []string{"-g", "-gsplit-dwarf", "-c"}},
		{"gcno", "gcno", []string{"--coverage", "-c"}},
		{"dependencies", "d", []string{"-MD", "-c"}},
	}
	// $O stands for the output without its suffix.
	msvc := []output{
		{"object", "o", []string{"/c"}},
		{"listing", "lst", []string{"/c", "/Fa$O.lst"}},
		{"gcno", "gcno", []string{"/c", "--coverage", "/Fo$O.o"}},
		{"dependencies", "d", []string{"/c", "/clang:-MD", "/clang:-MF$O.d"}},
	}
	existing := []struct {
		name    string
		prepare func(out, dir string) error
	}{
		{"nothing", func(string, string) error { return nil }},
		{"file", func(o, _ string) error { return os.WriteFile(o, []byte("old"), 0o644) }},
		{"private file", func(o, _ string) error { return os.WriteFile(o, []byte("old"), 0o600) }},
		{"executable file", func(o, _ string) error { return os.WriteFile(o, []byte("old"), 0o755) }},
		{"empty private file", func(o, _ string) error { return os.WriteFile(o, nil, 0o600) }},
		{"symbolic link", func(o, d string) error {
			return join(os.WriteFile(d+"/target", []byte("old"), 0o640), os.Symlink("target", o))
		}},
		{"dangling link", func(o, _ string) error { return os.Symlink("target", o) }},
		{"hard link", func(o, d string) error {
			return join(os.WriteFile(d+"/other", []byte("old"), 0o644), os.Link(d+"/other", o))
		}},
		{"link to the null device", func(o, _ string) error { return os.Symlink("/dev/null", o) }},
	}
	for _, c := range []struct {
		family  compiler.Family
		name    string
		outputs []output
	}{
		{compiler.GCC, "gcc-12", gnu},
		{compiler.GCC, "x86_64-w64-mingw32-gcc", gnu},
		{compiler.Clang, "clang-14", gnu},
		{compiler.ClangCL, "clang-cl-14", msvc},
	} {
		family, name := c.family, c.name
		path, err := exec.LookPath(name)
		if err != nil {
			if os.Getenv("HPCC_TEST_REQUIRE") != "" {
				t.Fatalf("%s is missing: run make setup", name)
			}
			t.Logf("%s is missing", name)
			continue
		}
		for _, o := range c.outputs {
			for _, e := range existing {
				t.Run(name+" "+o.role+" over "+e.name, func(t *testing.T) {
					theirs, ours := t.TempDir(), t.TempDir()
					if err := join(e.prepare(theirs+"/out."+o.suffix, theirs), e.prepare(ours+"/out."+o.suffix, ours)); err != nil {
						t.Fatal(err)
					}
					args := append(slices.Clone(o.args), "-o", theirs+"/out.o", "--", src)
					if !family.IsClang() {
						args = append(slices.Clone(o.args), "-o", theirs+"/out.o", src)
					}
					for i := range args {
						args[i] = strings.ReplaceAll(args[i], "$O", theirs+"/out")
					}
					if out, err := exec.Command(path, args...).CombinedOutput(); err != nil {
						t.Fatalf("%s: %v\n%s", name, err, out)
					}
					f := outputFile{path: ours + "/out." + o.suffix, data: []byte("new"), mode: 0o666, umask: 0o022, how: mannerOf(family, o.role)}
					if _, err := f.write(); err != nil {
						t.Fatal(err)
					}
					if got, want := describe(t, ours, o.suffix), describe(t, theirs, o.suffix); got != want {
						t.Errorf("left\n%swant, as %s does,\n%s", got, name, want)
					}
				})
			}
		}
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

// describe lists an output and what was put around it: name, mode, links,
// target, and whether the content is still the old.
func describe(t *testing.T, dir, suffix string) string {
	t.Helper()
	var b strings.Builder
	for _, name := range []string{"out." + suffix, "target", "other"} {
		path := filepath.Join(dir, name)
		st, err := os.Lstat(path)
		if err != nil {
			continue
		}
		target, _ := os.Readlink(path)
		content := "new"
		if target == "/dev/null" {
			content = ""
		} else if text, _ := os.ReadFile(path); string(text) == "old" {
			content = "old"
		}
		fmt.Fprintln(&b, name, st.Mode(), st.Sys().(*syscall.Stat_t).Nlink, target, content)
	}
	return b.String()
}
