//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"hpcc.dev/hpcc/internal/shared"
	"hpcc.dev/hpcc/test/s3"
)

const (
	hpccBucket    = "hpcc"
	sccacheBucket = "sccache"
)

// environ is the environment without anybody's settings, and with these.
func environ(server *s3.Server, set ...string) []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "HPCC_") && !strings.HasPrefix(e, "SCCACHE_") && !strings.HasPrefix(e, "AWS_") {
			env = append(env, e)
		}
	}
	return append(append(env, server.Env()...), set...)
}

// program is a cache's program with its environment.
type program struct {
	path, dir string
	env       []string
}

func (p *program) command(args ...string) *exec.Cmd {
	cmd := exec.Command(p.path, args...)
	cmd.Dir, cmd.Env = p.dir, p.env
	return cmd
}

// say runs the program and reads what it says as JSON, if to is not nil.
func (p *program) say(to any, args ...string) error {
	cmd := p.command(args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err == nil && to != nil {
		err = json.Unmarshal(stdout.Bytes(), to)
	}
	if err != nil {
		return fmt.Errorf("%q: %w\n%s%s", cmd.Args, err, stdout.Bytes(), stderr.Bytes())
	}
	return nil
}

// sccache keeps everything in the bucket. Its direct mode is on, and does nothing but
// with its local cache.
type sccache struct{ program }

func startSccache(work string, server *s3.Server, endpoint string) (*sccache, error) {
	path, err := exec.LookPath(*peer)
	if err != nil {
		return nil, err
	}
	home := filepath.Join(work, "sccache")
	if err := os.MkdirAll(home, 0o755); err != nil {
		return nil, err
	}
	s := &sccache{program{path, work, environ(server,
		"HOME="+home, "SCCACHE_DIRECT=true", "SCCACHE_SERVER_UDS="+home+"/socket", "SCCACHE_IDLE_TIMEOUT=0", "SCCACHE_CONF="+home+"/none",
		"SCCACHE_BUCKET="+sccacheBucket, "SCCACHE_REGION="+s3.Region, "SCCACHE_S3_USE_SSL=false",
		"SCCACHE_ENDPOINT="+strings.TrimPrefix(endpoint, "http://"))}}
	if err := s.say(nil, "--start-server"); err != nil {
		return nil, err
	}
	stats, err := s.stats()
	if err == nil && !strings.HasPrefix(stats.Location, "s3") {
		err = fmt.Errorf("sccache's cache is %q", stats.Location)
	}
	if err != nil {
		_ = s.stop()
		return nil, err
	}
	return s, nil
}

type sccacheStats struct {
	Location string `json:"cache_location"`
	Stats    struct {
		Requests int64 `json:"requests_executed"`
		Errors   int64 `json:"cache_read_errors"`
		Timeouts int64 `json:"cache_timeouts"`
		Hits     struct {
			Counts map[string]int64 `json:"counts"`
		} `json:"cache_hits"`
	} `json:"stats"`
}

func (s *sccache) stats() (*sccacheStats, error) {
	st := new(sccacheStats)
	return st, s.say(st, "--show-stats", "--stats-format", "json")
}

func (s *sccache) empty() error { return nil }

func (s *sccache) hits() (hits, others int64, err error) {
	st, err := s.stats()
	if err != nil {
		return 0, 0, err
	}
	for _, n := range st.Stats.Hits.Counts {
		hits += n
	}
	return hits, st.Stats.Requests - hits, nil
}

func (s *sccache) stop() error { return s.say(nil, "--stop-server") }

// hpcc has a daemon whose only tier is the bucket.
type hpcc struct {
	program
	daemon *exec.Cmd
	said   bytes.Buffer // read when the daemon has ended
}

// tier is what the settings call the bucket.
const tier = "bucket"

// startHpcc starts it. memory is the setting: how much of what came from the bucket is
// kept in memory, which no command empties.
func startHpcc(ctx context.Context, work string, server *s3.Server, endpoint, memory string) (_ *hpcc, err error) {
	path, err := filepath.Abs(filepath.Join(*bin, "hpcc"))
	if err != nil {
		return nil, err
	}
	home := filepath.Join(work, "hpcc")
	if err := os.MkdirAll(home, 0o700); err != nil {
		return nil, err
	}
	key := filepath.Join(home, "key")
	if _, err := shared.GenerateKey(key, shared.RoleClient, "bench"); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	settings := fmt.Sprintf(`[cache]
signing_key_file = %q
memory = %q
[[cache.tiers]]
name = %q
url = "s3://%s"
endpoint = %q
path_style = true
`, key, memory, tier, hpccBucket, endpoint)
	if err := os.WriteFile(filepath.Join(home, "client.toml"), []byte(settings), 0o600); err != nil {
		return nil, err
	}
	h := &hpcc{program: program{path, work, environ(server, "HPCC_CONFIG_DIR="+home, "HPCC_CACHE_DIR="+home+"/cache")}}
	h.daemon = h.command("start")
	h.daemon.Stdout, h.daemon.Stderr = &h.said, &h.said
	ready := filepath.Join(home, "daemon.json")
	if err := os.Remove(ready); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err := h.daemon.Start(); err != nil {
		return nil, err
	}
	for range 1000 {
		if _, err := os.Stat(ready); err == nil {
			return h, nil
		}
		if ctx.Err() != nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	_ = h.stop()
	return nil, fmt.Errorf("the daemon does not answer\n%s", h.said.Bytes())
}

func (h *hpcc) empty() error { return h.say(nil, "clean", "--all") }

func (h *hpcc) hits() (hits, others int64, err error) {
	var st struct {
		Direct       int64            `json:"hits_direct"`
		Preprocessed int64            `json:"hits_preprocessed"`
		Remote       int64            `json:"hits_remote"`
		ByTier       map[string]int64 `json:"hits_by_tier"`
		Misses       int64            `json:"misses"`
	}
	if err := h.say(&st, "stats", "--json"); err != nil {
		return 0, 0, err
	}
	hits = st.ByTier[tier]
	return hits, st.Direct + st.Preprocessed + st.Remote + st.Misses - hits, nil
}

// stop ends the daemon, which writes first what waits to be written.
func (h *hpcc) stop() error {
	if err := h.daemon.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := h.daemon.Wait(); err != nil {
		return fmt.Errorf("the daemon: %w\n%s", err, h.said.Bytes())
	}
	return nil
}
