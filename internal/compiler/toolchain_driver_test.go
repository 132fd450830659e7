package compiler

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"
)

func TestChildIsBounded(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	// The grandchild holds the pipes when the shell is gone.
	_, _, err := runChild(ctx, "/bin/sh", []string{"sh", "-c", "sleep 120; :"}, nil, "")
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 100*time.Second {
		t.Errorf("hanging child: %v after %v", err, time.Since(start))
	}
	if _, _, err := runChild(context.Background(), "/bin/sh", []string{"sh", "-c", "head -c 3000000 /dev/zero"}, nil, ""); err == nil {
		t.Error("an answer of 3 MB was taken")
	}
	out, _, err := runChild(context.Background(), "/bin/sh", []string{"sh", "-c", `echo "$LC_ALL $X $Y"; pwd`}, []string{"X=1"}, "")
	if err != nil || string(out) != "C 1 \n/\n" {
		t.Errorf("environment and directory: %q, %v", out, err)
	}
}

func TestReadBanner(t *testing.T) {
	for _, c := range []struct {
		text            string
		family          Family
		version, target string
	}{
		{"Target: x86_64-linux-gnu\ngcc version 12.2.0 (Debian 12.2.0-14) \n", GCC, "12.2.0", "x86_64-linux-gnu"},
		{"Debian clang version 14.0.6\nTarget: x86_64-pc-linux-gnu\n", Clang, "14.0.6", "x86_64-pc-linux-gnu"},
		{"clang version 17.0.0 (https://example.com/llvm 1a2b)\nTarget: t\n", Clang, "17.0.0", "t"},
		{"Apple clang version 15.0.0 (clang-1500)\n", Clang, "15.0.0", ""},
		{"icc version 19.1 (gcc version 9.0 compatibility)\n", 0, "", ""},
		{"it is not a clang version of anything\n", 0, "", ""},
		{"", 0, "", ""},
	} {
		b := readBanner([]byte(c.text))
		if b.family != c.family || b.version != c.version || b.target != c.target {
			t.Errorf("%q: %v %q %q", c.text, b.family, b.version, b.target)
		}
	}
}

func FuzzToolchainRecord(f *testing.F) {
	good, err := json.Marshal(toolchainRecord{Version: recordVersion, Family: GCC,
		Identity: "0000000000000000000000000000000000000000000000000000000000000000",
		Watches:  watchList{{Path: "/missing/as"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"v":1,"family":2,"watches":[{"p":"relative"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := NewDetector(&mapStore{recs: map[string][]byte{"x": b}})
		tc, watches, ok := d.loadToolchain("x")
		if ok && (tc.Family != GCC && tc.Family != Clang || len(watches) == 0) {
			t.Errorf("%q was taken", b)
		}
	})
}

func FuzzShownChain(f *testing.F) {
	f.Add([]byte(" \"/usr/bin/clang\" -cc1 -internal-isystem /a\nignoring nonexistent directory \"/b\"\n#include <...> search starts here:\n /a\nEnd of search list.\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s := readShownChain(b)
		for _, family := range []Family{GCC, Clang} {
			if n := len(s.order(family)); n > max(len(s.command), (len(s.dirs)+1)*(len(s.missing)+1)) {
				t.Errorf("%d directories from %q", n, b)
			}
		}
	})
}
