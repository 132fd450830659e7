package ipc

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

func streamSocket(family int) (int, error) {
	return unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
}

// socketPeer returns the user of the process that listens on a Unix socket.
func socketPeer(fd int) (uid int, err error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, err
	}
	return int(cred.Uid), nil
}

// portPeer returns the user whose process listens on a loopback port, which
// the socket itself does not tell. Without this check anybody could take the
// port of a daemon that was killed and have wrappers run commands.
func portPeer(port int) (uid int, err error) {
	table, err := os.ReadFile("/proc/self/net/tcp")
	if err != nil {
		return 0, err
	}
	return listenerUID(table, port)
}

// listenerUID finds in the kernel's table who listens on 127.0.0.1:port:
//
//	sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid …
//	 0: 0100007F:A2C3 00000000:0000 0A 00000000:00000000 00:00000000 00000000 1000 …
//
// Addresses are printed as the machine's words are, so loopback is looked for
// in both byte orders; port and state are plain hexadecimal, 0A is LISTEN.
func listenerUID(table []byte, port int) (uid int, err error) {
	const listen = "0A"
	for line := range bytes.Lines(table) {
		f := bytes.Fields(line)
		if len(f) < 8 || string(f[3]) != listen {
			continue
		}
		host, hexPort, _ := bytes.Cut(f[1], []byte(":"))
		p, err := strconv.ParseUint(string(hexPort), 16, 16)
		if err != nil || int(p) != port || (string(host) != "0100007F" && string(host) != "7F000001") {
			continue
		}
		return strconv.Atoi(string(f[7]))
	}
	return 0, errors.New("the port's listener is not in the kernel's table")
}

// readRaw is read(2) without telling the scheduler. Told, it would wake another
// thread to run goroutines that a wrapper does not have, and pay for both. A
// read that lasts is interrupted by the runtime after some 10 ms (EINTR).
func readRaw(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
