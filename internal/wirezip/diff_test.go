package wirezip

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// lines are n bytes of them, all different.
func lines(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	for b.Len() < n {
		fmt.Fprintf(&b, "\tint value_%d = table[%d].%x;\n", r.IntN(1e6), r.IntN(1000), r.Uint64())
	}
	return b.Bytes()[:n]
}

func TestDiff(t *testing.T) {
	edit := []byte("/* a line more */\n")
	for _, n := range []int{1, 2, 200, 1023, 1024, 1025, 40_000, smallDiff, smallDiff + 1, 128<<10 + 1, mediumDiff, mediumDiff + 1, 4 << 20} {
		base := lines(n)
		contents := map[string][]byte{
			"the same": base,
			"before":   append(bytes.Clone(edit), base...),
			"within":   append(append(bytes.Clone(base[:n/2]), edit...), base[n/2:]...),
			"behind":   append(bytes.Clone(base), edit...),
			"first":    base[:(n+1)/2],
			"second":   base[n/2:],
			"swapped":  append(bytes.Clone(base[n/2:]), base[:n/2]...),
			"other":    bytes.ToUpper(base),
			"short":    {'x'},
			"long":     bytes.Repeat(base, 2),
		}
		if n > 200_000 { // one is enough to see that all of a base is remembered
			contents = map[string][]byte{"within": contents["within"]}
		}
		for name, content := range contents {
			diff := Diff(base, content)
			got, err := Apply(base, diff, len(content))
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("%d bytes, %s: %d bytes, %v", n, name, len(got), err)
			}
			// An edit costs what it says, and some bytes for each block of 128 KiB.
			if most := len(edit) + 60 + n/1000; name != "other" && len(diff) > most {
				t.Errorf("%d bytes, %s: a difference of %d bytes, more than %d", n, name, len(diff), most)
			}
		}
	}
}

// raw is a frame of blocks, whose header says size.
func raw(size int, blocks ...[]byte) []byte {
	b := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0, byte(size), byte(size >> 8), byte(size >> 16), byte(size >> 24)}
	return append(b, bytes.Join(blocks, nil)...)
}

// block has a type and a size in its header, and a body.
func block(last bool, kind, size int, body ...byte) []byte {
	head := size<<3 | kind<<1
	if last {
		head |= 1
	}
	return append([]byte{byte(head), byte(head >> 8), byte(head >> 16)}, body...)
}

func TestHostileDiff(t *testing.T) {
	base := lines(40_000)
	content := append(bytes.Clone(base), "and more\n"...)
	diff := Diff(base, content)
	encode := func(opt ...zstd.EOption) []byte {
		e, err := zstd.NewWriter(nil, append(opt, zstd.WithEncoderConcurrency(1))...)
		if err != nil {
			t.Fatal(err)
		}
		return e.EncodeAll(content, nil)
	}
	empty := raw(0, block(true, 0, 0))
	for name, c := range map[string]struct {
		diff []byte
		size int
	}{
		"nothing":                    {nil, len(content)},
		"no frame":                   {content, len(content)},
		"a size less":                {diff, len(content) - 1},
		"a size more":                {diff, len(content) + 1},
		"no size":                    {diff, 0},
		"another frame":              {append(bytes.Clone(diff), diff...), len(content)},
		"another frame, counted":     {append(bytes.Clone(diff), diff...), 2 * len(content)},
		"an empty frame behind":      {append(bytes.Clone(diff), empty...), len(content)},
		"an empty frame before":      {append(bytes.Clone(empty), diff...), len(content)},
		"a frame to skip behind":     {append(bytes.Clone(diff), 0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0), len(content)},
		"a frame to skip before":     {append([]byte{0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0}, diff...), len(content)},
		"a byte behind":              {append(bytes.Clone(diff), 0), len(content)},
		"a checksum":                 {encode(zstd.WithEncoderCRC(true), zstd.WithSingleSegment(true)), len(content)},
		"a window":                   {encode(zstd.WithEncoderCRC(false), zstd.WithSingleSegment(false)), len(content)},
		"a dictionary by number":     {encode(zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true), zstd.WithEncoderDictRaw(7, base)), len(content)},
		"a gigabyte":                 {raw(1<<30, block(true, 1, 1<<21-1, 'x')), 100},
		"more than it says":          {raw(100, block(false, 1, 1<<17, 'x'), block(true, 1, 1<<17, 'x')), 100},
		"one byte more than it says": {raw(100, block(true, 1, 101, 'x')), 100},
		"less than it says":          {raw(100, block(true, 1, 99, 'x')), 100},
		"no last block":              {raw(100, block(false, 1, 100, 'x')), 100},
		"a block of no type":         {raw(100, block(true, 3, 100, make([]byte, 100)...)), 100},
		"a block that is too large":  {raw(1<<20, block(true, 1, 1<<20, 'x')), 1 << 20},
		"a block that is cut":        {raw(100, block(true, 0, 100, 'x')), 100},
		"a header that is cut":       {raw(100)[:8], 100},
	} {
		if got, err := Apply(base, c.diff, c.size); err == nil || got != nil {
			t.Errorf("%s: %d bytes", name, len(got))
		}
	}
	// What it is made of by hand is understood, but for the faults.
	if got, err := Apply(base, raw(100, block(false, 0, 1, 'y'), block(true, 1, 99, 'x')), 100); err != nil || string(got) != "y"+string(bytes.Repeat([]byte{'x'}, 99)) {
		t.Errorf("%q, %v", got, err)
	}
	for i := range diff {
		if got, err := Apply(base, diff[:i], len(content)); err == nil {
			t.Errorf("the first %d bytes of %d are %d bytes", i, len(diff), len(got))
		}
	}
	for _, other := range [][]byte{nil, base[:100], bytes.ToUpper(base)} {
		if got, err := Apply(other, diff, len(content)); err == nil && bytes.Equal(got, content) {
			t.Errorf("the content comes from a base of %d bytes, too", len(other))
		}
	}
}

// FuzzApply: what is yielded has the size, whatever is said.
func FuzzApply(f *testing.F) {
	base := lines(2000)
	for _, content := range [][]byte{base, base[:1000], append(bytes.Clone(base[1000:]), base...)} {
		f.Add(base, Diff(base, content), uint32(len(content)))
	}
	f.Add([]byte("a"), raw(100, block(false, 0, 1, 'y'), block(true, 1, 99, 'x')), uint32(100))
	f.Fuzz(func(t *testing.T, base, diff []byte, size uint32) {
		size %= 1 << 20
		if got, err := Apply(base, diff, int(size)); err == nil && (len(got) != int(size) || cap(got) > int(size)) || err != nil && got != nil {
			t.Errorf("%d of %d bytes for %d, %v", len(got), cap(got), size, err)
		}
	})
}

func FuzzDiff(f *testing.F) {
	f.Add([]byte("int a;"), []byte("int b;"))
	f.Add(lines(3000), lines(2000))
	f.Fuzz(func(t *testing.T, base, content []byte) {
		if len(base) == 0 || len(content) == 0 {
			return
		}
		if got, err := Apply(base, Diff(base, content), len(content)); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
}

func BenchmarkDiff(b *testing.B) {
	for _, n := range []int{1 << 10, 40 << 10, 3 << 20} {
		base := lines(n)
		content := append(bytes.Clone(base), "int more;\n"...)
		diff := Diff(base, content)
		b.Run(fmt.Sprintf("diff/bytes=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Diff(base, content)
			}
		})
		b.Run(fmt.Sprintf("apply/bytes=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Apply(base, diff, len(content)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
