package vmtest

import (
	"os"
	"path/filepath"
	"testing"

	"hpcc.dev/hpcc/internal/vm"
)

// The units' lookups, with the agent as a plain process, and clang's too, which
// the image of the machine has not.
func TestLookupsEqualStrace(t *testing.T) {
	agent, dir := buildAgent(t), shortDir(t)
	runtime := &Process{Agent: agent, Dir: dir}
	m, err := runtime.Start(t.Context(), vm.Spec{ID: "oracle", Rootfs: vm.Rootfs{Path: "/"}, VCPUs: 1, MemoryMiB: 1024})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill()
	LookupsEqualStrace(t, m, append(Units,
		Unit{"clang", sources, nil, []string{"clang", "-g", "-c", "a.c", "-o", "out"}},
		Unit{"clang++", sources, nil, []string{"clang++", "-std=c++17", "-c", "a.cc", "-o", "out"}},
	), func(t *testing.T, u Unit, argv []string) (string, bool) {
		tree, traces := write(t, u.Files), t.TempDir()
		for name, target := range u.Links {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(tree, name)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(target, filepath.Join(tree, name)); err != nil {
				t.Fatal(err)
			}
		}
		return filepath.Join(traces, "t"), plain(t, tree, traces, argv) != nil
	})
	if err := m.Kill(); err != nil {
		t.Error(err)
	}
	nothingLeft(t, agent, dir)
}
