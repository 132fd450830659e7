package wrapper

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

func selfExe() string {
	path, _ := os.Executable()
	return path
}

func identify(path []byte) (id fileID, mode uint32, err error) {
	var st unix.Stat_t
	err = unix.Stat(string(path), &st)
	return fileID{uint64(st.Dev), st.Ino}, uint32(st.Mode), err
}

func getwd() (string, error) { return unix.Getwd() }

// ownGroup gives a command a process group.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// adoptOrphans is for Linux alone: orphans are always init's here.
func adoptOrphans(bool) {}
