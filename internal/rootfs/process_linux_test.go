package rootfs

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"hpcc.dev/hpcc/internal/leaktest"
)

// TestMain lets the test program be other processes that build.
func TestMain(m *testing.M) {
	if role := os.Getenv("HPCC_ROOTFS_ROLE"); role != "" {
		if err := act(role, os.Getenv("HPCC_ROOTFS_DIR"), os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(leaktest.Run(m))
}

func act(role, dir string, args []string) error {
	s, err := Open(Options{Dir: dir, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	ctx := context.Background()
	switch role {
	case "build":
		src, closer, err := Layout(args[0], "")
		if err != nil {
			return err
		}
		defer closer.Close()
		_, err = s.Build(ctx, src, nil)
		return err
	case "stall": // until it is killed
		reached := make(chan struct{}, 1)
		go func() {
			<-reached
			fmt.Println("reached")
		}()
		_, err = s.Build(ctx, &stalling{numbered(1), reached, ctx}, nil)
		return err
	case "generate":
		files, err := strconv.Atoi(args[0])
		if err != nil {
			return err
		}
		size, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		_, err = s.Build(ctx, generated(files, size), nil)
		return err
	}
	return fmt.Errorf("no role %q", role)
}

// process starts this program in a role.
func process(role, dir string, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), "HPCC_ROOTFS_ROLE="+role, "HPCC_ROOTFS_DIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func TestBuiltOnceByProcesses(t *testing.T) {
	layout, s := t.TempDir(), openStore(t)
	imageOf(features()...).layout(t, layout)
	var b builds
	var all []*exec.Cmd
	for range 4 {
		cmd := process("build", s.opt.Dir, layout)
		cmd.Stderr = &b
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		all = append(all, cmd)
	}
	for _, cmd := range all {
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v\n%s", err, &b.b)
		}
	}
	if n := b.count(); n != 1 {
		t.Errorf("built %d times\n%s", n, &b.b)
	}
	if names := left(t, s); len(names) != 3 {
		t.Errorf("in the store: %v", names)
	}
}

// A build that is killed leaves a lock that nobody holds and a part that the
// next one sweeps; nobody waits for it.
func TestKilled(t *testing.T) {
	s := openStore(t)
	kill := func() {
		cmd := process("stall", s.opt.Dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); line != "reached\n" {
			t.Fatalf("%q, %v", line, err)
		}
		// While it lives, its files are its own.
		if _, err := Open(s.opt); err != nil {
			t.Fatal(err)
		}
		names := left(t, s)
		if len(names) != 2 || !strings.HasSuffix(strings.Join(names, " "), ".part") {
			t.Errorf("while it builds: %v", names)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
	}
	kill()
	again, err := Open(s.opt)
	if err != nil {
		t.Fatal(err)
	}
	if names := left(t, again); len(names) > 0 {
		t.Errorf("left behind: %v", names)
	}
	kill()
	build(t, s, numbered(1)) // a store that was open before
	if names := left(t, s); len(names) != 3 {
		t.Errorf("in the store: %v", names)
	}
}

// generated is an image of files of a size each, made as it is read.
func generated(files, size int) Source {
	write := func(w io.Writer) error {
		tw := tar.NewWriter(w)
		body := make([]byte, 1<<20)
		for i := range files {
			h := &tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("directory%d/file%d", i/1000, i), Mode: 0o644, Size: int64(size)}
			if err := tw.WriteHeader(h); err != nil {
				return err
			}
			for left := size; left > 0; left -= len(body) {
				if _, err := tw.Write(body[:min(left, len(body))]); err != nil {
					return err
				}
			}
		}
		return tw.Close()
	}
	h := sha256.New()
	n := &countingWriter{w: h}
	if err := write(n); err != nil {
		panic(err)
	}
	digest := "sha256:" + hex.EncodeToString(h.Sum(nil))
	m := imageOf(layerOf()).withDiffID(digest)
	m.edit(func(d *document) { d.Layers[0].Digest, d.Layers[0].Size = digest, n.n })
	return &generator{m, digest, write}
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.w.Write(p)
}

type generator struct {
	*memImage
	digest string
	write  func(io.Writer) error
}

func (g *generator) Blob(ctx context.Context, d Descriptor) (io.ReadCloser, error) {
	if d.Digest != g.digest {
		return g.memImage.Blob(ctx, d)
	}
	r, w := io.Pipe()
	go func() {
		_ = w.CloseWithError(g.write(w)) // never fails
	}()
	return r, nil
}

// Memory does not grow with an image's bytes, and by about a kilobyte with each
// of its entries: the bound that Limits.Entries states.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector's memory is no measure")
	}
	peak := func(files, size int) int64 {
		dir := filepath.Join(t.TempDir(), "images")
		p := process("generate", dir, strconv.Itoa(files), strconv.Itoa(size))
		if out, err := p.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return p.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
	}
	const mib = 1 << 20
	few := peak(2, mib)
	large := peak(2, 200*mib)
	many := peak(50_000, 0)
	t.Logf("two files of 1 MiB: %d MiB; of 200 MiB: %d MiB; 50,000 empty files: %d MiB", few/mib, large/mib, many/mib)
	if large > few+16*mib {
		t.Errorf("400 MiB of content took %d MiB more than 2 MiB", (large-few)/mib)
	}
	if perEntry := (many - few) / 50_000; perEntry > 2000 {
		t.Errorf("%d bytes an entry", perEntry)
	}
}
