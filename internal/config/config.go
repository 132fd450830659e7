// Package config reads hpcc's settings: for each role (client, scheduler,
// worker) one table of keys, each of which can stand in the role's file, in the
// environment, or be left at its default. The environment wins over the file,
// the file over the default. Lists of tables ([[tenant]]) stand in the file
// alone, and secrets in the environment or in files of their own.
//
// The file is client.toml, scheduler.toml or worker.toml in the configuration
// directory, which is $HPCC_CONFIG_DIR, or hpcc below the user's configuration
// directory. A key that the table lacks is an error that names the nearest key:
// a misspelt setting that is silently ignored costs more than a build that says
// so.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
)

// Place is where a role's settings were looked for, and where each came from.
type Place struct {
	// Dir is the configuration directory, absolute. It may not exist.
	Dir string
	// File is the path of the role's file. It may not exist.
	File string

	origins map[string]string
}

// IsSet reports whether somebody has set a key, by its name in the file.
func (p *Place) IsSet(key string) bool { return p.origins[key] != "" }

func (p *Place) place() *Place { return p }

// Log says what a role logs, and how.
type Log struct {
	Level slog.Level
	// Format is "text" or "json".
	Format string
}

// Lookup tells an environment variable's value and whether it is set, as
// os.LookupEnv does.
type Lookup func(name string) (string, bool)

// role is a set of settings. The keys that it returns point into it.
type role interface {
	place() *Place
	keys() []key
	setDefaults()
	// finish fills in what follows from other settings, and checks what
	// concerns more than one. It may run again on the result.
	finish() error
}

// load fills r from the file called name and from env.
func load(r role, name string, env Lookup) error {
	dir, err := Dir(env)
	if err != nil {
		return err
	}
	p := r.place()
	*p = Place{Dir: dir, File: filepath.Join(dir, name), origins: map[string]string{}}
	r.setDefaults()
	keys := r.keys()
	text, err := os.ReadFile(p.File)
	switch {
	case err == nil:
		if err := p.applyFile(keys, text); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("settings: %w", err)
	}
	if err := p.applyEnv(keys, env); err != nil {
		return err
	}
	return r.finish()
}

// applyEnv sets what the environment holds.
func (p *Place) applyEnv(keys []key, env Lookup) error {
	for i := range keys {
		k := &keys[i]
		if k.env == "" {
			continue
		}
		// An empty variable counts as unset, since that is how a shell
		// script takes a setting back.
		text, ok := env(k.env)
		if !ok || text == "" {
			continue
		}
		if err := k.set(text); err != nil {
			if k.secret {
				return fmt.Errorf("%s: %w", k.env, err)
			}
			return fmt.Errorf("%s is %q: %w", k.env, text, err)
		}
		p.origins[k.name] = "environment"
	}
	return nil
}

// copyOrigins makes p independent of the Place that it was copied from.
func (p *Place) copyOrigins() { p.origins = maps.Clone(p.origins) }

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
	// Key is the name in the file, with its table: "cache.max_size".
	Key string `json:"key"`
	// Env is the environment variable that sets it, "" if there is none.
	Env string `json:"env"`
	// Value is the value as the file would hold it, without quotes; "(set)" for
	// a secret.
	Value string `json:"value"`
	// Origin is "default", "environment", or the file's path and line.
	Origin string `json:"origin"`
	// Help says in one line what the key does.
	Help string `json:"help"`
}

// settings lists every key of r in the table's order, and behind a list of
// tables the keys of its entries.
func settings(r role) []Setting { return r.place().list(r.keys(), "") }

func (p *Place) list(keys []key, prefix string) []Setting {
	var all []Setting
	for i := range keys {
		k := &keys[i]
		name := prefix + k.name
		if k.entries == nil {
			origin := p.origins[name]
			if origin == "" {
				origin = "default"
			}
			all = append(all, Setting{Key: name, Env: k.env, Value: k.show(), Origin: origin, Help: k.help})
			continue
		}
		for n, entry := range k.entries() {
			all = append(all, p.list(entry, fmt.Sprintf("%s[%d].", name, n))...)
		}
	}
	return all
}

// Describe lists the keys of a role ("client", "scheduler", "worker") with their
// variables and help; those of lists of tables by the list's name: nil for
// another role.
func Describe(role string) []Setting {
	if r := newRole(role); r != nil {
		return describe(r.keys(), "")
	}
	return nil
}

// Show loads a role's settings and lists them, with the path of their file.
func Show(role string) (file string, all []Setting, err error) {
	r := newRole(role)
	if r == nil {
		return "", nil, fmt.Errorf("role %q is none of client, scheduler and worker", role)
	}
	if err := load(r, role+".toml", os.LookupEnv); err != nil {
		return "", nil, err
	}
	return r.place().File, settings(r), nil
}

func newRole(name string) role {
	switch name {
	case "client":
		return &Config{}
	case "scheduler":
		return &Scheduler{}
	case "worker":
		return &Worker{}
	}
	return nil
}

func describe(keys []key, prefix string) []Setting {
	var all []Setting
	for i := range keys {
		k := &keys[i]
		if k.sample != nil {
			all = append(all, describe(k.sample(), prefix+k.name+".")...)
			continue
		}
		all = append(all, Setting{Key: prefix + k.name, Env: k.env, Help: k.help})
	}
	return all
}

// Secret is a credential. It shows itself nowhere: not in logs, not in JSON.
type Secret string

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "(set)"
}

// GoString keeps a secret out of what %#v prints.
func (s Secret) GoString() string { return s.String() }

// MarshalText keeps a secret out of JSON and of structured logs.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// maxCredential bounds a file that holds a credential: a signed token has some
// thousand bytes.
const maxCredential = 64 << 10

// readCredential returns the credential itself: what the environment gave, else
// what the file holds, without the white space around it.
func readCredential(given Secret, file, key, env string) (Secret, error) {
	if given != "" {
		return given, nil
	}
	if file == "" {
		return "", fmt.Errorf("no credential: name a file that holds it in %s, or set %s", key, env)
	}
	info, err := os.Stat(file)
	if err != nil {
		return "", fmt.Errorf("%s: %w", key, err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxCredential {
		return "", fmt.Errorf("%s: %s: must be a file of at most %d bytes", key, file, maxCredential)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("%s: %w", key, err)
	}
	s := strings.TrimSpace(string(text))
	if err := checkCredential(s); err != nil {
		return "", fmt.Errorf("%s: %s: %w", key, file, err)
	}
	return Secret(s), nil
}

// checkCredential tells whether s can stand in a header.
func checkCredential(s string) error {
	if s == "" {
		return errors.New("the credential is empty")
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return errors.New("a credential is one word of printable ASCII")
		}
	}
	return nil
}
