package compiler

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestRemovesAtFailure compares what is said of failing commands with what the
// compilers do to the outputs of an earlier compile.
func TestRemovesAtFailure(t *testing.T) {
	units := map[string]string{
		"syntax":    "#include \"b.h\"\nint f(void) { return 1; }\nint a = ;\n",
		"header":    "#include \"b.h\"\n#include \"none.h\"\nint f(void) { return 1; }\n",
		"directive": "#include \"b.h\"\n#error no\n",
		"warning":   "#include \"b.h\"\nint f(void) { int unused; return 1; }\n",
		"assembler": "#include \"b.h\"\nint f(void) { return 1; }\n__asm__(\"bogus insn\");\n",
	}
	gcc := [][]string{
		{"-c"}, {"-c", "-MD", "-o", "out.o"}, {"-c", "-pipe", "-MD"}, {"-S", "-MD"}, {"-S", "-MD", "-pipe"}, {"-c", "--coverage", "-MD"}, {"-S", "-ftest-coverage"},
		{"-c", "-fstack-usage", "-MMD", "-MF", "deps"}, {"-c", "-g", "-gsplit-dwarf"}, {"-c", "-flto"},
		{"-c", "-MD", "-fno-such-thing"}, {"-S", "-march=bogus"}, {"-S", "-fno-such-thing"}, {"-c", "-MD", "-Wfatal-errors"},
	}
	clang := [][]string{
		{"-c"}, {"-c", "-MD", "-o", "out.o"}, {"-c", "-pipe", "-MD"}, {"-S", "-MD"}, {"-c", "-no-integrated-as", "-MD"}, {"-c", "-no-integrated-as", "-integrated-as"},
		{"-c", "--coverage", "-MD"}, {"-c", "-fstack-usage", "-MMD", "-MF", "deps"}, {"-c", "-g", "-gsplit-dwarf"}, {"-c", "-flto"},
		{"-c", "-MD", "-fno-such-thing"}, {"-c", "-MD", "-std=c45"}, {"-S", "-march=bogus"}, {"-c", "-MD", "-Wfatal-errors"},
	}
	clangCL := [][]string{{"/c"}, {"/c", "/Foout.obj"}, {"/c", "/Z7"}}
	removed := 0
	for program, sets := range map[string][][]string{"gcc": gcc, "g++": gcc[:6], "clang": clang, "clang-cl": clangCL} {
		path, err := exec.LookPath(program)
		if err != nil {
			path, err = exec.LookPath(program + "-14")
		}
		if err != nil {
			t.Fatal(err)
		}
		family, _, _ := FamilyOf(program)
		for unit, text := range units {
			for _, set := range sets {
				warn := []string{"-Wall", "-Werror"}
				if family == ClangCL {
					warn = []string{"/W4", "/WX"}
				}
				args := append(append(warn, set...), "a.c")
				inv, err := Parse(Command{Compiler: path, Args: append([]string{program}, args...), Cwd: "/"})
				if err != nil {
					t.Fatalf("%q: %v", args, err)
				}
				files := map[string]string{}
				for _, o := range inv.Outputs {
					files[o.Role] = o.Path
				}
				if inv.Deps.Requested {
					files[RoleDependencies] = inv.Deps.File
				}
				// Once over old files, and once over none: what is made then is
				// sent, and nobody asks.
				run := func(old bool) (string, []byte, bool) {
					dir := t.TempDir()
					for name, content := range map[string]string{"a.c": text, "b.h": "#define B 1\n"} {
						if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
							t.Fatal(err)
						}
					}
					for _, name := range files {
						if old {
							if err := os.WriteFile(filepath.Join(dir, name), []byte("old"), 0o644); err != nil {
								t.Fatal(err)
							}
						}
					}
					var stderr bytes.Buffer
					cmd := exec.Command(path, args...)
					cmd.Dir, cmd.Env, cmd.Stderr = dir, append(os.Environ(), "LC_ALL=C.UTF-8"), &stderr
					err := cmd.Run()
					return dir, stderr.Bytes(), err == nil
				}
				fresh, _, succeeded := run(false)
				over, stderr, _ := run(true)
				if succeeded {
					continue
				}
				for role, name := range files {
					if _, err := os.Stat(filepath.Join(fresh, name)); err == nil {
						continue
					}
					_, err := os.Stat(filepath.Join(over, name))
					if got, want := inv.RemovesAtFailure(role, stderr), err != nil; got != want {
						t.Errorf("%s %q, %s: says %v of %s, does %v\n%s", program, args, unit, got, role, want, stderr)
					}
					if err != nil {
						removed++
					}
				}
			}
		}
	}
	if removed < 50 {
		t.Errorf("only %d files were removed", removed)
	}
}
