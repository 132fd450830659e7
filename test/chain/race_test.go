//go:build e2e

package chain

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// compilersByPlace tells the compilers of marker that run in dir, which are this
// client's own, from the machines'.
func compilersByPlace(marker, dir string) (here, there []int) {
	for _, pid := range compilersOf(marker) {
		if cwd, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/cwd"); err == nil && cwd == dir {
			here = append(here, pid)
		} else if err == nil {
			there = append(there, pid)
		}
	}
	return here, there
}

// startRace starts a build of a slow unit, and returns once its compiler runs here
// and in a machine.
func startRace(t *testing.T, cl *Client, marker string, size int) (r raced) {
	t.Helper()
	r.dir, r.args = slowUnit(t, marker, size)
	r.want = plainObject(t, r.dir, r.args)
	makefile := "a.o:\n\t@gcc " + strings.Join(r.args, " ") + "\n"
	if err := os.WriteFile(filepath.Join(r.dir, "Makefile"), []byte(makefile), 0o644); err != nil {
		t.Fatal(err)
	}
	build := cl.Command(r.dir, "make")
	build.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	r.said = &bytes.Buffer{}
	build.Stdout, build.Stderr = r.said, r.said
	if err := build.Start(); err != nil {
		t.Fatal(err)
	}
	r.group, r.wait = build.Process.Pid, build.Wait
	await(t, "both compilers run\n"+cl.Log(), 5*time.Minute, func() bool {
		r.here, r.there = compilersByPlace(marker+".c", r.dir)
		return len(r.here) == 1 && len(r.there) == 1
	})
	return r
}

type raced struct {
	dir         string
	args        []string
	want        []byte
	said        *bytes.Buffer
	group       int
	wait        func() error
	here, there []int
}

// TestRace: of a compile that is made here and in a machine, what is ready first
// counts, and the other one ends, however stuck it is. Its temporary files go, too.
func TestRace(t *testing.T) {
	c := startChain(t, 1, "one", "two", "three", "four")
	temps := t.TempDir()
	for _, x := range []struct{ client, first string }{{"one", "here"}, {"two", "there"}} {
		t.Run(x.first, func(t *testing.T) {
			cl := newClient(t, c, x.client, ClientOptions{Compilers: true, Settings: "race = true\nrace_after = \"20ms\""})
			t.Setenv("TMPDIR", temps)
			marker := "raced_" + x.first
			r := startRace(t, cl, marker, 20)
			loser := r.here[0]
			if x.first == "here" {
				loser = r.there[0]
			}
			if err := syscall.Kill(loser, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			if err := r.wait(); err != nil || r.said.Len() > 0 {
				t.Errorf("%v: %s\n%s", err, r.said, cl.Log())
			}
			if got, err := os.ReadFile(filepath.Join(r.dir, "a.o")); err != nil || !bytes.Equal(got, r.want) {
				t.Errorf("%v, or another object", err)
			}
			// The one here is gone before the build goes on.
			if here, _ := compilersByPlace(marker+".c", r.dir); len(here) > 0 {
				t.Errorf("compilers %d go on here", here)
			}
			took := await(t, "the machine's compiler ends", 2*time.Minute, func() bool { return len(compilersOf(marker+".c")) == 0 })
			t.Logf("none runs after %s", took)
			if left, err := filepath.Glob(temps + "/cc*"); err != nil || len(left) > 0 {
				t.Errorf("left %q", left)
			}
			var s Stats
			await(t, "the race is counted", 5*time.Minute, func() bool {
				var err error
				s, err = cl.Stats()
				return err == nil && s.Misses == 1
			})
			want := Races{Started: 1}
			if want.WonHere = 1; x.first == "there" {
				want.WonHere, want.WonThere = 0, 1
			}
			if s.Races != want || s.Errors > 0 {
				t.Errorf("%+v", s)
			}
		})
	}
	t.Run("no daemon", func(t *testing.T) {
		cl := newClient(t, c, "four", ClientOptions{Compilers: true, NoDaemon: true, Settings: "race = true\nrace_after = \"20ms\""})
		dir, args := slowUnit(t, "not_raced", 2)
		want := plainObject(t, dir, args)
		if out, err := cl.Command(dir, "gcc", args...).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%v: %s", err, out)
		}
		if got, err := os.ReadFile(filepath.Join(dir, "a.o")); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%v, or another object", err)
		}
		if s := statsOf(t, cl); s.Misses != 1 || s.Races != (Races{}) {
			t.Errorf("%+v", s)
		}
	})
	t.Run("interrupted", func(t *testing.T) {
		cl := newClient(t, c, "three", ClientOptions{Compilers: true, Settings: "race = true\nrace_after = \"20ms\""})
		t.Setenv("TMPDIR", temps)
		r := startRace(t, cl, "raced_not", 20)
		if err := syscall.Kill(-r.group, syscall.SIGINT); err != nil {
			t.Fatal(err)
		}
		took := await(t, "both compilers end", 2*time.Minute, func() bool { return len(compilersOf("raced_not.c")) == 0 })
		t.Logf("none runs after %s", took)
		if err := r.wait(); err == nil {
			t.Error("make ended well")
		}
		if _, err := os.Stat(filepath.Join(r.dir, "a.o")); err == nil {
			t.Error("an object was left")
		}
	})
}
