package daemon

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"hpcc.dev/hpcc/internal/cache"
)

// Whatever stands in the file of counters, it can be read and counted on.
func FuzzCounters(f *testing.F) {
	good, err := json.Marshal(&Stats{Misses: 3, Uncacheable: map[string]int64{"linking": 1}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("{"))
	f.Add([]byte(`{"uncacheable":null,"misses":"x"}`))
	f.Add([]byte("null"))
	path := filepath.Join(f.TempDir(), "stats.json")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		before, err := readCounters(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := updateCounters(path, func(s *Stats) { s.add(&Stats{Misses: 1, Uncacheable: map[string]int64{"linking": 1}}) }); err != nil {
			t.Fatal(err)
		}
		after, err := readCounters(path)
		if err != nil {
			t.Fatal(err)
		}
		if after.Misses != before.Misses+1 || after.Uncacheable["linking"] != before.Uncacheable["linking"]+1 {
			t.Fatalf("%q: %+v became %+v", text, before, after)
		}
	})
}

// A record of a source's compiles is read back as it was written, or not at
// all.
func FuzzHistory(f *testing.F) {
	disk, err := cache.Open(cache.Options{Dir: f.TempDir()})
	if err != nil {
		f.Fatal(err)
	}
	good, err := json.Marshal(&sourceRecord{Source: "/a.c", Attempts: []Attempt{{Outcome: "miss", Command: []string{"gcc", "-c"}, Action: "00"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"source":"/b.c"}`))
	f.Add([]byte("[]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := disk.PutMemo(memoName("/a.c"), text); err != nil {
			t.Fatal(err)
		}
		rec, err := readHistory(disk, "/a.c")
		if rec.Source != "/a.c" || err != nil && len(rec.Attempts) > 0 {
			t.Fatalf("%q: %+v, %v", text, rec, err)
		}
		_, _ = Explain(t.Context(), disk, "/a.c") // must not panic
		b, err := json.Marshal(rec)
		if err != nil {
			t.Fatal(err)
		}
		if err := disk.PutMemo(memoName("/a.c"), b); err != nil {
			t.Fatal(err)
		}
		again, err := readHistory(disk, "/a.c")
		if err != nil || len(again.Attempts) != len(rec.Attempts) {
			t.Fatalf("%q: %+v became %+v, %v", text, rec, again, err)
		}
		for i := range rec.Attempts {
			if again.Attempts[i].Action != rec.Attempts[i].Action || !reflect.DeepEqual(again.Attempts[i].Command, rec.Attempts[i].Command) {
				t.Fatalf("%+v became %+v", rec.Attempts[i], again.Attempts[i])
			}
		}
	})
}
