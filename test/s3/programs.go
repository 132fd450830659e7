//go:build linux

package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// program is a program that the Go proxy has.
type program struct{ name, pkg, version string }

// The newest versions of the Go proxy. Versitygw is Apache-2.0 and toxiproxy is
// MIT; MinIO's server is AGPL-3.0, so that it is only ever run, as a program of its
// own and by tests, and neither linked nor shipped.
var (
	versitygw = program{"versitygw", "github.com/versity/versitygw/cmd/versitygw", "v1.8.0"}
	minio     = program{"minio", "github.com/minio/minio", "v0.0.0-20260212201848-7aac2a2c5b7c"}
	toxiproxy = program{"toxiproxy", "github.com/Shopify/toxiproxy/v2/cmd/server", "v2.5.0"}
)

// cacheDir is where what tests build is kept.
func cacheDir() (string, error) {
	if dir := os.Getenv("HPCC_TEST_CACHE"); dir != "" {
		return dir, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("s3: %w; set HPCC_TEST_CACHE", err)
	}
	return filepath.Join(home, ".cache", "hpcc-test"), nil
}

// build returns the path of a program, which it builds if it is not there.
// Everything that decides what comes of it is in its name, so that another version
// or another Go is another file; several processes may ask at once.
func (p program) build(ctx context.Context) (_ string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("s3: %s: %w", p.name, err)
		}
	}()
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "programs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s@%s\n%s %s/%s\nstatic, stripped", p.pkg, p.version, runtime.Version(), runtime.GOOS, runtime.GOARCH))
	to := filepath.Join(dir, p.name+"-"+hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(to); err == nil {
		return to, nil
	}
	lock, err := os.OpenFile(to+".lock", os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	if _, err := os.Stat(to); err == nil {
		return to, nil
	}
	tmp, err := os.MkdirTemp(dir, "tmp.")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	// A proxy fails for a moment now and then, and what was fetched stays.
	for try := 1; ; try++ {
		err := p.install(ctx, tmp)
		if err == nil {
			return to, os.Rename(filepath.Join(tmp, path.Base(p.pkg)), to)
		}
		if try == 3 || ctx.Err() != nil {
			return "", err
		}
	}
}

// install has go put the program into dir.
func (p program) install(ctx context.Context, dir string) error {
	cmd := exec.CommandContext(ctx, "go", "install", "-trimpath", "-ldflags=-s -w", p.pkg+"@"+p.version)
	// Outside of hpcc's modules, whose versions of libraries are not the program's.
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOTMPDIR="+dir, "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w\n%s", err, stderr.Bytes())
	}
	return nil
}
