package config

import (
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// loadText writes text as client.toml and loads it under env, to which the
// configuration directory is added.
func loadText(t *testing.T, text string, env map[string]string) (*Config, error) {
	t.Helper()
	dir := t.TempDir()
	if text != "" {
		if err := os.WriteFile(filepath.Join(dir, "client.toml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return LoadFrom(func(name string) (string, bool) {
		if name == "HPCC_CONFIG_DIR" {
			return dir, true
		}
		v, ok := env[name]
		return v, ok
	})
}

func TestDefaults(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", "/home/someone/cache")
	c, err := loadText(t, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Cache.Dir != "/home/someone/cache/hpcc" || c.Cache.MaxSize != 10e9 {
		t.Errorf("cache: %+v", c.Cache)
	}
	if c.Reproducible.Enabled || c.Reproducible.DateTime != DateTimeWarn || c.Disable || c.Verify != 0 {
		t.Errorf("a default changes what is built: %+v", c)
	}
	for _, s := range c.Settings() {
		if s.Origin != "default" {
			t.Errorf("%s comes from %s", s.Key, s.Origin)
		}
	}
}

const image = "sha256:4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f"

const everyKey = `# settings
verify = 0.25
disable = true
paranoid = true
stats_log = "/var/log/hpcc.json"

[cache]
dir = "/file/cache"
max_size = "512MiB"
tenant = "payments"
signing_key_file = "/etc/hpcc.key"
trusted_keys_file = "/etc/hpcc.trust"
trust = "workers"
memory = "1MB"

[daemon]
port = 4000
socket = "/run/hpcc.sock"
metrics_listen = "127.0.0.1:7521"

[reproducible]
enabled = true
roots = ["/src", "/build/"]
date_time = "pin"

[remote]
scheduler = "build.example.com:7500"
ca = "/etc/ca.pem"
credential_file = "/etc/credential"
image = "registry.example.com/gcc@sha256:4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f4f"
platform = "linux/riscv64"
mode = "preprocessed"
fallback = "any"
local_jobs = 3
race = false
race_after = "2s"
timeout = "90s"

[log]
level = "debug"
format = "json"
`

func TestFile(t *testing.T) {
	c, err := loadText(t, everyKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Cache.Dir != "/file/cache" || c.Cache.MaxSize != 512<<20 || c.Daemon.Port != 4000 ||
		c.Daemon.Socket != "/run/hpcc.sock" || c.Daemon.MetricsListen != "127.0.0.1:7521" || !c.Reproducible.Enabled ||
		!reflect.DeepEqual(c.Reproducible.Roots, []string{"/src", "/build"}) ||
		c.Reproducible.DateTime != DateTimePin || c.Verify != 0.25 || !c.Disable ||
		c.StatsLog != "/var/log/hpcc.json" || !c.Paranoid || c.Log.Level != slog.LevelDebug || c.Log.Format != "json" {
		t.Errorf("got %+v", c)
	}
	wantRemote := Remote{
		Scheduler: "build.example.com:7500", CA: "/etc/ca.pem", CredentialFile: "/etc/credential",
		Image: image, ImageName: "registry.example.com/gcc@" + image, Platform: "linux/riscv64", Mode: ModePreprocessed, Fallback: FallbackAny,
		LocalJobs: 3, RaceAfter: 2 * time.Second, Timeout: 90 * time.Second,
	}
	if c.Remote != wantRemote {
		t.Errorf("remote: got %+v, want %+v", c.Remote, wantRemote)
	}
	for _, s := range c.Settings() {
		if s.Key == "remote.credential" { // not in a file
			continue
		}
		if !strings.HasPrefix(s.Origin, c.File+":") {
			t.Errorf("%s: origin %q lacks the file and line", s.Key, s.Origin)
		}
		if s.Key == "cache.max_size" && s.Origin != c.File+":9" {
			t.Errorf("cache.max_size: origin %q, want line 9", s.Origin)
		}
	}
}

// Every key can be set by its variable, and the variable wins over the file.
func TestEnvironmentWins(t *testing.T) {
	env := map[string]string{
		"HPCC_CACHE_DIR": "/env/cache", "HPCC_CACHE_MAX_SIZE": "3GB",
		"HPCC_CACHE_TENANT": "red", "HPCC_CACHE_SIGNING_KEY_FILE": "/env/key", "HPCC_CACHE_TRUSTED_KEYS_FILE": "/env/trust",
		"HPCC_CACHE_TRUST": "all", "HPCC_CACHE_MEMORY": "2MB",
		"HPCC_DAEMON_PORT": "5000", "HPCC_DAEMON_SOCKET": "/env/sock", "HPCC_DAEMON_METRICS_LISTEN": "localhost:1",
		"HPCC_REPRODUCIBLE_ENABLED": "off", "HPCC_ROOT": "/env/a:/env/b",
		"HPCC_REPRODUCIBLE_DATE_TIME": "allow", "HPCC_VERIFY": "1",
		"HPCC_DISABLE": "0", "HPCC_STATS_LOG": "/env/log",
		"HPCC_LOG_LEVEL": "error", "HPCC_LOG_FORMAT": "text",
		"HPCC_REMOTE_SCHEDULER": "other:1", "HPCC_REMOTE_CA": "/env/ca", "HPCC_REMOTE_CREDENTIAL_FILE": "/env/cred",
		"HPCC_REMOTE_CREDENTIAL": "s3cret", "HPCC_REMOTE_IMAGE": image, "HPCC_REMOTE_PLATFORM": "linux/arm64", "HPCC_REMOTE_MODE": "cas",
		"HPCC_REMOTE_FALLBACK": "fail", "HPCC_REMOTE_LOCAL_JOBS": "5", "HPCC_REMOTE_RACE": "false", "HPCC_REMOTE_RACE_AFTER": "1s",
		"HPCC_REMOTE_TIMEOUT": "1h30m", "HPCC_PARANOID": "no",
	}
	want := map[string]string{
		"cache.tenant": "red", "cache.signing_key_file": "/env/key", "cache.trusted_keys_file": "/env/trust",
		"cache.trust": "all", "cache.memory": "2MB",
		"cache.dir": "/env/cache", "cache.max_size": "3GB", "daemon.port": "5000",
		"daemon.socket": "/env/sock", "daemon.metrics_listen": "localhost:1", "reproducible.enabled": "false",
		"reproducible.roots": "/env/a:/env/b", "reproducible.date_time": "allow",
		"verify": "1", "disable": "false", "stats_log": "/env/log",
		"log.level": "error", "log.format": "text",
		"remote.scheduler": "other:1", "remote.ca": "/env/ca", "remote.credential_file": "/env/cred",
		"remote.credential": "(set)", "remote.image": image, "remote.platform": "linux/arm64", "remote.mode": "cas",
		"remote.fallback": "fail", "remote.local_jobs": "5", "remote.race": "false", "remote.race_after": "1s",
		"remote.timeout": "1h30m", "paranoid": "false",
	}
	c, err := loadText(t, everyKey, env)
	if err != nil {
		t.Fatal(err)
	}
	// Lists of tables are the file's alone.
	if n := len(c.keys()) - 1; len(env) != n || len(want) != n {
		t.Fatalf("the test sets %d of %d keys", len(env), n)
	}
	for _, s := range c.Settings() {
		if s.Value != want[s.Key] || s.Origin != "environment" {
			t.Errorf("%s = %q from %q, want %q from the environment", s.Key, s.Value, s.Origin, want[s.Key])
		}
		if _, ok := env[s.Env]; !ok {
			t.Errorf("%s is set by %s, which the test does not set", s.Key, s.Env)
		}
	}
	if c, err = loadText(t, everyKey, map[string]string{"HPCC_CACHE_DIR": ""}); err != nil || c.Cache.Dir != "/file/cache" {
		t.Errorf("an empty variable must count as unset: %v, %v", c, err)
	}
}

func TestOverlay(t *testing.T) {
	c, err := loadText(t, everyKey, nil)
	if err != nil {
		t.Fatal(err)
	}
	o, err := c.Overlay(func(name string) (string, bool) { return "/other", name == "HPCC_ROOT" })
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(o.Reproducible.Roots, []string{"/other"}) || o.Cache.Dir != c.Cache.Dir {
		t.Errorf("overlay: %+v", o)
	}
	if len(c.Reproducible.Roots) != 2 || c.origins["reproducible.roots"] == "environment" {
		t.Error("overlay changed the original")
	}
}

func TestErrors(t *testing.T) {
	tests := []struct {
		name, file string
		env        map[string]string
		want       string
	}{
		{"misspelt key", "[cache]\nmaxsize = \"1GB\"\n", nil, "client.toml:2: unknown key cache.maxsize: did you mean cache.max_size?"},
		{"key without its table", "max_size = \"1GB\"\n", nil, "client.toml:1: unknown key max_size: did you mean cache.max_size?"},
		{"misspelt table", "[reproducable]\nenabled = true\n", nil, "did you mean reproducible?"},
		{"nothing near", "colour = true\n", nil, "client.toml:1: unknown key colour"},
		{"syntax", "[cache\n", nil, "client.toml:1:"},
		{"size", "[cache]\nmax_size = \"many\"\n", nil, `client.toml:2: cache.max_size is many: must be a size such as "10GB"`},
		{"relative path", "[cache]\ndir = \"here\"\n", nil, "cache.dir is here: must be an absolute path"},
		{"path as a number", "[cache]\ndir = 7\n", nil, "must be a path in quotes"},
		{"port", "", map[string]string{"HPCC_DAEMON_PORT": "70000"}, `HPCC_DAEMON_PORT is "70000": must be a port number`},
		{"share", "", map[string]string{"HPCC_VERIFY": "2"}, "must be a number from 0 to 1"},
		{"not a share", "", map[string]string{"HPCC_VERIFY": "NaN"}, "must be a number from 0 to 1"},
		{"policy", "", map[string]string{"HPCC_REPRODUCIBLE_DATE_TIME": "never"}, "must be one of warn, error, pin, allow"},
		{"root of all", "", map[string]string{"HPCC_ROOT": "/"}, "/ cannot be a project root"},
		{"boolean", "disable = 1\n", nil, "must be true or false"},
		{"quoted key", "\"cache.dir\" = \"/c\"\n", nil, `client.toml:1: unknown key "cache.dir": write it without quotes`},
		{"all unknown keys", "a1 = 1\n[cache]\n\ndirr = 2\n", nil, "client.toml:1: unknown key a1\n"},
		{"inline table", "cache = { dir = \"/c\",\n  maxsize = 1 }\n", nil, "client.toml:2: unknown key cache.maxsize: did you mean cache.max_size?"},
		{"scheduler without port", "[remote]\nscheduler = \"build\"\n", nil, "client.toml:2: remote.scheduler is build: must be an address"},
		{"image without digest", "[remote]\nimage = \"gcc:12\"\n", nil, "must name an image by its digest"},
		{"no image", "[remote]\nscheduler = \"build:7500\"\n", nil, "set remote.image in"},
		{"credential in the file", "[remote]\ncredential = \"s3cret\"\n", nil, "client.toml:2: remote.credential does not belong into this file"},
		{"credential of two words", "", map[string]string{"HPCC_REMOTE_CREDENTIAL": "s3cret word"}, "HPCC_REMOTE_CREDENTIAL: a credential is one word"},
		{"paranoid alone", "paranoid = true\n", nil, "paranoid keeps no results here"},
		{"time without unit", "[remote]\ntimeout = 90\n", nil, `must be a time such as "90s"`},
		{"time too long", "[remote]\ntimeout = \"999h\"\n", nil, "must be a time from 1s to 24h"},
		{"table for a value", "cache = 1\n", nil, "client.toml:1:"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := loadText(t, tt.file, tt.env)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q, want %q", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "s3cret") {
				t.Errorf("error %q tells the secret", err)
			}
		})
	}
}

func TestConfigDir(t *testing.T) {
	if _, err := Dir(func(string) (string, bool) { return "relative", true }); err == nil {
		t.Error("a relative HPCC_CONFIG_DIR was taken")
	}
	t.Setenv("XDG_CONFIG_HOME", "/home/someone/config")
	dir, err := Dir(func(string) (string, bool) { return "", false })
	if err != nil || dir != "/home/someone/config/hpcc" {
		t.Errorf("Dir = %q, %v", dir, err)
	}
}

func TestUnreadableFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "client.toml"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := LoadFrom(func(name string) (string, bool) { return dir, name == "HPCC_CONFIG_DIR" })
	if err == nil {
		t.Error("a client.toml that cannot be read was ignored")
	}
}
