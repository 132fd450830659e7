package action

import (
	"slices"
	"strings"
)

// maxTable bounds the table of diffCommand, 4 MB. Commands of more than a
// thousand arguments, in the middle of which everything differs, come of
// response files.
const maxTable = 1 << 20

// diffCommand compares two commands as sequences, since the order of options
// means something: runs of arguments that stand in one and not in the other.
func diffCommand(old, new []string) []Change {
	start := 0
	for start < len(old) && start < len(new) && old[start] == new[start] {
		start++
	}
	before := ""
	if start > 0 {
		before = old[start-1]
	}
	old, new = old[start:], new[start:]
	for len(old) > 0 && len(new) > 0 && old[len(old)-1] == new[len(new)-1] {
		old, new = old[:len(old)-1], new[:len(new)-1]
	}
	w := len(new) + 1
	if (len(old)+1)*w > maxTable {
		return flagChanges(nil, before, old, new)
	}
	// common[i*w+j] is how many arguments old[i:] and new[j:] have in common.
	common := make([]int32, (len(old)+1)*w)
	for i := len(old) - 1; i >= 0; i-- {
		for j := len(new) - 1; j >= 0; j-- {
			if old[i] == new[j] {
				common[i*w+j] = common[(i+1)*w+j+1] + 1
			} else {
				common[i*w+j] = max(common[(i+1)*w+j], common[i*w+j+1])
			}
		}
	}
	var runs []flagRun
	for i, j := 0, 0; i < len(old) || j < len(new); {
		i0, j0 := i, j
		for i < len(old) || j < len(new) {
			if i < len(old) && j < len(new) && old[i] == new[j] {
				break
			}
			if j == len(new) || i < len(old) && common[(i+1)*w+j] >= common[i*w+j+1] {
				i++
			} else {
				j++
			}
		}
		if i > i0 || j > j0 {
			runs = append(runs, flagRun{before, old[i0:i], new[j0:j]})
		}
		for i < len(old) && j < len(new) && old[i] == new[j] {
			before = old[i]
			i++
			j++
		}
	}
	d := takeMoved(runs, old, new)
	for _, r := range runs {
		d = flagChanges(d, r.before, r.old, r.new)
	}
	return d
}

// flagRun is a run of arguments that stand in one command in the place of
// those in the other. before is the argument that precedes it.
type flagRun struct {
	before   string
	old, new []string
}

// takeMoved takes out of runs the arguments that went at one place and came at
// another, and returns the change that they are. old and new are the part of
// the commands that differs.
func takeMoved(runs []flagRun, old, new []string) []Change {
	went, came := map[string]int{}, map[string]int{}
	for _, r := range runs {
		for _, a := range r.old {
			went[a]++
		}
		for _, a := range r.new {
			came[a]++
		}
	}
	// How many of each are still to be taken out, on either side.
	out, in := map[string]int{}, map[string]int{}
	for a, n := range went {
		out[a] = min(n, came[a])
		in[a] = out[a]
	}
	var moved []string
	take := func(args []string, left map[string]int, taken func(string)) []string {
		// A copy: the runs share memory with the commands.
		return slices.DeleteFunc(slices.Clone(args), func(a string) bool {
			if left[a] == 0 {
				return false
			}
			left[a]--
			taken(a)
			return true
		})
	}
	for i := range runs {
		r := &runs[i]
		r.old = take(r.old, out, func(a string) { moved = append(moved, a) })
		r.new = take(r.new, in, func(string) {})
	}
	if len(moved) == 0 {
		return nil
	}
	return []Change{{
		Kind: KindFlag, Name: strings.Join(moved, " "), How: HowReordered,
		Old: strings.Join(old, " "), New: strings.Join(new, " "),
	}}
}

// flagChanges adds the changes of one run: argument by argument where both
// sides have as many, else as one.
func flagChanges(d []Change, before string, old, new []string) []Change {
	c := Change{Kind: KindFlag, Old: strings.Join(old, " "), New: strings.Join(new, " ")}
	switch {
	case len(old) == 0 && len(new) == 0:
		return d
	case len(old) == len(new):
		for i := range old {
			d = append(d, Change{Kind: KindFlag, Name: flagName(before, old[i], new[i]), How: HowChanged, Old: old[i], New: new[i]})
			before = old[i]
		}
		return d
	case len(old) == 0:
		c.Name, c.How = flagName(before, new[0], new[0]), HowAdded
	case len(new) == 0:
		c.Name, c.How = flagName(before, old[0], old[0]), HowRemoved
	default:
		c.Name, c.How = flagName(before, old[0], new[0]), HowChanged
	}
	return append(d, c)
}

// flagName is the option that one argument or the other belongs to: what two
// spellings have in common ("-O" of -O2 and -O3, "-DX" of -DX=1 and -DX=2), or
// the option before a value that stands alone.
func flagName(before, old, new string) string {
	if !strings.HasPrefix(old, "-") && !strings.HasPrefix(new, "-") && strings.HasPrefix(before, "-") {
		return before
	}
	n := 0
	for n < len(old) && n < len(new) && old[n] == new[n] && (n == 0 || old[n-1] != '=') {
		n++
	}
	if n < 2 || old[0] != '-' {
		if new == "" {
			new = old
		}
		name, _, _ := strings.Cut(new, "=")
		return name
	}
	return strings.TrimSuffix(old[:n], "=")
}
