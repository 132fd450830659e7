package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Role says what the holder of a credential is.
type Role string

// The roles.
const (
	// Client asks for compiles; its identity has a tenant.
	Client Role = "client"
	// Worker makes them. Its identity's subject is the worker's name.
	Worker Role = "worker"
	// Operator looks at what there is.
	Operator Role = "operator"
)

// Identity is who holds a credential.
type Identity struct {
	Role Role
	// Tenant is a client's, and "" for everybody else.
	Tenant string
	// Subject names the holder: within the tenant, or among all workers or
	// operators. A worker's is a name after CheckName.
	Subject string
	// Images are the digests (sha256:HEX) of the images that a client may use;
	// empty allows every one.
	Images []string
}

// MayUse tells whether a client may use an image.
func (id Identity) MayUse(image string) bool {
	return id.Role == Client && (len(id.Images) == 0 || slices.Contains(id.Images, image))
}

func (id Identity) check() error {
	switch id.Role {
	case Client:
		if err := CheckName(id.Tenant); err != nil {
			return fmt.Errorf("tenant: %w", err)
		}
		if err := CheckSubject(id.Subject); err != nil {
			return err
		}
	case Worker:
		if err := CheckName(id.Subject); err != nil {
			return fmt.Errorf("worker: %w", err)
		}
	case Operator:
		if err := CheckSubject(id.Subject); err != nil {
			return err
		}
	default:
		return fmt.Errorf("role %q is none of client, worker and operator", id.Role)
	}
	if id.Role != Client && (id.Tenant != "" || len(id.Images) > 0) {
		return fmt.Errorf("a tenant and images are a client's, and this is a %s", id.Role)
	}
	for _, image := range id.Images {
		if err := CheckImage(image); err != nil {
			return err
		}
	}
	return nil
}

const (
	// credentialPrefix lets people and scanners for leaked secrets see what a
	// string is.
	credentialPrefix = "hpcc_"
	credentialBytes  = 32
	// credentialLen is the length of every credential: 43 characters of
	// base64url follow the prefix.
	credentialLen = len(credentialPrefix) + (credentialBytes*8+5)/6

	// maxCredentials bounds what is compared for each call: 10,000 take some
	// 0.2 ms.
	maxCredentials = 10_000
)

// CredentialHash is the SHA-256 of a credential, as text. A credential has 256
// random bits, so that it can be found by nobody who has its hash, and needs
// none of the slow functions that passwords do.
type CredentialHash [sha256.Size]byte

// NewCredential makes a random credential and its hash.
func NewCredential() (string, CredentialHash) {
	b := make([]byte, credentialBytes)
	_, _ = rand.Read(b) // never fails: the program ends instead
	c := credentialPrefix + base64.RawURLEncoding.EncodeToString(b)
	return c, sha256.Sum256([]byte(c))
}

// String writes the hash as ParseCredentialHash reads it: 64 lower-case hex
// digits, what sha256sum prints.
func (h CredentialHash) String() string { return hex.EncodeToString(h[:]) }

// ParseCredentialHash reads a hash from a configuration.
func ParseCredentialHash(s string) (CredentialHash, error) {
	if strings.HasPrefix(s, credentialPrefix) {
		return CredentialHash{}, errors.New("that is a credential, and its SHA-256 belongs here; make a new one (hpcc ca credential), since others may have read this one")
	}
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != sha256.Size || s != strings.ToLower(s) {
		return CredentialHash{}, errors.New("the SHA-256 of a credential is 64 lower-case hex digits; hpcc ca credential prints one")
	}
	return CredentialHash(b), nil
}

// Credential is what is known of one: its hash, and who holds it.
type Credential struct {
	Hash     CredentialHash
	Identity Identity
}

// Credentials tells holders of credentials apart. It is not changed once made,
// and may be used by many goroutines.
type Credentials struct {
	list []Credential
}

// Revoked lists the subjects of a role that had credentials before, none of which
// is among these.
func (c *Credentials) Revoked(before *Credentials, role Role) (subjects []string) {
	kept := map[string]bool{}
	for _, old := range before.list {
		if old.Identity.Role == role {
			kept[old.Identity.Subject] = kept[old.Identity.Subject] || slices.ContainsFunc(c.list, func(one Credential) bool {
				return one.Hash == old.Hash && one.Identity.Role == role && one.Identity.Subject == old.Identity.Subject
			})
		}
	}
	for subject, is := range kept {
		if !is {
			subjects = append(subjects, subject)
		}
	}
	slices.Sort(subjects)
	return subjects
}

// NewCredentials checks a list. One holder may have several credentials, so that
// a new one can be handed out before the old one is taken away.
func NewCredentials(list []Credential) (*Credentials, error) {
	if len(list) > maxCredentials {
		return nil, fmt.Errorf("%d credentials, more than %d", len(list), maxCredentials)
	}
	c := &Credentials{slices.Clone(list)}
	seen := map[CredentialHash]bool{}
	for i, one := range c.list {
		if err := one.Identity.check(); err != nil {
			return nil, fmt.Errorf("credential %d: %w", i+1, err)
		}
		if one.Hash == (CredentialHash{}) {
			return nil, fmt.Errorf("credential %d has no SHA-256", i+1)
		}
		if seen[one.Hash] {
			return nil, fmt.Errorf("credential %d of %s is another's too", i+1, one.Identity.Subject)
		}
		seen[one.Hash] = true
		c.list[i].Identity.Images = slices.Clone(one.Identity.Images)
	}
	return c, nil
}

// Errors of Authenticate.
var (
	// ErrNoCredential says that none was shown.
	ErrNoCredential = errors.New("no credential was sent")
	// ErrBadCredential says that what was shown does not even look like one.
	ErrBadCredential = errors.New("what was sent is no credential: hpcc_ and 43 characters")
	// ErrUnknownCredential says that nobody has it, or not any more.
	ErrUnknownCredential = errors.New("the credential is nobody's")
)

// Authenticate tells whose credential it is. Every call takes the same time,
// whichever is shown: it compares with all of them, and to the end.
func (c *Credentials) Authenticate(credential string) (Identity, error) {
	if credential == "" {
		return Identity{}, ErrNoCredential
	}
	if err := CheckCredential(credential); err != nil {
		return Identity{}, err
	}
	hash := sha256.Sum256([]byte(credential))
	found := -1
	for i := range c.list {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(c.list[i].Hash[:], hash[:]), i, found)
	}
	if found < 0 {
		return Identity{}, ErrUnknownCredential
	}
	id := c.list[found].Identity
	id.Images = slices.Clone(id.Images)
	return id, nil
}

// CheckCredential tells whether s has the form of a credential, for whoever
// reads one from a file. The error is ErrBadCredential.
func CheckCredential(s string) error {
	text, ok := strings.CutPrefix(s, credentialPrefix)
	if !ok || len(s) != credentialLen {
		return ErrBadCredential
	}
	// The decoder passes over ends of lines, and then has fewer bytes.
	if b, err := base64.RawURLEncoding.Strict().DecodeString(text); err != nil || len(b) != credentialBytes {
		return ErrBadCredential
	}
	return nil
}

// Bearer returns the credential or token of an "authorization" header's value
// (RFC 6750), or ErrNoCredential.
func Bearer(authorization string) (string, error) {
	scheme, value, ok := strings.Cut(authorization, " ")
	if !ok || !strings.EqualFold(scheme, "bearer") || value == "" {
		return "", ErrNoCredential
	}
	return value, nil
}
