package compiler

import "bytes"

// A directive of the assembler may be written in pieces: literals that stand
// side by side, or that macros bring together, are joined before the assembler
// sees them. That a message ends in a dot tells nothing: the kernel's <linux/fs.h>
// has "." for the name of a directory, and so would keep each file that includes
// it from being cached with clang. So the begin of a directive counts only
// together with the rest of one, in whichever files of a compile the two stand.

// splitParts is what one file has of directives written in pieces.
type splitParts uint8

const (
	// splitBegin: a literal ends in a dot that could begin a statement, or in
	// such a dot and less than would tell which directive it is.
	splitBegin splitParts = 1 << iota
	// splitRest: a literal, or a word in a macro's argument, could go on from
	// there. Of every way to cut "incbin" or "include" in pieces one has the c.
	splitRest
)

// JoinsDirective reports whether these files together may write .incbin or
// .include in pieces.
func JoinsDirective(files []File) bool {
	var parts splitParts
	for i := range files {
		parts |= files[i].Scan.split
	}
	return parts == splitBegin|splitRest
}

// splitText notes what a literal may be of a directive. next is the index
// behind it.
func (s *scanner) splitText(text []byte, next int) {
	if dot := bytes.LastIndexByte(text, '.'); dot >= 0 {
		switch tail := text[dot+1:]; {
		case len(tail) == 0:
			if dot == 0 || bytes.IndexByte([]byte(" nt;}:"), text[dot-1]) >= 0 {
				s.out.split |= splitBegin
			}
		case len(tail) <= len("in") && isAsmBegin(tail):
			s.out.split |= splitBegin
		case isAsmBegin(tail):
			s.asmOpaque()
		}
	}
	n := 0
	for n < len(text) && 'a' <= text[n]|0x20 && text[n]|0x20 <= 'z' {
		n++
	}
	if n == 0 || n > len(asmInclude) {
		return
	}
	head := bytes.ToLower(text[:n])
	if bytes.IndexByte(head, 'c') < 0 {
		return
	}
	for _, word := range [][]byte{asmIncbin, asmInclude} {
		switch {
		case n < len(text):
			if bytes.HasSuffix(word, head) {
				s.out.split |= splitRest
			}
		case bytes.Contains(word, head):
			// "c" (x) is an operand of extended assembly, and joined to nothing.
			for next < len(s.src) && isSpace(s.src[next]) {
				next++
			}
			if next >= len(s.src) || s.src[next] != '(' {
				s.out.split |= splitRest
			}
		}
	}
}

// splitWords looks for the names of the directives where a macro that makes
// its arguments strings may take them.
func (s *scanner) splitWords() {
	for _, word := range [][]byte{asmIncbin, asmInclude} {
		src := s.src
		for at := 0; s.out.split&splitRest == 0; {
			i := bytes.Index(src[at:], word)
			if i < 0 {
				break
			}
			i += at
			at = i + len(word)
			before, after := s.blanksBefore(i), s.blanks(at)
			if before > 0 && (src[before-1] == '(' || src[before-1] == ',') &&
				after < len(src) && (src[after] == ')' || src[after] == ',') {
				s.out.split |= splitRest
			}
		}
	}
}
