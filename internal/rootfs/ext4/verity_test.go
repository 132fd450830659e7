package ext4

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// blocksFile is a file of n blocks of random data.
func blocksFile(t *testing.T, n int) *os.File {
	t.Helper()
	data := make([]byte, n*BlockSize)
	r := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8)})
	_, _ = r.Read(data) // never fails
	f, err := os.Create(filepath.Join(t.TempDir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	return f
}

// veritysetup takes trees of one, two and three levels, whose blocks are full,
// hold one hash, or all but one.
func TestVeritySizes(t *testing.T) {
	if _, err := exec.LookPath("veritysetup"); err != nil {
		if os.Getenv("HPCC_TEST_REQUIRE") != "" {
			t.Fatal("veritysetup is missing: run make setup")
		}
		t.Skip("veritysetup is missing")
	}
	for _, n := range []int{2, 127, 128, 129, 255, 256, 257, 128 * 128, 128*128 + 1} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			f := blocksFile(t, n)
			v, total, err := AppendVerity(t.Context(), f, int64(n)*BlockSize, [32]byte{1})
			if err != nil {
				t.Fatal(err)
			}
			if fi, err := f.Stat(); err != nil || fi.Size() != total || v.DataBlocks != int64(n) {
				t.Errorf("size %d, %v; want %d: %+v", fi.Size(), err, total, v)
			}
			out, err := exec.Command("veritysetup", "verify", fmt.Sprintf("--hash-offset=%d", n*BlockSize), f.Name(), f.Name(), v.RootHash).CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			dump, err := exec.Command("veritysetup", "dump", fmt.Sprintf("--hash-offset=%d", n*BlockSize), f.Name()).CombinedOutput()
			if err != nil || !bytes.Contains(dump, []byte(v.Salt)) {
				t.Errorf("salt %s: %v\n%s", v.Salt, err, dump)
			}
		})
	}
}

func TestVerityErrors(t *testing.T) {
	f := blocksFile(t, 3)
	for _, size := range []int64{0, -1, BlockSize, BlockSize + 1} {
		if _, _, err := AppendVerity(t.Context(), f, size, [32]byte{}); err == nil {
			t.Errorf("%d bytes were taken", size)
		}
	}
	if _, _, err := AppendVerity(t.Context(), f, 5*BlockSize, [32]byte{}); err == nil {
		t.Error("more than the file has")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	big := blocksFile(t, 4000)
	if _, _, err := AppendVerity(ctx, big, 4000*BlockSize, [32]byte{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// Write refuses what is no archive, and what its rules exclude; the file is the
// caller's to remove.
func TestWriteErrors(t *testing.T) {
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := Write(out, bytes.NewReader(bytes.Repeat([]byte("no archive "), 100))); err == nil {
		t.Error("garbage was taken")
	}
	if _, err := mend(blocksFile(t, 4)); err == nil {
		t.Error("random blocks were taken for a file system")
	}
}
