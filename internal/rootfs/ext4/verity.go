package ext4

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
)

// Verity says how a hash tree is asked for: the arguments of the kernel's
// dm-verity target (Documentation/admin-guide/device-mapper/verity.rst), where
// data and hashes are one device, the hash algorithm is sha256, both block
// sizes are BlockSize, and the tree begins at block DataBlocks+1, behind a
// super block that veritysetup reads as well.
type Verity struct {
	// DataBlocks is the number of blocks that are checked.
	DataBlocks int64
	// RootHash and Salt are lower-case hex.
	RootHash, Salt string
}

// hashSize and the number of hashes in a block.
const (
	hashSize      = sha256.Size
	hashesInBlock = BlockSize / hashSize
)

// AppendVerity hashes f, which has size bytes, a multiple of BlockSize, and
// writes super block and tree behind them. Salt and UUID come from seed, so that
// equal data and seed give equal bytes; two images share no hash, which keeps
// what one tenant has from being recognised in another's tree. It returns the
// size of the whole file besides. Memory does not grow with size.
func AppendVerity(ctx context.Context, f *os.File, size int64, seed [32]byte) (v Verity, total int64, err error) {
	if size <= BlockSize || size%BlockSize != 0 {
		return v, 0, fmt.Errorf("verity: %d bytes are not whole blocks", size)
	}
	if fi, err := f.Stat(); err != nil || fi.Size() != size {
		return v, 0, errors.Join(fmt.Errorf("verity: the file does not have %d bytes", size), err)
	}
	v.DataBlocks = size / BlockSize
	salt := sha256.Sum256(append([]byte("hpcc verity salt\n"), seed[:]...))
	uuid := sha256.Sum256(append([]byte("hpcc verity uuid\n"), seed[:]...))
	v.Salt = hex.EncodeToString(salt[:])

	if _, err := f.WriteAt(veritySuperBlock(v.DataBlocks, salt, [16]byte(uuid[:16])), size); err != nil {
		return v, 0, err
	}

	// Levels, the one over the data first; on disk the topmost comes first.
	var blocks []int64
	for n := v.DataBlocks; n > 1; {
		n = (n + hashesInBlock - 1) / hashesInBlock
		blocks = append(blocks, n)
	}
	starts := make([]int64, len(blocks))
	next := size + BlockSize
	for i := len(blocks) - 1; i >= 0; i-- {
		starts[i] = next
		next += blocks[i] * BlockSize
	}
	from, n := int64(0), v.DataBlocks
	for i := range blocks {
		if err := hashLevel(ctx, f, from, n, starts[i], salt); err != nil {
			return v, 0, fmt.Errorf("verity: %w", err)
		}
		from, n = starts[i], blocks[i]
	}
	root := make([]byte, hashSize+BlockSize)
	copy(root, salt[:])
	if _, err := f.ReadAt(root[hashSize:], from); err != nil {
		return v, 0, fmt.Errorf("verity: %w", err)
	}
	sum := sha256.Sum256(root)
	v.RootHash = hex.EncodeToString(sum[:])
	return v, next, nil
}

// veritySuperBlock is a block that begins with struct verity_sb of cryptsetup's
// lib/verity/verity.c.
func veritySuperBlock(dataBlocks int64, salt [hashSize]byte, uuid [16]byte) []byte {
	b := make([]byte, BlockSize)
	le := binary.LittleEndian
	copy(b, "verity")
	le.PutUint32(b[8:], 1)  // version
	le.PutUint32(b[12:], 1) // hash type: salt first
	copy(b[16:], uuid[:])
	copy(b[32:], "sha256")
	le.PutUint32(b[64:], BlockSize)
	le.PutUint32(b[68:], BlockSize)
	le.PutUint64(b[72:], uint64(dataBlocks))
	le.PutUint16(b[80:], hashSize)
	copy(b[88:], salt[:])
	return b
}

// hashLevel writes the hashes of n blocks that begin at from to to, padded with
// zeros to whole blocks. Every processor takes part: this is half of the time
// that an image takes else.
func hashLevel(ctx context.Context, f *os.File, from, n, to int64, salt [hashSize]byte) error {
	const span = 2 * hashesInBlock // blocks that one goroutine takes at a time: 1 MiB
	spans := make(chan int64)
	workers := min(runtime.GOMAXPROCS(0), 8)
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			data := make([]byte, span*BlockSize)
			hashes := make([]byte, span*hashSize)
			salted := make([]byte, hashSize+BlockSize)
			copy(salted, salt[:])
			for first := range spans {
				if errs[w] != nil {
					continue // the sender must not block
				}
				count := min(span, n-first)
				if _, err := io.ReadFull(io.NewSectionReader(f, from+first*BlockSize, count*BlockSize), data[:count*BlockSize]); err != nil {
					errs[w] = err
					continue
				}
				clear(hashes)
				for i := range count {
					copy(salted[hashSize:], data[i*BlockSize:(i+1)*BlockSize])
					sum := sha256.Sum256(salted)
					copy(hashes[i*hashSize:], sum[:])
				}
				whole := (count + hashesInBlock - 1) / hashesInBlock * BlockSize
				_, errs[w] = f.WriteAt(hashes[:whole], to+first*hashSize)
			}
		})
	}
	var stopped error
	for first := int64(0); first < n && stopped == nil; first += span {
		select {
		case spans <- first:
		case <-ctx.Done():
			stopped = ctx.Err()
		}
	}
	close(spans)
	wg.Wait()
	for _, err := range errs {
		if stopped == nil {
			stopped = err
		}
	}
	return stopped
}
