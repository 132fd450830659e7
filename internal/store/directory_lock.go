package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"time"

	"hpcc.dev/hpcc/internal/filelock"
)

// lock keeps others from writing name. The lock of a file is asked for again and
// again, because one that waits in the kernel cannot be given up.
func (d *Directory) lock(ctx context.Context, root *os.Root, name string) (unlock func(), err error) {
	number := stripeOf(name)
	stripe := d.stripes[number]
	select {
	case stripe <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() {
		if err != nil {
			<-stripe
		}
	}()
	file := fmt.Sprintf("%s/%02d", lockDir, number)
	f, err := root.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o666)
	if errors.Is(err, fs.ErrNotExist) {
		if err := root.MkdirAll(lockDir, 0o777); err != nil {
			return nil, err
		}
		f, err = root.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o666)
	}
	if err != nil {
		return nil, err
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		ok, err := filelock.Try(f)
		if err != nil {
			f.Close()
			return nil, err
		}
		if ok {
			return func() { f.Close(); <-stripe }, nil
		}
		select {
		case <-time.After(rand.N(wait) + wait/2):
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		}
	}
}

// stripeOf is which lock is a name's, the same in all processes.
func stripeOf(name string) uint32 {
	h := uint32(2166136261) // FNV-1a
	for i := range len(name) {
		h = (h ^ uint32(name[i])) * 16777619
	}
	return h % stripes
}
