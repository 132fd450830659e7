package config

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// key is one setting. name and env are what users write; set checks and stores a
// value, which is a string from the environment and a string, int64, float64,
// bool or []any from the file; show writes it as the environment would.
type key struct {
	name string
	env  string
	help string
	set  func(v any) error
	show func() string
	// secret values come by the environment alone, and are not shown.
	secret bool
	// private values are not repeated in errors: what is wrong with one may be a
	// password in it.
	private bool

	// A list of tables has no value of its own. add makes an entry, has fill
	// set its keys, and appends it; entries returns the keys of each; sample
	// those of an entry that is not there.
	add     func(fill func([]key) error) error
	entries func() [][]key
	sample  func() []key
}

// listOf is the key of a list of tables, whose entries have the keys that of
// returns. A *T with a method setDefaults has its defaults by that.
func listOf[T any](name string, dst *[]T, of func(*T) []key, check func(*T) error) key {
	return key{
		name: name,
		add: func(fill func([]key) error) error {
			var e T
			applyDefaults(&e)
			if err := fill(of(&e)); err != nil {
				return err
			}
			if err := check(&e); err != nil {
				return err
			}
			*dst = append(*dst, e)
			return nil
		},
		entries: func() [][]key {
			all := make([][]key, len(*dst))
			for i := range *dst {
				all[i] = of(&(*dst)[i])
			}
			return all
		},
		sample: func() []key {
			e := new(T)
			applyDefaults(e)
			return of(e)
		},
	}
}

func applyDefaults(entry any) {
	if e, ok := entry.(interface{ setDefaults() }); ok {
		e.setDefaults()
	}
}

// urlKey is a textKey that holds a URL.
func urlKey(name, env string, dst *string, check func(string) error, help string) key {
	k := textKey(name, env, dst, check, help)
	k.private = true
	return k
}

func boolKey(name, env string, dst *bool, help string) key {
	return key{
		name: name, env: env, help: help,
		set:  func(v any) error { return boolean(dst, v) },
		show: func() string { return strconv.FormatBool(*dst) },
	}
}

func pathKey(name, env string, dst *string, help string) key {
	return key{
		name: name, env: env, help: help,
		set:  func(v any) error { return absPath(dst, v) },
		show: func() string { return *dst },
	}
}

func sizeKey(name, env string, dst *int64, help string) key {
	return key{
		name: name, env: env, help: help,
		set: func(v any) error {
			n, err := ParseSize(fmt.Sprint(v))
			if err == nil {
				*dst = n
			}
			return err
		},
		show: func() string { return FormatSize(*dst) },
	}
}

// intKey is a whole number from low to high; what says what it is, for errors.
func intKey(name, env string, dst *int, low, high int, what, help string) key {
	return key{
		name: name, env: env, help: help,
		set: func(v any) error {
			n, err := strconv.Atoi(fmt.Sprint(v))
			if err != nil || n < low || n > high {
				return fmt.Errorf("must be %s from %d to %d", what, low, high)
			}
			*dst = n
			return nil
		},
		show: func() string { return strconv.Itoa(*dst) },
	}
}

func durationKey(name, env string, dst *time.Duration, low, high time.Duration, help string) key {
	return key{
		name: name, env: env, help: help,
		set: func(v any) error {
			s, _ := v.(string)
			d, err := time.ParseDuration(s)
			if err != nil {
				return errors.New(`must be a time such as "90s", "10m" or "8h"`)
			}
			if d < low || d > high {
				return fmt.Errorf("must be a time from %s to %s", FormatDuration(low), FormatDuration(high))
			}
			*dst = d
			return nil
		},
		show: func() string { return FormatDuration(*dst) },
	}
}

// FormatDuration writes d as people do, "10m" for 10 minutes; time.ParseDuration
// reads it back.
func FormatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// shareKey is a number from 0 to 1.
func shareKey(name, env string, dst *float64, help string) key {
	return key{
		name: name, env: env, help: help,
		set: func(v any) error {
			// true and false are what a user tries first.
			var all bool
			if boolean(&all, v) == nil {
				v = map[bool]string{true: "1", false: "0"}[all]
			}
			r, err := strconv.ParseFloat(fmt.Sprint(v), 64)
			if err != nil || math.IsNaN(r) || r < 0 || r > 1 {
				return errors.New("must be a number from 0 to 1")
			}
			*dst = r
			return nil
		},
		show: func() string { return strconv.FormatFloat(*dst, 'g', -1, 64) },
	}
}

func oneOfKey[T ~string](name, env string, dst *T, help string, choices ...T) key {
	return key{
		name: name, env: env, help: help,
		set: func(v any) error {
			s, _ := v.(string)
			if !slices.Contains(choices, T(s)) {
				all := make([]string, len(choices))
				for i, c := range choices {
					all[i] = string(c)
				}
				return fmt.Errorf("must be one of %s", strings.Join(all, ", "))
			}
			*dst = T(s)
			return nil
		},
		show: func() string { return string(*dst) },
	}
}

// textKey is a string that check takes; "" is always taken.
func textKey(name, env string, dst *string, check func(string) error, help string) key {
	return key{
		name: name, env: env, help: help,
		set: func(v any) error {
			s, ok := v.(string)
			if !ok {
				return errors.New("must be text in quotes")
			}
			if s != "" {
				if err := check(s); err != nil {
					return err
				}
			}
			*dst = s
			return nil
		},
		show: func() string { return *dst },
	}
}

// listKey is a list of strings, in the environment joined by separator. put
// checks one and returns how it is kept; "" are left out.
func listKey(name, env string, dst *[]string, separator string, put func(any) (string, error), help string) key {
	return key{
		name: name, env: env, help: help,
		set: func(v any) error {
			var given []any
			switch v := v.(type) {
			case string:
				for _, s := range split(v, separator) {
					given = append(given, s)
				}
			case []any:
				given = v
			default:
				return errors.New("must be a list of strings")
			}
			list := make([]string, 0, len(given))
			for _, g := range given {
				s, err := put(g)
				if err != nil {
					return err
				}
				if s != "" {
					list = append(list, s)
				}
			}
			*dst = list
			return nil
		},
		show: func() string { return strings.Join(*dst, separator) },
	}
}

func split(s, separator string) []string {
	if separator == string(os.PathListSeparator) {
		return filepath.SplitList(s) // a path may begin with a space
	}
	list := strings.Split(s, separator)
	for i := range list {
		list[i] = strings.TrimSpace(list[i])
	}
	return list
}

// secretKey is a credential. A file of settings is read by too many for it to
// stand there.
func secretKey(name, env string, dst *Secret, help string) key {
	return key{
		name: name, env: env, help: help, secret: true,
		set: func(v any) error {
			s, _ := v.(string)
			if err := checkCredential(s); err != nil {
				return err
			}
			*dst = Secret(s)
			return nil
		},
		show: func() string { return dst.String() },
	}
}

func logKeys(l *Log) []key {
	return []key{
		{
			name: "log.level", env: "HPCC_LOG_LEVEL",
			help: "least severe log record to write: debug, info, warn, error",
			set: func(v any) error {
				var s string
				if err := oneOfKey("", "", &s, "", "debug", "info", "warn", "error").set(v); err != nil {
					return err
				}
				return l.Level.UnmarshalText([]byte(s))
			},
			show: func() string { return strings.ToLower(l.Level.String()) },
		},
		oneOfKey("log.format", "HPCC_LOG_FORMAT", &l.Format, "format of the log: text, json", "text", "json"),
	}
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
