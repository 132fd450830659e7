package compiler

import (
	"bytes"
	"strings"
)

// A directive of the assembler may be written in pieces: literals that stand
// side by side, or that macros bring together, are joined before the assembler
// sees them. That a literal ends in a dot tells nothing: the kernel's
// <linux/fs.h> has "." for the name of a directory, and so would keep each file
// that includes it from being cached with clang. So pieces count only if those
// of all files of a compile, in some order, spell a directive.

// splitParts is what one file has of directives written in pieces. A piece is
// a bit: its index in splitPieces.
type splitParts struct {
	begin uint8  // bit n: a literal ends in a dot that could begin a statement, and n letters
	whole uint64 // literals that are nothing but the piece
	head  uint64 // literals that begin with the piece, words in a macro's argument
}

// splitPieces are all pieces of the directives' names, 40 of them.
var splitPieces = func() map[string]int {
	pieces := make(map[string]int)
	for _, word := range []string{string(asmIncbin), string(asmInclude)} {
		for i := range word {
			for j := i + 1; j <= len(word); j++ {
				if _, ok := pieces[word[i:j]]; !ok {
					pieces[word[i:j]] = len(pieces)
				}
			}
		}
	}
	return pieces
}()

// JoinsDirective reports whether these files together may write .incbin or
// .include in pieces.
func JoinsDirective(files []File) bool {
	var all splitParts
	for i := range files {
		s := files[i].Scan.split
		all.begin |= s.begin
		all.whole |= s.whole
		all.head |= s.head
	}
	for n := range maxSplitBegin + 1 {
		if all.begin&(1<<n) != 0 && (all.spell(string(asmIncbin[n:])) || all.spell(string(asmInclude[n:]))) {
			return true
		}
	}
	return false
}

// maxSplitBegin is the number of letters behind a dot that do not tell yet
// which directive it is.
const maxSplitBegin = len("in")

// spell reports whether the pieces can be joined to rest.
func (p *splitParts) spell(rest string) bool {
	if p.head&(1<<splitPieces[rest]) != 0 {
		return true
	}
	for i := 1; i < len(rest); i++ {
		if p.whole&(1<<splitPieces[rest[:i]]) != 0 && p.spell(rest[i:]) {
			return true
		}
	}
	return false
}

// splitText notes what the literal from at to next may be of a directive.
func (s *scanner) splitText(text []byte, at, next int) {
	if dot := bytes.LastIndexByte(text, '.'); dot >= 0 {
		switch tail := text[dot+1:]; {
		case len(tail) == 0 && dot > 0 && bytes.IndexByte([]byte(" nt;}:"), text[dot-1]) < 0:
			// The end of a sentence.
		case len(tail) <= maxSplitBegin && isAsmBegin(tail):
			s.out.split.begin |= 1 << len(tail)
		case isAsmBegin(tail):
			s.asmOpaque()
		}
	}
	n := 0
	for n < len(text) && n <= len(asmInclude) && 'a' <= text[n]|0x20 && text[n]|0x20 <= 'z' {
		n++
	}
	if n == 0 || n < len(text) && isWord(text[n]) || s.standsAlone(at, next) {
		return
	}
	if piece, ok := splitPieces[strings.ToLower(string(text[:n]))]; ok {
		s.out.split.head |= 1 << piece
		if n == len(text) {
			s.out.split.whole |= 1 << piece
		}
	}
}

// standsAlone reports whether a literal goes on from no other: where it begins
// the text of an asm statement, or names the registers that an operand of one
// may be in, as in asm("in" : "=a" (x)).
func (s *scanner) standsAlone(at, next int) bool {
	src := s.src
	for next < len(src) && isSpace(src[next]) {
		next++
	}
	if next < len(src) && src[next] == '(' {
		return true
	}
	at = s.blanksBefore(at)
	if at == 0 || src[at-1] != '(' {
		return false
	}
	switch word := string(s.wordBefore(s.blanksBefore(at - 1))); strings.Trim(word, "_") {
	case "asm", "volatile", "inline", "goto":
		return true
	}
	return false
}

// splitWords looks for the names of the directives where a macro that makes
// its arguments strings may take them.
func (s *scanner) splitWords() {
	if !s.marks.everywhere {
		for _, at := range s.marks.directives {
			for _, word := range [][]byte{asmIncbin, asmInclude} {
				if bytes.HasPrefix(s.src[at:], word) {
					s.splitWord(word, at)
				}
			}
		}
		return
	}
	for _, w := range []struct {
		word []byte
		rare int // index of its rarest letter
	}{{asmIncbin, 3}, {asmInclude, 4}} {
		for at := 0; ; at += len(w.word) {
			if at = indexByRare(s.src, w.word, w.rare, at); at < 0 {
				break
			}
			s.splitWord(w.word, at)
		}
	}
}

// splitWord looks at the word at at, which is the name of a directive.
func (s *scanner) splitWord(word []byte, at int) {
	src, piece := s.src, uint64(1)<<splitPieces[string(word)]
	if s.out.split.head&piece != 0 {
		return
	}
	before, after := s.blanksBefore(at), s.blanks(at+len(word))
	if before > 0 && (src[before-1] == '(' || src[before-1] == ',') &&
		after < len(src) && (src[after] == ')' || src[after] == ',') {
		s.out.split.head |= piece
	}
}

// indexByRare is the index of word in src at or behind at, or -1. It looks for
// the letter at rare: bytes.Index looks for the first, and half of the time of a
// scan went into the many an i of a text.
func indexByRare(src, word []byte, rare, at int) int {
	for at += rare; at < len(src); at++ {
		i := bytes.IndexByte(src[at:], word[rare])
		if i < 0 {
			return -1
		}
		if at += i; bytes.HasPrefix(src[at-rare:], word) {
			return at - rare
		}
	}
	return -1
}
