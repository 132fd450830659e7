package action

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"hpcc.dev/hpcc/internal/digest"
)

// Generators draw from few values, so that lists share and repeat elements.
// Paths are bytes: names that are not UTF-8 are among them.
var (
	word = rapid.SampledFrom([]string{"", "a.c", "b.h", "dir/c.h", "\x000/src/a.c", "\xff\xfe", "-I", "-DX=1", "with space", "ü"})
	some = rapid.SliceOfN(word, 0, 4)
	sum  = rapid.Custom(func(t *rapid.T) digest.Digest { return digest.Of([]byte(word.Draw(t, "content"))) })
	key  = rapid.Custom(func(t *rapid.T) digest.Key { return digest.Key{rapid.Byte().Draw(t, "key")} })
	in   = rapid.Custom(func(t *rapid.T) Input { return Input{word.Draw(t, "path"), sum.Draw(t, "sum")} })
	ins  = rapid.SliceOfN(in, 0, 4)
	twos = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Pair { return Pair{word.Draw(t, "a"), word.Draw(t, "b")} }), 0, 3)
	bin  = rapid.SliceOfN(rapid.Byte(), 0, 10)

	anyAction = rapid.Custom(func(t *rapid.T) *Action {
		a := &Action{
			Toolchain: key.Draw(t, "toolchain"), Command: some.Draw(t, "command"), Env: some.Draw(t, "env"),
			Cwd: word.Draw(t, "cwd"), Inputs: ins.Draw(t, "inputs"), Absent: some.Draw(t, "absent"), Present: some.Draw(t, "present"),
			Chain: some.Draw(t, "chain"), Same: twos.Draw(t, "same"), Links: twos.Draw(t, "links"),
		}
		if rapid.Bool().Draw(t, "has text") {
			a.Preprocessed = sum.Draw(t, "preprocessed")
		}
		return a
	})
	anyResult = rapid.Custom(func(t *rapid.T) *Result {
		return &Result{
			Stdout: bin.Draw(t, "stdout"), Stderr: bin.Draw(t, "stderr"),
			Outputs: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Output {
				return Output{word.Draw(t, "role"), sum.Draw(t, "sum"), rapid.Bool().Draw(t, "x")}
			}), 0, 3).Draw(t, "outputs"),
			Dependencies: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Dependency {
				return Dependency{word.Draw(t, "path"), rapid.Bool().Draw(t, "system")}
			}), 0, 3).Draw(t, "dependencies"),
			CompileTime:  time.Duration(rapid.Int64Min(0).Draw(t, "time")),
			StdioContext: word.Draw(t, "context"),
		}
	})
	anyManifest = rapid.Custom(func(t *rapid.T) *Manifest {
		return &Manifest{word.Draw(t, "preprocess"), rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Candidate {
			return Candidate{key.Draw(t, "action"), ins.Draw(t, "inputs"), some.Draw(t, "absent"), some.Draw(t, "present"),
				some.Draw(t, "chain"), twos.Draw(t, "same"), twos.Draw(t, "links"), word.Draw(t, "context")}
		}), 0, 5).Draw(t, "candidates")}
	})
)

// equal compares as the codec does: no list and an empty one are the same.
func equal(x, y any) bool {
	return reflect.DeepEqual(normal(reflect.ValueOf(x)).Interface(), normal(reflect.ValueOf(y)).Interface())
}

// normal copies a value with nil in place of empty lists.
func normal(v reflect.Value) reflect.Value {
	out := reflect.New(v.Type()).Elem()
	switch {
	case v.Type() == reflect.TypeFor[digest.Digest]():
		out.Set(v)
	case v.Kind() == reflect.Pointer:
		out.Set(reflect.New(v.Type().Elem()))
		out.Elem().Set(normal(v.Elem()))
	case v.Kind() == reflect.Slice && v.Len() > 0:
		out.Set(reflect.MakeSlice(v.Type(), v.Len(), v.Len()))
		for i := range v.Len() {
			out.Index(i).Set(normal(v.Index(i)))
		}
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			out.Field(i).Set(normal(v.Field(i)))
		}
	case v.Kind() != reflect.Slice:
		out.Set(v)
	}
	return out
}

func shuffled[E any](list []E, seed int64) []E {
	list = slices.Clone(list)
	r := rand.New(rand.NewPCG(uint64(seed), 0))
	r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}

// The key depends on nothing but what the lists hold.
func TestKeyIgnoresOrderAndRepetition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := anyAction.Draw(t, "action")
		seed := rapid.Int64().Draw(t, "seed")
		b := *a
		b.Inputs = shuffled(append(a.Inputs, a.Inputs...), seed)
		b.Env = shuffled(append(a.Env, a.Env...), seed)
		b.Absent = shuffled(append(a.Absent, a.Absent...), seed)
		b.Present = shuffled(append(a.Present, a.Present...), seed)
		b.Chain = shuffled(append(a.Chain, a.Chain...), seed)
		b.Same = shuffled(append(a.Same, a.Same...), seed)
		before := slices.Clone(b.Inputs)
		if a.Key() != b.Key() {
			t.Fatal("the key changed")
		}
		if !slices.Equal(b.Inputs, before) {
			t.Fatal("Key reordered the inputs")
		}
	})
}

func TestKeyDependsOnEachField(t *testing.T) {
	base := Action{
		Toolchain: digest.Key{1}, Command: []string{"-c", "a.c"}, Env: []string{"LANG=C"}, Cwd: "/w",
		Inputs: []Input{{"a.c", digest.Of([]byte("a"))}}, Absent: []string{"a.h"}, Present: []string{"b.h"},
		Preprocessed: digest.Of([]byte("text")),
	}
	keys := map[digest.Key]string{base.Key(): "nothing"}
	for what, change := range map[string]func(*Action){
		"toolchain":           func(a *Action) { a.Toolchain[31]++ },
		"argument":            func(a *Action) { a.Command = []string{"-c", "b.c"} },
		"order of arguments":  func(a *Action) { a.Command = []string{"a.c", "-c"} },
		"arguments joined":    func(a *Action) { a.Command = []string{"-ca.c"} },
		"repeated argument":   func(a *Action) { a.Command = []string{"-c", "-c", "a.c"} },
		"variable":            func(a *Action) { a.Env = []string{"LANG=D"} },
		"no variable":         func(a *Action) { a.Env = nil },
		"empty variable":      func(a *Action) { a.Env = []string{""} },
		"cwd":                 func(a *Action) { a.Cwd = "/x" },
		"content":             func(a *Action) { a.Inputs = []Input{{"a.c", digest.Of([]byte("b"))}} },
		"path":                func(a *Action) { a.Inputs = []Input{{"b.c", digest.Of([]byte("a"))}} },
		"no inputs":           func(a *Action) { a.Inputs = nil },
		"absence":             func(a *Action) { a.Absent = append(a.Absent, "c.h") },
		"presence":            func(a *Action) { a.Present = append(a.Present, "c.h") },
		"chain":               func(a *Action) { a.Chain = append(a.Chain, "inc") },
		"same":                func(a *Action) { a.Same = append(a.Same, Pair{"inc", "/usr/include"}) },
		"links":               func(a *Action) { a.Links = append(a.Links, Pair{"inc", "include"}) },
		"absence and not":     func(a *Action) { a.Absent, a.Present = a.Present, a.Absent },
		"text":                func(a *Action) { a.Preprocessed = digest.Of([]byte("other")) },
		"no text":             func(a *Action) { a.Preprocessed = digest.Digest{} },
		"variable as command": func(a *Action) { a.Command, a.Env = append(a.Command, a.Env...), nil },
	} {
		a := base
		change(&a)
		k := a.Key()
		if other, dup := keys[k]; dup {
			t.Errorf("%s and %s give one key", what, other)
		}
		keys[k] = what
	}
}

// Keys are what is shared between machines and versions: this one may only
// change together with the version of the records.
func TestKeyIsStable(t *testing.T) {
	a := Action{
		Command: []string{"-c", "a.c"}, Env: []string{"B=2", "A=1"},
		Inputs: []Input{{"a.c", digest.Of([]byte("a"))}}, Absent: []string{"x.h"},
	}
	const want = "d361d53dba1e7f316ae1eda6631addda754697c1f64fb10483ccae42dd75eac5"
	if got := a.Key().String(); got != want {
		t.Errorf("key %s, want %s", got, want)
	}
}

func TestAddKeepsNewestFirst(t *testing.T) {
	var m Manifest
	for i := range MaxCandidates + 10 {
		m.Add(Candidate{Action: digest.Key{byte(i)}})
	}
	if len(m.Candidates) != MaxCandidates || m.Candidates[0].Action != (digest.Key{MaxCandidates + 9}) {
		t.Errorf("%d candidates, %v first", len(m.Candidates), m.Candidates[0].Action)
	}
	again := m.Candidates[5].Action
	m.Add(Candidate{Action: again, StdioContext: "new"})
	if len(m.Candidates) != MaxCandidates || m.Candidates[0].Action != again || m.Candidates[0].StdioContext != "new" {
		t.Errorf("%d candidates, %v first", len(m.Candidates), m.Candidates[0].Action)
	}
	for i, c := range m.Candidates[1:] {
		if c.Action == again {
			t.Errorf("candidate %d is still there", i)
		}
	}
}
