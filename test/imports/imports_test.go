package imports

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// graph says which packages of hpcc a package may import. A new edge is a
// decision about the design (docs/architecture.md): do not add one to make the
// test pass. Ask first whether the package that wants it is the right place.
//
// The order is that of the design: a package only imports what stands above it.
const graph = `
	proto/hpcc/action/v1:
	proto/hpcc/ipc/v1:
	proto/hpcc/agent/v1:
	proto/hpcc/worker/v1: proto/hpcc/agent/v1
	proto/hpcc/scheduler/v1:
	internal/digest:
	internal/atomicfile:
	internal/filelock:
	internal/leaktest:
	internal/ipc:          proto/hpcc/ipc/v1

	# What a compile is. It knows nothing of caches and daemons.
	internal/compiler/env:
	internal/compiler:     internal/compiler/env internal/digest
	internal/action:       internal/digest proto/hpcc/action/v1

	# The wrapper starts once per compile: nothing heavy, nothing that parses.
	internal/wrapper:      internal/compiler/env internal/ipc proto/hpcc/ipc/v1
	cmd/hpcc:              internal/wrapper

	internal/cache:        internal/action internal/atomicfile internal/digest internal/filelock
	# Objects by name, wherever they lie.
	internal/store:        internal/atomicfile internal/filelock
	internal/store/kms:    internal/store
	# What is kept in them, and what of it is believed.
	internal/shared:       internal/action internal/atomicfile internal/digest internal/store
	internal/store/storetest: internal/store
	internal/store/s3store: internal/store
	internal/config:
	# The caches that settings name.
	internal/tiers:        internal/config internal/shared internal/store internal/store/kms internal/store/s3store
	internal/telemetry:
	internal/audit:       internal/atomicfile internal/digest internal/filelock

	# Who somebody is. It knows of no protocol, so that every service can ask it.
	internal/auth:        internal/atomicfile

	# How client and worker compress what they say.
	internal/wirezip:
	# What a client believes of a scheduler and its workers.
	internal/remote:       internal/action internal/auth internal/digest internal/wirezip proto/hpcc/agent/v1 proto/hpcc/scheduler/v1 proto/hpcc/worker/v1

	# It routes by names and loads, and knows nothing of compiles.
	internal/scheduler:    internal/auth internal/telemetry proto/hpcc/scheduler/v1

	# It gets its settings as values, so that a test needs no file.
	internal/daemon:       internal/action internal/atomicfile internal/cache internal/compiler internal/compiler/env internal/digest internal/ipc internal/remote internal/shared proto/hpcc/ipc/v1

	# What a virtual machine runs before any image is there.
	guest:                internal/atomicfile internal/digest proto/hpcc/agent/v1

	# OCI image in, root file system out. Each heavy library has a package of
	# its own.
	internal/rootfs/ext4:
	internal/rootfs:          internal/atomicfile internal/digest internal/filelock internal/rootfs/ext4
	internal/rootfs/registry: internal/rootfs

	# The machine: what is said to the agent in it, and what starts it.
	internal/agentapi:    internal/digest proto/hpcc/agent/v1
	internal/vm:          internal/agentapi
	test/strace:
	test/scratch:         test/strace
	test/lab/search:
	internal/vm/vmtest:   internal/agentapi internal/digest internal/vm test/lab/search test/strace

	internal/worker:      internal/action internal/agentapi internal/audit internal/auth internal/cache internal/digest internal/shared internal/telemetry internal/vm internal/wirezip proto/hpcc/agent/v1 proto/hpcc/scheduler/v1 proto/hpcc/worker/v1

	# What is root. The worker's half of the talk with it is as lean.
	internal/jail:
	cmd/hpcc-jail:        internal/jail
	internal/vm/firecracker: internal/agentapi internal/digest internal/jail internal/vm proto/hpcc/agent/v1

	# What ccache starts: its protocol, over a store.
	cmd/ccache-storage-hpcc: internal/config internal/shared internal/store internal/tiers

	# The only place that puts the others together.
	cmd/hpccd:             guest internal/agentapi internal/audit internal/auth internal/cache internal/compiler internal/compiler/env internal/config internal/daemon internal/digest internal/ipc internal/remote internal/rootfs internal/rootfs/registry internal/scheduler internal/shared internal/store internal/store/kms internal/telemetry internal/tiers internal/vm internal/vm/firecracker internal/worker internal/wrapper proto/hpcc/ipc/v1

	bench/empty:
	test/e2e:
	test/fault:           internal/cache
	test/images:
	test/images/mkgcc:    test/images
	test/imports:
	test/lab/wire:
	test/lab/init:        test/lab/wire
	test/lab/guestinit:
	test/lab/probe:       test/lab/search
	test/lab/puppet:      proto/hpcc/agent/v1 test/lab/search
	test/lab:             guest internal/atomicfile test/lab/wire
	test/lab/run:         test/lab
	test/lab/demo/machine: internal/agentapi internal/digest internal/rootfs internal/vm internal/vm/firecracker
	test/lab/demo/chain:
	test/lab/demo:        guest internal/digest internal/rootfs test/images test/lab
	test/script:
	test/s3:
	test/tiers:
	test/chain:           internal/agentapi internal/audit internal/auth internal/config internal/digest internal/shared internal/tiers internal/vm internal/vm/vmtest internal/worker
	bench/measure:
	bench/start:          bench/measure internal/ipc proto/hpcc/ipc/v1
	bench/s3:             bench/measure internal/shared test/s3
	bench/remote:         bench/measure internal/audit test/chain
`

// owners names, for each heavy library, the packages that may import it (one,
// mostly), and why. A library that is in go.mod and not here may be imported anywhere.
var owners = []struct{ library, owner, why string }{
	{"github.com/spf13/cobra", "cmd/hpccd", "the wrapper has no commands and must start fast"},
	{"golang.org/x/term", "cmd/hpccd", "only the command line asks what a terminal is"},
	{"github.com/pelletier/go-toml", "internal/config", "one package reads settings"},
	{"github.com/pierrec/lz4", "guest", "only a distribution's kernel is packed so"},
	{"github.com/klauspost/compress", "internal/cache internal/rootfs internal/shared internal/wirezip", "how blobs are stored is the secret of the caches; layers and messages come compressed"},
	{"github.com/google/go-containerregistry", "internal/rootfs/registry", "one package talks to registries"},
	{"github.com/Microsoft/hcsshim", "internal/rootfs/ext4", "one package knows the disk format, so that it can be exchanged"},
	{"github.com/go-jose/go-jose", "internal/auth", "one package reads tokens that strangers send"},
	{"github.com/prometheus/client_golang", "internal/telemetry", "one package knows how numbers are shown, and bounds their labels"},
	{"github.com/aws/aws-sdk-go-v2", "internal/store/s3store internal/store/kms", "one package talks to buckets and one to KMS; 10 MB, and 4 ms of start"},
	{"golang.org/x/time", "internal/worker", "one package counts what a tenant takes"},
	{"google.golang.org/protobuf", "internal/scheduler internal/worker", "reflection costs 0.6 ms of every compile"},
	{"google.golang.org/grpc", "internal/agentapi internal/remote internal/scheduler internal/wirezip internal/worker test/lab/puppet", "what a guest can say is decoded in one place, and what a worker can; costs 1.5 ms of start"},
}

// lean are what the wrapper may be made of besides the standard library and
// hpcc's own packages.
var lean = []string{
	"golang.org/x/sys/unix",
	"golang.org/x/sys/windows",
	"github.com/aperturerobotics/protobuf-go-lite",
}

// slow are packages of the standard library whose initialisation or size the
// wrapper does not pay for.
var slow = []string{"net", "net/http", "crypto/tls", "encoding/json", "log/slog", "text/template", "os/exec", "regexp"}

type goPackage struct {
	ImportPath string
	Standard   bool
	Imports    []string
	Deps       []string
	Module     *struct{ Path string }
}

const module = "hpcc.dev/hpcc/"

// readSources opens every file that the graph depends on, so that go test does
// not answer from its own cache after one of them has changed.
func readSources(t *testing.T) {
	t.Helper()
	for _, dir := range []string{"cmd", "internal", "guest", "proto", "test", "bench", "go.mod"} {
		err := filepath.WalkDir("../../"+dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && (strings.HasSuffix(path, ".go") || strings.HasSuffix(path, ".mod")) {
				_, err = os.ReadFile(path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func list(t *testing.T, args ...string) []goPackage {
	t.Helper()
	readSources(t)
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Standard,Imports,Deps,Module"}, args...)...)
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %s", exit.Stderr)
		}
		t.Fatal(err)
	}
	var all []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func parseGraph(t *testing.T) map[string][]string {
	t.Helper()
	allowed := map[string][]string{}
	for line := range strings.Lines(graph) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, imports, ok := strings.Cut(line, ":")
		if !ok {
			t.Fatalf("graph: %q has no colon", line)
		}
		for _, imported := range strings.Fields(imports) {
			if _, known := allowed[imported]; !known {
				t.Fatalf("graph: %s imports %s, which does not stand above it", name, imported)
			}
		}
		allowed[name] = strings.Fields(imports)
	}
	return allowed
}

func TestGraph(t *testing.T) {
	allowed := parseGraph(t)
	for _, p := range list(t, "./...", "./proto/...") {
		name, ours := strings.CutPrefix(p.ImportPath, module)
		if !ours {
			continue
		}
		edges, known := allowed[name]
		if !known {
			t.Errorf("%s is not in the graph: say what it hides, and what it may import", name)
			continue
		}
		for _, imported := range p.Imports {
			if to, ours := strings.CutPrefix(imported, module); ours && !slices.Contains(edges, to) {
				t.Errorf("%s imports %s: a new edge", name, to)
			}
		}
	}
}

func TestHeavyLibraries(t *testing.T) {
	for _, p := range list(t, "./...") {
		name, _ := strings.CutPrefix(p.ImportPath, module)
		for _, o := range owners {
			if slices.Contains(strings.Fields(o.owner), name) {
				continue
			}
			for _, imported := range p.Imports {
				if imported == o.library || strings.HasPrefix(imported, o.library+"/") {
					t.Errorf("%s imports %s, which only %q may: %s", name, imported, o.owner, o.why)
				}
			}
		}
	}
}

// TestTestRuntimeIsNotShipped keeps the runtime that isolates nothing out of
// every program.
func TestTestRuntimeIsNotShipped(t *testing.T) {
	programs := list(t, "./cmd/...")
	if len(programs) < 3 {
		t.Fatalf("%d programs", len(programs))
	}
	for _, p := range programs {
		if slices.Contains(p.Deps, module+"internal/vm/vmtest") {
			t.Errorf("%s links internal/vm/vmtest", p.ImportPath)
		}
	}
}

func TestWrapperIsLean(t *testing.T) {
	for _, p := range list(t, "-deps", "./cmd/hpcc") {
		switch {
		case p.Standard:
			if slices.Contains(slow, p.ImportPath) {
				t.Errorf("the wrapper links %s, and pays for it at each compile; go mod why and go list -deps tell through whom", p.ImportPath)
			}
		case strings.HasPrefix(p.ImportPath, module):
		case !slices.ContainsFunc(lean, func(l string) bool {
			return p.ImportPath == l || strings.HasPrefix(p.ImportPath, l+"/")
		}):
			t.Errorf("the wrapper links %s", p.ImportPath)
		}
	}
}

// What runs as root is read by people: nothing but the standard library, x/sys,
// and hpcc's own messages.
func TestRootHelperIsLean(t *testing.T) {
	for _, p := range list(t, "-deps", "./cmd/hpcc-jail") {
		switch {
		case p.Standard:
			if slices.Contains([]string{"net/http", "encoding/gob", "encoding/xml", "crypto/tls", "text/template"}, p.ImportPath) {
				t.Errorf("hpcc-jail links %s, which parses what others wrote", p.ImportPath)
			}
		case slices.Contains([]string{module + "cmd/hpcc-jail", module + "internal/jail", "golang.org/x/sys/unix"}, p.ImportPath):
		default:
			t.Errorf("hpcc-jail links %s", p.ImportPath)
		}
	}
}
