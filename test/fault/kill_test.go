//go:build linux

package fault

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// killer makes builds in one cache, in each of which something is killed.
type killer struct {
	*project
	w     *world
	round int
}

// survey checks after a round that the cache is right, and that nothing is
// gone that was there before.
func (k *killer) survey(what string, before map[string]bool) {
	k.t.Helper()
	k.w.fsck()
	after := k.w.stored()
	for path := range before {
		if !after[path] {
			k.t.Errorf("%s, round %d: %s is gone", what, k.round, path)
		}
	}
}

// again builds the round again: all that was stored serves, and is right.
func (k *killer) again(what string) {
	k.t.Helper()
	log := filepath.Join(k.w.tmp, "log")
	os.Remove(log)
	k.w.more = []string{"HPCC_STATS_LOG=" + log}
	k.build(k.w, what, k.round, "-j4") // stores what the killed could not
	k.w.count()
	k.build(k.w, what, k.round, "-j4")
	if c := k.w.count(); c.Hits != k.units || c.Misses != 0 {
		k.t.Errorf("%s, round %d: %+v in the end, want %d hits\n%s", what, k.round, c, k.units, read(k.t, log))
	}
}

// TestKilledDaemon kills the daemon at a random moment of a build. The build
// goes on and is right.
func TestKilledDaemon(t *testing.T) {
	k := killer{project: newProject(t, t.TempDir(), 11, 4), w: newWorld(t)}
	for range times(2, 100) {
		k.round++
		before := k.w.stored()
		k.w.start()
		// As long as a build takes here: kills come at its beginning and end, too.
		began := time.Now()
		k.build(k.w, "not killed", -k.round, "-j4")
		length := time.Since(began)
		moment := rand.N(length * 5 / 4)
		what := fmt.Sprintf("daemon killed after %v of %v", moment.Round(time.Millisecond), length.Round(time.Millisecond))
		k.during(k.w, what, k.round, func(ctx context.Context) {
			select {
			case <-time.After(moment):
			case <-ctx.Done():
			}
			_ = syscall.Kill(-k.w.daemon.Process.Pid, syscall.SIGKILL)
		}, "-j4")
		k.w.kill()
		k.survey(what, before)
		if k.round%2 == 0 {
			k.w.start()
		}
		k.again(what)
		k.w.stop()
	}
	k.w.sweep()
}

// TestKilledCompiles kills compiles without a daemon at random moments, in the
// middle of parallel builds. Make removes what they leave; the next build is
// right.
func TestKilledCompiles(t *testing.T) {
	k := killer{project: newProject(t, t.TempDir(), 11, 4), w: newWorld(t)}
	killed := 0
	for range times(2, 100) {
		k.round++
		before := k.w.stored()
		k.want(k.round)
		k.clean()
		n := 0
		_, err := k.attempt(k.w, k.round, func(ctx context.Context) {
			for ctx.Err() == nil {
				time.Sleep(rand.N(80 * time.Millisecond))
				for _, pid := range k.compiles() {
					if rand.IntN(3) == 0 && syscall.Kill(pid, syscall.SIGKILL) == nil {
						n++
					}
				}
			}
		}, "-j4", "--keep-going")
		killed += n
		what := fmt.Sprintf("%d compiles killed", n)
		if err != nil && n == 0 {
			t.Errorf("round %d: the build fails: %v", k.round, err)
		}
		k.survey(what, before)
		k.again(what)
	}
	t.Logf("%d compiles killed in %d builds", killed, k.round)
	if killed < k.round {
		t.Errorf("only %d compiles killed in %d builds", killed, k.round)
	}
	k.w.sweep()
}

// compiles finds the processes of this test's hpccd that work on the project.
func (k *killer) compiles() (pids []int) {
	names, _ := os.ReadDir("/proc")
	for _, e := range names {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		exe, _ := os.Readlink("/proc/" + e.Name() + "/exe")
		cwd, _ := os.Readlink("/proc/" + e.Name() + "/cwd")
		if exe == filepath.Join(bin, "hpccd") && cwd == k.dir {
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestKilledAll kills a whole build with all its processes, daemon and all.
func TestKilledAll(t *testing.T) {
	k := killer{project: newProject(t, t.TempDir(), 11, 4), w: newWorld(t)}
	for range times(1, 50) {
		k.round++
		before := k.w.stored()
		if k.round%2 == 0 {
			k.w.start()
		}
		k.want(k.round)
		k.clean()
		cmd := k.make(k.w.env(), append([]string{"ROUND=" + strconv.Itoa(k.round), "-j4"}, behind...)...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(rand.N(time.Second))
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		k.w.kill()
		_ = cmd.Wait()
		awaitGroup(cmd.Process.Pid)
		k.survey("all killed", before)
		k.again("all killed")
	}
	k.w.sweep()
}
