package auth

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"hpcc.dev/hpcc/internal/atomicfile"
)

// Pin is the SHA-256 of a certificate's public key (its DER-encoded
// SubjectPublicKeyInfo, as in RFC 7469). A certificate that is renewed for the
// same key keeps its pin.
type Pin [sha256.Size]byte

// PinOf is the pin of a certificate's key.
func PinOf(c *x509.Certificate) Pin { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// PinFromBytes is the pin that a message holds.
func PinFromBytes(b []byte) (Pin, error) {
	if len(b) != len(Pin{}) {
		return Pin{}, fmt.Errorf("pin of %d bytes, want %d", len(b), len(Pin{}))
	}
	return Pin(b), nil
}

// String writes the pin for people, as sha256: and hex digits.
func (p Pin) String() string { return "sha256:" + hex.EncodeToString(p[:]) }

// PinError says that a server has not the key that was pinned.
type PinError struct{ Want, Got Pin }

func (e *PinError) Error() string {
	return fmt.Sprintf("the server's key is %v, and %v was asked for", e.Got, e.Want)
}

// PinnedTLS is a client's configuration that accepts the server that has the
// pinned key, and no other. It asks for nothing else: neither a name, nor a time,
// nor anybody's signature on the certificate. A handshake with another ends with
// an error that holds a *PinError.
func PinnedTLS(pin Pin) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		// VerifyConnection does it instead, for resumed connections as well.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			// The handshake proves that the server has this one's private key.
			if len(s.PeerCertificates) == 0 {
				return errors.New("the server has no certificate")
			}
			if got := PinOf(s.PeerCertificates[0]); got != pin {
				return &PinError{pin, got}
			}
			return nil
		},
	}
}

// maxPEM bounds a file of certificates: a bundle of all public CAs has 250 kB.
const maxPEM = 4 << 20

// CATLS is a client's configuration that trusts the CAs in a file of PEM
// certificates, and no others; or those of the system, if caFile is "". The name
// of the server is checked as usual.
func CATLS(caFile string) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS13}
	if caFile == "" {
		return cfg, nil
	}
	b, err := atomicfile.Read(caFile, maxPEM)
	if err != nil {
		return nil, fmt.Errorf("CA certificates: %w", err)
	}
	cfg.RootCAs = x509.NewCertPool()
	if !cfg.RootCAs.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("CA certificates: %s holds none in PEM", caFile)
	}
	return cfg, nil
}

// ServerTLS is a server's configuration with a certificate and key from PEM
// files, and the pin of that key, as it is now. When the files change, new
// connections get what is in them, within seconds and without a restart; a pair
// that cannot be read or does not belong together is logged to log (nil is
// slog.Default()), and the old one stays.
func ServerTLS(certFile, keyFile string, log *slog.Logger) (*tls.Config, func() Pin, error) {
	if log == nil {
		log = slog.Default()
	}
	r := &reloader{certFile: certFile, keyFile: keyFile, log: log}
	stamp, err := r.stat()
	if err != nil {
		return nil, nil, fmt.Errorf("certificate: %w", err)
	}
	if err := r.load(stamp); err != nil {
		return nil, nil, fmt.Errorf("certificate: %w", err)
	}
	r.checked = time.Now()
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			cert, _ := r.now()
			return cert, nil
		},
		// A ticket would carry a client over to a certificate's successor.
		SessionTicketsDisabled: true,
	}
	pin := func() Pin {
		_, pin := r.now()
		return pin
	}
	return cfg, pin, nil
}

// reloader has a pair of files, and what was in them.
type reloader struct {
	certFile, keyFile string
	log               *slog.Logger

	mu      sync.Mutex
	cert    *tls.Certificate
	pin     Pin
	loaded  [2]stamp // of what cert was read from
	said    string   // why it could not be read again, so that it is said once
	checked time.Time
}

// stamp tells one content of a file from the next.
type stamp struct {
	modified time.Time
	size     int64
}

// recheck is how long what was read is good without a look at the files.
const recheck = 2 * time.Second

func (r *reloader) stat() (s [2]stamp, err error) {
	for i, name := range []string{r.certFile, r.keyFile} {
		fi, err := os.Stat(name)
		if err != nil {
			return s, err
		}
		s[i] = stamp{fi.ModTime(), fi.Size()}
	}
	return s, nil
}

// load reads the pair; on an error what was there before stays.
func (r *reloader) load(s [2]stamp) error {
	cert, err := atomicfile.Read(r.certFile, maxPEM)
	if err != nil {
		return err
	}
	key, err := atomicfile.Read(r.keyFile, maxPEM)
	if err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("%s and %s: %w", r.certFile, r.keyFile, err)
	}
	r.cert, r.pin, r.loaded = &pair, PinOf(pair.Leaf), s
	return nil
}

func (r *reloader) now() (*tls.Certificate, Pin) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if since := now.Sub(r.checked); since >= 0 && since < recheck {
		return r.cert, r.pin
	}
	r.checked = now
	s, err := r.stat()
	if err == nil && s == r.loaded {
		return r.cert, r.pin
	}
	if err == nil {
		err = r.load(s)
	}
	// A pair is written one after the other: until both are there, it fails.
	if err == nil {
		r.said = ""
		r.log.Info("the certificate was read again", "pin", r.pin.String())
	} else if err.Error() != r.said {
		r.said = err.Error()
		r.log.Warn("the certificate was not read again; the old one stays", "error", err)
	}
	return r.cert, r.pin
}
