// Package config reads hpcc's settings: one table of keys, each of which can
// stand in client.toml, in the environment, or be left at its default. The
// environment wins over the file, the file over the default.
//
// The file is client.toml in the configuration directory, which is
// $HPCC_CONFIG_DIR, or hpcc below the user's configuration directory. It need
// not exist. A key that the table lacks is an error that names the nearest
// key: a misspelt setting that is silently ignored costs more than a build that
// says so.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
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

// Config is a complete set of settings. It is not changed once made, and so
// may be read by many goroutines.
type Config struct {
	// Dir is the configuration directory, absolute. It also holds
	// daemon.json. It may not exist yet.
	Dir string
	// File is the path of client.toml. It may not exist.
	File string

	Cache struct {
		// Dir is the disk cache's directory, absolute.
		Dir string
		// MaxSize bounds the disk cache, in bytes; always positive.
		MaxSize int64
	}
	Daemon struct {
		// Port is the daemon's TCP port on the loopback address; 0 lets the
		// system choose.
		Port int
		// Socket is the path of the daemon's Unix socket, absolute; "" lets
		// the daemon choose.
		Socket string
	}
	Reproducible struct {
		// Enabled maps project roots to a fixed path and seeds names, so
		// that equal sources in two directories give one object.
		Enabled bool
		// Roots are the project roots, absolute and clean. When empty, each
		// compile's root is found from its working directory.
		Roots []string
		// DateTime is the policy for the time macros.
		DateTime DateTime
	}
	// Verify is the share of hits, 0 to 1, that are compiled anyway and
	// compared.
	Verify float64
	// Disable makes hpcc run every compiler untouched.
	Disable bool
	Log     struct {
		Level slog.Level
		// Format is "text" or "json".
		Format string
	}
	// StatsLog is a file, absolute, that receives one JSON line per compile;
	// "" for none.
	StatsLog string

	origins map[string]string
}

// Lookup tells an environment variable's value and whether it is set, as
// os.LookupEnv does.
type Lookup func(name string) (string, bool)

// Load reads the settings of this process: its environment, and client.toml.
func Load() (*Config, error) {
	return LoadFrom(os.LookupEnv)
}

// LoadFrom reads client.toml and the settings that env holds. It fails on a
// file that cannot be read or parsed, on an unknown key, and on a value that
// its key does not take; the error names the place and what would be right.
func LoadFrom(env Lookup) (*Config, error) {
	dir, err := Dir(env)
	if err != nil {
		return nil, err
	}
	c := &Config{Dir: dir, File: filepath.Join(dir, "client.toml"), origins: map[string]string{}}
	c.setDefaults()
	text, err := os.ReadFile(c.File)
	switch {
	case err == nil:
		if err := c.applyFile(text); err != nil {
			return nil, err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("settings: %w", err)
	}
	if err := c.applyEnv(env); err != nil {
		return nil, err
	}
	return c, nil
}

// Overlay returns a copy of c in which the settings that env holds win. The
// daemon uses it for the environment of one compile, which is the build's and
// not the daemon's.
func (c *Config) Overlay(env Lookup) (*Config, error) {
	o := *c
	o.origins = make(map[string]string, len(c.origins))
	for k, v := range c.origins {
		o.origins[k] = v
	}
	if err := o.applyEnv(env); err != nil {
		return nil, err
	}
	return &o, nil
}

// Dir is the configuration directory: $HPCC_CONFIG_DIR, or hpcc below the
// user's configuration directory.
func Dir(env Lookup) (string, error) {
	if dir, ok := env("HPCC_CONFIG_DIR"); ok && dir != "" {
		if !filepath.IsAbs(dir) {
			return "", fmt.Errorf("HPCC_CONFIG_DIR is %q: must be an absolute path", dir)
		}
		return filepath.Clean(dir), nil
	}
	base, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("no configuration directory (%w): set HPCC_CONFIG_DIR", err)
	}
	return filepath.Join(base, "hpcc"), nil
}

// Setting is one key with its value and where that came from.
type Setting struct {
	// Key is the name in client.toml, with its table: "cache.max_size".
	Key string `json:"key"`
	// Env is the environment variable that sets it.
	Env string `json:"env"`
	// Value is the value as client.toml would hold it, without quotes.
	Value string `json:"value"`
	// Origin is "default", "environment", or the file's path and line.
	Origin string `json:"origin"`
	// Help says in one line what the key does.
	Help string `json:"help"`
}

// Settings lists every key in the table's order.
func (c *Config) Settings() []Setting {
	var all []Setting
	for _, k := range keys {
		origin := c.origins[k.name]
		if origin == "" {
			origin = "default"
		}
		all = append(all, Setting{Key: k.name, Env: k.env, Value: k.show(c), Origin: origin, Help: k.help})
	}
	return all
}

// IsSet reports whether somebody has set a key, by its name in client.toml.
func (c *Config) IsSet(key string) bool { return c.origins[key] != "" }

func (c *Config) setDefaults() {
	c.Cache.MaxSize = 10_000_000_000
	c.Reproducible.DateTime = DateTimeWarn
	c.Log.Level = slog.LevelInfo
	c.Log.Format = "text"
	// An account without a home directory can still be given a cache by
	// name, so applyEnv is what complains of none.
	if base, err := os.UserCacheDir(); err == nil {
		c.Cache.Dir = filepath.Join(base, "hpcc")
	}
}

func (c *Config) applyEnv(env Lookup) error {
	for _, k := range keys {
		// An empty variable counts as unset, since that is how a shell
		// script takes a setting back.
		text, ok := env(k.env)
		if !ok || text == "" {
			continue
		}
		if err := k.set(c, text); err != nil {
			return fmt.Errorf("%s is %q: %w", k.env, text, err)
		}
		c.origins[k.name] = "environment"
	}
	if c.Cache.Dir == "" {
		return errors.New("no cache directory: set HPCC_CACHE_DIR or cache.dir in " + c.File)
	}
	return nil
}
