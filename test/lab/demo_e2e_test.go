//go:build e2e

package lab

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestChain is make demo with some of lua's sources: scheduler, worker and clients
// from nothing, in the lab.
func TestChain(t *testing.T) {
	leaveNothing(t)
	out := runDemo(t, "bin", "lctype", "linit", "lopcodes", "lzio")
	for _, want := range []string{"network interfaces: none", "4 remote hits, no miss", "one object of 4", "Nothing is left running."} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("it does not say %q", want)
		}
	}
}

// runDemo runs test/lab/demo, which must succeed, and returns what it prints.
func runDemo(t *testing.T, args ...string) []byte {
	t.Helper()
	root, err := sourceRoot()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"run", "./test/lab/demo"}, args...)...)
	cmd.Dir, cmd.Env = root, os.Environ()
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestDistributionMachine is make demo-vm with Debian's kernel: the same agent
// and driver, the verity device made by the agent. (test/e2e has hpcc's own
// kernel.)
func TestDistributionMachine(t *testing.T) {
	leaveNothing(t)
	out := runDemo(t, "-machine", "-distribution", "bin")
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
