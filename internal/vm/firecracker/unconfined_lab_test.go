//go:build lab && linux

package firecracker

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/agentapi"
	"hpcc.dev/hpcc/internal/jail"
	"hpcc.dev/hpcc/internal/vm"
	"hpcc.dev/hpcc/internal/vm/vmtest"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
	"hpcc.dev/hpcc/test/lab/search"
)

// beside is a machine with hpcc-agent as it is shipped, and beside it the guest
// that does what it is told, which is root and not confined: see test/lab/puppet.
// It is as a machine for what takes one, but for its end.
type beside struct {
	vm.Machine
	puppet *agentapi.Client
}

func (b *beside) Client() *agentapi.Client { return b.puppet }

// startBeside starts a machine with both, and returns it and the guest beside.
func startBeside(t *testing.T, id string, root vm.Rootfs, memory int) (vm.Machine, *beside) {
	t.Helper()
	r := *newRuntime(t)
	r.Initrd = "/data/beside-initrd"
	r.InitrdDigest = fileDigest(t, r.Initrd)
	if r.BootArgs = strings.Replace(r.BootArgs, "rdinit=/init", "rdinit=/beside", 1); !strings.Contains(r.BootArgs, "/beside") {
		t.Fatalf("boot arguments %s", r.BootArgs)
	}
	m, err := r.Start(within(t), vm.Spec{ID: id, Tenant: "tenant-" + id, Rootfs: root, VCPUs: 1, MemoryMiB: memory})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Kill() })
	puppet, err := agentapi.Connect(within(t), func(ctx context.Context) (net.Conn, error) {
		c, err := m.(*machine).jail.Connect(ctx, jail.ConnectVsock)
		if err != nil {
			return nil, err
		}
		return agentapi.DialVsock(ctx, c, agentv1.Port+1)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = puppet.Close() })
	if v := m.Info().Agent.AgentVersion; v == "puppet" || puppet.Hello().AgentVersion != "puppet" {
		t.Fatalf("agents %q and %q", v, puppet.Hello().AgentVersion)
	}
	return m, &beside{m, puppet}
}

// Two tenants' machines at once: what a job of the one left, and what runs in
// it, is in reach of nobody in the other, not of its jobs and not of who owns
// that whole machine.
func TestTenantsApart(t *testing.T) {
	a, rootA := startBeside(t, "a", own(t, "a", input(t).Rootfs), 256)
	b, rootB := startBeside(t, "b", own(t, "b", input(t).Rootfs), 256)
	mark := fmt.Sprintf("tenant-a-%016x", rand.Uint64())
	job, blobs := vmtest.Marked(t, "/data/probe", mark, "find")
	if r := vmtest.Exec(t, a, job, blobs); len(r.Outputs) != 1 || !strings.Contains(r.Files[r.Outputs[0].Path].String(), mark) {
		t.Fatalf("%+v\n%s", r.Result, r.Stderr.String())
	}
	job, blobs = vmtest.Marked(t, "/data/probe", mark, "stay")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	left, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := a.Client().Exec(ctx, job, blobs, agentapi.Sinks{Stdout: &awaited{text: "left\n", seen: left}})
		ended <- err
	}()
	select {
	case <-left:
	case err := <-ended:
		t.Fatal(err)
	}
	// Who owns A's machine finds it everywhere.
	all := strings.Join(searchAsRoot(t, rootA, mark), "\n")
	for _, where := range []string{"/root/blobs/", "/mem ", "/root" + vmtest.Root + "/" + mark + ".txt", "/root/tmp/" + mark, "/environ", "/cmdline"} {
		if !strings.Contains(all, where) {
			t.Errorf("the owner of the machine does not find at %s what is there:\n%s", where, all)
		}
	}
	if f := vmtest.Search(t, b, "/data/probe", mark); len(f.Found) > 0 || len(f.Others) != 1 {
		t.Errorf("another tenant's job finds\n%s\nand processes %q", strings.Join(f.Found, "\n"), f.Others)
	}
	if f := searchAsRoot(t, rootB, mark); len(f) > 0 {
		t.Errorf("who owns another tenant's machine finds\n%s", strings.Join(f, "\n"))
	}
	// Nor has he an address of the agent, in his machine or another: the kernel
	// has no way from within, and the monitor none between machines. (He is root:
	// he can take the agent apart by other means.)
	out, err := trick(t, rootB, "vsock", fmt.Sprint(agentv1.Port))
	if err != nil || strings.Count(out, "\n") != 7 || strings.Contains(out, "connected") {
		t.Errorf("vsock from within: %s, %v", out, err)
	}
	t.Logf("vsock from within, as root:\n%s", out)
	cancel()
	<-ended
	for _, m := range []vm.Machine{a, b} {
		if err := m.Kill(); err != nil {
			t.Error(err)
		}
	}
	nothingLeft(t)
}

// searchAsRoot has the puppet search all of its machine: every tree that any
// process sees, the drives as such, the memory of all processes.
func searchAsRoot(t *testing.T, m *beside, mark string) []string {
	t.Helper()
	out, err := trick(t, m, "search", search.Hide(mark))
	var f struct {
		Found         []string
		Summary       string
		Names, Files  int
		Bytes, Memory int64
	}
	if err == nil {
		err = json.Unmarshal([]byte(out), &f)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Log(f.Summary)
	// The drive is of 8 MiB and its tree, and there twice; an agent has some 40 MB.
	if f.Names < 1000 || f.Files < 500 || f.Bytes < 16<<20 || f.Memory < 10<<20 {
		t.Errorf("not much of a search: %s", f.Summary)
	}
	return f.Found
}

// awaited closes seen when text was written.
type awaited struct {
	text, all string
	seen      chan struct{}
}

func (a *awaited) Write(p []byte) (int, error) {
	before := strings.Contains(a.all, a.text)
	if a.all += string(p); !before && strings.Contains(a.all, a.text) {
		close(a.seen)
	}
	return len(p), nil
}

// Jobs, and the same commands plainly in the same machine: of the same image,
// on the same files at the same names, with nothing of hpcc's around them.
//
// It is the last test of the package, by the names of the files: the emulated
// host starts the machine after this one slowly, when at all (seen four times of
// five: half a minute within Firecracker's InstanceStart).
func TestPlainCommands(t *testing.T) {
	m, guest := startBeside(t, "plain", own(t, "gcc", input(t).GCC), 1024)
	t.Run("lookups equal strace", func(t *testing.T) { lookups(t, m, guest) })
	t.Run("overhead", func(t *testing.T) { overhead(t, m, guest) })
	if err := m.Kill(); err != nil {
		t.Error(err)
	}
	nothingLeft(t)
}

// lookups holds what the agent records against what strace sees: outside of
// jobs, which may not trace.
func lookups(t *testing.T, m vm.Machine, guest *beside) {
	text, err := os.ReadFile("/data/units.json")
	if err != nil {
		t.Fatal(err)
	}
	var units []vmtest.Unit
	if err := json.Unmarshal(text, &units); err != nil || len(units) < 10 {
		t.Fatalf("%d units of real programs, %v", len(units), err)
	}
	vmtest.LookupsEqualStrace(t, m, append(units, vmtest.Units...), func(t *testing.T, u vmtest.Unit, argv []string) (string, bool) {
		job, blobs := u.Job()
		job.Roots = append(job.Roots, vmtest.Traces)
		job.Argv = append([]string{"/bin/sh", "-c", `"$@" >/dev/null 2>&1; echo $? >` + vmtest.Traces + `/status
			cd ` + vmtest.Traces + ` && for f in *; do echo "== $f"; cat "$f"; done`, "sh"}, argv...)
		r := vmtest.Exec(t, guest, job, blobs)
		dir, name, status := t.TempDir(), "", ""
		for line := range strings.Lines(r.Stdout.String()) {
			if next, ok := strings.CutPrefix(line, "== "); ok {
				name = strings.TrimSpace(next)
				continue
			}
			if name == "status" {
				status += line
				continue
			}
			f, err := os.OpenFile(filepath.Join(dir, filepath.Base(name)), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			if err == nil {
				_, err = f.WriteString(line)
				f.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if status == "" {
			t.Fatalf("strace: %+v\n%s%s", r.Result, r.Stdout.String(), r.Stderr.String())
		}
		return filepath.Join(dir, "t"), status != "0\n"
	})
}

// overhead is what an Exec costs: the same compile as a job, and plainly, in
// turns.
func overhead(t *testing.T, m vm.Machine, guest *beside) {
	for _, c := range []struct {
		name   string
		rounds int
		files  map[string]string
		argv   []string
	}{
		{"small C unit", 7, map[string]string{"a.c": "#include <stdio.h>\n#include <stdlib.h>\nint main(void) { puts(\"x\"); return EXIT_SUCCESS; }\n"}, []string{"gcc", "-O2", "-c", "a.c", "-o", "a.o"}},
		{"C++ unit with <string>", 3, map[string]string{"a.cc": "#include <string>\nint f(const std::string& s) { return s.size(); }\n"}, []string{"g++", "-O2", "-c", "a.cc", "-o", "a.o"}},
	} {
		job, blobs := vmtest.NewJob(c.files, c.argv...)
		job.Outputs = []string{vmtest.Root + "/a.o"}
		apart := job
		apart.Env = append(slices.Clone(job.Env), "PUPPET=namespaces")
		compile := func(m vm.Machine, job agentapi.Job) (*vmtest.Ran, time.Duration) {
			began := time.Now()
			r := vmtest.Exec(t, m, job, blobs)
			took := time.Since(began)
			if r.ExitCode != 0 || len(r.Outputs) != 1 {
				t.Fatalf("%s: %+v\n%s", c.name, r.Result, r.Stderr.String())
			}
			return r, took
		}
		// Pages and blobs come first.
		compile(guest, job)
		compile(m, job)
		var plain, spaces, inside, whole []time.Duration
		names := 0
		for range c.rounds {
			p, _ := compile(guest, job)
			n, _ := compile(guest, apart)
			j, took := compile(m, job)
			if p.Outputs[0].Digest != j.Outputs[0].Digest {
				t.Errorf("%s: another object than the plain command's", c.name)
			}
			plain, spaces = append(plain, p.Usage.Wall), append(spaces, n.Usage.Wall)
			inside, whole = append(inside, j.Usage.Wall), append(whole, took)
			names = len(j.Lookups)
		}
		p := median(plain)
		ratio := func(all []time.Duration) string {
			return fmt.Sprintf("%v (%.2f)", median(all), float64(median(all))/float64(p))
		}
		t.Logf("figure: %s, medians of %d, and ratios to the plain command in the guest, %v: in namespaces %s, as a job %s, the whole Exec as the worker sees it %s; %d names recorded",
			c.name, c.rounds, p, ratio(spaces), ratio(inside), ratio(whole), names)
	}
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}
