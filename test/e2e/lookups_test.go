//go:build e2e && linux

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/test/strace"
)

// checkLookups holds what strace saw of each of the plain compiler's compiles
// against the entry that hpcc stored for the same unit, and what it remembers
// of the toolchain: every path that a compiler proper, an assembler or a driver
// looked up must be explained by them. hpcc derives absences from the sources'
// text and a toolchain from questions to it; strace knows of neither.
func checkLookups(t *testing.T, w *world, compiles []compiled) {
	t.Helper()
	disk, err := cache.Open(cache.Options{Dir: filepath.Join(w.dir, "cache")})
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	tools := readToolchains(t, disk)
	classes := map[string]int{}
	units, ambiguous, missing := 0, 0, map[string]bool{}
	for _, c := range compiles {
		if len(missing) > 60 {
			break
		}
		if c.Trace == "" || c.Action == "" {
			continue
		}
		if c.ambiguous {
			ambiguous++
			continue
		}
		processes, err := strace.Read(c.Trace)
		if err != nil {
			t.Fatal(err)
		}
		key, err := digest.ParseKey(c.Action)
		if err != nil {
			t.Fatal(err)
		}
		entry, err := disk.Entry(key)
		if err != nil {
			t.Fatalf("%s: %v", c, err)
		}
		units++
		x := newExplainer(c, entry, tools[entry.Action.Toolchain.String()], processes)
		for _, p := range processes {
			for _, l := range p.Lookups {
				class := x.class(p.Program, l)
				classes[class]++
				if line := fmt.Sprintf("%s %s (%s) by %s", l.Call, l.Path, l.Errno, path.Base(p.Program)); class == "" && !missing[line] {
					missing[line] = true
					t.Errorf("in no list: %s; in %s", line, c.Source)
				}
			}
		}
	}
	if units < 20 || ambiguous > units {
		t.Errorf("only %d compiles could be held against a trace, and %d not", units, ambiguous)
	}
	var counts []string
	for _, class := range slices.Sorted(maps.Keys(classes)) {
		counts = append(counts, fmt.Sprintf("%d %s", classes[class], class))
	}
	t.Logf("%d units under strace (%d more could not be told apart): %s", units, ambiguous, strings.Join(counts, ", "))
}

// toolchain is what hpcc remembers of one: the paths that it rests on, and
// whether each was there.
type toolchain map[string]bool

// readToolchains reads the records of toolchains from the cache, by identity.
// Those of their search paths do not say whose they are; each toolchain has
// them all.
func readToolchains(t *testing.T, disk *cache.Disk) map[string]toolchain {
	t.Helper()
	tools, chains := map[string]toolchain{}, toolchain{}
	memos, err := filepath.Glob(filepath.Join(disk.Dir(), "memo", "compiler", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range memos {
		text, err := disk.Memo("compiler/" + filepath.Base(name))
		if err != nil {
			t.Fatal(err)
		}
		var record struct {
			Identity string
			Parts    []struct {
				Path string `json:"p"`
			}
			Watches []struct {
				Path string `json:"p"`
				Want struct {
					Ino uint64 `json:"i"`
				} `json:"w"`
			}
		}
		if json.Unmarshal(text, &record) != nil {
			continue // the digest of one file
		}
		tool := chains
		if record.Identity != "" {
			if tools[record.Identity] == nil {
				tools[record.Identity] = toolchain{}
			}
			tool = tools[record.Identity]
		}
		for _, p := range record.Parts {
			tool[real(p.Path)] = true
		}
		for _, watch := range record.Watches {
			tool[real(watch.Path)] = watch.Want.Ino != 0
		}
	}
	for _, tool := range tools {
		maps.Copy(tool, chains)
	}
	return tools
}

// explains reports whether a look-up cannot change its answer without the
// toolchain being looked at again. A directory that is watched can neither get
// nor lose a name unnoticed.
func (tool toolchain) explains(l strace.Lookup, name string, found bool) bool {
	name = real(name)
	if found {
		return tool[name] || l.Call == "newfstatat" && tool[path.Dir(name)]
	}
	for ; name != "/"; name = path.Dir(name) {
		if there, ok := tool[name]; ok && !there {
			return true
		}
		dir := path.Dir(name)
		if tool[dir] {
			return true
		}
		if real, err := filepath.EvalSymlinks(dir); err == nil && real == dir {
			return false // it exists, and is not watched
		}
	}
	return false
}

var realNames = map[string]string{}

// real is the path without symbolic links, as far as it exists. Links must not
// change while the test runs.
func real(name string) string {
	if r, ok := realNames[name]; ok {
		return r
	}
	r, err := filepath.EvalSymlinks(name)
	if err != nil {
		dir, base := path.Split(strings.TrimRight(name, "/"))
		if dir = strings.TrimRight(dir, "/"); dir == "" {
			r = "/" + base
		} else if base == ".." {
			r = path.Dir(real(dir))
		} else {
			r = path.Join(real(dir), base)
		}
	}
	realNames[name] = r
	return r
}

// explainer knows one unit's entry.
type explainer struct {
	cwd     string
	tool    toolchain
	inputs  map[string]bool
	present map[string]bool
	absent  map[string]bool
	passed  map[string]bool // directories on the way to all of these
	written map[string]bool
	// resolved are inputs named by way of "..", as realpath names them: gcc
	// asks of each component whether it is a link.
	resolved map[string]bool
}

func newExplainer(c compiled, entry *action.Entry, tool toolchain, processes []strace.Process) *explainer {
	x := &explainer{cwd: c.Dir, tool: tool, inputs: map[string]bool{}, present: map[string]bool{},
		absent: map[string]bool{}, passed: map[string]bool{}, written: map[string]bool{}, resolved: map[string]bool{}}
	note := func(set map[string]bool, name string) {
		name = x.at(c.Dir, name)
		set[name] = true
		x.pass(name)
	}
	for name := range tool {
		x.pass(name)
	}
	// A driver is found through links: /usr/bin/cc, /etc/alternatives/cc.
	for name, err := c.Compiler, error(nil); err == nil; name, err = os.Readlink(name) {
		x.pass(name)
	}
	for _, in := range entry.Action.Inputs {
		note(x.inputs, in.Path)
		if strings.Contains(in.Path, "../") {
			note(x.resolved, real(x.at(c.Dir, in.Path)))
		}
	}
	for _, name := range entry.Action.Present {
		note(x.present, name)
	}
	for _, name := range entry.Action.Absent {
		note(x.absent, name)
	}
	// clang looks which directories of the search path there are, even for a
	// unit that includes nothing; what is not there must be an absence.
	for i, arg := range c.call.Args {
		for _, option := range []string{"-I", "-iquote", "-isystem", "-idirafter"} {
			if dir, ok := strings.CutPrefix(arg, option); ok {
				if dir == "" && i+1 < len(c.call.Args) {
					dir = c.call.Args[i+1]
				}
				dir = x.at(c.Dir, dir)
				x.pass(dir)
				x.passed[dir] = true
			}
		}
	}
	for _, name := range c.outputs() {
		note(x.written, name)
	}
	for _, p := range processes {
		for _, l := range p.Lookups {
			if l.Writes && l.Found() {
				note(x.written, x.at(l.Dir, l.Path))
			}
		}
	}
	return x
}

// pass notes the directories that a path leads through.
func (x *explainer) pass(name string) {
	for dir := parent(name); !x.passed[dir]; dir = parent(dir) {
		x.passed[dir] = true
	}
}

// at is an absolute path, without the dots and slashes that mean nothing. ".."
// stays: what is before it may be a link.
func (x *explainer) at(dir, name string) string {
	if !path.IsAbs(name) {
		if dir == "" {
			dir = x.cwd
		}
		name = dir + "/" + name
	}
	var b strings.Builder
	for part := range strings.SplitSeq(name, "/") {
		if part != "" && part != "." {
			b.WriteString("/" + part)
		}
	}
	if b.Len() == 0 {
		return "/"
	}
	return b.String()
}

// parent is the directory of a path in the form of at.
func parent(name string) string {
	if i := strings.LastIndexByte(name, '/'); i > 0 {
		return name[:i]
	}
	return "/"
}

// covered reports whether a path is an absence, or below one.
func (x *explainer) covered(name string) bool {
	for ; name != "/"; name = parent(name) {
		if x.absent[name] {
			return true
		}
	}
	return false
}

// aside are look-ups that decide nothing of what a compile leaves behind, each
// with the reason. by lists the programs to which it applies. A path that ends
// in a slash stands for what is below it; one without any for that name in
// every directory.
var aside = []struct{ class, why, by, paths string }{
	{
		class: "locale",
		why:   "the language of messages: they are served only where the variables are the same, and no object depends on it",
		by:    "gcc g++ cc c++ cc1 cc1plus as clang clang++",
		paths: "/usr/lib/locale/ /usr/share/locale/ /usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache",
	},
	{
		class: "proc",
		why:   "the driver asks where itself and what it has opened are: the paths that the other look-ups are about",
		by:    "clang clang++",
		paths: "/proc/self/exe /proc/self/fd /proc/self/fd/",
	},
	{
		class: "for the linker",
		why:   "the distribution, clang's own run-time libraries, libraries for -m32: options of the linker alone (LLVM 14, ToolChains/Linux.cpp)",
		by:    "clang clang++",
		paths: "/etc/os-release /etc/lsb-release /etc/redhat-release /etc/debian_version /usr/lib/llvm-14/lib/clang/14.0.6/lib/ " +
			"/lib/i386-linux-gnu /usr/lib/i386-linux-gnu",
	},
	{
		class: "for CUDA and HIP",
		why:   "languages that are not cached: the driver looks for their kits whatever it compiles",
		by:    "clang clang++",
		paths: "ptxas .hipVersion /usr/local/cuda /usr/local/cuda-8.0 /usr/local/cuda-7.5 /usr/local/cuda-7.0 /usr/lib/cuda /opt/rocm /opt",
	},
}

// class says what explains a look-up by a program, "" if nothing does.
func (x *explainer) class(program string, l strace.Lookup) string {
	name := x.at(l.Dir, l.Path)
	// readlink of what is no link.
	found := l.Found() || l.Errno == "EINVAL" && l.Call == "readlink"
	switch {
	case x.written[name]:
		return "outputs"
	case !found && l.Errno != "ENOENT" && l.Errno != "ENOTDIR":
		return ""
	case found && x.inputs[name]:
		return "inputs"
	case found && x.present[name]:
		return "present"
	case l.Errno == "EINVAL" && x.resolved[name]:
		return "inputs"
	case !found && x.covered(name):
		return "absences"
	case found && x.passed[name]:
		return "directories on the way"
	case x.tool.explains(l, name, found):
		return "toolchain"
	case found && l.Directory && x.passed[real(name)]:
		return "directories on the way"
	case strings.HasSuffix(l.Path, "/.") && slices.Contains(strings.Fields("gcc g++ cc c++"), path.Base(program)):
		// gcc's driver looks which directories of libraries there are, and tells
		// the linker.
		return "for the linker"
	}
	for _, a := range aside {
		if !slices.Contains(strings.Fields(a.by), path.Base(program)) {
			continue
		}
		for p := range strings.FieldsSeq(a.paths) {
			if name == p || path.Base(name) == p || strings.HasSuffix(p, "/") && strings.HasPrefix(name, p) {
				return a.class
			}
		}
	}
	return ""
}

// TestExplainer makes sure that the judge can say no.
func TestExplainer(t *testing.T) {
	entry := &action.Entry{Action: action.Action{
		Inputs:  []action.Input{{Path: "a.c"}, {Path: "./inc/a.h"}, {Path: "/usr/include/stdio.h"}},
		Absent:  []string{"a.h", "gone", "/usr/local/include/stdio.h"},
		Present: []string{"inc/seen.h", "inc/dir.h/."},
	}}
	tool := toolchain{"/opt/cc/cc1": true, "/opt/cc/specs": false, "/opt/cc/lib": true}
	c := compiled{call: call{Dir: "/w", Args: []string{"gcc", "-c", "a.c", "-MF", "a.d"}}}
	x := newExplainer(c, entry, tool, []strace.Process{{Lookups: []strace.Lookup{{Call: "openat", Path: "/tmp/ccXXXXXX.s", Writes: true}}}})
	for _, tt := range []struct{ path, errno, want string }{
		{"a.c", "", "inputs"},
		{"/w/inc//a.h", "", "inputs"},
		{"inc/../a.h", "", ""}, // another name, if inc is a link
		{"a.h", "ENOENT", "absences"},
		{"b.h", "ENOENT", ""},
		{"gone/b.h", "ENOENT", "absences"},
		{"a.h", "", ""}, // found, where it must not be
		{"inc/seen.h", "", "present"},
		{"inc/dir.h", "", "present"},
		{"inc", "", "directories on the way"},
		{"other", "", ""},
		{"/usr/include/stdio.h", "EACCES", ""},
		{"a.o", "ENOENT", "outputs"},
		{"a.d", "", "outputs"},
		{"/tmp/ccXXXXXX.s", "", "outputs"},
		{"/tmp/ccYYYYYY.s", "", ""},
		{"/opt/cc/cc1", "", "toolchain"},
		{"/opt/cc/specs", "ENOENT", "toolchain"},
		{"/opt/cc/as", "ENOENT", ""},
		{"/opt/cc/lib/x", "ENOENT", "toolchain"}, // a watched directory has no such name
		{"/opt/cc/lib/x", "", ""},
		{"/usr/share/locale/de/LC_MESSAGES/gcc.mo", "ENOENT", "locale"},
	} {
		if got := x.class("/usr/bin/gcc", strace.Lookup{Call: "openat", Path: tt.path, Errno: tt.errno}); got != tt.want {
			t.Errorf("%s %s: %q, want %q", tt.path, tt.errno, got, tt.want)
		}
	}
}
