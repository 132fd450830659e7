package wrapper

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// selfExe names the running program's own file, even if another has since
// taken its name.
func selfExe() string { return "/proc/self/exe" }

// identify is stat(2) of a path, as far as it is needed here. It takes bytes,
// not a string, for the search in PATH: most candidates do not exist, and
// need not be kept.
func identify(path []byte) (id fileID, mode uint32, err error) {
	var st unix.Statx_t
	path = append(path, 0)
	for {
		_, _, errno := unix.RawSyscall6(unix.SYS_STATX, atFdcwd, uintptr(unsafe.Pointer(&path[0])),
			0, unix.STATX_BASIC_STATS, uintptr(unsafe.Pointer(&st)), 0)
		if errno == 0 {
			return fileID{unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino}, uint32(st.Mode), nil
		}
		if errno != unix.EINTR {
			return fileID{}, 0, errno
		}
	}
}

// atFdcwd is AT_FDCWD as a system call takes it.
const atFdcwd = ^uintptr(-unix.AT_FDCWD - 1)

// getwd is the kernel's own name of the working directory; PWD may name it by
// a symlink, and goes with the environment.
func getwd() (string, error) {
	// Enough for all but strange paths, and small enough that the stack, which
	// moves when it grows, stays where it is. unix.Getwd has room for 4 KiB.
	var buf [512]byte
	n, err := unix.Getcwd(buf[:])
	if err != nil || n < 2 || buf[0] != '/' {
		return unix.Getwd()
	}
	return string(buf[:n-1]), nil
}

// ownGroup gives a command a process group, and has it killed if this process is.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// adoptOrphans has processes whose parent ends become children of this one, or
// init's again. The second does not give back those that are here already.
func adoptOrphans(on bool) {
	var arg uintptr
	if on {
		arg = 1
	}
	// Linux 3.4; without it endGroup looks on.
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, arg, 0, 0, 0)
}
