package wrapper

// selfExe names the running program's own file, even if another has since
// taken its name.
func selfExe() string { return "/proc/self/exe" }

// namespaces returns the inodes of the mount and the user namespace, 0 where
// there is no /proc.
func namespaces() (mount, user uint64) {
	mountID, _, _ := identify("/proc/self/ns/mnt")
	userID, _, _ := identify("/proc/self/ns/user")
	return mountID.inode, userID.inode
}
