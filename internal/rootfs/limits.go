package rootfs

import "hpcc.dev/hpcc/internal/rootfs/ext4"

// Limits bound what one image may cost. The zero value of a field stands for
// its default. All count what layers hold, also what a later one deletes.
type Limits struct {
	// Bytes bounds the unpacked layers together, in bytes: the disk that a build
	// takes is this for contents, and as much again for the image. Default, and
	// greatest, 32 GiB.
	Bytes int64
	// Entries bounds the entries of all layers together. Default 500,000: a
	// Debian with both gcc and clang has 30,000. While an image is built, an
	// entry costs up to 1.6 kB of memory, and all the rest together 40 MB.
	Entries int
	// Metadata bounds the bytes of names, link targets and attributes. Default
	// 256 MiB.
	Metadata int64
	// Depth bounds the components of a path. Default 128.
	Depth int
	// Layers bounds the layers. Default 128, which is Docker's own limit.
	Layers int
}

// What Linux and the formats allow; none is a setting.
const (
	maxName      = 255      // NAME_MAX
	maxPath      = 4095     // PATH_MAX without its zero byte
	maxManifest  = 4 << 20  // registries take up to this (OCI distribution specification)
	maxConfig    = 8 << 20  // no specification: the history of 128 layers takes far less
	maxEnv       = 64 << 10 // less than the 128 kB that Linux allows one string of it
	maxPlatforms = 1000     // manifests in an index
)

func (l Limits) withDefaults() Limits {
	const gib = 1 << 30
	if l.Bytes <= 0 || l.Bytes > ext4.MaxSize/2 {
		l.Bytes = 32 * gib
	}
	if l.Entries <= 0 {
		l.Entries = 500_000
	}
	if l.Metadata <= 0 {
		l.Metadata = gib / 4
	}
	if l.Depth <= 0 {
		l.Depth = 128
	}
	if l.Layers <= 0 {
		l.Layers = 128
	}
	return l
}
