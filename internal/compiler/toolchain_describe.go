package compiler

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"hpcc.dev/hpcc/internal/digest"
)

// Fact is something that decides a toolchain's identity besides the content of
// its parts.
type Fact struct {
	// Label is "name" (of the driver), "banner", "specs", "resource-dir", ….
	Label  string   `json:"l"`
	Values []string `json:"v"`
}

// Description is what an identity was made from, for people who wonder why it
// is another one.
type Description struct {
	Family  Family `json:"family"`
	Version string `json:"version"`
	Target  string `json:"target"`
	Facts   []Fact `json:"facts"`
	Parts   []Part `json:"-"`

	Stored []partRecord `json:"parts"`
}

func describedName(identity digest.Key) string { return "toolchain/" + identity.String() }

// Remember stores what the toolchain's identity stands for, unless that is
// stored already. Failing to costs an explanation, and nothing else.
func (t *Toolchain) Remember(store MemoStore) {
	name := describedName(t.Identity)
	if _, err := store.Memo(name); err == nil {
		return
	}
	d := Description{Family: t.Family, Version: t.Version, Target: t.Target, Facts: t.facts}
	for _, p := range t.Parts {
		d.Stored = append(d.Stored, partRecord{p.Name, p.Path, p.Digest.String()})
	}
	if b, err := json.Marshal(d); err == nil && len(b) <= recordBytes {
		_ = store.PutMemo(name, b)
	}
}

// Describe returns what Remember stored for an identity.
func Describe(store MemoStore, identity digest.Key) (*Description, error) {
	b, err := store.Memo(describedName(identity))
	if err != nil {
		return nil, err
	}
	var d Description
	if err := json.Unmarshal(b, &d); err != nil || len(d.Stored) > recordItems {
		return nil, fmt.Errorf("the description of toolchain %s is damaged", identity)
	}
	for _, p := range d.Stored {
		sum, err := digest.Parse(p.Digest)
		if err != nil {
			return nil, fmt.Errorf("the description of toolchain %s is damaged", identity)
		}
		d.Parts = append(d.Parts, Part{p.Name, p.Path, sum})
	}
	return &d, nil
}

// String is the toolchain in a few words: "gcc 12.2.0 for x86_64-linux-gnu".
func (d *Description) String() string {
	return d.Family.String() + " " + d.Version + " for " + d.Target
}

// Difference is what differs between two toolchains in one part.
type Difference struct {
	// Part is a part's name, a fact's label, "version" or "target".
	Part string
	// Old and New say what it was and is: for a part its path and the first
	// digits of its digest. "" where it was not or is not.
	Old, New string
}

// Differences lists what differs from old to d, the most telling first. It is
// empty only for equal descriptions.
func (d *Description) Differences(old *Description) []Difference {
	var list []Difference
	add := func(part, was, is string) {
		if was != is {
			list = append(list, Difference{part, was, is})
		}
	}
	add("family", old.Family.String(), d.Family.String())
	add("version", old.Version, d.Version)
	add("target", old.Target, d.Target)
	list = append(list, diffNamed(namedParts(old.Parts), namedParts(d.Parts))...)
	facts := diffNamed(namedFacts(old.Facts), namedFacts(d.Facts))
	if len(list) > 0 {
		// Another build of the compiler says so in its banner and has other
		// built-in specs: what differs with every part is no news.
		facts = slices.DeleteFunc(facts, func(f Difference) bool { return f.Part == "banner" })
	}
	return append(list, facts...)
}

type named struct{ name, value string }

func namedParts(parts []Part) []named {
	list := make([]named, len(parts))
	for i, p := range parts {
		sum := p.Digest.Hex()
		list[i] = named{p.Name, p.Path + " (" + sum[:min(16, len(sum))] + ")"}
	}
	return list
}

func namedFacts(facts []Fact) []named {
	list := make([]named, len(facts))
	for i, f := range facts {
		label := f.Label
		if label == "specs" {
			label = "built-in specs"
		}
		list[i] = named{label, strings.Join(f.Values, "; ")}
	}
	return list
}

// diffNamed compares two lists by name. Names may repeat: a library that two
// programs load from two places.
func diffNamed(old, new []named) []Difference {
	gone, came := slices.Clone(old), slices.Clone(new)
	for _, n := range new {
		if i := slices.Index(gone, n); i >= 0 {
			gone = slices.Delete(gone, i, i+1)
			j := slices.Index(came, n)
			came = slices.Delete(came, j, j+1)
		}
	}
	var list []Difference
	for _, n := range came {
		d := Difference{Part: n.name, New: n.value}
		if i := slices.IndexFunc(gone, func(g named) bool { return g.name == n.name }); i >= 0 {
			d.Old = gone[i].value
			gone = slices.Delete(gone, i, i+1)
		}
		list = append(list, d)
	}
	for _, n := range gone {
		list = append(list, Difference{Part: n.name, Old: n.value})
	}
	return list
}
