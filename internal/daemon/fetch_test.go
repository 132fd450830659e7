package daemon

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/compiler"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/remote"
	"hpcc.dev/hpcc/internal/shared"
)

// tier is a shared cache in memory that counts what it is asked.
type tier struct {
	mu        sync.Mutex
	manifests map[digest.Key]*action.Manifest
	// far, if it is not nil, are those of a second tier, with results from here.
	far     map[digest.Key]*action.Manifest
	results map[digest.Key]*shared.Fetched
	asked   []string
	marks   []string
	puts    int
	// onManifest, if it is not nil, is called before a manifest is answered.
	onManifest func()
}

func newTier() *tier {
	return &tier{manifests: map[digest.Key]*action.Manifest{}, results: map[digest.Key]*shared.Fetched{}}
}

func (s *tier) Manifests(_ context.Context, key digest.Key) iter.Seq[*action.Manifest] {
	return func(yield func(*action.Manifest) bool) {
		if s.onManifest != nil {
			s.onManifest()
		}
		if m := s.manifest("manifest", s.manifests, key); m != nil && !yield(m) {
			return
		}
		if s.far == nil {
			return
		}
		if m := s.manifest("far", s.far, key); m != nil {
			yield(m)
		}
	}
}

func (s *tier) manifest(asked string, manifests map[digest.Key]*action.Manifest, key digest.Key) *action.Manifest {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, asked)
	if m := manifests[key]; m != nil {
		return &action.Manifest{Preprocess: m.Preprocess, Candidates: slices.Clone(m.Candidates)}
	}
	return nil
}

func (s *tier) Result(_ context.Context, key digest.Key) *shared.Fetched {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, "result")
	return s.results[key]
}

func (s *tier) Put(manifest digest.Key, _ string, e *action.Entry, blobs map[digest.Digest][]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.puts++
	c := e.Action.Candidate()
	c.StdioContext = e.Result.StdioContext
	s.at(manifest).Add(c)
	s.results[c.Action] = &shared.Fetched{Entry: e, Blobs: maps.Clone(blobs), Tier: "near", Signer: "somebody"}
}

func (s *tier) Mark(manifest digest.Key, word string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.marks = append(s.marks, word)
	s.at(manifest).Preprocess = word
}

func (s *tier) at(key digest.Key) *action.Manifest {
	if s.manifests[key] == nil {
		s.manifests[key] = &action.Manifest{}
	}
	return s.manifests[key]
}

func (s *tier) Stats() shared.Stats { return shared.Stats{} }

func (s *tier) Close(context.Context) error { return nil }

// questions returns what was asked since the last call.
func (s *tier) questions() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := strings.Join(s.asked, " ")
	s.asked = nil
	return q
}

// lie changes every manifest.
func (s *tier) lie(change func(*action.Manifest)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.manifests {
		change(m)
	}
}

// onMachine is an engine with a cache of its own.
func onMachine(t *testing.T, s Shared, change func(*Options)) *Engine {
	t.Helper()
	disk, err := cache.Open(cache.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	opt := Options{Cache: disk, Reproducible: true, DateTime: "warn", Shared: s}
	if change != nil {
		change(&opt)
	}
	e := NewEngine(opt)
	t.Cleanup(e.Close)
	return e
}

// build compiles args below dir with this machine's gcc, and returns the object,
// and how often a compiler ran.
func build(t *testing.T, e *Engine, dir string, args ...string) (object, said string, runs int) {
	t.Helper()
	object, said, runs, err := tryBuild(t, e, dir, args...)
	if err != nil {
		t.Fatal(err)
	}
	return object, said, runs
}

func tryBuild(t *testing.T, e *Engine, dir string, args ...string) (object, said string, runs int, err error) {
	req := request(t, dir, args...)
	client := &here{dir: dir}
	m := e.Compile(t.Context(), req, client)
	if m.Done == nil || m.Done.ExitCode != 0 {
		return "", "", client.runs, fmt.Errorf("%q: %+v", args, m)
	}
	b, err := os.ReadFile(filepath.Join(dir, "a.o"))
	os.Remove(filepath.Join(dir, "a.o"))
	return string(b), string(m.Done.Stdout) + string(m.Done.Stderr), client.runs, err
}

func counted(t *testing.T, e *Engine) *Stats {
	t.Helper()
	s, err := e.Stats()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestFetch has one machine compile and another one, with its checkout elsewhere,
// take the result: once from the shared cache, and from then on from its own disk.
func TestFetch(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		args  []string
		// asked is what the second machine asks of the cache.
		asked string
		says  string
	}{
		{"a unit", map[string]string{"a.c": "#include \"b.h\"\nint a = B;\n", "b.h": "#define B 1\n"}, []string{"-g", "-c", "a.c"}, "manifest result", ""},
		{"messages", map[string]string{"a.c": "int f(void) { int unused; return 0; }\n"}, []string{"-Wall", "-c", "a.c"}, "manifest result", "unused"},
		{"dependencies", map[string]string{"a.c": "#include \"b.h\"\n", "b.h": "\n"}, []string{"-MD", "-c", "a.c"}, "manifest result", ""},
		{"text decides", map[string]string{"a.c": "#define H \"b.h\"\n#if __has_include(H)\n#include H\n#endif\n", "b.h": "int b;\n"},
			[]string{"-c", "a.c"}, "manifest manifest result", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newTier()
			first, second := onMachine(t, s, nil), onMachine(t, s, nil)
			here, there := project(t, c.files), project(t, c.files)
			want, _, runs := build(t, first, here, c.args...)
			if c.name == "text decides" {
				there = here // the text names places
				// Known from the second compile on.
				want, _, runs = build(t, first, here, c.args...)
			}
			if runs != 1 || s.puts != 1 {
				t.Fatalf("%d runs, %d results put", runs, s.puts)
			}
			s.questions()
			for _, asked := range []string{c.asked, ""} {
				got, says, runs := build(t, second, there, c.args...)
				if got != want || !strings.Contains(says, c.says) || runs != 0 {
					t.Errorf("%d runs, said %q, want %q; the same object: %v", runs, says, c.says, got == want)
				}
				if q := s.questions(); q != asked {
					t.Errorf("asked %q, want %q", q, asked)
				}
			}
			st := counted(t, second)
			if st.HitsRemote != 1 || st.HitsByTier["near"] != 1 || st.Misses != 0 || st.Hits() != 2 || s.puts != 1 {
				t.Errorf("%+v, %d results put", st, s.puts)
			}
		})
	}
}

func TestFetchIsExplained(t *testing.T) {
	s := newTier()
	first, second := onMachine(t, s, nil), onMachine(t, s, nil)
	files := map[string]string{"a.c": "int a;\n"}
	build(t, first, project(t, files), "-c", "a.c")
	there := project(t, files)
	build(t, second, there, "-c", "a.c")
	second.Drain()
	x, err := Explain(t.Context(), second.cache, filepath.Join(there, "a.c"))
	if err != nil || x.Outcome != "hit-remote" || x.Tier != "near" {
		t.Errorf("%+v, %v", x, err)
	}
}

// TestFetchAfterChanges has the second machine's files differ: a result of other
// inputs, or of other places where those decide, is none.
func TestFetchAfterChanges(t *testing.T) {
	files := map[string]string{"a.c": "#include <b.h>\nint a = B;\n", "two/b.h": "#define B 1\n"}
	marked := map[string]string{"a.c": "# 1 \"" + os.TempDir() + "/x.c\"\nconst char *a = __FILE__;\n"}
	for _, c := range []struct {
		name   string
		files  map[string]string
		change map[string]string
		args   []string
	}{
		{"a header", files, map[string]string{"two/b.h": "#define B 2\n"}, []string{"-Ione", "-Itwo", "-c", "a.c"}},
		{"a header that is found before", files, map[string]string{"one/b.h": "#define B 3\n"}, []string{"-Ione", "-Itwo", "-c", "a.c"}},
		{"the source", files, map[string]string{"a.c": "int a = 4;\n"}, []string{"-Ione", "-Itwo", "-c", "a.c"}},
		{"line markers", marked, nil, []string{"-c", "a.c"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newTier()
			first, second := onMachine(t, s, nil), onMachine(t, s, nil)
			here, there := project(t, c.files), project(t, c.files)
			for name, text := range c.change {
				put(t, filepath.Join(there, name), text)
			}
			build(t, first, here, c.args...)
			if _, _, runs := build(t, second, there, c.args...); runs != 1 {
				t.Errorf("%d runs, want 1", runs)
			}
			// Which is right for both from then on.
			third := onMachine(t, s, nil)
			want, _, _ := build(t, onMachine(t, nil, nil), there, c.args...)
			if got, _, runs := build(t, third, there, c.args...); got != want || runs != 0 {
				t.Errorf("%d runs; the same object: %v", runs, got == want)
			}
		})
	}
}

// TestLyingManifest has the shared cache's manifests say all kinds of things: what
// a machine builds is right, and what it remembers is true.
func TestLyingManifest(t *testing.T) {
	files := map[string]string{"a.c": "#include \"b.h\"\nint a = B;\n", "b.h": "#define B 1\n"}
	changed := map[string]string{"a.c": files["a.c"], "b.h": "#define B 2\n"}
	var true1, false1 action.Candidate // of files, and of changed
	for _, c := range []struct {
		name  string
		lie   func(*action.Manifest)
		asked string
	}{
		{"another action for these inputs", func(m *action.Manifest) {
			m.Candidates = []action.Candidate{true1}
			m.Candidates[0].Action = false1.Action
		}, "manifest"},
		{"no inputs", func(m *action.Manifest) {
			m.Candidates = []action.Candidate{{Action: false1.Action}}
		}, "manifest"},
		{"fewer inputs", func(m *action.Manifest) {
			m.Candidates = []action.Candidate{false1}
			m.Candidates[0].Inputs = m.Candidates[0].Inputs[:1]
		}, "manifest"},
		{"more absences", func(m *action.Manifest) {
			m.Candidates = []action.Candidate{true1}
			m.Candidates[0].Absent = append(slices.Clone(true1.Absent), "/nowhere/x.h")
		}, "manifest"},
		{"links", func(m *action.Manifest) {
			m.Candidates = []action.Candidate{true1}
			m.Candidates[0].Links = []action.Pair{{A: "/nowhere", B: "x"}}
		}, "manifest"},
		{"a device", func(m *action.Manifest) {
			m.Candidates = []action.Candidate{false1}
			m.Candidates[0].Inputs = []action.Input{{Path: "/dev/tty", Digest: digest.Of(nil)}, {Path: "/proc/self/mem", Digest: digest.Of(nil)}}
		}, "manifest"},
		{"the text decides", func(m *action.Manifest) {
			m.Preprocess, m.Candidates = compiler.NeedComputedInclude, nil
		}, "manifest manifest"},
		{"places decide, and then the text", func(m *action.Manifest) {
			m.Preprocess, m.Candidates = needRoots, nil
		}, "manifest manifest"},
		{"no such word", func(m *action.Manifest) {
			m.Preprocess, m.Candidates = strings.Repeat("x", 1000), nil
		}, "manifest"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newTier()
			dir, other := project(t, files), project(t, changed)
			first := onMachine(t, s, nil)
			want, _, _ := build(t, first, dir, "-c", "a.c")
			s.lie(func(m *action.Manifest) { true1 = m.Candidates[0] })
			build(t, first, other, "-c", "a.c")
			s.lie(func(m *action.Manifest) { false1 = m.Candidates[0] })
			s.lie(c.lie)
			s.questions()
			e := onMachine(t, s, nil)
			for runs := range 2 {
				got, _, ran := build(t, e, dir, "-c", "a.c")
				if got != want || ran != 1-runs {
					t.Errorf("%d runs, want %d; the same object: %v", ran, 1-runs, got == want)
				}
			}
			if q := s.questions(); q != c.asked {
				t.Errorf("asked %q, want %q", q, c.asked)
			}
			if st := counted(t, e); st.HitsDirect != 1 || st.Misses != 1 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// A manifest with many candidates that hold, and no results, costs two questions.
func TestManifestWithoutResults(t *testing.T) {
	s := newTier()
	dir := project(t, map[string]string{"a.c": "int a;\n"})
	build(t, onMachine(t, s, nil), dir, "-c", "a.c")
	clear(s.results)
	s.lie(func(m *action.Manifest) {
		for range 10 {
			m.Candidates = append(m.Candidates, m.Candidates[0])
		}
	})
	s.questions()
	if _, _, runs := build(t, onMachine(t, s, nil), dir, "-c", "a.c"); runs != 1 {
		t.Errorf("%d runs", runs)
	}
	if q := s.questions(); q != "manifest result result" {
		t.Errorf("asked %q", q)
	}
}

// TestFetchNearestFirst has two tiers. The far one's manifests are asked for only when
// nothing near leads to a result, and together they cost no more than one's.
func TestFetchNearestFirst(t *testing.T) {
	plain := map[string]string{"a.c": "int a;\n"}
	textual := map[string]string{"a.c": "#define H \"b.h\"\n#if __has_include(H)\n#include H\n#endif\n", "b.h": "int b;\n"}
	useless := func(m *action.Manifest) {
		for i := range m.Candidates {
			m.Candidates[i].Inputs = []action.Input{{Path: "/nowhere", Digest: digest.Of(nil)}}
		}
	}
	move := func(s *tier) { s.far, s.manifests = s.manifests, map[digest.Key]*action.Manifest{} }
	both := func(s *tier) {
		s.far = map[digest.Key]*action.Manifest{}
		for k, m := range s.manifests {
			s.far[k] = &action.Manifest{Preprocess: m.Preprocess, Candidates: slices.Clone(m.Candidates)}
		}
	}
	repeat := func(m *action.Manifest, n int) {
		if len(m.Candidates) > 0 {
			m.Candidates = slices.Repeat(m.Candidates[:1], n)
		}
	}
	for _, c := range []struct {
		name  string
		files map[string]string
		lay   func(*tier)
		asked string
		runs  int
		marks string
	}{
		{"near has it", plain, both, "manifest result", 0, ""},
		{"far has it", plain, move, "manifest far result", 0, ""},
		{"near leads to nothing", plain, func(s *tier) {
			both(s)
			s.lie(useless)
		}, "manifest far result", 0, ""},
		{"near has no result", plain, func(s *tier) {
			both(s)
			clear(s.results)
		}, "manifest result far result", 1, ""},
		{"near has more than are asked for", plain, func(s *tier) {
			s.lie(func(m *action.Manifest) { repeat(m, 5) })
			both(s)
			clear(s.results)
		}, "manifest result result", 1, ""},
		{"both have", plain, func(s *tier) {
			both(s)
			for _, m := range s.far {
				repeat(m, 5)
			}
			clear(s.results)
		}, "manifest result far result", 1, ""},
		{"near says that the text decides", textual, both, "manifest manifest result", 0, compiler.NeedComputedHasInclude},
		{"far says so", textual, move, "manifest far manifest far result", 0, compiler.NeedComputedHasInclude},
		{"near says so, and far has it", textual, func(s *tier) {
			both(s)
			maps.DeleteFunc(s.manifests, func(_ digest.Key, m *action.Manifest) bool { return m.Preprocess == "" })
		}, "manifest manifest far result", 0, compiler.NeedComputedHasInclude},
		{"near lies that the text decides", plain, func(s *tier) {
			both(s)
			s.lie(func(m *action.Manifest) { m.Preprocess, m.Candidates = compiler.NeedComputedInclude, nil })
		}, "manifest manifest far far result", 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newTier()
			dir := project(t, c.files)
			first := onMachine(t, s, nil)
			want, _, _ := build(t, first, dir, "-c", "a.c")
			if len(c.files) > 1 {
				build(t, first, dir, "-c", "a.c") // from now on it is known that the text decides
			}
			c.lay(s)
			s.questions()
			s.marks = nil
			e := onMachine(t, s, nil)
			got, _, runs := build(t, e, dir, "-c", "a.c")
			e.Drain()
			if got != want || runs != c.runs {
				t.Errorf("%d runs, want %d; the same object: %v", runs, c.runs, got == want)
			}
			if q := s.questions(); q != c.asked {
				t.Errorf("asked %q, want %q", q, c.asked)
			}
			if m := strings.Join(s.marks, " "); m != c.marks {
				t.Errorf("marked %q, want %q", m, c.marks)
			}
		})
	}
}

// Results that hold this machine's paths are nobody else's, and no one is asked
// for them.
func TestNotShared(t *testing.T) {
	s := newTier()
	plain := onMachine(t, s, func(o *Options) { o.Reproducible = false })
	dir := project(t, map[string]string{"a.c": "int a;\n"})
	build(t, plain, dir, "-c", "a.c")
	if q := s.questions(); q != "" || s.puts != 0 {
		t.Errorf("asked %q, put %d", q, s.puts)
	}
}

// TestFetchEvicted has the disk know what a result is called, and have it no more:
// one question is enough.
func TestFetchEvicted(t *testing.T) {
	s := newTier()
	files := map[string]string{"a.c": "int f(void) { int unused; return 0; }\n"}
	dir := project(t, files)
	args := []string{"-Wall", "-c", "a.c"}
	e := onMachine(t, s, nil)
	want, _, _ := build(t, e, dir, args...)
	for _, again := range []bool{true, false} {
		for _, d := range []string{"ac", "cas"} {
			if err := os.RemoveAll(filepath.Join(e.cache.Dir(), d)); err != nil {
				t.Fatal(err)
			}
		}
		e.results.clear()
		asked, runs := "result", 0
		if !again {
			clear(s.results)
			runs = 1
		}
		s.questions()
		if got, _, ran := build(t, e, dir, args...); got != want || ran != runs {
			t.Errorf("%d runs, want %d; the same object: %v", ran, runs, got == want)
		}
		if q := s.questions(); q != asked {
			t.Errorf("asked %q, want %q", q, asked)
		}
	}
}

// TestFetchOnce has several builds want one unit: one of them asks.
func TestFetchOnce(t *testing.T) {
	s := newTier()
	dir := project(t, map[string]string{"a.c": "int a;\n"})
	want, _, _ := build(t, onMachine(t, s, nil), dir, "-c", "a.c")
	s.questions()
	e := onMachine(t, s, func(o *Options) { o.Background = true })
	var wg sync.WaitGroup
	begun := make(chan struct{}, 8)
	s.onManifest = func() {
		for range cap(begun) {
			<-begun
		}
	}
	dirs := make([]string, cap(begun))
	for i := range dirs {
		dirs[i] = project(t, map[string]string{"a.c": "int a;\n"})
		req := request(t, dirs[i], "-c", "a.c")
		wg.Go(func() {
			begun <- struct{}{}
			if m := e.Compile(context.Background(), req, &here{dir: dirs[i]}); m.Done == nil {
				t.Errorf("%+v", m)
			}
		})
	}
	wg.Wait()
	for _, d := range dirs {
		if b, err := os.ReadFile(d + "/a.o"); err != nil || string(b) != want {
			t.Errorf("%s: %d bytes, %v", d, len(b), err)
		}
	}
	if q := s.questions(); q != "manifest result" {
		t.Errorf("asked %q", q)
	}
	if st := counted(t, e); st.Hits() != int64(len(dirs)) || st.HitsRemote != 1 {
		t.Errorf("%+v", st)
	}
}

// TestFetchVerified compiles what a shared cache has anyway. What differs is out of
// reach here from then on, there as well as on the disk.
func TestFetchVerified(t *testing.T) {
	s := newTier()
	dir := project(t, map[string]string{"a.c": "int a;\n"})
	want, _, _ := build(t, onMachine(t, s, nil), dir, "-c", "a.c")
	verify := func(o *Options) { o.Verify = 1 }
	e := onMachine(t, s, verify)
	if got, _, runs := build(t, e, dir, "-c", "a.c"); got != want || runs != 1 {
		t.Errorf("%d runs; the same object: %v", runs, got == want)
	}
	if st := counted(t, e); st.Verify.Checked != 1 || st.Verify.Mismatched != 0 || st.HitsRemote != 1 || st.HitsByTier["near"] != 1 {
		t.Errorf("%+v", st)
	}
	for _, f := range s.results { // somebody who is trusted, and wrong
		entry := *f.Entry
		bad := []byte("no object")
		entry.Result.Outputs = []action.Output{{Role: "object", Digest: digest.Of(bad)}}
		f.Entry, f.Blobs = &entry, map[digest.Digest][]byte{digest.Of(bad): bad}
	}
	e = onMachine(t, s, verify)
	if got, _, runs := build(t, e, dir, "-c", "a.c"); got != want || runs != 1 {
		t.Errorf("%d runs; the same object: %v", runs, got == want)
	}
	st := counted(t, e)
	if st.Verify.Mismatched != 1 || st.Uncacheable[string(reasonVerify)] != 1 || st.HitsRemote != 0 {
		t.Errorf("%+v", st)
	}
	s.questions()
	if got, _, runs := build(t, e, dir, "-c", "a.c"); got != want || runs != 1 || s.questions() != "manifest" {
		t.Errorf("%d runs; the same object: %v", runs, got == want)
	}
}

// TestFetchList has a shared cache answer a list of dependencies.
func TestFetchList(t *testing.T) {
	s := newTier()
	files := map[string]string{"a.c": "#include \"b.h\"\n", "b.h": "\n"}
	list := func(e *Engine) (string, int) {
		dir := project(t, files)
		client := &here{dir: dir}
		m := e.Compile(t.Context(), request(t, dir, "-MM", "a.c"), client)
		if m.Done == nil {
			t.Fatalf("%+v", m)
		}
		return string(m.Done.Stdout), client.runs
	}
	want, _ := list(onMachine(t, s, nil))
	e := onMachine(t, s, nil)
	if got, runs := list(e); got != want || runs != 0 || want != "a.o: a.c b.h\n" {
		t.Errorf("%d runs, %q, want %q", runs, got, want)
	}
	if st := counted(t, e); st.ListHits != 1 || st.HitsRemote != 0 {
		t.Errorf("%+v", st)
	}
}

// writing is a worker that puts its results into a shared cache, as workers do.
// What its client asks of images is no compile.
type writing struct {
	Worker
	tier     *tier
	compiles int
}

func (w *writing) Compile(ctx context.Context, r *remote.Request) (*remote.Result, error) {
	res, err := w.Worker.Compile(ctx, r)
	if err != nil || r.Job.Source == "" || !res.Stored {
		return res, err
	}
	w.compiles++
	e := &action.Entry{Action: *res.Action, Result: action.Result{Stdout: res.Stdout, Stderr: res.Stderr, CompileTime: res.CompileTime}}
	blobs := map[digest.Digest][]byte{}
	for _, o := range res.Outputs {
		e.Result.Outputs = append(e.Result.Outputs, action.Output{Role: o.Role, Digest: o.Digest, Executable: o.Executable})
		blobs[o.Digest] = o.Data
	}
	w.tier.Put(r.Job.Manifest(r.Tree[r.Job.Source].Digest), "", e, blobs)
	return res, nil
}

// TestFetchAway has a client take from the shared cache what a worker wrote there,
// without asking any.
func TestFetchAway(t *testing.T) {
	w := newMachineWorker(t)
	for _, c := range []struct {
		name string
		text bool
		args []string
	}{
		{"files", false, []string{"gcc", "-O1", "-MMD", "-c", "a.c"}},
		{"text", true, []string{"gcc", "-O1", "-MMD", "-c", "a.c"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newTier()
			files := map[string]string{"a.c": "#include \"b.h\"\n#include <stddef.h>\nint a = B;\n", "b.h": "#define B 1\n"}
			engine := func(w Worker) *Engine {
				return awayEngine(t, w, func(o *Options) {
					o.Shared = s
					o.Away.Preprocess = c.text
				})
			}
			compile := func(e *Engine, dir string) map[string]string {
				t.Helper()
				done := withCompiler(t, e, dir, c.args...)
				if done.ExitCode != 0 {
					t.Fatalf("%+v", done)
				}
				return take(dir, []string{"a.o", "a.d"})
			}
			here := project(t, files)
			want := compile(engine(&writing{Worker: w, tier: s}), here)
			if s.puts != 1 {
				t.Fatalf("%d results put", s.puts)
			}
			idle := &writing{Worker: w, tier: s}
			second := engine(idle)
			there := project(t, files)
			s.questions()
			for _, asked := range []string{"manifest result", ""} {
				if got := compile(second, there); !maps.Equal(got, want) {
					t.Errorf("left %q, want %q", got, want)
				}
				if q := s.questions(); q != asked {
					t.Errorf("asked %q, want %q", q, asked)
				}
			}
			if st := counted(t, second); idle.compiles != 0 || st.HitsByTier["near"] != 1 || st.Hits() != 2 {
				t.Errorf("the worker was asked %d times; %+v", idle.compiles, st)
			}
			// What the client has and the worker had not is another compile.
			put(t, filepath.Join(there, "b.h"), "#define B 2\n")
			if got := compile(second, there); got["a.o"] == want["a.o"] || idle.compiles != 1 {
				t.Errorf("the worker was asked %d times", idle.compiles)
			}
			// A manifest that lies leads to nothing.
			s.lie(func(m *action.Manifest) {
				for i := range m.Candidates {
					m.Candidates[i].Inputs = nil
				}
			})
			third := engine(idle)
			if got := compile(third, here); !maps.Equal(got, want) || idle.compiles != 2 {
				t.Errorf("the worker was asked %d times", idle.compiles)
			}
		})
	}
}
