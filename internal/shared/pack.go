package shared

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/store"
)

// A pack is one object that holds all of a hit that is not large:
//
//	"hpccpak1"                                   8
//	the signer's public key                     32
//	its Ed25519 signature (signedMessage)       64
//	key of the action                           32
//	digest of the result (resultDigest)         32
//	length of the tenant's name, and the name    1 + n
//	length of the body, little-endian            4
//	body: number of blobs, uvarint
//	      the entry (action.EncodeEntry), a part
//	      each blob, a part
//
// The signature covers tenant, key, the result's digest and the body. Blobs are
// some of the result's outputs, known by their content. The others are objects of
// their own.
const (
	packMagic   = "hpccpak"
	packVersion = '1'
	packFixed   = len(packMagic) + 1 + ed25519.PublicKeySize + ed25519.SignatureSize + 2*sha256.Size + 1
)

// Bounds of packs.
const (
	// maxPacked bounds the blobs of a pack, compressed. Up to 4 MiB one larger
	// answer comes sooner than a second one: a gigabit per second takes 34 ms, a
	// bucket 20 to 100 ms for anything. It is 12 to 20 MB of objects with debug
	// information. What is larger is shared by the results that have it in common.
	maxPacked = 4 << 20
	// maxEntry bounds an entry. A unit of Chromium (24,000 paths) has 3 MB.
	maxEntry = 32 << 20
	// maxOutputs bounds a result's outputs: a compile leaves ten at most.
	maxOutputs = 256
	// maxUnpacked bounds all the blobs of a result, since a hit holds them in
	// memory.
	maxUnpacked = store.MaxObject
	// maxPack bounds a pack as it is read: an entry seldom takes a quarter of its
	// size when it is compressed, and one that does not is not shared.
	maxPack = maxPacked + maxEntry/2
)

// resultDigest names a result by all that a hit delivers of it. How long the compile
// took is left out: two machines that compile one action differ in nothing else.
func resultDigest(r *action.Result) digest.Key {
	k := digest.NewKey("shared result").
		Bytes("stdout", r.Stdout).
		Bytes("stderr", r.Stderr).
		Field("context", r.StdioContext)
	fields := make([]string, 0, 3*len(r.Outputs))
	for _, o := range r.Outputs {
		fields = append(fields, o.Role, o.Digest.String(), flag(o.Executable))
	}
	k.Field("outputs", fields...)
	fields = make([]string, 0, 2*len(r.Dependencies))
	for _, d := range r.Dependencies {
		fields = append(fields, d.Path, flag(d.System))
	}
	return k.Field("dependencies", fields...).Sum()
}

func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// object is what is put under a name.
type object struct {
	name string
	body []byte
}

// packed is a result as it is stored: the blobs that are objects of their own, and
// the pack, which goes after them.
type packed struct {
	key    digest.Key
	result digest.Key
	blobs  []object
	pack   object
}

// seal makes the objects of an entry. blobs hold every output of the result; more
// are left out.
func (s *Signer) seal(tenant string, e *action.Entry, blobs map[digest.Digest][]byte) (*packed, error) {
	key := e.Action.Key()
	entry, err := action.EncodeEntry(key, e)
	if err != nil {
		return nil, err
	}
	outputs, total := outputBlobs(&e.Result)
	if len(entry) > maxEntry || len(e.Result.Outputs) > maxOutputs || total > maxUnpacked {
		return nil, action.ErrTooLarge
	}
	p := &packed{key: key, result: resultDigest(&e.Result), pack: object{name: ResultName(tenant, key)}}
	parts := make(map[digest.Digest][]byte, len(outputs))
	for _, d := range outputs {
		b, ok := blobs[d]
		if !ok || digest.Of(b) != d {
			return nil, fmt.Errorf("output %s: %w", d, digest.ErrMismatch)
		}
		parts[d] = appendPart(nil, b)
	}
	// The smallest first, so that most are in the pack.
	slices.SortStableFunc(outputs, func(x, y digest.Digest) int { return len(parts[x]) - len(parts[y]) })
	n, size := 0, 0
	for n < len(outputs) && size+len(parts[outputs[n]]) <= s.packed {
		size += len(parts[outputs[n]])
		n++
	}
	body := appendPart(binary.AppendUvarint(nil, uint64(n)), entry)
	for _, d := range outputs[:n] {
		body = append(body, parts[d]...)
	}
	for _, d := range outputs[n:] {
		header := append([]byte(magic), boxBlob[:]...)
		p.blobs = append(p.blobs, object{BlobName(tenant, d), append(header, parts[d]...)})
	}
	if p.pack.body = s.sign(tenant, key, p.result, body); len(p.pack.body) > maxPack {
		return nil, action.ErrTooLarge
	}
	return p, nil
}

// outputBlobs are the blobs that a result names, each once, and their size.
func outputBlobs(r *action.Result) (list []digest.Digest, total int64) {
	seen := make(map[digest.Digest]bool, len(r.Outputs))
	for _, o := range r.Outputs {
		if !seen[o.Digest] {
			seen[o.Digest] = true
			list = append(list, o.Digest)
			// Each alone may be any number: the sum must not wrap.
			total = min(total+min(o.Digest.Size(), maxUnpacked+1), maxUnpacked+1)
		}
	}
	return list, total
}

// sign makes a pack of a body.
func (s *Signer) sign(tenant string, key, result digest.Key, body []byte) []byte {
	b := make([]byte, 0, packFixed+len(tenant)+4+len(body))
	b = append(append(b, packMagic...), packVersion)
	b = append(b, s.public[:]...)
	b = append(b, ed25519.Sign(s.key, signedMessage(tenant, key, result, body))...)
	b = append(b, key[:]...)
	b = append(b, result[:]...)
	b = append(b, byte(len(tenant)))
	b = append(b, tenant...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(body)))
	return append(b, body...)
}

// header is what a pack says of itself.
type header struct {
	signer    PublicKey
	signature [ed25519.SignatureSize]byte
	key       digest.Key
	result    digest.Key
	tenant    string
	body      []byte
}

// readHeader takes a pack apart without believing it.
func readHeader(b []byte) (h header, err error) {
	rest, ok := strings.CutPrefix(string(b[:min(len(b), len(packMagic)+1)]), packMagic)
	if !ok || rest == "" {
		return h, reject(ReasonDamaged, "no header")
	}
	if rest[0] != packVersion {
		return h, reject(ReasonVersion, "version %q", rest)
	}
	if len(b) < packFixed {
		return h, reject(ReasonDamaged, "cut short")
	}
	b = b[len(packMagic)+1:]
	b = b[copy(h.signer[:], b):]
	b = b[copy(h.signature[:], b):]
	b = b[copy(h.key[:], b):]
	b = b[copy(h.result[:], b):]
	n := int(b[0])
	if b = b[1:]; n > maxTenant || len(b) < n+4 {
		return h, reject(ReasonDamaged, "cut short")
	}
	h.tenant, b = string(b[:n]), b[n:]
	size := binary.LittleEndian.Uint32(b)
	if h.body = b[4:]; uint64(size) != uint64(len(h.body)) {
		return h, reject(ReasonDamaged, "%d bytes where %d should be", len(h.body), size)
	}
	return h, nil
}

// opened is a pack that is believed.
type opened struct {
	entry  *action.Entry
	result digest.Key
	// blobs are those in the pack; they may share its memory. missing are the other
	// outputs.
	blobs   map[digest.Digest][]byte
	missing []digest.Digest
	signer  Member
}

// openPack reads the pack that is to hold the result of tenant's action of a key.
// All errors are RejectedErrors. The result is returned beside ReasonStranger and
// the like with its signer alone, for people.
func openPack(b []byte, tenant string, key digest.Key, trust *Trust) (*opened, error) {
	h, err := readHeader(b)
	if err != nil {
		return nil, err
	}
	p := &opened{result: h.result, signer: Member{Key: h.signer}}
	if h.signer == (PublicKey{}) || h.signature == [ed25519.SignatureSize]byte{} {
		return p, reject(ReasonUnsigned, "")
	}
	if p.signer, err = trust.Check(h.signer); err != nil {
		return p, err
	}
	if !ed25519.Verify(h.signer[:], signedMessage(h.tenant, h.key, h.result, h.body), h.signature[:]) {
		return p, reject(ReasonTampered, "not what %s signed", p.signer.Name)
	}
	if h.tenant != tenant || h.key != key {
		return p, reject(ReasonMoved, "signed for %s", ResultName(clip(h.tenant), h.key))
	}
	if err := p.unpack(h.body, key); err != nil {
		return p, err
	}
	return p, nil
}

// unpack decodes the body of a pack whose signature is right. That its signer is
// trusted makes it no less bounded: keys are stolen.
func (p *opened) unpack(body []byte, key digest.Key) error {
	n, body, ok := cutUvarint(body)
	if !ok || n > maxOutputs {
		return reject(ReasonDamaged, "too many blobs")
	}
	raw, body, err := cutPart(body, maxEntry)
	if err != nil {
		return err
	}
	e, err := action.DecodeEntry(key, raw)
	if err != nil {
		return reject(ReasonDamaged, "%v", err)
	}
	if own := e.Action.Key(); own != key {
		return reject(ReasonMoved, "it holds action %s", own)
	}
	if resultDigest(&e.Result) != p.result {
		return reject(ReasonTampered, "not the result that was signed")
	}
	outputs, total := outputBlobs(&e.Result)
	if len(e.Result.Outputs) > maxOutputs || total > maxUnpacked {
		return reject(ReasonDamaged, "more outputs than are shared")
	}
	blobs := make(map[digest.Digest][]byte, n)
	for left := total; n > 0; n-- {
		var b []byte
		if b, body, err = cutPart(body, left); err != nil {
			return err
		}
		left -= int64(len(b))
		d := digest.Of(b)
		if !slices.Contains(outputs, d) {
			return reject(ReasonTampered, "a blob that is no output")
		}
		blobs[d] = b
	}
	if len(body) > 0 {
		return reject(ReasonDamaged, "%d bytes too many", len(body))
	}
	for _, d := range outputs {
		if _, ok := blobs[d]; !ok {
			p.missing = append(p.missing, d)
		}
	}
	p.entry, p.blobs = e, blobs
	return nil
}
