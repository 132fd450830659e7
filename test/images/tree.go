// Package images makes what tests of the machine build on: a real image of
// Debian with gcc and g++, and the means to compare file systems. It knows
// nothing of hpcc.
package images

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Tree describes every file below dir, by path: type, mode, owner, size, time,
// target, extended attributes, content, and which paths are one file. Sizes of
// directories and times other than that of modification are left out, since
// every file system has its own. An empty lost+found at the top is left out,
// which ext4 has by itself.
func Tree(dir string) (map[string]string, error) {
	tree := map[string]string{}
	first := map[[2]uint64]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if rel == "lost+found" {
			if inside, err := os.ReadDir(path); err == nil && len(inside) == 0 {
				return fs.SkipDir
			}
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		line := fmt.Sprintf("%v %d:%d %d.%09d", fi.Mode(), st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		if !d.IsDir() && st.Nlink > 1 {
			id := [2]uint64{st.Dev, st.Ino}
			if first[id] == "" {
				first[id] = rel
			}
			line += fmt.Sprintf(" %d names, first %q", st.Nlink, first[id])
		}
		switch {
		case fi.Mode().IsRegular():
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			h := sha256.New()
			n, err := io.Copy(h, f)
			f.Close()
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %x", n, h.Sum(nil))
		case fi.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + target
		}
		attrs, err := xattrs(path)
		if err != nil {
			return fmt.Errorf("attributes of %s: %w", rel, err)
		}
		tree[rel] = line + attrs
		return nil
	})
	return tree, err
}

func xattrs(path string) (string, error) {
	list := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, list)
	if err == unix.ENOTSUP {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var all []string
	for _, name := range strings.Split(strings.Trim(string(list[:n]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return "", fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, fmt.Sprintf(" %s=%x", name, value[:n]))
	}
	slices.Sort(all)
	return strings.Join(all, ""), nil
}

// Diff lists how two trees differ: at most 30 lines, none if they are equal.
func Diff(got, want map[string]string) (lines []string) {
	paths := maps.Clone(got)
	maps.Copy(paths, want)
	for _, p := range slices.Sorted(maps.Keys(paths)) {
		if got[p] == want[p] {
			continue
		}
		if len(lines) == 30 {
			return append(lines, "…")
		}
		lines = append(lines, fmt.Sprintf("%s:\n\tgot  %s\n\twant %s", p, got[p], want[p]))
	}
	return lines
}
