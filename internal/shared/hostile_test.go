package shared

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"log/slog"
	"testing"

	"github.com/klauspost/compress/zstd"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/store"
)

// bomb is a frame of zstd that holds size zeros, or says that it holds as many as
// claimed.
func bomb(t testing.TB, size int) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	return e.EncodeAll(make([]byte, size), nil)
}

// TestHostileStore puts into a store what somebody with every right to it might,
// and reads: each time a miss under the right reason, and nothing else.
func TestHostileStore(t *testing.T) {
	const largest = 4000
	alice, stranger, fired, client := testSigner(t, "alice"), testSigner(t, "stranger"), testSigner(t, "fired"), testSigner(t, "client")
	for _, s := range []*Signer{alice, stranger, fired, client} {
		s.packed = largest
	}
	trust := trustOf(t, true, alice.Line(RoleWorker), fired.Line(RoleWorker)+" revoked", client.Line(RoleClient))

	entry, blobs := testEntry("a.c", []byte("object"), noise(largest+1000, 7))
	large := digest.Of(noise(largest+1000, 7))
	key, name := entry.Action.Key(), ResultName("default", entry.Action.Key())
	sealed := func(s *Signer, tenant string) *packed {
		p, err := s.seal(tenant, entry, blobs)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	good := sealed(alice, "default")
	h, err := readHeader(good.pack.body)
	if err != nil {
		t.Fatal(err)
	}
	other, otherBlobs := testEntry("b.c", []byte("other object"))
	otherPack, err := alice.seal("default", other, otherBlobs)
	if err != nil {
		t.Fatal(err)
	}
	// resealed is a pack of alice's with another body: she is trusted, and careless or
	// robbed.
	resealed := func(body []byte) func(store.Store) {
		return func(s store.Store) { put(t, s, name, alice.sign("default", key, good.result, body)) }
	}
	entryPart := func(e *action.Entry) []byte {
		b, err := action.EncodeEntry(key, e)
		if err != nil {
			t.Fatal(err)
		}
		return appendPart(nil, b)
	}
	flipped := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[at] ^= 1
		return b
	}

	bombed := bomb(t, 4*maxEntry)

	type hostile struct {
		name   string
		reason Reason
		at     string // the object that is blamed; "" is the pack
		do     func(store.Store)
	}
	cases := []hostile{
		{"empty", ReasonDamaged, "", func(s store.Store) { put(t, s, name, nil) }},
		{"text", ReasonDamaged, "", func(s store.Store) { put(t, s, name, []byte("<Error>AccessDenied</Error>")) }},
		{"truncated", ReasonDamaged, "", func(s store.Store) { put(t, s, name, good.pack.body[:len(good.pack.body)-1]) }},
		{"cut in the header", ReasonDamaged, "", func(s store.Store) { put(t, s, name, good.pack.body[:packFixed-3]) }},
		{"longer", ReasonDamaged, "", func(s store.Store) { put(t, s, name, append(bytes.Clone(good.pack.body), 0)) }},
		{"too large", ReasonDamaged, "", func(s store.Store) { put(t, s, name, make([]byte, maxPack+1)) }},
		{"another version", ReasonVersion, "", func(s store.Store) { put(t, s, name, flipped(good.pack.body, len(packMagic))) }},
		{"unsigned", ReasonUnsigned, "", func(s store.Store) {
			b := bytes.Clone(good.pack.body)
			clear(b[8 : 8+ed25519.PublicKeySize+ed25519.SignatureSize])
			put(t, s, name, b)
		}},
		{"signed by nobody", ReasonUnsigned, "", func(s store.Store) {
			b := bytes.Clone(good.pack.body)
			clear(b[8+ed25519.PublicKeySize:][:ed25519.SignatureSize])
			put(t, s, name, b)
		}},
		{"a stranger's", ReasonStranger, "", func(s store.Store) { put(t, s, name, sealed(stranger, "default").pack.body) }},
		{"a client's", ReasonStranger, "", func(s store.Store) { put(t, s, name, sealed(client, "default").pack.body) }},
		{"a revoked signer's", ReasonRevoked, "", func(s store.Store) { put(t, s, name, sealed(fired, "default").pack.body) }},
		{"a stranger's under a trusted name", ReasonTampered, "", func(s store.Store) {
			b := sealed(stranger, "default").pack.body
			copy(b[8:], alice.public[:])
			put(t, s, name, b)
		}},
		{"tampered key", ReasonTampered, "", func(s store.Store) { put(t, s, name, flipped(good.pack.body, 8+32+64)) }},
		{"tampered result digest", ReasonTampered, "", func(s store.Store) { put(t, s, name, flipped(good.pack.body, 8+32+64+32)) }},
		{"tampered tenant", ReasonTampered, "", func(s store.Store) { put(t, s, name, flipped(good.pack.body, packFixed)) }},
		{"tampered body", ReasonTampered, "", func(s store.Store) { put(t, s, name, flipped(good.pack.body, len(good.pack.body)-1)) }},
		{"tampered signature", ReasonTampered, "", func(s store.Store) { put(t, s, name, flipped(good.pack.body, 8+32+5)) }},
		{"moved from another key", ReasonMoved, "", func(s store.Store) { put(t, s, name, otherPack.pack.body) }},
		{"moved from another tenant", ReasonMoved, "", func(s store.Store) { put(t, s, name, sealed(alice, "other").pack.body) }},
		{"another action under the key", ReasonMoved, "", func(s store.Store) {
			p, err := alice.seal("default", other, otherBlobs)
			if err != nil {
				t.Fatal(err)
			}
			b, err := action.EncodeEntry(key, other)
			if err != nil {
				t.Fatal(err)
			}
			put(t, s, name, alice.sign("default", key, p.result, append([]byte{0}, appendPart(nil, b)...)))
		}},
		{"another result than was signed", ReasonTampered, "", func(s store.Store) {
			e := *entry
			e.Result.Stderr = []byte("nothing to see\n")
			resealed(append([]byte{0}, entryPart(&e)...))(s)
		}},
		{"a blob of nobody's", ReasonTampered, "", resealed(appendPart(append([]byte{1}, entryPart(entry)...), []byte("not an output")))},
		{"no body", ReasonDamaged, "", resealed(nil)},
		{"no entry", ReasonDamaged, "", resealed([]byte{0})},
		{"many blobs", ReasonDamaged, "", resealed(binary.AppendUvarint(nil, 1<<40))},
		{"fewer blobs than said", ReasonDamaged, "", resealed(append([]byte{2}, h.body[1:]...))},
		{"more blobs than said", ReasonDamaged, "", resealed(append([]byte{0}, h.body[1:]...))},
		{"a bomb for an entry", ReasonDamaged, "", resealed(appendFrame([]byte{0}, methodZstd, maxEntry, bombed))},
		{"a bomb larger than an entry", ReasonDamaged, "", resealed(appendFrame([]byte{0}, methodZstd, 4*maxEntry, bombed))},
		{"a bomb for a blob", ReasonDamaged, "", resealed(appendFrame(append([]byte{1}, entryPart(entry)...), methodZstd, 1<<30, bombed))},
		{"an unknown compression", ReasonDamaged, "", resealed(appendFrame([]byte{0}, 9, 3, []byte("abc")))},
		{"a missing blob", ReasonIncomplete, BlobName("default", large), func(s store.Store) {
			if err := s.Delete(t.Context(), BlobName("default", large)); err != nil {
				t.Fatal(err)
			}
		}},
		{"a wrong blob", ReasonTampered, BlobName("default", large), func(s store.Store) {
			put(t, s, BlobName("default", large), box(boxBlob, noise(largest+1000, 8)))
		}},
		{"a blob of another kind", ReasonDamaged, BlobName("default", large), func(s store.Store) {
			put(t, s, BlobName("default", large), box(boxManifest, noise(largest+1000, 7)))
		}},
		{"a short blob", ReasonTampered, BlobName("default", large), func(s store.Store) {
			put(t, s, BlobName("default", large), box(boxBlob, []byte("short")))
		}},
		{"a blob too large", ReasonDamaged, BlobName("default", large), func(s store.Store) {
			put(t, s, BlobName("default", large), make([]byte, largest+2000))
		}},
		{"a bomb for a large blob", ReasonDamaged, BlobName("default", large), func(s store.Store) {
			put(t, s, BlobName("default", large), appendFrame(append([]byte(magic), boxBlob[:]...), methodZstd, int(large.Size()), bomb(t, maxEntry)))
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			far := store.NewMemory(0)
			for _, b := range good.blobs {
				put(t, far, b.name, b.body)
			}
			put(t, far, name, good.pack.body)
			seen := &records{}
			cache := newCache(t, Options{
				Tiers: tierOf(far), Trust: trust, Log: slog.New(seen), MemoryBytes: 64 << 20,
			})
			before := newCache(t, Options{Tiers: tierOf(far), Trust: trust})
			same(t, before.Result(withPatience(t), key), entry, blobs)

			c.do(far)
			for range 3 {
				if f := cache.Result(withPatience(t), key); f != nil {
					t.Fatalf("a hit: %+v", f.Entry)
				}
			}
			st := cache.Stats().Tiers[0]
			if len(st.Rejected) != 1 || st.Rejected[c.reason] != 3 || st.Misses != 3 || st.Hits != 0 {
				t.Errorf("counted %+v, want %s", st, c.reason)
			}
			at := c.at
			if at == "" {
				at = name
			}
			if n := seen.of("shared-cache-rejected reason=" + string(c.reason) + " name=" + at); n != 1 || len(seen.list) != 1 {
				t.Errorf("logged %d times: %q", n, seen.list)
			}
			x, err := VerifyObject(withPatience(t), far, at, trust)
			if reasonOf(err) != c.reason && c.reason != ReasonIncomplete {
				t.Errorf("verifying says %+v, %v", x, err)
			}

			// The next tier is asked, and what is right there is a hit.
			near := far
			good2 := store.NewMemory(0)
			for _, b := range append(good.blobs, good.pack) {
				put(t, good2, b.name, b.body)
			}
			two := newCache(t, Options{Trust: trust, Tiers: []Tier{{Name: "near", Store: near}, {Name: "far", Store: good2}}})
			f := two.Result(withPatience(t), key)
			same(t, f, entry, blobs)
			if f.Tier != "far" || f.Signer != "alice" {
				t.Errorf("from %s, by %s", f.Tier, f.Signer)
			}

			// Who has the right result puts it in its place.
			writer := newCache(t, Options{Tiers: tierOf(far), Signer: alice, Trust: trust})
			writer.Result(withPatience(t), key)
			writer.Put(digest.NewKey("m").Sum(), "", entry, blobs)
			drain(t, writer)
			if c.reason == ReasonVersion {
				if s := writer.Stats().Tiers[0]; s.Dropped != 1 || cache.Result(withPatience(t), key) != nil {
					t.Errorf("a newer pack was written over: %+v", s)
				}
				return
			}
			same(t, cache.Result(withPatience(t), key), entry, blobs)
			if x, err := VerifyObject(withPatience(t), far, name, trust); err != nil || x.Signer != "alice" || x.Role != RoleWorker || len(x.Outputs) != 2 {
				t.Errorf("verifying says %+v, %v", x, err)
			}
			if s := writer.Stats().Tiers[0]; c.at == "" && s.Replaced != 1 || s.Dropped != 0 || s.Different != 0 {
				t.Errorf("the writer counted %+v", s)
			}
		})
	}
}

// Whoever may write to a store can put any manifest there: it is a hint at best,
// and makes place for a right one.
func TestHostileManifest(t *testing.T) {
	key := digest.NewKey("m").Sum()
	name := ManifestName("default", key)
	entry, blobs := testEntry("a.c", []byte("object"))
	m := &action.Manifest{Candidates: []action.Candidate{entry.Action.Candidate()}}
	right, err := sealManifest(key, m)
	if err != nil {
		t.Fatal(err)
	}
	moved, err := sealManifest(digest.NewKey("other").Sum(), m)
	if err != nil {
		t.Fatal(err)
	}
	bombed := bomb(t, 8*action.MaxManifest)
	head := append([]byte(magic), boxManifest[:]...)
	for what, body := range map[string][]byte{
		"empty": nil, "text": []byte("<Error/>"), "truncated": right[:len(right)-1], "moved": moved,
		"too large":           make([]byte, maxManifestObject+1),
		"a bomb":              appendFrame(head, methodZstd, action.MaxManifest, bombed),
		"a bomb that says so": appendFrame(head, methodZstd, 8*action.MaxManifest, bombed),
		"not a record":        box(boxManifest, []byte("not a record")),
	} {
		t.Run(what, func(t *testing.T) {
			far := store.NewMemory(0)
			put(t, far, name, body)
			c := newCache(t, Options{Tiers: tierOf(far), Signer: testSigner(t, "alice")})
			if got := known(withPatience(t), c, key); got != nil {
				t.Errorf("a manifest: %+v", got)
			}
			if s := c.Stats().Tiers[0]; s.Rejected[ReasonDamaged] != 1 || s.ManifestMisses != 1 {
				t.Errorf("counted %+v", s)
			}
			if _, err := VerifyObject(withPatience(t), far, name, nil); reasonOf(err) != ReasonDamaged {
				t.Errorf("verifying says %v", err)
			}
			c.Put(key, "", entry, blobs)
			drain(t, c)
			if got := known(withPatience(t), c, key); got == nil || len(got.Candidates) != 1 || got.Candidates[0].Action != entry.Action.Key() {
				t.Errorf("after a write: %+v", got)
			}
			if x, err := VerifyObject(withPatience(t), far, name, nil); err != nil || x.Candidates != 1 {
				t.Errorf("verifying says %+v, %v", x, err)
			}
		})
	}
}

func TestVerifyForeign(t *testing.T) {
	for _, name := range []string{"default/usage", "default/lock/evict", "x", "default/result/ab/abcd"} {
		if _, err := VerifyObject(t.Context(), store.NewMemory(0), name, nil); !errors.Is(err, ErrForeign) {
			t.Errorf("%s: %v", name, err)
		}
	}
	d := digest.Of([]byte("b"))
	if _, err := VerifyObject(t.Context(), store.NewMemory(0), BlobName("default", d), nil); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

// FuzzPack looks for bytes that are believed, and for those that are none and cost
// more than they should.
func FuzzPack(f *testing.F) {
	s := testSigner(f, "alice")
	trust := (*Trust)(nil).With(s)
	for _, outputs := range [][][]byte{nil, {[]byte("object")}, {bytes.Repeat([]byte("text "), 1000), {}}} {
		e, blobs := testEntry("a.c", outputs...)
		p, err := s.seal("default", e, blobs)
		if err != nil {
			f.Fatal(err)
		}
		h, err := readHeader(p.pack.body)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p.pack.body, h.body)
	}
	e, _ := testEntry("a.c")
	key := e.Action.Key()
	f.Fuzz(func(t *testing.T, pack, body []byte) {
		if p, err := openPack(pack, "default", key, trust); err != nil && reasonOf(err) == "" {
			t.Errorf("no reason: %v", err)
		} else if err == nil && p.entry.Action.Key() != key {
			t.Error("another action")
		}
		// As if alice had signed it.
		p := &opened{result: resultDigest(&e.Result)}
		if err := p.unpack(body, key); err != nil && reasonOf(err) == "" {
			t.Errorf("no reason: %v", err)
		} else if err == nil && (p.entry.Action.Key() != key || resultDigest(&p.entry.Result) != p.result) {
			t.Error("another action or result")
		}
	})
}

func FuzzUnbox(f *testing.F) {
	f.Add(box(boxBlob, nil))
	f.Add(box(boxBlob, []byte("raw")))
	f.Add(box(boxBlob, bytes.Repeat([]byte("compressed "), 1000)))
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 1 << 20
		raw, err := unbox(boxBlob, b, limit)
		if err != nil && reasonOf(err) == "" || len(raw) > limit {
			t.Errorf("%d bytes, %v", len(raw), err)
		}
		if err == nil {
			if again, err := unbox(boxBlob, box(boxBlob, raw), limit); err != nil || !bytes.Equal(again, raw) {
				t.Errorf("boxed again: %v", err)
			}
		}
	})
}

func FuzzManifest(f *testing.F) {
	key := digest.NewKey("m").Sum()
	e, _ := testEntry("a.c")
	b, err := sealManifest(key, &action.Manifest{Preprocess: "source", Candidates: []action.Candidate{e.Action.Candidate()}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := openManifest(key, b); err != nil && reasonOf(err) == "" {
			t.Errorf("no reason: %v", err)
		}
	})
}
