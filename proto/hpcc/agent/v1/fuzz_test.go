package agentv1

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
)

// FuzzHeader holds what Check takes against what the agent relies on: names lead
// nowhere but below their root, fit into the kernel's limits and go through a
// message unchanged.
func FuzzHeader(f *testing.F) {
	for _, change := range []func(h *ExecHeader){
		func(*ExecHeader) {},
		func(h *ExecHeader) { h.Inputs[1].Path = "/w/../etc/passwd" },
		func(h *ExecHeader) { h.Inputs[1].Path = "/w/l/x" },
		func(h *ExecHeader) { h.Roots[1] = "/w/sub" },
		func(h *ExecHeader) { h.Inputs[2].Target = "a\x00" },
		func(h *ExecHeader) { h.Outputs = append(h.Outputs, "/b/x/o", "/w/o") },
	} {
		h := good()
		change(h)
		b, err := proto.Marshal(h)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, uint64(1))
	}
	f.Fuzz(func(t *testing.T, wire []byte, limit uint64) {
		h := new(ExecHeader)
		if proto.Unmarshal(wire, h) != nil {
			return
		}
		l := &Limits{MemoryBytes: limit, Processes: uint32(limit), FileBytes: limit >> 1, DiskBytes: limit << 1, StdioBytes: limit, TimeMillis: limit}
		if l.Fill() == nil && (l.MemoryBytes == 0 || l.Processes == 0 || l.FileBytes == 0 || l.FileBytes > MaxOutputBytes || l.DiskBytes == 0 || l.StdioBytes == 0 || l.TimeMillis == 0) {
			t.Errorf("limits %v", l)
		}
		if h.Check() != nil {
			return
		}
		// below tells whether p lies below a root, or at one, as filepath has it.
		below := func(p string, itself bool) error {
			if len(p) > 4095 || strings.Contains(p, "\x00") || !filepath.IsAbs(p) {
				return errors.New("no path")
			}
			for _, r := range h.GetRoots() {
				if rel, err := filepath.Rel(r, p); err == nil && filepath.IsLocal(rel) && (itself || rel != ".") && filepath.Join(r, rel) == p {
					return nil
				}
			}
			return errors.New("below no root")
		}
		links := map[string]bool{}
		for _, in := range h.GetInputs() {
			if err := below(in.GetPath(), in.GetKind() == Input_KIND_DIRECTORY); err != nil {
				t.Errorf("input %q: %v", in.GetPath(), err)
			}
			links[in.GetPath()] = in.GetKind() != Input_KIND_DIRECTORY
		}
		for p := range links {
			for dir := filepath.Dir(p); dir != "/"; dir = filepath.Dir(dir) {
				if links[dir] {
					t.Errorf("input %q goes through %q", p, dir)
				}
			}
		}
		for _, o := range h.GetOutputs() {
			if err := below(o, false); err != nil {
				t.Errorf("output %q: %v", o, err)
			}
		}
		for _, r := range h.GetRoots() {
			if r == "/" || strings.HasPrefix(r+"/", "/proc/") || strings.HasPrefix(r+"/", "/dev/") || strings.HasPrefix(r+"/", "/sys/") {
				t.Errorf("root %q", r)
			}
		}
		again, err := proto.Marshal(h)
		if err != nil {
			t.Fatalf("it cannot be sent: %v", err)
		}
		back := new(ExecHeader)
		if err := proto.Unmarshal(again, back); err != nil || !proto.Equal(h, back) {
			t.Errorf("it changes on its way: %v", err)
		}
	})
}
