package daemon

import (
	"net"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/ipc"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// ownPlace is the place of the daemon itself.
func ownPlace() *ipcv1.Place {
	p := &ipcv1.Place{}
	ipc.FillPlace(p)
	slices.Sort(p.Groups)
	return p
}

// differs says in what a wrapper's place is not the daemon's, or nothing.
// From another place the daemon could read other inputs, and write outputs
// where or as whom it should not.
func (s *Server) differs(req *ipcv1.Compile) string {
	own, p := s.place, req.GetPlace()
	groups := slices.Clone(p.GetGroups())
	slices.Sort(groups)
	switch {
	case p.GetUid() != own.Uid || p.GetGid() != own.Gid || !slices.Equal(groups, own.Groups):
		return "another user"
	case p.GetRootMount() != own.RootMount:
		return "another namespace"
	case p.GetRootDevice() != own.RootDevice || p.GetRootInode() != own.RootInode:
		return "another root directory"
	}
	var st unix.Stat_t
	if unix.Stat(req.GetCwd(), &st) != nil || st.Dev != p.GetCwdDevice() || st.Ino != p.GetCwdInode() {
		return "the working directory is not what its name says"
	}
	return ""
}

// samePeer checks the credentials of a Unix socket's peer (unix(7)). Over TCP
// there are none, and the token alone decides.
func (s *Server) samePeer(conn net.Conn) bool {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return true
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return false
	}
	same := false
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		same = err == nil && int(cred.Uid) == os.Geteuid()
	})
	return err == nil && same
}
