package compiler

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestPathMapText(t *testing.T) {
	m := &PathMap{Roots: []Root{{Dir: "/w/p"}, {Dir: "/w/p/build"}, {Dir: "/w/p2"}}}
	for _, c := range []struct{ local, neutral string }{
		{"/w/p/a.c:1: error", "\x000/a.c:1: error"},
		{"/w/p", "\x000"},
		{"/w/p2/a.c and /w/p/a.c", "\x002/a.c and \x000/a.c"},
		{"/w/p3/a.c /w/p.old /w/p-x /tmp/w/p //w/p x/w/p", "/w/p3/a.c /w/p.old /w/p-x /tmp/w/p //w/p x/w/p"},
		{"/w/p/build/gen.h", "\x001/gen.h"},
		{"/w/p/builder/gen.h", "\x000/builder/gen.h"},
		{"In file included from ‘/w/p/a.h’,", "In file included from ‘\x000/a.h’,"},
		{"open “/w/p”", "open “\x000”"},
		{"é/w/p /w/pé", "é/w/p /w/pé"},
		{"-I=/w/p:/w/p/b\n", "-I=\x000:\x000/b\n"},
		{"nul \x000/x and /w/p", "nul \x00\x000/x and \x000"},
		{"", ""},
	} {
		if got := m.NeutralText([]byte(c.local)); string(got) != c.neutral {
			t.Errorf("NeutralText(%q) = %q, want %q", c.local, got, c.neutral)
		}
		if got := m.LocalText([]byte(c.neutral)); string(got) != c.local {
			t.Errorf("LocalText(%q) = %q, want %q", c.neutral, got, c.local)
		}
	}
	there := &PathMap{Roots: []Root{{Dir: "/home/q"}}}
	if got := there.LocalText(m.NeutralText([]byte("at /w/p/a.c"))); string(got) != "at /home/q/a.c" {
		t.Errorf("moved: %q", got)
	}
}

func TestPathMapPath(t *testing.T) {
	m := &PathMap{Roots: []Root{{Dir: "/w/p"}, {Dir: "/w/p/build"}}}
	for local, neutral := range map[string]string{
		"/w/p/a.c": "\x000/a.c", "/w/p": "\x000", "/w/p2/a.c": "/w/p2/a.c", "/w/p/build/x": "\x001/x", "a.c": "a.c", "": "", "/w": "/w",
		"/w/p/../x": "\x000/../x",
	} {
		if got := m.Neutral(local); got != neutral {
			t.Errorf("Neutral(%q) = %q, want %q", local, got, neutral)
		}
		if got := m.Local(neutral); got != local {
			t.Errorf("Local(%q) = %q, want %q", neutral, got, local)
		}
	}
	var none *PathMap
	if none.Neutral("/w/p") != "/w/p" || none.Local("\x000/x") != "\x000/x" || m.Local("\x009/x") != "\x009/x" {
		t.Error("a root that is not there was mapped")
	}
}

func FuzzPathMapText(f *testing.F) {
	f.Add([]byte("/w/p/a.c: /w/p2 \x00 \x000 ‘/w/p’"), "/w/p", "/w/p2")
	f.Add([]byte("In file included from /home/u/src/a.c:3:\n/home/u/src/build/b.h:1:2: error: x\n"), "/home/u/src", "/home/u/src/build")
	f.Fuzz(func(t *testing.T, text []byte, one, two string) {
		for _, m := range []*PathMap{
			nil,
			{Roots: []Root{{Dir: "/w/p"}, {Dir: "/w/p/b"}, {Dir: "/w"}}},
			{Roots: []Root{{Dir: one}, {Dir: two}}},
		} {
			if m != nil && slices.ContainsFunc(m.Roots, func(r Root) bool {
				return !filepath.IsAbs(r.Dir) || filepath.Clean(r.Dir) != r.Dir || r.Dir == "/" || strings.Contains(r.Dir, "\x00")
			}) {
				continue // no roots: see Root
			}
			if got := m.LocalText(m.NeutralText(text)); !bytes.Equal(got, text) {
				t.Fatalf("%q came back as %q", text, got)
			}
			if path := string(text); !strings.Contains(path, "\x00") && m.Local(m.Neutral(path)) != path {
				t.Fatalf("%q came back as %q", path, m.Local(m.Neutral(path)))
			}
		}
	})
}
