//go:build e2e

package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/daemon"
	"hpcc.dev/hpcc/internal/remote"
	"hpcc.dev/hpcc/internal/rootfs"
	"hpcc.dev/hpcc/internal/wrapper"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
	"hpcc.dev/hpcc/test/images"
)

// TestWorkerPulls: a worker that is sent a job without having its image pulls it by
// digest from a real registry, if the allow-list names the repository. What it may
// not have is refused by name, and while the registry is away builds go on.
func TestWorkerPulls(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	reg, err := images.StartRegistry(ctx, t.TempDir(), false)
	if err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(reg.Stop)
	defer stop()
	file := func(name string) *tar.Header { return &tar.Header{Typeflag: tar.TypeReg, Name: name} }
	push := func(name, repository string) string {
		t.Helper()
		layout, digest := writeLayout(t, file(name), runtime.GOARCH)
		if _, err := reg.Push(ctx, images.Image{Layout: layout, Tag: "v1", Digest: digest}, repository, false); err != nil {
			t.Fatal(err)
		}
		return digest
	}
	allowed, elsewhere, late := push("allowed", "toolchains/gcc"), push("elsewhere", "other/gcc"), push("late", "toolchains/gcc")
	var old string
	p := startPair(t, fmt.Sprintf("allow = [%q, %q]", reg.Addr+"/empty/gcc", reg.Addr+"/toolchains/gcc"), func(state string) {
		// In the store from a time when it was allowed.
		var layout string
		layout, old = writeLayout(t, file("old"), runtime.GOARCH)
		store, err := rootfs.Open(rootfs.Options{Dir: filepath.Join(state, "images")})
		if err != nil {
			t.Fatal(err)
		}
		src, closer, err := rootfs.Layout(layout, "v1")
		if err != nil {
			t.Fatal(err)
		}
		_, err = store.Build(ctx, src, nil)
		if err := errors.Join(err, closer.Close()); err != nil {
			t.Fatal(err)
		}
	})
	client := p.client(t)

	// Several at once wait for one pull.
	var builds sync.WaitGroup
	for range 4 {
		builds.Go(func() {
			r, err := client.Compile(ctx, compileIn(allowed))
			if err != nil || r.ExitCode != 0 || len(r.Outputs) != 1 || len(r.Outputs[0].Data) == 0 {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
	builds.Wait()
	store, err := rootfs.Open(rootfs.Options{Dir: filepath.Join(p.state, "images")})
	if err != nil {
		t.Fatal(err)
	}
	if img, err := store.Get(allowed); err != nil || !slices.ContainsFunc(img.Sources, func(o rootfs.Origin) bool { return o.Repository == reg.Addr+"/toolchains/gcc" }) {
		t.Errorf("%+v, %v", img, err)
	}

	for name, image := range map[string]string{"in another repository": elsewhere, "no longer allowed": old} {
		var refused *remote.RefusedError
		if _, err := client.Compile(ctx, compileIn(image)); !errors.As(err, &refused) || !strings.Contains(refused.Reason, string(rootfs.NotAllowed)) {
			t.Errorf("%s: %v", name, err)
		}
	}

	stop()
	var away *remote.UnavailableError
	if _, err := client.Compile(ctx, compileIn(late)); !errors.As(err, &away) || !strings.Contains(err.Error(), "could not be pulled") || !strings.Contains(err.Error(), reg.Addr) {
		t.Errorf("the registry is away: %v", err)
	}
	// What was pulled needs no registry.
	if r, err := p.client(t).Compile(ctx, compileIn(allowed)); err != nil || !r.Hit {
		t.Errorf("%+v, %v", r, err)
	}
	p.fallsBack(t, late)
	p.end(t)
}

// fallsBack compiles in an image that no worker can have, where any compiler of this
// machine may take its place.
func (p *pair) fallsBack(t *testing.T, image string) {
	t.Helper()
	dir, project := t.TempDir(), t.TempDir()
	t.Setenv("HPCC_CONFIG_DIR", dir)
	t.Setenv("HPCC_CACHE_DIR", t.TempDir())
	for name, text := range map[string]string{
		dir + "/credential": p.alice + "\n",
		dir + "/client.toml": fmt.Sprintf("[remote]\nscheduler = %q\nca = %q\ncredential_file = %q\nimage = %q\nfallback = \"any\"\n",
			p.scheduler, p.ca, dir+"/credential", image),
		project + "/a.c":        "int f(int x) { return x + 1; }\n",
		project + "/.hpcc.toml": "",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg, err := config.Load()
	if err != nil {
		t.Fatal(err)
	}
	engine, err := openEngine(cfg, false, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	t.Chdir(project)
	msg := engine.Compile(t.Context(), &ipcv1.Compile{
		Args: []string{"gcc", "-c", "a.c"}, Compiler: "/usr/bin/gcc", Cwd: project, Umask: 0o022, Env: os.Environ(),
	}, local{wrapper.NewRunner()})
	if object, err := os.ReadFile(filepath.Join(project, "a.o")); err != nil || len(object) == 0 || msg.GetDone().GetExitCode() != 0 {
		t.Errorf("%+v, %v", msg, err)
	}
	engine.Drain()
	cache, err := openCache(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s, err := daemon.ReadStats(cache)
	if err != nil || s.NotRemote["worker-unavailable"] != 1 || s.Misses != 1 {
		t.Errorf("%+v, %v", s, err)
	}
}
