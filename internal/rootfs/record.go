package rootfs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"hpcc.dev/hpcc/internal/atomicfile"
	"hpcc.dev/hpcc/internal/digest"
)

// Image is a root file system that lies ready in a store.
type Image struct {
	// Digest names the platform manifest that it was built from:
	// "sha256:" and 64 hex digits. It is the image's identity.
	Digest string `json:"digest"`
	// Path is the file: DataBlocks blocks of 4,096 bytes that are an ext4 file
	// system, then a dm-verity super block and hash tree. It is read-only, and is
	// removed or replaced as a whole: who opened it keeps what it was.
	Path string `json:"path"`
	// Size is the file's, in bytes.
	Size       int64 `json:"size"`
	DataBlocks int64 `json:"data_blocks"`
	// RootHash and Salt are those of the hash tree, in hex (see ext4.Verity).
	RootHash string `json:"root_hash"`
	Salt     string `json:"salt"`

	Platform string `json:"platform"`
	// Env is the environment that the image's configuration asks for, as hostile
	// as the image.
	Env    []string `json:"env,omitempty"`
	Layers int      `json:"layers"`
	// Content is how many bytes of content the files have.
	Content int64 `json:"content_bytes"`
	// Files is the digest of the index of the files (see Store.Lookup), as
	// digest.Parse reads it.
	Files string `json:"files"`
	// Sources are the names under which it was asked for, the latest first.
	Sources []Origin  `json:"sources"`
	Built   time.Time `json:"built"`
	Used    time.Time `json:"used"`
}

// onDisk is what an image takes of a store's bytes.
func (img Image) onDisk() int64 {
	d, _ := digest.Parse(img.Files) // an image without an index counts as absent
	return img.Size + d.Size()
}

// Origin is a name under which an image was asked for.
type Origin struct {
	// Name is as the user wrote it.
	Name string `json:"name"`
	// Repository is "" for files.
	Repository string `json:"repository,omitempty"`
	// Asked is the digest of what the name meant: an index's, where the image is
	// one platform's of several.
	Asked string `json:"asked"`
}

// format is the version of what this package writes. Images of others count as
// absent, so that one digest never means two root hashes at once.
const format = 2

// maxSources bounds what an image remembers of its names.
const maxSources = 16

// record is an image's file beside the image.
type record struct {
	Format int `json:"format"`
	Image
}

func (s *Store) write(img Image) error {
	text, err := json.Marshal(record{format, img})
	if err != nil {
		return err
	}
	// Its time of change is when the image was last used.
	return atomicfile.Write(s.path(img.Digest, ".json"), text, atomicfile.Options{Durable: true})
}

// read returns an image's record, or ErrNotFound: also for what is damaged, or
// of another version, for then it is built again.
func (s *Store) read(digest string) (record, error) {
	if !IsDigest(digest) {
		return record{}, fmt.Errorf("%q: %w", clip(digest), ErrNotFound)
	}
	path := s.path(digest, ".json")
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, fmt.Errorf("%s: %w", digest, ErrNotFound)
	}
	if err != nil {
		return record{}, fmt.Errorf("image store: %w", err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return record{}, fmt.Errorf("image store: %w", err)
	}
	var r record
	if fi.Size() <= maxConfig+1<<20 {
		err = json.NewDecoder(f).Decode(&r)
	}
	r.Path = s.path(digest, ".img") // the store may have been moved
	img, e := os.Stat(r.Path)
	if err != nil || e != nil || r.Format != format || r.Digest != digest || img.Size() != r.Size || !s.hasIndex(r.Image) {
		return record{}, fmt.Errorf("%s: %w", digest, ErrNotFound)
	}
	r.Used = fi.ModTime()
	return r, nil
}

// hasIndex tells whether the index of an image's files is there, as far as its
// size tells.
func (s *Store) hasIndex(img Image) bool {
	want, err := digest.Parse(img.Files)
	if err != nil {
		return false
	}
	fi, err := os.Stat(s.path(img.Digest, filesSuffix))
	return err == nil && fi.Size() == want.Size()
}
