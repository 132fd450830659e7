package vm

import (
	"strings"
	"testing"
)

func TestSpecCheck(t *testing.T) {
	good := Spec{ID: "a-1", VCPUs: 1, MemoryMiB: 128}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*Spec){
		"1 to 32 characters": func(s *Spec) { s.ID = "" },
		"1 to 32":            func(s *Spec) { s.ID = strings.Repeat("a", MaxID+1) },
		"only a-z":           func(s *Spec) { s.ID = "a/b" },
		"0-9 and -":          func(s *Spec) { s.ID = "A" },
		"begins or ends":     func(s *Spec) { s.ID = "-a" },
		"ends with a hyphen": func(s *Spec) { s.ID = "a-" },
		"0 vCPUs":            func(s *Spec) { s.VCPUs = 0 },
		"33 vCPUs":           func(s *Spec) { s.VCPUs = 33 },
		"127 MiB":            func(s *Spec) { s.MemoryMiB = 127 },
		"limit of the blob":  func(s *Spec) { s.StoreBytes = -1 },
	} {
		s := good
		change(&s)
		if err := s.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want one about %q", s, err, want)
		}
	}
}
