package action

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"hpcc.dev/hpcc/internal/digest"
	actionv1 "hpcc.dev/hpcc/proto/hpcc/action/v1"
)

// format is the version of both encodings. Files of another one are misses.
const format = 1

// Bounds on what is decoded: well above what compiles were seen to need (a
// Chromium unit reads some 4,000 files), well below what hurts.
const (
	maxInputs  = 1 << 16
	maxNames   = 1 << 18
	maxOutputs = 64
	maxEncoded = 64 << 20
)

// ErrDamaged says that bytes are not an encoding of this package.
var ErrDamaged = errors.New("damaged cache record")

func damaged(what string) error { return fmt.Errorf("%w: %s", ErrDamaged, what) }

type marshaler interface{ MarshalVT() ([]byte, error) }

// seal encodes a message, preceded by its SHA-256: a damaged file is found
// before any of it is believed.
func seal(m marshaler) []byte {
	b, err := m.MarshalVT()
	if err != nil {
		// The generated code has no way to fail: it writes to memory.
		panic("action: encoding: " + err.Error())
	}
	sum := sha256.Sum256(b)
	return append(sum[:], b...)
}

func unseal(b []byte) ([]byte, error) {
	if len(b) < sha256.Size || len(b) > maxEncoded {
		return nil, damaged("length")
	}
	body := b[sha256.Size:]
	if sha256.Sum256(body) != [sha256.Size]byte(b) {
		return nil, damaged("checksum")
	}
	return body, nil
}

func toProto(d digest.Digest) *actionv1.Digest {
	sum := d.Sum()
	return &actionv1.Digest{Sha256: sum[:], Size: d.Size()}
}

func fromProto(d *actionv1.Digest) (digest.Digest, error) {
	out, err := digest.FromBytes(d.GetSha256(), d.GetSize())
	if err != nil {
		return out, damaged(err.Error())
	}
	return out, nil
}

// EncodeEntry normalises and encodes an entry.
func EncodeEntry(e *Entry) []byte {
	a, r := &e.Action, &e.Result
	a.Normalise()
	pa := &actionv1.Action{
		Toolchain: &actionv1.Digest{Sha256: a.Toolchain[:]},
		Command:   a.Command, Env: a.Env, Cwd: a.Cwd, Absent: a.Absent, Present: a.Present,
	}
	for _, in := range a.Inputs {
		pa.Inputs = append(pa.Inputs, &actionv1.Input{Path: in.Path, Digest: toProto(in.Digest)})
	}
	if !a.Preprocessed.IsZero() {
		pa.Preprocessed = toProto(a.Preprocessed)
	}
	pr := &actionv1.Result{
		Stdout: r.Stdout, Stderr: r.Stderr, CompileNanos: int64(r.CompileTime), StdioContext: r.StdioContext,
	}
	for _, o := range r.Outputs {
		pr.Outputs = append(pr.Outputs, &actionv1.Output{Role: o.Role, Digest: toProto(o.Digest), Executable: o.Executable})
	}
	for _, d := range r.Dependencies {
		pr.Dependencies = append(pr.Dependencies, &actionv1.Dependency{Path: d.Path, System: d.System})
	}
	return seal(&actionv1.Entry{Format: format, Action: pa, Result: pr})
}

// DecodeEntry decodes what EncodeEntry made; anything else is ErrDamaged.
func DecodeEntry(b []byte) (*Entry, error) {
	body, err := unseal(b)
	if err != nil {
		return nil, err
	}
	var pe actionv1.Entry
	if err := pe.UnmarshalVT(body); err != nil || pe.GetFormat() != format {
		return nil, damaged("entry")
	}
	pa, pr := pe.GetAction(), pe.GetResult()
	if pa == nil || pr == nil || len(pa.Inputs) > maxInputs || len(pa.Absent) > maxNames ||
		len(pa.Present) > maxNames || len(pr.Outputs) > maxOutputs || len(pr.Dependencies) > maxInputs {
		return nil, damaged("entry's extent")
	}
	e := &Entry{}
	a, r := &e.Action, &e.Result
	toolchain := pa.GetToolchain().GetSha256()
	if len(toolchain) != len(a.Toolchain) {
		return nil, damaged("toolchain")
	}
	copy(a.Toolchain[:], toolchain)
	a.Command, a.Env, a.Cwd, a.Absent, a.Present = pa.Command, pa.Env, pa.Cwd, pa.Absent, pa.Present
	for _, in := range pa.Inputs {
		d, err := fromProto(in.GetDigest())
		if err != nil {
			return nil, err
		}
		a.Inputs = append(a.Inputs, Input{in.GetPath(), d})
	}
	if pa.Preprocessed != nil {
		if a.Preprocessed, err = fromProto(pa.Preprocessed); err != nil {
			return nil, err
		}
	}
	r.Stdout, r.Stderr, r.CompileTime, r.StdioContext = pr.Stdout, pr.Stderr, time.Duration(pr.CompileNanos), pr.StdioContext
	for _, o := range pr.Outputs {
		d, err := fromProto(o.GetDigest())
		if err != nil {
			return nil, err
		}
		r.Outputs = append(r.Outputs, Output{o.GetRole(), d, o.GetExecutable()})
	}
	for _, d := range pr.Dependencies {
		r.Dependencies = append(r.Dependencies, Dependency{d.GetPath(), d.GetSystem()})
	}
	return e, nil
}

// EncodeManifest encodes a manifest; its paths are stored once each.
func EncodeManifest(m *Manifest) []byte {
	pm := &actionv1.Manifest{Format: format, Preprocess: m.Preprocess}
	index := map[string]uint32{}
	at := func(p string) uint32 {
		i, ok := index[p]
		if !ok {
			i = uint32(len(pm.Paths))
			index[p] = i
			pm.Paths = append(pm.Paths, p)
		}
		return i
	}
	for i := range m.Candidates {
		c := &m.Candidates[i]
		pc := &actionv1.Candidate{Action: c.Action[:], StdioContext: c.StdioContext}
		for _, in := range c.Inputs {
			sum := in.Digest.Sum()
			pc.InputPaths = append(pc.InputPaths, at(in.Path))
			pc.InputSums = append(pc.InputSums, sum[:]...)
			pc.InputSizes = append(pc.InputSizes, in.Digest.Size())
		}
		for _, p := range c.Absent {
			pc.Absent = append(pc.Absent, at(p))
		}
		for _, p := range c.Present {
			pc.Present = append(pc.Present, at(p))
		}
		pm.Candidates = append(pm.Candidates, pc)
	}
	return seal(pm)
}

// DecodeManifest decodes what EncodeManifest made; anything else is
// ErrDamaged.
func DecodeManifest(b []byte) (*Manifest, error) {
	body, err := unseal(b)
	if err != nil {
		return nil, err
	}
	var pm actionv1.Manifest
	if err := pm.UnmarshalVT(body); err != nil || pm.GetFormat() != format {
		return nil, damaged("manifest")
	}
	if len(pm.Candidates) > MaxCandidates || len(pm.Paths) > maxNames {
		return nil, damaged("manifest's extent")
	}
	names := func(indices []uint32) ([]string, error) {
		var out []string
		for _, i := range indices {
			if int64(i) >= int64(len(pm.Paths)) {
				return nil, damaged("path index")
			}
			out = append(out, pm.Paths[i])
		}
		return out, nil
	}
	m := &Manifest{Preprocess: pm.Preprocess}
	for _, pc := range pm.Candidates {
		n := len(pc.InputPaths)
		c := Candidate{StdioContext: pc.StdioContext}
		if len(pc.Action) != len(c.Action) || len(pc.InputSums) != n*sha256.Size || len(pc.InputSizes) != n || n > maxInputs {
			return nil, damaged("candidate")
		}
		copy(c.Action[:], pc.Action)
		paths, err := names(pc.InputPaths)
		if err != nil {
			return nil, err
		}
		for i, p := range paths {
			d, err := digest.FromBytes(pc.InputSums[i*sha256.Size:(i+1)*sha256.Size], pc.InputSizes[i])
			if err != nil {
				return nil, damaged(err.Error())
			}
			c.Inputs = append(c.Inputs, Input{p, d})
		}
		if c.Absent, err = names(pc.Absent); err != nil {
			return nil, err
		}
		if c.Present, err = names(pc.Present); err != nil {
			return nil, err
		}
		m.Candidates = append(m.Candidates, c)
	}
	return m, nil
}
