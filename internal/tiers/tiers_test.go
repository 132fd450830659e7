package tiers

import (
	"context"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/shared"
	"hpcc.dev/hpcc/internal/store"
)

// settings reads a client's settings with these tiers.
func settings(t *testing.T, text string) *config.Shared {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "client.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.LoadFrom(func(name string) (string, bool) {
		return map[string]string{"HPCC_CONFIG_DIR": dir, "HPCC_CACHE_DIR": dir + "/cache"}[name], name == "HPCC_CONFIG_DIR" || name == "HPCC_CACHE_DIR"
	})
	if err != nil {
		t.Fatal(err)
	}
	return &c.Cache.Shared
}

func signingKey(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "key")
	if _, err := shared.GenerateKey(file, shared.RoleClient, "me"); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestSet writes a result with one set of settings and reads it with others: what
// the two have in common, and what keeps them apart.
func TestSet(t *testing.T) {
	dir, key, seal := t.TempDir()+"/share", signingKey(t), t.TempDir()+"/seal"
	if err := store.CreateKey(seal); err != nil {
		t.Fatal(err)
	}
	const head = "[cache]\nsigning_key_file = \"KEY\"\n[[cache.tiers]]\nname = \"near\"\nurl = \"file://DIR\"\nauto_create = true\n"
	text := strings.NewReplacer("KEY", key, "DIR", dir).Replace(head)
	e := &action.Entry{Action: action.Action{Command: []string{"cc"}}, Result: action.Result{Outputs: []action.Output{{Role: "object", Digest: digest.Of([]byte("o"))}}}}
	put := func(text, tenant string) {
		t.Helper()
		c := open(t, text, tenant)
		c.Put(digest.Key{1}, "", e, map[digest.Digest][]byte{digest.Of([]byte("o")): []byte("o")})
		if err := c.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	has := func(text, tenant string) bool {
		t.Helper()
		c := open(t, text, tenant)
		defer func() { _ = c.Close(t.Context()) }()
		f := c.Result(t.Context(), e.Action.Key())
		if s := c.Stats(); len(s.Tiers) != 1 || s.Tiers[0].Name != "near" || s.Tiers[0].State != shared.StateOK && s.Tiers[0].State != shared.StateFailing {
			t.Errorf("%+v", s)
		}
		return f != nil && f.Tier == "near" && string(f.Blobs[digest.Of([]byte("o"))]) == "o"
	}
	put(text+"access = \"read-only\"\n", "red")
	if _, err := os.Stat(dir); err == nil || has(text, "red") {
		t.Error("a tier that is only read was written to")
	}
	put(text, "red")
	for name, c := range map[string]struct {
		text, tenant string
		want         bool
	}{
		"the same":         {text, "red", true},
		"read only":        {text + "access = \"read-only\"\n", "red", true},
		"another tenant":   {text, "blue", false},
		"another key":      {strings.Replace(text, key, signingKey(t), 1), "red", false},
		"encrypted":        {text + "encryption_key_file = \"" + seal + "\"\n", "red", false},
		"without a memory": {strings.Replace(text, "[cache]\n", "[cache]\nmemory = \"\"\n", 1), "red", true},
	} {
		if got := has(c.text, c.tenant); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	sealed := text + "encryption_key_file = \"" + seal + "\"\n"
	put(sealed, "green")
	if !has(sealed, "green") || has(text, "green") {
		t.Error("what is encrypted is not read by who has the key, or by who has not")
	}
}

func open(t *testing.T, text, tenant string) *Owned {
	t.Helper()
	s, err := Open(settings(t, text), nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Own(tenant)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestOpenErrors(t *testing.T) {
	key := signingKey(t)
	loose := t.TempDir() + "/seal"
	if err := os.WriteFile(loose, []byte(base64.StdEncoding.EncodeToString(make([]byte, 32))), 0o644); err != nil {
		t.Fatal(err)
	}
	tier := "[[cache.tiers]]\nname = \"near\"\nurl = \"file:///nowhere\"\n"
	for want, text := range map[string]string{
		"no such file":          "[cache]\nsigning_key_file = \"/nowhere/key\"\n" + tier,
		"trusted keys":          "[cache]\ntrusted_keys_file = \"" + key + "\"\n" + tier,
		"tier near: ":           "[cache]\nsigning_key_file = \"" + key + "\"\n" + tier + "encryption_key_file = \"/nowhere/seal\"\n",
		"not a usable key file": "[cache]\nsigning_key_file = \"" + key + "\"\n" + tier + "encryption_key_file = \"" + loose + "\"\n",
		"chmod 600":             "[cache]\nsigning_key_file = \"" + loose + "\"\n" + tier,
	} {
		if _, err := Open(settings(t, text), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
}

// A key that somebody else has is asked for by the first call, and by the next one
// while there is none.
func TestAskedKey(t *testing.T) {
	var err error
	asks := 0
	a := &asked{under: store.NewMemory(1 << 20), key: func(context.Context) ([]byte, error) {
		asks++
		return make([]byte, store.SealKeySize), err
	}}
	err = errors.New("nobody answers")
	for range 2 {
		if _, got := a.Get(t.Context(), "x/y/z", 10); !errors.Is(got, store.ErrUnavailable) {
			t.Errorf("%v", got)
		}
	}
	err = nil
	if _, err := a.Put(t.Context(), "x/y/z", []byte("body"), store.Condition{}); err != nil {
		t.Fatal(err)
	}
	o, err := a.Get(t.Context(), "x/y/z", 10)
	if err != nil || string(o.Body) != "body" || asks != 3 {
		t.Errorf("%q, %v, asked %d times", o.Body, err, asks)
	}
	var clear []string
	_ = a.under.List(t.Context(), "", func(i store.Info) error {
		clear = append(clear, i.Name)
		return nil
	})
	if len(clear) != 1 || clear[0] == "x/y/z" {
		t.Errorf("%q", clear)
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	tier := &config.Tier{Name: "near", Dir: dir, Access: config.ReadWrite}
	if h, err := Check(t.Context(), tier); err != nil || !h.Writable || h.Where != "file://"+dir {
		t.Errorf("%+v, %v", h, err)
	}
	left := 0
	_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasPrefix(d.Name(), ".") && !strings.Contains(path, "/.") {
			left++
		}
		return nil
	})
	if left > 0 {
		t.Errorf("%d files are left", left)
	}
	tier.Access = config.ReadOnly
	if h, err := Check(t.Context(), tier); err != nil || h.Writable {
		t.Errorf("%+v, %v", h, err)
	}
	tier.Dir = dir + "/none"
	if h, err := Check(t.Context(), tier); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("%+v, %v", h, err)
	}
	tier = &config.Tier{Name: "far", Bucket: "bucket", Prefix: "cache/", Region: "us-east-1", Endpoint: "http://127.0.0.1:1", PathStyle: true, Access: config.ReadWrite}
	t.Setenv("AWS_ACCESS_KEY_ID", "k")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
	if h, err := Check(t.Context(), tier); !errors.Is(err, store.ErrUnavailable) || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("%+v, %v", h, err)
	}
}
