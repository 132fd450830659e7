package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Worker is a worker's complete set of settings. It is not changed once made.
type Worker struct {
	Place

	// Name is how the scheduler knows it.
	Name string
	// Listen is where clients connect, Advertise the host:port that they are
	// told.
	Listen, Advertise string
	// TLSCert and TLSKey are PEM files. Clients are told the key's pin by the
	// scheduler, so that the certificate may be self-signed.
	TLSCert, TLSKey string
	// HTTPListen is where metrics are served by HTTPS; "" for nowhere.
	HTTPListen string
	Scheduler  struct {
		Address string
		// CA is a file with the certificates of who signs the scheduler's; ""
		// is the system's own authorities.
		CA string
		// CredentialFile holds what Credential, from the environment, may hold
		// instead; see ReadCredential.
		CredentialFile string
		Credential     Secret
	}
	// StateDir is the worker's own: stores of the tenants, machines' drives.
	StateDir string
	// Runtime is what isolates: "firecracker".
	Runtime     string
	Firecracker struct {
		// Socket is hpcc-jail's, GuestKit the directory that hpcc guest build
		// wrote.
		Socket, GuestKit string
	}
	Images struct {
		Dir     string
		MaxSize int64
		// Allow is the allow-list (rootfs.ParseAllowList); empty allows every
		// image.
		Allow []string
		// Mirrors are REGISTRY=MIRROR (registry.ParseMirrors).
		Mirrors []string
		// Platform is what the worker compiles on, such as linux/amd64.
		Platform string
	}
	Store struct {
		// MaxSize bounds the blobs and results of one tenant, in bytes.
		MaxSize int64
		// Shared are caches that hold the results of several workers; each tenant
		// has its own part of them.
		Shared
	}
	Sessions struct {
		// MemoryMiB and VCPUs bound all machines together.
		MemoryMiB, VCPUs int
		// MachineMemoryMiB and MachineVCPUs are one machine's; they fit the
		// bounds.
		MachineMemoryMiB, MachineVCPUs int
		// JobsPerVCPU is how many compiles share a vCPU of a machine.
		JobsPerVCPU int
		// Idle is how long a machine waits for the next compile, Lifetime how
		// old it gets.
		Idle, Lifetime time.Duration
	}
	// Limits are those of one compile, but for the tenant's.
	Limits struct {
		Memory    int64 // bytes, of all its processes and files
		Processes int   // at a time, threads included
		File      int64 // bytes, of one output
		Disk      int64 // bytes, of all its files, inputs included
		Stdio     int64 // bytes, stdout and stderr together
		Time      time.Duration
		// TenantCompiles is how many compiles of one tenant may be under way or
		// wait; TenantUploadRate is how many bytes a second all of its clients may
		// send in the long run, 0 for no bound.
		TenantCompiles   int
		TenantUploadRate int64
	}
	Audit struct {
		Dir string
	}
	Log Log
}

// ReadCredential returns the worker's credential: that of the environment, else
// the file's content.
func (w *Worker) ReadCredential() (Secret, error) {
	return readCredential(w.Scheduler.Credential, w.Scheduler.CredentialFile, "scheduler.credential_file", "HPCC_WORKER_SCHEDULER_CREDENTIAL")
}

// LoadWorker reads the worker's settings of this process: its environment, and
// worker.toml. Errors are as LoadFrom's.
func LoadWorker() (*Worker, error) { return LoadWorkerFrom(os.LookupEnv) }

// LoadWorkerFrom reads worker.toml and the settings that env holds.
func LoadWorkerFrom(env Lookup) (*Worker, error) {
	w := &Worker{}
	if err := load(w, "worker.toml", env); err != nil {
		return nil, err
	}
	return w, nil
}

// Settings lists every key in the table's order.
func (w *Worker) Settings() []Setting { return settings(w) }

func (w *Worker) setDefaults() {
	if host, err := os.Hostname(); err == nil {
		host, _, _ = strings.Cut(strings.ToLower(host), ".")
		if checkName(host) == nil {
			w.Name = host
		}
	}
	w.Listen = ":7510"
	w.HTTPListen = "127.0.0.1:7511"
	w.StateDir = "/var/lib/hpcc"
	w.Runtime = "firecracker"
	w.Firecracker.Socket = "/run/hpcc/jail.socket"
	if base, err := os.UserCacheDir(); err == nil {
		w.Firecracker.GuestKit = filepath.Join(base, "hpcc-guest")
	}
	w.Images.MaxSize = 50_000_000_000
	w.Images.Platform = "linux/" + runtime.GOARCH
	w.Store.MaxSize = 20_000_000_000
	w.Store.setDefaults()
	w.Sessions.VCPUs = runtime.NumCPU()
	// The rest is for the worker itself, and for the page cache of the drives.
	w.Sessions.MemoryMiB = int(hostMemory() >> 20 * 3 / 4)
	w.Sessions.JobsPerVCPU = 1
	w.Sessions.Idle = 10 * time.Minute
	w.Sessions.Lifetime = 8 * time.Hour
	w.Limits.Memory = 2 << 30
	w.Limits.Processes = 128
	w.Limits.File = 512 << 20
	w.Limits.Disk = 1 << 30
	w.Limits.Stdio = maxStdio
	w.Limits.Time = 10 * time.Minute
	w.Limits.TenantCompiles = 1024
	w.Log = Log{Level: slog.LevelInfo, Format: "text"}
}

const (
	// maxStdio is what one answer to a client may hold of stdout and stderr.
	maxStdio = 4 << 20
	// Defaults for one machine, on a host that has as much: four compiles of
	// ordinary size, and the headers that machines keep.
	machineMemoryMiB = 8192
	machineVCPUs     = 4
)

func (w *Worker) finish() error {
	if w.Images.Dir == "" {
		w.Images.Dir = filepath.Join(w.StateDir, "images")
	}
	if w.Audit.Dir == "" {
		w.Audit.Dir = filepath.Join(w.StateDir, "audit")
	}
	s := &w.Sessions
	if s.MachineMemoryMiB == 0 {
		s.MachineMemoryMiB = min(machineMemoryMiB, s.MemoryMiB)
	}
	if s.MachineVCPUs == 0 {
		s.MachineVCPUs = min(machineVCPUs, s.VCPUs)
	}
	if w.Advertise == "" && w.Listen != "" {
		w.Advertise = advertised(w.Listen)
	}
	missing := func(key, hint string) error { return fmt.Errorf("%s: %s is missing: %s", w.File, key, hint) }
	switch {
	case w.Name == "":
		return missing("name", "give the worker the name that the scheduler's settings have for it")
	case w.Listen == "":
		return missing("listen", "no client could connect")
	case checkAddress(w.Advertise) != nil:
		return missing("advertise", "say by which host:port clients reach this worker")
	case w.TLSCert == "" || w.TLSKey == "":
		return missing("tls_cert or tls_key", "name the worker's certificate and key (hpcc ca issue makes both)")
	case w.Scheduler.Address == "":
		return missing("scheduler.address", "say where the scheduler is")
	case w.StateDir == "":
		return missing("state_dir", "say where the worker keeps its stores")
	case w.Firecracker.GuestKit == "":
		return missing("firecracker.guest_kit", "name the directory that hpcc guest build wrote")
	case s.MemoryMiB == 0:
		return missing("sessions.memory_mib", "say how much memory all machines may have together")
	case s.MachineMemoryMiB > s.MemoryMiB:
		return fmt.Errorf("%s: sessions.machine_memory_mib is %d, more than sessions.memory_mib, %d: no machine would fit", w.File, s.MachineMemoryMiB, s.MemoryMiB)
	case s.MachineVCPUs > s.VCPUs:
		return fmt.Errorf("%s: sessions.machine_vcpus is %d, more than sessions.vcpus, %d: no machine would fit", w.File, s.MachineVCPUs, s.VCPUs)
	}
	return w.Store.finish("store", w.File)
}

// advertised is the address by which others reach a listener: as listened on, or
// the host's name where that is every interface. "" if there is none.
func advertised(listen string) string {
	host, port, err := splitAddress(listen)
	if err != nil || port == 0 {
		return ""
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		if host, err = os.Hostname(); err != nil {
			return ""
		}
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

func (w *Worker) keys() []key {
	s, l := &w.Sessions, &w.Limits
	const number = "a number"
	return slices.Concat([]key{
		textKey("name", "HPCC_WORKER_NAME", &w.Name, checkName, "the worker's name, as the scheduler's settings have it; by default the first part of the host's"),
		textKey("listen", "HPCC_WORKER_LISTEN", &w.Listen, checkListen, "address that clients connect to"),
		textKey("advertise", "HPCC_WORKER_ADVERTISE", &w.Advertise, checkAddress,
			"host:port that clients are told; by default the host's name and the port of listen"),
		pathKey("tls_cert", "HPCC_WORKER_TLS_CERT", &w.TLSCert, "file with the worker's certificate, PEM"),
		pathKey("tls_key", "HPCC_WORKER_TLS_KEY", &w.TLSKey, "file with the certificate's key, PEM"),
		textKey("http_listen", "HPCC_WORKER_HTTP_LISTEN", &w.HTTPListen, checkListen, "address of /metrics, by HTTPS; empty for none"),
		textKey("scheduler.address", "HPCC_WORKER_SCHEDULER_ADDRESS", &w.Scheduler.Address, checkAddress, "host:port of the scheduler"),
		pathKey("scheduler.ca", "HPCC_WORKER_SCHEDULER_CA", &w.Scheduler.CA,
			"file with the authorities that sign the scheduler's certificate; empty is the system's"),
		pathKey("scheduler.credential_file", "HPCC_WORKER_SCHEDULER_CREDENTIAL_FILE", &w.Scheduler.CredentialFile,
			"file that holds the worker's credential"),
		secretKey("scheduler.credential", "HPCC_WORKER_SCHEDULER_CREDENTIAL", &w.Scheduler.Credential,
			"the credential itself; in the environment alone"),
		pathKey("state_dir", "HPCC_WORKER_STATE_DIR", &w.StateDir, "directory of the tenants' stores and the machines' drives"),
		oneOfKey("runtime", "HPCC_WORKER_RUNTIME", &w.Runtime, "what isolates compiles: firecracker", "firecracker"),
		pathKey("firecracker.socket", "HPCC_WORKER_FIRECRACKER_SOCKET", &w.Firecracker.Socket, "socket of hpcc-jail"),
		pathKey("firecracker.guest_kit", "HPCC_WORKER_FIRECRACKER_GUEST_KIT", &w.Firecracker.GuestKit,
			"directory of the guest kit (hpcc guest build)"),
		pathKey("images.dir", "HPCC_IMAGE_DIR", &w.Images.Dir, "directory of root file systems; by default images in state_dir"),
		sizeKey("images.max_size", "HPCC_IMAGE_MAX_SIZE", &w.Images.MaxSize, "size at which images are evicted"),
		listKey("images.allow", "HPCC_IMAGE_ALLOW", &w.Images.Allow, ",", text(anything),
			"the only images to use: digests, repositories, or all below a path; every one if empty"),
		listKey("images.mirrors", "HPCC_IMAGE_MIRRORS", &w.Images.Mirrors, ",", text(checkMirror),
			"what to ask before a registry: REGISTRY=MIRROR"),
		textKey("images.platform", "HPCC_IMAGE_PLATFORM", &w.Images.Platform, checkPlatform, "platform of images and compiles"),
		sizeKey("store.max_size", "HPCC_WORKER_STORE_MAX_SIZE", &w.Store.MaxSize, "size at which a tenant's blobs and results are evicted"),
	}, w.Store.keys("store", "HPCC_WORKER_STORE_"), []key{
		intKey("sessions.memory_mib", "HPCC_WORKER_SESSIONS_MEMORY_MIB", &s.MemoryMiB, 128, 1<<26, number,
			"MiB of memory of all machines together; by default three quarters of the host's"),
		intKey("sessions.vcpus", "HPCC_WORKER_SESSIONS_VCPUS", &s.VCPUs, 1, 1<<16, number,
			"vCPUs of all machines together; by default as many as there are processors"),
		intKey("sessions.machine_memory_mib", "HPCC_WORKER_SESSIONS_MACHINE_MEMORY_MIB", &s.MachineMemoryMiB, 128, 1<<24, number,
			"MiB of memory of one machine; by default 8192, or what all may have"),
		intKey("sessions.machine_vcpus", "HPCC_WORKER_SESSIONS_MACHINE_VCPUS", &s.MachineVCPUs, 1, 32, number,
			"vCPUs of one machine; by default 4, or what all may have"),
		intKey("sessions.jobs_per_vcpu", "HPCC_WORKER_SESSIONS_JOBS_PER_VCPU", &s.JobsPerVCPU, 1, 16, number,
			"compiles that share a vCPU"),
		durationKey("sessions.idle", "HPCC_WORKER_SESSIONS_IDLE", &s.Idle, time.Second, 24*time.Hour,
			"how long a machine waits for its tenant's next compile"),
		durationKey("sessions.lifetime", "HPCC_WORKER_SESSIONS_LIFETIME", &s.Lifetime, time.Minute, 7*24*time.Hour,
			"how old a machine gets"),
		sizeKey("limits.memory", "HPCC_WORKER_LIMITS_MEMORY", &l.Memory, "memory of one compile"),
		intKey("limits.processes", "HPCC_WORKER_LIMITS_PROCESSES", &l.Processes, 1, 4096, number, "processes of one compile, threads included"),
		sizeKey("limits.file", "HPCC_WORKER_LIMITS_FILE", &l.File, "size of one output"),
		sizeKey("limits.disk", "HPCC_WORKER_LIMITS_DISK", &l.Disk, "size of all files of one compile, inputs included"),
		ranged(sizeKey("limits.stdio", "HPCC_WORKER_LIMITS_STDIO", &l.Stdio, "size of stdout and stderr together, 4MiB at most"),
			&l.Stdio, 1, maxStdio),
		durationKey("limits.time", "HPCC_WORKER_LIMITS_TIME", &l.Time, time.Second, 2*time.Hour, "wall time of one compile"),
		intKey("limits.tenant_compiles", "HPCC_WORKER_LIMITS_TENANT_COMPILES", &l.TenantCompiles, 1, 2048, number,
			"compiles of one tenant that are under way or wait"),
		optional(ranged(sizeKey("limits.tenant_upload_rate", "HPCC_WORKER_LIMITS_TENANT_UPLOAD_RATE", &l.TenantUploadRate,
			"bytes a second that one tenant's clients may send in the long run, 1MiB at least; empty for any"),
			&l.TenantUploadRate, 1<<20, 1<<40), &l.TenantUploadRate),
		pathKey("audit.dir", "HPCC_WORKER_AUDIT_DIR", &w.Audit.Dir, "directory of the audit log; by default audit in state_dir"),
	}, logKeys(&w.Log))
}

// ranged is k, a size, with a least and a largest value.
func ranged(k key, dst *int64, low, high int64) key {
	set := k.set
	k.set = func(v any) error {
		before := *dst
		if err := set(v); err != nil {
			return err
		}
		if got := *dst; got < low || got > high {
			*dst = before
			if got < low {
				return fmt.Errorf("must be %s at least", FormatSize(low))
			}
			return fmt.Errorf("must be %s at most", FormatSize(high))
		}
		return nil
	}
	return k
}

func anything(string) error { return nil }

func checkMirror(s string) error {
	registry, mirror, ok := strings.Cut(s, "=")
	if !ok || registry == "" || mirror == "" {
		return errors.New("must be REGISTRY=MIRROR, such as docker.io=mirror.example.com/hub")
	}
	return nil
}
