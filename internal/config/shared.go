package config

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"
)

// TrustIn says whose results are believed.
type TrustIn string

// Whom results of shared caches are believed from.
const (
	// TrustAll believes every key of the file.
	TrustAll TrustIn = "all"
	// TrustWorkers believes workers' keys alone.
	TrustWorkers TrustIn = "workers"
)

// Access says what is done to a shared cache.
type Access string

// The kinds of access to a tier.
const (
	ReadWrite Access = "read-write"
	ReadOnly  Access = "read-only"
)

// Shared says which caches are shared with other machines, and whom of those
// that write there is believed.
type Shared struct {
	// SigningKeyFile holds the private key that results written here are signed
	// with; "" writes none.
	SigningKeyFile string
	// TrustedKeysFile lists the public keys of those who are believed; the own key
	// always is.
	TrustedKeysFile string
	Trust           TrustIn
	// Memory bounds what is kept in memory of what was fetched, in bytes; 0 is
	// nothing.
	Memory int64
	// Tiers are asked in this order: the nearest first.
	Tiers []Tier
}

// Enabled tells whether there is any shared cache.
func (s *Shared) Enabled() bool { return len(s.Tiers) > 0 }

// Tier is one shared cache: a bucket, or a directory.
type Tier struct {
	Name string
	// Bucket is that of an S3 service, or Dir a directory, absolute. One is "".
	Bucket, Dir string
	// Prefix is in front of the names of all objects in the bucket.
	Prefix string
	// Region, Endpoint and Profile are those of the AWS SDK where they are "".
	Region, Endpoint, Profile string
	// PathStyle has the bucket in the path of a request, not in the host's name.
	PathStyle bool
	Access    Access
	// MaxSize is where hpcc evicts what was not used the longest, in bytes; 0 is
	// never.
	MaxSize int64
	// AutoCreate makes the bucket or the directory if it is missing.
	AutoCreate bool
	// SSE is the service's own encryption: "", "AES256" or "aws:kms"; KMSKey is the
	// key of the latter, or "" for the account's.
	SSE, KMSKey string
	// EncryptionKeyFile holds the key by which objects are encrypted here, before
	// they are sent; "" sends them as they are. With EncryptionKMS the key in the file
	// is encrypted itself, by AWS KMS.
	EncryptionKeyFile string
	EncryptionKMS     bool
	// Timeouts of one request.
	ReadTimeout, WriteTimeout, ListTimeout time.Duration

	url string
}

// URL names the tier as the settings do.
func (t *Tier) URL() string { return t.url }

const (
	// defaultPrefix keeps hpcc's objects apart from others in the bucket.
	defaultPrefix = "cache/"
	// defaultTenant is for those who share with everybody.
	defaultTenant = "default"
)

func (t *Tier) setDefaults() {
	t.Prefix = defaultPrefix
	t.Access = ReadWrite
	t.ReadTimeout, t.WriteTimeout, t.ListTimeout = 2*time.Second, 5*time.Second, 30*time.Second
}

// setDefaults are those that a Shared has without any tier.
func (s *Shared) setDefaults() {
	s.Trust = TrustAll
	s.Memory = 64_000_000
}

// keys are the settings below a table of a role; env is what their variables
// begin with.
func (s *Shared) keys(table, env string) []key {
	return []key{
		pathKey(table+".signing_key_file", env+"SIGNING_KEY_FILE", &s.SigningKeyFile,
			"file with the key that signs what is written to the tiers; empty only reads"),
		pathKey(table+".trusted_keys_file", env+"TRUSTED_KEYS_FILE", &s.TrustedKeysFile,
			"file with the public keys of those whose results are believed; the own key always is"),
		oneOfKey(table+".trust", env+"TRUST", &s.Trust,
			"whose results of those keys are believed: all, or those of workers", TrustAll, TrustWorkers),
		optional(sizeKey(table+".memory", env+"MEMORY", &s.Memory,
			"memory for what was fetched from the tiers; empty for none"), &s.Memory),
		listOf(table+".tiers", &s.Tiers, tierKeys, checkTier),
	}
}

func tierKeys(t *Tier) []key {
	return []key{
		textKey("name", "", &t.Name, checkName, "what the tier is called in statistics and logs"),
		urlKey("url", "", &t.url, t.parseURL, "s3://BUCKET, or file:///DIRECTORY"),
		textKey("prefix", "", &t.Prefix, checkPrefix, "what the names of all objects in the bucket begin with"),
		textKey("region", "", &t.Region, checkWord, "region of the bucket; empty is the AWS configuration's"),
		urlKey("endpoint", "", &t.Endpoint, checkEndpoint, "URL of an S3 service other than AWS's"),
		textKey("profile", "", &t.Profile, checkWord, "profile of the AWS configuration with the credentials; empty is its default"),
		boolKey("path_style", "", &t.PathStyle, "name the bucket in the path and not in the host, as most services other than AWS's want"),
		oneOfKey("access", "", &t.Access, "what is done to the tier: read-write, read-only", ReadWrite, ReadOnly),
		optional(sizeKey("max_size", "", &t.MaxSize, "size at which hpcc evicts what was not used the longest; empty for never"), &t.MaxSize),
		boolKey("auto_create", "", &t.AutoCreate, "make the bucket or the directory if it is missing"),
		oneOfKey("sse", "", &t.SSE, `encryption by the service: "", AES256, aws:kms`, "", "AES256", "aws:kms"),
		textKey("kms_key", "", &t.KMSKey, checkWord, "key of aws:kms; empty is the account's own"),
		pathKey("encryption_key_file", "", &t.EncryptionKeyFile, "file with a key of 32 bytes, in base64, that encrypts objects before they are sent"),
		boolKey("encryption_kms", "", &t.EncryptionKMS, "the key in encryption_key_file is encrypted by AWS KMS, which is asked for it"),
		durationKey("read_timeout", "", &t.ReadTimeout, 10*time.Millisecond, time.Minute, "longest that one read may take"),
		durationKey("write_timeout", "", &t.WriteTimeout, 10*time.Millisecond, 10*time.Minute, "longest that one write may take"),
		durationKey("list_timeout", "", &t.ListTimeout, time.Second, time.Hour, "longest that one page of a listing may take"),
	}
}

// parseURL says where a tier's objects are.
func (t *Tier) parseURL(s string) error {
	wrong := errors.New("must be s3://BUCKET or file:///DIRECTORY")
	u, err := url.Parse(s)
	if err != nil {
		return wrong // and not what the parser says, which shows what may be a password
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("%w: credentials come from the AWS configuration, other settings have keys of their own", wrong)
	}
	t.Bucket, t.Dir = "", ""
	switch u.Scheme {
	case "s3":
		if strings.Trim(u.Path, "/") != "" {
			return fmt.Errorf("%w: the rest of the path is prefix's", wrong)
		}
		if !isBucket(u.Host) {
			return fmt.Errorf("%w: a bucket's name has 3 to 63 of a-z, 0-9, dots and hyphens", wrong)
		}
		t.Bucket = u.Host
	case "file":
		if u.Host != "" || !filepath.IsAbs(u.Path) || filepath.Clean(u.Path) == "/" || strings.IndexByte(u.Path, 0) >= 0 {
			return fmt.Errorf("%w: file:// is followed by an absolute path", wrong)
		}
		t.Dir = filepath.Clean(u.Path)
	default:
		return wrong
	}
	return nil
}

func isBucket(s string) bool {
	bad := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '.' && r != '_'
	}
	return len(s) >= 3 && len(s) <= 63 && !strings.ContainsFunc(s, bad)
}

// maxPrefix leaves most of S3's 1024 bytes for the names themselves.
const maxPrefix = 256

func checkPrefix(s string) error {
	bad := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-._/", r)
	}
	if len(s) > maxPrefix || !strings.HasSuffix(s, "/") || strings.HasPrefix(s, "/") || strings.Contains(s, "//") || strings.ContainsFunc(s, bad) {
		return fmt.Errorf("must be at most %d of letters, digits and -._/, and end in a slash", maxPrefix)
	}
	for part := range strings.SplitSeq(s, "/") {
		if part == "." || part == ".." {
			return errors.New("must not have . or .. between slashes")
		}
	}
	return nil
}

func checkEndpoint(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return errors.New(`must be a URL, such as "https://s3.example.com"`)
	}
	return nil
}

// checkWord takes what the AWS SDK is given as it is.
func checkWord(s string) error {
	if len(s) > 2048 || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("must be one word of printable ASCII")
	}
	return nil
}

func checkTier(t *Tier) error {
	if err := given("name", t.Name, "url", t.url); err != nil {
		return err
	}
	if t.KMSKey != "" && t.SSE != "aws:kms" {
		return errors.New(`kms_key is set, and sse is not "aws:kms"`)
	}
	if t.EncryptionKMS && t.EncryptionKeyFile == "" {
		return errors.New("encryption_kms is set, and encryption_key_file is not")
	}
	if t.Bucket != "" && t.Prefix == "" {
		return errors.New("prefix is empty: hpcc evicts what is below it, and a bucket may hold what is not hpcc's")
	}
	if t.Dir == "" {
		return nil
	}
	for _, s3only := range []struct {
		key string
		set bool
	}{
		{"prefix", t.Prefix != defaultPrefix}, {"region", t.Region != ""}, {"endpoint", t.Endpoint != ""}, {"profile", t.Profile != ""},
		{"path_style", t.PathStyle}, {"sse", t.SSE != ""},
	} {
		if s3only.set {
			return fmt.Errorf("%s is for s3:// only, and url is %s", s3only.key, t.url)
		}
	}
	return nil
}

// finish checks what concerns several settings. table is where they stand, in
// file.
func (s *Shared) finish(table, file string) error {
	names, places := map[string]bool{}, map[string]string{}
	for i := range s.Tiers {
		t := &s.Tiers[i]
		if names[t.Name] {
			return fmt.Errorf("%s: two of %s.tiers have the name %s", file, table, t.Name)
		}
		names[t.Name] = true
		place := strings.Join([]string{t.Endpoint, t.Bucket, t.Dir, t.Prefix}, "\x00")
		if other := places[place]; other != "" {
			return fmt.Errorf("%s: %s.tiers %s and %s are one place", file, table, other, t.Name)
		}
		places[place] = t.Name
	}
	if s.Enabled() && s.SigningKeyFile == "" && s.TrustedKeysFile == "" {
		return fmt.Errorf("%s: %[2]s.tiers has shared caches, and nobody is believed: name the public keys of those who write there in %[2]s.trusted_keys_file, or a key of your own in %[2]s.signing_key_file", file, table)
	}
	return nil
}

// checkNamespace takes the name under which a client's results are shared: it is
// part of objects' names.
func checkNamespace(s string) error {
	plain := func(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }
	ok := len(s) >= 1 && len(s) <= maxName && plain(s[0])
	for i := range len(s) {
		ok = ok && (plain(s[i]) || strings.IndexByte("-._", s[i]) >= 0)
	}
	if !ok {
		return fmt.Errorf("must be 1 to %d of a-z, 0-9 and -._, with a letter or a digit first", maxName)
	}
	return nil
}

// optional is k, a size, that may be empty, which is 0.
func optional(k key, dst *int64) key {
	set, show := k.set, k.show
	k.set = func(v any) error {
		if v == "" {
			*dst = 0
			return nil
		}
		return set(v)
	}
	k.show = func() string {
		if *dst == 0 {
			return ""
		}
		return show()
	}
	return k
}
