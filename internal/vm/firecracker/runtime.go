//go:build linux

package firecracker

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/jail"
	"hpcc.dev/hpcc/internal/vm"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
)

// Config says where things are.
type Config struct {
	// Socket is hpcc-jail's.
	Socket string
	// Kernel, Initrd and BootArgs are the guest kit's.
	Kernel, Initrd string
	BootArgs       string
	// KernelDigest and InitrdDigest are those files'. New reads them and
	// compares.
	KernelDigest, InitrdDigest digest.Digest
	// Log gets what happens to machines; nil for nowhere.
	Log *slog.Logger
}

// Supported releases of Firecracker: from this one on, below the next major.
const (
	supportedMajor = 1
	supportedMinor = 12
)

const (
	// overheadMiB is what a machine's control group may use beyond the guest's
	// memory: the monitor itself (3 MiB measured), page tables (2 MiB a GiB),
	// and page cache of its drive, which the kernel takes back when it must.
	overheadMiB = 128
	// monitorPIDs bounds the monitor's threads: one a vCPU, 32 at most, and
	// three others.
	monitorPIDs = 64
)

// Runtime implements vm.Runtime.
type Runtime struct {
	Config
	info vm.RuntimeInfo
}

// New makes a runtime. It starts a jail, asks the monitor in it for its version,
// and fails if that is not supported.
func New(ctx context.Context, c Config) (*Runtime, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	for _, f := range []struct {
		path string
		want digest.Digest
	}{{c.Kernel, c.KernelDigest}, {c.Initrd, c.InitrdDigest}} {
		file, err := os.Open(f.path)
		if err != nil {
			return nil, fmt.Errorf("guest kit: %w", err)
		}
		got, err := digest.Copy(io.Discard, file)
		file.Close()
		if err != nil {
			return nil, fmt.Errorf("guest kit: %w", err)
		}
		if got != f.want {
			return nil, fmt.Errorf("guest kit: %s: %w; build it again with hpcc guest build", f.path, digest.ErrMismatch)
		}
	}
	r := &Runtime{Config: c}
	p, err := r.jail(ctx, "probe-"+strconv.Itoa(os.Getpid()), c.Kernel, 128<<20)
	if err != nil {
		return nil, err
	}
	version, err := p.version(ctx)
	if err := errors.Join(err, p.end()); err != nil {
		return nil, err
	}
	r.info = vm.RuntimeInfo{Name: "firecracker", Version: version, Isolated: true}
	return r, nil
}

// Info implements vm.Runtime.
func (r *Runtime) Info() vm.RuntimeInfo { return r.info }

// Sweep implements vm.Runtime: hpcc-jail ends all jails, of whomever.
func (r *Runtime) Sweep(ctx context.Context) error { return jail.SweepAll(ctx, r.Socket) }

// VersionError says that the monitor's version is not supported.
type VersionError struct{ Version string }

func (e *VersionError) Error() string {
	return fmt.Sprintf("Firecracker %s: hpcc supports %d.%d and later %d.x releases", e.Version, supportedMajor, supportedMinor, supportedMajor)
}

var versionForm = regexp.MustCompile(`^([0-9]{1,4})\.([0-9]{1,4})\.[0-9A-Za-z.+-]{1,40}$`)

func checkVersion(v string) error {
	m := versionForm.FindStringSubmatch(v)
	if m == nil {
		return &VersionError{printable(v, 40)}
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	if major != supportedMajor || minor < supportedMinor {
		return &VersionError{v}
	}
	return nil
}

// monitor is one that runs in its jail.
type monitor struct {
	jail    *jail.Jail
	api     *api
	console *console
}

// jail starts a monitor, and returns once its API answers.
func (r *Runtime) jail(ctx context.Context, id, rootfs string, memory int64) (*monitor, error) {
	var files [3]*os.File
	for i, path := range []string{r.Kernel, r.Initrd, rootfs} {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		files[i] = f
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	out := readConsole(read)
	j, err := jail.New(ctx, r.Socket, id, memory, monitorPIDs, jail.Files{Kernel: files[0], Initrd: files[1], Drive: files[2], Console: write})
	write.Close() // the end of the last writer is the console's end
	if err != nil {
		<-out.done
		if said := out.tail(5); said != "" {
			err = fmt.Errorf("%w\n%s", err, said)
		}
		if jail.IsCode(err, jail.Exists) {
			err = fmt.Errorf("%w (%w)", vm.ErrExists, err)
		}
		return nil, err
	}
	m := &monitor{jail: j, console: out}
	m.api = newAPI(m.dialAPI)
	return m, nil
}

// dialPause is the time between two tries to reach a socket that will be there
// in a moment.
const dialPause = 2 * time.Millisecond

// dialAPI waits for the API's socket.
func (m *monitor) dialAPI(ctx context.Context) (net.Conn, error) {
	for {
		c, err := m.jail.Connect(ctx, jail.ConnectAPI)
		if err == nil || !jail.IsCode(err, jail.NotYet) {
			return c, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (%w)", ctx.Err(), err)
		case <-m.jail.Done():
			return nil, errors.New("the monitor has ended")
		case <-time.After(dialPause):
		}
	}
}

// version asks for the monitor's version, and refuses one that is not supported.
func (m *monitor) version(ctx context.Context) (string, error) {
	var v struct {
		Version string `json:"firecracker_version"`
	}
	if err := m.api.get(ctx, "/version", &v); err != nil {
		return "", m.why(err)
	}
	return v.Version, checkVersion(v.Version)
}

// end ends the jail, and returns what is left of it.
func (m *monitor) end() error {
	m.jail.End()
	<-m.jail.Done()
	m.api.close()
	return m.jail.Ending().Err
}

// why adds to an error what the console has to say.
func (m *monitor) why(err error) error {
	if said := m.console.tail(8); said != "" {
		return fmt.Errorf("%w\nconsole:\n%s", err, said)
	}
	return err
}

// died tells whether the monitor has ended by itself, or is just about to: a
// broken connection can be noticed first.
func (m *monitor) died() bool {
	raw, err := m.jail.Process.SyscallConn()
	if err != nil {
		return true // closed, once the jail has ended
	}
	died := false
	err = raw.Control(func(fd uintptr) {
		n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100)
		died = n > 0
	})
	return died || err != nil
}

// because adds to an error how the monitor ended, which has, and what the
// console said last.
func (m *monitor) because(err error) error {
	switch end := m.jail.Ending(); {
	case errors.Is(end.Err, jail.ErrHelperLost):
		err = fmt.Errorf("%w: %w", err, end.Err)
	case end.OOMKills > 0:
		err = fmt.Errorf("%w: out of memory: its control group's limit was hit", err)
	case end.Status.Signaled():
		err = fmt.Errorf("%w: the monitor was killed by signal %d (%v)", err, end.Status.Signal(), end.Status.Signal())
	case end.Status.ExitStatus() != 0:
		err = fmt.Errorf("%w: the monitor ended with status %d", err, end.Status.ExitStatus())
	default:
		err = fmt.Errorf("%w: the guest ended itself", err)
	}
	return m.why(err)
}

// bootArgs are the guest kit's, and what makes the drive the root of jobs.
//
// dm-mod.create= makes the kernel build the verity device before /init runs
// (Documentation/admin-guide/device-mapper/dm-init.rst and verity.rst): the
// first hash block stands one block after the data, behind the superblock.
func (r *Runtime) bootArgs(s *vm.Spec) (string, error) {
	root := s.Rootfs
	if root.DataBlocks <= 0 {
		return "", fmt.Errorf("root file system of %d blocks", root.DataBlocks)
	}
	if b, err := hex.DecodeString(root.RootHash); err != nil || len(b) != 32 {
		return "", errors.New("root file system: the root hash is not 64 hexadecimal digits")
	}
	salt := root.Salt
	if salt == "" {
		salt = "-"
	} else if b, err := hex.DecodeString(salt); err != nil || len(b) > 256 {
		return "", errors.New("root file system: the salt is not hexadecimal, or longer than 256 bytes")
	}
	args := []string{r.BootArgs, agentv1.BootRoot + "=/dev/dm-0"}
	if s.StoreBytes > 0 {
		args = append(args, agentv1.BootStore+"="+strconv.FormatInt(s.StoreBytes, 10))
	}
	args = append(args, fmt.Sprintf(`dm-mod.create="root,,,ro,0 %d verity 1 /dev/vda /dev/vda 4096 4096 %d %d sha256 %s %s"`,
		root.DataBlocks*8, root.DataBlocks, root.DataBlocks+1, root.RootHash, salt))
	line := strings.Join(args, " ")
	// COMMAND_LINE_SIZE of x86 is 2048, with the NUL.
	if len(line) > 2047 {
		return "", fmt.Errorf("boot arguments of %d bytes", len(line))
	}
	return line, nil
}
