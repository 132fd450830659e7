package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"hpcc.dev/hpcc/internal/digest"
)

var someTime = time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)

func d(s string) Digest { return Digest(digest.Of([]byte(s))) }

// someRow has something in every field.
func someRow() *Row {
	return &Row{
		Time: someTime, Tenant: "acme", Subject: "jo@example.com", Worker: "w1", VM: "m-1", Tier: "regional", Signer: "w2",
		Image:  "sha256:" + digest.Of([]byte("image")).Hex(),
		Action: Key{1, 2, 3},
		Command: Command{
			Argv: []string{"gcc", "-DX=<a&b>", "-c", "a.c"}, Env: []string{"LANG=C"}, Cwd: "/hpcc/src",
			Roots: []string{"/hpcc/src", "/hpcc/out"}, Declared: []Declared{{"object", "/hpcc/out/object", false}, {"dwo", "/hpcc/out/dwo", true}},
			Source: "/hpcc/src/a.c",
		},
		Reads: Reads{
			Inputs: []Input{{Path: "/hpcc/src/b.h", Target: "c.h"}, {Path: "/hpcc/src/a.c", Digest: d("a")}, {Path: "/hpcc/src/inc"}},
			Absent: []Name{"/hpcc/src/z.h", "/hpcc/src/\xff.h"},
		},
		Outputs: []Output{{"object", d("object"), true}}, Stdout: d("out"), Stderr: d("err"),
		Exit: 1, Signal: 9, Limit: "time", Duration: time.Second, Cache: Miss, Accepted: true, Error: "the machine was lost",
		Isolation: Isolation{Runtime: "firecracker", Version: "1.13", Digests: map[string]string{"vmm": "sha256:1", "kernel": "sha256:2"}, NICs: []string{}},
		Versions:  Versions{HPCC: "v1", Agent: "v2"},
	}
}

func TestRowRoundTrip(t *testing.T) {
	r := someRow()
	if v := reflect.ValueOf(*r); true {
		for i := range v.NumField() {
			if name := v.Type().Field(i).Name; v.Field(i).IsZero() && name != "Detail" && name != "SourceDigest" && name != "Offered" {
				t.Errorf("the test's row has no %s", name)
			}
		}
	}
	blob, err := r.Fit()
	if err != nil || blob != nil {
		t.Fatalf("%q, %v", blob, err)
	}
	raw, err := encodeRow(r)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(raw), `-DX=<a&b>`) || !strings.Contains(string(raw), `{"base64":"L2hwY2Mvc3JjL/8uaA=="}`) {
		t.Errorf("%s", raw)
	}
	back, err := (&Entry{Raw: raw}).Row()
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(back, r) {
		t.Errorf("got %+v\nwant %+v", back, r)
	}
	again, err := encodeRow(back)
	if err != nil || string(again) != string(raw) {
		t.Errorf("it is not canonical: %s, %v", again, err)
	}
}

// Old rows must stay readable: this is what was written.
func TestRowFormat(t *testing.T) {
	r := &Row{Time: someTime.In(time.FixedZone("", 3600)), Tenant: "t", Worker: "w", Image: "sha256:0", Cache: Hit, Versions: Versions{HPCC: "v"}}
	if _, err := r.Fit(); err != nil {
		t.Fatal(err)
	}
	raw, err := encodeRow(r)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"time":"2026-01-02T03:04:05.000000678Z","tenant":"t","subject":"","worker":"w","image_digest":"sha256:0",` +
		`"source_digest":"6b7b2a2f17768fe366e9bce89706d286ab1e4942cbee6aef849796ca3294a3b7",` +
		`"exit":0,"duration_ns":0,"cache":"hit","accepted":false,"isolation":{"nics":null},"versions":{"hpcc":"v"}}`
	if got := string(raw); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// TestOldHits: hits were once written as accepted, and are read as they stand.
func TestOldHits(t *testing.T) {
	const rest = `,"isolation":{"nics":null},"versions":{"hpcc":"v"}}`
	const start = `{"time":"2026-01-02T03:04:05Z","tenant":"t","subject":"","worker":"w","image_digest":"sha256:0",` +
		`"source_digest":"6b7b2a2f17768fe366e9bce89706d286ab1e4942cbee6aef849796ca3294a3b7","exit":0,"duration_ns":0,"cache":"hit",`
	for how, offered := range map[string]bool{`"accepted":true`: false, `"accepted":false,"offered":true`: true} {
		raw := start + how + rest
		r, err := (&Entry{Raw: []byte(raw)}).Row()
		if err != nil || r.Offered != offered || r.Accepted == offered {
			t.Fatalf("%+v, %v", r, err)
		}
		if again, err := encodeRow(r); err != nil || string(again) != raw {
			t.Errorf("%s, %v", again, err)
		}
	}
}

func TestSourceDigest(t *testing.T) {
	a, b := Input{Path: "/a", Digest: d("a")}, Input{Path: "/b", Digest: d("b")}
	all := map[Key]string{}
	for name, in := range map[string][]Input{
		"none": nil, "a": {a}, "a, b": {a, b}, "other content": {{Path: "/a", Digest: d("b")}}, "other name": {{Path: "/c", Digest: d("a")}},
		"directory": {{Path: "/a"}}, "link": {{Path: "/a", Target: "b"}}, "link elsewhere": {{Path: "/a", Target: "c"}},
		"names run together": {{Path: "/a/b"}}, "names apart": {{Path: "/a"}, {Path: "/b"}},
	} {
		k := SourceDigest(in)
		if other, taken := all[k]; taken {
			t.Errorf("%s and %s have one digest", name, other)
		}
		all[k] = name
	}
	if SourceDigest([]Input{b, a}) != SourceDigest([]Input{a, b}) {
		t.Error("it depends on the order")
	}
}

func TestFitMovesWhatIsLong(t *testing.T) {
	r := someRow()
	for i := range 50_000 {
		r.Inputs = append(r.Inputs, Input{Path: Name(fmt.Sprintf("/hpcc/src/include/%d.h", i)), Digest: d(fmt.Sprint(i))})
	}
	r.Absent = append(r.Absent, Name(strings.Repeat("a", 4000)))
	want, command := r.Reads, r.Command
	blob, err := r.Fit()
	if err != nil {
		t.Fatal(err)
	}
	if digest.Of(blob) != digest.Digest(r.Detail) || len(r.Inputs) > 0 || !reflect.DeepEqual(r.Command, command) {
		t.Errorf("detail %v of a blob of %d bytes", r.Detail, len(blob))
	}
	raw, err := encodeRow(r)
	if err != nil || len(raw) > 4000 {
		t.Fatalf("%d bytes, %v", len(raw), err)
	}
	other := someRow()
	other.Inputs, other.Absent, other.Tenant, other.Time = want.Inputs, want.Absent, "other", someTime.Add(time.Hour)
	if second, err := other.Fit(); err != nil || string(second) != string(blob) {
		t.Errorf("equal jobs have unequal blobs, %v", err)
	}

	back, err := (&Entry{Raw: raw}).Row()
	if err != nil {
		t.Fatal(err)
	}
	blob[len(blob)/2]++
	if err := back.Restore(blob); !errors.Is(err, digest.ErrMismatch) {
		t.Errorf("a changed blob: %v", err)
	}
	blob[len(blob)/2]--
	if err := back.Restore(blob); err != nil {
		t.Fatal(err)
	}
	if len(back.Inputs) != len(want.Inputs) || SourceDigest(want.Inputs) != back.SourceDigest || !reflect.DeepEqual(back.Command, command) || len(back.Absent) != 3 {
		t.Error("the detail is not what it was")
	}
}

// A detail that is its digest's, but not its row's.
func TestRestoreChecksTheRow(t *testing.T) {
	x := detail{Command{Argv: []string{"gcc"}}, Reads{Inputs: []Input{{Path: "/x", Digest: d("x")}}}}
	blob, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	r := Row{Detail: Digest(digest.Of(blob)), SourceDigest: SourceDigest(x.Inputs), Command: x.Command}
	good := r
	if err := good.Restore(blob); err != nil {
		t.Error(err)
	}
	inputs := r
	inputs.SourceDigest = SourceDigest(nil)
	if err := inputs.Restore(blob); err == nil {
		t.Error("other inputs: no error")
	}
	command := r
	command.Command = Command{Argv: []string{"g++"}}
	if err := command.Restore(blob); err == nil {
		t.Error("another command: no error")
	}
}

func TestNoRows(t *testing.T) {
	long := strings.Repeat("x", MaxText+1)
	for name, change := range map[string]func(*Row){
		"no time":             func(r *Row) { r.Time = time.Time{} },
		"no tenant":           func(r *Row) { r.Tenant = "" },
		"no worker":           func(r *Row) { r.Worker = "" },
		"no image":            func(r *Row) { r.Image = "" },
		"cache":               func(r *Row) { r.Cache = "maybe" },
		"long tenant":         func(r *Row) { r.Tenant = long },
		"long error":          func(r *Row) { r.Error = long },
		"no UTF-8":            func(r *Row) { r.Subject = "\xff" },
		"an offered run":      func(r *Row) { r.Accepted, r.Offered = false, true },
		"an accepted hit":     func(r *Row) { r.Cache, r.Offered = Hit, true },
		"role":                func(r *Row) { r.Outputs[0].Role = "\xff" },
		"long role":           func(r *Row) { r.Outputs[0].Role = strings.Repeat("x", maxRole+1) },
		"argument":            func(r *Row) { r.Argv[0] = "\xff" },
		"declared":            func(r *Row) { r.Declared[0].Path = "\xff" },
		"outputs":             func(r *Row) { r.Outputs = make([]Output, maxList+1) },
		"interface":           func(r *Row) { r.Isolation.NICs = []string{long} },
		"digest":              func(r *Row) { r.Isolation.Digests[long] = "" },
		"a long command line": func(r *Row) { r.Argv = append(r.Argv, strings.Repeat("x", MaxRow)) },
		"year":                func(r *Row) { r.Time = time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC) },
	} {
		r := someRow()
		change(r)
		var e *RowError
		if _, err := encodeRow(r); !errors.As(err, &e) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A row that Fit was applied to is never too long, however long its parts are.
func TestFittedRowsFit(t *testing.T) {
	long := strings.Repeat("\x01", MaxText) // six bytes each in JSON
	for _, argv := range []string{strings.Repeat("x", 1<<20), strings.Repeat("x", inlineBytes-2000), "x"} {
		r := someRow()
		r.Argv = []string{argv}
		for _, s := range []*string{
			&r.Tenant, &r.Subject, &r.Worker, &r.VM, &r.Image, &r.Limit, &r.Error,
			&r.Isolation.Runtime, &r.Isolation.Version, &r.Versions.HPCC, &r.Versions.Agent,
		} {
			*s = long
		}
		for len(r.Outputs) < maxList {
			r.Outputs = append(r.Outputs, Output{strings.Repeat("r", maxRole), d("x"), true})
		}
		blob, err := r.Fit()
		if err != nil || (blob != nil) != (len(argv) > inlineBytes) || blob != nil && r.Argv != nil {
			t.Fatal(len(blob), len(r.Argv), err)
		}
		if b, err := encodeRow(r); err != nil {
			t.Errorf("%d bytes, %v", len(b), err)
		}
	}
}

func TestClip(t *testing.T) {
	for _, s := range []string{"", "short", "\xff\xfe", strings.Repeat("ä", MaxText), strings.Repeat("x", MaxText-1) + "ää", strings.Repeat("\xff", 3*MaxText)} {
		got := Clip(s)
		if len(got) > MaxText || !utf8.ValidString(got) || len(s) <= MaxText && utf8.ValidString(s) && got != s || utf8.ValidString(s) && len(s) > MaxText && len(got) < MaxText-3 {
			t.Errorf("%.20q… (%d bytes): %.20q… (%d)", s, len(s), got, len(got))
		}
	}
}
