package action

import (
	"slices"
	"strings"

	"hpcc.dev/hpcc/internal/digest"
)

// Change is one difference between two actions.
type Change struct {
	// Kind is "compiler", "flag", "environment", "directory", "input",
	// "new-file", "gone-file" or "preprocessed".
	Kind string `json:"kind"`
	// Name is the path, option or variable that differs.
	Name string `json:"name"`
	// Old and New are what it was and is; "" where it was not, or is not.
	Old string `json:"old,omitempty"`
	New string `json:"new,omitempty"`
}

// Diff lists what differs between two actions, the most telling first: a
// different compiler explains every header that differs with it.
func Diff(old, new *Action) []Change {
	var d []Change
	if old.Toolchain != new.Toolchain {
		d = append(d, Change{"compiler", "toolchain", old.Toolchain.String()[:16], new.Toolchain.String()[:16]})
	}
	d = append(d, diffCommand(old.Command, new.Command)...)
	d = append(d, diffEnv(old.Env, new.Env)...)
	if old.Cwd != new.Cwd {
		d = append(d, Change{"directory", "working directory", old.Cwd, new.Cwd})
	}
	d = append(d, diffInputs(old, new)...)
	if len(d) == 0 && old.Preprocessed != new.Preprocessed {
		d = append(d, Change{"preprocessed", "preprocessed text", old.Preprocessed.Hex()[:16], new.Preprocessed.Hex()[:16]})
	}
	return d
}

// diffCommand reports arguments that stand in one command more often than in
// the other, and says so if only the order differs.
func diffCommand(old, new []string) []Change {
	if slices.Equal(old, new) {
		return nil
	}
	count := map[string]int{}
	for _, a := range old {
		count[a]--
	}
	for _, a := range new {
		count[a]++
	}
	var d []Change
	var added []string
	for _, a := range new {
		if count[a] > 0 {
			count[a]--
			added = append(added, a)
		}
	}
	for _, a := range old {
		if count[a] >= 0 {
			continue
		}
		count[a]++
		// -DX=1 that became -DX=2 is one change, not two.
		i := slices.IndexFunc(added, func(b string) bool { return option(a) == option(b) })
		if i >= 0 {
			d = append(d, Change{"flag", option(a), a, added[i]})
			added = slices.Delete(added, i, i+1)
		} else {
			d = append(d, Change{"flag", a, a, ""})
		}
	}
	for _, a := range added {
		d = append(d, Change{"flag", a, "", a})
	}
	if len(d) == 0 {
		d = append(d, Change{"flag", "order of the options", strings.Join(old, " "), strings.Join(new, " ")})
	}
	return d
}

// option is an argument's name without its value, for -DNAME=value and
// --name=value, and its letter for -O1, -g3 and the like.
func option(a string) string {
	if name, _, ok := strings.Cut(a, "="); ok {
		return name
	}
	if len(a) >= 2 && a[0] == '-' && strings.IndexByte("Og", a[1]) >= 0 {
		return a[:2]
	}
	return a
}

func diffEnv(old, new []string) []Change {
	values := func(env []string) map[string]string {
		m := map[string]string{}
		for _, kv := range env {
			k, v, _ := strings.Cut(kv, "=")
			m[k] = v
		}
		return m
	}
	o, n := values(old), values(new)
	var d []Change
	for k, v := range o {
		if w, ok := n[k]; !ok || v != w {
			d = append(d, Change{"environment", k, v, w})
		}
	}
	for k, w := range n {
		if _, ok := o[k]; !ok {
			d = append(d, Change{"environment", k, "", w})
		}
	}
	slices.SortFunc(d, func(a, b Change) int { return strings.Compare(a.Name, b.Name) })
	return d
}

func diffInputs(old, new *Action) []Change {
	sums := func(a *Action) map[string]digest.Digest {
		m := map[string]digest.Digest{}
		for _, in := range a.Inputs {
			m[in.Path] = in.Digest
		}
		return m
	}
	o, n := sums(old), sums(new)
	absent := map[string]bool{}
	for _, p := range old.Absent {
		absent[p] = true
	}
	var changed, fresh, gone []Change
	for _, in := range new.Inputs {
		was, ok := o[in.Path]
		switch {
		case !ok:
			kind := Change{"new-file", in.Path, "", in.Digest.Hex()[:16]}
			if absent[in.Path] {
				kind.Old = "looked for and absent"
			}
			fresh = append(fresh, kind)
		case was != in.Digest:
			changed = append(changed, Change{"input", in.Path, was.Hex()[:16], in.Digest.Hex()[:16]})
		}
	}
	for _, in := range old.Inputs {
		if _, ok := n[in.Path]; !ok {
			gone = append(gone, Change{"gone-file", in.Path, in.Digest.Hex()[:16], ""})
		}
	}
	return slices.Concat(changed, fresh, gone)
}
