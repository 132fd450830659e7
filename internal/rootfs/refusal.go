package rootfs

import (
	"fmt"
	"strconv"
)

// Reason names why an image was refused. The names are stable: they stand in
// logs and in what --json prints.
type Reason string

// The reasons. Each is the answer to one kind of image that is hostile, broken
// or not wanted here.
const (
	// NotAllowed: the allow-list names neither digest nor repository.
	NotAllowed Reason = "not-allowed"
	// WrongPlatform: there is no manifest for the platform, or the
	// configuration says that the image is for another.
	WrongPlatform Reason = "wrong-platform"
	// BadManifest: a manifest, index or configuration that is no such, is of a
	// kind that is not read, or contradicts itself.
	BadManifest Reason = "bad-manifest"
	// BadMediaType: a layer of a kind that is not read: foreign, encrypted.
	BadMediaType Reason = "bad-media-type"
	// WrongDigest: bytes that are not those that the digest names; of a blob,
	// a manifest, or an unpacked layer.
	WrongDigest Reason = "wrong-digest"
	// Truncated: a blob that ends before its size, or a compressed stream or an
	// archive before its end.
	Truncated Reason = "truncated"
	// BadArchive: what is no archive, or is damaged.
	BadArchive Reason = "bad-archive"

	// TooManyBytes, TooManyEntries, TooDeep, NameTooLong, TooManyLinks,
	// TooManyLayers and TooMuchMetadata: beyond a limit (see Limits).
	TooManyBytes    Reason = "too-many-bytes"
	TooManyEntries  Reason = "too-many-entries"
	TooDeep         Reason = "too-deep"
	NameTooLong     Reason = "name-too-long"
	TooManyLinks    Reason = "too-many-links"
	TooManyLayers   Reason = "too-many-layers"
	TooMuchMetadata Reason = "too-much-metadata"

	// PathEscape: a name or a link's target with "..", or a link that leads
	// above the root.
	PathEscape Reason = "path-escape"
	// BadName: an empty name, or one with a zero byte.
	BadName Reason = "bad-name"
	// WriteThroughLink: an entry beneath a symbolic link that the same layer
	// made.
	WriteThroughLink Reason = "write-through-link"
	// NotADirectory: an entry beneath something that is no directory, or
	// beneath a link that leads to none.
	NotADirectory Reason = "not-a-directory"
	// DeviceNode: a device.
	DeviceNode Reason = "device-node"
	// BadType: an entry of a kind that is not read.
	BadType Reason = "bad-type"
	// BadLink: a hard link to nothing, to a directory or to itself.
	BadLink Reason = "bad-link"
	// BadSymlink: a symbolic link whose target is empty, has a zero byte or is
	// longer than Linux takes.
	BadSymlink Reason = "bad-symlink"
	// Duplicate: one path twice in one layer, other than a directory.
	Duplicate Reason = "duplicate"
	// BadWhiteout: a whiteout without a name, or of aufs.
	BadWhiteout Reason = "bad-whiteout"
	// BadXattr: an extended attribute that could steer the guest (an overlay's
	// own), or that an image has no business with.
	BadXattr Reason = "bad-xattr"
	// BadOwner: a user or group that Linux cannot have.
	BadOwner Reason = "bad-owner"
)

// Refusal is the error of an image that is not built. Nothing of it is left
// behind.
type Refusal struct {
	Reason Reason
	// Layer counts from 1; 0 where it is no layer's.
	Layer int
	// Path is the entry's, or "". It is as hostile as the layer.
	Path string
	// Detail says what is wrong, and what would be right.
	Detail string
}

func (r *Refusal) Error() string {
	s := "image refused: " + string(r.Reason)
	if r.Layer > 0 {
		s += fmt.Sprintf(": layer %d", r.Layer)
	}
	if r.Path != "" {
		s += ": " + strconv.Quote(clip(r.Path))
	}
	if r.Detail != "" {
		s += ": " + r.Detail
	}
	return s
}

func refuse(reason Reason, format string, args ...any) *Refusal {
	return &Refusal{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

// clip keeps hostile text out of messages beyond a length that helps.
func clip(s string) string {
	if len(s) > 160 {
		return s[:160] + "…"
	}
	return s
}
