package ipc

import "golang.org/x/sys/unix"

// stat fills in of path what Place has of a directory: device, inode, and the
// mount that it is in.
func stat(path string) (device, inode, mount uint64) {
	var st unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, unix.STATX_INO|unix.STATX_MNT_ID, &st) != nil {
		return 0, 0, 0
	}
	if st.Mask&unix.STATX_MNT_ID == 0 { // before Linux 5.8
		var ns unix.Stat_t
		if unix.Stat("/proc/self/ns/mnt", &ns) == nil {
			st.Mnt_id = ns.Ino
		}
	}
	return unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino, st.Mnt_id
}
