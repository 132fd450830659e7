package wrapper

import (
	"errors"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// Whoever kills the wrapper outright has killed the driver, which would start the
// assembler next.
func TestRaceWrapperKilled(t *testing.T) {
	w := newWorld(t)
	w.script("gcc", `echo $$ >leader; echo up >ready; while :; do sleep 0.05; done`)
	ran := make(chan *ipcv1.Ran, 1)
	w.daemon(race(w, "", ran))
	cmd := w.command("gcc")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	awaitFile(t, w.dir+"/ready")
	leader, err := strconv.Atoi(awaitFile(t, w.dir+"/leader"))
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // its status is the signal's
	for deadline := time.Now().Add(patienceOfTests); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		// Nobody may reap it here.
		if stat, err := os.ReadFile("/proc/" + strconv.Itoa(leader) + "/stat"); err != nil || isZombie(stat) {
			return
		}
	}
	t.Error("the command goes on")
	if err := unix.Kill(leader, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		t.Error(err)
	}
}

// isZombie reads the state out of /proc/PID/stat, behind the name in brackets.
func isZombie(stat []byte) bool {
	for i := len(stat) - 1; i >= 0; i-- {
		if stat[i] == ')' {
			return i+2 < len(stat) && stat[i+2] == 'Z'
		}
	}
	return false
}
