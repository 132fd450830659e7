package lookup

import (
	"fmt"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// struct seccomp_data, seccomp_notif and seccomp_notif_resp of linux/seccomp.h.
type notif struct {
	id    uint64
	pid   uint32
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

type notifResp struct {
	id    uint64
	val   int64
	error int32
	flags uint32
}

// Requests of ioctl(2): _IOWR('!', 0, struct seccomp_notif), _IOWR('!', 1,
// struct seccomp_notif_resp), _IOW('!', 4, __u64).
const (
	notifRecv    = 0xc0502100
	notifSend    = 0xc0182101
	notifFlags   = 0x40082104
	syncWakeUp   = 1 // SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP
	continueFlag = 1 // SECCOMP_USER_NOTIF_FLAG_CONTINUE
)

// The kernel's sizes are in the requests; another layout does not compile.
var (
	_ [0x50]byte = [unsafe.Sizeof(notif{})]byte{}
	_ [0x18]byte = [unsafe.Sizeof(notifResp{})]byte{}
)

func ioctl(fd int, request uintptr, arg unsafe.Pointer) error {
	for {
		_, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
		switch e {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return e
		}
	}
}

// Record answers the filter of Install until no process has it any more. It
// returns an error only if the kernel does what it is not known to do; calls
// with a path then fail in the job.
func (r *Recorder) Record(listener int) error {
	// From Linux 6.6 on: the two sides wait for each other, so the kernel may
	// wake one on the processor that the other leaves. Older ones do not know it.
	_ = unix.IoctlSetInt(listener, notifFlags, syncWakeUp)
	ends := endsReceive()
	for {
		if !ends {
			if gone, err := await(listener, -1); gone || err != nil {
				return err
			}
		}
		// The kernel wants zeros.
		var n notif
		if err := ioctl(listener, notifRecv, unsafe.Pointer(&n)); err == unix.ENOENT {
			// Killed meanwhile, or the last process has gone.
			if ends {
				if gone, err := await(listener, 0); gone || err != nil {
					return err
				}
			}
			continue
		} else if err != nil {
			return err
		}
		if err := r.answer(listener, &n); err != nil {
			return err
		}
	}
}

// await waits for a call, or for the last process to be gone, so many milliseconds
// at most; -1 is for ever.
func await(listener, patience int) (gone bool, err error) {
	for {
		ready := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		n, err := unix.Poll(ready, patience)
		if err == unix.EINTR {
			continue
		}
		return err == nil && n > 0 && ready[0].Revents&unix.POLLIN == 0, err
	}
}

// answer notes a call and lets it go on.
func (r *Recorder) answer(listener int, n *notif) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	count, before, cut := len(r.all), r.bytes, r.truncated
	r.call(n.pid, uint32(n.nr), n.args)
	err := ioctl(listener, notifSend, unsafe.Pointer(&notifResp{id: n.id, flags: continueFlag}))
	if err == unix.ENOENT {
		// The thread has died, and its number may have named another by then:
		// what was read is not of this job, and the call does not happen. An
		// answer that was taken says that it lived until now.
		for _, l := range r.all[count:] {
			delete(r.seen, l.Path)
		}
		r.all, r.bytes, r.truncated = r.all[:count], before, cut
		return nil
	}
	return err
}

// endsReceive tells whether the kernel ends NOTIF_RECV once the last process has
// gone, as Linux does from 6.11 on; else somebody has to ask before, at each call.
var endsReceive = sync.OnceValue(func() bool {
	var u unix.Utsname
	return unix.Uname(&u) == nil && fromRelease(unix.ByteSliceToString(u.Release[:]), 6, 11)
})

// fromRelease tells whether a kernel is of a version or newer; if it cannot be
// told, it is not.
func fromRelease(release string, major, minor int) bool {
	var a, b int
	if n, _ := fmt.Sscanf(release, "%d.%d", &a, &b); n != 2 {
		return false
	}
	return a > major || a == major && b >= minor
}
