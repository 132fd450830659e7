//go:build linux

// Chain is the part of make demo that runs where Firecracker works: on loopback,
// from nothing, a CA, a scheduler, a worker whose compiles run in Firecracker,
// and two people on machines without a compiler, who build lua. Its claims are
// checked with tools that are not hpcc's, and it fails where one does not hold.
//
//	chain -image sha256:HEX [UNIT…]
//
// UNIT is one of lua's sources, without suffix; without any it builds all of them,
// links them, and runs lua. /data has what test/lab/demo/chain.go puts there.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// client is a person with a checkout of lua, a configuration and a cache.
type client struct {
	user
	project string
	daemon  *service
}

var clients = []*client{{user: alice, project: "/home/alice/lua"}, {user: bob, project: "/home/bob/work/copy-of-lua"}}

func (c *client) home() string    { return "/home/" + c.name }
func (c *client) sources() string { return c.project + "/src" }
func (c *client) env() []string {
	return []string{"HPCC_CONFIG_DIR=" + c.home() + "/hpcc", "PATH=" + c.home() + "/links:/bin"}
}

func main() {
	s := &site{vcpus: runtime.NumCPU()}
	flag.StringVar(&s.image, "image", "", "digest of the image in /data/worker/images")
	flag.Parse()
	s.units = flag.Args()
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Minute)
	defer cancel()
	s.ctx = ctx
	err := s.chain()
	if err != nil {
		for _, x := range s.services {
			fmt.Fprintf(os.Stderr, "--- log of %s\n%s", x.name, x.log())
		}
	}
	if err = errors.Join(err, s.stop()); err == nil {
		err = nothingLeft()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func say(format string, args ...any) { fmt.Fprintf(os.Stdout, format+"\n", args...) }

// indent shows what a program printed.
func indent(text string) {
	for line := range strings.Lines(text) {
		say("     %s", strings.TrimSuffix(line, "\n"))
	}
}

func (s *site) chain() error {
	if err := begin(); err != nil {
		return err
	}
	say("4. A site from nothing: hpcc ca init, issue and credential; scheduler, worker, hpcc-jail")
	began := time.Now()
	if err := errors.Join(s.setUp(), s.serve()); err != nil {
		return err
	}
	say("   all up in %.1f s", time.Since(began).Seconds())
	if err := s.unprivileged(); err != nil {
		return err
	}

	first, second := clients[0], clients[1]
	say("5. alice has no compiler, and links named gcc, g++, cc and c++: hpcc masquerade")
	if err := noCompiler(); err != nil {
		return err
	}
	for _, c := range clients {
		if err := s.prepare(c); err != nil {
			return err
		}
	}
	if err := s.question(first); err != nil {
		return err
	}

	say("6. alice builds lua: make -C %s", first.sources())
	cold, err := s.build(first)
	if err != nil {
		return err
	}
	objects, err := s.objects(first)
	if err != nil {
		return err
	}
	say("   %d objects in %.1f s", len(objects), cold.Seconds())
	st, err := s.stats(first)
	if err != nil {
		return err
	}
	if st.Misses != len(objects) || st.HitsRemote+st.HitsDirect != 0 {
		return fmt.Errorf("alice's daemon counts %+v", st)
	}
	rows, err := s.rows()
	if err != nil {
		return err
	}
	if err := made(rows, objects); err != nil {
		return err
	}

	say("7. The machine, seen from outside")
	monitor, err := s.machine(rows[len(rows)-1])
	if err != nil {
		return err
	}
	say("8. The same command in the unpacked image, by hand")
	if err := s.byHand(first, objects); err != nil {
		return err
	}

	say("9. bob, in another directory, with a cache of his own; the machine stands still (SIGSTOP)")
	resume, err := monitor.stop()
	if err != nil {
		return err
	}
	warm, err := s.build(second)
	if err = errors.Join(err, resume()); err != nil {
		return err
	}
	if err := s.hits(second, rows, objects); err != nil {
		return err
	}
	say("   %d objects, equal to alice's, in %.1f s instead of %.1f s: %.0f times as fast", len(objects), warm.Seconds(), cold.Seconds(), cold.Seconds()/warm.Seconds())

	say("10. Linked by the image's gcc, without hpcc")
	if err := s.link(first, objects); err != nil {
		return err
	}
	say("11. The audit log: hpcc audit show")
	text, err := s.run(worker, "/", []string{"HPCC_CONFIG_DIR=" + worked}, hpcc, "audit", "show", "--last", "0")
	if err != nil {
		return err
	}
	indent(text)
	return nil
}

// serve starts the services.
func (s *site) serve() error {
	err := s.start(scheduler, "scheduler", "routing on", []string{"HPCC_CONFIG_DIR=/data/scheduler"}, hpcc, "scheduler")
	if err != nil {
		return err
	}
	err = s.start(root, "hpcc-jail", "msg=ready", nil, "/data/bin/hpcc-jail", "-socket", jailSocket, "-base", jails, "-client-uid", fmt.Sprint(worker.uid),
		"-first-uid", fmt.Sprint(firstMachine), "-uids", fmt.Sprint(machines), "-firecracker", "/data/firecracker", "-jailer", "/data/jailer")
	if err != nil {
		return err
	}
	if err := s.start(worker, "worker", "compiling on", []string{"HPCC_CONFIG_DIR=" + worked}, hpcc, "worker"); err != nil {
		return err
	}
	return s.wait(s.services[len(s.services)-1], "registered", func() bool {
		var st struct{ Answered time.Time }
		err := s.json(&st, worker, "/", []string{"HPCC_CONFIG_DIR=" + worked}, hpcc, "worker", "status", "--json")
		return err == nil && !st.Answered.IsZero()
	})
}

// prepare makes a client's links and checkout, and starts the daemon.
func (s *site) prepare(c *client) error {
	if err := os.MkdirAll(filepath.Dir(c.project), 0o755); err != nil {
		return err
	}
	if _, err := s.run(root, "/", nil, "cp", "-r", "/data/lua", c.project); err != nil {
		return err
	}
	if err := give(c.user, c.home()); err != nil {
		return err
	}
	if _, err := s.run(c.user, "/", c.env(), hpcc, "masquerade", c.home()+"/links", "gcc", "g++", "cc", "c++"); err != nil {
		return err
	}
	err := s.start(c.user, "daemon of "+c.name, "answering on", c.env(), hpcc, "start")
	c.daemon = s.services[len(s.services)-1]
	return err
}

// question asks the compiler that is not there something, which boots a machine.
func (s *site) question(c *client) error {
	for _, when := range []string{"answered from a machine that was booted for it", "remembered"} {
		began := time.Now()
		text, err := s.run(c.user, c.project, c.env(), c.home()+"/links/gcc", "-dumpfullversion", "-dumpmachine")
		if err != nil {
			return err
		}
		say("   gcc -dumpfullversion -dumpmachine: %s: %.1f s, %s", strings.Join(strings.Fields(text), " "), time.Since(began).Seconds(), when)
	}
	return nil
}

// shim stands in for libtool in lua's makefile, as Debian has it: one object for
// each source, from C.
const shim = `#!/bin/sh
tag=$2
shift 2
[ "$tag" = --tag=CXX ] || exec "$@"
`

// build has make build a client's objects.
func (s *site) build(c *client) (time.Duration, error) {
	tool := c.home() + "/no-libtool"
	if err := os.WriteFile(tool, []byte(shim), 0o755); err != nil {
		return 0, err
	}
	argv := []string{"/usr/bin/make", "-C", c.sources(), fmt.Sprintf("-j%d", s.vcpus+1), "LIBTOOL=" + tool, "SYSCFLAGS=-DLUA_USE_LINUX", "MYCFLAGS=-O2"}
	if len(s.units) == 0 {
		argv = append(argv, "o")
	}
	for _, u := range s.units {
		argv = append(argv, u+".o")
	}
	began := time.Now()
	ctx, done := context.WithCancel(s.ctx)
	go func() {
		for tick := time.NewTicker(30 * time.Second); ; {
			select {
			case <-ctx.Done():
				tick.Stop()
				return
			case <-tick.C:
				made, _ := filepath.Glob(c.sources() + "/*.o")
				say("     %d objects after %.0f s", len(made), time.Since(began).Seconds())
			}
		}
	}()
	defer done()
	_, err := s.run(c.user, c.project, c.env(), argv...)
	return time.Since(began), err
}

// objects returns the SHA-256 of a client's objects by name, as sha256sum says it.
func (s *site) objects(c *client) (map[string]string, error) {
	files, err := filepath.Glob(c.sources() + "/*.o")
	if err != nil {
		return nil, err
	}
	want := len(s.units)
	if want == 0 {
		sources, err := filepath.Glob(c.sources() + "/*.c")
		if err != nil {
			return nil, err
		}
		want = len(sources)
	}
	if len(files) != want || want == 0 {
		return nil, fmt.Errorf("%s has %d objects, want %d", c.name, len(files), want)
	}
	text, err := s.run(root, "/", nil, append([]string{"sha256sum"}, files...)...)
	if err != nil {
		return nil, err
	}
	objects := map[string]string{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		objects[filepath.Base(f[1])] = f[0]
	}
	return objects, nil
}

// stats are what a client's daemon has counted.
type stats struct {
	HitsDirect int     `json:"hits_direct"`
	HitsRemote int     `json:"hits_remote"`
	Misses     int     `json:"misses"`
	Errors     int     `json:"errors"`
	Saved      float64 `json:"compile_seconds_saved"`
}

func (s *site) stats(c *client) (st stats, err error) {
	err = s.json(&st, c.user, c.project, c.env(), hpcc, "stats", "--json")
	return st, err
}

// json runs a program that prints one JSON object.
func (s *site) json(v any, u user, dir string, env []string, argv ...string) error {
	text, err := s.run(u, dir, env, argv...)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(text), v)
}

// row is what is read of a row of the audit log.
type row struct {
	Number int
	Row    struct {
		Subject string `json:"subject"`
		VM      string `json:"vm"`
		Source  string `json:"source"`
		Cwd     string `json:"cwd"`
		Cache   string `json:"cache"`
		Exit    int    `json:"exit"`
		Error   string `json:"error"`
		Nanos   int64  `json:"duration_ns"`
		Outputs []struct {
			Role, Digest string // hex/size
		} `json:"outputs"`
		Isolation struct {
			Version string            `json:"version"`
			Digests map[string]string `json:"digests"`
			NICs    []string          `json:"nics"`
		} `json:"isolation"`
	} `json:"row"`
}

// object is the object's name, and the SHA-256 that the row has; "" if the row is
// of no compile.
func (r *row) object() (name, sum string) {
	for _, o := range r.Row.Outputs {
		if o.Role == "object" {
			sum, _, _ = strings.Cut(o.Digest, "/")
			return strings.TrimSuffix(filepath.Base(r.Row.Source), ".c") + ".o", sum
		}
	}
	return "", ""
}

func (s *site) rows() (rows []*row, err error) {
	text, err := s.run(worker, "/", []string{"HPCC_CONFIG_DIR=" + worked}, hpcc, "audit", "show", "--json")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(text) {
		r := &row{}
		if err := json.Unmarshal([]byte(line), r); err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// names are the objects' in order.
func names(objects map[string]string) (list []string) {
	for name := range objects {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}
