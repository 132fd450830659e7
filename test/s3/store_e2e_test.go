//go:build e2e && linux

package s3_test

import (
	"fmt"
	"testing"

	"hpcc.dev/hpcc/internal/store"
	"hpcc.dev/hpcc/internal/store/s3store"
	"hpcc.dev/hpcc/internal/store/storetest"
	"hpcc.dev/hpcc/test/s3"
)

// open opens a bucket of a server, by way of endpoint.
func open(t *testing.T, opt s3store.Options) *s3store.Store {
	t.Helper()
	opt.PathStyle = true
	st, err := s3store.Open(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

func TestStore(t *testing.T) {
	each(t, func(t *testing.T, s *s3.Server) {
		s.Setenv(t)
		bucket := s.NewBucket(t)
		n := 0
		storetest.Run(t, func(t *testing.T) store.Store {
			n++
			return open(t, s3store.Options{Bucket: bucket, Prefix: fmt.Sprint("test-", n), Endpoint: s.Endpoint, PageSize: 7})
		}, storetest.Features{})
	})
}
