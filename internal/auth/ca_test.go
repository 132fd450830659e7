package auth

import (
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestCA(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "ca")
	if _, err := OpenCA(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no CA: %v", err)
	}
	ca, err := InitCA(dir, "acme's CA")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := InitCA(dir, "another"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second one: %v", err)
	}
	again, err := OpenCA(dir)
	if err != nil || string(again.PEM()) != string(ca.PEM()) {
		t.Fatalf("%v", err)
	}
	if years := time.Until(ca.Expires()).Hours() / 24 / 365; years < 9.9 || years > 10 {
		t.Errorf("good for %v years", years)
	}
	out := filepath.Join(dir, "out")
	i, err := again.Issue("w1", []string{"w1.example", "127.0.0.1"}, out)
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" {
		for path, want := range map[string]os.FileMode{
			filepath.Join(dir, CAKeyFile): 0o600, filepath.Join(dir, CACertFile): 0o644, i.KeyFile: 0o600, i.CertFile: 0o644, dir: 0o700,
		} {
			if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != want {
				t.Errorf("%s: %v, %v", path, fi.Mode(), err)
			}
		}
	}
	b, err := os.ReadFile(i.CertFile)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := parseCert(b)
	if err != nil {
		t.Fatal(err)
	}
	if cert.IsCA || len(cert.ExtKeyUsage) != 1 || cert.ExtKeyUsage[0] != x509.ExtKeyUsageServerAuth || PinOf(cert) != i.Pin {
		t.Errorf("certificate %+v", cert)
	}
	if _, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || !cert.NotAfter.Equal(i.Expires) {
		t.Errorf("key %T, until %v", cert.PublicKey, cert.NotAfter)
	}
	if days := time.Until(i.Expires).Hours() / 24; days < 364 || days > 365 {
		t.Errorf("good for %v days", days)
	}
	// What was there stays, and nothing else is left.
	if _, err := ca.Issue("w1", []string{"w1.example"}, out); !errors.Is(err, fs.ErrExist) {
		t.Errorf("the same name: %v", err)
	}
	if err := os.Remove(i.CertFile); err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Issue("w1", []string{"w1.example"}, out); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a key without a certificate: %v", err)
	}
	if list, err := os.ReadDir(out); err != nil || len(list) != 1 {
		t.Errorf("left: %v, %v", list, err)
	}
}

// Another implementation agrees with the certificates.
func TestCAByOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Fatal(err)
	}
	ca, i := issue(t, "w1.example", "192.0.2.1")
	for _, args := range [][]string{
		{"verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname", "w1.example", "-CAfile", ca, i.CertFile},
		{"verify", "-x509_strict", "-purpose", "sslserver", "-verify_ip", "192.0.2.1", "-CAfile", ca, i.CertFile},
	} {
		if out, err := exec.Command(openssl, args...).CombinedOutput(); err != nil {
			t.Errorf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	for _, args := range [][]string{
		{"verify", "-purpose", "sslserver", "-verify_hostname", "w2.example", "-CAfile", ca, i.CertFile},
		{"verify", "-purpose", "sslclient", "-CAfile", ca, i.CertFile},
	} {
		if out, err := exec.Command(openssl, args...).CombinedOutput(); err == nil {
			t.Errorf("openssl %s: %s", strings.Join(args, " "), out)
		}
	}
	// The pin, as people compute it.
	sh := exec.Command("sh", "-c", `openssl x509 -in "$0" -noout -pubkey | openssl pkey -pubin -outform der | openssl dgst -sha256 -r`, i.CertFile)
	if out, err := sh.Output(); err != nil || "sha256:"+strings.Fields(string(out))[0] != i.Pin.String() {
		t.Errorf("%s, %v; want %v", out, err, i.Pin)
	}
}

func TestIssueRefuses(t *testing.T) {
	dir := t.TempDir()
	ca, err := InitCA(dir, "test CA")
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "out")
	for _, host := range []string{
		"", ".", "a..b", "-a.example", "a-.example", "a b", "http://a.example", "a.example:443", "*", "*.", "a.*.example", "**.example",
		"1.2.3", "256.1.1.1", "1.2.3.4/24", "[::1]", "ä.example", "a\x00.example", strings.Repeat("a", 64) + ".example", strings.Repeat("a.", 130) + "a",
	} {
		if _, err := ca.Issue("w1", []string{"good.example", host}, out); err == nil {
			t.Errorf("host %q", host)
		}
	}
	for _, name := range []string{"", "../w1", "W1", "a/b"} {
		if _, err := ca.Issue(name, []string{"a.example"}, out); err == nil {
			t.Errorf("name %q", name)
		}
	}
	if _, err := ca.Issue("w1", nil, out); err == nil {
		t.Error("no host")
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("something was written")
	}
	for _, name := range []string{"", "a\nb", strings.Repeat("x", 65)} {
		if _, err := InitCA(filepath.Join(dir, "other"), name); err == nil {
			t.Errorf("CA %q", name)
		}
	}
}

func TestCAEnds(t *testing.T) {
	ca, err := InitCA(t.TempDir(), "test CA")
	if err != nil {
		t.Fatal(err)
	}
	soon := time.Now().Add(time.Hour).Truncate(time.Second)
	ca.cert.NotAfter = soon
	i, err := ca.Issue("w1", []string{"a.example"}, t.TempDir())
	if err != nil || !i.Expires.Equal(soon) {
		t.Errorf("%v, %v", i.Expires, err)
	}
	ca.cert.NotAfter = time.Now().Add(-time.Hour)
	if _, err := ca.Issue("w1", []string{"a.example"}, t.TempDir()); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("%v", err)
	}
}

func TestDamagedCA(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"no certificate":  func(d string) error { return os.WriteFile(filepath.Join(d, CACertFile), []byte("x"), 0o600) },
		"no key":          func(d string) error { return os.Remove(filepath.Join(d, CAKeyFile)) },
		"an empty key":    func(d string) error { return os.Truncate(filepath.Join(d, CAKeyFile), 0) },
		"huge":            func(d string) error { return os.Truncate(filepath.Join(d, CACertFile), 1<<30) },
		"files exchanged": func(d string) error { return os.Rename(filepath.Join(d, CACertFile), filepath.Join(d, CAKeyFile)) },
		"another's key":   func(d string) error { return swap(d, CAKeyFile, CAKeyFile) },
		"a server's pair": func(d string) error { return errors.Join(swap(d, CACertFile, "w1.crt"), swap(d, CAKeyFile, "w1.key")) },
		"a directory there": func(d string) error {
			return errors.Join(os.Remove(filepath.Join(d, CAKeyFile)), os.Mkdir(filepath.Join(d, CAKeyFile), 0o700))
		},
	} {
		dir := t.TempDir()
		if _, err := InitCA(dir, "test CA"); err != nil {
			t.Fatal(err)
		}
		if err := damage(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenCA(dir); err == nil {
			t.Errorf("%s: opened", name)
		} else if strings.Contains(err.Error(), "PRIVATE") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// swap puts a file of another CA, or of a server of it, in the place of one.
func swap(dir, name, other string) error {
	d, err := os.MkdirTemp(dir, "other")
	if err != nil {
		return err
	}
	ca, err := InitCA(filepath.Join(dir, "same"), "test CA")
	if errors.Is(err, fs.ErrExist) {
		ca, err = OpenCA(filepath.Join(dir, "same"))
	}
	if err != nil {
		return err
	}
	if _, err := ca.Issue("w1", []string{"a.example"}, filepath.Join(dir, "same")); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := os.Remove(d); err != nil {
		return err
	}
	return os.Rename(filepath.Join(dir, "same", other), filepath.Join(dir, name))
}
