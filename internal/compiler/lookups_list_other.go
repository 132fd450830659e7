//go:build !linux

package compiler

import (
	"errors"
	"io"
	"os"
)

// A dirEntry is a name in a directory and what stands there, as the listing says.
type dirEntry struct {
	name string
	kind PathKind
}

// readDir lists a directory and stops after most entries.
func readDir(dir string, most int) (list []dirEntry, complete bool, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	entries, err := f.ReadDir(most)
	for _, e := range entries {
		kind := Unlisted
		switch t := e.Type(); {
		case t.IsRegular():
			kind = Regular
		case t.IsDir():
			kind = Directory
		}
		list = append(list, dirEntry{e.Name(), kind})
	}
	return list, err == nil || errors.Is(err, io.EOF), nil
}
