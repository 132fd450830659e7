package vmtest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"hpcc.dev/hpcc/internal/agentapi"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/vm"
	"hpcc.dev/hpcc/test/lab/search"
)

// ProbeJob is a job that runs test/lab/probe, which needs nothing of the image.
func ProbeJob(t *testing.T, probe string, args ...string) (agentapi.Job, Blobs) {
	t.Helper()
	program, err := os.ReadFile(probe)
	if err != nil {
		t.Fatal(err)
	}
	job, blobs := NewJob(nil, append([]string{Root + "/probe"}, args...)...)
	d := digest.Of(program)
	blobs[d] = program
	job.Inputs = append(job.Inputs, agentapi.Input{Path: Root + "/probe", Kind: agentapi.File, Digest: d, Mode: 0o755})
	return job, blobs
}

// refusals are all attempts of the probe to reach the agent, the machine or
// other processes, and how each must end: by one of the errors before the colon.
// Kernels that lack a file say ENOENT where others refuse it.
const refusals = `
	EAFNOSUPPORT: vsock to 0, vsock to 1, vsock to 2, vsock to 3, vsock to -1
	EAFNOSUPPORT: socket vsock datagram, socket vsock seqpacket, socket vsock; 64 bits
	EAFNOSUPPORT: socket inet, socket inet6, socket packet, socket alg, socket xdp
	EAFNOSUPPORT: socket netlink route, socket netlink sock_diag
	ENOTSUP: socketpair vsock
	EINVAL: vsock address for a unix socket
	ECONNREFUSED: unix to @agent, unix to @hpcc-agent, unix to @1024
	ENOENT: unix to /run/hpcc-agent, unix to /run/agent.sock, unix to /agent
	ENOSYS: io_uring_setup, io_uring_enter, io_uring_register

	EACCES: open /proc/1/fd, open /proc/1/fdinfo, open /proc/1/mem, open /proc/1/maps, open /proc/1/environ
	EACCES: open /proc/1/root, open /proc/1/cwd, open /proc/1/exe, open /proc/1/ns/mnt, open /proc/1/auxv
	EACCES ENOENT: open /proc/1/syscall, open /proc/1/stack, open /proc/1/map_files, open /proc/1/pagemap, open /proc/1/io
	EACCES: open /proc/1/fd/0, open /proc/1/fd/1, open /proc/1/fd/2, open /proc/1/fd/3, open /proc/1/fd/4
	EACCES: open /proc/1/fd/5, open /proc/1/fd/6, open /proc/1/fd/7, open /proc/1/fd/8, open /proc/1/fd/9
	EROFS: open /proc/1/oom_score_adj, open /proc/1/comm
	EPERM: ptrace attach, ptrace seize, ptrace traceme, process_vm_readv, process_vm_writev, kcmp, process_madvise
	EPERM: kill 0, kill 9, tgkill, pidfd_send_signal
	EPERM: pidfd_getfd 0, pidfd_getfd 1, pidfd_getfd 2, pidfd_getfd 3, pidfd_getfd 4, pidfd_getfd 5
	EPERM: pidfd_getfd 6, pidfd_getfd 7, pidfd_getfd 8, pidfd_getfd 9, pidfd_getfd 10, pidfd_getfd 11
	EPERM: setpriority, prlimit, sched_setaffinity

	ENOENT: open /dev/vsock, open /dev/vhost-vsock, open /dev/console, open /dev/ttyS0, open /dev/tty0, open /dev/hvc0
	ENOENT: open /dev/ptmx, open /dev/mem, open /dev/port, open /dev/kmsg, open /dev/kvm, open /dev/vda, open /dev/dm-0
	ENOENT: open /dev/mapper/control, open /dev/ptp0, open /dev/hwrng, open /dev/fuse, open /dev/net/tun, open /dev/userfaultfd
	ENXIO: open /dev/tty
	ENOENT EACCES: open /proc/kcore, open /proc/kmsg, open /proc/vmcore
	ENOENT: open /sys/kernel/security, open /sys/fs/cgroup
	ENOENT EROFS: write /proc/sysrq-trigger, write /proc/sys/kernel/core_pattern, write /proc/sys/kernel/hostname, write /proc/self/oom_score_adj
	EACCES: write /usr/bin/new, write /new
	EPERM: mknod mem, mknod kmsg, mknod ttyS0, mknod console, mknod vsock, mknod dm-0, mknod vda

	EPERM: mount, umount /proc, fsopen, open_tree, pivot_root, chroot, unshare user, unshare net, setns
	EPERM: clone NEWNET, clone NEWUSER, open_by_handle_at, bpf, perf_event_open, userfaultfd, keyctl, seccomp
	EPERM: prctl PR_SET_SECCOMP, syslog, finit_module, kexec_load, reboot, iopl, clock_settime, sethostname, setuid 0, setgroups
	ENOSYS: clone3, openat2, x32 getpid, call 600
`

// facts are what else the probe says of its job, word for word.
var facts = map[string]string{
	"descriptors":  "0=/dev/null 1=pipe 2=pipe",
	"socket unix":  "possible", // its own, for its own processes
	"processes":    "1=hpcc-job",
	"no_new_privs": "1 <nil>",
	"CapInh":       "0000000000000000",
	"CapPrm":       "0000000000000000",
	"CapEff":       "0000000000000000",
	"CapBnd":       "0000000000000000",
	"CapAmb":       "0000000000000000",
	"Groups":       "",
	"Seccomp":      "2",
	"in /dev":      "fd full null random shm stderr stdin stdout tty urandom zero",
	"in /sys":      "",
}

// reach tries all ways out of a job: none may succeed, and none fail in a way
// that nobody has thought of.
func (s *suite) reach(t *testing.T, m vm.Machine) {
	want := map[string][]string{}
	for what, result := range facts {
		want[what] = []string{result}
	}
	for line := range strings.Lines(strings.TrimSpace(refusals)) {
		errors, attempts, _ := strings.Cut(strings.TrimSpace(line), ": ")
		for attempt := range strings.SplitSeq(attempts, ", ") {
			if attempt != "" {
				want[strings.ReplaceAll(attempt, ";", ",")] = strings.Fields(errors)
			}
		}
	}
	job, blobs := ProbeJob(t, s.Probe, "reach")
	r := Exec(t, m, job, blobs)
	if r.ExitCode != 0 || r.Signal != 0 {
		t.Fatalf("%+v\n%s%s", r.Result, r.Stdout.String(), r.Stderr.String())
	}
	for line := range strings.Lines(r.Stdout.String()) {
		what, result, _ := strings.Cut(strings.TrimRight(line, "\n"), "\t")
		if errors, known := want[what]; !known {
			t.Errorf("%s: %s, an attempt that is not in the table", what, result)
		} else if !slices.Contains(errors, result) {
			t.Errorf("%s: %q, want %q", what, result, errors)
		}
		delete(want, what)
	}
	for what := range want {
		t.Errorf("%s was not tried", what)
	}
}

// Found is what a search by the probe saw.
type Found struct {
	Found, Others []string
	Summary       string
	Names, Files  int
	Bytes         int64
}

// Search has a job search everything that it can see for a mark.
func Search(t *testing.T, m vm.Machine, probe, mark string) Found {
	t.Helper()
	job, blobs := ProbeJob(t, probe, "search", search.Hide(mark))
	r := Exec(t, m, job, blobs)
	return found(t, r)
}

func found(t *testing.T, r *Ran) (f Found) {
	t.Helper()
	_, text, _ := strings.Cut(r.Stdout.String(), "{")
	if err := json.Unmarshal([]byte("{"+text), &f); err != nil || r.ExitCode != 0 {
		t.Fatalf("%v: %+v\n%s%s", err, r.Result, r.Stdout.String(), r.Stderr.String())
	}
	t.Log(f.Summary)
	if f.Names < 100 || f.Files < 30 || f.Bytes < 2<<20 {
		t.Errorf("not much of a search: %s", f.Summary)
	}
	return f
}

// Marked is a job that puts a mark wherever a job can: names, contents,
// environment, arguments, and what the probe leaves.
func Marked(t *testing.T, probe, mark, how string) (agentapi.Job, Blobs) {
	t.Helper()
	job, blobs := ProbeJob(t, probe, "leave", mark, how)
	more, contents := NewJob(map[string]string{mark + "/" + mark + ".h": "content of " + mark + "\n"})
	for d, b := range contents {
		blobs[d] = b
	}
	job.Inputs = append(job.Inputs, more.Inputs...)
	job.Env = append(job.Env, "MARK="+mark)
	job.Outputs = []string{Root + "/" + mark + ".txt"}
	return job, blobs
}

// leftovers are where a job finds what it left itself: each must be found there
// by the same search that finds nothing of another job's.
var leftovers = []string{
	"the name " + Root + "/%s.txt", Root + "/%[1]s/%[1]s.h", "/tmp/%s.txt", "/var/tmp/%s.txt", "/dev/shm/%s.txt", "the link /tmp/link",
	"/cmdline", "/environ", "/proc/net/unix", "/proc/sysvipc/shm", "/proc/sysvipc/msg", "/proc/sysvipc/sem", "shared memory",
}

// session is what jobs of one session see of each other.
func (s *suite) session(t *testing.T) {
	m := s.startWith(t, s.Empty)
	// What is there to be found is found, in the job that left it.
	mark := fmt.Sprintf("mark-%d-own", os.Getpid())
	job, blobs := Marked(t, s.Probe, mark, "find")
	r := Exec(t, m, job, blobs)
	all := strings.Join(found(t, r).Found, "\n")
	for _, where := range leftovers {
		if strings.Contains(where, "%") {
			where = fmt.Sprintf(where, mark)
		}
		if !strings.Contains(all, where) {
			t.Errorf("a job does not find what it left itself at %s, in\n%s\n%s", where, all, r.Stdout.String())
		}
	}
	none := func(when string, f Found) {
		t.Helper()
		if len(f.Found) > 0 || !slices.Equal(f.Others, []string{"1 hpcc-job"}) {
			t.Errorf("%s a job finds\n%s\nand processes %q", when, strings.Join(f.Found, "\n"), f.Others)
		}
	}
	none("after another", Search(t, m, s.Probe, mark))
	// And while the other runs.
	mark = fmt.Sprintf("mark-%d-other", os.Getpid())
	job, blobs = Marked(t, s.Probe, mark, "stay")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	left, ended := make(chan struct{}), make(chan error, 1)
	said := ""
	go func() {
		_, err := m.Client().Exec(ctx, job, blobs, agentapi.Sinks{Stdout: writer(func(p []byte) (int, error) {
			before := strings.Contains(said, "left\n")
			if said += string(p); !before && strings.Contains(said, "left\n") {
				close(left)
			}
			return len(p), nil
		})})
		ended <- err
	}()
	select {
	case <-left:
	case err := <-ended:
		t.Fatal(err)
	}
	none("beside another", Search(t, m, s.Probe, mark))
	cancel()
	if err := <-ended; err == nil {
		t.Error("a cancelled job ended as if nothing had happened")
	}
	none("after a cancelled one", Search(t, m, s.Probe, mark))
	if err := m.Kill(); err != nil {
		t.Error(err)
	}
}
