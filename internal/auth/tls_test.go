package auth

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// handshake joins a client and a server, and returns the client's error.
func handshake(t *testing.T, client, server *tls.Config) error {
	t.Helper()
	// Not a net.Pipe, which holds nothing: an alert would wait for its reader.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		conn := tls.Server(c, server)
		defer conn.Close()
		c.SetDeadline(time.Now().Add(time.Minute))
		if err = conn.Handshake(); err == nil {
			_, err = conn.Write([]byte("hello"))
		}
		done <- err
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(time.Minute))
	conn := tls.Client(c, client)
	if err = conn.Handshake(); err == nil {
		var b []byte
		if b, err = io.ReadAll(conn); err == nil && string(b) != "hello" {
			t.Errorf("read %q", b)
		}
		if v := conn.ConnectionState().Version; v != tls.VersionTLS13 {
			t.Errorf("version %x", v)
		}
	}
	c.Close()
	<-done
	return err
}

// selfSigned is a certificate that nobody but its key vouches for.
func selfSigned(t *testing.T, key *ecdsa.PrivateKey, notAfter time.Time) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: notAfter, DNSNames: []string{"else.example"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestPinnedTLS(t *testing.T) {
	key, other := newKey(t), newKey(t)
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	pin := Pin(sha256.Sum256(spki))
	future, past := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
	server := func(c ...tls.Certificate) *tls.Config { return &tls.Config{Certificates: c} }
	// Nothing but the key counts.
	for name, cert := range map[string]tls.Certificate{"self-signed": selfSigned(t, key, future), "expired": selfSigned(t, key, past)} {
		if err := handshake(t, PinnedTLS(pin), server(cert)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The right key somewhere in the chain is not the server's.
	chain := selfSigned(t, other, future)
	chain.Certificate = append(chain.Certificate, selfSigned(t, key, future).Certificate...)
	for name, cert := range map[string]tls.Certificate{"another key": selfSigned(t, other, future), "the key behind another": chain} {
		var e *PinError
		if err := handshake(t, PinnedTLS(pin), server(cert)); !errors.As(err, &e) || e.Want != pin || e.Got == pin {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The right certificate without its key.
	stolen := selfSigned(t, key, future)
	stolen.PrivateKey = other
	if err := handshake(t, PinnedTLS(pin), server(stolen)); err == nil {
		t.Error("a server without the key was accepted")
	}
	old := server(selfSigned(t, key, future))
	old.MaxVersion = tls.VersionTLS12
	if err := handshake(t, PinnedTLS(pin), old); err == nil {
		t.Error("TLS 1.2 was accepted")
	}
	if err := handshake(t, PinnedTLS(Pin{}), server(selfSigned(t, key, future))); err == nil {
		t.Error("no pin is any pin")
	}
	// The pin holds for a connection that is resumed, too.
	cache := tls.NewLRUClientSessionCache(1)
	srv := server(selfSigned(t, key, future))
	for _, want := range []Pin{pin, {}} {
		cfg := PinnedTLS(want)
		cfg.ClientSessionCache, cfg.ServerName = cache, "w1"
		if err := handshake(t, cfg, srv); (err == nil) != (want == pin) {
			t.Errorf("pin %v: %v", want, err)
		}
	}
}

func TestPins(t *testing.T) {
	sum := sha256.Sum256([]byte("x"))
	pin, err := PinFromBytes(sum[:])
	if err != nil || pin.String() != "sha256:"+hex.EncodeToString(sum[:]) {
		t.Errorf("%v, %v", pin, err)
	}
	for _, bad := range [][]byte{nil, sum[:31], append(sum[:], 0)} {
		if _, err := PinFromBytes(bad); err == nil {
			t.Errorf("%d bytes are a pin", len(bad))
		}
	}
}

// issue makes a CA and a server's certificate of it.
// issued counts issue's calls.
var issued int

func issue(t *testing.T, hosts ...string) (ca string, i Issued) {
	t.Helper()
	dir := t.TempDir()
	c, err := InitCA(dir, "test CA")
	if err != nil {
		t.Fatal(err)
	}
	i, err = c.Issue("server", hosts, filepath.Join(dir, "out"))
	if err != nil {
		t.Fatal(err)
	}
	// Files of two pairs differ in their times, though both were made within one
	// tick of the file system's clock.
	issued++
	at := time.Now().Add(-time.Duration(issued) * time.Minute)
	for _, name := range []string{i.CertFile, i.KeyFile} {
		if err := os.Chtimes(name, at, at); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, CACertFile), i
}

func TestCATLS(t *testing.T) {
	caFile, i := issue(t, "build.example", "*.w.example", "192.0.2.1", "::1")
	otherCA, _ := issue(t, "build.example")
	server, pin, err := ServerTLS(i.CertFile, i.KeyFile, nil)
	if err != nil {
		t.Fatal(err)
	}
	if pin() != i.Pin {
		t.Errorf("pin %v, issued with %v", pin(), i.Pin)
	}
	for host, want := range map[string]bool{
		"build.example": true, "a.w.example": true, "192.0.2.1": true, "::1": true,
		"else.example": false, "a.b.w.example": false, "192.0.2.2": false, "": false,
	} {
		client, err := CATLS(caFile)
		if err != nil {
			t.Fatal(err)
		}
		client.ServerName = host
		if err := handshake(t, client, server); (err == nil) != want {
			t.Errorf("%q: %v", host, err)
		}
	}
	for name, file := range map[string]string{"another CA": otherCA, "the system's CAs": ""} {
		client, err := CATLS(file)
		if err != nil {
			t.Fatal(err)
		}
		client.ServerName = "build.example"
		var unknown x509.UnknownAuthorityError
		if err := handshake(t, client, server); !errors.As(err, &unknown) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := handshake(t, PinnedTLS(i.Pin), server); err != nil {
		t.Errorf("pinned: %v", err)
	}
	for name, file := range map[string]string{"missing": caFile + "x", "a key": i.KeyFile, "a directory": filepath.Dir(caFile)} {
		if _, err := CATLS(file); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestServerTLSErrors(t *testing.T) {
	_, i := issue(t, "a.example")
	_, other := issue(t, "a.example")
	for name, c := range map[string][2]string{
		"no certificate": {i.CertFile + "x", i.KeyFile}, "no key": {i.CertFile, i.KeyFile + "x"},
		"exchanged": {i.KeyFile, i.CertFile}, "another's key": {i.CertFile, other.KeyFile},
	} {
		if _, _, err := ServerTLS(c[0], c[1], nil); err == nil || !strings.Contains(err.Error(), filepath.Dir(i.CertFile)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestServerTLSReloads(t *testing.T) {
	_, first := issue(t, "a.example")
	_, second := issue(t, "b.example")
	var log bytes.Buffer
	r := &reloader{certFile: first.CertFile, keyFile: first.KeyFile, log: slog.New(slog.NewTextHandler(&log, nil))}
	stamp, err := r.stat()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.load(stamp); err != nil {
		t.Fatal(err)
	}
	move := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	look := func(want Pin, what string) {
		t.Helper()
		r.checked = time.Now().Add(-recheck)
		if cert, pin := r.now(); pin != want || PinOf(cert.Leaf) != want {
			t.Errorf("%s: pin %v, want %v\n%s", what, pin, want, &log)
		}
	}
	look(first.Pin, "unchanged")
	if log.Len() > 0 {
		t.Errorf("unchanged: %s", &log)
	}
	move(second.CertFile, first.CertFile)
	r.checked = time.Now().Add(time.Hour)
	if _, pin := r.now(); pin != first.Pin {
		t.Error("the files are looked at for each connection")
	}
	look(first.Pin, "half a pair")
	look(first.Pin, "half a pair, again")
	if n := strings.Count(log.String(), "level=WARN"); n != 1 {
		t.Errorf("said %d times: %s", n, &log)
	}
	move(second.KeyFile, first.KeyFile)
	look(second.Pin, "the pair")
	if err := os.WriteFile(first.KeyFile, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	look(second.Pin, "an empty key")
	if err := os.Remove(first.KeyFile); err != nil {
		t.Fatal(err)
	}
	look(second.Pin, "no key")
}

// A server that runs takes a new certificate for new connections.
func TestServerTLSReloadsForConnections(t *testing.T) {
	_, first := issue(t, "a.example")
	_, second := issue(t, "b.example")
	server, pin, err := ServerTLS(first.CertFile, first.KeyFile, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := handshake(t, PinnedTLS(first.Pin), server); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{second.CertFile: first.CertFile, second.KeyFile: first.KeyFile} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(time.Minute); pin() != second.Pin; time.Sleep(recheck / 10) {
		if time.Now().After(deadline) {
			t.Fatal("the new certificate was not read")
		}
	}
	if err := handshake(t, PinnedTLS(second.Pin), server); err != nil {
		t.Error(err)
	}
	if err := handshake(t, PinnedTLS(first.Pin), server); err == nil {
		t.Error("the old key was used")
	}
}
