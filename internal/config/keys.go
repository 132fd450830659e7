package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// file mirrors client.toml. Every field is of type any, so that an absent key
// (nil) differs from a zero, and so that one function per key checks the value
// whether it came from the file or from the environment.
type file struct {
	Cache struct {
		Dir     any `toml:"dir"`
		MaxSize any `toml:"max_size"`
	} `toml:"cache"`
	Daemon struct {
		Port   any `toml:"port"`
		Socket any `toml:"socket"`
	} `toml:"daemon"`
	Reproducible struct {
		Enabled  any `toml:"enabled"`
		Roots    any `toml:"roots"`
		DateTime any `toml:"date_time"`
	} `toml:"reproducible"`
	Verify   any `toml:"verify"`
	Disable  any `toml:"disable"`
	StatsLog any `toml:"stats_log"`
	Log      struct {
		Level  any `toml:"level"`
		Format any `toml:"format"`
	} `toml:"log"`
}

// key is one setting. name and env are what users write; at finds the value in
// a parsed file; set checks and stores a value, which is a string from the
// environment and a string, int64, float64, bool or []any from the file.
type key struct {
	name string
	env  string
	help string
	at   func(*file) any
	set  func(*Config, any) error
	show func(*Config) string
}

// keys is every setting there is, in the order in which they are shown.
var keys = []key{
	{
		name: "cache.dir", env: "HPCC_CACHE_DIR",
		help: "directory of the disk cache",
		at:   func(f *file) any { return f.Cache.Dir },
		set:  func(c *Config, v any) error { return absPath(&c.Cache.Dir, v) },
		show: func(c *Config) string { return c.Cache.Dir },
	},
	{
		name: "cache.max_size", env: "HPCC_CACHE_MAX_SIZE",
		help: `size at which old results are evicted, such as "10GB" or "512MiB"`,
		at:   func(f *file) any { return f.Cache.MaxSize },
		set: func(c *Config, v any) error {
			n, err := ParseSize(fmt.Sprint(v))
			if err == nil {
				c.Cache.MaxSize = n
			}
			return err
		},
		show: func(c *Config) string { return FormatSize(c.Cache.MaxSize) },
	},
	{
		name: "daemon.port", env: "HPCC_DAEMON_PORT",
		help: "loopback TCP port of the daemon; 0 lets the system choose",
		at:   func(f *file) any { return f.Daemon.Port },
		set: func(c *Config, v any) error {
			n, err := strconv.Atoi(fmt.Sprint(v))
			if err != nil || n < 0 || n > 65535 {
				return errors.New("must be a port number from 0 to 65535")
			}
			c.Daemon.Port = n
			return nil
		},
		show: func(c *Config) string { return strconv.Itoa(c.Daemon.Port) },
	},
	{
		name: "daemon.socket", env: "HPCC_DAEMON_SOCKET",
		help: "Unix socket of the daemon; empty lets the daemon choose",
		at:   func(f *file) any { return f.Daemon.Socket },
		set:  func(c *Config, v any) error { return absPath(&c.Daemon.Socket, v) },
		show: func(c *Config) string { return c.Daemon.Socket },
	},
	{
		name: "reproducible.enabled", env: "HPCC_REPRODUCIBLE_ENABLED",
		help: "make objects independent of the directory they are built in",
		at:   func(f *file) any { return f.Reproducible.Enabled },
		set:  func(c *Config, v any) error { return boolean(&c.Reproducible.Enabled, v) },
		show: func(c *Config) string { return strconv.FormatBool(c.Reproducible.Enabled) },
	},
	{
		name: "reproducible.roots", env: "HPCC_ROOT",
		help: "project roots (a list; in the environment separated by " + strconv.Quote(string(os.PathListSeparator)) + "); empty finds the root from the working directory",
		at:   func(f *file) any { return f.Reproducible.Roots },
		set:  setRoots,
		show: func(c *Config) string {
			return strings.Join(c.Reproducible.Roots, string(os.PathListSeparator))
		},
	},
	{
		name: "reproducible.date_time", env: "HPCC_REPRODUCIBLE_DATE_TIME",
		help: "units that use __DATE__ or __TIME__: warn (compile, do not cache), error, pin, allow",
		at:   func(f *file) any { return f.Reproducible.DateTime },
		set: func(c *Config, v any) error {
			s, err := oneOf(v, "warn", "error", "pin", "allow")
			if err == nil {
				c.Reproducible.DateTime = DateTime(s)
			}
			return err
		},
		show: func(c *Config) string { return string(c.Reproducible.DateTime) },
	},
	{
		name: "verify", env: "HPCC_VERIFY",
		help: "share of hits, 0 to 1, to compile anyway and compare",
		at:   func(f *file) any { return f.Verify },
		set: func(c *Config, v any) error {
			// true and false are what a user tries first.
			var all bool
			if boolean(&all, v) == nil {
				v = map[bool]string{true: "1", false: "0"}[all]
			}
			r, err := strconv.ParseFloat(fmt.Sprint(v), 64)
			if err != nil || !(r >= 0 && r <= 1) {
				return errors.New("must be a number from 0 to 1")
			}
			c.Verify = r
			return nil
		},
		show: func(c *Config) string { return strconv.FormatFloat(c.Verify, 'g', -1, 64) },
	},
	{
		name: "disable", env: "HPCC_DISABLE",
		help: "run every compiler untouched",
		at:   func(f *file) any { return f.Disable },
		set:  func(c *Config, v any) error { return boolean(&c.Disable, v) },
		show: func(c *Config) string { return strconv.FormatBool(c.Disable) },
	},
	{
		name: "stats_log", env: "HPCC_STATS_LOG",
		help: "file that receives one JSON line per compile; empty for none",
		at:   func(f *file) any { return f.StatsLog },
		set:  func(c *Config, v any) error { return absPath(&c.StatsLog, v) },
		show: func(c *Config) string { return c.StatsLog },
	},
	{
		name: "log.level", env: "HPCC_LOG_LEVEL",
		help: "least severe log record to write: debug, info, warn, error",
		at:   func(f *file) any { return f.Log.Level },
		set: func(c *Config, v any) error {
			s, err := oneOf(v, "debug", "info", "warn", "error")
			if err != nil {
				return err
			}
			return c.Log.Level.UnmarshalText([]byte(s))
		},
		show: func(c *Config) string { return strings.ToLower(c.Log.Level.String()) },
	},
	{
		name: "log.format", env: "HPCC_LOG_FORMAT",
		help: "format of the daemon's log: text, json",
		at:   func(f *file) any { return f.Log.Format },
		set: func(c *Config, v any) error {
			s, err := oneOf(v, "text", "json")
			if err == nil {
				c.Log.Format = s
			}
			return err
		},
		show: func(c *Config) string { return c.Log.Format },
	},
}

func setRoots(c *Config, v any) error {
	var given []any
	switch v := v.(type) {
	case string:
		for _, s := range filepath.SplitList(v) {
			given = append(given, s)
		}
	case []any:
		given = v
	default:
		return errors.New("must be a list of directories")
	}
	roots := make([]string, 0, len(given))
	for _, g := range given {
		var dir string
		if err := absPath(&dir, g); err != nil {
			return err
		}
		if dir == "" {
			continue
		}
		// The root of the file system would turn every header of the
		// system into a project file.
		if dir == filepath.Dir(dir) {
			return fmt.Errorf("%s cannot be a project root", dir)
		}
		roots = append(roots, dir)
	}
	c.Reproducible.Roots = roots
	return nil
}

// absPath stores an absolute path, or "". Relative paths are refused, since
// the daemon, the one-shot program and the shell each have a working directory
// of their own. A leading ~/ is the home directory: no shell expands it in a
// TOML file.
func absPath(dst *string, v any) error {
	s, ok := v.(string)
	if !ok {
		return errors.New("must be a path in quotes")
	}
	if rest, ok := strings.CutPrefix(s, "~/"); ok {
		home, err := os.UserHomeDir()
		if err != nil {
			return fmt.Errorf("home directory: %w", err)
		}
		s = filepath.Join(home, rest)
	}
	switch {
	case s == "":
	case strings.IndexByte(s, 0) >= 0:
		return errors.New("must not hold a NUL byte")
	case !filepath.IsAbs(s):
		return errors.New("must be an absolute path")
	default:
		s = filepath.Clean(s)
	}
	*dst = s
	return nil
}

func boolean(dst *bool, v any) error {
	if b, ok := v.(bool); ok {
		*dst = b
		return nil
	}
	s, _ := v.(string)
	switch strings.ToLower(s) {
	case "1", "true", "yes", "on":
		*dst = true
	case "0", "false", "no", "off":
		*dst = false
	default:
		return errors.New("must be true or false")
	}
	return nil
}

func oneOf(v any, names ...string) (string, error) {
	s, _ := v.(string)
	for _, n := range names {
		if s == n {
			return s, nil
		}
	}
	return "", fmt.Errorf("must be one of %s", strings.Join(names, ", "))
}
