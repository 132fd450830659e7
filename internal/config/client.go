package config

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"time"
)

// DateTime says what happens to a compile whose source uses __DATE__, __TIME__
// or __TIMESTAMP__ while reproducible builds are on.
type DateTime string

// The policies for the time macros.
const (
	// DateTimeWarn compiles such a unit as written and does not cache it.
	DateTimeWarn DateTime = "warn"
	// DateTimeError lets the compile fail with the compiler's own error.
	DateTimeError DateTime = "error"
	// DateTimePin sets the macros to a fixed time.
	DateTimePin DateTime = "pin"
	// DateTimeAllow caches the unit as if the macros did not matter.
	DateTimeAllow DateTime = "allow"
)

// Mode says what is sent to a worker.
type Mode string

// The modes of remote compiles.
const (
	// ModeCAS sends source and headers by digest; no local compiler is needed.
	ModeCAS Mode = "cas"
	// ModePreprocessed sends the output of a local preprocessor, where the local
	// compiler is the image's.
	ModePreprocessed Mode = "preprocessed"
	// ModeOff compiles locally.
	ModeOff Mode = "off"
)

// Fallback says what happens to a compile that no worker makes.
type Fallback string

// The policies where the remote side is away, slow or refuses.
const (
	// FallbackSame compiles with a local compiler that is the image's.
	FallbackSame Fallback = "same"
	// FallbackAny compiles with whatever local compiler is called.
	FallbackAny Fallback = "any"
	// FallbackFail fails the compile.
	FallbackFail Fallback = "fail"
)

// Remote says where compiles that are not cached are made.
type Remote struct {
	// Scheduler is its host:port; "" keeps all compiles local.
	Scheduler string
	// CA is a file with the certificates of who signs the scheduler's; "" is
	// the system's own authorities.
	CA string
	// CredentialFile holds what Credential, from the environment, may hold
	// instead; see ReadCredential.
	CredentialFile string
	Credential     Secret
	// Image is the digest, sha256:HEX, of the image that compiles; ImageName is
	// how the setting names it, with a reference in front perhaps.
	Image, ImageName string
	// Platform is the image's, such as linux/amd64. Workers of that platform
	// that lack the image fetch it.
	Platform string
	Mode     Mode
	Fallback Fallback
	// LocalJobs is how many compilers local fallback and races run at a time at
	// most; always positive.
	LocalJobs int
	// Race compiles locally too where a worker takes longer than RaceAfter, and
	// takes what is ready first.
	Race      bool
	RaceAfter time.Duration
	// Timeout bounds a remote compile, queueing included, before the fallback.
	Timeout time.Duration
}

// Enabled tells whether compiles go to workers.
func (r *Remote) Enabled() bool { return r.Scheduler != "" && r.Mode != ModeOff }

// ReadCredential returns the credential: that of the environment, else the
// file's content.
func (r *Remote) ReadCredential() (Secret, error) {
	return readCredential(r.Credential, r.CredentialFile, "remote.credential_file", "HPCC_REMOTE_CREDENTIAL")
}

// Config is the client's complete set of settings. It is not changed once made,
// and so may be read by many goroutines.
type Config struct {
	// Place's directory also holds daemon.json.
	Place

	Cache struct {
		// Dir is the disk cache's directory, absolute.
		Dir string
		// MaxSize bounds the disk cache, in bytes; always positive.
		MaxSize int64
		// Tenant is whose results of the shared caches are read and written.
		Tenant string
		Shared
	}
	Daemon struct {
		// Port is the daemon's TCP port on the loopback address; 0 lets the
		// system choose.
		Port int
		// Socket is the path of the daemon's Unix socket, absolute; "" lets
		// the daemon choose.
		Socket string
		// MetricsListen is the host:port where metrics are served, by HTTP; ""
		// for nowhere.
		MetricsListen string
	}
	Reproducible struct {
		// Enabled maps project roots to a fixed path and seeds names, so
		// that equal sources in two directories give one object. Unless it
		// was set, it is on where compiles go to workers, or results to shared
		// caches.
		Enabled bool
		// Roots are the project roots, absolute and clean. When empty, each
		// compile's root is found from its working directory.
		Roots []string
		// DateTime is the policy for the time macros.
		DateTime DateTime
	}
	Remote Remote
	// Paranoid keeps no results on this machine: every hit is a worker's, and
	// has a row in its log.
	Paranoid bool
	// Verify is the share of hits, 0 to 1, that are compiled anyway and
	// compared.
	Verify float64
	// Disable makes hpcc run every compiler untouched.
	Disable bool
	Log     Log
	// StatsLog is a file, absolute, that receives one JSON line per compile;
	// "" for none.
	StatsLog string
}

// Load reads the client's settings of this process: its environment, and
// client.toml.
func Load() (*Config, error) {
	return LoadFrom(os.LookupEnv)
}

// LoadFrom reads client.toml and the settings that env holds. It fails on a
// file that cannot be read or parsed, on an unknown key, and on a value that
// its key does not take; the error names the place and what would be right.
func LoadFrom(env Lookup) (*Config, error) {
	c := &Config{}
	if err := load(c, "client.toml", env); err != nil {
		return nil, err
	}
	return c, nil
}

// Overlay returns a copy of c in which the settings that env holds win. The
// daemon uses it for the environment of one compile, which is the build's and
// not the daemon's.
func (c *Config) Overlay(env Lookup) (*Config, error) {
	o := *c
	o.copyOrigins()
	if err := o.applyEnv(o.keys(), env); err != nil {
		return nil, err
	}
	if err := o.finish(); err != nil {
		return nil, err
	}
	return &o, nil
}

// Settings lists every key in the table's order.
func (c *Config) Settings() []Setting { return settings(c) }

func (c *Config) setDefaults() {
	c.Cache.MaxSize = 10_000_000_000
	c.Cache.Tenant = defaultTenant
	c.Cache.setDefaults()
	c.Reproducible.DateTime = DateTimeWarn
	c.Remote.Platform = "linux/" + runtime.GOARCH
	c.Remote.Mode = ModeCAS
	c.Remote.Fallback = FallbackSame
	c.Remote.LocalJobs = runtime.NumCPU()
	c.Remote.Timeout = 15 * time.Minute
	// A worker that has a result answers in 5 to 10 ms, and most C units compile
	// in less than this; what takes longer is worth a processor here.
	c.Remote.RaceAfter = 500 * time.Millisecond
	c.Log = Log{Level: slog.LevelInfo, Format: "text"}
	// An account without a home directory can still be given a cache by
	// name, so finish is what complains of none.
	if base, err := os.UserCacheDir(); err == nil {
		c.Cache.Dir = filepath.Join(base, "hpcc")
	}
}

func (c *Config) finish() error {
	r := &c.Remote
	if !c.IsSet("reproducible.enabled") {
		// Results that several machines share must not hold where one of them
		// has its checkout.
		c.Reproducible.Enabled = r.Enabled() || c.Cache.Enabled()
	}
	r.Image = imageDigest(r.ImageName)
	switch {
	case c.Cache.Dir == "":
		return errors.New("no cache directory: set HPCC_CACHE_DIR or cache.dir in " + c.File)
	case r.Enabled() && r.Image == "":
		return errors.New("remote.scheduler is set, but no image that compiles: set remote.image in " + c.File + " or HPCC_REMOTE_IMAGE (hpcc image build shows an image's digest)")
	case r.Race && r.Fallback == FallbackFail:
		return errors.New(`remote.race compiles here as well, and remote.fallback = "fail" allows no compile here: set remote.fallback to "same" or "any", or remote.race = false (` + c.File + " and HPCC_REMOTE_… in the environment)")
	case r.Race && c.Paranoid:
		return errors.New("paranoid has a row in a worker's log for every result, and what wins a remote.race here has none: set one of the two to false (" + c.File + ", HPCC_PARANOID, HPCC_REMOTE_RACE)")
	case c.Paranoid && !r.Enabled():
		return errors.New("paranoid keeps no results here, so that compiles need workers: set remote.scheduler in " + c.File)
	case c.Paranoid && c.Cache.Enabled():
		return errors.New("paranoid is set, and cache.tiers has shared caches: in paranoid mode each hit is a worker's and has a row in its log, so that clients must not read results or write them; remove cache.tiers from " + c.File + " (the workers' settings have store.tiers)")
	case c.Cache.Enabled() && c.Cache.Tenant == "":
		return errors.New("cache.tenant is empty: it names whose results of the shared caches are used; leave it out for \"default\"")
	}
	return c.Cache.finish("cache", c.File)
}

func (c *Config) keys() []key {
	r := &c.Remote
	return slices.Concat([]key{
		pathKey("cache.dir", "HPCC_CACHE_DIR", &c.Cache.Dir, "directory of the disk cache"),
		sizeKey("cache.max_size", "HPCC_CACHE_MAX_SIZE", &c.Cache.MaxSize,
			`size at which old results are evicted, such as "10GB" or "512MiB"`),
		textKey("cache.tenant", "HPCC_CACHE_TENANT", &c.Cache.Tenant, checkNamespace,
			"whose results of the shared caches are used, where several share one"),
	}, c.Cache.keys("cache", "HPCC_CACHE_"), []key{
		intKey("daemon.port", "HPCC_DAEMON_PORT", &c.Daemon.Port, 0, 65535, "a port number",
			"loopback TCP port of the daemon; 0 lets the system choose"),
		pathKey("daemon.socket", "HPCC_DAEMON_SOCKET", &c.Daemon.Socket,
			"Unix socket of the daemon; empty lets the daemon choose"),
		textKey("daemon.metrics_listen", "HPCC_DAEMON_METRICS_LISTEN", &c.Daemon.MetricsListen, checkListen,
			"address of /metrics for Prometheus, by HTTP, such as 127.0.0.1:7521; empty for none"),
		boolKey("reproducible.enabled", "HPCC_REPRODUCIBLE_ENABLED", &c.Reproducible.Enabled,
			"make objects independent of the directory they are built in; on by default where there is a scheduler or a shared cache"),
		listKey("reproducible.roots", "HPCC_ROOT", &c.Reproducible.Roots, string(os.PathListSeparator), root,
			"project roots (a list; in the environment separated by "+strconv.Quote(string(os.PathListSeparator))+"); empty finds the root from the working directory"),
		oneOfKey("reproducible.date_time", "HPCC_REPRODUCIBLE_DATE_TIME", &c.Reproducible.DateTime,
			"units that use __DATE__ or __TIME__: warn (compile, do not cache), error, pin, allow",
			DateTimeWarn, DateTimeError, DateTimePin, DateTimeAllow),
		textKey("remote.scheduler", "HPCC_REMOTE_SCHEDULER", &r.Scheduler, checkAddress,
			"host:port of the scheduler; empty keeps all compiles local"),
		pathKey("remote.ca", "HPCC_REMOTE_CA", &r.CA,
			"file with the authorities that sign the scheduler's certificate; empty is the system's"),
		pathKey("remote.credential_file", "HPCC_REMOTE_CREDENTIAL_FILE", &r.CredentialFile,
			"file that holds the credential for the scheduler"),
		secretKey("remote.credential", "HPCC_REMOTE_CREDENTIAL", &r.Credential,
			"the credential itself; in the environment alone"),
		textKey("remote.image", "HPCC_REMOTE_IMAGE", &r.ImageName, checkImage,
			"image that compiles: sha256:HEX, or a reference with @sha256:HEX behind it"),
		textKey("remote.platform", "HPCC_REMOTE_PLATFORM", &r.Platform, checkPlatform,
			"the image's platform; by default linux and this machine's processor"),
		oneOfKey("remote.mode", "HPCC_REMOTE_MODE", &r.Mode,
			"what goes to a worker: cas (source and headers by digest), preprocessed, off",
			ModeCAS, ModePreprocessed, ModeOff),
		oneOfKey("remote.fallback", "HPCC_REMOTE_FALLBACK", &r.Fallback,
			"where no worker compiles: same (local compiler, if it is the image's), any, fail",
			FallbackSame, FallbackAny, FallbackFail),
		intKey("remote.local_jobs", "HPCC_REMOTE_LOCAL_JOBS", &r.LocalJobs, 1, 4096, "a number",
			"compilers that fallback and races run at a time; by default as many as there are processors"),
		boolKey("remote.race", "HPCC_REMOTE_RACE", &r.Race,
			"compile here as well where a worker takes long, if fallback may and a local job is free, and take what is ready first"),
		durationKey("remote.race_after", "HPCC_REMOTE_RACE_AFTER", &r.RaceAfter, 20*time.Millisecond, time.Hour,
			"how long a worker has a compile to itself in a race"),
		durationKey("remote.timeout", "HPCC_REMOTE_TIMEOUT", &r.Timeout, time.Second, 24*time.Hour,
			"longest that a remote compile may take, waiting included"),
		boolKey("paranoid", "HPCC_PARANOID", &c.Paranoid,
			"keep no results on this machine: every hit comes from a worker"),
		shareKey("verify", "HPCC_VERIFY", &c.Verify, "share of hits, 0 to 1, to compile anyway and compare"),
		boolKey("disable", "HPCC_DISABLE", &c.Disable, "run every compiler untouched"),
		pathKey("stats_log", "HPCC_STATS_LOG", &c.StatsLog,
			"file that receives one JSON line per compile; empty for none"),
	}, logKeys(&c.Log))
}

// root checks a project root.
func root(v any) (string, error) {
	var dir string
	if err := absPath(&dir, v); err != nil {
		return "", err
	}
	// The root of the file system would turn every header of the system into
	// a project file.
	if dir != "" && dir == filepath.Dir(dir) {
		return "", fmt.Errorf("%s cannot be a project root", dir)
	}
	return dir, nil
}
