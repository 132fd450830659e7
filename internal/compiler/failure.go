package compiler

import (
	"bytes"
	"slices"
)

// RemovesAtFailure reports whether the command, having failed without an output
// of a role, has removed the file of that name that an earlier compile had left.
// stderr is what it printed, without escapes, in the C locale.
//
// Compilers differ: clang removes what it was about to write. gcc removes what the
// program wrote that failed: the assembler the object, the compiler proper the
// assembly, so that an object of before stays behind a source with errors in it.
// A driver that refuses its options removes nothing. A test compares this with
// both.
func (inv *Invocation) RemovesAtFailure(role string, stderr []byte) bool {
	if inv.Family == CL || refusedByDriver(stderr) {
		return false
	}
	clang := inv.Family.IsClang()
	switch role {
	case "object":
		if clang && inv.assemblesItself() || !clang && inv.has("-pipe", "--pipe") {
			return true
		}
		// All others give the object to an assembler, which did not run if the
		// compiler failed.
		return bytes.Contains(stderr, []byte("Assembler messages:"))
	case "assembly":
		return true
	case "gcno":
		return !clang
	case RoleDependencies:
		// clang's list would be wrong where a header is missing.
		return clang && bytes.Contains(stderr, []byte("fatal error: "))
	}
	return false
}

// refusedByDriver reports whether a driver says what is wrong, so that none of the
// programs ran.
func refusedByDriver(stderr []byte) bool {
	for line := range bytes.Lines(stderr) {
		name, said, ok := bytes.Cut(line, []byte(": "))
		if string(name) == "cc1" || bytes.Contains(said, []byte("command failed")) || bytes.Contains(said, []byte("terminated program")) {
			continue // the compiler proper, or of a program that ran
		}
		if _, _, driver := FamilyOf(string(name)); ok && driver && (bytes.HasPrefix(said, []byte("error: ")) || bytes.HasPrefix(said, []byte("fatal error: "))) {
			return true
		}
	}
	return false
}

// assemblesItself reports whether clang makes objects without an assembler.
func (inv *Invocation) assemblesItself() bool {
	itself := true
	for _, a := range inv.Args {
		switch a {
		case "-no-integrated-as", "-fno-integrated-as":
			itself = false
		case "-integrated-as", "-fintegrated-as":
			itself = true
		}
	}
	return itself
}

// has reports whether one of the options is among the arguments, and not the
// value of another.
func (inv *Invocation) has(options ...string) bool {
	return slices.ContainsFunc(inv.parsed, func(a parsedArg) bool {
		return len(a.words) > 0 && slices.Contains(options, a.words[0].text)
	})
}
