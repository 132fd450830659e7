package store

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
)

// entry is what a directory holds: an object, or a directory of more.
type entry struct {
	name string // from the root on; a directory's ends with a slash
	info Info
}

// List visits in the caller's goroutine, so that nothing is visited after it has
// returned.
func (d *Directory) List(ctx context.Context, prefix string, visit func(Info) error) error {
	if err := checkPrefix(prefix); err != nil {
		return err
	}
	// Directories that are not read yet, the next one last.
	dir, _ := path.Split(prefix)
	todo := []entry{{name: dir}}
	if dir == "" {
		todo[0].name = "./"
	}
	for len(todo) > 0 {
		e := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if !strings.HasSuffix(e.name, "/") {
			if err := visit(e.info); err != nil {
				return err
			}
			continue
		}
		below, err := do(ctx, d, func(root *os.Root) ([]entry, error) { return readDir(root, strings.TrimPrefix(e.name, "./"), prefix) })
		if errors.Is(err, ErrNotFound) {
			continue // there is none, or it has just become empty
		}
		if err != nil {
			return err
		}
		todo = append(todo, below...)
	}
	return ctx.Err()
}

// readDir returns what of a directory can have prefix, the last first. A
// directory's slash takes part in the order, as it does in a bucket's.
func readDir(root *os.Root, dir, prefix string) (list []entry, err error) {
	f, err := openDir(root, path.Join(".", dir))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		name = dir + name
		if CheckName(name) != nil || !strings.HasPrefix(name, prefix) && !strings.HasPrefix(prefix, name+"/") {
			continue
		}
		fi, err := root.Lstat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, err
		case fi.IsDir():
			list = append(list, entry{name: name + "/"})
		case fi.Mode().IsRegular():
			list = append(list, entry{name, infoOf(name, fi)})
		}
	}
	slices.SortFunc(list, func(a, b entry) int { return strings.Compare(b.name, a.name) })
	return list, nil
}
