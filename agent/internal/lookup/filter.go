package lookup

import (
	"maps"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data of linux/seccomp.h (little-endian: the low half
// of an argument comes first).
const (
	offNr   = 0
	offArch = 4
	offArg0 = 16
)

// newNamespaces are the flags of clone(2) that make namespaces.
const newNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

func stmt(code uint16, k uint32) unix.SockFilter { return unix.SockFilter{Code: code, K: k} }

func jump(code uint16, k uint32, jt, jf uint8) unix.SockFilter {
	return unix.SockFilter{Code: code, Jt: jt, Jf: jf, K: k}
}

const (
	load   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	ret    = unix.BPF_RET | unix.BPF_K
	equal  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	atMost = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K // jumps if more
	anyBit = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
)

func errno(e unix.Errno) uint32 { return unix.SECCOMP_RET_ERRNO | uint32(e) }

// filter is the program that judges each system call of a job.
func filter() []unix.SockFilter {
	p := []unix.SockFilter{
		stmt(load, offArch),
		jump(equal, auditArch, 1, 0),
		stmt(ret, unix.SECCOMP_RET_KILL_PROCESS),
		stmt(load, offNr),
		// x32's numbers are among these, and -1.
		jump(atMost, lastKnown, 0, 1),
		stmt(ret, errno(unix.ENOSYS)),
	}
	each := func(nrs []uint32, action uint32) {
		for _, nr := range nrs {
			p = append(p, jump(equal, nr, 0, 1), stmt(ret, action))
		}
	}
	each(slices.Sorted(maps.Keys(pathCalls)), unix.SECCOMP_RET_USER_NOTIF)
	each(missing, errno(unix.ENOSYS))
	each(denied, errno(unix.EPERM))
	return append(p,
		// Sockets of the Unix family only: no vsock to the agent, no network.
		jump(equal, unix.SYS_SOCKET, 0, 4),
		stmt(load, offArg0),
		jump(equal, unix.AF_UNIX, 0, 1),
		stmt(ret, unix.SECCOMP_RET_ALLOW),
		stmt(ret, errno(unix.EAFNOSUPPORT)),
		jump(equal, unix.SYS_CLONE, 0, 4),
		stmt(load, offArg0),
		jump(anyBit, newNamespaces, 0, 1),
		stmt(ret, errno(unix.EPERM)),
		stmt(ret, unix.SECCOMP_RET_ALLOW),
		jump(equal, unix.SYS_PRCTL, 0, 3),
		stmt(load, offArg0),
		jump(equal, unix.PR_SET_SECCOMP, 0, 1),
		stmt(ret, errno(unix.EPERM)),
		stmt(ret, unix.SECCOMP_RET_ALLOW),
	)
}

// Install puts the filter on the calling thread and all that it forks from now
// on, and returns the descriptor to give to Record. The thread must have
// no_new_privs. Until somebody records, every call with a path waits.
func Install() (listener int, err error) {
	p := filter()
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
	// WAIT_KILLABLE_RECV (Linux 5.19): once a call was taken up only a fatal
	// signal interrupts it. Else Go programs, which signal their own threads,
	// repeat calls without an end.
	fd, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, uintptr(unsafe.Pointer(&prog)))
	if e != 0 {
		return -1, e
	}
	return int(fd), nil
}
