package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hpcc.dev/hpcc/internal/config"
)

// unit is a systemd unit: the values of each key of each section, in their order.
type unit map[string]map[string][]string

func (u unit) of(key string) string {
	values := u["Service"][key]
	if len(values) == 0 {
		return ""
	}
	return values[len(values)-1]
}

// env is the unit's own environment.
func (u unit) env(name string) (value string, set bool) {
	for _, kv := range u["Service"]["Environment"] {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			value, set = v, true
		}
	}
	return value, set
}

func readUnit(t *testing.T, path string) unit {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	u, section := unit{}, ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			section = strings.Trim(line, "[]")
			u[section] = map[string][]string{}
		default:
			key, value, ok := strings.Cut(line, "=")
			if !ok || section == "" {
				t.Fatalf("%s: %q", path, line)
			}
			u[section][key] = append(u[section][key], value)
		}
	}
	return u
}

// TestUnits keeps deploy/systemd true: what the units start takes the flags that
// they give, the settings in them are settings, their users are those of
// deploy/sysusers, and systemd reads them without a complaint.
func TestUnits(t *testing.T) {
	const dir = "../../deploy/systemd"
	files, err := filepath.Glob(dir + "/*.service")
	if err != nil || len(files) < 4 {
		t.Fatal(files, err)
	}
	jail := filepath.Join(t.TempDir(), "hpcc-jail")
	if out, err := exec.Command("go", "build", "-o", jail, "../hpcc-jail").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	users := map[string]string{} // and their numbers
	text, err := os.ReadFile("../../deploy/sysusers/hpcc.conf")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == "u" {
			users[f[1]] = f[2]
		}
	}

	started := map[string]string{}
	for _, file := range files {
		name, u := filepath.Base(file), readUnit(t, file)
		args := strings.Fields(u.of("ExecStart"))
		for i, a := range args {
			if v, ok := strings.CutPrefix(a, "${"); ok {
				value, set := u.env(strings.TrimSuffix(v, "}"))
				if !set {
					t.Errorf("%s: %s is not set", name, a)
				}
				args[i] = value
			}
		}
		started[name] = strings.Join(args, " ")
		switch filepath.Base(args[0]) {
		case "hpcc", "hpccd":
			a, _, _ := fixture(t)
			cmd, rest, err := a.newRoot().Find(args[1:])
			if err != nil || cmd.Name() != args[1] {
				t.Errorf("%s: %q: %v", name, args, err)
				continue
			}
			if err := cmd.ParseFlags(rest); err != nil || cmd.Flags().NArg() > 0 {
				t.Errorf("%s: %q: %v", name, args, err)
			}
		case "hpcc-jail":
			// It has read all flags when it finds that this is none.
			out, err := exec.Command(jail, append(args[1:], "more")...).CombinedOutput()
			if err == nil || !strings.Contains(string(out), `unexpected argument "more"`) {
				t.Errorf("%s: %q: %v, %s", name, args, err, out)
			}
		default:
			t.Errorf("%s starts %q", name, args)
		}
		if user := u.of("User"); user != "" && users[user] == "" {
			t.Errorf("%s: user %s is none of deploy/sysusers", name, user)
		}
		if u.of("NoNewPrivileges") != "yes" || u.of("RestrictAddressFamilies") == "" {
			t.Errorf("%s is not hardened", name)
		}
	}
	for name, args := range map[string]string{"hpcc-scheduler.service": "/usr/local/bin/hpccd scheduler", "hpcc-worker.service": "/usr/local/bin/hpccd worker", "hpcc.service": "/usr/local/bin/hpcc start"} {
		if started[name] != args {
			t.Errorf("%s starts %q", name, started[name])
		}
	}

	// The settings in the units, on top of those in deploy/examples.
	examples, err := filepath.Abs("../../deploy/examples")
	if err != nil {
		t.Fatal(err)
	}
	lookup := func(u unit) config.Lookup {
		return func(name string) (string, bool) {
			switch name {
			case "HPCC_CONFIG_DIR":
				return examples, true
			case "HOME":
				return "/", true
			}
			return u.env(name)
		}
	}
	jailUnit, workerUnit, schedulerUnit := readUnit(t, dir+"/hpcc-jail.service"), readUnit(t, dir+"/hpcc-worker.service"), readUnit(t, dir+"/hpcc-scheduler.service")
	if s, err := config.LoadSchedulerFrom(lookup(schedulerUnit)); err != nil || s.KeyDir != "/var/lib/"+schedulerUnit.of("StateDirectory")+"/keys" {
		t.Errorf("%+v, %v", s, err)
	}
	w, err := config.LoadWorkerFrom(lookup(workerUnit))
	if err != nil {
		t.Fatal(err)
	}
	if w.StateDir != "/var/lib/"+workerUnit.of("StateDirectory") || !strings.Contains(started["hpcc-jail.service"], "-socket "+w.Firecracker.Socket+" ") ||
		filepath.Dir(w.Firecracker.Socket) != "/run/"+jailUnit.of("RuntimeDirectory") {
		t.Errorf("the worker has its state in %s, and hpcc-jail's socket at %s", w.StateDir, w.Firecracker.Socket)
	}
	if uid, _ := jailUnit.env("WORKER_UID"); uid != users[workerUnit.of("User")] {
		t.Errorf("hpcc-jail serves user %s, and the worker is %s", uid, users[workerUnit.of("User")])
	}
	for _, u := range []unit{workerUnit, schedulerUnit} {
		if u.of("CapabilityBoundingSet") != "" || u.of("User") == "" || u.of("ProtectSystem") != "strict" || !slices.Contains(u["Service"]["SystemCallFilter"], "@system-service") {
			t.Errorf("%v is not hardened", u["Service"])
		}
	}

	verifyUnits(t, files)
}

// verifyUnits has systemd read units, in which programs are put that are there.
func verifyUnits(t *testing.T, files []string) {
	t.Helper()
	dir := t.TempDir()
	places := strings.NewReplacer("/usr/local/bin/", "/usr/bin/env -- ", "/usr/local/sbin/", "/usr/bin/env -- ")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(file)), []byte(places.Replace(string(text))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	units, err := filepath.Glob(dir + "/*.service")
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd := exec.Command("systemd-analyze", append([]string{"verify", "--man=no"}, units...)...)
	cmd.Env = append(os.Environ(), "SYSTEMD_LOG_LEVEL=warning")
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil || said.Len() > 0 {
		t.Errorf("systemd-analyze verify: %v (run make setup)\n%s", err, said.Bytes())
	}
}
