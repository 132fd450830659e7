package digest

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"
)

const emptyHex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestParse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := Of(rapid.SliceOf(rapid.Byte()).Draw(t, "content"))
		got, err := Parse(d.String())
		if err != nil || got != d {
			t.Fatalf("%s parsed to %s, %v", d, got, err)
		}
		sum := d.Sum()
		if got, err := FromBytes(sum[:], d.Size()); err != nil || got != d {
			t.Fatalf("FromBytes: %s, %v", got, err)
		}
	})
	for _, bad := range []string{
		"", "/", emptyHex, emptyHex + "/", emptyHex + "/-1", emptyHex + "/+1", emptyHex + "/01", emptyHex + "/1 ", emptyHex + "/0x1",
		emptyHex + "/9223372036854775808", emptyHex[1:] + "/1", "0" + emptyHex + "/1", strings.ToUpper(emptyHex) + "/1",
		"g" + emptyHex[1:] + "/1", emptyHex + "/1/1",
	} {
		if d, err := Parse(bad); err == nil {
			t.Errorf("%q parsed to %s", bad, d)
		}
	}
	if _, err := FromBytes(make([]byte, 31), 1); err == nil {
		t.Error("31 bytes are a sum")
	}
	if _, err := New([32]byte{}, -1); err == nil {
		t.Error("a negative size")
	}
}

func TestZero(t *testing.T) {
	if !(Digest{}).IsZero() || !(Key{}).IsZero() {
		t.Error("the zero values are not zero")
	}
	if d := Of(nil); d.IsZero() || d.Hex() != emptyHex {
		t.Errorf("the digest of nothing is %s", d)
	}
}

func TestErrorsStayShort(t *testing.T) {
	_, err := Parse(strings.Repeat("x", 1<<20) + "/1")
	if err == nil || len(err.Error()) > 200 {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
}

func TestCopy(t *testing.T) {
	var out bytes.Buffer
	d, err := Copy(&out, strings.NewReader("hello"))
	if err != nil || d != Of([]byte("hello")) || out.String() != "hello" {
		t.Errorf("%s, %q, %v", d, &out, err)
	}
	broken := errors.New("broken")
	if d, err := Copy(&out, iotest.ErrReader(broken)); !errors.Is(err, broken) || !d.IsZero() {
		t.Errorf("%s, %v", d, err)
	}
}

func TestVerifier(t *testing.T) {
	want := Of([]byte("hello"))
	for _, c := range []struct {
		in string
		ok bool
	}{{"hello", true}, {"hellO", false}, {"hell", false}, {"hello ", false}, {"", false}, {strings.Repeat("hello", 1000), false}} {
		const early = "EOF with the last bytes" // this one reads ahead by itself
		for name, wrap := range map[string]func(io.Reader) io.Reader{
			"whole": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader, early: iotest.DataErrReader,
		} {
			src := strings.NewReader(c.in)
			b, err := io.ReadAll(NewVerifier(wrap(src), want))
			if c.ok && (err != nil || string(b) != c.in) {
				t.Errorf("%s, %s: %q, %v", c.in, name, b, err)
			}
			if !c.ok && !errors.Is(err, ErrMismatch) {
				t.Errorf("%.10s, %s: %v", c.in, name, err)
			}
			if read := len(c.in) - src.Len(); read > 6 && name != early {
				t.Errorf("%.10s, %s: read %d bytes of a source that should have 5", c.in, name, read)
			}
		}
	}
	// The end is reported again, not forgotten.
	v := NewVerifier(strings.NewReader("hellO"), want)
	for range 3 {
		if _, err := io.ReadAll(v); !errors.Is(err, ErrMismatch) {
			t.Errorf("%v", err)
		}
	}
}

// No two lists of fields give one key.
func TestKeyIsInjective(t *testing.T) {
	type field struct {
		label  string
		values []string
	}
	str := rapid.SampledFrom([]string{"", "a", "b", "ab", "\x00", "\x01a", strings.Repeat("x", 5000)})
	fields := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) field {
		return field{str.Draw(t, "label"), rapid.SliceOfN(str, 0, 3).Draw(t, "values")}
	}), 0, 3)
	key := func(list []field) Key {
		k := NewKey("test")
		for _, f := range list {
			k.Field(f.label, f.values...)
		}
		return k.Sum()
	}
	same := func(x, y []field) bool {
		if len(x) != len(y) {
			return false
		}
		for i := range x {
			if x[i].label != y[i].label || strings.Join(x[i].values, "|") != strings.Join(y[i].values, "|") || len(x[i].values) != len(y[i].values) {
				return false
			}
		}
		return true
	}
	rapid.Check(t, func(t *rapid.T) {
		x, y := fields.Draw(t, "x"), fields.Draw(t, "y")
		if same(x, y) != (key(x) == key(y)) {
			t.Fatalf("%v and %v", x, y)
		}
	})
	if NewKey("a").Sum() == NewKey("b").Sum() || NewKey("a").Field("b").Sum() == NewKey("a").Field("b", "").Sum() {
		t.Error("keys of different fields are equal")
	}
	if NewKey("a").Bytes("l", []byte("v")).Sum() != NewKey("a").Field("l", "v").Sum() {
		t.Error("Bytes is not a field of one value")
	}
}

// Sum may be taken in between, and leaves the writer as it was.
func TestKeySumInBetween(t *testing.T) {
	k := NewKey("a").Field("x", "1")
	k.Sum()
	if k.Field("y", "2").Sum() != NewKey("a").Field("x", "1").Field("y", "2").Sum() {
		t.Error("Sum changed the key")
	}
}

func TestParseKey(t *testing.T) {
	k := NewKey("a").Sum()
	if got, err := ParseKey(k.String()); err != nil || got != k {
		t.Errorf("%s, %v", got, err)
	}
	for _, bad := range []string{"", k.String()[1:], k.String() + "0", "G" + k.String()[1:], "A" + k.String()[1:]} {
		if _, err := ParseKey(bad); err == nil {
			t.Errorf("%q was parsed", bad)
		}
	}
}

func TestSeal(t *testing.T) {
	tag, key := Tag{'t', 'e', 's', 't'}, Key{1}
	for _, body := range []string{"", "body", strings.Repeat("x", 1000)} {
		prefix := []byte("prefix")
		b := Seal(prefix, tag, key, []byte(body))[len(prefix):]
		if len(b) != len(body)+SealOverhead {
			t.Errorf("%d bytes became %d", len(body), len(b))
		}
		b = append(b, "rest"...)
		got, rest, err := Unseal(b, tag, key)
		if err != nil || string(got) != body || string(rest) != "rest" {
			t.Errorf("%q, %q, %v", got, rest, err)
		}
		if _, _, err := Unseal(b, Tag{'o', 't', 'h', 'r'}, key); !errors.Is(err, ErrDamaged) {
			t.Errorf("another kind: %v", err)
		}
		if _, _, err := Unseal(b, tag, Key{2}); !errors.Is(err, ErrDamaged) {
			t.Errorf("another key: %v", err)
		}
	}
}

func FuzzUnseal(f *testing.F) {
	tag, key := Tag{'t', 'e', 's', 't'}, Key{1}
	f.Add(Seal(nil, tag, key, []byte("body")))
	f.Add(Seal(nil, tag, key, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		body, rest, err := Unseal(b, tag, key)
		if err == nil && !bytes.Equal(append(Seal(nil, tag, key, body), rest...), b) {
			t.Error("another record than was sealed")
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add(emptyHex + "/0")
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := Parse(s); err == nil && d.String() != s {
			t.Errorf("%q parsed to %s", s, d)
		}
	})
}

func TestOfFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	if err := os.WriteFile(path, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	if d, err := OfFile(path); err != nil || d != Of([]byte("hello")) {
		t.Errorf("%s, %v", d, err)
	}
	if d, err := OfFile(path + "x"); !errors.Is(err, fs.ErrNotExist) || !d.IsZero() {
		t.Errorf("%s, %v", d, err)
	}
	if d, err := OfFile(dir); err == nil || !d.IsZero() {
		t.Errorf("a directory: %s, %v", d, err)
	}
}
