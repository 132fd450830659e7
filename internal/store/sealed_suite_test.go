package store_test

import (
	"bytes"
	"testing"

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
