//go:build linux

package chain

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// ClientOptions say what a client is like.
type ClientOptions struct {
	// Compilers leaves this machine's compilers in its PATH.
	Compilers bool
	// Settings are lines for client.toml's remote table, Top for before it.
	Settings, Top string
	// NoDaemon leaves the daemon out: each compile is a process of its own.
	NoDaemon bool
}

// Client is a laptop: a configuration, a cache, a daemon, and a PATH that begins
// with links to hpcc.
type Client struct {
	Name   string
	Dir    string
	path   string
	bin    string
	daemon *exec.Cmd
}

// compilers are what a machine without a compiler lacks.
var compilers = regexp.MustCompile(`^(?:.*-)?(?:gcc|g\+\+|cc|c\+\+|clang|clang\+\+|cpp|c89|c99|cc1|tcc)(?:-[0-9.]+)?$`)

// links are the names under which hpcc stands in for a compiler.
var links = []string{"gcc", "g++", "cc", "c++", "clang", "clang++"}

// NewClient makes a client; each has a name of its own, one of Start's.
func (c *Chain) NewClient(ctx context.Context, name string, opt ClientOptions) (*Client, error) {
	dir, err := os.MkdirTemp(c.Dir, name+"-")
	if err != nil {
		return nil, err
	}
	cl := &Client{Name: name, Dir: dir, bin: c.opt.Bin}
	settings := fmt.Sprintf("%s\n[remote]\nscheduler = %q\nca = %q\ncredential_file = %q\nimage = %q\n%s\n",
		opt.Top, c.address, filepath.Join(c.Dir, "ca", "ca.crt"), dir+"/credential", Image, opt.Settings)
	if err := os.WriteFile(dir+"/client.toml", []byte(settings), 0o600); err != nil {
		return nil, err
	}
	if err := os.WriteFile(dir+"/credential", []byte(c.credential(name)+"\n"), 0o600); err != nil {
		return nil, err
	}
	if err := cl.makePath(opt.Compilers); err != nil {
		return nil, err
	}
	if opt.NoDaemon {
		return cl, nil
	}
	return cl, cl.StartDaemon(ctx)
}

func (cl *Client) makePath(withCompilers bool) error {
	stand := cl.Dir + "/links"
	if err := os.Mkdir(stand, 0o755); err != nil {
		return err
	}
	for _, name := range links {
		if _, err := exec.LookPath(name); err != nil {
			continue
		}
		if err := os.Symlink(filepath.Join(cl.bin, "hpcc"), filepath.Join(stand, name)); err != nil {
			return err
		}
	}
	cl.path = stand + ":/usr/bin:/bin"
	if withCompilers {
		return nil
	}
	tools := cl.Dir + "/tools"
	if err := os.Mkdir(tools, 0o755); err != nil {
		return err
	}
	all, err := os.ReadDir("/usr/bin")
	if err != nil {
		return err
	}
	for _, e := range all {
		if !compilers.MatchString(e.Name()) {
			if err := os.Symlink("/usr/bin/"+e.Name(), filepath.Join(tools, e.Name())); err != nil {
				return err
			}
		}
	}
	cl.path = stand + ":" + tools
	return nil
}

// Env is the environment of the client's commands.
func (cl *Client) Env() []string {
	env := []string{
		"PATH=" + cl.path, "HOME=" + cl.Dir, "HPCC_CONFIG_DIR=" + cl.Dir, "HPCC_CACHE_DIR=" + cl.Dir + "/cache", "LC_ALL=C.UTF-8",
		"HPCC_STATS_LOG=" + cl.Dir + "/stats.jsonl", "HPCC_DAEMON_TIMEOUT=1m",
	}
	for _, kv := range os.Environ() {
		if strings.HasPrefix(kv, "SOURCE_DATE_EPOCH=") || strings.HasPrefix(kv, "AWS_") || strings.HasPrefix(kv, "TMPDIR=") {
			env = append(env, kv)
		}
	}
	return env
}

// Command is one of the client's, to be run in dir. The program is looked up in
// the client's PATH.
func (cl *Client) Command(dir, name string, args ...string) *exec.Cmd {
	cmd := exec.Command("/usr/bin/env", append([]string{name}, args...)...)
	cmd.Dir, cmd.Env = dir, append(cl.Env(), "PWD="+dir)
	return cmd
}

// Hpcc is a command of hpcc's own.
func (cl *Client) Hpcc(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(cl.bin, "hpcc"), args...)
	cmd.Dir, cmd.Env = cl.Dir, cl.Env()
	return cmd
}

// StartDaemon starts the client's daemon.
func (cl *Client) StartDaemon(ctx context.Context) error {
	output, err := os.OpenFile(cl.Dir+"/log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer output.Close()
	cl.daemon = cl.Hpcc("start")
	cl.daemon.Stdout, cl.daemon.Stderr = output, output
	if err := cl.daemon.Start(); err != nil {
		return err
	}
	for {
		if _, err := os.Stat(cl.Dir + "/daemon.json"); err == nil {
			return nil
		}
		if err := cl.daemon.Process.Signal(syscall.Signal(0)); err != nil || ctx.Err() != nil {
			return fmt.Errorf("the daemon did not start:\n%s", cl.Log())
		}
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Log is what the daemon said.
func (cl *Client) Log() string {
	text, _ := os.ReadFile(cl.Dir + "/log")
	return string(text)
}

// Stats are the client's counters.
func (cl *Client) Stats() (s Stats, err error) {
	out, err := cl.Hpcc("stats", "--json").Output()
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(out, &s)
}

// Stats are those of `hpcc stats --json` that count compiles.
type Stats struct {
	HitsDirect       int            `json:"hits_direct"`
	HitsPreprocessed int            `json:"hits_preprocessed"`
	HitsRemote       int            `json:"hits_remote"`
	HitsByTier       map[string]int `json:"hits_by_tier"`
	Misses           int            `json:"misses"`
	CompilesFailed   int            `json:"compiles_failed"`
	Uncacheable      map[string]int `json:"uncacheable"`
	Errors           int            `json:"errors"`
	Races            Races          `json:"races"`
}

// Races are those of compiles that were made here and on a worker.
type Races struct {
	Started  int `json:"started"`
	WonHere  int `json:"won_here"`
	WonThere int `json:"won_there"`
}

// Line is one of the statistics log.
type Line struct {
	Outcome, Reason, Detail, Source, Output, Cwd, Compiler, Action string

	Args []string
}

// Lines are the compiles so far.
func (cl *Client) Lines() (lines []Line, err error) {
	text, err := os.ReadFile(cl.Dir + "/stats.jsonl")
	if err != nil {
		return nil, err
	}
	for l := range strings.Lines(string(text)) {
		var line Line
		if err := json.Unmarshal([]byte(l), &line); err != nil {
			return nil, err
		}
		lines = append(lines, line)
	}
	return lines, nil
}

// Stop ends the daemon.
func (cl *Client) Stop() error {
	if cl.daemon == nil {
		return nil
	}
	_ = cl.daemon.Process.Signal(syscall.SIGTERM)
	_ = cl.daemon.Wait() // its status is the signal's
	cl.daemon = nil
	return nil
}
