package shared

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/store"
)

// testSigner is the same for one name in every run.
func testSigner(t testing.TB, name string) *Signer {
	t.Helper()
	seed := sha256.Sum256([]byte(name))
	s, err := NewSigner(seed[:ed25519.SeedSize], name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// noise is what no compression makes smaller.
func noise(n int, seed byte) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// testEntry is an entry of a unit called name, whose outputs are given.
func testEntry(name string, outputs ...[]byte) (*action.Entry, map[digest.Digest][]byte) {
	e := &action.Entry{
		Action: action.Action{
			Toolchain: digest.NewKey("toolchain").Sum(), Command: []string{"-c", name}, Env: []string{"LANG=C"},
			Inputs: []action.Input{{Path: name, Digest: digest.Of([]byte(name))}, {Path: "a.h", Digest: digest.Of([]byte("a.h"))}},
			Absent: []string{"x/a.h"},
		},
		Result: action.Result{
			Stderr: []byte("warning\n"), CompileTime: 1e9, StdioContext: "context",
			Dependencies: []action.Dependency{{Path: name}, {Path: "a.h", System: true}},
		},
	}
	blobs := map[digest.Digest][]byte{}
	for i, b := range outputs {
		d := digest.Of(b)
		blobs[d] = b
		e.Result.Outputs = append(e.Result.Outputs, action.Output{Role: []string{"object", "dwo", "gcno", "su"}[i], Digest: d, Executable: i == 1})
	}
	return e, blobs
}

func TestPackRoundTrip(t *testing.T) {
	s := testSigner(t, "w1")
	trust := (*Trust)(nil).With(s)
	for name, outputs := range map[string][][]byte{
		"none": nil, "empty": {{}}, "small": {[]byte("object")}, "equal": {[]byte("x"), []byte("x")},
		"text":  {bytes.Repeat([]byte("compressible "), 1<<20)},
		"large": {noise(maxPacked+1, 1), []byte("dwo")}, "together": {noise(maxPacked/2, 1), noise(maxPacked/2, 2), noise(100, 3)},
	} {
		t.Run(name, func(t *testing.T) {
			e, blobs := testEntry("a.c", outputs...)
			p, err := s.seal("default", e, blobs)
			if err != nil {
				t.Fatal(err)
			}
			key := e.Action.Key()
			got, err := openPack(p.pack.body, "default", key, trust)
			if err != nil {
				t.Fatal(err)
			}
			want, err := action.EncodeEntry(key, e)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := action.EncodeEntry(key, got.entry); err != nil || !bytes.Equal(b, want) {
				t.Errorf("another entry: %v", err)
			}
			for _, o := range p.blobs {
				_, d, ok := ParseBlob(o.name)
				if !ok {
					t.Fatalf("%s is not a blob's name", o.name)
				}
				if got.blobs[d], err = unboxBlob(d, o.body); err != nil {
					t.Fatal(err)
				}
			}
			if len(got.missing) != len(p.blobs) || len(got.blobs) != len(blobs) {
				t.Errorf("%d blobs of %d, %d missing of %d", len(got.blobs), len(blobs), len(got.missing), len(p.blobs))
			}
			for d, b := range blobs {
				if !bytes.Equal(got.blobs[d], b) {
					t.Errorf("blob %s is another", d)
				}
			}
			if got.signer.Name != "w1" || len(p.pack.body) > maxPack {
				t.Errorf("signer %q, %d bytes", got.signer.Name, len(p.pack.body))
			}
		})
	}
}

func TestKeyFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	line, err := GenerateKey(file, RoleWorker, "w1.example")
	if err != nil {
		t.Fatal(err)
	}
	s, err := ReadSigner(file)
	if err != nil {
		t.Fatal(err)
	}
	m, ok, err := parseMember(line)
	if err != nil || !ok || m != (Member{RoleWorker, "w1.example", s.Public(), false}) {
		t.Errorf("%+v, %v, %v", m, ok, err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o444} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadSigner(file); !errors.Is(err, store.ErrKeyFile) || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	if err := os.Chmod(file, 0o400); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadSigner(file); err != nil {
		t.Errorf("mode 400: %v", err)
	}
	if _, err := GenerateKey(file, RoleWorker, "w1"); err == nil {
		t.Error("a key was written over another")
	}
}
