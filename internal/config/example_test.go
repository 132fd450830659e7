package config

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// commented is a key, or an entry of a list of tables, that an example shows and
// does not set.
var commented = regexp.MustCompile(`(?m)^# ([a-z_]+ = \S.*|\[\[[a-z_.]+\]\])$`)

// TestExamples keeps deploy/examples true: they load, they name every key there
// is, and the defaults that they show are those.
func TestExamples(t *testing.T) {
	// Defaults that depend on the machine, or on where the file lies.
	own := map[string][]string{
		"client":    {"cache.dir", "remote.local_jobs", "remote.platform"},
		"scheduler": {"key_dir"},
		"worker": {
			"advertise", "firecracker.guest_kit", "images.platform", "sessions.memory_mib", "sessions.vcpus",
			"sessions.machine_memory_mib", "sessions.machine_vcpus",
		},
	}
	for name, machine := range own {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("../../deploy/examples", name+".toml"))
			if err != nil {
				t.Fatal(err)
			}
			asIs := loadExample(t, name, string(text))
			full := loadExample(t, name, commented.ReplaceAllString(string(text), "$1"))
			var set []string
			shown := map[string]string{}
			for i := range full {
				if full[i].Origin != "default" {
					set = append(set, plain(full[i].Key))
				}
				shown[full[i].Key] = full[i].Value
			}
			for _, k := range Describe(name) {
				// A credential itself has no place in the file.
				if !slices.Contains(set, k.Key) && !strings.HasSuffix(k.Key, ".credential") {
					t.Errorf("the example does not show %s: %s", k.Key, k.Help)
				}
			}
			for _, s := range append(asIs, samples(newRole(name))...) {
				if s.Origin != "default" || s.Value == "" || slices.Contains(machine, s.Key) {
					continue
				}
				if v, ok := shown[s.Key]; !ok || v != s.Value {
					t.Errorf("the example shows %s = %s as default, which is %s", s.Key, v, s.Value)
				}
			}
		})
	}
}

// samples are the defaults of the first entry of each list of tables.
func samples(r role) (all []Setting) {
	for _, k := range r.keys() {
		if k.sample == nil {
			continue
		}
		for _, e := range k.sample() {
			if e.sample == nil {
				all = append(all, Setting{Key: k.name + "[0]." + e.name, Value: e.show(), Origin: "default"})
			}
		}
	}
	return all
}

// loadExample loads text as a role's file with an empty environment.
func loadExample(t *testing.T, name, text string) []Setting {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name+".toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r := newRole(name)
	err := load(r, name+".toml", func(name string) (string, bool) { return dir, name == "HPCC_CONFIG_DIR" })
	if err != nil {
		t.Fatal(err)
	}
	return settings(r)
}
