package lookup

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// memory is a stopped thread's: strings at addresses, directories at
// descriptors.
type memory struct {
	paths   map[uint64]string
	dirs    map[int32]string
	unknown bool
}

func (m *memory) path(_ uint32, address uint64) (string, bool) { return m.paths[address], !m.unknown }
func (m *memory) dir(_ uint32, fd int32) (string, bool)        { return m.dirs[fd], !m.unknown }
func (m *memory) self(uint32, string) string                   { return "/proc/7" }

// tree makes directories (ending in /), links (name -> target) and files.
func tree(t testing.TB, names ...string) (dir string, root int) {
	t.Helper()
	dir = t.TempDir()
	for _, name := range names {
		name, target, link := strings.Cut(name, " -> ")
		p := dir + name
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch {
		case link:
			err = os.Symlink(target, p)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(p, 0o755)
		default:
			err = os.WriteFile(p, nil, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(root) })
	return dir, root
}

var world = []string{
	"/w/f", "/w/d/e/f", "/w/d/link -> e", "/w/abs -> /w/d", "/w/up -> ../w/d/..", "/w/dangling -> none/x", "/w/loop -> loop",
	"/w/a -> b", "/w/b -> a", "/w/out -> /usr/inc", "/w/slash -> d/", "/w/dot -> d/link/.", "/w/file -> f", "/usr/inc/i.h", "/usr/in -> /w/d/e", "/w/back -> /usr/in",
	"/w/\xff\xfe", "/w/far -> ../../../../../../w/f", "/wx/f", "/proc/7/cwd -> /w/d",
}

func recorder(root int, m *memory) *Recorder {
	r := NewRecorder(root, []string{"/w"}, 1000, Limits{1000, 1 << 20})
	r.process = m
	return r
}

func say(all []Lookup) string {
	var names []string
	for _, l := range all {
		names = append(names, fmt.Sprintf("%s %s", l.Path, [...]string{"?", "absent", "file", "dir", "link", "other"}[l.Found]))
	}
	return strings.Join(names, ", ")
}

// What a path notes, by hand from path_resolution(7).
func TestWalk(t *testing.T) {
	_, root := tree(t, world...)
	for _, c := range []struct {
		base, path string
		follow     bool
		want       string
	}{
		{"/", "/w/f", true, "/w/f file"},
		{"/w", "f", true, "/w/f file"},
		{"/w/d", "../f", true, "/w/d dir, /w/f file"},
		{"/w/d", "./e/.//f", true, "/w/d/e/f file"},
		{"/w/d", ".", true, "/w/d dir"},
		{"/w", "none", true, "/w/none absent"},
		{"/w", "none/x/y", true, "/w/none/x/y absent"},
		// What comes after ".." is not known while what is before is missing.
		{"/w", "none/../f", true, "/w/none absent"},
		{"/w", "f/x", true, "/w/f file, /w/f/x absent"},
		{"/w", "f/", true, "/w/f file"},
		{"/w", "d/link/f", true, "/w/d/link link, /w/d/e/f file"},
		{"/w", "d/link", true, "/w/d/link link, /w/d/e dir"},
		{"/w", "d/link", false, "/w/d/link link"},
		{"/w", "d/link/", false, "/w/d/link link, /w/d/e dir"},
		{"/w", "d/link/.", false, "/w/d/link link, /w/d/e dir"},
		{"/w", "dot", false, "/w/dot link"},
		{"/w", "dot/", false, "/w/dot link, /w/d/link link, /w/d/e dir"},
		{"/w", "abs/e/f", true, "/w/abs link, /w/d/e/f file"},
		{"/w", "up/f", true, "/w/up link, /w dir, /w/d dir, /w/f file"},
		{"/w", "dangling", true, "/w/dangling link, /w/none/x absent"},
		{"/w", "dangling", false, "/w/dangling link"},
		{"/w", "slash", false, "/w/slash link"},
		{"/w", "slash/e", true, "/w/slash link, /w/d/e dir"},
		{"/w", "file/", true, "/w/file link, /w/f file"},
		{"/w", "loop", true, "/w/loop link"},
		{"/w", "a", true, "/w/a link, /w/b link"},
		{"/w", "out/i.h", true, "/w/out link"},
		{"/w", "back/f", true, "/w/back link, /w/d/e/f file"},
		{"/usr", "in/f", true, "/w/d/e/f file"},
		{"/", "/usr/inc/i.h", true, ""},
		{"/", "/wx/f", true, ""},
		{"/", "/../../w/f", true, "/w/f file"},
		{"/w", "far", true, "/w/far link, /w dir, /w/f file"},
		{"/w", "\xff\xfe", true, "/w/\xff\xfe file"},
		{"/w", "\xfe", true, "/w/\xfe absent"},
		{"/", "/proc/self/cwd/e", true, "/w/d/e dir"},
		{"/w", strings.Repeat("x", 256), true, "/w/" + strings.Repeat("x", 256) + " absent"},
		// Nothing can have such a name: no need to know.
		{"/w", strings.Repeat("x/", 2100), true, ""},
	} {
		r := recorder(root, nil)
		r.process = &memory{}
		r.walk(1, c.base, c.path, c.follow)
		all, truncated := r.Lookups()
		if got := say(all); got != c.want || truncated {
			t.Errorf("%s from %s: got  %.300s\nwant %.300s (%v)", c.path, c.base, got, c.want, truncated)
		}
	}
}

// Of what the job makes itself it was told first that it is absent.
func TestFirstLookupCounts(t *testing.T) {
	dir, root := tree(t, world...)
	r := recorder(root, &memory{})
	r.walk(1, "/w", "new", true)
	if err := os.WriteFile(dir+"/w/new", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	r.walk(1, "/w", "new", true)
	if err := os.Remove(dir + "/w/f"); err != nil {
		t.Fatal(err)
	}
	r.walk(1, "/w", "f", true)
	r.walk(1, "/w", "d", true)
	if err := os.RemoveAll(dir + "/w/d"); err != nil {
		t.Fatal(err)
	}
	r.walk(1, "/w", "d", true)
	if got := say(r.all); got != "/w/new absent, /w/f absent, /w/d dir" {
		t.Error(got)
	}
}

// Outside the roots only what the job cannot change is asked once.
func TestFixedNames(t *testing.T) {
	dir, root := tree(t, world...)
	r := recorder(root, &memory{})
	// A directory that the job may write to: another link stands there later.
	if err := os.Mkdir(dir+"/tmp", 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir+"/tmp", 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"/w/d", "/w/f"} {
		os.Remove(dir + "/tmp/l")
		if err := os.Symlink(target, dir+"/tmp/l"); err != nil {
			t.Fatal(err)
		}
		r.walk(1, "/tmp", "l", true)
	}
	if got := say(r.all); got != "/w/d dir, /w/f file" {
		t.Errorf("a link of the job's: %s", got)
	}
	r.walk(1, "/", "usr/in", true)
	if _, asked := r.fixed["/usr/in"]; !asked {
		t.Error("a name of the image's is asked each time")
	}
	for p := range r.fixed {
		if strings.HasPrefix(p, "/tmp/") || strings.HasPrefix(p, "/w/") {
			t.Errorf("%s is taken for unchangeable", p)
		}
	}
}

// Paths of which nothing can be noted are walked once; what is noted is the same as
// if each was walked again, whatever the job changes where it can.
func TestSettledPaths(t *testing.T) {
	dir, root := tree(t, world...)
	if err := os.Mkdir(dir+"/tmp", 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir+"/tmp", 0o777); err != nil {
		t.Fatal(err)
	}
	paths := []string{
		"/usr/inc/i.h", "/usr/inc/none", "/usr/none/x", "/usr/../usr/inc/", "/none/../w/f", "/usr/in/f", "/usr/in", "/w/f", "/w/none",
		"/w/out/i.h", "/tmp/l", "/tmp/l/f", "/tmp/../usr/inc", "/proc/self/cwd/e", "/", "/..", "/wx/f", "/usr/inc/../../w/d",
	}
	at := map[uint64]string{}
	for i, p := range paths {
		at[uint64(i)+1] = p
	}
	rnd := rand.New(rand.NewPCG(3, 1))
	r, each := recorder(root, &memory{paths: at}), recorder(root, &memory{paths: at})
	for range 2000 {
		switch rnd.IntN(20) {
		case 0:
			os.Remove(dir + "/tmp/l")
		case 1:
			_ = os.Symlink([]string{"/w/d", "/w/f", "/usr/inc", "/w/none2"}[rnd.IntN(4)], dir+"/tmp/l")
		}
		path, nr := uint64(rnd.IntN(len(paths))+1), uint32(unix.SYS_STAT)
		if rnd.IntN(2) == 0 {
			nr = unix.SYS_LSTAT
		}
		r.call(1, nr, [6]uint64{path})
		each.settled = [2]map[string]struct{}{{}, {}}
		each.call(1, nr, [6]uint64{path})
		if got, want := say(r.all), say(each.all); got != want {
			t.Fatalf("after %s: %s\nwant %s", at[path], got, want)
		}
	}
	for follow, settled := range r.settled {
		for p := range settled {
			if strings.HasPrefix(p, "/w/") || strings.HasPrefix(p, "/tmp/l") || strings.Contains(p, "self") || strings.HasSuffix(p, "/w/d") {
				t.Errorf("%s (%d) is taken for settled", p, follow)
			}
		}
		if _, known := settled["/usr/inc/i.h"]; !known {
			t.Error("a name of the image's is walked each time")
		}
	}
}

func TestRelease(t *testing.T) {
	for release, want := range map[string]bool{
		"6.11.0": true, "6.11": true, "6.18.44-fc": true, "7.0.0": true, "10.1": true, "6.11-rc1+": true,
		"6.10.14": false, "6.1.0-50-cloud-amd64": false, "5.19.0": false, "": false, "x": false,
	} {
		if got := fromRelease(release, 6, 11); got != want {
			t.Errorf("%q: %v", release, got)
		}
	}
}

func TestLimitsOfRecord(t *testing.T) {
	_, root := tree(t, world...)
	for _, c := range []struct {
		limits Limits
		paths  []string
		want   string
		cut    bool
	}{
		{Limits{2, 1000}, []string{"f", "x"}, "/w/f file, /w/x absent", false},
		{Limits{2, 1000}, []string{"f", "x", "f", "x"}, "/w/f file, /w/x absent", false},
		{Limits{2, 1000}, []string{"f", "x", "y"}, "/w/f file, /w/x absent", true},
		{Limits{100, 8}, []string{"f", "x"}, "/w/f file, /w/x absent", false},
		{Limits{100, 7}, []string{"f", "x"}, "/w/f file", true},
		// A shorter one after a longer one that did not fit is still noted.
		{Limits{100, 8}, []string{"f", "long", "x"}, "/w/f file, /w/x absent", true},
		{Limits{0, 0}, []string{"/usr"}, "", false},
	} {
		r := recorder(root, &memory{})
		r.limits = c.limits
		for _, p := range c.paths {
			r.walk(1, "/w", p, true)
		}
		all, cut := r.Lookups()
		if got := say(all); got != c.want || cut != c.cut {
			t.Errorf("%v: %s, %v", c, got, cut)
		}
	}
}

// Which arguments of a call hold paths and directories, and whether a link at
// the end is followed, as the manual pages say.
func TestCalls(t *testing.T) {
	_, root := tree(t, world...)
	const file, link, none, empty = 1, 2, 3, 4
	at := func(fd int) uint64 { return uint64(uint32(fd)) }
	for _, c := range []struct {
		name string
		nr   uint32
		args [6]uint64
		want string
	}{
		{"open", unix.SYS_OPEN, [6]uint64{link, unix.O_RDONLY}, "/w/d/link link, /w/d/e dir"},
		{"open nofollow", unix.SYS_OPEN, [6]uint64{link, unix.O_NOFOLLOW}, "/w/d/link link"},
		{"open create", unix.SYS_OPEN, [6]uint64{link, unix.O_CREAT}, "/w/d/link link, /w/d/e dir"},
		{"open exclusively", unix.SYS_OPEN, [6]uint64{link, unix.O_CREAT | unix.O_EXCL}, "/w/d/link link"},
		{"openat", unix.SYS_OPENAT, [6]uint64{at(5), file}, "/w/d/e/f file"},
		{"openat, flags of 64 bits", unix.SYS_OPENAT, [6]uint64{0xdead<<32 | 5, file}, "/w/d/e/f file"},
		{"openat cwd", unix.SYS_OPENAT, [6]uint64{at(unix.AT_FDCWD), none}, "/w/none absent"},
		{"openat pipe", unix.SYS_OPENAT, [6]uint64{at(6), file}, ""},
		{"fstat", unix.SYS_NEWFSTATAT, [6]uint64{at(5), empty, 0, unix.AT_EMPTY_PATH}, ""},
		{"fstatat nofollow", unix.SYS_NEWFSTATAT, [6]uint64{at(5), link, 0, unix.AT_SYMLINK_NOFOLLOW}, "/w/d/link link"},
		{"statx", unix.SYS_STATX, [6]uint64{at(5), link}, "/w/d/link link, /w/d/e dir"},
		{"lstat", unix.SYS_LSTAT, [6]uint64{link}, "/w/d/link link"},
		{"readlinkat", unix.SYS_READLINKAT, [6]uint64{at(5), link}, "/w/d/link link"},
		{"faccessat2", unix.SYS_FACCESSAT2, [6]uint64{at(5), link, 0, unix.AT_SYMLINK_NOFOLLOW}, "/w/d/link link"},
		{"rename", unix.SYS_RENAME, [6]uint64{link, none}, "/w/d/link link, /w/none absent"},
		{"renameat", unix.SYS_RENAMEAT, [6]uint64{at(5), file, at(unix.AT_FDCWD), none}, "/w/d/e/f file, /w/none absent"},
		{"linkat", unix.SYS_LINKAT, [6]uint64{at(5), link, at(unix.AT_FDCWD), none, 0}, "/w/d/link link, /w/none absent"},
		{"linkat follow", unix.SYS_LINKAT, [6]uint64{at(5), link, at(unix.AT_FDCWD), none, unix.AT_SYMLINK_FOLLOW}, "/w/d/link link, /w/d/e dir, /w/none absent"},
		{"symlink", unix.SYS_SYMLINK, [6]uint64{file, none}, "/w/none absent"},
		{"symlinkat", unix.SYS_SYMLINKAT, [6]uint64{file, at(unix.AT_FDCWD), none}, "/w/none absent"},
		{"execveat", unix.SYS_EXECVEAT, [6]uint64{at(5), file, 0, 0, 0}, "/w/d/e/f file"},
		{"inotify_add_watch", unix.SYS_INOTIFY_ADD_WATCH, [6]uint64{9, link}, "/w/d/link link, /w/d/e dir"},
		{"no pointer", unix.SYS_OPEN, [6]uint64{}, ""},
		{"getpid", unix.SYS_GETPID, [6]uint64{file}, ""},
	} {
		m := &memory{
			paths: map[uint64]string{file: "/w/d/e/f", link: "/w/d/link", none: "none", empty: ""},
			dirs:  map[int32]string{5: "/w/d/e", unix.AT_FDCWD: "/w"},
		}
		if c.nr == unix.SYS_OPENAT || c.nr == unix.SYS_RENAMEAT || c.nr == unix.SYS_EXECVEAT {
			m.paths[file] = "f"
		}
		r := recorder(root, m)
		r.call(1, c.nr, c.args)
		all, truncated := r.Lookups()
		if got := say(all); got != c.want || truncated {
			t.Errorf("%s: %s", c.name, got)
		}
		// What the kernel does not tell may have been a lookup.
		r = recorder(root, &memory{unknown: true})
		r.call(1, c.nr, c.args)
		if all, truncated := r.Lookups(); truncated != (pathCalls[c.nr] != nil) || len(all) > 0 {
			t.Errorf("%s, untold: %v, %v", c.name, all, truncated)
		}
	}
}

// FuzzWalk has the kernel judge any path: it resolves the same from a descriptor
// of the same directory, and nothing beyond the roots is ever noted.
func FuzzWalk(f *testing.F) {
	_, root := tree(f, world...)
	for _, p := range []string{"f", "d/link/f", "../w/./up//f/", "/proc/self/cwd/e", "a", "out/../../x", "none/../f", "/w/\xff", "far", "f/x"} {
		f.Add("/w", p, true)
		f.Add("/w/d", p, false)
	}
	f.Fuzz(func(t *testing.T, base, p string, follow bool) {
		// A base is a directory's own path, and a path ends at its NUL.
		if !slices.Contains([]string{"/", "/w", "/w/d", "/w/d/e", "/usr", "/usr/inc"}, base) || p == "" || len(p) >= unix.PathMax || strings.Contains(p, "\x00") || strings.Contains(p, "proc") {
			return
		}
		r := recorder(root, &memory{})
		r.walk(1, base, p, follow)
		found := map[string]Found{}
		for _, l := range r.all {
			if l.Path != "/w" && !strings.HasPrefix(l.Path, "/w/") || path.Clean(l.Path) != l.Path {
				t.Fatalf("%q from %s: noted %q", p, base, l.Path)
			}
			if found[l.Path] != 0 {
				t.Fatalf("%q from %s: %q twice", p, base, l.Path)
			}
			found[l.Path] = l.Found
		}
		if r.truncated {
			t.Fatalf("%q from %s: truncated", p, base)
		}
		dir, err := unix.Openat2(root, "."+base, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY, Resolve: unix.RESOLVE_IN_ROOT})
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(dir)
		// RESOLVE_IN_ROOT takes the directory for the root: an absolute name begins
		// at ours.
		at, name := root, p
		if !strings.HasPrefix(p, "/") && base != "/" {
			name = base[1:] + "/" + p
		}
		flags := uint64(unix.O_PATH)
		if !follow {
			flags |= unix.O_NOFOLLOW
		}
		fd, err := unix.Openat2(at, name, &unix.OpenHow{Flags: flags, Resolve: unix.RESOLVE_IN_ROOT})
		if err == unix.ENAMETOOLONG || err == unix.EAGAIN {
			return
		}
		if err != nil {
			for _, f := range found {
				if f == Absent {
					return
				}
			}
			// A loop of links, a file taken for a directory, or all of it outside.
			if err == unix.ENOENT && len(found) > 0 && !strings.Contains(p, "usr") && !strings.Contains(p, "out") && !strings.Contains(p, "..") {
				t.Errorf("%q from %s: %v, and noted %s", p, base, err, say(r.all))
			}
			return
		}
		defer unix.Close(fd)
		real, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
		if err != nil {
			t.Fatal(err)
		}
		top, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", root))
		if err != nil {
			t.Fatal(err)
		}
		real = strings.TrimPrefix(real, top)
		if real != "/w" && !strings.HasPrefix(real, "/w/") {
			return
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			t.Fatal(err)
		}
		want := map[uint32]Found{unix.S_IFREG: File, unix.S_IFDIR: Directory, unix.S_IFLNK: Symlink}[st.Mode&unix.S_IFMT]
		if found[real] != want {
			t.Errorf("%q from %s: the kernel finds %q, noted %s", p, base, real, say(r.all))
		}
	})
}

// A name that is asked for at once is noted as if it was walked name by name, in
// the job's first look at it and in all later ones.
func TestDirect(t *testing.T) {
	_, root := tree(t, world...)
	names := []string{
		"", ".", "..", "w", "wx", "usr", "inc", "in", "d", "e", "f", "link", "abs", "up", "dangling", "loop", "a", "b", "out", "slash",
		"dot", "file", "back", "\xff\xfe", "far", "none", "x..y", "i.h", strings.Repeat("x", 256),
	}
	rnd := rand.New(rand.NewPCG(7, 1))
	both, steps := recorder(root, &memory{}), recorder(root, &memory{})
	direct := 0
	for i := range 20000 {
		if i%20 == 0 {
			both, steps = recorder(root, &memory{}), recorder(root, &memory{})
		}
		parts := make([]string, rnd.IntN(5)+1)
		for k := range parts {
			parts[k] = names[rnd.IntN(len(names))]
		}
		base := []string{"/", "/w", "/w/d", "/w/d/e", "/usr"}[rnd.IntN(5)]
		p, follow := strings.Join(parts, "/"), rnd.IntN(2) == 0
		if p == "" {
			continue
		}
		before := len(both.all)
		both.walk(1, base, p, follow)
		if p[0] == '/' {
			base = "/"
		}
		steps.step(1, base, p, follow || asksForDir(p))
		if got, want := say(both.all), say(steps.all); got != want {
			t.Fatalf("%q from %s, %v: %s\nwant %s", p, base, follow, got, want)
		}
		if len(both.all) > before && len(both.fixed) == 0 {
			direct++
		}
	}
	if direct == 0 {
		t.Error("nothing was asked for at once")
	}
}

// BenchmarkBelow is one job's look-ups of 100 headers along 6 directories of its
// project.
func BenchmarkBelow(b *testing.B) {
	const dirs, headers = 6, 100
	names := make([]string, 0, headers)
	for i := range headers {
		names = append(names, fmt.Sprintf("/w/project/deps/d%d/h%d.h", i%dirs, i))
	}
	_, root := tree(b, names...)
	r := recorder(root, &memory{})
	for b.Loop() {
		r = recorder(root, &memory{})
		for i := range headers {
			for d := range i%dirs + 1 {
				r.walk(1, "/w/project", fmt.Sprintf("deps/d%d/h%d.h", d, i), true)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(r.all)), "ns/name")
}
