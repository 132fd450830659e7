//go:build e2e && linux

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// logged is one line of hpcc's statistics log: what it made of one call.
type logged struct {
	Outcome, Reason, Detail, Source, Output, Cwd, Compiler, Action string
	Args                                                           []string
}

// readLog returns the lines since the last call, and forgets them. The counters
// must have been asked for before, which makes the daemon finish what it does.
func (w *world) readLog() []logged {
	w.t.Helper()
	f, err := os.Open(w.logFile())
	if err != nil {
		w.t.Fatalf("no compile was logged: %v", err)
	}
	defer f.Close()
	var all []logged
	for dec := json.NewDecoder(bufio.NewReader(f)); dec.More(); {
		var l logged
		if err := dec.Decode(&l); err != nil {
			w.t.Fatalf("%s: %v", w.logFile(), err)
		}
		all = append(all, l)
	}
	if err := os.Remove(w.logFile()); err != nil {
		w.t.Fatal(err)
	}
	return all
}

// noCompile are the reasons of calls that the record does not count as
// compiles of one source.
var noCompile = []string{"linking", "preprocessing", "query", "stdin", "no-source", "multiple-sources", "object-input",
	"output-kind", "bad-command", "compile-failed"}

// temporary names differ from one build to the next.
var temporary = regexp.MustCompile(`\.tmp_[0-9]+|/tmp/cc[A-Za-z0-9]{6}|cmTC_[0-9a-f]{5}`)

// callKey is the same for one call in two builds of a tree, or of two trees of
// one program.
func callKey(tree, dir string, args []string) string {
	text := dir + "\x00" + strings.Join(args[1:], "\x00")
	return temporary.ReplaceAllString(strings.ReplaceAll(text, tree, "TREE"), "TEMPORARY")
}

// compiled is a call of the record with what hpcc made of it.
type compiled struct {
	call
	logged
	ambiguous bool // there are others with the same command
}

// check holds counters and log of the build that just ended against the
// record: each call that a cache can serve was served, or compiled if the build
// was cold, or refused for a reason that the program allows. What was refused
// is listed.
func (w *world) check(tr *tree, calls []call, warm bool) []compiled {
	t := w.t
	t.Helper()
	counted, lines := w.count(), w.readLog()
	open, times := map[string][]logged{}, map[string]int{}
	for _, l := range lines {
		if len(l.Args) == 0 {
			t.Fatalf("a line of the log has no command: %+v", l)
		}
		key := callKey(tr.dir, l.Cwd, l.Args)
		open[key] = append(open[key], l)
		times[key]++
	}
	var got []compiled
	hits, misses, unasked := 0, 0, 0
	count := func(l logged) {
		switch l.Outcome {
		case "hit", "hit-preprocessed":
			hits++
		case "miss":
			misses++
		}
	}
	refusals := map[string][]logged{}
	wanted := cacheableOf(calls)
	for _, c := range wanted {
		key := callKey(c.tree, c.Dir, c.Args)
		if len(open[key]) == 0 {
			if unasked++; !c.probe() {
				t.Errorf("hpcc did not see: %s", strings.Join(c.Args, " "))
			}
			continue
		}
		// The recorded calls succeeded. Of several that are spelled alike, as
		// configure's are, it cannot be told which line is of which.
		i := max(0, slices.IndexFunc(open[key], func(l logged) bool { return l.Outcome != "failed" }))
		l := open[key][i]
		open[key] = slices.Delete(open[key], i, i+1)
		got = append(got, compiled{c, l, times[key] > 1})
		count(l)
		switch {
		case l.Outcome == "hit" || l.Outcome == "hit-preprocessed" || l.Outcome == "miss" && !warm:
		case l.Outcome == "miss" && tr.refuses("input-modified", c) != "":
		case l.Outcome == "uncacheable" && tr.refuses(l.Reason, c) != "":
			why := l.Reason + ": " + tr.refuses(l.Reason, c)
			refusals[why] = append(refusals[why], l)
		default:
			t.Errorf("%s %s %s: %s", l.Outcome, l.Reason, l.Detail, strings.Join(c.Args, " "))
		}
	}
	for _, rest := range open {
		for _, l := range rest {
			count(l)
			switch {
			case l.Outcome == "failed":
			case call{Args: l.Args}.probe() && l.Outcome != "uncacheable":
			case l.Outcome == "list-hit" || l.Outcome == "list-miss": // -M and -MM alone
			case l.Outcome == "uncacheable" && slices.Contains(noCompile, l.Reason):
				refusals[l.Reason] = append(refusals[l.Reason], l)
			default:
				t.Errorf("not in the record: %s %s %s: %s", l.Outcome, l.Reason, l.Detail, strings.Join(l.Args, " "))
			}
		}
	}
	t.Logf("of %d cacheable calls %d hit, %d missed, %d were not made again", len(wanted), hits, misses, unasked)
	for _, reason := range slices.Sorted(maps.Keys(refusals)) {
		some := refusals[reason]
		t.Logf("%4d refused: %s; as in %.300s", len(some), reason, strings.Join(some[0].Args, " "))
	}
	if counted.hits() != hits || counted.Misses != misses {
		t.Errorf("the counters have %d hits and %d misses, the log %d and %d", counted.hits(), counted.Misses, hits, misses)
	}
	if counted.Errors != 0 {
		t.Errorf("%d errors", counted.Errors)
	}
	return got
}

// refuses says why it is right that a call is refused for a reason; "" if it
// is not.
func (p *program) refuses(reason string, c call) string {
	for _, r := range p.refused {
		if r.reason == reason && slices.ContainsFunc(strings.Fields(r.sources), func(suffix string) bool {
			return slices.ContainsFunc(c.Args, func(arg string) bool { return strings.HasSuffix(arg, suffix) })
		}) {
			return r.why
		}
	}
	return ""
}

// probe says whether the call compiles nothing, to learn what the compiler can
// do. How often a build asks depends on what it remembers.
func (c call) probe() bool { return slices.Contains(c.Args, "/dev/null") }

// outputs are the files that the call names to be written, absolute.
func (c call) outputs() []string {
	names := []string{c.output()}
	for i, arg := range c.Args {
		name, ok := "", false
		for _, prefix := range []string{"-Wp,-MMD,", "-Wp,-MD,"} {
			if name, ok = strings.CutPrefix(arg, prefix); ok {
				break
			}
		}
		if arg == "-MF" && i+1 < len(c.Args) {
			name, ok = c.Args[i+1], true
		}
		if ok {
			if !filepath.IsAbs(name) {
				name = filepath.Join(c.Dir, name)
			}
			names = append(names, name)
		}
	}
	return names
}

func (c compiled) String() string {
	return fmt.Sprintf("%s: %s", c.Dir, strings.Join(c.call.Args, " "))
}
