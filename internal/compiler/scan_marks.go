package compiler

import (
	"encoding/binary"
)

// marks are the places of a text at which more may stand than its quotes,
// comments and directives. They come from a quick look at the whole text, in
// which a table of pairs of bytes tells where to look closer. A mark may turn out
// to mean nothing; where no mark is, there is nothing for the main loop but what
// scanner.scan looks for itself.
type marks struct {
	// words lie within words, or on dots, that the main loop has to see, in
	// ascending order.
	words []int
	// directives are where "include" and "incbin" begin, in any case.
	directives []int
	// returns, nulls and trigraphs are set where the text may have several
	// readings; backslashes where it has a backslash.
	returns, nulls, trigraphs, backslashes bool
	// everywhere is set where the main loop has to see every byte.
	everywhere bool
}

// pairKinds is a set of what a pair of bytes may be a part of. Of the pairs at
// even places each piece that is looked for must have one: so of three bytes of
// it the first two and the last two are such pairs.
type pairKinds uint8

const (
	pairName    pairKinds = 1 << iota // include, incbin, in any case
	pairEmbed                         // __has_embed
	pairPragma                        // _Pragma
	pairTime                          // a piece of __DATE__ or its like
	pairGCC                           // GCC
	pairModule                        // import, module
	pairDot                           // a dot within what may be a macro's parentheses
	pairSpecial                       // \r, NUL, ?, %, backslash
)

// pairs is indexed by two bytes as a little-endian number.
var pairs = func() *[1 << 16]pairKinds {
	t := new([1 << 16]pairKinds)
	for _, of := range []struct {
		kind  pairKinds
		pairs []string
	}{
		{pairName, []string{"cl", "lu", "cb", "bi"}},
		{pairEmbed, []string{"mb", "be"}},
		{pairPragma, []string{"_P", "Pr"}},
		{pairTime, []string{"DA", "AT", "TI", "IM", "MP", "P_", "TE", "ME", "E_"}},
		{pairGCC, []string{"GC", "CC"}},
		{pairModule, []string{"mp", "po", "od", "du"}},
	} {
		for _, p := range of.pairs {
			t[pairOf(p[0], p[1])] |= of.kind
			if of.kind == pairName {
				for fold := range byte(4) {
					t[pairOf(p[0]-fold&1<<5, p[1]-fold>>1<<5)] |= of.kind
				}
			}
		}
	}
	for c := range 256 {
		if c := byte(c); !isWord(c) {
			// __DA and __TI may be words of their own.
			t[pairOf('A', c)] |= pairTime
			t[pairOf('I', c)] |= pairTime
		}
		for _, special := range []byte("\r\x00?%\\") {
			t[pairOf(special, byte(c))] |= pairSpecial
			t[pairOf(byte(c), special)] |= pairSpecial
		}
	}
	for _, before := range []byte("(, \t\f\v\x00") {
		t[pairOf(before, '.')] |= pairDot
	}
	for _, behind := range []byte("),#iI \t\f\v\x00\\/") {
		t[pairOf('.', behind)] |= pairDot
	}
	return t
}()

func pairOf(a, b byte) uint16 { return uint16(a) | uint16(b)<<8 }

// find looks for the marks of a text.
func (m *marks) find(text []byte) {
	*m = marks{words: m.words[:0], directives: m.directives[:0]}
	// One byte in a thousand is marked as a rule. A text that has far more is
	// read from end to end.
	most := 1024 + len(text)/64
	t, at := pairs, 0
	for ; at+8 <= len(text); at += 8 {
		w := binary.LittleEndian.Uint64(text[at:])
		a, b, c, d := t[uint16(w)], t[uint16(w>>16)], t[uint16(w>>32)], t[uint16(w>>48)]
		if a|b|c|d == 0 {
			continue
		}
		if len(m.words) > most {
			m.everywhere = true
		}
		for n, kinds := range [4]pairKinds{a, b, c, d} {
			if kinds != 0 {
				m.look(text, at+2*n, kinds)
			}
		}
	}
	for ; at < len(text); at += 2 {
		if kinds := t[pairOf(text[at], byteAt(text, at+1, ' '))]; kinds != 0 {
			m.look(text, at, kinds)
		}
	}
}

// byteAt is the byte of a text at at, or another where the text has ended.
func byteAt(text []byte, at int, other byte) byte {
	if at < len(text) {
		return text[at]
	}
	return other
}

// look looks closer at the pair at at.
func (m *marks) look(text []byte, at int, kinds pairKinds) {
	if kinds&pairSpecial != 0 {
		m.special(text, at)
		if at+1 < len(text) {
			m.special(text, at+1)
		}
	}
	if m.everywhere {
		return
	}
	switch {
	case kinds&pairName != 0 && m.name(text, at),
		kinds&pairTime != 0 && isTimePiece(text, at),
		kinds&pairEmbed != 0 && (standsAt(text, at-1, "embed") || standsAt(text, at-2, "embed")),
		kinds&pairPragma != 0 && (standsAt(text, at, "_Pragma") || standsAt(text, at-1, "_Pragma")),
		kinds&pairGCC != 0 && (isWholeWord(text, at, "GCC") || isWholeWord(text, at-1, "GCC")):
		m.words = append(m.words, at)
	}
	if kinds&pairModule != 0 {
		m.module(text, at)
	}
	if kinds&pairDot != 0 {
		if text[at] != '.' {
			at++
		}
		if at > 0 && at+1 < len(text) && pairs[pairOf(text[at-1], '.')]&pairDot != 0 && pairs[pairOf('.', text[at+1])]&pairDot != 0 {
			m.words = append(m.words, at)
		}
	}
}

// standsAt reports whether a word stands in a text at at.
func standsAt(text []byte, at int, word string) bool {
	return at >= 0 && len(text)-at >= len(word) && string(text[at:at+len(word)]) == word
}

// isWholeWord reports whether it also is a word of its own.
func isWholeWord(text []byte, at int, word string) bool {
	return standsAt(text, at, word) && (at == 0 || !isWord(text[at-1])) && !isWord(byteAt(text, at+len(word), ' '))
}

// name notes a name of the assembler's directives. They are parts of the
// preprocessor's words, too: __has_include, PROJECT_HAS_INCLUDE.
func (m *marks) name(text []byte, at int) bool {
	for _, of := range []struct {
		name  []byte
		begin int
	}{{asmInclude, at - 2}, {asmInclude, at - 3}, {asmIncbin, at - 2}, {asmIncbin, at - 3}} {
		if of.begin >= 0 && hasPrefixFold(text[of.begin:], of.name) {
			m.directives = append(m.directives, of.begin)
			return true
		}
	}
	return false
}

// isTimePiece reports whether the pair is in a piece of __DATE__, __TIME__ or
// __TIMESTAMP__ that timeWordOrPrefix, timePiece or capital could know: each word
// that these know has one of them.
func isTimePiece(text []byte, at int) bool {
	switch text[at] {
	case 'D':
		return standsAt(text, at, "DATE") || standsAt(text, at-2, "__DA")
	case 'A':
		return standsAt(text, at-1, "DATE") || standsAt(text, at-3, "__DA")
	case 'T':
		return standsAt(text, at, "TIME") || standsAt(text, at-2, "__TI") || standsAt(text, at, "TE__")
	case 'I':
		return standsAt(text, at-1, "TIME") || standsAt(text, at-3, "__TI")
	case 'M':
		return standsAt(text, at-2, "TAMP_") || standsAt(text, at, "MP__") || standsAt(text, at, "ME__")
	case 'P':
		return standsAt(text, at-3, "TAMP_") || standsAt(text, at-1, "MP__")
	case 'E':
		return standsAt(text, at-1, "TE__") || standsAt(text, at-1, "ME__")
	}
	return false
}

// module lets the main loop see all of a text in which a line may be one of a
// C++20 module, or an Objective-C @import.
func (m *marks) module(text []byte, at int) {
	begin := at - 1
	if text[at] == 'p' || text[at] == 'd' {
		begin--
	}
	if !isWholeWord(text, begin, "import") && !isWholeWord(text, begin, "module") {
		return
	}
	for begin > 0 && isBlank(text[begin-1]) {
		begin--
	}
	if begin == 0 {
		m.everywhere = true
		return
	}
	switch text[begin-1] {
	case '\n', '\r', '/', '@':
		m.everywhere = true
	case 't':
		m.everywhere = m.everywhere || standsAt(text, begin-len("export"), "export")
	}
}

// special notes the bytes by which a text has several readings, and those that
// are too rare for the main loop to be quick about.
func (m *marks) special(text []byte, at int) {
	switch text[at] {
	case '\r':
		m.returns = true
	case 0:
		m.nulls = true
	case '?':
		m.trigraphs = m.trigraphs || byteAt(text, at+1, 0) == '?'
	case '%':
		m.everywhere = m.everywhere || byteAt(text, at+1, 0) == ':'
	case '\\':
		m.backslashes = true
		if at > 0 && text[at-1] == '.' && !m.everywhere {
			m.words = append(m.words, at-1)
		}
	}
}
