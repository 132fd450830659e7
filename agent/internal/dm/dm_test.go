//go:build linux

package dm

import (
	"strings"
	"testing"
)

const verity = "vroot,,,ro,0 204800 verity 1 /dev/vda /dev/vda 4096 4096 25600 25601 sha256 0123abcd -"

func TestParse(t *testing.T) {
	d, err := Parse(verity)
	if err != nil {
		t.Fatal(err)
	}
	want := Device{"vroot", true, 204800, "verity", "1 /dev/vda /dev/vda 4096 4096 25600 25601 sha256 0123abcd -"}
	if *d != want {
		t.Errorf("%+v", d)
	}
	if d, err := Parse("e,,,rw,0 8 error"); err != nil || *d != (Device{"e", false, 8, "error", ""}) {
		t.Errorf("%+v, %v", d, err)
	}
	long := strings.Repeat("x", 3000)
	for _, bad := range []string{
		"", "a", "a,,,ro", ",,,ro,0 8 error", "a/b,,,ro,0 8 error", long + ",,,ro,0 8 error",
		"a,uuid,,ro,0 8 error", "a,,1,ro,0 8 error", "a,,,,0 8 error", "a,,,readonly,0 8 error",
		"a,,,ro,8 8 error", "a,,,ro,0 0 error", "a,,,ro,0 -8 error", "a,,,ro,0 8", "a,,,ro,0 8 ",
		"a,,,ro,0 8 error,8 8 error", "a,,,ro,0 8 error;b,,,ro,0 8 error",
		"a,,,ro,0 8 " + long[:16], "a,,,ro,0 8 error " + long, "a,,,ro,0 8 error x\x00y",
	} {
		if d, err := Parse(bad); err == nil {
			t.Errorf("%.60q is taken: %+v", bad, d)
		}
	}
}

// What is parsed fits into the fields of the calls.
func FuzzParse(f *testing.F) {
	f.Add(verity)
	f.Add("e,,,rw,0 8 error")
	f.Fuzz(func(t *testing.T, value string) {
		d, err := Parse(value)
		if err != nil {
			return
		}
		m := d.message(true)
		if len(m)%8 != 0 || len(m) > 8192 || m[48+nameLen-1] != 0 || m[headerLen+24+targetLen-1] != 0 || m[len(m)-1] != 0 {
			t.Errorf("%q: a message of %d bytes", value, len(m))
		}
	})
}
