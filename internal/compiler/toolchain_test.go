package compiler

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// realCompiler returns the path of an installed compiler. A test without it
// says nothing, so where HPCC_TEST_REQUIRE is set it fails.
func realCompiler(tb testing.TB, name string) string {
	tb.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv("HPCC_TEST_REQUIRE") != "" {
		tb.Fatalf("%s is not installed", name)
	}
	tb.Skipf("%s is not installed", name)
	return ""
}

// mapStore is a MemoStore in memory.
type mapStore struct {
	mu   sync.Mutex
	recs map[string][]byte
}

func (s *mapStore) Memo(name string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, ok := s.recs[name]; ok {
		return b, nil
	}
	return nil, fs.ErrNotExist
}

func (s *mapStore) PutMemo(name string, b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.recs == nil {
		s.recs = make(map[string][]byte)
	}
	s.recs[name] = b
	return nil
}

const systemPath = "PATH=/usr/local/bin:/usr/bin:/bin"

func identify(tb testing.TB, d *Detector, path, argv0 string, env ...string) *Toolchain {
	tb.Helper()
	t, err := d.Identify(context.Background(), path, argv0, env)
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

func TestIdentifyRealCompilers(t *testing.T) {
	store := &mapStore{}
	for _, c := range []struct {
		name            string
		family          Family
		version, target string
		parts           []string
	}{
		{"gcc-12", GCC, "12.", "x86_64-linux-gnu", []string{"driver", "cc1", "as", "library libisl.so.23"}},
		{"g++-12", GCC, "12.", "x86_64-linux-gnu", []string{"driver", "cc1plus", "as"}},
		{"aarch64-linux-gnu-gcc-12", GCC, "12.", "aarch64-linux-gnu", []string{"driver", "cc1", "as"}},
		{"clang-14", Clang, "14.", "x86_64-pc-linux-gnu", []string{"driver", "library libLLVM-14.so.1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := realCompiler(t, c.name)
			d := NewDetector(store)
			tc := identify(t, d, path, c.name, systemPath)
			if tc.Family != c.family || !strings.HasPrefix(tc.Version, c.version) || tc.Target != c.target {
				t.Errorf("got %v %q %q, want %v %s %s", tc.Family, tc.Version, tc.Target, c.family, c.version, c.target)
			}
			found := make(map[string]bool)
			for _, p := range tc.Parts {
				found[p.Name] = true
			}
			for _, name := range c.parts {
				if !found[name] {
					t.Errorf("no part %q in %v", name, tc.Parts)
				}
			}
			if tc.AsPath == "" {
				t.Error("no assembler")
			}
			if again := identify(t, d, path, c.name, systemPath); again != tc {
				t.Error("the second look was not remembered")
			}
			if fresh := identify(t, NewDetector(nil), path, c.name, systemPath); fresh.Identity != tc.Identity {
				t.Error("a fresh detector finds another identity")
			}
			if stored := identify(t, NewDetector(store), path, c.name, systemPath); stored.Identity != tc.Identity {
				t.Error("the stored identity is another")
			}
		})
	}
}

// TestStoredIdentityRunsNothing shows that a record makes children needless: a
// context that is over would fail them.
func TestStoredIdentityRunsNothing(t *testing.T) {
	store := &mapStore{}
	path := realCompiler(t, "gcc-12")
	want := identify(t, NewDetector(store), path, "gcc-12", systemPath)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	got, err := NewDetector(store).Identify(ctx, path, "gcc-12", []string{systemPath})
	if err != nil || got.Identity != want.Identity {
		t.Fatalf("from the store: %v", err)
	}
	if _, err := NewDetector(nil).Identify(ctx, path, "gcc-12", []string{systemPath}); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled: %v", err)
	}
	// A record that cannot be read is as none.
	for name := range store.recs {
		store.recs[name] = []byte(`{"v":1,"family":1,"watches":[]}`)
	}
	if got := identify(t, NewDetector(store), path, "gcc-12", systemPath); got.Identity != want.Identity {
		t.Error("a damaged record changed the identity")
	}
}

func TestNameIsPartOfIdentity(t *testing.T) {
	path := realCompiler(t, "clang-14")
	d := NewDetector(nil)
	c := identify(t, d, path, "/usr/bin/clang", systemPath)
	cxx := identify(t, d, path, "/usr/bin/clang++", systemPath)
	if c.Identity == cxx.Identity {
		t.Error("clang and clang++ are told apart by argv[0] only, but have one identity")
	}
}

// TestFamilyIsByContent has clang go by gcc's name, as on macOS.
func TestFamilyIsByContent(t *testing.T) {
	link := filepath.Join(t.TempDir(), "gcc")
	if err := os.Symlink(realCompiler(t, "clang-14"), link); err != nil {
		t.Fatal(err)
	}
	if tc := identify(t, NewDetector(nil), link, link, systemPath); tc.Family != Clang {
		t.Errorf("family %v", tc.Family)
	}
}

// private is a directory with a gcc of its own: driver, cc1 and as are copies
// that a test may change, libraries can be put into lib.
type private struct{ dir, gcc, cc1, as, lib string }

func newPrivate(t *testing.T) private {
	t.Helper()
	gcc, err := filepath.EvalSymlinks(realCompiler(t, "gcc-12"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	p := private{dir: dir, gcc: dir + "/bin/gcc", as: dir + "/tools/as", lib: dir + "/lib"}
	libexec := dir + "/lib/gcc/x86_64-linux-gnu/12"
	p.cc1 = libexec + "/cc1"
	for _, d := range []string{dir + "/bin", dir + "/tools", libexec} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	copyFile(t, gcc, p.gcc)
	// gas is a good stand-in for a compiler of 33 MB: nobody runs it here.
	copyFile(t, realCompiler(t, "as"), p.cc1)
	copyFile(t, realCompiler(t, "as"), p.as)
	rest(t)
	return p
}

func (p private) env(extra ...string) []string {
	return append([]string{"PATH=" + p.dir + "/first:" + p.dir + "/tools:/usr/bin:/bin"}, extra...)
}

// rest lets the file times of a test's changes come of age, so that what is
// found is remembered and a stale memory would show.
func rest(t *testing.T) {
	t.Helper()
	time.Sleep(2 * clockTick)
}

// A program that is written must not be open for that in a child that a parallel
// test forks at the moment, or it cannot be executed (ETXTBSY) until that child has
// become what it is to be: nothing is forked while these hold syscall.ForkLock.

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(to, b, 0o755); err != nil {
		t.Fatal(err)
	}
}

func appendByte(t *testing.T, path string) {
	t.Helper()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
}

func TestEachChangeIsAnotherIdentity(t *testing.T) {
	libz := func(t *testing.T) string {
		path, err := filepath.EvalSymlinks("/lib/x86_64-linux-gnu/libz.so.1")
		if err != nil {
			if os.Getenv("HPCC_TEST_REQUIRE") != "" {
				t.Fatalf("no libz: %v", err)
			}
			t.Skipf("no libz: %v", err)
		}
		return path
	}
	for _, c := range []struct {
		name   string
		before func(t *testing.T, p private)
		change func(t *testing.T, p private)
		env    func(p private) []string
	}{
		{name: "driver", change: func(t *testing.T, p private) { appendByte(t, p.gcc) }},
		{name: "cc1", change: func(t *testing.T, p private) { appendByte(t, p.cc1) }},
		{name: "as", change: func(t *testing.T, p private) { appendByte(t, p.as) }},
		{name: "cc1plus appears", change: func(t *testing.T, p private) {
			copyFile(t, p.as, filepath.Dir(p.cc1)+"/cc1plus")
		}},
		{name: "another as comes first in PATH", change: func(t *testing.T, p private) {
			if err := os.Mkdir(p.dir+"/first", 0o755); err != nil {
				t.Fatal(err)
			}
			copyFile(t, p.as, p.dir+"/first/as")
			appendByte(t, p.dir+"/first/as")
		}},
		{name: "another as beside cc1", change: func(t *testing.T, p private) {
			copyFile(t, p.as, filepath.Dir(p.cc1)+"/as")
			appendByte(t, filepath.Dir(p.cc1)+"/as")
		}},
		{name: "specs appear", change: func(t *testing.T, p private) {
			if err := os.WriteFile(filepath.Dir(p.cc1)+"/specs", []byte("*cc1:\n-O2\n\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}},
		{
			name:   "library",
			before: func(t *testing.T, p private) { copyFile(t, libz(t), p.lib+"/libz.so.1") },
			env:    func(p private) []string { return []string{"LD_LIBRARY_PATH=" + p.lib} },
			change: func(t *testing.T, p private) { appendByte(t, p.lib+"/libz.so.1") },
		},
		{
			name: "library appears in LD_LIBRARY_PATH",
			env:  func(p private) []string { return []string{"LD_LIBRARY_PATH=" + p.lib} },
			change: func(t *testing.T, p private) {
				copyFile(t, libz(t), p.lib+"/libz.so.1")
				appendByte(t, p.lib+"/libz.so.1")
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := newPrivate(t)
			if c.before != nil {
				c.before(t, p)
				rest(t)
			}
			env := p.env()
			if c.env != nil {
				env = p.env(c.env(p)...)
			}
			store := &mapStore{}
			d := NewDetector(store)
			before := identify(t, d, p.gcc, p.gcc, env...)
			if again := identify(t, d, p.gcc, p.gcc, env...); again != before {
				t.Fatal("not remembered, so the change shows nothing")
			}
			c.change(t, p)
			if after := identify(t, d, p.gcc, p.gcc, env...); after.Identity == before.Identity {
				t.Error("the detector that knew the old one keeps it")
			}
			if after := identify(t, NewDetector(store), p.gcc, p.gcc, env...); after.Identity == before.Identity {
				t.Error("the store keeps the old one")
			}
		})
	}
}

// TestSameTickChange changes the assembler as soon as it was read, again and
// again: within one tick, stat cannot tell the versions apart.
func TestSameTickChange(t *testing.T) {
	p := newPrivate(t)
	d := NewDetector(&mapStore{})
	seen := make(map[string]bool)
	for range 5 {
		appendByte(t, p.as)
		seen[identify(t, d, p.gcc, p.gcc, p.env()...).Identity.String()] = true
	}
	if len(seen) != 5 {
		t.Errorf("5 assemblers, %d identities", len(seen))
	}
}

func TestTouchedPartKeepsIdentity(t *testing.T) {
	p := newPrivate(t)
	d := NewDetector(nil)
	before := identify(t, d, p.gcc, p.gcc, p.env()...)
	now := time.Now()
	if err := os.Chtimes(p.as, now, now); err != nil {
		t.Fatal(err)
	}
	if after := identify(t, d, p.gcc, p.gcc, p.env()...); after.Identity != before.Identity {
		t.Error("equal content, another identity")
	}
}

func TestNotACompiler(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "c99-gcc")
	if err := os.WriteFile(script, []byte("#!/bin/sh\nexec gcc -std=c99 \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	d := NewDetector(nil)
	for _, c := range []struct {
		path string
		want error
	}{
		{script, ErrCompilerScript},
		{"/bin/true", ErrUnknownCompiler},
		{"/bin/ls", ErrUnknownCompiler},
		{filepath.Join(dir, "missing"), fs.ErrNotExist},
		{"gcc", ErrUnknownCompiler},
	} {
		if _, err := d.Identify(context.Background(), c.path, c.path, []string{systemPath}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.path, err, c.want)
		}
	}
	// A launcher that goes by the compiler's name.
	link := filepath.Join(dir, "gcc")
	if err := os.Symlink(realCompiler(t, "ccache"), link); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Identify(context.Background(), link, "gcc", []string{systemPath}); !errors.Is(err, ErrCompilerScript) {
		t.Errorf("ccache as gcc: %v", err)
	}
}

// TestLauncherByContent is a launcher with an unknown name: what it answers
// gives it away.
func TestLauncherByContent(t *testing.T) {
	gcc := realCompiler(t, "gcc-12")
	dir := t.TempDir()
	launcher := filepath.Join(dir, "gcc")
	copyFile(t, realCompiler(t, "ccache"), launcher)
	env := []string{"PATH=" + dir + ":" + filepath.Dir(gcc), "HOME=" + dir}
	if _, err := NewDetector(nil).Identify(context.Background(), launcher, "gcc", env); !errors.Is(err, ErrCompilerScript) {
		t.Errorf("got %v", err)
	}
}

func TestConcurrentIdentify(t *testing.T) {
	path := realCompiler(t, "gcc-12")
	d := NewDetector(&mapStore{})
	var wg sync.WaitGroup
	results := make([]*Toolchain, 32)
	for i := range results {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(context.Background())
			if i%4 == 0 {
				cancel() // a caller that goes away fails alone
			}
			defer cancel()
			results[i], _ = d.Identify(ctx, path, "gcc-12", []string{systemPath})
		})
	}
	wg.Wait()
	for i, tc := range results {
		if i%4 != 0 && (tc == nil || tc != results[1]) {
			t.Errorf("caller %d got %p, caller 1 %p", i, tc, results[1])
		}
	}
}

func TestHelperOptions(t *testing.T) {
	path := realCompiler(t, "gcc-12")
	p := newPrivate(t)
	tc := identify(t, NewDetector(nil), path, "gcc-12", systemPath)
	same, err := tc.For(context.Background(), &Invocation{Probe: []string{"-m32"}}, "/")
	if err != nil || same != tc {
		t.Errorf("-m32: %v", err)
	}
	other, err := tc.For(context.Background(), &Invocation{Probe: []string{"-B", "tools/"}}, p.dir)
	if err != nil {
		t.Fatal(err)
	}
	if other.AsPath != p.as {
		t.Errorf("-B tools/: assembler %s", other.AsPath)
	}
}

func TestNativeExpansion(t *testing.T) {
	for _, name := range []string{"gcc-12", "clang-14"} {
		tc := identify(t, NewDetector(nil), realCompiler(t, name), name, systemPath)
		inv := &Invocation{Language: "c", Probe: []string{"-march=native"}}
		got, err := tc.NativeExpansion(context.Background(), inv)
		if err != nil {
			t.Fatal(err)
		}
		if got == "" || strings.Contains(got, "native") {
			t.Errorf("%s: %q", name, got)
		}
		inv.Probe = nil
		if plain, err := tc.NativeExpansion(context.Background(), inv); err != nil || plain == got {
			t.Errorf("%s: native is as without it: %v", name, err)
		}
	}
}

func BenchmarkIdentifyCold(b *testing.B) {
	for _, name := range []string{"gcc-12", "clang-14"} {
		path, store := realCompiler(b, name), &mapStore{}
		b.Run(name+"/never seen", func(b *testing.B) {
			for b.Loop() {
				identify(b, NewDetector(nil), path, name, systemPath)
			}
		})
		identify(b, NewDetector(store), path, name, systemPath)
		b.Run(name+"/new process", func(b *testing.B) {
			for b.Loop() {
				identify(b, NewDetector(store), path, name, systemPath)
			}
		})
	}
}

func BenchmarkIdentifyWarm(b *testing.B) {
	for _, name := range []string{"gcc-12", "clang-14"} {
		b.Run(name, func(b *testing.B) {
			path, d := realCompiler(b, name), NewDetector(nil)
			env := []string{systemPath}
			identify(b, d, path, name, env...)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := d.Identify(context.Background(), path, name, env); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
