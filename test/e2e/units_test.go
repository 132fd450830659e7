//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hpcc.dev/hpcc/internal/vm/vmtest"
)

// realUnits writes compiles of real programs, with the headers that lie beside
// them, for the lab to hold the agent's record against strace. They are small:
// the lab is emulated twice.
func realUnits(t *testing.T) (path string) {
	t.Helper()
	out := []string{"-c", "-o", "out"}
	redis := []string{"-std=gnu99", "-Isrc", "-Ideps/hiredis", "-Ideps/linenoise", "-Ideps/lua/src", "-Ideps/hdr_histogram", "-Ideps/jemalloc/include"}
	redisFiles := []string{"src/*.h", "deps/hiredis/*.h", "deps/linenoise/*.h", "deps/hdr_histogram/*.h"}
	var units []vmtest.Unit
	for _, u := range []struct {
		source, unit string
		files        []string
		links        map[string]string
		argv         []string
	}{
		{"lua5.4", "src/lzio.c", []string{"src/*.h"}, nil, []string{"gcc", "-O2", "-std=gnu99", "-DLUA_USE_LINUX", "-MD", "-MP"}},
		{"lua5.4", "src/lopcodes.c", []string{"src/*.h"}, map[string]string{"include": "src"}, []string{"gcc", "-Iinclude", "-g", "-pipe"}},
		{"lua5.4", "src/linit.c", []string{"src/*.h"}, nil, []string{"gcc", "-Wall", "-isystem", "src", "-include", "src/lprefix.h"}},
		{"redis", "src/crc64.c", redisFiles, nil, append([]string{"gcc", "-O1", "-MMD", "-MF", "out.d"}, redis...)},
		{"redis", "src/sha1.c", redisFiles, nil, append([]string{"gcc", "-g3"}, redis...)},
		{"redis", "src/siphash.c", redisFiles, map[string]string{"deps/lua/src": "../../src"}, append([]string{"gcc", "-M", "-MQ", "x"}, redis...)},
		{"redis", "deps/hiredis/sds.c", redisFiles, map[string]string{"hiredis": "deps/hiredis"}, []string{"gcc", "-Ihiredis", "-I.", "-fPIC", "-Wstrict-prototypes"}},
		{"lz4", "lib/xxhash.c", []string{"lib/*.h"}, nil, []string{"gcc", "-DXXH_NAMESPACE=LZ4_", "-iquote", "lib", "-Iprograms"}},
		{"yaml-cpp", "src/null.cpp", []string{"include/yaml-cpp/*.h", "include/yaml-cpp/*/*.h", "src/*.h"}, nil, []string{"g++", "-std=gnu++11", "-Iinclude", "-isystem", "contrib/include"}},
		{"yaml-cpp", "src/directives.cpp", []string{"include/yaml-cpp/*.h", "include/yaml-cpp/*/*.h", "src/*.h"}, map[string]string{"current": "include"},
			[]string{"g++", "-std=gnu++11", "-Icurrent", "-Iinclude", "-MD", "-fsyntax-only"}},
	} {
		dir := filepath.Join(t.TempDir(), "source")
		if out, err := exec.Command("../../scripts/fetch-source", u.source, dir).CombinedOutput(); err != nil {
			t.Fatalf("fetch-source: %v\n%s", err, out)
		}
		unit := vmtest.Unit{Name: u.source + " " + u.unit, Files: map[string]string{}, Links: u.links, Argv: append(append(u.argv, u.unit), out...)}
		for _, pattern := range append(u.files, u.unit) {
			names, err := filepath.Glob(filepath.Join(dir, pattern))
			if err != nil || len(names) == 0 {
				t.Fatalf("%s has no %s: %v", u.source, pattern, err)
			}
			for _, name := range names {
				text, err := os.ReadFile(name)
				if err != nil {
					t.Fatal(err)
				}
				unit.Files[strings.TrimPrefix(name, dir+"/")] = string(text)
			}
		}
		units = append(units, unit)
	}
	text, err := json.Marshal(units)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "units.json")
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
