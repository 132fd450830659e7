package config

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// loadRole writes text as a role's file and loads it under env.
func loadRole[T any](t *testing.T, name, text string, env map[string]string, from func(Lookup) (T, error)) (T, error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return from(func(name string) (string, bool) {
		if name == "HPCC_CONFIG_DIR" {
			return dir, true
		}
		v, ok := env[name]
		return v, ok
	})
}

func hash(digit string) string { return strings.Repeat(digit, 64) }

var schedulerText = `
listen = "127.0.0.1:1"
tls_cert = "/c"
tls_key = "/k"
token_minutes = 10

[heartbeat]
interval = "1s"
expiry = "3s"

[[tenant]]
name = "red"
images = ["` + image + `", "registry/gcc@sha256:` + hash("a") + `"]

  [[tenant.credential]]
  subject = "alice@example.com"
  sha256 = "` + hash("1") + `"

  [[tenant.credential]]
  subject = "ci"
  sha256 = "` + hash("2") + `"

[[tenant]]
name = "blue"
credential = [{ subject = "bob", sha256 = "` + hash("3") + `" }]

[[worker]]
name = "worker-1"
sha256 = "` + hash("4") + `"

[[operator]]
subject = "root"
sha256 = "` + hash("5") + `"
`

func TestScheduler(t *testing.T) {
	s, err := loadRole(t, "scheduler.toml", schedulerText, map[string]string{"HPCC_SCHEDULER_ROTATE": "48h"}, LoadSchedulerFrom)
	if err != nil {
		t.Fatal(err)
	}
	if s.Listen != "127.0.0.1:1" || s.Token != 10*time.Minute || s.Rotate != 48*time.Hour ||
		s.Heartbeat.Interval != time.Second || s.Heartbeat.Expiry != 3*time.Second || s.KeyDir != filepath.Join(s.Dir, "scheduler-keys") {
		t.Errorf("got %+v", s)
	}
	if len(s.Tenants) != 2 {
		t.Fatalf("tenants: %+v", s.Tenants)
	}
	red, blue := s.Tenants[0], s.Tenants[1]
	if red.Name != "red" || !reflect.DeepEqual(red.Images, []string{image, "sha256:" + hash("a")}) ||
		!reflect.DeepEqual(red.Credentials, []Credential{{"alice@example.com", hash("1")}, {"ci", hash("2")}}) {
		t.Errorf("red: %+v", red)
	}
	if blue.Name != "blue" || blue.Images != nil || !reflect.DeepEqual(blue.Credentials, []Credential{{"bob", hash("3")}}) {
		t.Errorf("blue: %+v", blue)
	}
	if !reflect.DeepEqual(s.Workers, []WorkerCredential{{"worker-1", hash("4")}}) ||
		!reflect.DeepEqual(s.Operators, []Credential{{"root", hash("5")}}) {
		t.Errorf("workers %+v, operators %+v", s.Workers, s.Operators)
	}
	from := map[string]string{}
	for _, e := range s.Settings() {
		from[e.Key] = e.Value + " " + strings.TrimPrefix(e.Origin, s.File)
	}
	for key, want := range map[string]string{
		"tenant[0].name":                  "red :12",
		"tenant[0].credential[1].subject": "ci :20",
		"tenant[1].credential[0].subject": "bob :25",
		"worker[0].name":                  "worker-1 :28",
		"rotate":                          "48h environment",
		"token_minutes":                   "10 :5",
		"http_listen":                     "127.0.0.1:7501 default",
	} {
		if from[key] != want {
			t.Errorf("%s: %q, want %q", key, from[key], want)
		}
	}
}

func TestSchedulerErrors(t *testing.T) {
	const files = "tls_cert = \"/c\"\ntls_key = \"/k\"\n"
	cred := func(subject, h string) string { return fmt.Sprintf("{ subject = %q, sha256 = %q }", subject, h) }
	tests := []struct{ name, text, want string }{
		{"no certificate", "", "tls_cert and tls_key are missing"},
		{"misspelt in a list", files + "[[tenant]]\nname = \"a\"\nimage = []\n", "scheduler.toml:5: unknown key tenant.image: did you mean tenant.images?"},
		{"misspelt in an inner list", files + "[[tenant]]\nname = \"a\"\n[[tenant.credential]]\nsubjekt = \"a\"\n", "scheduler.toml:6: unknown key tenant.credential.subjekt: did you mean tenant.credential.subject?"},
		{"misspelt list", files + "[[tenants]]\nname = \"a\"\n", "scheduler.toml:3: unknown key tenants: did you mean tenant?"},
		{"one tenant for a list", files + "[tenant]\nname = \"a\"\n", "tenant is a list of tables: write [[tenant]] before each"},
		{"tenant without name", files + "[[tenant]]\nname = \"a\"\n[[tenant]]\n", "scheduler.toml:5: tenant: name is missing"},
		{"tenant's name", files + "[[tenant]]\nname = \"../a\"\n", "scheduler.toml:4: tenant.name is ../a: must be 1 to 63 of a-z"},
		{"no image allowed", files + "[[tenant]]\nname = \"a\"\nimages = []\n", "scheduler.toml:3: tenant: images is an empty list"},
		{"image by tag", files + "[[tenant]]\nname = \"a\"\nimages = [\"gcc:12\"]\n", "must name an image by its digest"},
		{"credential without hash", files + "[[operator]]\nsubject = \"a\"\n", "scheduler.toml:3: operator: sha256 is missing"},
		{"plain credential", files + "[[worker]]\nname = \"a\"\nsha256 = \"s3cret\"\n", "must be the SHA-256 of a credential"},
		{"upper case", files + "[[worker]]\nname = \"a\"\nsha256 = \"" + hash("A") + "\"\n", "in lower case"},
		{"tenant twice", files + "[[tenant]]\nname = \"a\"\n[[tenant]]\nname = \"a\"\n", "tenant a is there twice"},
		{"worker's name", files + "[[worker]]\nname = \"w1.example.com\"\n", "must be 1 to 63 of a-z"},
		{"credential twice", files + "operator = [" + cred("o", hash("1")) + "]\n[[tenant]]\nname = \"a\"\ncredential = [" + cred("p", hash("1")) + "]\n",
			"p of tenant a and operator o have the same credential"},
		{"expiry", files + "[heartbeat]\ninterval = \"10s\"\nexpiry = \"15s\"\n", "must be twice heartbeat.interval"},
		{"nowhere", files + "listen = \"\"\n", "listen is empty"},
		{"control character", files + "[[operator]]\nsubject = \"a\\u0007\"\n", "must be at most 255 bytes of printable text"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := loadRole(t, "scheduler.toml", tt.text, nil, LoadSchedulerFrom)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q, want %q", err, tt.want)
			}
		})
	}
}

const workerText = `
name = "w1"
advertise = "w1.example.com:9"
tls_cert = "/c"
tls_key = "/k"
state_dir = "/state"

[scheduler]
address = "s:1"

[images]
allow = ["registry.example.com/toolchains/*"]
mirrors = ["docker.io=mirror.example.com/hub"]

[sessions]
memory_mib = 4096
vcpus = 2
idle = "5m"

[limits]
memory = "1GiB"
`

func TestWorker(t *testing.T) {
	w, err := loadRole(t, "worker.toml", workerText, map[string]string{
		"HPCC_WORKER_SCHEDULER_CREDENTIAL": "s3cret", "HPCC_IMAGE_PLATFORM": "linux/arm64", "HPCC_LOG_LEVEL": "debug",
	}, LoadWorkerFrom)
	if err != nil {
		t.Fatal(err)
	}
	if w.Name != "w1" || w.Advertise != "w1.example.com:9" || w.Images.Dir != "/state/images" || w.Audit.Dir != "/state/audit" ||
		w.Images.Platform != "linux/arm64" || w.Sessions.MachineMemoryMiB != 4096 || w.Sessions.MachineVCPUs != 2 ||
		w.Sessions.Idle != 5*time.Minute || w.Limits.Memory != 1<<30 || w.Limits.Time != 10*time.Minute || w.Log.Level != slog.LevelDebug {
		t.Errorf("got %+v", w)
	}
	if c, err := w.ReadCredential(); err != nil || string(c) != "s3cret" {
		t.Errorf("credential: %v", err)
	}
	all := fmt.Sprintf("%v %+v %#v", w, w, w.Scheduler)
	text, err := json.Marshal(w)
	if err != nil || strings.Contains(all+string(text), "s3cret") {
		t.Errorf("the secret shows: %s %s %v", all, text, err)
	}
}

func TestWorkerErrors(t *testing.T) {
	tests := []struct {
		name, old, new string
		want           string
	}{
		{"no scheduler", "address = \"s:1\"", "", "scheduler.address is missing"},
		{"no certificate", "tls_key = \"/k\"", "", "tls_cert or tls_key is missing"},
		{"machine too large", "vcpus = 2", "vcpus = 2\nmachine_vcpus = 3", "sessions.machine_vcpus is 3, more than sessions.vcpus, 2"},
		{"memory too small", "memory_mib = 4096", "memory_mib = 4096\nmachine_memory_mib = 5000", "no machine would fit"},
		{"stdio", "memory = \"1GiB\"", "stdio = \"5MiB\"", "limits.stdio is 5MiB: must be 4MiB at most"},
		{"upload rate", "memory = \"1GiB\"", "tenant_upload_rate = \"100kB\"", "limits.tenant_upload_rate is 100kB: must be 1MiB at least"},
		{"tenant's compiles", "memory = \"1GiB\"", "tenant_compiles = 0", "limits.tenant_compiles"},
		{"runtime", "name = \"w1\"", "runtime = \"process\"", "must be one of firecracker"},
		{"mirror", "docker.io=mirror.example.com/hub", "mirror.example.com", "must be REGISTRY=MIRROR"},
		{"advertise", "w1.example.com:9", "w1.example.com", "advertise is w1.example.com: must be an address"},
		{"secret", "[scheduler]", "[scheduler]\ncredential = \"s3cret\"", "scheduler.credential does not belong into this file"},
		{"image allowed", "[\"registry.example.com/toolchains/*\"]", "7", "must be a list of strings"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.Replace(workerText, tt.old, tt.new, 1)
			if text == workerText {
				t.Fatalf("%q is not in the text", tt.old)
			}
			_, err := loadRole(t, "worker.toml", text, nil, LoadWorkerFrom)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("error %q, want %q", err, tt.want)
			}
		})
	}
}

func TestAdvertised(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for listen, want := range map[string]string{
		"10.0.0.1:7510": "10.0.0.1:7510", ":7510": host + ":7510", "0.0.0.0:7510": host + ":7510", "[::]:7510": host + ":7510",
		"[fd00::1]:7510": "[fd00::1]:7510", "127.0.0.1:0": "",
	} {
		if got := advertised(listen); got != want {
			t.Errorf("%s: %q, want %q", listen, got, want)
		}
	}
}

// A client with a scheduler shares results, so that its objects must not depend
// on its directories, unless its user says so.
func TestReproducibleByDefault(t *testing.T) {
	remote := "[remote]\nscheduler = \"s:1\"\nimage = \"" + image + "\"\n"
	for _, tt := range []struct {
		text string
		env  map[string]string
		want bool
	}{
		{"", nil, false},
		{remote, nil, true},
		{remote + "mode = \"off\"\n", nil, false},
		{remote + "[reproducible]\nenabled = false\n", nil, false},
		{remote, map[string]string{"HPCC_REPRODUCIBLE_ENABLED": "0"}, false},
	} {
		c, err := loadText(t, tt.text, tt.env)
		if err != nil || c.Reproducible.Enabled != tt.want {
			t.Errorf("%q: %v, %v", tt.text, c, err)
		}
	}
	if c, err := loadText(t, remote+"race = true\n", nil); err != nil || !c.Remote.Race || c.Remote.RaceAfter != 500*time.Millisecond {
		t.Errorf("race: %+v, %v", c, err)
	}
	// What contradicts itself is said.
	for text, says := range map[string]string{
		remote + "race = true\nfallback = \"fail\"\n":   `remote.fallback = "fail" allows no compile here`,
		"paranoid = true\n" + remote + "race = true\n":  "what wins a remote.race here has none",
		remote + "race = true\nrace_after = \"10ms\"\n": "a time from 20ms to 1h",
	} {
		if _, err := loadText(t, text, nil); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", text, err)
		}
	}
	c, err := loadText(t, remote, nil)
	if err != nil {
		t.Fatal(err)
	}
	o, err := c.Overlay(func(name string) (string, bool) { return "off", name == "HPCC_REMOTE_MODE" })
	if err != nil || o.Reproducible.Enabled || !c.Reproducible.Enabled {
		t.Errorf("overlay: %v, %v", o, err)
	}
}

func TestReadCredential(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "credential")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := Remote{CredentialFile: file}
	write(" s3cret\n")
	if c, err := r.ReadCredential(); err != nil || c != "s3cret" {
		t.Errorf("%q, %v", string(c), err)
	}
	for text, want := range map[string]string{
		"": "is empty", "two words": "one word", strings.Repeat("x", maxCredential+1): "at most",
	} {
		write(text)
		if c, err := r.ReadCredential(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%d bytes: %q, %v", len(text), string(c), err)
		}
	}
	r = Remote{CredentialFile: dir}
	if _, err := r.ReadCredential(); err == nil {
		t.Error("a directory was taken for a credential")
	}
	r = Remote{}
	if _, err := r.ReadCredential(); err == nil || !strings.Contains(err.Error(), "HPCC_REMOTE_CREDENTIAL") {
		t.Errorf("none: %v", err)
	}
}

// Whatever stands in a file, reading it ends with settings or with an error that
// names the file; and what was set has its line.
func FuzzSchedulerTOML(f *testing.F) {
	f.Add([]byte(schedulerText))
	f.Add([]byte("tenant = [{ name = \"a\", credential = [{ subject = \"b\" }] }, {}]\n"))
	f.Add([]byte("[tenant.x]\n[[worker]]\n[worker.y]\n[[worker]]\nname.z = 1\n\"a.b\" = [[1], [{}]]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s := &Scheduler{Place: Place{File: "scheduler.toml", origins: map[string]string{}}}
		s.setDefaults()
		if err := s.applyFile(s.keys(), text); err != nil {
			if !strings.HasPrefix(err.Error(), "scheduler.toml:") {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		for key, origin := range s.origins {
			var n int
			if _, err := fmt.Sscanf(origin, "scheduler.toml:%d", &n); err != nil || n < 1 || n > 1+strings.Count(string(text), "\n") {
				t.Fatalf("%q: %s comes from %q", text, key, origin)
			}
		}
		for _, e := range s.Settings() {
			_ = e.Value
		}
		if s.finish() == nil && (s.Token <= 0 || s.Heartbeat.Expiry < 2*s.Heartbeat.Interval) {
			t.Fatalf("%q: %+v", text, s)
		}
	})
}
