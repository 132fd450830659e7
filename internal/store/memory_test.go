package store_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"hpcc.dev/hpcc/internal/store"
)

func names(t *testing.T, s store.Store) string {
	t.Helper()
	var list []string
	if err := s.List(t.Context(), "", func(i store.Info) error {
		list = append(list, i.Name)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return strings.Join(list, " ")
}

func TestMemoryForgets(t *testing.T) {
	m := store.NewMemory(4000)
	put := func(name string, n int) error {
		_, err := m.Put(t.Context(), name, make([]byte, n), store.Condition{})
		return err
	}
	for i := range 4 {
		if err := put(fmt.Sprint(i), 700); err != nil {
			t.Fatal(err)
		}
	}
	// What is read or touched stays, what is only looked at does not.
	if _, err := m.Get(t.Context(), "0", 1000); err != nil {
		t.Error(err)
	}
	if err := m.Touch(t.Context(), "2"); err != nil {
		t.Error(err)
	}
	if _, err := m.Stat(t.Context(), "1"); err != nil {
		t.Error(err)
	}
	put("4", 700)
	if got := names(t, m); got != "0 2 3 4" {
		t.Error(got)
	}
	put("5", 1500)
	if got := names(t, m); got != "2 4 5" && got != "0 2 5" && got != "0 4 5" {
		t.Error(got)
	}
	// One that is replaced counts once.
	for range 20 {
		put("5", 1500)
	}
	if got := m.Bytes(); got > 4000 || got < 2500 {
		t.Errorf("%d bytes", got)
	}
	if err := put("6", 4000); !errors.Is(err, store.ErrTooLarge) {
		t.Error(err)
	}
	if got := names(t, m); !strings.HasSuffix(got, "5") {
		t.Errorf("%s, after one that is too large", got)
	}
	put("7", 3500)
	if got := names(t, m); got != "7" {
		t.Error(got)
	}
	m.Delete(t.Context(), "7")
	if m.Bytes() != 0 {
		t.Errorf("%d bytes of nothing", m.Bytes())
	}
}

func FuzzCheckName(f *testing.F) {
	for _, s := range []string{"a", "a/b", "../a", "a/./b", "a\\b", "A", "", "a//b", "con", "a."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if store.CheckName(name) != nil {
			return
		}
		if len(name) > store.MaxName || strings.ToLower(name) != name || strings.Contains(name, "..") && strings.Contains("/"+name, "/.") || !filepath.IsLocal(name) || filepath.Clean(name) != name {
			t.Errorf("%q is a name", name)
		}
	})
}
