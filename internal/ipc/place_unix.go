//go:build unix

package ipc

import (
	"golang.org/x/sys/unix"

	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// FillPlace describes the calling process. Both ends call it: two processes
// are in one place if all but pid and the working directory are equal.
func FillPlace(p *ipcv1.Place) {
	p.Pid, p.Uid, p.Gid = uint32(unix.Getpid()), uint32(unix.Geteuid()), uint32(unix.Getegid())
	groups, _ := unix.Getgroups()
	for _, g := range groups {
		p.Groups = append(p.Groups, uint32(g))
	}
	p.RootDevice, p.RootInode, p.RootMount = stat("/")
	p.CwdDevice, p.CwdInode, _ = stat(".")
}
