package cache

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
)

// MaxMemo is the largest memo that is kept, in bytes.
const MaxMemo = 4 << 20

// tagMemo marks the sealed records that hold memos.
var tagMemo = digest.Tag{'m', 'e', 'm', '1'}

// read returns a file's bytes and stamp.
func (c *Disk) read(path string, limit int64) ([]byte, Stamp, error) {
	f, s, err := c.open(path, limit)
	if err != nil {
		return nil, Stamp{}, err
	}
	defer f.Close()
	b := make([]byte, s.size)
	n, err := io.ReadFull(f, b)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, Stamp{}, err
	}
	return b[:n], s, nil // too short is for the decoder to find
}

// record reads and decodes a sealed record. One that does not decode is
// removed and not found.
func record[T any](c *Disk, path string, limit int64, key digest.Key, decode func(digest.Key, []byte) (T, error)) (v T, s Stamp, err error) {
	b, s, err := c.read(path, limit)
	if err != nil {
		return v, Stamp{}, err
	}
	if v, err = decode(key, b); err != nil {
		c.discard(path, s)
		return v, Stamp{}, ErrNotFound
	}
	return v, s, nil
}

// Entry returns the action and the result stored under a key.
func (c *Disk) Entry(key digest.Key) (*action.Entry, error) {
	e, _, err := record(c, c.path(KindEntry, key), action.MaxEntry, key, action.DecodeEntry)
	return e, err
}

// Result returns the result alone of an entry: all that a hit needs, for a
// fraction of the time and memory.
func (c *Disk) Result(key digest.Key) (*action.Result, error) {
	r, _, err := record(c, c.path(KindEntry, key), action.MaxEntry, key, action.DecodeResult)
	return r, err
}

// PutEntry stores an entry under its action's key, in place of one that is
// there. Its blobs must have been put before, so that whoever finds the entry
// finds them.
func (c *Disk) PutEntry(key digest.Key, e *action.Entry) error {
	if own := e.Action.Key(); own != key {
		return fmt.Errorf("storing an entry: its key is %s, not %s", own, key)
	}
	b, err := action.EncodeEntry(key, e)
	if err != nil {
		return fmt.Errorf("storing an entry: %w", err)
	}
	path := c.path(KindEntry, key)
	grown, entries := int64(len(b)), int64(1)
	if fi, err := os.Stat(path); err == nil {
		grown, entries = grown-fi.Size(), 0
	}
	if err := c.write(path, b); err != nil {
		return fmt.Errorf("storing an entry: %w", err)
	}
	c.account(grown, entries)
	return nil
}

// Manifest returns the manifest stored under a key, and its stamp.
func (c *Disk) Manifest(key digest.Key) (*action.Manifest, Stamp, error) {
	return record(c, c.path(KindManifest, key), action.MaxManifest, key, action.DecodeManifest)
}

// ManifestStamp returns the stamp of the manifest stored under a key. While it
// is the same, so is the manifest; a renewed time of last use changes it too.
func (c *Disk) ManifestStamp(key digest.Key) (Stamp, error) {
	fi, err := os.Stat(c.path(KindManifest, key))
	if errors.Is(err, os.ErrNotExist) {
		return Stamp{}, ErrNotFound
	}
	if err != nil {
		return Stamp{}, err
	}
	return stampOf(fi), nil
}

// UpdateManifest changes the manifest stored under a key, or an empty one if
// there is none, and returns the stamp of what it stored. No other process
// changes it meanwhile. update is called at most once; after its error nothing
// is stored and the error returned.
func (c *Disk) UpdateManifest(key digest.Key, update func(*action.Manifest) error) (Stamp, error) {
	unlock, err := c.lockManifest(key, lockPatience)
	if err != nil {
		return Stamp{}, fmt.Errorf("updating a manifest: %w", err)
	}
	defer unlock()
	path := c.path(KindManifest, key)
	m := &action.Manifest{}
	before, s, err := c.read(path, action.MaxManifest)
	switch {
	case err == nil:
		if m, err = action.DecodeManifest(key, before); err != nil {
			c.discard(path, s)
			before, m = nil, &action.Manifest{}
		}
	case !errors.Is(err, ErrNotFound):
		return Stamp{}, fmt.Errorf("updating a manifest: %w", err)
	}
	if err := update(m); err != nil {
		return Stamp{}, err
	}
	after, err := action.EncodeManifest(key, m)
	if err != nil {
		return Stamp{}, fmt.Errorf("updating a manifest: %w", err)
	}
	if bytes.Equal(before, after) {
		return s, nil
	}
	if err := c.write(path, after); err != nil {
		return Stamp{}, fmt.Errorf("updating a manifest: %w", err)
	}
	c.account(int64(len(after)-len(before)), 0)
	// Still under the lock: the stamp is that of what was just written, or, if
	// it has been evicted since, nobody's.
	if s, err = c.ManifestStamp(key); errors.Is(err, ErrNotFound) {
		return Stamp{}, nil
	}
	return s, err
}

// Remove removes an entry or a manifest that turned out to be wrong. That it
// does not exist is no error.
func (c *Disk) Remove(k Kind, key digest.Key) error {
	if k != KindEntry && k != KindManifest {
		return fmt.Errorf("cache: a %s has no key to remove it by", k)
	}
	path := c.path(k, key)
	fi, err := os.Lstat(path)
	if err == nil {
		err = os.Remove(path)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("removing a %s: %w", k, classify(err))
	}
	entries := int64(0)
	if k == KindEntry {
		entries = -1
	}
	c.account(-fi.Size(), entries)
	return nil
}

// Touch says that a hit made use of a manifest, an entry and its result's
// blobs. Reading any of them says so by itself: Touch is for hits that are
// answered from memory. It costs a stat for each file, and a write for those
// whose time of last use is an hour old.
func (c *Disk) Touch(manifest, entry digest.Key, r *action.Result) {
	paths := []string{c.path(KindManifest, manifest), c.path(KindEntry, entry)}
	for _, o := range r.Outputs {
		path := c.blobPath(o.Digest)
		paths = append(paths, path+suffix, path)
	}
	for _, p := range paths {
		if fi, err := os.Stat(p); err == nil {
			touch(p, fi)
		}
	}
}

// Memo returns the bytes stored under a name; PutMemo says which names there
// are.
func (c *Disk) Memo(name string) ([]byte, error) {
	path, err := c.memoPath(name)
	if err != nil {
		return nil, err
	}
	b, _, err := record(c, path, MaxMemo+digest.SealOverhead, memoKey(name), decodeMemo)
	return b, err
}

func decodeMemo(key digest.Key, b []byte) ([]byte, error) {
	body, rest, err := digest.Unseal(b, tagMemo, key)
	if err == nil && len(rest) > 0 {
		err = digest.ErrDamaged
	}
	return body, err
}

// PutMemo stores at most MaxMemo bytes under a name, which is a kind of
// lower-case letters, a slash and a key in hex: "compiler/abcd…". The last
// writer wins.
func (c *Disk) PutMemo(name string, b []byte) error {
	path, err := c.memoPath(name)
	if err != nil {
		return err
	}
	if len(b) > MaxMemo {
		return fmt.Errorf("memo of %d bytes: %w", len(b), ErrTooLarge)
	}
	sealed := digest.Seal(nil, tagMemo, memoKey(name), b)
	grown := int64(len(sealed))
	if fi, err := os.Stat(path); err == nil {
		grown -= fi.Size()
	}
	if err := c.write(path, sealed); err != nil {
		return fmt.Errorf("storing a memo: %w", err)
	}
	c.account(grown, 0)
	return nil
}

// memoKey is the key that a memo is sealed under, its kind included.
func memoKey(name string) digest.Key { return digest.NewKey("memo").Field("name", name).Sum() }

func (c *Disk) memoPath(name string) (string, error) {
	kind, key, _ := strings.Cut(name, "/")
	if _, err := digest.ParseKey(key); err != nil || !isMemoKind(kind) {
		return "", fmt.Errorf("cache: %q is not the name of a memo", name)
	}
	return c.dir + "/memo/" + kind + "/" + key[:2] + "/" + key, nil
}

// EachMemo calls visit with the bytes of every memo of a kind until that
// returns false. Those that are damaged, or vanish meanwhile, are left out.
func (c *Disk) EachMemo(kind string, visit func([]byte) bool) {
	for _, shard := range subdirs(c.dir + "/memo/" + kind) {
		names, _ := os.ReadDir(shard)
		for _, e := range names {
			if b, err := c.Memo(kind + "/" + e.Name()); err == nil && !visit(b) {
				return
			}
		}
	}
}

func isMemoKind(s string) bool {
	for _, r := range s {
		if r < 'a' || r > 'z' {
			return false
		}
	}
	return s != "" && len(s) <= 32
}
