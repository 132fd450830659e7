package shared

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"hpcc.dev/hpcc/internal/store"
)

// TestCacheEvicts: what a cache writes counts, and makes it evict what is old.
func TestCacheEvicts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := store.NewMemory(0)
		alice := testSigner(t, "alice")
		const maxBytes = 4 << 20
		opt := Options{
			Tiers:  []Tier{{Name: "far", Store: s, Write: true, MaxBytes: maxBytes}},
			Signer: alice,
		}
		c, err := New(opt)
		if err != nil {
			t.Fatal(err)
		}
		noise := make([]byte, 20_000)
		for i := range 600 {
			for j := range noise {
				noise[j] = byte((i*7919 + j*j*31 + j>>3) * 2654435761 >> 13)
			}
			e, blobs := testEntry(fmt.Sprintf("%d.c", i), append([]byte(nil), noise...))
			c.Put(testManifest, "", e, blobs)
			time.Sleep(2 * time.Minute)
		}
		drain(t, c)
		synctest.Wait()
		st := c.Stats().Tiers[0]
		if st.Eviction == nil || st.Eviction.Sweeps == 0 || st.Eviction.Removed == 0 || st.Eviction.Error != "" {
			t.Errorf("%+v", st.Eviction)
		}
		if b := s.Bytes(); b > maxBytes*115/100 || b < maxBytes/2 {
			t.Errorf("%d bytes are left of %d that were written", b, st.BytesOut)
		}
		// The last is there.
		e, _ := testEntry("599.c", noise)
		if _, err := s.Stat(t.Context(), ResultName(DefaultTenant, e.Action.Key())); err != nil {
			t.Error(err)
		}
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
		// Who only reads does not evict, and says so.
		opt.Tiers[0].Write = false
		reader, err := New(opt)
		if err != nil {
			t.Fatal(err)
		}
		if e := reader.Stats().Tiers[0].Eviction; e != nil {
			t.Errorf("%+v", e)
		}
		if err := reader.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
