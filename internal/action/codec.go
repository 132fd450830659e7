package action

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"hpcc.dev/hpcc/internal/digest"
	actionv1 "hpcc.dev/hpcc/proto/hpcc/action/v1"
)

// Tags of the sealed records, versions included: another version's files are
// misses. A change of Action.Key or of the messages' meaning is a new version.
var (
	tagAction   = digest.Tag{'a', 'c', 't', '2'}
	tagResult   = digest.Tag{'r', 'e', 's', '1'}
	tagManifest = digest.Tag{'m', 'a', 'n', '2'}
)

// Bounds on what is encoded, and believed when decoding. A unit of Chromium
// reads 4,000 files and looks for 20,000 in vain: 32 candidates of it are
// 6 MB and 768,000 references to paths.
const (
	maxFields     = 1 << 18 // of one message: inputs, absences, dependencies, …
	maxReferences = 1 << 20 // of all candidates of a manifest to its paths
	maxManifest   = 16 << 20
)

// MaxEntry bounds the bytes of an encoded entry.
const MaxEntry = 2 * (digest.MaxSealed + digest.SealOverhead)

// MaxManifest bounds the bytes of an encoded manifest.
const MaxManifest = maxManifest + digest.SealOverhead

// ErrTooLarge says that an entry or a manifest exceeds what is kept.
var ErrTooLarge = errors.New("too large for the cache")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", digest.ErrDamaged, fmt.Sprintf(format, args...))
}

type message interface {
	MarshalVT() ([]byte, error)
	UnmarshalVT([]byte) error
}

// seal appends a message to dst as a record of at most limit bytes.
func seal(dst []byte, tag digest.Tag, key digest.Key, m message, limit int) ([]byte, error) {
	body, err := m.MarshalVT()
	if err != nil {
		return nil, fmt.Errorf("encoding a cache record: %w", err)
	}
	if len(body) > limit || !withinFields(body) {
		return nil, ErrTooLarge
	}
	return digest.Seal(dst, tag, key, body), nil
}

// unseal decodes the first record of b into m and returns what follows it.
func unseal(b []byte, tag digest.Tag, key digest.Key, m message) (rest []byte, err error) {
	body, rest, err := digest.Unseal(b, tag, key)
	if err != nil {
		return nil, err
	}
	// The decoder makes some 100 bytes of each empty message that two bytes
	// of body can stand for: count before.
	if !withinFields(body) {
		return nil, damaged("malformed, or too many fields")
	}
	if err := m.UnmarshalVT(body); err != nil {
		return nil, damaged("%v", err)
	}
	return rest, nil
}

func toProto(d digest.Digest) *actionv1.Digest {
	sum := d.Sum()
	return &actionv1.Digest{Sha256: sum[:], Size: d.Size()}
}

func fromProto(d *actionv1.Digest) (digest.Digest, error) {
	out, err := digest.FromBytes(d.GetSha256(), d.GetSize())
	if err != nil {
		return out, damaged("%v", err)
	}
	return out, nil
}

// EncodeEntry encodes an entry that is stored under key, which is
// e.Action.Key(). The only error is ErrTooLarge.
//
// The result comes first, in a record of its own: a hit needs nothing else,
// and the action is the larger part.
func EncodeEntry(key digest.Key, e *Entry) ([]byte, error) {
	b, err := seal(nil, tagResult, key, resultToProto(&e.Result), digest.MaxSealed)
	if err != nil {
		return nil, err
	}
	return seal(b, tagAction, key, actionToProto(&e.Action), digest.MaxSealed)
}

// DecodeEntry decodes what EncodeEntry made for the same key; anything else is
// digest.ErrDamaged. It takes the seal's word for it that key is the action's:
// to recompute it costs more than all the rest of a hit's look-up.
func DecodeEntry(key digest.Key, b []byte) (*Entry, error) {
	var pr actionv1.Result
	rest, err := unseal(b, tagResult, key, &pr)
	if err != nil {
		return nil, err
	}
	var pa actionv1.Action
	if rest, err = unseal(rest, tagAction, key, &pa); err != nil {
		return nil, err
	}
	if len(rest) > 0 {
		return nil, damaged("more than an entry")
	}
	var e Entry
	if err := resultFromProto(&e.Result, &pr); err != nil {
		return nil, err
	}
	if err := actionFromProto(&e.Action, &pa); err != nil {
		return nil, err
	}
	return &e, nil
}

// DecodeResult decodes the result alone of what EncodeEntry made, and looks at
// nothing after it.
func DecodeResult(key digest.Key, b []byte) (*Result, error) {
	var pr actionv1.Result
	if _, err := unseal(b, tagResult, key, &pr); err != nil {
		return nil, err
	}
	var r Result
	if err := resultFromProto(&r, &pr); err != nil {
		return nil, err
	}
	return &r, nil
}

func actionToProto(a *Action) *actionv1.Action {
	pa := &actionv1.Action{
		Toolchain: &actionv1.Digest{Sha256: a.Toolchain[:]},
		Command:   a.Command, Env: a.Env, Cwd: a.Cwd, Absent: a.Absent, Present: a.Present, Chain: a.Chain, Same: flat(a.Same),
		Links: flat(a.Links),
	}
	for _, in := range a.Inputs {
		pa.Inputs = append(pa.Inputs, &actionv1.Input{Path: in.Path, Digest: toProto(in.Digest)})
	}
	if !a.Preprocessed.IsZero() {
		pa.Preprocessed = toProto(a.Preprocessed)
	}
	return pa
}

func actionFromProto(a *Action, pa *actionv1.Action) (err error) {
	toolchain, err := fromProto(pa.GetToolchain())
	if err != nil {
		return err
	}
	*a = Action{
		Toolchain: toolchain.Sum(),
		Command:   pa.Command, Env: pa.Env, Cwd: pa.Cwd, Absent: pa.Absent, Present: pa.Present, Chain: pa.Chain,
	}
	if a.Same, err = pairs(pa.Same); err != nil {
		return err
	}
	if a.Links, err = pairs(pa.Links); err != nil {
		return err
	}
	if len(pa.Inputs) > 0 {
		a.Inputs = make([]Input, len(pa.Inputs))
	}
	for i, in := range pa.Inputs {
		a.Inputs[i].Path = in.GetPath()
		if a.Inputs[i].Digest, err = fromProto(in.GetDigest()); err != nil {
			return err
		}
	}
	if pa.Preprocessed != nil {
		if a.Preprocessed, err = fromProto(pa.Preprocessed); err != nil {
			return err
		}
	}
	return nil
}

// pairs is the inverse of flat.
func pairs(paths []string) ([]Pair, error) {
	if len(paths)%2 != 0 {
		return nil, damaged("half a pair")
	}
	var list []Pair
	for i := 0; i < len(paths); i += 2 {
		list = append(list, Pair{paths[i], paths[i+1]})
	}
	return list, nil
}

func resultToProto(r *Result) *actionv1.Result {
	pr := &actionv1.Result{
		Stdout: r.Stdout, Stderr: r.Stderr, CompileNanos: int64(r.CompileTime), StdioContext: r.StdioContext,
	}
	for _, o := range r.Outputs {
		pr.Outputs = append(pr.Outputs, &actionv1.Output{Role: o.Role, Digest: toProto(o.Digest), Executable: o.Executable})
	}
	for _, d := range r.Dependencies {
		pr.Dependencies = append(pr.Dependencies, &actionv1.Dependency{Path: d.Path, System: d.System})
	}
	return pr
}

func resultFromProto(r *Result, pr *actionv1.Result) (err error) {
	*r = Result{
		Stdout: pr.Stdout, Stderr: pr.Stderr, CompileTime: time.Duration(pr.CompileNanos), StdioContext: pr.StdioContext,
	}
	if r.CompileTime < 0 {
		return damaged("negative time")
	}
	for _, po := range pr.Outputs {
		o := Output{Role: po.GetRole(), Executable: po.GetExecutable()}
		if o.Digest, err = fromProto(po.GetDigest()); err != nil {
			return err
		}
		r.Outputs = append(r.Outputs, o)
	}
	if len(pr.Dependencies) > 0 {
		r.Dependencies = make([]Dependency, len(pr.Dependencies))
	}
	for i, d := range pr.Dependencies {
		r.Dependencies[i] = Dependency{d.GetPath(), d.GetSystem()}
	}
	return nil
}

// EncodeManifest encodes a manifest that is stored under key. Of one that
// exceeds MaxCandidates, or its size, the oldest candidates are left out; the
// error is ErrTooLarge if not even the newest fits.
func EncodeManifest(key digest.Key, m *Manifest) ([]byte, error) {
	n := min(len(m.Candidates), MaxCandidates)
	for {
		b, err := encodeManifest(key, m.Preprocess, m.Candidates[:n])
		if err == nil || n <= 1 {
			return b, err
		}
		n /= 2
	}
}

func encodeManifest(key digest.Key, preprocess string, candidates []Candidate) ([]byte, error) {
	pm := &actionv1.Manifest{Preprocess: preprocess}
	table := map[string]uint32{}
	references := 0
	refer := func(path string) uint32 {
		references++
		i, ok := table[path]
		if !ok {
			i = uint32(len(pm.Paths))
			table[path] = i
			pm.Paths = append(pm.Paths, path)
		}
		return i
	}
	for i := range candidates {
		c := &candidates[i]
		pc := &actionv1.Candidate{Action: c.Action[:], StdioContext: c.StdioContext}
		for _, in := range c.Inputs {
			sum := in.Digest.Sum()
			pc.InputPaths = append(pc.InputPaths, refer(in.Path))
			pc.InputSums = append(pc.InputSums, sum[:]...)
			pc.InputSizes = append(pc.InputSizes, in.Digest.Size())
		}
		for _, p := range c.Absent {
			pc.Absent = append(pc.Absent, refer(p))
		}
		for _, p := range c.Present {
			pc.Present = append(pc.Present, refer(p))
		}
		for _, p := range c.Chain {
			pc.Chain = append(pc.Chain, refer(p))
		}
		for _, p := range flat(c.Same) {
			pc.Same = append(pc.Same, refer(p))
		}
		for _, p := range flat(c.Links) {
			pc.Links = append(pc.Links, refer(p))
		}
		pm.Candidates = append(pm.Candidates, pc)
	}
	if references > maxReferences {
		return nil, ErrTooLarge
	}
	return seal(nil, tagManifest, key, pm, maxManifest)
}

// DecodeManifest decodes what EncodeManifest made for the same key; anything
// else is digest.ErrDamaged. Paths of several candidates share memory.
func DecodeManifest(key digest.Key, b []byte) (*Manifest, error) {
	if len(b) > MaxManifest {
		return nil, damaged("manifest of %d bytes", len(b))
	}
	var pm actionv1.Manifest
	rest, err := unseal(b, tagManifest, key, &pm)
	if err != nil {
		return nil, err
	}
	references := 0
	for _, pc := range pm.Candidates {
		references += len(pc.GetInputPaths()) + len(pc.GetAbsent()) + len(pc.GetPresent()) + len(pc.GetChain()) + len(pc.GetSame()) + len(pc.GetLinks())
	}
	if len(rest) > 0 || len(pm.Candidates) > MaxCandidates || references > maxReferences {
		return nil, damaged("more than a manifest")
	}
	m := &Manifest{Preprocess: pm.Preprocess}
	if len(pm.Candidates) > 0 {
		m.Candidates = make([]Candidate, len(pm.Candidates))
	}
	for i, pc := range pm.Candidates {
		if err := candidateFromProto(&m.Candidates[i], pc, pm.Paths); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func candidateFromProto(c *Candidate, pc *actionv1.Candidate, table []string) error {
	n := len(pc.InputPaths)
	if len(pc.Action) != len(c.Action) || len(pc.InputSums) != n*sha256.Size || len(pc.InputSizes) != n {
		return damaged("a candidate's fields do not match")
	}
	*c = Candidate{Action: digest.Key(pc.Action), StdioContext: pc.StdioContext}
	paths, err := lookUp(table, pc.InputPaths)
	if err != nil {
		return err
	}
	if n > 0 {
		c.Inputs = make([]Input, n)
	}
	for i, p := range paths {
		d, err := digest.New([sha256.Size]byte(pc.InputSums[i*sha256.Size:]), pc.InputSizes[i])
		if err != nil {
			return damaged("%v", err)
		}
		c.Inputs[i] = Input{p, d}
	}
	if c.Absent, err = lookUp(table, pc.Absent); err != nil {
		return err
	}
	if c.Present, err = lookUp(table, pc.Present); err != nil {
		return err
	}
	if c.Chain, err = lookUp(table, pc.Chain); err != nil {
		return err
	}
	same, err := lookUp(table, pc.Same)
	if err != nil {
		return err
	}
	if c.Same, err = pairs(same); err != nil {
		return err
	}
	links, err := lookUp(table, pc.Links)
	if err != nil {
		return err
	}
	c.Links, err = pairs(links)
	return err
}

func lookUp(table []string, indices []uint32) ([]string, error) {
	if len(indices) == 0 {
		return nil, nil
	}
	paths := make([]string, len(indices))
	for i, x := range indices {
		if uint64(x) >= uint64(len(table)) {
			return nil, damaged("path %d of %d", x, len(table))
		}
		paths[i] = table[x]
	}
	return paths, nil
}

// withinFields reports whether an encoded message is well-formed as far as its
// own fields go, those of the messages in it not looked at, and has at most
// maxFields of them.
func withinFields(b []byte) bool {
	for n := 0; len(b) > 0; n++ {
		tag, w := binary.Uvarint(b)
		if w <= 0 || n == maxFields {
			return false
		}
		b = b[w:]
		var skip uint64
		switch tag & 7 {
		case 0: // varint
			_, w := binary.Uvarint(b)
			if w <= 0 {
				return false
			}
			skip = uint64(w)
		case 2: // length and bytes
			l, w := binary.Uvarint(b)
			if w <= 0 || l > uint64(len(b)) {
				return false
			}
			skip = uint64(w) + l
		default: // our messages have none of the other kinds
			return false
		}
		if skip > uint64(len(b)) {
			return false
		}
		b = b[skip:]
	}
	return true
}
