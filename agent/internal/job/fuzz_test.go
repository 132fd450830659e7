package job

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"hpcc.dev/hpcc/agent/internal/blob"
	agentv1 "hpcc.dev/hpcc/proto/hpcc/agent/v1"
)

// FuzzTree puts the inputs of any header into a root, and looks for its outputs.
// Whether the header was checked or not, nothing is made outside the root, and no
// file of the outside is taken for an output. What a checked header asks for is
// there afterwards.
func FuzzTree(f *testing.F) {
	empty := &agentv1.Digest{Sha256: make([]byte, 32)}
	in := func(p string, kind agentv1.Input_Kind, target string) *agentv1.Input {
		return &agentv1.Input{Path: p, Kind: kind, Target: target, Mode: 0o755, Digest: empty}
	}
	const file, link, dir = agentv1.Input_KIND_FILE, agentv1.Input_KIND_SYMLINK, agentv1.Input_KIND_DIRECTORY
	for _, h := range []*agentv1.ExecHeader{
		{Roots: []string{"/w"}, Inputs: []*agentv1.Input{in("/w/a/b", file, ""), in("/w/l", link, "../.."), in("/w/d", dir, "")}, Outputs: []string{"/w/a/b", "/w/l/x"}},
		{Roots: []string{"/w", "/x/y"}, Inputs: []*agentv1.Input{in("/x/y/z", file, ""), in("/w/up", link, "../../../outside"), in("/w/up/x", file, "")}, Outputs: []string{"/w/up/secret"}},
		{Roots: []string{"/link/w"}, Inputs: []*agentv1.Input{in("/link/w/x", file, "")}},
		{Roots: []string{"/w"}, Inputs: []*agentv1.Input{in("/w/../../x", file, ""), in("/w/../y/z", dir, "")}, Outputs: []string{"/../outside/secret"}},
		{Roots: []string{"/"}, Inputs: []*agentv1.Input{in("/x", file, "")}, Outputs: []string{"/abs"}},
		{Roots: []string{""}, Inputs: []*agentv1.Input{in("", file, "")}, Outputs: []string{""}},
	} {
		b, err := proto.Marshal(h)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		var h agentv1.ExecHeader
		if proto.Unmarshal(wire, &h) != nil || len(wire) > 4096 {
			return
		}
		h.Argv, h.Cwd = []string{"x"}, "/"
		for _, in := range h.GetInputs() {
			if in.GetDigest() != nil {
				in.Digest = empty
			}
		}
		dir := t.TempDir()
		image, outside := dir+"/image", dir+"/outside"
		for _, d := range []string{image, outside} {
			if err := os.Mkdir(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(outside+"/secret", []byte("secret"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("../outside", image+"/link"); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(outside+"/secret", image+"/abs"); err != nil {
			t.Fatal(err)
		}
		store, err := blob.New(dir+"/blobs", 1000)
		if err != nil {
			t.Fatal(err)
		}
		root, err := unix.Open(image, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(root)
		// The user is root, whose file the secret is: only the way must keep it off.
		tr := &tree{root: root, uid: os.Getuid()}
		checked := h.Check() == nil
		err = tr.makeRoots(h.GetRoots())
		if err == nil {
			err = tr.materialise(h.GetRoots(), h.GetInputs(), store)
		}
		if checked && err == nil {
			for _, in := range h.GetInputs() {
				want := map[agentv1.Input_Kind]fs.FileMode{agentv1.Input_KIND_DIRECTORY: fs.ModeDir, agentv1.Input_KIND_SYMLINK: fs.ModeSymlink}[in.GetKind()]
				if st, err := os.Lstat(image + in.GetPath()); err != nil || st.Mode().Type() != want {
					t.Errorf("input %q: %v, %v", in.GetPath(), st, err)
				}
			}
		}
		for _, o := range h.GetOutputs() {
			if tr.outputSize(o) == 6 {
				t.Errorf("output %q is the secret", o)
			}
			if file, _, err := tr.output(o); err == nil && file != nil {
				b := make([]byte, 6)
				if n, _ := file.Read(b); string(b[:n]) == "secret" {
					t.Errorf("output %q is the secret", o)
				}
				file.Close()
			}
		}
		var seen []string
		err = filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if p = strings.TrimPrefix(p, dir); err == nil && !strings.HasPrefix(p, "/image/") {
				seen = append(seen, p)
			}
			if p == "/image" || os.IsPermission(err) {
				return filepath.SkipDir
			}
			return err
		})
		if got := strings.Join(seen, " "); err != nil || got != " /blobs /image /outside /outside/secret" {
			t.Errorf("there is %q: %v", got, err)
		}
	})
}
