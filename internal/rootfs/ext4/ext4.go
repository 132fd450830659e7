// Package ext4 writes a tree of files as one read-only ext4 image, with a
// dm-verity hash tree behind it, without root, mounts or other programs.
//
// It is the seam to the library that knows the disk format
// (github.com/Microsoft/hcsshim/ext4): nothing else of hpcc imports that, and
// another writer, erofs for one, would replace this package alone.
//
// Equal input gives equal bytes, of the file system and of the whole file.
package ext4

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/Microsoft/hcsshim/ext4/tar2ext4"
)

const (
	// BlockSize is the size of a block of the file system and of the hash tree.
	BlockSize = 4096

	// MaxSize bounds the file system. It also decides how much room the group
	// descriptors get, so that a smaller one would change every image's bytes:
	// it is not a setting.
	MaxSize = 64 << 30

	// MaxLinks is how many names one file, and how many subdirectories one
	// directory, can have. ext4 ends at 65,000; directories count "." and "..".
	MaxLinks = 64_998

	// MaxXattrs is the room for one file's extended attributes: what the block
	// for them holds besides its header, by XattrSize.
	MaxXattrs = BlockSize - 36
)

// XattrSize is what one extended attribute takes of MaxXattrs.
func XattrSize(name, value string) int {
	return 16 + (len(name)+3)&^3 + (len(value)+3)&^3
}

// Write writes the files of a tar stream as an ext4 file system to out, which
// must be empty, and returns its size, a multiple of BlockSize.
//
// The stream must name each path once, parents first and hard links after
// their targets; package rootfs makes such. Extended attributes are PAX records
// that begin with SCHILY.xattr. Times below 1970 are not representable. The
// file system holds an empty lost+found, which e2fsck demands, besides.
func Write(out *os.File, tarStream io.Reader) (size int64, err error) {
	if err := tar2ext4.ConvertTarToExt4(tarStream, out, tar2ext4.MaximumDiskSize(MaxSize)); err != nil {
		return 0, fmt.Errorf("ext4: %w", err)
	}
	return mend(out)
}

// superBlock is what mend needs of a super block; the offsets are those of
// struct ext4_super_block in Linux's fs/ext4/ext4.h, as are all below.
type superBlock struct {
	inodes, blocks, blocksPerGroup, inodesPerGroup uint32
}

func readSuperBlock(r io.ReaderAt) (s superBlock, err error) {
	b := make([]byte, 1024)
	if _, err := r.ReadAt(b, 1024); err != nil {
		return s, err
	}
	le := binary.LittleEndian
	s = superBlock{le.Uint32(b[0:]), le.Uint32(b[4:]), le.Uint32(b[32:]), le.Uint32(b[40:])}
	if le.Uint16(b[56:]) != 0xef53 || s.blocksPerGroup != 8*BlockSize || s.inodesPerGroup == 0 ||
		s.inodesPerGroup > 8*BlockSize || le.Uint16(b[88:]) != inodeSize {
		return s, fmt.Errorf("not a file system of this writer")
	}
	return s, nil
}

const (
	inodeSize = 256
	// groupDescriptorSize is that of file systems without the 64bit feature.
	groupDescriptorSize = 32
)

// mend corrects two things that the library leaves: the bits of an inode
// bitmap beyond its last inode must be set (e2fsck exits 4 else), and the
// attributes in an attribute block must be in order of index, length and name,
// or Linux does not find some of them (ext4_xattr_find_entry stops at the first
// greater one).
func mend(f *os.File) (size int64, err error) {
	s, err := readSuperBlock(f)
	if err != nil {
		return 0, fmt.Errorf("ext4: %w", err)
	}
	groups := (s.blocks-1)/s.blocksPerGroup + 1
	descriptors := make([]byte, groups*groupDescriptorSize)
	if _, err := f.ReadAt(descriptors, BlockSize); err != nil {
		return 0, fmt.Errorf("ext4: group descriptors: %w", err)
	}
	ones := make([]byte, BlockSize)
	for i := range ones {
		ones[i] = 0xff
	}
	used := int64(s.inodesPerGroup / 8) // a multiple of 16 inodes, by this writer
	table := make([]byte, s.inodesPerGroup*inodeSize)
	for g := range groups {
		d := descriptors[g*groupDescriptorSize:]
		bitmap := int64(binary.LittleEndian.Uint32(d[4:])) * BlockSize
		if _, err := f.WriteAt(ones[used:], bitmap+used); err != nil {
			return 0, fmt.Errorf("ext4: %w", err)
		}
		if _, err := f.ReadAt(table, int64(binary.LittleEndian.Uint32(d[8:]))*BlockSize); err != nil {
			return 0, fmt.Errorf("ext4: inode table: %w", err)
		}
		for inode := range slices.Chunk(table, inodeSize) {
			if acl := binary.LittleEndian.Uint32(inode[104:]); acl != 0 {
				if err := sortXattrs(f, int64(acl)*BlockSize); err != nil {
					return 0, fmt.Errorf("ext4: attributes: %w", err)
				}
			}
		}
	}
	return int64(s.blocks) * BlockSize, nil
}

// sortXattrs puts the entries of the attribute block at offset in order. The
// values stay where they are, since each entry says where its own is.
func sortXattrs(f *os.File, offset int64) error {
	const header = 32
	block := make([]byte, BlockSize)
	if _, err := f.ReadAt(block, offset); err != nil {
		return err
	}
	var entries [][]byte
	end := header
	for end+16 <= BlockSize && block[end] != 0 {
		n := 16 + (int(block[end])+3)&^3
		if end+n > BlockSize {
			return fmt.Errorf("entry beyond its block")
		}
		entries = append(entries, slices.Clone(block[end:end+n]))
		end += n
	}
	slices.SortFunc(entries, func(a, b []byte) int {
		if a[1] != b[1] {
			return int(a[1]) - int(b[1])
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		return slices.Compare(a[16:], b[16:])
	})
	sorted := slices.Concat(entries...)
	_, err := f.WriteAt(sorted, offset+header)
	return err
}
