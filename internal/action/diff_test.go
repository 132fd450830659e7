package action

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"hpcc.dev/hpcc/internal/digest"
)

// Two actions differ for Diff exactly where they differ for the cache.
func TestDiffIsEmptyForEqualKeysOnly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := anyAction.Draw(t, "old")
		b := anyAction.Draw(t, "new")
		if rapid.Bool().Draw(t, "one field only") {
			c := *a
			switch rapid.IntRange(0, 5).Draw(t, "field") {
			case 0:
				c.Command = b.Command
			case 1:
				c.Env = b.Env
			case 2:
				c.Inputs = b.Inputs
			case 3:
				c.Absent = b.Absent
			case 4:
				c.Present = b.Present
			}
			b = &c
		}
		d := Diff(a, b)
		if (len(d) == 0) != (a.Key() == b.Key()) {
			t.Fatalf("%v, keys equal: %v", d, a.Key() == b.Key())
		}
		for _, c := range d {
			if c.String() == "" {
				t.Fatalf("no text for %+v", c)
			}
		}
	})
}

// base is what the cases of TestDiff change.
func base() *Action {
	return &Action{
		Toolchain: digest.Key{1},
		Command:   []string{"-O2", "-DX=1", "-I", "include", "-Wall", "-c", "src/a.c"},
		Env:       []string{"CPATH=/opt/include", "LANG=C"},
		Inputs: []Input{
			{"src/a.c", digest.Of([]byte("a"))}, {"include/b.h", digest.Of([]byte("b"))}, {"/usr/include/stdio.h", digest.Of([]byte("s"))},
		},
		Absent:  []string{"src/b.h", "src/stdio.h", "include/stdio.h"},
		Present: []string{"include/probe.h"},
	}
}

func TestDiff(t *testing.T) {
	content := func(a *Action, path, content string) {
		for i := range a.Inputs {
			if a.Inputs[i].Path == path {
				a.Inputs[i].Digest = digest.Of([]byte(content))
			}
		}
	}
	command := func(s string) func(*Action) { return func(a *Action) { a.Command = strings.Fields(s) } }
	for _, c := range []struct {
		name   string
		change func(*Action)
		want   []string // of Change.String, in order
	}{
		{"nothing", func(*Action) {}, nil},
		{"order of inputs", func(a *Action) { slices.Reverse(a.Inputs) }, nil},
		{"compiler", func(a *Action) { a.Toolchain[0]++ }, []string{"compiler: the compiler was 0100000000000000 and is now 0200000000000000"}},
		{"directory", func(a *Action) { a.Cwd = "/w" }, []string{"the working directory is new: /w"}},

		{"changed flag", command("-O3 -DX=1 -I include -Wall -c src/a.c"), []string{"flag -O2 is now -O3"}},
		{"changed definition", command("-O2 -DX=2 -I include -Wall -c src/a.c"), []string{"flag -DX=1 is now -DX=2"}},
		{"changed value", command("-O2 -DX=1 -I inc -Wall -c src/a.c"), []string{"flag include is now inc"}},
		{"new flag", command("-O2 -DX=1 -I include -Wall -g -c src/a.c"), []string{"flag -g is new"}},
		{"new flag at the front", command("-g -O2 -DX=1 -I include -Wall -c src/a.c"), []string{"flag -g is new"}},
		{"new flags", command("-O2 -DX=1 -I include -I lib -Wall -c src/a.c"), []string{"flag -I lib is new"}},
		{"gone flag", command("-O2 -I include -Wall -c src/a.c"), []string{"flag -DX=1 is gone"}},
		{"gone flags", command("-O2 -DX=1 -Wall -c src/a.c"), []string{"flag -I include is gone"}},
		{"two places", command("-O3 -DX=1 -I include -Wall -Wextra -c src/a.c"), []string{"flag -O2 is now -O3", "flag -Wextra is new"}},
		{"other order", command("-DX=1 -O2 -I include -Wall -c src/a.c"), []string{"flags stand in another order: -O2"}},
		{"moved over another change", command("-DX=1 -O2 -I include -Wextra -c src/a.c"), []string{"flags stand in another order: -O2", "flag -Wall is now -Wextra"}},
		{"moved and doubled", command("-DX=1 -O2 -O2 -I include -Wall -c src/a.c"), []string{"flags stand in another order: -O2", "flag -O2 is new"}},
		{"one for two", command("-O2 -DX=1 -Iinclude -Wall -c src/a.c"), []string{"flag -I include is now -Iinclude"}},
		{"no command", func(a *Action) { a.Command = nil }, []string{"flag -O2 -DX=1 -I include -Wall -c src/a.c is gone"}},

		{"changed variable", func(a *Action) { a.Env[1] = "LANG=de" }, []string{"variable LANG=C is now LANG=de"}},
		{"new variable", func(a *Action) { a.Env = append(a.Env, "A=") }, []string{"variable A= is set now"}},
		{"gone variable", func(a *Action) { a.Env = a.Env[1:] }, []string{"variable CPATH=/opt/include is not set any more"}},
		{"empty variable", func(a *Action) { a.Env[1] = "LANG=" }, []string{"variable LANG=C is now LANG="}},

		{"changed source", func(a *Action) { content(a, "src/a.c", "x") }, []string{"src/a.c changed"}},
		{"changed header", func(a *Action) { content(a, "include/b.h", "x") }, []string{"include/b.h changed"}},
		{"two headers", func(a *Action) { content(a, "include/b.h", "x"); content(a, "/usr/include/stdio.h", "x") },
			[]string{"include/b.h changed", "/usr/include/stdio.h changed"}},
		{"shadowing header", func(a *Action) {
			a.Inputs[1] = Input{"src/b.h", digest.Of([]byte("new"))}
			a.Absent = a.Absent[1:]
		}, []string{"src/b.h exists now where it was looked for in vain", "include/b.h is not read any more"}},
		{"probed header appears", func(a *Action) {
			a.Present = append(a.Present, "src/b.h")
			a.Absent = a.Absent[1:]
		}, []string{"src/b.h exists now where it was looked for in vain"}},
		{"probed header is gone", func(a *Action) { a.Absent = append(a.Absent, "include/probe.h"); a.Present = nil },
			[]string{"include/probe.h does not exist any more"}},
		{"header is gone", func(a *Action) {
			a.Inputs = slices.Delete(a.Inputs, 1, 2)
			a.Absent = append(a.Absent, "include/b.h")
		}, []string{"include/b.h does not exist any more"}},
		{"include added", func(a *Action) {
			content(a, "src/a.c", "x")
			a.Inputs = append(a.Inputs, Input{"include/c.h", digest.Of([]byte("c"))})
		}, []string{"src/a.c changed", "include/c.h is read now"}},
		{"include dropped", func(a *Action) {
			content(a, "src/a.c", "x")
			a.Inputs = a.Inputs[:2]
		}, []string{"src/a.c changed", "/usr/include/stdio.h is not read any more"}},

		{"directory of a probed header is gone", func(a *Action) {
			a.Absent = append(a.Absent, "include")
			a.Present = nil
			a.Inputs = slices.Delete(a.Inputs, 1, 2)
		},
			[]string{"include/b.h does not exist any more", "include/probe.h does not exist any more"}},
		{"native", func(a *Action) { a.Command = append(a.Command, Mark("native", "-march=x")) },
			[]string{"what native means is new: -march=x"}},
		{"mode", func(a *Action) { a.Command = append(a.Command, Mark("mode", "reproducible")) },
			[]string{"the mode of builds was plain and is now reproducible"}},

		{"preprocessed text", func(a *Action) { a.Preprocessed = digest.Of([]byte("x")) }, []string{"the preprocessed text changed"}},
		{"text with its header", func(a *Action) { a.Preprocessed = digest.Of([]byte("x")); content(a, "include/b.h", "x") },
			[]string{"include/b.h changed"}},
		{"other look-ups", func(a *Action) { a.Absent = append(a.Absent, "z.h", "y.h") }, []string{"other paths are looked for, such as y.h"}},

		{"all at once", func(a *Action) {
			a.Toolchain[0]++
			a.Command[0] = "-O3"
			a.Env[1] = "LANG=de"
			a.Cwd = "/w"
			content(a, "src/a.c", "x")
		}, []string{
			"compiler: the compiler was 0100000000000000 and is now 0200000000000000", "flag -O2 is now -O3", "variable LANG=C is now LANG=de",
			"the working directory is new: /w", "src/a.c changed",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			now := base()
			c.change(now)
			var got []string
			for _, change := range Diff(base(), now) {
				got = append(got, change.String())
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(c.want, "\n\t"))
			}
		})
	}
}

func TestDiffNamesOptions(t *testing.T) {
	for _, c := range []struct{ old, new, name string }{
		{"-O2", "-O3", "-O"},
		{"-DX=1", "-DX=2", "-DX"},
		{"-DX=1", "-DX=12", "-DX"},
		{"-I a", "-I b", "-I"},
		{"-g -I a", "-g -I b", "-I"},
		{"-std=c11", "-std=c17", "-std"},
		{"-std=c11", "", "-std"},
		{"", "-g", "-g"},
		{"a.c", "b.c", "b.c"},
	} {
		d := Diff(&Action{Command: strings.Fields(c.old)}, &Action{Command: strings.Fields(c.new)})
		if len(d) != 1 || d[0].Name != c.name {
			t.Errorf("%q to %q: %+v, want the name %q", c.old, c.new, d, c.name)
		}
	}
}

// Two long commands with nothing in common are one change, found at once.
func TestDiffOfLongCommands(t *testing.T) {
	a, b := &Action{}, &Action{}
	for range 5000 {
		a.Command = append(a.Command, "a")
		b.Command = append(b.Command, "b")
	}
	b.Command = append(b.Command, "b")
	if d := Diff(a, b); len(d) != 1 {
		t.Errorf("%d changes", len(d))
	}
}
