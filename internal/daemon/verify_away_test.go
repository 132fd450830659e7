package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/remote"
)

// tampered is a worker whose answers to jobs that look for results, and to those
// that do not, are changed.
type tampered struct {
	*machineWorker
	stored, uncached func(*remote.Request, *remote.Result) (*remote.Result, error)
	looked, again    int // how often each was asked
}

func (w *tampered) Compile(ctx context.Context, r *remote.Request) (*remote.Result, error) {
	res, err := w.machineWorker.Compile(ctx, r)
	change := w.stored
	if r.Uncached {
		w.again++
		change = w.uncached
	} else {
		w.looked++
	}
	if err == nil && change != nil {
		return change(r, res)
	}
	return res, err
}

// asHit is the answer of a worker that has the result.
func asHit(_ *remote.Request, res *remote.Result) (*remote.Result, error) {
	res.Hit = res.ExitCode == 0
	return res, nil
}

// spoil makes another object of a result.
func spoil(_ *remote.Request, res *remote.Result) (*remote.Result, error) {
	for i := range res.Outputs {
		if o := &res.Outputs[i]; o.Role == "object" {
			o.Data = append(bytes.Clone(o.Data), "spoilt"...)
			o.Digest = digest.Of(o.Data)
		}
	}
	return res, nil
}

func spoilHit(r *remote.Request, res *remote.Result) (*remote.Result, error) {
	res, _ = spoil(r, res)
	return asHit(r, res)
}

const spoilt = "spoilt"

// TestVerifyAway verifies hits of workers' results by compiles on workers.
func TestVerifyAway(t *testing.T) {
	w := newMachineWorker(t)
	type worker = func(dir string) *tampered
	honest := func(string) *tampered { return &tampered{machineWorker: w} }
	for name, c := range map[string]struct {
		worker worker
		// paranoid clients have hits of workers' alone; text sends the source text.
		paranoid, text bool
		// later changes the worker after the first compile.
		later func(w *tampered, dir string)
		// exit, note and object are of the compile that verifies: the object is
		// right, spoilt, or missing.
		exit   int32
		note   string
		object string
		stats  func(*Stats) bool
		// after is the object of a third compile, which does not verify.
		after string
	}{
		"a hit here that is right": {
			worker: honest, object: "right", after: "right",
			stats: func(s *Stats) bool { return s.HitsDirect == 1 && s.Verify.Checked == 1 && s.Verify.Mismatched == 0 },
		},
		"a hit here that another compile does not confirm": {
			worker: honest, later: func(w *tampered, _ string) { w.uncached = spoil },
			note: "verification: the cached object", object: spoilt, after: "right",
			stats: func(s *Stats) bool {
				return s.HitsDirect == 0 && s.Verify.Checked == 1 && s.Verify.Mismatched == 1 && s.Uncacheable[string(reasonVerify)] == 1
			},
		},
		"a hit here, and no worker": {
			worker: honest, object: "right", after: "right",
			later: func(w *tampered, _ string) {
				w.uncached = func(*remote.Request, *remote.Result) (*remote.Result, error) { return nil, errors.New("all are full") }
			},
			stats: func(s *Stats) bool {
				return s.HitsDirect == 1 && s.Verify.Checked == 0 && s.Verify.Skipped[string(reasonAway)] == 1
			},
		},
		"a hit here that does not compile": {
			worker: honest, exit: 1, note: "verification: the cached exit status", after: "right",
			later: func(w *tampered, _ string) {
				w.uncached = func(_ *remote.Request, res *remote.Result) (*remote.Result, error) {
					res.ExitCode, res.Outputs = 1, nil
					return res, nil
				}
			},
			stats: func(s *Stats) bool { return s.Verify.Mismatched == 1 && s.CompilesFailed == 0 },
		},
		"a hit here whose header changes": {
			worker: honest, object: "right", after: "",
			later: func(w *tampered, dir string) {
				w.uncached = func(r *remote.Request, res *remote.Result) (*remote.Result, error) {
					put(t, dir+"/b.h", "#define B 2\n")
					return spoil(r, res)
				}
			},
			stats: func(s *Stats) bool {
				return s.HitsDirect == 1 && s.Verify.Checked == 0 && s.Verify.Skipped[string(reasonModified)] == 1
			},
		},
		"a worker's hit that is right": {
			worker: func(string) *tampered { return &tampered{machineWorker: w, stored: asHit} }, paranoid: true, object: "right", after: "right",
			stats: func(s *Stats) bool { return s.HitsRemote == 2 && s.Verify.Checked == 1 && s.Entries == 0 },
		},
		"a worker's hit that is wrong": {
			worker: honest, paranoid: true, later: func(w *tampered, _ string) { w.stored = spoilHit },
			note: "verification: the cached object", object: "right", after: "right",
			stats: func(s *Stats) bool {
				return s.HitsRemote == 0 && s.Verify.Mismatched == 1 && s.Entries == 0 && s.Misses == 1
			},
		},
		"a text's hit that is right": {
			worker: honest, text: true, object: "right", after: "right",
			stats: func(s *Stats) bool { return s.HitsPreprocessed == 1 && s.Verify.Checked == 1 },
		},
		"a text's hit that another compile does not confirm": {
			worker: honest, text: true, later: func(w *tampered, _ string) { w.uncached = spoil },
			note: "verification: the cached object", object: spoilt, after: "right",
			stats: func(s *Stats) bool { return s.HitsPreprocessed == 0 && s.Verify.Mismatched == 1 },
		},
		"a worker's hit for a text that is wrong": {
			worker: honest, text: true, paranoid: true, later: func(w *tampered, _ string) { w.stored = spoilHit },
			note: "verification: the cached object", object: "right", after: "right",
			stats: func(s *Stats) bool { return s.HitsRemote == 0 && s.Verify.Mismatched == 1 && s.Entries == 0 },
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := project(t, map[string]string{"a.c": "#include \"b.h\"\nint a = B;\n", "b.h": "#define B 1\n"})
			worker := c.worker(dir)
			verify := 0.0
			e := awayEngine(t, worker, func(o *Options) { o.Away.Paranoid, o.Away.Preprocess = c.paranoid, c.text })
			compile := func() (exit int32, note, object string) {
				t.Helper()
				e.opt.Verify = verify
				done := withCompiler(t, e, dir, "gcc", "-c", "a.c", "-MD")
				e.Drain()
				left := take(dir, []string{"a.o", "a.d"})
				if done.ExitCode == 0 && !strings.Contains(left["a.d"], "b.h") {
					t.Errorf("the dependency file is %q", left["a.d"])
				}
				return done.ExitCode, done.Note, left["a.o"]
			}
			exit, note, right := compile()
			if exit != 0 || note != "" || right == "" {
				t.Fatalf("exit %d, %s", exit, note)
			}
			if c.later != nil {
				c.later(worker, dir)
			}
			before := *worker
			verify = 1
			exit, note, object := compile()
			want := map[string]string{"right": right, spoilt: right + spoilt}[c.object]
			if exit != c.exit || !strings.Contains(note, c.note) || (note == "") != (c.note == "") || object != want {
				t.Errorf("exit %d, %q, an object of %d bytes, want %d", exit, note, len(object), len(want))
			}
			if worker.again-before.again != 1 || worker.looked-before.looked > 1 {
				t.Errorf("compiled again %d times, looked up %d times", worker.again-before.again, worker.looked-before.looked)
			}
			s, err := ReadStats(e.cache)
			if err != nil || !c.stats(s) {
				t.Errorf("%+v, %v", s, err)
			}
			keys := e.cache.QuarantinedKeys()
			if (len(keys) == 1) != (c.note != "") {
				t.Fatalf("%d results in quarantine", len(keys))
			}
			for _, key := range keys {
				raw, _, err := e.cache.Quarantined(key)
				var q Quarantined
				if err = errors.Join(err, json.Unmarshal(raw, &q)); err != nil || q.Action != key.String() || len(q.Compiled) != 64 || len(q.Stored) == 0 || (len(q.Made) == 0) != (c.exit != 0) {
					t.Errorf("%+v, %v", q, err)
				}
			}

			verify = 0
			worker.uncached = nil
			if _, _, object = compile(); c.after == "right" && object != right {
				t.Errorf("afterwards an object of %d bytes is left, want %d", len(object), len(right))
			}
		})
	}
}
