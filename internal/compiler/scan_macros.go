package compiler

import (
	"bytes"
	"hash/maphash"
	"slices"
	"strings"
)

// headerMacro is a macro whose definition holds the name of a header:
//
//	#define CONFIG_FILE "config.h"
//	#define PARAMS (3, (0, 8, <lib/detail/step.hpp>))
type headerMacro struct {
	macro string
	name  string
	angle bool
}

// wordMacro is a macro that may stand for a part of a header's name:
//
//	#define COMPILER_DIR gcc
//	#define LIST_HEADER CAT(list, LIST_SIZE).hpp
type wordMacro struct{ macro, text string }

// foundMacro is a headerMacro, or a wordMacro, that still points into a source.
type foundMacro struct {
	macro, name []byte
	angle       bool
	word        bool
}

// Bounds on what is kept of one file's macros: configuration headers of large
// projects have some dozen.
const (
	maxHeaderMacros = 1024
	maxOperands     = 64
)

// headerMacro looks at the definition of the macro name, which goes on at at.
func (s *scanner) headerMacro(name []byte, at int) {
	src := s.src
	if bytes.HasPrefix(src[min(at, len(src)):], []byte("()")) {
		at += 2
	}
	if len(name) == 0 || at >= len(src) || src[at] == '(' {
		return
	}
	if at = s.blanks(at); at >= len(src) {
		return
	}
	switch src[at] {
	case '"', '<':
		header, angle, end := s.headerName(at)
		end = s.blanks(end)
		if end == len(src) || src[end] == '\n' || bytes.HasPrefix(src[end:], []byte("//")) {
			s.addMacro(name, header, angle)
		}
	case '(':
		// Parameters for a macro that includes.
		text, _ := s.shortLine(at, 8*maxWordMacro)
		for len(text) > 0 {
			i := bytes.IndexAny(text, "\"<")
			if i < 0 {
				return
			}
			closing := byte('"')
			if text[i] == '<' {
				closing = '>'
			}
			end := bytes.IndexByte(text[i+1:], closing)
			if end < 0 {
				return
			}
			s.addMacro(name, text[i+1:i+1+end], closing == '>')
			text = text[i+end+2:]
		}
	default:
		s.wordMacro(name, at)
	}
}

// wordMacro looks at a definition that does not begin like a header's name.
func (s *scanner) wordMacro(name []byte, at int) {
	for _, c := range name {
		if !('A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_') {
			return // of the many macros, those that people put names together from
		}
	}
	line, ok := s.shortLine(at, 4*maxWordMacro)
	if !ok {
		return
	}
	if bytes.IndexByte(line, '\n') >= 0 || bytes.Contains(line, []byte("/*")) {
		line = plainLine(line)
	}
	if comment := bytes.Index(line, []byte("//")); comment >= 0 {
		line = line[:comment]
	}
	if line = bytes.TrimSpace(line); len(line) == 0 || len(line) > maxWordMacro {
		return
	}
	lower, apart, digits := bytes.IndexByte(line, '/') > 0 && line[0] != '(', false, len(line) <= 3
	for _, c := range line {
		if !wordMacroByte[c] {
			return
		}
		lower = lower || 'a' <= c && c <= 'z'
		apart = apart || !isWord(c)
		digits = digits && '0' <= c && c <= '9'
	}
	// A number that is small, a word, or what has letters as files do: not the
	// values and expressions that most macros are.
	if (digits || lower || !apart && (line[0] < '0' || line[0] > '9')) && len(s.macros) < maxHeaderMacros {
		s.macros = append(s.macros, foundMacro{macro: name, name: line, word: true})
	}
}

// shortLine is the rest of the logical line at i; ok is false, and the line nil,
// where that has more than most bytes. Texts may have many directives in one
// line, behind comments.
func (s *scanner) shortLine(i, most int) (line []byte, ok bool) {
	window := scanner{src: s.src[i:min(i+most+1, len(s.src))]}
	if end := window.lineEnd(0); end <= most {
		return window.src[:end], true
	}
	return nil, false
}

// plainLine is a logical line without splices and block comments.
func plainLine(line []byte) []byte {
	plain := make([]byte, 0, len(line))
	for i := 0; i < len(line); {
		if line[i] == '\\' {
			if end := spliceEnd(line, i); end > 0 {
				i = end
				continue
			}
		}
		if bytes.HasPrefix(line[i:], []byte("/*")) {
			end := bytes.Index(line[i+2:], []byte("*/"))
			if end < 0 {
				break
			}
			plain = append(plain, ' ')
			i += end + 4
			continue
		}
		plain = append(plain, line[i])
		i++
	}
	return plain
}

// maxWordMacro bounds the text of a wordMacro.
const maxWordMacro = 128

var wordMacroByte = func() (t [256]bool) {
	for c := range t {
		t[c] = wordByte[c] && c < 0x80 || strings.IndexByte("./+-(), \t", byte(c)) >= 0
	}
	return t
}()

// addMacro notes a macro if its text looks like a header's name.
func (s *scanner) addMacro(macro, name []byte, angle bool) {
	if len(s.macros) < maxHeaderMacros && likeHeader(name, angle) {
		s.macros = append(s.macros, foundMacro{macro: macro, name: name, angle: angle})
	}
}

// likeHeader tells names of headers from other strings, such as versions and
// formats.
func likeHeader(name []byte, angle bool) bool {
	if len(name) == 0 || len(name) > 1024 || bytes.ContainsAny(name, " \t\n\\%\"<>()") {
		return false
	}
	if angle || bytes.IndexByte(name, '/') >= 0 {
		return true
	}
	dot := bytes.LastIndexByte(name, '.')
	return dot >= 0 && dot+1 < len(name) && 'a' <= name[dot+1]|0x20 && name[dot+1]|0x20 <= 'z'
}

// computedOperand notes what stands for the name at i: a macro, or the text that
// makes one.
func (s *scanner) computedOperand(i int) {
	word, end := s.word(i)
	if end = s.blanks(end); end < len(s.src) && s.src[end] != '\n' && s.src[end] != ')' && s.src[end] != '/' {
		// The call of a macro, or several words.
		word, _ = s.shortLine(i, 4*maxWordMacro)
		if comment := bytes.Index(word, []byte("//")); comment >= 0 {
			word = word[:comment]
		}
		if word = bytes.TrimSpace(word); len(word) > maxWordMacro {
			word = nil
		}
	}
	if len(s.out.operands) >= maxOperands {
		word = nil
	}
	if name := string(word); !slices.Contains(s.out.operands, name) {
		s.out.operands = append(s.out.operands, name)
	}
}

// wordBit is the bit of a macro's name in FileScan.wordNames.
func wordBit(macro string) uint64 {
	h := uint32(len(macro))
	for i := 0; i < len(macro); i++ {
		h = h*31 + uint32(macro[i])
	}
	return 1 << (h >> 26)
}

// finishMacros makes what was collected compact: all names share one string.
func (s *scanner) finishMacros() {
	distinct, n, words := s.distinctMacros(), 0, 0
	for _, m := range distinct {
		n += len(m.macro) + len(m.name)
		if m.word {
			words++
		}
	}
	if len(distinct) == 0 {
		return
	}
	var all strings.Builder
	all.Grow(n)
	for _, m := range distinct {
		all.Write(m.macro)
		all.Write(m.name)
	}
	text := all.String()
	cut := func(n int) (head string) {
		head, text = text[:n], text[n:]
		return head
	}
	s.out.words = make([]wordMacro, 0, words)
	s.out.headers = make([]headerMacro, 0, len(distinct)-words)
	for _, m := range distinct {
		macro, name := cut(len(m.macro)), cut(len(m.name))
		if m.word {
			s.out.words = append(s.out.words, wordMacro{macro, name})
			s.out.wordNames |= wordBit(macro)
		} else {
			s.out.headers = append(s.out.headers, headerMacro{macro, name, m.angle})
		}
	}
}

// distinctMacros drops the macros that were found before, maybe in another
// reading.
func (s *scanner) distinctMacros() []foundMacro {
	if len(s.macros) < 2 {
		return s.macros
	}
	// A table with open addressing: for each place one more than the index of a
	// macro in distinct, at most half of them taken.
	size := 4
	for size < 2*len(s.macros) {
		size *= 2
	}
	s.places = slices.Grow(s.places[:0], size)[:size]
	clear(s.places)
	distinct := s.macros[:0]
next:
	for _, m := range s.macros {
		at := int(maphash.Bytes(macroSeed, m.macro)) & (size - 1)
		for ; s.places[at] != 0; at = (at + 1) & (size - 1) {
			if distinct[s.places[at]-1].equal(m) {
				continue next
			}
		}
		distinct = append(distinct, m)
		s.places[at] = int32(len(distinct))
	}
	return distinct
}

var macroSeed = maphash.MakeSeed()

func (m foundMacro) equal(o foundMacro) bool {
	return m.angle == o.angle && m.word == o.word && bytes.Equal(m.macro, o.macro) && bytes.Equal(m.name, o.name)
}
