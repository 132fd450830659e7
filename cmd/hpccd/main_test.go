package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// The test binary becomes hpccd in the scripts, also under the name hpcc,
// under which users call it.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"hpccd": main, "hpcc": main})
}

// TestScripts runs the scenarios in testdata/script, each in a directory and
// with a configuration and a cache of its own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			home := filepath.Join(env.WorkDir, "home")
			env.Setenv("HOME", home)
			env.Setenv("HPCC_CONFIG_DIR", filepath.Join(home, "config"))
			env.Setenv("HPCC_CACHE_DIR", filepath.Join(home, "cache"))
			return os.MkdirAll(filepath.Join(home, "config"), 0o700)
		},
	})
}
