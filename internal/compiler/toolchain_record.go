package compiler

import (
	"encoding/json"
	"path/filepath"

	"hpcc.dev/hpcc/internal/digest"
)

// Records are private to one cache directory, and the store checks them
// against damage. What is checked here keeps another version's record, or one
// that a user edited, from being more than a reason to ask the compiler again.
const (
	recordVersion = 2
	recordBytes   = 1 << 20
	recordItems   = 4096
)

// toolchainRecord is the stored form of a Toolchain.
type toolchainRecord struct {
	Version  int          `json:"v"`
	Family   Family       `json:"family"`
	Release  string       `json:"release"`
	Target   string       `json:"target"`
	Identity string       `json:"identity"`
	AsPath   string       `json:"as"`
	Sysroot  string       `json:"sysroot"`
	Facts    []Fact       `json:"facts"`
	Parts    []partRecord `json:"parts"`
	Watches  watchList    `json:"watches"`
}

type partRecord struct {
	Name   string `json:"n"`
	Path   string `json:"p"`
	Digest string `json:"d"`
}

func (d *Detector) storeToolchain(name string, t *Toolchain, watches watchList) {
	r := toolchainRecord{
		Version: recordVersion, Family: t.Family, Release: t.Version, Target: t.Target,
		Identity: t.Identity.String(), AsPath: t.AsPath, Sysroot: t.Sysroot, Facts: t.facts, Watches: watches,
	}
	for _, p := range t.Parts {
		r.Parts = append(r.Parts, partRecord{p.Name, p.Path, p.Digest.String()})
	}
	d.storeRecord(name, r)
}

// loadToolchain returns a stored toolchain if all that it rests on still holds.
func (d *Detector) loadToolchain(name string) (*Toolchain, watchList, bool) {
	var r toolchainRecord
	if !d.loadRecord(name, &r) || r.Version != recordVersion || len(r.Parts) > recordItems ||
		r.Family < GCC || r.Family > ClangCL || len(r.Watches) == 0 || !r.Watches.sane() {
		return nil, nil, false
	}
	t := &Toolchain{Family: r.Family, Version: r.Release, Target: r.Target, AsPath: r.AsPath, Sysroot: r.Sysroot, facts: r.Facts}
	var err error
	if t.Identity, err = digest.ParseKey(r.Identity); err != nil {
		return nil, nil, false
	}
	for _, p := range r.Parts {
		sum, err := digest.Parse(p.Digest)
		if err != nil {
			return nil, nil, false
		}
		t.Parts = append(t.Parts, Part{p.Name, p.Path, sum})
	}
	return t, r.Watches, r.Watches.hold()
}

// sane reports whether a list that was read can be a derivation's.
func (w watchList) sane() bool {
	if len(w) > recordItems {
		return false
	}
	for _, x := range w {
		if !filepath.IsAbs(x.Path) {
			return false
		}
	}
	return true
}

func (d *Detector) loadRecord(name string, r any) bool {
	if d.store == nil {
		return false
	}
	b, err := d.store.Memo(name)
	return err == nil && len(b) <= recordBytes && json.Unmarshal(b, r) == nil
}

// storeRecord persists r if it can: a store that is full or read-only costs
// the next process some time, and nothing else.
func (d *Detector) storeRecord(name string, r any) {
	if d.store == nil {
		return
	}
	if b, err := json.Marshal(r); err == nil && len(b) <= recordBytes {
		_ = d.store.PutMemo(name, b)
	}
}
