package compiler

import (
	"os"
)

// OSCheckout is a Checkout of the real file system.
type OSCheckout struct {
	// Entries, if not nil, is asked for a directory's listing before it is read;
	// see DirCache.Entries.
	Entries func(dir string) (entries map[string]PathKind, ok bool)
	// ScanFile is Checkout.Scan.
	ScanFile func(path string) (*FileScan, error)
}

// List implements Checkout.
func (c *OSCheckout) List(dir string) (map[string]PathKind, bool) {
	if c.Entries != nil {
		if entries, ok := c.Entries(dir); ok {
			return entries, true
		}
	}
	return ReadEntries(dir)
}

// Lstat implements Checkout.
func (c *OSCheckout) Lstat(path string) NodeKind {
	info, err := os.Lstat(path)
	if err != nil {
		return NodeMissing
	}
	switch mode := info.Mode(); {
	case mode.IsRegular():
		return NodeFile
	case mode.IsDir():
		return NodeDirectory
	case mode&os.ModeSymlink != 0:
		return NodeLink
	}
	return NodeOther
}

// Readlink implements Checkout.
func (c *OSCheckout) Readlink(path string) (string, error) { return os.Readlink(path) }

// Scan implements Checkout.
func (c *OSCheckout) Scan(path string) (*FileScan, error) { return c.ScanFile(path) }
