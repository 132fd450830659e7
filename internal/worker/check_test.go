package worker

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/agentapi"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/wirezip"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
	workerv1 "hpcc.dev/hpcc/proto/hpcc/worker/v1"
)

// with adds patches to a job.
func with(patches ...*workerv1.Patch) func(*workerv1.Job) {
	return func(j *workerv1.Job) { j.Patches = append(j.Patches, patches...) }
}

// patchOf says the content of an input by what it was.
func patchOf(input uint32, was, now string) *workerv1.Patch {
	return &workerv1.Patch{Input: input, Base: wireDigest(digest.Of([]byte(was))), Data: wirezip.Diff([]byte(was), []byte(now))}
}

func manyPatches(n int) func(*workerv1.Job) {
	return func(j *workerv1.Job) {
		for i := range n {
			j.Inputs = append(j.Inputs, fileInput(fmt.Sprintf("/hpcc/src/%d.h", i), fmt.Sprint(i)))
			j.Patches = append(j.Patches, patchOf(uint32(i+1), "x", fmt.Sprint(i)))
		}
	}
}

// sized is a patch between contents of these sizes.
func sized(base, content int64, data int) func(*workerv1.Job) {
	return func(j *workerv1.Job) {
		j.Inputs[0].Digest.Size = content
		j.Patches = []*workerv1.Patch{{Base: &agentv1.Digest{Sha256: make([]byte, 32), Size: base}, Data: make([]byte, data)}}
	}
}

func TestCheck(t *testing.T) {
	link := func(path, target string) *agentv1.Input {
		return &agentv1.Input{Path: path, Kind: agentv1.Input_KIND_SYMLINK, Target: target}
	}
	for name, c := range map[string]struct {
		change func(*workerv1.Job)
		ok     bool
	}{
		"as it is": {func(*workerv1.Job) {}, true},
		"no image": {func(j *workerv1.Job) { j.Image = "" }, false},
		"a tag":    {func(j *workerv1.Job) { j.Image = "gcc:12" }, false},
		"a digest in capitals": {func(j *workerv1.Job) {
			j.Image = "sha256:" + strings.ToUpper(testImage[7:])
		}, false},
		"no program":                {func(j *workerv1.Job) { j.Argv = nil }, false},
		"a NUL in an argument":      {func(j *workerv1.Job) { j.Argv = []string{"gcc", "a\x00b"} }, false},
		"many arguments":            {func(j *workerv1.Job) { j.Argv = make([]string, agentv1.MaxArgs+1) }, false},
		"a variable":                {func(j *workerv1.Job) { j.Env = []string{"SOURCE_DATE_EPOCH=1"} }, true},
		"PATH":                      {func(j *workerv1.Job) { j.Env = []string{"PATH=/evil"} }, false},
		"HOME":                      {func(j *workerv1.Job) { j.Env = []string{"HOME="} }, false},
		"a variable twice":          {func(j *workerv1.Job) { j.Env = []string{"A=1", "A=2"} }, false},
		"a variable without =":      {func(j *workerv1.Job) { j.Env = []string{"A"} }, false},
		"many variables":            {func(j *workerv1.Job) { j.Env = make([]string, agentv1.MaxEnv+1) }, false},
		"a relative cwd":            {func(j *workerv1.Job) { j.Cwd = "src" }, false},
		"no cwd":                    {func(j *workerv1.Job) { j.Cwd = "" }, false},
		"a second root":             {func(j *workerv1.Job) { j.Roots = append(j.Roots, "/hpcc/src1") }, true},
		"the caller's own path":     {func(j *workerv1.Job) { j.Roots = append(j.Roots, "/home/u/project") }, true},
		"below /usr/src":            {func(j *workerv1.Job) { j.Roots = append(j.Roots, "/usr/src/app") }, true},
		"below root's home":         {func(j *workerv1.Job) { j.Roots = append(j.Roots, "/root/build") }, true},
		"a root in a root":          {func(j *workerv1.Job) { j.Roots = append(j.Roots, "/hpcc/src/sub") }, false},
		"all of /hpcc":              {func(j *workerv1.Job) { j.Roots = []string{"/hpcc"} }, false},
		"the root directory":        {func(j *workerv1.Job) { j.Roots = append(j.Roots, "/") }, false},
		"/usr/include":              {func(j *workerv1.Job) { j.Roots = append(j.Roots, "/usr/include") }, false},
		"/usr":                      {func(j *workerv1.Job) { j.Roots = append(j.Roots, "/usr") }, false},
		"/etc/x":                    {func(j *workerv1.Job) { j.Roots = append(j.Roots, "/etc/x") }, false},
		"/tmp":                      {func(j *workerv1.Job) { j.Roots = append(j.Roots, "/tmp") }, false},
		"/home":                     {func(j *workerv1.Job) { j.Roots = append(j.Roots, "/home") }, false},
		"/proc/self":                {func(j *workerv1.Job) { j.Roots = append(j.Roots, "/proc/self") }, false},
		"an output outside":         {func(j *workerv1.Job) { j.Outputs[0].Path = "/etc/passwd" }, false},
		"an output that climbs":     {func(j *workerv1.Job) { j.Outputs[0].Path = "/hpcc/out/../../etc/passwd" }, false},
		"an output that is a root":  {func(j *workerv1.Job) { j.Outputs[0].Path = "/hpcc/out" }, false},
		"an output beside the root": {func(j *workerv1.Job) { j.Outputs[0].Path = "/hpcc/outside" }, false},
		"no role":                   {func(j *workerv1.Job) { j.Outputs[0].Role = "" }, false},
		"an odd role":               {func(j *workerv1.Job) { j.Outputs[0].Role = "a/b" }, false},
		"a long role":               {func(j *workerv1.Job) { j.Outputs[0].Role = strings.Repeat("x", workerv1.MaxRole+1) }, false},
		"a role twice": {func(j *workerv1.Job) {
			j.Outputs = append(j.Outputs, &workerv1.Output{Role: "object", Path: "/hpcc/out/x"})
		}, false},
		"an output twice": {func(j *workerv1.Job) {
			j.Outputs = append(j.Outputs, &workerv1.Output{Role: "dwo", Path: "/hpcc/out/object"})
		}, false},
		"many outputs": {func(j *workerv1.Job) {
			for i := range maxOutputs {
				j.Outputs = append(j.Outputs, &workerv1.Output{Role: "r" + strings.Repeat("x", i), Path: "/hpcc/out/" + strings.Repeat("x", i+1)})
			}
		}, false},
		"an empty output":     {func(j *workerv1.Job) { j.Outputs = append(j.Outputs, nil) }, false},
		"an input outside":    {func(j *workerv1.Job) { j.Inputs = append(j.Inputs, fileInput("/etc/passwd", "x")) }, false},
		"an input twice":      {func(j *workerv1.Job) { j.Inputs = append(j.Inputs, fileInput("/hpcc/src/a.c", "x")) }, false},
		"an input of outputs": {func(j *workerv1.Job) { j.Inputs = append(j.Inputs, fileInput("/hpcc/out/x", "x")) }, false},
		"an input behind a link": {func(j *workerv1.Job) {
			j.Inputs = append(j.Inputs, link("/hpcc/src/l", "/etc"), fileInput("/hpcc/src/l/passwd", "x"))
		}, false},
		"a link out": {func(j *workerv1.Job) { j.Inputs = append(j.Inputs, link("/hpcc/src/l", "/etc")) }, true},
		"an input of no kind": {func(j *workerv1.Job) {
			j.Inputs = append(j.Inputs, &agentv1.Input{Path: "/hpcc/src/x"})
		}, false},
		"an input of no digest": {func(j *workerv1.Job) {
			j.Inputs = append(j.Inputs, &agentv1.Input{Path: "/hpcc/src/x", Kind: agentv1.Input_KIND_FILE})
		}, false},
		"a digest of zeros": {func(j *workerv1.Job) {
			j.Inputs = append(j.Inputs, &agentv1.Input{Path: "/hpcc/src/x", Kind: agentv1.Input_KIND_FILE, Digest: &agentv1.Digest{Sha256: make([]byte, 32)}})
		}, false},
		"a negative size": {func(j *workerv1.Job) { j.Inputs[0].Digest.Size = -1 }, false},
		"a huge size":     {func(j *workerv1.Job) { j.Inputs[0].Digest.Size = 1 << 40 }, false},
		"a mode":          {func(j *workerv1.Job) { j.Inputs[0].Mode = 0o6777 }, true},
		"many inputs": {func(j *workerv1.Job) {
			j.Inputs = slices.Repeat(j.Inputs[:1], agentv1.MaxInputs+1)
		}, false},
		"no source":                  {func(j *workerv1.Job) { j.Source = "" }, true},
		"a source that is not sent":  {func(j *workerv1.Job) { j.Source = "/hpcc/src/x.c" }, false},
		"a source that is elsewhere": {func(j *workerv1.Job) { j.Source = "/usr/include/stdio.h" }, false},
		"a source that is a link": {func(j *workerv1.Job) {
			j.Inputs = append(j.Inputs, link("/hpcc/src/l", "a.c"))
			j.Source = "/hpcc/src/l"
		}, true},
		"a source that is a directory": {func(j *workerv1.Job) {
			j.Inputs = append(j.Inputs, &agentv1.Input{Path: "/hpcc/src/d", Kind: agentv1.Input_KIND_DIRECTORY})
			j.Source = "/hpcc/src/d"
		}, false},
		"a patch":                      {with(patchOf(0, "y", "x")), true},
		"a patch to the same":          {with(patchOf(0, "x", "x")), true},
		"a patch that is nothing":      {with(&workerv1.Patch{Base: wireDigest(digest.Of(nil))}), true},
		"no patch":                     {with(nil), false},
		"two patches for one input":    {with(patchOf(0, "y", "x"), patchOf(0, "z", "x")), false},
		"a patch for no input":         {with(patchOf(1, "y", "x")), false},
		"a patch for none at all":      {with(patchOf(math.MaxUint32, "y", "x")), false},
		"a patch to no digest":         {with(&workerv1.Patch{Base: &agentv1.Digest{Sha256: []byte{1}}}), false},
		"a patch to a negative size":   {sized(-1, 1, 1), false},
		"a patch to a huge base":       {sized(math.MaxInt64, 1, 1), false},
		"a patch for a huge content":   {sized(1, 1<<30, 1), false},
		"a patch between large ones":   {sized(workerv1.MaxPatched/2, workerv1.MaxPatched/2, 1), true},
		"a patch between larger ones":  {sized(workerv1.MaxPatched/2, workerv1.MaxPatched/2+1, 1), false},
		"a long patch":                 {sized(1, 1, workerv1.MaxPatchBytes), true},
		"a patch that is longer still": {sized(1, 1, workerv1.MaxPatchBytes+1), false},
		"a patch for a link": {func(j *workerv1.Job) {
			j.Inputs = append(j.Inputs, link("/hpcc/src/l", "a.c"))
			j.Patches = []*workerv1.Patch{patchOf(1, "y", "a.c")}
		}, false},
		"patches that are long together": {func(j *workerv1.Job) {
			j.Inputs = append(j.Inputs, fileInput("/hpcc/src/b.h", "b"))
			for i := range uint32(2) {
				j.Patches = append(j.Patches, &workerv1.Patch{Input: i, Base: wireDigest(digest.Of(nil)), Data: make([]byte, workerv1.MaxPatchBytes/2+1)})
			}
		}, false},
		"many patches":     {manyPatches(workerv1.MaxPatches), true},
		"too many patches": {manyPatches(workerv1.MaxPatches + 1), false},
	} {
		_, err := check(newJob(map[string]string{"a.c": "x"}, c.change), testImage, time.Minute)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && len(err.Error()) > 5000 {
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
	}
	if _, err := check(newJob(program), otherImage, time.Minute); !errors.Is(err, errOtherImage) {
		t.Errorf("another image: %v", err)
	}
}

// What reaches the machine is the worker's: modes, times, the environment.
func TestWhatTheMachineIsTold(t *testing.T) {
	m := newJob(program, func(j *workerv1.Job) {
		j.Inputs[0].Mode, j.Inputs[0].Mtime = 0o777, 12345
		j.Env, j.TimeMillis = []string{"X=y"}, 5000
		j.Inputs = append(j.Inputs, &agentv1.Input{Path: "/hpcc/src/d", Kind: agentv1.Input_KIND_DIRECTORY, Mode: 0o700})
	})
	j, err := check(m, testImage, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	e := j.exec(agentapi.Limits{MemoryBytes: 1})
	if !slices.Equal(e.Env, append(slices.Clone(workerv1.Environment), "X=y")) || e.Limits.Time != 5*time.Second || e.Limits.MemoryBytes != 1 {
		t.Errorf("%+v", e)
	}
	times := map[time.Time]bool{}
	for _, in := range e.Inputs {
		if in.Kind == agentapi.File && in.Mode != inputFileMode || in.Kind == agentapi.Directory && in.Mode != inputDirMode {
			t.Errorf("%s: mode %v", in.Path, in.Mode)
		}
		if in.ModTime != inputTime(in.Path) || in.ModTime.Before(inputEpoch) || in.ModTime.Year() > 1997 {
			t.Errorf("%s: %v", in.Path, in.ModTime)
		}
		times[in.ModTime] = true
	}
	if len(times) != len(e.Inputs) {
		t.Errorf("%d times of %d inputs", len(times), len(e.Inputs))
	}
	m.TimeMillis = uint64(time.Hour.Milliseconds())
	if j, err = check(m, testImage, time.Minute); err != nil || j.time != time.Minute {
		t.Errorf("a longer time than the worker's: %v, %v", j.time, err)
	}
}

// Lookups among outputs say nothing; those in other roots do, outputs or not.
func TestRecord(t *testing.T) {
	j, err := check(newJob(program, func(j *workerv1.Job) {
		j.Roots = append(j.Roots, "/home/u/build")
		j.Outputs = append(j.Outputs, &workerv1.Output{Role: "gcno", Path: "/home/u/build/a.gcno"}, &workerv1.Output{Role: "su", Path: "/hpcc/src/b.h"})
	}), testImage, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	r, err := recordOf(j, []agentapi.Lookup{
		{Path: "/hpcc/out", Found: agentapi.FoundDirectory}, {Path: "/hpcc/out/object", Found: agentapi.Absent}, {Path: "/hpcc/out/x", Found: agentapi.Absent},
		{Path: "/home/u/build/a.gcno", Found: agentapi.Absent}, {Path: "/home/u/build/config.h", Found: agentapi.Absent},
		{Path: "/home/u/build", Found: agentapi.FoundDirectory}, {Path: "/hpcc/src/b.h", Found: agentapi.FoundFile},
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(r.absent, []string{"/home/u/build/config.h"}) || !slices.Equal(r.found, []string{"/home/u/build/.", "/hpcc/src/b.h"}) || r.other {
		t.Errorf("%+v", r)
	}
}

func TestSpool(t *testing.T) {
	m := newMemory()
	few := int64(smallBytes)
	a, b := m.spool(t.TempDir(), &few), m.spool(t.TempDir(), &few)
	half := []byte(strings.Repeat("x", smallBytes/2+1))
	for _, s := range []*spool{a, b} {
		if _, err := s.Write(half); err != nil {
			t.Fatal(err)
		}
	}
	if a.file != nil || b.file == nil || few != smallBytes-int64(len(half)) {
		t.Errorf("they share %d bytes, of which %d are left", smallBytes, few)
	}
	for _, s := range []*spool{a, b} {
		got, release, err := s.bytes(t.Context())
		if err != nil || digest.Of(got) != digest.Of(half) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		release()
		s.close()
		s.close()
	}
	if few != smallBytes || m.spooled.Load() != 0 {
		t.Errorf("%d, %d", few, m.spooled.Load())
	}
	m.spooled.Store(spoolBytes)
	none := int64(0)
	c := m.spool(t.TempDir(), &none)
	if _, err := c.Write([]byte("x")); !errors.Is(err, errSpoolFull) {
		t.Errorf("%v", err)
	}
	c.close()
	if m.spooled.Load() != spoolBytes {
		t.Errorf("%d", m.spooled.Load())
	}
}
