package config

import (
	"os"
	"strings"
	"testing"
)

func TestParseSize(t *testing.T) {
	good := map[string]int64{
		"10GB": 10e9, "10G": 10e9, "10gb": 10e9, " 1.5 GiB ": 3 << 29, "1KiB": 1024, "1k": 1000,
		"7": 7, "7B": 7, "9007199254740993": 9007199254740993, "2TB": 2e12, "0.5k": 500,
	}
	for text, want := range good {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "GB", "-1GB", "0", "0.1", "1e3", "inf", "0x10", "10 X", "1..2", "1GB2", "9223372036854775807kB", "99999999999TB"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", text, got)
		}
	}
}

func TestHumanSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1500: "1.50 kB", 23_400_000: "23.4 MB", 10e9: "10.0 GB", 512e9: "512 GB"} {
		if got := HumanSize(n); got != want {
			t.Errorf("HumanSize(%d) = %q, want %q", n, got, want)
		}
	}
}

func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"10GB", "512MiB", "1.5k", "7", "", "-1", "1e9", "9223372036854775807"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseSize(s)
		if err != nil {
			return
		}
		if n <= 0 {
			t.Fatalf("ParseSize(%q) = %d", s, n)
		}
		if back, err := ParseSize(FormatSize(n)); err != nil || back != n {
			t.Fatalf("%q: FormatSize(%d) = %q reads back as %d, %v", s, n, FormatSize(n), back, err)
		}
	})
}

// What a file sets is checked, and is shown so that the environment can set the
// same.
func FuzzClientTOML(f *testing.F) {
	f.Add([]byte(everyKey))
	f.Add([]byte("[cache]\nmaxsize = 1\n"))
	f.Add([]byte("verify = 0.25\ndisable = true\n[reproducible]\nroots = [\"/w\", \"/b/../c\"]\n[daemon]\nport = 7\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		c := &Config{Place: Place{File: "client.toml", origins: map[string]string{}}}
		c.setDefaults()
		c.Cache.Dir = "/cache"
		if c.applyFile(c.keys(), text) != nil {
			return
		}
		if c.Cache.MaxSize <= 0 {
			t.Fatalf("cache size %d", c.Cache.MaxSize)
		}
		env := map[string]string{}
		for _, s := range c.Settings() {
			env[s.Env] = s.Value
		}
		for _, root := range c.Reproducible.Roots {
			if strings.ContainsRune(root, os.PathListSeparator) {
				return // no list in the environment can hold it
			}
		}
		again := &Config{Place: Place{File: "client.toml", origins: map[string]string{}}}
		again.setDefaults()
		if err := again.applyEnv(again.keys(), func(name string) (string, bool) { v, ok := env[name]; return v, ok }); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		for i, s := range again.Settings() {
			if want := c.Settings()[i]; s.Value != want.Value {
				t.Fatalf("%q: %s is %q, by the environment %q", text, s.Key, want.Value, s.Value)
			}
		}
	})
}
