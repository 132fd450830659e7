//go:build linux

// Probe is a program that jobs run in tests, without an image's help: what can a
// job reach, what does it find of others, what can it leave behind.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/test/lab/search"
)

func main() {
	// Before anything opens a file.
	if os.Args[1] == "reach" {
		reach()
		return
	}
	var err error
	switch os.Args[1] {
	case "search":
		err = find(os.Args[2])
	case "leave":
		leave(os.Args[2])
		if fmt.Println("left"); os.Args[3] == "stay" {
			time.Sleep(time.Hour)
		}
		err = find(search.Hide(os.Args[2]))
	case "linger": // leave's child
		time.Sleep(time.Hour)
	default:
		err = fmt.Errorf("no such probe: %q", os.Args[1])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

// found is what find prints.
type found struct {
	Found, Others []string
	Summary       string
	Names, Files  int
	Bytes         int64
}

func find(hidden string) error {
	s, err := search.New(hidden)
	if err != nil {
		return err
	}
	s.Tree("/")
	s.Objects()
	s.Processes()
	return json.NewEncoder(os.Stdout).Encode(found{s.Found, search.Others(), s.String(), s.Names, s.Files, s.Bytes})
}

// leave puts a mark wherever a job can put something, and says how far it got.
func leave(mark string) {
	try := func(what string, err error) {
		fmt.Println(what + "\t" + name(err))
	}
	for _, dir := range []string{".", "/tmp", "/var/tmp", "/dev/shm"} {
		try("file in "+dir, os.WriteFile(dir+"/"+mark+".txt", []byte("content of "+mark), 0o666))
	}
	try("file in /", os.WriteFile("/"+mark, []byte(mark), 0o666))
	try("link", os.Symlink(mark, "/tmp/link"))
	listen := func(address string) error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrUnix{Name: address})
		}
		if err == nil {
			err = unix.Listen(fd, 1)
		}
		return err
	}
	try("abstract socket", listen("@"+mark))
	try("socket", listen("/tmp/"+mark+".socket"))
	id, err := unix.SysvShmGet(0x68706363, 4096, unix.IPC_CREAT|0o666)
	if err == nil {
		var b []byte
		if b, err = unix.SysvShmAttach(id, 0, 0); err == nil {
			copy(b, mark)
		}
	}
	try("shared memory", err)
	queue, _, e := unix.Syscall(unix.SYS_MSGGET, 0x68706363, unix.IPC_CREAT|0o666, 0)
	if e == 0 {
		message := append(append(make([]byte, 8), mark...), 0)
		message[0] = 1
		_, _, e = unix.Syscall6(unix.SYS_MSGSND, queue, uintptr(unsafe.Pointer(&message[0])), uintptr(len(mark)), unix.IPC_NOWAIT, 0, 0)
	}
	try("message queue", e)
	_, _, e = unix.Syscall(unix.SYS_SEMGET, 0x68706363, 1, unix.IPC_CREAT|0o666)
	try("semaphore", e)
	child := exec.Command("/proc/self/exe", "linger", mark)
	child.Env = []string{"LEFT=" + mark}
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	try("process in the background", child.Start())
}

// name is an error's name, "possible" for none.
func name(err error) string {
	switch e := err.(type) {
	case nil:
		return "possible"
	case unix.Errno:
		if e == 0 {
			return "possible"
		}
		return unix.ErrnoName(e)
	case *os.PathError:
		return name(e.Err)
	case *os.LinkError:
		return name(e.Err)
	case *os.SyscallError:
		return name(e.Err)
	}
	return strings.ReplaceAll(err.Error(), "\n", " ")
}
