package store_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"hpcc.dev/hpcc/internal/store"
	"hpcc.dev/hpcc/internal/store/storetest"
)

// TestSealedSuite: what is encrypted is a store like the others, but for two things.
func TestSealedSuite(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		s, err := store.Sealed(store.NewMemory(0), bytes.Repeat([]byte{1}, store.SealKeySize))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}, storetest.Features{Names: 200, Padded: true, Listed: 500})
}

// slowPages takes a second for each object that it lists.
type slowPages struct{ store.Store }

func (s slowPages) List(ctx context.Context, prefix string, visit func(store.Info) error) error {
	return s.Store.List(ctx, prefix, func(i store.Info) error {
		time.Sleep(time.Second)
		if err := ctx.Err(); err != nil {
			return err
		}
		return visit(i)
	})
}

// TestSealedListIsAlive: a guard sees that a listing goes on, although all of it is
// shown in the end only.
func TestSealedListIsAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := store.Sealed(slowPages{store.NewMemory(0)}, bytes.Repeat([]byte{1}, store.SealKeySize))
		if err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			if _, err := s.Put(t.Context(), fmt.Sprintf("t/x/%d", i), nil, store.Condition{}); err != nil {
				t.Fatal(err)
			}
		}
		g := store.Guard(s, store.GuardOptions{Read: time.Second, Write: time.Second, List: 10 * time.Second})
		defer g.Close()
		n := 0
		if err := g.List(t.Context(), "t/", func(store.Info) error { n++; return nil }); err != nil || n != 100 {
			t.Errorf("%d listed, %v", n, err)
		}
	})
}
