package worker

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hpcc.dev/hpcc/internal/digest"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
	workerv1 "hpcc.dev/hpcc/proto/hpcc/worker/v1"
)

// long is n bytes of text, of lines that are all different.
func long(n int, begin string) string {
	var b strings.Builder
	b.WriteString(begin)
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "int variable_%d = %s;\n", i, digest.Of([]byte{byte(i), byte(i >> 8), byte(i >> 16)}).Hex()[:12])
	}
	return b.String()[:n]
}

// A file comes as its difference to what it was, is not asked for then, and all that
// comes of it is what comes of the whole file.
func TestPatch(t *testing.T) {
	for name, n := range map[string]int{"small": 3000, "large": smallBytes + 100_000, "largest": workerv1.MaxPatched/4 - 10} {
		t.Run(name, func(t *testing.T) {
			r, plain := newRig(t, nil), newRig(t, nil)
			c := r.client(t, "acme")
			was := map[string]string{"a.c": long(n, "/hpcc/src/b.h\n"), "b.h": long(n, "two\n")}
			c.compile(was)
			now := map[string]string{"a.c": was["a.c"] + "three", "b.h": was["b.h"][:n/2] + "four" + was["b.h"][n/2:]}
			got := c.compile(now, with(patchOf(1, was["b.h"], now["b.h"]), patchOf(0, was["a.c"], now["a.c"])))
			want := plain.client(t, "acme").compile(now)
			if len(got.needed) != 0 || got.GetHit() || !bytes.Equal(got.GetActionKey(), want.GetActionKey()) ||
				got.outputs["object"] != want.outputs["object"] || got.outputs["object"] != now["a.c"]+now["b.h"] {
				t.Errorf("%v is needed, an object of %d bytes, where a plain one has %d", got.needed, len(got.outputs["object"]), len(want.outputs["object"]))
			}
			// It is stored as any input, and patches are no part of the job.
			if hit := c.compile(now); !hit.GetHit() || !bytes.Equal(hit.GetActionKey(), want.GetActionKey()) {
				t.Errorf("%v", hit)
			}
			if o := c.compile(now, func(j *workerv1.Job) { j.Uncached = true }); len(o.needed) != 0 {
				t.Errorf("%v is needed", o.needed)
			}
			r.nothingHeld(t)
			if left := r.temporary(t); len(left) > 0 {
				t.Errorf("%v", left)
			}
		})
	}
}

// A patch that cannot be used has its content asked for; one that is not needed is not
// looked at.
func TestPatchesThatAreNotUsed(t *testing.T) {
	was, now := long(5000, "was"), long(5001, "now")
	nonsense := &workerv1.Patch{Base: wireDigest(digest.Of([]byte(was))), Data: []byte("nonsense")}
	for name, c := range map[string]struct {
		known  map[string]string // of acme
		others map[string]string // of another tenant
		files  map[string]string
		change func(*rig) error
		patch  *workerv1.Patch
		needed []string
		hit    bool
	}{
		"a base that nobody has": {files: map[string]string{"a.c": now}, patch: patchOf(0, was, now), needed: []string{now}},
		"another tenant's base":  {others: map[string]string{"a.c": was}, files: map[string]string{"a.c": now}, patch: patchOf(0, was, now), needed: []string{now}},
		"a base of another size": {known: map[string]string{"a.c": was}, files: map[string]string{"a.c": now}, patch: &workerv1.Patch{Base: otherSize(was), Data: nonsense.Data}, needed: []string{now}},
		"for another file":       {known: map[string]string{"a.c": was}, files: map[string]string{"a.c": "/hpcc/src/b.h", "b.h": now}, patch: patchOf(1, was, now), needed: []string{"/hpcc/src/b.h"}},
		"for what is there":      {known: map[string]string{"a.c": "x", "b.h": was}, files: map[string]string{"a.c": now, "b.h": was}, patch: &workerv1.Patch{Input: 1, Base: nonsense.Base, Data: nonsense.Data}, needed: []string{now}},
		"in a hit":               {known: map[string]string{"a.c": was}, files: map[string]string{"a.c": was}, patch: nonsense, hit: true},
		"for one of equal files": {known: map[string]string{"a.c": was}, files: map[string]string{"a.c": now, "b.h": now}, patch: patchOf(1, was, now)},
		"a base that is damaged": {
			known: map[string]string{"a.c": was}, files: map[string]string{"a.c": now}, patch: patchOf(0, was, now), needed: []string{now},
			change: func(r *rig) error {
				s, err := r.stores.get("acme")
				if err != nil {
					return err
				}
				return overwriteBlob(s.Dir(), digest.Of([]byte(was)))
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			for tenant, files := range map[string]map[string]string{"acme": c.known, "zeta": c.others} {
				if files != nil {
					r.client(t, tenant).compile(files)
				}
			}
			if c.change != nil {
				if err := c.change(r); err != nil {
					t.Fatal(err)
				}
			}
			o := r.client(t, "acme").compile(c.files, with(c.patch))
			var want []digest.Digest
			for _, content := range c.needed {
				want = append(want, digest.Of([]byte(content)))
			}
			if !slices.Equal(o.needed, want) || o.GetHit() != c.hit {
				t.Errorf("%v is needed, want %v; hit %v", o.needed, want, o.GetHit())
			}
			plain := newRig(t, nil).client(t, "acme").compile(c.files)
			if o.outputs["object"] != plain.outputs["object"] {
				t.Errorf("an object of %d bytes, where a plain one has %d", len(o.outputs["object"]), len(plain.outputs["object"]))
			}
			r.nothingHeld(t)
		})
	}
}

// otherSize is a digest of a content with a size that is not its own.
func otherSize(content string) *agentv1.Digest {
	d := wireDigest(digest.Of([]byte(content)))
	d.Size++
	return d
}

func TestBadPatches(t *testing.T) {
	was := map[string]string{"a.c": long(5000, "/hpcc/src/b.h\n"), "b.h": long(5000, "b")}
	now := map[string]string{"a.c": was["a.c"] + "now", "b.h": was["b.h"]}
	good := patchOf(0, was["a.c"], now["a.c"]).GetData()
	size := len(now["a.c"])
	// Run-length blocks of 128 KiB, in a frame that says the size of the blob.
	bomb := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0, byte(size), byte(size >> 8), 0, 0}
	for range 10_000 {
		bomb = append(bomb, 0x02, 0x00, 0x10, 'x')
	}
	bomb = append(bomb, 0x03, 0x00, 0x10, 'x')
	// One that says a gigabyte.
	huge := append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 0x40}, bomb[9:]...)
	to := func(base string, data []byte) *workerv1.Patch {
		return &workerv1.Patch{Base: wireDigest(digest.Of([]byte(base))), Data: data}
	}
	for name, p := range map[string]*workerv1.Patch{
		"to another base":        to(was["b.h"], good),
		"of another content":     patchOf(0, was["a.c"], was["a.c"]+"won"),
		"of a longer content":    patchOf(0, was["a.c"], now["a.c"]+"x"),
		"of a shorter content":   patchOf(0, was["a.c"], was["a.c"]),
		"cut":                    to(was["a.c"], good[:len(good)-1]),
		"cut in its header":      to(was["a.c"], good[:5]),
		"empty":                  to(was["a.c"], nil),
		"with a byte behind it":  to(was["a.c"], append(bytes.Clone(good), 0)),
		"with a frame behind it": to(was["a.c"], append(bytes.Clone(good), good...)),
		"no zstd":                to(was["a.c"], []byte(now["a.c"])),
		"a bomb":                 to(was["a.c"], bomb),
		"a bomb that says so":    to(was["a.c"], huge),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			c := r.client(t, "acme")
			c.compile(was)
			keys, rows := r.storedKeys(t, "acme"), len(r.log.all())
			k := c.open()
			k.job(newJob(now, with(p)))
			if err := k.failure(); status.Code(err) != codes.InvalidArgument || len(err.Error()) > 1000 {
				t.Errorf("%v", err)
			}
			r.nothingHeld(t)
			if more := r.storedKeys(t, "acme"); len(more) != len(keys) || len(r.log.all()) != rows {
				t.Errorf("%d results, %d rows", len(more), len(r.log.all()))
			}
			// The next compile is none the worse for it.
			if o := c.compile(now); len(o.needed) != 1 || o.outputs["object"] != now["a.c"]+now["b.h"] {
				t.Errorf("%v is needed, an object of %d bytes", o.needed, len(o.outputs["object"]))
			}
		})
	}
}

// Each time that a job is sent again it may have patches, to what came with it before.
func TestPatchesSentAgain(t *testing.T) {
	r := newRig(t, nil)
	c := r.client(t, "acme")
	files := map[string]string{"a.c": long(2000, "/hpcc/src/b.h\n")}
	k := c.open()
	k.job(newJob(files))
	k.needed()
	k.upload(files["a.c"])
	k.outcome()
	more := maps.Clone(files)
	more["b.h"] = files["a.c"] + "x"
	k.job(newJob(more, with(patchOf(1, files["a.c"], more["b.h"]))))
	if n := k.needed(); len(n) != 0 {
		t.Errorf("%v", n)
	}
	o := k.outcome()
	k.accept()
	_ = k.CloseSend()
	if got, _ := k.outputs(o); got["object"] != more["a.c"]+more["b.h"] {
		t.Errorf("an object of %d bytes", len(got["object"]))
	}
}

// Jobs are equal whatever their clients have sent before.
func TestPatchesAreNoPartOfTheJob(t *testing.T) {
	plain, err := check(newJob(program), testImage, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	other, err := check(newJob(program, with(patchOf(0, "x", program["a.c"]))), testImage, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if plain.flightKey("acme") != other.flightKey("acme") || plain.Manifest(plain.source) != other.Manifest(other.source) {
		t.Error("keys differ")
	}
}
