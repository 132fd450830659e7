package daemon

import (
	"errors"
	"io/fs"
	"path/filepath"
	"testing"

	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// left lists the results that an engine has on disk.
func (e *Engine) left(t *testing.T) (files []string) {
	t.Helper()
	for _, kind := range []string{"cas", "ac", "manifest"} {
		err := filepath.WalkDir(filepath.Join(e.cache.Dir(), kind), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				files = append(files, path)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// TestParanoidFallback: what a compiler of this machine makes in a worker's place is
// no result either, for which no worker has a row.
func TestParanoidFallback(t *testing.T) {
	w := newMachineWorker(t)
	w.fails = errors.New("nobody is there")
	for _, policy := range []Fallback{FallbackSame, FallbackAny} {
		e := awayEngine(t, &describer{machineWorker: w}, func(o *Options) { o.Away.Paranoid, o.Away.Fallback = true, policy })
		dir := project(t, map[string]string{"a.c": "int a;\n"})
		client := &here{dir: dir}
		for n := range 2 {
			m := e.Compile(t.Context(), &ipcv1.Compile{Args: []string{"gcc", "-c", "a.c"}, Compiler: "/usr/bin/gcc", Cwd: dir, Umask: 0o022}, client)
			if m.Done == nil || m.Done.ExitCode != 0 || client.runs != n+1 {
				t.Errorf("%s: %+v, %d runs", policy, m, client.runs)
			}
			e.Drain()
		}
		for _, path := range e.left(t) {
			t.Errorf("%s: left %s", policy, path)
		}
		if s, err := ReadStats(e.cache); err != nil || s.HitsDirect != 0 || s.NotRemote[string(reasonAway)] != 2 {
			t.Errorf("%s: %+v, %v", policy, s, err)
		}
	}
}

// TestParanoidForgets: what the cache holds from before is no hit.
func TestParanoidForgets(t *testing.T) {
	w := newMachineWorker(t)
	dir := project(t, map[string]string{"a.c": "int a;\n"})
	before := awayEngine(t, w, nil)
	away(t, before, dir, "gcc", "-c", "a.c")
	before.Drain()
	if len(before.left(t)) == 0 {
		t.Fatal("nothing was kept")
	}
	jobs := w.jobs.Load()
	e := awayEngine(t, w, func(o *Options) { o.Cache, o.Away.Paranoid = before.cache, true })
	if done := away(t, e, dir, "gcc", "-c", "a.c"); done.ExitCode != 0 || w.jobs.Load() == jobs {
		t.Errorf("%+v: no worker was asked", done)
	}
}
