//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"hpcc.dev/hpcc/test/images"
	"hpcc.dev/hpcc/test/lab"
)

// TestMachines runs the lab tests of internal/vm/firecracker: the real
// Firecracker in jails that hpcc-jail makes with the real jailer, driven by a
// worker that is not root, with a guest that does what it is told.
func TestMachines(t *testing.T) {
	ctx := t.Context()
	files := make(map[string]string)
	var err error
	if files["firecracker"], files["jailer"], err = lab.Firecracker(ctx); err != nil {
		t.Fatal(err)
	}
	if files["hpcc-jail"], err = lab.BuildProgram(ctx, "hpcc.dev/hpcc/cmd/hpcc-jail"); err != nil {
		t.Fatal(err)
	}
	init, err := lab.BuildProgram(ctx, "hpcc.dev/hpcc/test/lab/puppet")
	if err != nil {
		t.Fatal(err)
	}
	kit, err := lab.Kit(ctx, init)
	if err != nil {
		t.Fatal(err)
	}
	files["vmlinux"], files["initrd"] = kit.Kernel, kit.Initrd
	agent, err := lab.BuildProgram(ctx, "hpcc.dev/hpcc/agent/cmd/hpcc-agent")
	if err != nil {
		t.Fatal(err)
	}
	own, err := lab.Kit(ctx, agent)
	if err != nil {
		t.Fatal(err)
	}
	files["agent-initrd"] = own.Initrd
	files["beside-initrd"] = filepath.Join(t.TempDir(), "initrd")
	if err := lab.Beside(files["beside-initrd"], own, init); err != nil {
		t.Fatal(err)
	}
	files["units.json"] = realUnits(t)
	if files["probe"], err = lab.BuildProgram(ctx, "hpcc.dev/hpcc/test/lab/probe"); err != nil {
		t.Fatal(err)
	}
	given := map[string]any{"BootArgs": kit.BootArgs}
	files["image"] = filepath.Join(t.TempDir(), "image")
	given["Rootfs"] = verityImage(t, files["image"], map[string]string{"file": "content\n"})
	files["gcc.img"], given["GCC"] = gccRoot(t)
	given["CC1Block"] = blockOf(t, files["gcc.img"], "/usr/lib/gcc/x86_64-linux-gnu/12/cc1")
	text, err := json.Marshal(given)
	if err != nil {
		t.Fatal(err)
	}
	files["given.json"] = filepath.Join(t.TempDir(), "given.json")
	if err := os.WriteFile(files["given.json"], text, 0o644); err != nil {
		t.Fatal(err)
	}
	run := func(t *testing.T, args ...string) {
		args = append([]string{"-test.timeout=79m"}, args...)
		lab.RunTests(t, "hpcc.dev/hpcc/internal/vm/firecracker", lab.Job{Files: files, Args: args, Timeout: 80 * time.Minute})
	}
	if only := os.Getenv("HPCC_LAB_RUN"); only != "" {
		run(t, "-test.run="+only)
		return
	}
	// The tests with the most to emulate have a host of their own: one that has
	// run for long starts its next machine slowly, when at all.
	const long = "^(TestTenantsApart|TestPlainCommands)$"
	t.Run("runtime", func(t *testing.T) { run(t, "-test.skip="+long) })
	t.Run("beside", func(t *testing.T) { run(t, "-test.run="+long) })
}

// verityImage makes an ext4 image with a dm-verity tree behind it, both by the
// tools that others use, and says what vm.Rootfs has to say of it.
func verityImage(t *testing.T, path string, tree map[string]string) map[string]any {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range tree {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const blocks = 2048 // 8 MiB
	run := func(args ...string) string {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-b", "4096", "-d", dir, path, strconv.Itoa(blocks))
	out := run("veritysetup", "format", "--data-block-size=4096", "--hash-block-size=4096",
		"--hash-offset="+strconv.Itoa(blocks*4096), "--data-blocks="+strconv.Itoa(blocks), path, path)
	find := func(what string) string {
		m := regexp.MustCompile(what + `:\s+([0-9a-f]+)`).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("no %s in\n%s", what, out)
		}
		return m[1]
	}
	return map[string]any{"Path": "/data/image", "DataBlocks": blocks, "RootHash": find("Root hash"), "Salt": find("Salt")}
}

// gccRoot is the gcc image's root file system, as hpcc builds it.
func gccRoot(t *testing.T) (path string, root map[string]any) {
	t.Helper()
	img, err := images.GCC(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, "")
	cmd := exec.Command(filepath.Join(w.bin, "hpcc"), "image", "build", "--json", "--layout", img.Layout)
	cmd.Env = append(w.env(""), "HPCC_IMAGE_DIR="+filepath.Join(w.dir, "images"))
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v", cmd, err)
	}
	var b struct {
		built
		Salt string `json:"salt"`
	}
	if err := json.Unmarshal(out, &b); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return b.Path, map[string]any{"Path": "/data/gcc.img", "DataBlocks": b.DataBlocks, "RootHash": b.RootHash, "Salt": b.Salt}
}

// blockOf is the number of the first block of a file of an ext4 image.
func blockOf(t *testing.T, image, path string) int64 {
	t.Helper()
	debugfs := func(request string) string {
		out, err := exec.Command("/sbin/debugfs", "-R", request, image).Output()
		if err != nil {
			t.Fatalf("debugfs %s: %v", request, err)
		}
		return string(out)
	}
	// A program's first block holds its header, which is read to run it.
	fields := strings.Fields(debugfs("blocks " + path))
	if len(fields) < 1000 {
		t.Fatalf("%s has %d blocks", path, len(fields))
	}
	n, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
