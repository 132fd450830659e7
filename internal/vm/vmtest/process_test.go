package vmtest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/vm"
)

// buildAgent builds the agent as make build does.
func buildAgent(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("the agent makes mounts and namespaces: run the tests as root")
	}
	return build(t, "../../../agent", "./cmd/hpcc-agent")
}

// build builds a static program of a module at dir.
func build(t *testing.T, dir, pkg string) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), filepath.Base(pkg))
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, pkg)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", pkg, err, out)
	}
	return program
}

// write puts files into a new directory.
func write(t *testing.T, files map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, content := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// plain runs argv without the agent where dir is at Root and traces at /traces,
// in this machine's root, so that debug information holds the paths that jobs
// see.
func plain(t *testing.T, dir, traces string, argv []string) error {
	t.Helper()
	const script = `set -e
mount -t tmpfs none /mnt; mkdir /mnt/u /mnt/w /mnt/r
mount -t overlay -o lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w none /mnt/r
mkdir -p "/mnt/r$3" /mnt/r/traces
mount --bind "$1" "/mnt/r$3"; mount --bind "$2" /mnt/r/traces
mount --rbind /dev /mnt/r/dev; mount --rbind /proc /mnt/r/proc
root=$3; shift 3
exec chroot /mnt/r /usr/bin/env -i PATH=/usr/bin:/bin LC_ALL=C.UTF-8 TZ=UTC sh -c 'cd "$0" && exec "$@"' "$root" "$@"`
	cmd := exec.Command("unshare", append([]string{"-m", "sh", "-c", script, "sh", dir, traces, Root}, argv...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%q: %w: %s", argv, err, out)
	}
	return nil
}

func reference(t *testing.T, files map[string]string, argv []string, output string) []byte {
	t.Helper()
	dir := write(t, files)
	if err := plain(t, dir, t.TempDir(), argv); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, output))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// shortDir is a directory whose sockets' names are short enough.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// nothingLeft looks for processes of the agent and for files and mounts below
// dir.
func nothingLeft(t *testing.T, agent, dir string) {
	t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for {
		var left []string
		links, _ := filepath.Glob("/proc/[0-9]*/exe")
		for _, link := range links {
			if exe, _ := os.Readlink(link); strings.HasPrefix(exe, agent) {
				left = append(left, link)
			}
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			left = append(left, e.Name())
		}
		mounts, err := os.ReadFile("/proc/self/mounts")
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(mounts, []byte(dir)) {
			left = append(left, "a mount")
		}
		if len(left) == 0 {
			return
		}
		// A killed agent's jobs end a moment after it.
		if time.Now().After(deadline) {
			t.Fatalf("left: %v", left)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestProcess(t *testing.T) {
	agent, dir := buildAgent(t), shortDir(t)
	Run(t, Config{
		Runtime: &Process{Agent: agent, Dir: dir}, Rootfs: vm.Rootfs{Path: "/"},
		Reference:   reference,
		Probe:       build(t, "../../..", "./test/lab/probe"),
		Empty:       vm.Rootfs{Path: t.TempDir()},
		NothingLeft: func(t *testing.T) { nothingLeft(t, agent, dir) },
	})
}
