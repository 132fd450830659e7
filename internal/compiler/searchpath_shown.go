package compiler

import (
	"path/filepath"
	"slices"
	"strings"
)

// shownChain is what a compiler says with -v about its own directories.
type shownChain struct {
	dirs       []string // searched, in order
	missing    []string // would be searched if they existed, in order
	duplicates []string // second names of directories in dirs
	command    []string // clang: every directory given to -cc1, in order
	sysroot    string   // -isysroot as given to the compiler proper
}

// readShownChain reads the answer to -E -v. Directories stand on lines of
// their own, so that names with spaces need no quoting; one with a line break
// is not supported.
func readShownChain(stderr []byte) shownChain {
	var s shownChain
	listing := false
	for line := range strings.Lines(string(stderr)) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasSuffix(line, " search starts here:"):
			listing = true
		case line == "End of search list.":
			listing = false
		case listing:
			s.dirs = append(s.dirs, strings.TrimPrefix(line, " "))
		default:
			if dir, ok := quotedAfter(line, "ignoring nonexistent directory "); ok {
				s.missing = append(s.missing, dir)
			}
			if dir, ok := quotedAfter(line, "ignoring duplicate directory "); ok {
				s.duplicates = append(s.duplicates, dir)
			}
		}
	}
	words := compilerCommand(stderr)
	s.sysroot = optionValue(words, "-isysroot")
	for i := 0; i+1 < len(words); i++ {
		if words[i] == "-internal-isystem" || words[i] == "-internal-externc-isystem" {
			s.command = append(s.command, words[i+1])
		}
	}
	return s
}

func quotedAfter(line, prefix string) (string, bool) {
	rest, ok := strings.CutPrefix(line, prefix)
	if !ok || len(rest) < 2 || rest[0] != '"' || rest[len(rest)-1] != '"' {
		return "", false
	}
	return rest[1 : len(rest)-1], true
}

// order is the complete chain, missing directories at their places.
//
// clang's command line has them all in order. gcc prints the missing ones
// apart; between which others each would come, it does not say. So gcc's stand
// in each gap: whichever of them comes before a directory where a header was
// found, it is among those that come before it here, and #include_next finds
// those after. Too many absences cost a probe each; one too few would be a
// stale object. As soon as one of them exists, the chain is asked for again
// and has its exact place.
func (s *shownChain) order(family Family) []string {
	if family.IsClang() && s.commandCovers() {
		return slices.Clone(s.command)
	}
	if len(s.missing) == 0 {
		return slices.Clone(s.dirs)
	}
	chain := slices.Clone(s.missing)
	for _, dir := range s.dirs {
		chain = append(append(chain, dir), s.missing...)
	}
	return chain
}

// commandCovers reports whether the chain that was printed is the command
// line's. For some targets clang's frontend adds directories itself.
func (s *shownChain) commandCovers() bool {
	for _, dir := range slices.Concat(s.dirs, s.missing) {
		if !slices.Contains(s.command, dir) {
			return false
		}
	}
	return true
}

// watchBy adds what the chain rests on to w.
//
// gcc's chain is fixed when it is built, but for which directories exist and
// which are the same. clang leaves out, without a word, the directories of a
// C++ library or an architecture that are not there: so the directories that
// would hold them are watched, each directory of the chain with its parent and
// its c++. What is not watched: a directory of another C++ library that clang
// would prefer and that appears two levels below a directory that was there.
//
// cwd is what relative names are relative to.
func (s *shownChain) watchBy(w *watcher, family Family, cwd string) {
	at := func(dir string) string {
		if filepath.IsAbs(dir) {
			return dir
		}
		return cwd + "/" + dir
	}
	for _, dir := range s.missing {
		w.absence(at(dir))
	}
	// A link that is turned, or a directory that goes away, makes what was its
	// duplicate one of its own.
	if len(s.duplicates) > 0 {
		for _, dir := range slices.Concat(s.duplicates, s.dirs) {
			w.path(at(dir))
		}
	}
	if !family.IsClang() {
		return
	}
	for _, dir := range s.dirs {
		w.path(at(dir))
		w.path(at(dir) + "/..")
		w.absence(at(dir) + "/c++") // or its presence
		if family == ClangCL {
			// VERSION/ucrt: clang-cl takes the newest version.
			w.path(at(dir) + "/../..")
		}
	}
}
