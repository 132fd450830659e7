package lookup

import "golang.org/x/sys/unix"

// auditArch is AUDIT_ARCH_X86_64 of linux/audit.h. i386's numbers mean other
// calls, so a process that uses them is killed.
const auditArch = 0xc000003e

// lastKnown is the highest call that this file has judged. Later ones (the
// attribute calls that take a directory from 463 on, for instance) are answered
// as an old kernel would.
const lastKnown = 462

// Calls with a path below are recorded. Fields are indices of arguments; -1 is
// none.
type pathCall struct {
	dir, path int
	// flags tell whether the last link is followed, see follows.
	flags int
	style style
}

type style int

const (
	follow    style = iota // always follows
	noFollow               // never
	atFlags                // unless AT_SYMLINK_NOFOLLOW
	linkFlags              // only with AT_SYMLINK_FOLLOW
	openFlags              // unless O_NOFOLLOW, or O_CREAT with O_EXCL
)

// pathCalls are all calls of x86-64 that look a path up and that a job may make.
var pathCalls = map[uint32][]pathCall{
	unix.SYS_OPEN:              {{-1, 0, 1, openFlags}},
	unix.SYS_OPENAT:            {{0, 1, 2, openFlags}},
	unix.SYS_CREAT:             {{-1, 0, -1, follow}},
	unix.SYS_STAT:              {{-1, 0, -1, follow}},
	unix.SYS_LSTAT:             {{-1, 0, -1, noFollow}},
	unix.SYS_NEWFSTATAT:        {{0, 1, 3, atFlags}},
	unix.SYS_STATX:             {{0, 1, 2, atFlags}},
	unix.SYS_STATFS:            {{-1, 0, -1, follow}},
	unix.SYS_ACCESS:            {{-1, 0, -1, follow}},
	unix.SYS_FACCESSAT:         {{0, 1, -1, follow}},
	unix.SYS_FACCESSAT2:        {{0, 1, 3, atFlags}},
	unix.SYS_READLINK:          {{-1, 0, -1, noFollow}},
	unix.SYS_READLINKAT:        {{0, 1, -1, noFollow}},
	unix.SYS_EXECVE:            {{-1, 0, -1, follow}},
	unix.SYS_EXECVEAT:          {{0, 1, 4, atFlags}},
	unix.SYS_CHDIR:             {{-1, 0, -1, follow}},
	unix.SYS_TRUNCATE:          {{-1, 0, -1, follow}},
	unix.SYS_MKDIR:             {{-1, 0, -1, noFollow}},
	unix.SYS_MKDIRAT:           {{0, 1, -1, noFollow}},
	unix.SYS_MKNOD:             {{-1, 0, -1, noFollow}},
	unix.SYS_MKNODAT:           {{0, 1, -1, noFollow}},
	unix.SYS_RMDIR:             {{-1, 0, -1, noFollow}},
	unix.SYS_UNLINK:            {{-1, 0, -1, noFollow}},
	unix.SYS_UNLINKAT:          {{0, 1, -1, noFollow}},
	unix.SYS_RENAME:            {{-1, 0, -1, noFollow}, {-1, 1, -1, noFollow}},
	unix.SYS_RENAMEAT:          {{0, 1, -1, noFollow}, {2, 3, -1, noFollow}},
	unix.SYS_RENAMEAT2:         {{0, 1, -1, noFollow}, {2, 3, -1, noFollow}},
	unix.SYS_LINK:              {{-1, 0, -1, noFollow}, {-1, 1, -1, noFollow}},
	unix.SYS_LINKAT:            {{0, 1, 4, linkFlags}, {2, 3, -1, noFollow}},
	unix.SYS_SYMLINK:           {{-1, 1, -1, noFollow}},
	unix.SYS_SYMLINKAT:         {{1, 2, -1, noFollow}},
	unix.SYS_CHMOD:             {{-1, 0, -1, follow}},
	unix.SYS_FCHMODAT:          {{0, 1, -1, follow}},
	unix.SYS_FCHMODAT2:         {{0, 1, 3, atFlags}},
	unix.SYS_CHOWN:             {{-1, 0, -1, follow}},
	unix.SYS_LCHOWN:            {{-1, 0, -1, noFollow}},
	unix.SYS_FCHOWNAT:          {{0, 1, 4, atFlags}},
	unix.SYS_UTIME:             {{-1, 0, -1, follow}},
	unix.SYS_UTIMES:            {{-1, 0, -1, follow}},
	unix.SYS_FUTIMESAT:         {{0, 1, -1, follow}},
	unix.SYS_UTIMENSAT:         {{0, 1, 3, atFlags}},
	unix.SYS_GETXATTR:          {{-1, 0, -1, follow}},
	unix.SYS_LGETXATTR:         {{-1, 0, -1, noFollow}},
	unix.SYS_LISTXATTR:         {{-1, 0, -1, follow}},
	unix.SYS_LLISTXATTR:        {{-1, 0, -1, noFollow}},
	unix.SYS_SETXATTR:          {{-1, 0, -1, follow}},
	unix.SYS_LSETXATTR:         {{-1, 0, -1, noFollow}},
	unix.SYS_REMOVEXATTR:       {{-1, 0, -1, follow}},
	unix.SYS_LREMOVEXATTR:      {{-1, 0, -1, noFollow}},
	unix.SYS_INOTIFY_ADD_WATCH: {{-1, 1, -1, follow}},
}

// missing are calls that are answered as by a kernel without them: what they
// would do hides from a filter (clone3's flags and openat2's are in memory;
// io_uring makes calls that no filter sees), and programs know how to do
// without.
var missing = []uint32{
	unix.SYS_CLONE3, unix.SYS_OPENAT2,
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
}

// denied are calls that no compile needs and that reach beyond a job, or that
// have been ways out of sandboxes. Most want privileges that a job lacks
// anyway.
var denied = []uint32{
	// Mounts and roots.
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE,
	unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR,
	unix.SYS_STATMOUNT, unix.SYS_LISTMOUNT, unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD, unix.SYS_SWAPON, unix.SYS_SWAPOFF,
	// Files by another name than a path: not seen as a lookup.
	unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_USELIB, unix.SYS_ACCT,
	unix.SYS_FANOTIFY_INIT, unix.SYS_FANOTIFY_MARK,
	// Namespaces.
	unix.SYS_UNSHARE, unix.SYS_SETNS,
	// Other processes.
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PROCESS_MADVISE, unix.SYS_KCMP, unix.SYS_PIDFD_GETFD,
	// Another filter could be asked before this one.
	unix.SYS_SECCOMP,
	// The kernel's inside.
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY,
	unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD,
	unix.SYS_REBOOT, unix.SYS_SYSLOG, unix.SYS_LOOKUP_DCOOKIE, unix.SYS_IOPL, unix.SYS_IOPERM, unix.SYS_VHANGUP,
	unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_CLOCK_ADJTIME, unix.SYS_ADJTIMEX,
	unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME, unix.SYS_MODIFY_LDT, unix.SYS_VMSPLICE,
	unix.SYS_MIGRATE_PAGES, unix.SYS_MOVE_PAGES, unix.SYS_MBIND, unix.SYS_SET_MEMPOLICY,
}
