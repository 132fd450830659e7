package auth

import (
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func open(t testing.TB, dir string, opt KeyringOptions) *Keyring {
	t.Helper()
	k, err := OpenKeyring(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func keyFiles(t testing.TB, dir string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func rotate(t testing.TB, k *Keyring) {
	t.Helper()
	if err := k.Rotate(); err != nil {
		t.Fatal(err)
	}
}

// kid is the key that a token names.
func kid(t testing.TB, k *Keyring) string {
	t.Helper()
	token := sign(t, k, testTask())
	jwks := k.JWKS()
	var set jwkSet
	if err := json.Unmarshal(jwks, &set); err != nil {
		t.Fatal(err)
	}
	for _, key := range set.Keys {
		v := NewVerifier()
		if err := v.Update([]byte(`{"keys":[` + encodeKey(t, key) + `]}`)); err != nil {
			t.Fatal(err)
		}
		if _, err := v.Verify(token, "w1"); err == nil {
			return key.KeyID
		}
	}
	t.Fatalf("a token that no published key has signed: %s", jwks)
	return ""
}

func encodeKey(t testing.TB, k jwk) string {
	b, err := json.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func published(t testing.TB, k *Keyring) map[string]bool {
	t.Helper()
	keys, err := decodeJWKS(k.JWKS())
	if err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for id := range keys {
		ids[id] = true
	}
	return ids
}

// A restart breaks no token, and makes no key.
func TestKeyringPersists(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "keys")
	k := open(t, dir, KeyringOptions{})
	token := sign(t, k, testTask())
	again := open(t, dir, KeyringOptions{})
	v := NewVerifier()
	if err := v.Update(again.JWKS()); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(token, "w1"); err != nil {
		t.Error(err)
	}
	files := keyFiles(t, dir)
	if len(files) != 1 || string(again.JWKS()) != string(k.JWKS()) {
		t.Errorf("files: %v", files)
	}
	if runtime.GOOS != "windows" {
		for path, want := range map[string]os.FileMode{files[0]: 0o600, dir: 0o700} {
			if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != want {
				t.Errorf("%s: %v, %v", path, fi.Mode(), err)
			}
		}
	}
}

// A new key is published before it signs, and an old one as long as what it
// signed can live.
func TestRotate(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		k := open(t, dir, KeyringOptions{})
		first := kid(t, k)
		made := k.Newest()
		time.Sleep(24 * time.Hour)
		rotate(t, k)
		if !k.Newest().Equal(made.Add(24 * time.Hour)) {
			t.Errorf("the newest was made at %v", k.Newest())
		}
		if ids := published(t, k); len(ids) != 2 || !ids[first] {
			t.Errorf("published at once: %v", ids)
		}
		time.Sleep(DefaultAnnounce - time.Second)
		if kid(t, k) != first {
			t.Error("a key signs that was not announced for long enough")
		}
		// The last token of the first key.
		last := testTask()
		last.Expires = time.Now().Add(MaxLifetime)
		token := sign(t, k, last)
		time.Sleep(time.Second)
		second := kid(t, k)
		if second == first {
			t.Error("the new key does not sign")
		}
		time.Sleep(MaxLifetime + Skew - 3*time.Second)
		v := NewVerifier()
		if err := v.Update(k.JWKS()); err != nil {
			t.Fatal(err)
		}
		if _, err := v.Verify(token, "w1"); err != nil {
			t.Errorf("while it lives: %v", err)
		}
		time.Sleep(overlap)
		if ids := published(t, k); len(ids) != 1 || !ids[second] {
			t.Errorf("published at the end: %v", ids)
		}
		// The file goes with the next rotation.
		if n := len(keyFiles(t, dir)); n != 2 {
			t.Errorf("%d files", n)
		}
		rotate(t, k)
		if _, err := os.Stat(k.path(first)); err == nil || len(keyFiles(t, dir)) != 2 {
			t.Errorf("files: %v", keyFiles(t, dir))
		}
	})
}

func TestRotateAtOnce(t *testing.T) {
	k := open(t, t.TempDir(), KeyringOptions{Announce: -1})
	first := kid(t, k)
	rotate(t, k)
	if kid(t, k) == first {
		t.Error("the old key signs")
	}
	for range MaxKeys - 2 {
		rotate(t, k)
	}
	if err := k.Rotate(); err == nil || len(published(t, k)) != MaxKeys {
		t.Errorf("%d keys, %v", len(published(t, k)), err)
	}
	v := NewVerifier()
	if err := v.Update(k.JWKS()); err != nil {
		t.Errorf("what is published cannot be read: %v", err)
	}
}

// Two processes share a directory: each publishes what the other signs with.
func TestKeyringShared(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		a := open(t, dir, KeyringOptions{})
		b := open(t, dir, KeyringOptions{})
		if kid(t, a) != kid(t, b) {
			t.Fatal("two keys")
		}
		first := kid(t, a)
		rotate(t, a)
		time.Sleep(refreshEvery)
		if len(published(t, b)) != 2 {
			t.Error("the other's key is not published")
		}
		time.Sleep(DefaultAnnounce)
		if kid(t, a) != kid(t, b) || kid(t, a) == first {
			t.Error("they sign with different keys")
		}
		time.Sleep(2 * overlap)
		rotate(t, b) // and removes the first
		time.Sleep(refreshEvery)
		if ids := published(t, a); len(ids) != 2 || ids[first] {
			t.Errorf("published: %v", ids)
		}
		if len(keyFiles(t, dir)) != 2 {
			t.Errorf("files: %v", keyFiles(t, dir))
		}
	})
}

// Processes that start at once on an empty directory agree in the end.
func TestKeyringStartedTwice(t *testing.T) {
	dir := t.TempDir()
	var all [4]*Keyring
	var wg sync.WaitGroup
	for i := range all {
		wg.Go(func() {
			k, err := OpenKeyring(dir, KeyringOptions{})
			if err != nil {
				t.Error(err)
			}
			all[i] = k
		})
	}
	wg.Wait()
	want := published(t, open(t, dir, KeyringOptions{}))
	for _, k := range all {
		k.mu.Lock()
		k.read = time.Time{}
		k.mu.Unlock()
		if got := published(t, k); len(got) != len(want) {
			t.Errorf("%v, want %v", got, want)
		}
		if !want[kid(t, k)] {
			t.Error("signed with a key that a later process does not have")
		}
	}
}

func TestKeyringConcurrent(t *testing.T) {
	k := open(t, t.TempDir(), KeyringOptions{Announce: -1})
	v := NewVerifier()
	if err := v.Update(k.JWKS()); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 10 {
				token, err := k.Sign(testTask())
				if err != nil {
					t.Error(err)
					continue
				}
				if err := v.Update(k.JWKS()); err != nil {
					t.Error(err)
				}
				if _, err := v.Verify(token, "w1"); err != nil && problem(err) != UnknownKey {
					t.Error(err)
				}
			}
		})
	}
	for range 5 {
		rotate(t, k)
	}
	wg.Wait()
}

func TestDamagedKeys(t *testing.T) {
	for name, c := range map[string]struct {
		damage func(path string) error
		want   string
	}{
		"empty": {func(p string) error { return os.Truncate(p, 0) }, "damaged"},
		"another key": {func(p string) error {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			i := strings.Index(string(b), `"seed": "`) + len(`"seed": "`)
			if b[i] = 'A'; b[i+1] == 'A' {
				b[i+1] = 'B'
			} else {
				b[i+1] = 'A'
			}
			return os.WriteFile(p, b, 0o600)
		}, "damaged"},
		"huge":      {func(p string) error { return os.Truncate(p, 1<<30) }, "damaged"},
		"readable":  {func(p string) error { return os.Chmod(p, 0o640) }, "read by others"},
		"directory": {func(p string) error { return os.Mkdir(filepath.Join(filepath.Dir(p), "key-x.json"), 0o700) }, "key-x.json"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			k := open(t, dir, KeyringOptions{})
			path := keyFiles(t, dir)[0]
			secret, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.damage(path); err != nil {
				t.Fatal(err)
			}
			_, err = OpenKeyring(dir, KeyringOptions{})
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), dir) {
				t.Errorf("%v", err)
			}
			var f keyFile
			if json.Unmarshal(secret, &f) == nil && err != nil && strings.Contains(err.Error(), string(f.Seed)) {
				t.Error("the error holds the key")
			}
			// A process that has the key goes on.
			sign(t, k, testTask())
		})
	}
}

// What is no key is let be, but for what a killed writer left long ago.
func TestKeyringTemps(t *testing.T) {
	dir := t.TempDir()
	old, young, note := filepath.Join(dir, ".tmp-old"), filepath.Join(dir, ".tmp-young"), filepath.Join(dir, "README")
	for _, p := range []string{old, young, note} {
		if err := os.WriteFile(p, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	then := time.Now().Add(-2 * time.Hour)
	for _, p := range []string{old, note} {
		if err := os.Chtimes(p, then, then); err != nil {
			t.Fatal(err)
		}
	}
	open(t, dir, KeyringOptions{})
	for p, want := range map[string]bool{old: false, young: true, note: true} {
		if _, err := os.Lstat(p); (err == nil) != want {
			t.Errorf("%s: %v", p, err)
		}
	}
}

// If all files vanish under a process, it keeps what it knows.
func TestKeyringEmptied(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		k := open(t, dir, KeyringOptions{})
		id := kid(t, k)
		for _, p := range keyFiles(t, dir) {
			if err := os.Remove(p); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(2 * refreshEvery)
		if kid(t, k) != id {
			t.Error("another key")
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * refreshEvery)
		if kid(t, k) != id {
			t.Error("another key")
		}
	})
}

func BenchmarkSign(b *testing.B) {
	k, _ := ring(b)
	for b.Loop() {
		sign(b, k, testTask())
	}
}

func BenchmarkVerify(b *testing.B) {
	k, v := ring(b)
	token := sign(b, k, testTask())
	for b.Loop() {
		if _, err := v.Verify(token, "w1"); err != nil {
			b.Fatal(err)
		}
	}
}
