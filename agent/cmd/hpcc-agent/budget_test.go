package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// maxSize is the measured 10.9 MB and a tenth. The program lies in the memory of
// every machine, and twice while it boots. Where it grows, ask what was linked:
// go tool nm -size -sort size bin/hpcc-agent.
const maxSize = 12 << 20

// modules are all that the program is made of besides the standard library:
// gRPC, what it cannot do without, and the kernel's interface. A reviewer of the
// machine reads this list.
var modules = []string{
	"golang.org/x/net", // HTTP/2, of gRPC
	"golang.org/x/sys",
	"golang.org/x/text",                         // of x/net
	"google.golang.org/genproto/googleapis/rpc", // status messages of gRPC
	"google.golang.org/grpc",
	"google.golang.org/protobuf",
	"hpcc.dev/hpcc/agent",
	"hpcc.dev/hpcc/proto",
}

func TestBudget(t *testing.T) {
	program := filepath.Join(t.TempDir(), "hpcc-agent")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	st, err := os.Stat(program)
	if err != nil {
		t.Fatal(err)
	}
	if st.Size() > maxSize {
		t.Errorf("%d bytes, more than %d", st.Size(), maxSize)
	}
	deps := exec.Command("go", "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", ".")
	deps.Env = build.Env
	out, err := deps.Output()
	if err != nil {
		t.Fatal(err)
	}
	linked := strings.Fields(string(out))
	slices.Sort(linked)
	if linked = slices.Compact(linked); !slices.Equal(linked, modules) {
		t.Errorf("made of\n%s\nwant\n%s", strings.Join(linked, "\n"), strings.Join(modules, "\n"))
	}
	file, err := exec.Command("go", "version", "-m", program).Output()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(file), "CGO_ENABLED=0") {
		t.Errorf("not static:\n%s", file)
	}
}
