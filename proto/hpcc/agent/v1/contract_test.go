package agentv1

import (
	"errors"
	"strings"
	"testing"
)

func good() *ExecHeader {
	return &ExecHeader{
		Argv: []string{"cc", "-c"}, Env: []string{"PATH=/bin", "EMPTY="}, Cwd: "/w/sub", Roots: []string{"/w", "/b/x"}, Outputs: []string{"/w/o"},
		Inputs: []*Input{
			{Path: "/w", Kind: Input_KIND_DIRECTORY, Mode: 0o755},
			{Path: "/w/a", Kind: Input_KIND_FILE, Digest: &Digest{Sha256: make([]byte, 32)}, Mode: 0o644},
			{Path: "/w/l", Kind: Input_KIND_SYMLINK, Target: "../.."},
		},
	}
}

func TestCheckHeader(t *testing.T) {
	if err := good().Check(); err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("x", MaxName+1)
	for name, change := range map[string]func(h *ExecHeader){
		"no program":         func(h *ExecHeader) { h.Argv = nil },
		"an empty program":   func(h *ExecHeader) { h.Argv = []string{""} },
		"NUL in an argument": func(h *ExecHeader) { h.Argv[1] = "a\x00b" },
		"a long argument":    func(h *ExecHeader) { h.Argv[1] = strings.Repeat("x", MaxArg+1) },
		"many arguments":     func(h *ExecHeader) { h.Argv = make([]string, MaxArgs+1) },
		"no UTF-8":           func(h *ExecHeader) { h.Argv[1] = "\xff" },
		"no variable":        func(h *ExecHeader) { h.Env[0] = "PATH" },
		"no name":            func(h *ExecHeader) { h.Env[0] = "=x" },
		"many variables":     func(h *ExecHeader) { h.Env = make([]string, MaxEnv+1) },
		"a relative cwd":     func(h *ExecHeader) { h.Cwd = "w" },
		"no cwd":             func(h *ExecHeader) { h.Cwd = "" },
		"the root as root":   func(h *ExecHeader) { h.Roots[1] = "/" },
		"a root in /proc":    func(h *ExecHeader) { h.Roots[1] = "/proc/1" },
		"a root in a root":   func(h *ExecHeader) { h.Roots[1] = "/w/sub" },
		"a root twice":       func(h *ExecHeader) { h.Roots[1] = "/w" },
		"many roots":         func(h *ExecHeader) { h.Roots = make([]string, MaxRoots+1) },
		"an unclean root":    func(h *ExecHeader) { h.Roots[1] = "/b/../x" },
		"an input outside":   func(h *ExecHeader) { h.Inputs[1].Path = "/etc/passwd" },
		"an input beside":    func(h *ExecHeader) { h.Inputs[1].Path = "/wx" },
		"an input with dots": func(h *ExecHeader) { h.Inputs[1].Path = "/w/../etc/passwd" },
		"a slash at the end": func(h *ExecHeader) { h.Inputs[1].Path = "/w/a/" },
		"a long name":        func(h *ExecHeader) { h.Inputs[1].Path = "/w/" + long },
		"a long path":        func(h *ExecHeader) { h.Inputs[1].Path = "/w" + strings.Repeat("/x", MaxPath) },
		"an input twice":     func(h *ExecHeader) { h.Inputs[2].Path = "/w/a" },
		"a file as root":     func(h *ExecHeader) { h.Inputs[1].Path = "/b/x" },
		"through a file":     func(h *ExecHeader) { h.Inputs[2].Path = "/w/a/b" },
		"through a link":     func(h *ExecHeader) { h.Inputs[1].Path = "/w/l/deep/b" },
		"set-uid":            func(h *ExecHeader) { h.Inputs[1].Mode = 0o4755 },
		"no kind":            func(h *ExecHeader) { h.Inputs[1].Kind = 0 },
		"an unknown kind":    func(h *ExecHeader) { h.Inputs[1].Kind = 9 },
		"no digest":          func(h *ExecHeader) { h.Inputs[1].Digest = nil },
		"a short digest":     func(h *ExecHeader) { h.Inputs[1].Digest.Sha256 = make([]byte, 31) },
		"a negative size":    func(h *ExecHeader) { h.Inputs[1].Digest.Size = -1 },
		"too many bytes":     func(h *ExecHeader) { h.Inputs[1].Digest.Size = MaxInputBytes + 1 },
		"an empty link":      func(h *ExecHeader) { h.Inputs[2].Target = "" },
		"a link with NUL":    func(h *ExecHeader) { h.Inputs[2].Target = "a\x00" },
		"no input at all":    func(h *ExecHeader) { h.Inputs[1] = nil },
		"many inputs":        func(h *ExecHeader) { h.Inputs = make([]*Input, MaxInputs+1) },
		"an output outside":  func(h *ExecHeader) { h.Outputs[0] = "/etc/passwd" },
		"a root as output":   func(h *ExecHeader) { h.Outputs[0] = "/w" },
		"an output twice":    func(h *ExecHeader) { h.Outputs = []string{"/w/o", "/w/o"} },
		"many outputs":       func(h *ExecHeader) { h.Outputs = make([]string, MaxOutputs+1) },
		"without roots":      func(h *ExecHeader) { h.Roots = nil },
		"large sizes in sum": func(h *ExecHeader) {
			h.Inputs[1].Digest.Size = MaxInputBytes
			h.Inputs = append(h.Inputs, &Input{Path: "/w/z", Kind: Input_KIND_FILE, Digest: &Digest{Sha256: make([]byte, 32), Size: 1}})
		},
		"a target of no UTF8": func(h *ExecHeader) { h.Inputs[2].Target = "\xff" },
	} {
		h := good()
		change(h)
		if h.Check() == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// Linux takes such names; the host has to know that it is this, and to compile
// elsewhere.
func TestNotUTF8(t *testing.T) {
	for name, change := range map[string]func(h *ExecHeader){
		"argument": func(h *ExecHeader) { h.Argv[1] = "-D\xff" },
		"variable": func(h *ExecHeader) { h.Env[1] = "EMPTY=\xff" },
		"cwd":      func(h *ExecHeader) { h.Cwd = "/w/\xff" },
		"root":     func(h *ExecHeader) { h.Roots[1] = "/b/\xff" },
		"input":    func(h *ExecHeader) { h.Inputs[1].Path = "/w/\xff" },
		"target":   func(h *ExecHeader) { h.Inputs[2].Target = "\xff" },
		"output":   func(h *ExecHeader) { h.Outputs[0] = "/w/\xff" },
	} {
		h := good()
		change(h)
		if err := h.Check(); !errors.Is(err, ErrNotUTF8) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := CheckPath("/w/\xff"); err != nil {
		t.Errorf("a name that a job may look up: %v", err)
	}
}

func TestLimits(t *testing.T) {
	var l Limits
	if err := l.Fill(); err != nil || l.MemoryBytes != DefaultMemory || l.Processes != DefaultProcesses || l.TimeMillis != 600_000 {
		t.Errorf("%v, %v", &l, err)
	}
	for _, l := range []*Limits{
		{MemoryBytes: MaxMemory + 1}, {Processes: MaxProcesses + 1}, {FileBytes: MaxFile + 1},
		{DiskBytes: MaxDisk + 1}, {StdioBytes: MaxStdio + 1}, {TimeMillis: 1 << 63},
	} {
		if l.Fill() == nil {
			t.Errorf("%v: taken", l)
		}
	}
}
