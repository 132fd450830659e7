package config

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

// Scheduler is the scheduler's complete set of settings. It is not changed once
// made.
type Scheduler struct {
	Place

	// Listen is where clients and workers connect, by gRPC over TLS.
	Listen string
	// TLSCert and TLSKey are PEM files: the certificate chain and its key.
	TLSCert, TLSKey string
	// HTTPListen is where metrics and the key set are served by HTTPS, with the
	// same certificate; "" for nowhere.
	HTTPListen string
	// KeyDir keeps the keys that task tokens are signed with.
	KeyDir string
	// Token is how long a task token is valid.
	Token time.Duration
	// Rotate is how long a key signs before the next one does.
	Rotate    time.Duration
	Heartbeat struct {
		// Interval is how often workers are to report, Expiry how long one may
		// be silent before it gets no more clients.
		Interval, Expiry time.Duration
	}
	Tenants   []Tenant
	Workers   []WorkerCredential
	Operators []Credential
	Log       Log

	tokenMinutes int
}

// Tenant is a trust domain.
type Tenant struct {
	Name string
	// Images are the digests, sha256:HEX, of those that it may use; empty is
	// every one.
	Images      []string
	Credentials []Credential

	images []string // as the file names them
}

// Credential is somebody's: of it, only the SHA-256 is known here.
type Credential struct {
	// Subject says who it is, within the tenant.
	Subject string
	// SHA256 is of the credential, 64 digits in lower-case hex.
	SHA256 string
}

// WorkerCredential is a worker's.
type WorkerCredential struct {
	// Name is the only one under which the worker may register.
	Name   string
	SHA256 string
}

// LoadScheduler reads the scheduler's settings of this process: its environment,
// and scheduler.toml. Errors are as LoadFrom's.
func LoadScheduler() (*Scheduler, error) { return LoadSchedulerFrom(os.LookupEnv) }

// LoadSchedulerFrom reads scheduler.toml and the settings that env holds.
func LoadSchedulerFrom(env Lookup) (*Scheduler, error) {
	s := &Scheduler{}
	if err := load(s, "scheduler.toml", env); err != nil {
		return nil, err
	}
	return s, nil
}

// Settings lists every key in the table's order.
func (s *Scheduler) Settings() []Setting { return settings(s) }

func (s *Scheduler) setDefaults() {
	s.Listen = ":7500"
	s.HTTPListen = "127.0.0.1:7501"
	s.tokenMinutes = 5
	s.Rotate = 7 * 24 * time.Hour
	s.Heartbeat.Interval = 5 * time.Second
	s.Heartbeat.Expiry = 20 * time.Second
	s.Log = Log{Level: slog.LevelInfo, Format: "text"}
}

func (s *Scheduler) finish() error {
	s.Token = time.Duration(s.tokenMinutes) * time.Minute
	if s.KeyDir == "" {
		s.KeyDir = filepath.Join(s.Dir, "scheduler-keys")
	}
	switch {
	case s.Listen == "":
		return fmt.Errorf("%s: listen is empty: no client could connect", s.File)
	case s.TLSCert == "" || s.TLSKey == "":
		return fmt.Errorf("%s: tls_cert and tls_key are missing: name the scheduler's certificate and key (hpcc ca issue makes both)", s.File)
	case s.Heartbeat.Expiry < 2*s.Heartbeat.Interval:
		return fmt.Errorf("%s: heartbeat.expiry is %s: must be twice heartbeat.interval at least, or one lost heartbeat expires a worker",
			s.File, FormatDuration(s.Heartbeat.Expiry))
	}
	return s.checkCredentials()
}

// checkCredentials refuses a tenant that is there twice, and a credential of two,
// which would leave it to chance who somebody is. One holder may have several:
// the new one is handed out before the old one is taken away.
func (s *Scheduler) checkCredentials() error {
	names, hashes := map[string]bool{}, map[string]string{}
	once := func(hash, whose string) error {
		if other := hashes[hash]; other != "" {
			return fmt.Errorf("%s: %s and %s have the same credential: everybody needs one of their own", s.File, other, whose)
		}
		hashes[hash] = whose
		return nil
	}
	for _, t := range s.Tenants {
		if names[t.Name] {
			return fmt.Errorf("%s: tenant %s is there twice", s.File, t.Name)
		}
		names[t.Name] = true
		for _, c := range t.Credentials {
			if err := once(c.SHA256, fmt.Sprintf("%s of tenant %s", c.Subject, t.Name)); err != nil {
				return err
			}
		}
	}
	for _, w := range s.Workers {
		if err := once(w.SHA256, "worker "+w.Name); err != nil {
			return err
		}
	}
	for _, o := range s.Operators {
		if err := once(o.SHA256, "operator "+o.Subject); err != nil {
			return err
		}
	}
	return nil
}

func (s *Scheduler) keys() []key {
	return append([]key{
		textKey("listen", "HPCC_SCHEDULER_LISTEN", &s.Listen, checkListen, "address that clients and workers connect to"),
		pathKey("tls_cert", "HPCC_SCHEDULER_TLS_CERT", &s.TLSCert, "file with the scheduler's certificate and those between it and the authority, PEM"),
		pathKey("tls_key", "HPCC_SCHEDULER_TLS_KEY", &s.TLSKey, "file with the certificate's key, PEM"),
		textKey("http_listen", "HPCC_SCHEDULER_HTTP_LISTEN", &s.HTTPListen, checkListen,
			"address of /metrics and /.well-known/jwks.json, by HTTPS; empty for none"),
		pathKey("key_dir", "HPCC_SCHEDULER_KEY_DIR", &s.KeyDir,
			"directory of the keys that sign task tokens; by default scheduler-keys beside scheduler.toml"),
		intKey("token_minutes", "HPCC_SCHEDULER_TOKEN_MINUTES", &s.tokenMinutes, 1, 60, "a number",
			"minutes that a task token is valid"),
		durationKey("rotate", "HPCC_SCHEDULER_ROTATE", &s.Rotate, time.Hour, 366*24*time.Hour,
			"how long a key signs before the next one does"),
		durationKey("heartbeat.interval", "HPCC_SCHEDULER_HEARTBEAT_INTERVAL", &s.Heartbeat.Interval, 100*time.Millisecond, 10*time.Minute,
			"how often workers are to report"),
		durationKey("heartbeat.expiry", "HPCC_SCHEDULER_HEARTBEAT_EXPIRY", &s.Heartbeat.Expiry, 200*time.Millisecond, time.Hour,
			"how long a worker may be silent before it gets no more clients"),
		listOf("tenant", &s.Tenants, tenantKeys, checkTenant),
		listOf("worker", &s.Workers, workerKeys, func(w *WorkerCredential) error { return given("name", w.Name, "sha256", w.SHA256) }),
		listOf("operator", &s.Operators, credentialKeys, checkCredentialEntry),
	}, logKeys(&s.Log)...)
}

func tenantKeys(t *Tenant) []key {
	return []key{
		textKey("name", "", &t.Name, checkName, "the tenant's name: a-z, 0-9 and -"),
		listKey("images", "", &t.images, ",", text(checkImage), "images that it may use, by digest; none named is every one"),
		listOf("credential", &t.Credentials, credentialKeys, checkCredentialEntry),
	}
}

func checkTenant(t *Tenant) error {
	t.Images = nil
	for _, name := range t.images {
		t.Images = append(t.Images, imageDigest(name))
	}
	if t.images != nil && len(t.images) == 0 {
		return errors.New("images is an empty list: name some, or leave the key out to allow every image")
	}
	return given("name", t.Name)
}

func workerKeys(w *WorkerCredential) []key {
	return []key{
		textKey("name", "", &w.Name, checkName, "the name under which the worker registers"),
		textKey("sha256", "", &w.SHA256, checkSHA256, "SHA-256 of its credential (hpcc ca credential prints both)"),
	}
}

func credentialKeys(c *Credential) []key {
	return []key{
		textKey("subject", "", &c.Subject, checkSubject, "who it is: a person, a pipeline"),
		textKey("sha256", "", &c.SHA256, checkSHA256, "SHA-256 of the credential (hpcc ca credential prints both)"),
	}
}

func checkCredentialEntry(c *Credential) error {
	return given("subject", c.Subject, "sha256", c.SHA256)
}

// given asks for values of pairs name, value.
func given(pairs ...string) error {
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			return fmt.Errorf("%s is missing", pairs[i])
		}
	}
	return nil
}
