//go:build e2e && linux

package s3_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/shared"
	"hpcc.dev/hpcc/internal/store"
	"hpcc.dev/hpcc/internal/store/s3store"
	"hpcc.dev/hpcc/test/s3"
)

// machine is a machine's cache over a bucket, under time-outs that a loaded machine
// keeps.
func machine(t *testing.T, s *s3.Server, bucket string, by *shared.Signer) *shared.Cache {
	t.Helper()
	st := store.Guard(open(t, s3store.Options{Bucket: bucket, Endpoint: s.Endpoint}), store.GuardOptions{Read: time.Minute, Write: time.Minute})
	c, err := shared.New(shared.Options{
		Tiers: []shared.Tier{{Name: "bucket", Store: st, Write: true}}, Signer: by, Trust: (*shared.Trust)(nil).With(by), MemoryBytes: 1 << 20,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return c
}

// unit is the result of a unit, with an object of n bytes.
func unit(name string, n int) (*action.Entry, map[digest.Digest][]byte) {
	object := make([]byte, n)
	_, _ = rand.NewChaCha8(digest.NewKey(name).Sum()).Read(object)
	d := digest.Of(object)
	return &action.Entry{
		Action: action.Action{Command: []string{"-c", name}, Inputs: []action.Input{{Path: name, Digest: digest.Of([]byte(name))}}},
		Result: action.Result{Outputs: []action.Output{{Role: "object", Digest: d}}},
	}, map[digest.Digest][]byte{d: object}
}

// known are the candidates that the tiers have under a key.
func known(ctx context.Context, c *shared.Cache, key digest.Key) (all []action.Candidate) {
	for m := range c.Manifests(ctx, key) {
		all = append(all, m.Candidates...)
	}
	return all
}

// TestSharedCache has 20 machines write at a time: to one manifest, so that each
// conflicts with all others, one result of each its own and one of all of them.
// Another machine finds them all. Then the bucket lies.
func TestSharedCache(t *testing.T) {
	each(t, func(t *testing.T, s *s3.Server) {
		s.Setenv(t)
		bucket := s.NewBucket(t)
		signer, err := shared.NewSigner(make([]byte, ed25519.SeedSize), "machine")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		const machines = 20
		manifest := digest.NewKey("manifest").Sum()
		object := func(i int) int { return 1000 + i%2*(5<<20) } // some are too large for a pack
		common, commonBlobs := unit("common.c", 1000)
		var all sync.WaitGroup
		for i := range machines {
			c := machine(t, s, bucket, signer)
			all.Go(func() {
				known(ctx, c, manifest)
				e, blobs := unit(fmt.Sprint(i, ".c"), object(i))
				c.Put(manifest, "", e, blobs)
				c.Put(manifest, "", common, commonBlobs)
				if err := c.Drain(ctx); err != nil {
					t.Error(err)
				}
				if st := c.Stats().Tiers[0]; st.Dropped != 0 || st.Different != 0 || len(st.Rejected) != 0 || st.Written+st.Present != 2 {
					t.Errorf("counted %+v", st)
				}
			})
		}
		all.Wait()
		reader := machine(t, s, bucket, signer)
		candidates := known(ctx, reader, manifest)
		if len(candidates) != machines+1 {
			t.Fatalf("a manifest of %+v", candidates)
		}
		for _, candidate := range candidates {
			f := reader.Result(ctx, candidate.Action)
			if f == nil || f.Entry.Action.Key() != candidate.Action || len(f.Blobs) != 1 {
				t.Fatalf("%s: %+v", candidate.Action, f)
			}
		}
		if st := reader.Stats().Tiers[0]; st.Hits != machines+1 || st.Misses != 0 || st.Errors != 0 {
			t.Errorf("counted %+v", st)
		}

		raw := open(t, s3store.Options{Bucket: bucket, Endpoint: s.Endpoint})
		var packs []string
		err = raw.List(ctx, shared.DefaultTenant+"/", func(i store.Info) error {
			if _, kind, _, ok := shared.ParseName(i.Name); ok && kind == shared.KindResult {
				packs = append(packs, i.Name)
			}
			_, err := shared.VerifyObject(ctx, raw, i.Name, (*shared.Trust)(nil).With(signer))
			return err
		})
		if err != nil || len(packs) != machines+1 {
			t.Fatalf("%d packs, %v", len(packs), err)
		}
		tampered, err := raw.Get(ctx, packs[0], store.MaxObject)
		if err != nil {
			t.Fatal(err)
		}
		tampered.Body[len(tampered.Body)-1] ^= 1
		for _, name := range packs {
			if _, err := raw.Put(ctx, name, tampered.Body, store.Condition{}); err != nil {
				t.Fatal(err)
			}
		}
		liar := machine(t, s, bucket, signer)
		for _, candidate := range candidates {
			if liar.Result(ctx, candidate.Action) != nil {
				t.Error("a result of a bucket that lies")
			}
		}
		liar.Put(manifest, "", common, commonBlobs)
		if err := liar.Drain(ctx); err != nil {
			t.Fatal(err)
		}
		f := liar.Result(ctx, common.Action.Key())
		if f == nil {
			t.Fatal("a right result did not take a wrong one's place")
		}
		for d, b := range commonBlobs {
			if !bytes.Equal(f.Blobs[d], b) {
				t.Error("another object")
			}
		}
		st := liar.Stats().Tiers[0]
		if st.Rejected[shared.ReasonTampered] != machines+2 || st.Replaced != 1 || !strings.HasPrefix(st.Where, "s3://") {
			t.Errorf("counted %+v", st)
		}
	})
}
