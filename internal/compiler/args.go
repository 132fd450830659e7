package compiler

import "strings"

// word is one word of a command line, or of the words that an option hands on
// to the preprocessor, the assembler, clang's front end or, from clang-cl's
// /clang:, clang's driver.
type word struct {
	text string
	// opt is the option that the word belongs to; nil for an input file.
	opt *option
	// value is where the option's value begins in text: len(text) if there is
	// none, 0 in the second word of an option with a separate value.
	value int
}

// parsedArg is one option with its value, or one input file.
type parsedArg struct {
	words []word
	// inner holds the words handed on by -Wp, -Wa, -Xpreprocessor, /clang: and
	// their like. They are classified as one list over all such options, because
	// -Xpreprocessor takes an option and its value apart.
	inner []word
	// joined is true where inner is written in one word: -Wp,a,b or /clang:a.
	joined bool
}

// edit rewrites one word; ok is false if the word is to be left out.
type edit func(w word) (text string, ok bool)

// render appends the argument as edited to dst.
func (a *parsedArg) render(dst []string, e edit) []string {
	if a.inner == nil {
		for _, w := range a.words {
			if text, ok := e(w); ok {
				dst = append(dst, text)
			}
		}
		return dst
	}
	name, ok := e(a.words[0])
	if !ok {
		return dst
	}
	kept := make([]string, 0, len(a.inner))
	for _, w := range a.inner {
		if text, ok := e(w); ok {
			kept = append(kept, text)
		}
	}
	switch {
	case len(kept) == 0:
		return dst
	case a.joined:
		return append(dst, name+strings.Join(kept, ","))
	default: // -Xpreprocessor hands on a single word
		return append(dst, name, kept[0])
	}
}

// renderAll renders every argument.
func (inv *Invocation) renderAll(dst []string, e edit) []string {
	for i := range inv.parsed {
		dst = inv.parsed[i].render(dst, e)
	}
	return dst
}
