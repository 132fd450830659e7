//go:build e2e && linux

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestBuildSystems sets hpcc up in the ways that the README gives for build
// systems that write their own build files: all their compiles are cached.
func TestBuildSystems(t *testing.T) {
	const units = 3 // a.c, b.cc, main.cc
	sources := map[string]string{
		"a.c":     "#include \"a.h\"\nint a(void) { return A; }\n",
		"a.h":     "#ifdef __cplusplus\nextern \"C\"\n#endif\nint a(void);\n#define A 1\n",
		"b.cc":    "#include \"a.h\"\n#include <vector>\nint b() { return int(std::vector<int>(A).size()); }\n",
		"main.cc": "#include \"a.h\"\nint b();\nint main() { return a() - b(); }\n",
		"CMakeLists.txt": "cmake_minimum_required(VERSION 3.13)\nproject(p C CXX)\n" +
			"add_executable(prog a.c b.cc main.cc)\n",
		"meson.build": "project('p', 'c', 'cpp')\nexecutable('prog', 'a.c', 'b.cc', 'main.cc')\n",
	}
	tests := []struct {
		name      string
		configure []string
		env       []string
		build     []string
	}{
		{
			name: "CMake and Ninja",
			configure: []string{"cmake", "-G", "Ninja", "-B", "bld", "-DCMAKE_BUILD_TYPE=Debug",
				"-DCMAKE_C_COMPILER_LAUNCHER=hpcc", "-DCMAKE_CXX_COMPILER_LAUNCHER=hpcc"},
			build: []string{"ninja", "-C", "bld"},
		},
		{
			name: "CMake and make",
			configure: []string{"cmake", "-G", "Unix Makefiles", "-B", "bld", "-DCMAKE_BUILD_TYPE=Debug",
				"-DCMAKE_C_COMPILER_LAUNCHER=hpcc", "-DCMAKE_CXX_COMPILER_LAUNCHER=hpcc"},
			build: []string{"make", "-C", "bld"},
		},
		{
			name:      "Meson",
			configure: []string{"meson", "setup", "bld"},
			env:       []string{"CC=hpcc gcc", "CXX=hpcc g++"},
			build:     []string{"ninja", "-C", "bld"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range sources {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			w := newWorld(t, "")
			w.start()
			env := append(w.env(w.bin), tt.env...)
			run := func(argv []string) {
				t.Helper()
				cmd := exec.Command(argv[0], argv[1:]...)
				cmd.Dir, cmd.Env = dir, env
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%q: %v\n%s", argv, err, tail(out))
				}
			}
			run(tt.configure)
			w.count() // what the configuration tried does not count
			run(tt.build)
			if s := w.count(); s.hits()+s.Misses != units {
				t.Errorf("cold: %d hits and %d misses, want %d in all", s.hits(), s.Misses, units)
			}
			run(append(tt.build, "clean"))
			run(tt.build)
			if s := w.count(); s.hits() != units || s.Misses != 0 {
				t.Errorf("warm: %d hits and %d misses, want %d hits", s.hits(), s.Misses, units)
			}
		})
	}
}
