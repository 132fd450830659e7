package daemon

import (
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// directory remembers that a set of names was absent from one directory. As
// long as the directory's stamp stands, none of them can have appeared, so a
// hit costs one stat for each directory instead of one for each name.
type directory struct {
	path  string
	names []string // absolute paths, sorted
	last  stamp
	// trusted is false where the stamp proves nothing: it was taken within a
	// tick of a change, or a name is a dangling symlink, whose target may
	// appear without this directory changing.
	trusted bool
	// chain is set for a directory of the search path, and moved when the path
	// has come to name another directory than at the last look.
	chain, moved bool
}

// parent is the directory that holds a path. It is not cleaned: the kernel
// takes the ".." of "link/../x" from where the link leads.
func parent(p string) string {
	if i := strings.LastIndexByte(p, '/'); i > 0 {
		return p[:i]
	}
	return "/"
}

// groupAbsent sorts absolute paths under the directories that would hold them,
// and adds those of the search path.
func groupAbsent(paths, chain []string) []directory {
	byDir := map[string][]string{}
	for _, p := range paths {
		d := parent(p)
		byDir[d] = append(byDir[d], p)
	}
	inChain := make(map[string]bool, len(chain))
	for _, d := range chain {
		inChain[d] = true
		if _, ok := byDir[d]; !ok {
			byDir[d] = nil
		}
	}
	dirs := make([]directory, 0, len(byDir))
	for d, names := range byDir {
		sort.Strings(names)
		dirs = append(dirs, directory{path: d, names: names, chain: inChain[d]})
	}
	sort.Slice(dirs, func(i, j int) bool { return dirs[i].path < dirs[j].path })
	return dirs
}

// allAbsent reports whether none of the names exists now; appeared is the
// first that does. A changed directory is not a miss: builds write objects
// beside their sources all the time, so its names are probed again.
func (d *directory) allAbsent(files *fileTable) (ok bool, appeared string) {
	now := files.now()
	var st unix.Stat_t
	s := stamp{} // of a directory that does not exist
	if err := unix.Stat(d.path, &st); err == nil {
		s = files.stamp(&st)
	} else if err != unix.ENOENT && err != unix.ENOTDIR {
		return false, d.path
	}
	if d.trusted && s == d.last {
		return true, ""
	}
	d.trusted = false
	dangling := false
	if s != (stamp{}) {
		for _, name := range d.names {
			err := unix.Lstat(name, &st)
			// (A header's name with .gch behind it may be too long to exist.)
			if err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ENAMETOOLONG {
				continue
			}
			if err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
				if err := unix.Stat(name, &st); err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP {
					dangling = true
					continue
				}
			}
			return false, name
		}
	}
	d.moved = d.moved || d.chain && (s.dev != d.last.dev || s.ino != d.last.ino)
	d.last = s
	// A directory that does not exist has no time of its own, and so proves
	// nothing for the next look; asking again costs one failing stat.
	d.trusted = s != (stamp{}) && !dangling && s.proves(now) && !files.looseTimes(d.path, s.dev)
	return true, ""
}
