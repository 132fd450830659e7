package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"hpcc.dev/hpcc/internal/atomicfile"
)

// The files of a CA's directory.
const (
	CACertFile = "ca.crt"
	CAKeyFile  = "ca.key"
)

const (
	// caLife is long, since every client has the certificate; serverLife is what
	// public CAs were last allowed to give.
	caLife     = 10 * 365 * 24 * time.Hour
	serverLife = 365 * 24 * time.Hour
	// early lets machines whose clocks are behind accept a certificate at once.
	early = time.Hour

	maxHosts = 100
)

// CA makes certificates for servers of a site that has no CA of its own: a key
// on curve P-256 and its self-signed certificate, in one directory
// (CACertFile, CAKeyFile). Whoever can read the key can be any server; nothing
// of hpcc needs it but Issue.
type CA struct {
	cert *x509.Certificate
	pem  []byte
	key  crypto.Signer
}

// InitCA makes a CA in dir, which it makes if needed, with name in its
// certificate's subject. It replaces no file: an error that wraps fs.ErrExist
// says that there is a CA.
func InitCA(dir, name string) (*CA, error) {
	if err := checkCommonName(name); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-early), NotAfter: now.Add(caLife),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		// It signs servers' certificates and no further CAs.
		BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	if err := writePair(filepath.Join(dir, CACertFile), certPEM(der), filepath.Join(dir, CAKeyFile), key); err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	return OpenCA(dir)
}

// OpenCA opens the CA in dir; an error that wraps fs.ErrNotExist says that there
// is none.
func OpenCA(dir string) (*CA, error) {
	b, err := atomicfile.Read(filepath.Join(dir, CACertFile), maxPEM)
	if err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	cert, err := parseCert(b)
	if err != nil {
		return nil, fmt.Errorf("CA: %s: %w", filepath.Join(dir, CACertFile), err)
	}
	if !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return nil, fmt.Errorf("CA: %s is no CA's certificate", filepath.Join(dir, CACertFile))
	}
	keyFile := filepath.Join(dir, CAKeyFile)
	if b, err = atomicfile.Read(keyFile, maxPEM); err != nil {
		return nil, fmt.Errorf("CA: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fmt.Errorf("CA: %s holds no private key in PEM (PKCS #8)", keyFile)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("CA: %s holds no private key", keyFile)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("CA: the key in %s is not that of the certificate", keyFile)
	}
	return &CA{cert, certPEM(cert.Raw), key}, nil
}

// PEM is the CA's certificate, for those who shall trust it.
func (ca *CA) PEM() []byte { return ca.pem }

// Expires is when the CA's certificate ends.
func (ca *CA) Expires() time.Time { return ca.cert.NotAfter }

// Issued is a server's certificate and key, as files.
type Issued struct {
	CertFile, KeyFile string
	Hosts             []string
	Expires           time.Time
	Pin               Pin
}

// Issue makes a key and a certificate for the server called name, which clients
// reach as any of hosts: DNS names (also "*.example.com") and IP addresses. They
// are written to out, which is made if needed: NAME.crt, which everybody may
// read, and NAME.key. Neither is replaced: the error then wraps fs.ErrExist. The
// certificate is good for a year, and never beyond the CA's own.
func (ca *CA) Issue(name string, hosts []string, out string) (Issued, error) {
	if err := CheckName(name); err != nil {
		return Issued{}, fmt.Errorf("server's %w", err)
	}
	if len(hosts) == 0 || len(hosts) > maxHosts {
		return Issued{}, fmt.Errorf("%d hosts: a certificate is for 1 to %d", len(hosts), maxHosts)
	}
	now := time.Now()
	if !ca.cert.NotAfter.After(now) {
		return Issued{}, fmt.Errorf("the CA's certificate expired at %s: make a new CA", ca.cert.NotAfter.UTC().Format(time.RFC3339))
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-early), NotAfter: now.Add(serverLife),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	if template.NotAfter.After(ca.cert.NotAfter) {
		template.NotAfter = ca.cert.NotAfter
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if err := checkHost(h); err != nil {
			return Issued{}, err
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Issued{}, fmt.Errorf("certificate: %w", err)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		return Issued{}, fmt.Errorf("certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return Issued{}, fmt.Errorf("certificate: %w", err)
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return Issued{}, fmt.Errorf("certificate: %w", err)
	}
	issued := Issued{
		CertFile: filepath.Join(out, name+".crt"), KeyFile: filepath.Join(out, name+".key"),
		Hosts: hosts, Expires: cert.NotAfter, Pin: PinOf(cert),
	}
	if err := writePair(issued.CertFile, certPEM(der), issued.KeyFile, key); err != nil {
		return Issued{}, fmt.Errorf("certificate: %w", err)
	}
	return issued, nil
}

// checkHost tells whether h is a DNS name that a certificate can hold.
func checkHost(h string) error {
	bad := fmt.Errorf("host %q is neither an IP address nor a DNS name, such as build.example.com or *.example.com", h)
	if len(h) > 253 {
		return bad
	}
	labels := strings.Split(strings.TrimPrefix(h, "*."), ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' || strings.ContainsFunc(l, notInHost) {
			return bad
		}
	}
	// What looks like an address but is none would never match.
	if strings.Trim(labels[len(labels)-1], "0123456789") == "" {
		return bad
	}
	return nil
}

func notInHost(r rune) bool {
	return (r < 'A' || r > 'Z') && r != '_' && notInName(r)
}

func checkCommonName(name string) error {
	if err := CheckSubject(name); err != nil || len(name) > 64 { // X.520's bound
		return fmt.Errorf("a CA's name is 1 to 64 bytes that can be printed, and %q is not", name)
	}
	return nil
}

// serial is 127 random bits, as many as RFC 5280 and the CA/Browser Forum ask
// for, and positive.
func serial() *big.Int {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails: the program ends instead
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b)
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func parseCert(b []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no certificate in PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}

// writePair writes a certificate and its key, or neither. Both must be new.
func writePair(certFile string, cert []byte, keyFile string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(certFile); err == nil {
		return &fs.PathError{Op: "create", Path: certFile, Err: fs.ErrExist}
	}
	if err := writeNew(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return err
	}
	if err := writeNew(certFile, cert, 0o644); err != nil {
		os.Remove(keyFile)
		return err
	}
	return nil
}

// writeNew writes a file that must not be there: what is complete gets its name
// by a link, which replaces nothing.
func writeNew(path string, b []byte, mode os.FileMode) error {
	dir, err := os.MkdirTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	temp := filepath.Join(dir, "file")
	if err := atomicfile.Write(temp, b, atomicfile.Options{Mode: mode, Durable: true}); err != nil {
		return err
	}
	if err := os.Link(temp, path); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
		}
		return err
	}
	return nil
}
