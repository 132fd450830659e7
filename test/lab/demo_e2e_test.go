//go:build e2e

package lab

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestDistributionMachine is make demo-vm with Debian's kernel: the same agent
// and driver, the verity device made by the agent. (test/e2e has hpcc's own
// kernel.)
func TestDistributionMachine(t *testing.T) {
	root, err := sourceRoot()
	if err != nil {
		t.Fatal(err)
	}
	leaveNothing(t)
	cmd := exec.CommandContext(t.Context(), "go", "run", "./test/lab/demo", "-distribution", filepath.Join(root, "bin", "hpcc-agent"))
	cmd.Dir, cmd.Env = root, os.Environ()
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"-cloud-amd64", "network interfaces in the machine's configuration: 0; in the guest: lo",
		"/w/probe.c (file)", "/w/probe.c.gch (absent)", "socket(AF_INET): Address family not supported",
		"socket(AF_VSOCK): Address family not supported", "Nothing is left running.",
	} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("it does not say %q", want)
		}
	}
	if strings.Contains(string(out), "open\n") {
		t.Error("a socket could be opened")
	}
}
