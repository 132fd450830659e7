package compiler

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sync"
	"syscall"
)

// A dirEntry is a name in a directory and what stands there, as the listing says.
type dirEntry struct {
	name string
	kind PathKind
}

// Offsets within struct linux_dirent64: see getdents(2).
const (
	direntLength = 16
	direntType   = 18
	direntName   = 19
)

// listRoom is what a listing needs on the way.
type listRoom struct {
	buffer [32 << 10]byte
	names  []byte
	ends   []int // of names
	kinds  []PathKind
}

var listRooms = sync.Pool{New: func() any { return new(listRoom) }}

// readDir lists a directory, without . and .., and stops after most entries. The
// names share one string. os.ReadDir takes more than twice as long, which counts
// where a compile's search path has directories of a thousand headers.
func readDir(dir string, most int) (list []dirEntry, complete bool, err error) {
	fd, err := open(dir, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC)
	if err != nil {
		return nil, false, err
	}
	defer func() { _ = syscall.Close(fd) }()
	room := listRooms.Get().(*listRoom)
	defer listRooms.Put(room)
	room.names, room.ends, room.kinds = room.names[:0], room.ends[:0], room.kinds[:0]
	for len(room.ends) < most {
		n, err := syscall.ReadDirent(fd, room.buffer[:])
		if err == syscall.EINTR {
			continue
		}
		if err != nil || n == 0 {
			complete = err == nil
			break
		}
		room.take(room.buffer[:n])
	}
	text := string(room.names)
	list = slices.Grow(list, len(room.ends))
	begin := 0
	for i, end := range room.ends {
		list = append(list, dirEntry{text[begin:end], room.kinds[i]})
		begin = end
	}
	return list, complete, nil
}

// take notes the entries of one answer of the kernel.
func (r *listRoom) take(entries []byte) {
	for len(entries) > direntName {
		length := int(binary.NativeEndian.Uint16(entries[direntLength:]))
		if length <= direntName || length > len(entries) {
			return
		}
		entry := entries[:length]
		entries = entries[length:]
		name := entry[direntName:]
		if end := bytes.IndexByte(name, 0); end >= 0 {
			name = name[:end]
		}
		if gone := binary.NativeEndian.Uint64(entry) == 0; gone || string(name) == "." || string(name) == ".." {
			continue
		}
		kind := Unlisted
		switch entry[direntType] {
		case syscall.DT_REG:
			kind = Regular
		case syscall.DT_DIR:
			kind = Directory
		}
		r.names = append(r.names, name...)
		r.ends = append(r.ends, len(r.names))
		r.kinds = append(r.kinds, kind)
	}
}

func open(path string, flags int) (fd int, err error) {
	for {
		fd, err = syscall.Open(path, flags, 0)
		if err != syscall.EINTR {
			return fd, err
		}
	}
}
