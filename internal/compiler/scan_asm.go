package compiler

import (
	"bytes"
	"slices"
)

// AsmFile is the operand of an .incbin or .include directive that is written
// out, whoever reads it.
type AsmFile struct {
	Name string
	// Text is true for .include: the file may hold directives of its own.
	Text bool
}

// The assembler's directives that read files. Assemblers do not heed case.
var (
	asmIncbin  = []byte("incbin")
	asmInclude = []byte("include")
)

// hasPrefixFold is bytes.HasPrefix for a prefix in lower case.
func hasPrefixFold(b, prefix []byte) bool {
	return len(b) >= len(prefix) && bytes.EqualFold(b[:len(prefix)], prefix)
}

// dot looks for the assembler's directives in code: in assembler sources, or to
// be made a string by a macro. Members named include are told apart.
func (s *scanner) dot(i int) int {
	src, rest := s.src, s.src[i+1:]
	switch {
	case hasPrefixFold(rest, asmIncbin):
		return i + 1 + len(asmIncbin) + s.asmOperand(rest[len(asmIncbin):], false)
	case hasPrefixFold(rest, asmInclude):
		if i > 0 && (isWord(src[i-1]) || src[i-1] == ')' || src[i-1] == ']') {
			break
		}
		next := s.blanks(i + 1 + len(asmInclude))
		if next < len(src) && src[next] == '=' {
			break
		}
		return i + 1 + len(asmInclude) + s.asmOperand(rest[len(asmInclude):], true)
	case len(rest) > 0 && rest[0] == '\\' && spliceEnd(src, i+1) == 0:
		// The argument of an assembler's macro, as in .\op.
		s.asmOpaque()
	default:
		// The begin of a directive, alone in a macro's argument, may be made a
		// string and joined to the rest.
		before := s.blanksBefore(i)
		word, end := s.word(i + 1)
		if before > 0 && (src[before-1] == '(' || src[before-1] == ',') && isAsmBegin(word) {
			if next := s.blanks(end); next < len(src) && (src[next] == ')' || src[next] == ',' || src[next] == '#') && s.hasAsm() {
				s.asmOpaque()
			}
		}
	}
	return i + 1
}

// isAsmBegin reports whether word is the begin of a directive, or nothing.
func isAsmBegin(word []byte) bool {
	return hasPrefixFold(asmInclude, bytes.ToLower(word)) || hasPrefixFold(asmIncbin, bytes.ToLower(word))
}

// asmOpaque notes a directive whose operand cannot be told.
func (s *scanner) asmOpaque() { s.out.AsmInclude, s.out.AsmOpaque = true, true }

// asmOperand reads the operand of a directive at the begin of text and returns
// how much of text it is, 0 if it cannot be told. Quotes are escaped where the
// whole is a string literal. What else than a plain name may change on the way
// to the assembler: escapes, operands of extended assembly (%0, {a|b}),
// arguments of the assembler's own macros.
func (s *scanner) asmOperand(text []byte, include bool) int {
	rest := text
	for {
		if len(rest) > 0 && (rest[0] == ' ' || rest[0] == '\t') {
			rest = rest[1:]
		} else if bytes.HasPrefix(rest, []byte(`\t`)) {
			rest = rest[2:]
		} else {
			break
		}
	}
	quote := []byte(`"`)
	if bytes.HasPrefix(rest, []byte(`\"`)) {
		quote = rest[:2]
	}
	if !bytes.HasPrefix(rest, quote) {
		s.asmOpaque()
		return 0
	}
	rest = rest[len(quote):]
	end := bytes.Index(rest, quote)
	if end <= 0 || bytes.ContainsAny(rest[:end], "\\\"%{|}\n") {
		s.asmOpaque()
		return 0
	}
	s.out.AsmInclude = true
	if f := (AsmFile{string(rest[:end]), include}); !slices.Contains(s.out.AsmFiles, f) {
		s.out.AsmFiles = append(s.out.AsmFiles, f)
	}
	return len(text) - len(rest) + end + len(quote)
}

// stringText looks into a string literal for text that could make the
// assembler read a file. The literal begins at at, and next is behind it.
func (s *scanner) stringText(text []byte, at, next int) {
	if s.out.AsmOpaque {
		return
	}
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case 'i', 'I':
			switch rest := text[i:]; {
			case hasPrefixFold(rest, asmIncbin):
				if i > 0 && text[i-1] == '.' {
					s.asmOperand(rest[len(asmIncbin):], false)
				} else {
					s.asmOpaque() // the name of a macro, perhaps
				}
			case i > 0 && text[i-1] == '.' && hasPrefixFold(rest, asmInclude):
				s.asmOperand(rest[len(asmInclude):], true)
			}
		case '\\':
			if escapeOfDirective(text[i:]) && s.hasAsm() {
				s.asmOpaque()
			}
			// A macro's argument behind a dot; ".\\?" is a path on Windows.
			if i > 0 && text[i-1] == '.' && i+2 < len(text) && text[i+1] == '\\' &&
				(isWord(text[i+2]) || text[i+2] == '(' || text[i+2] == '@') && s.hasAsm() {
				s.asmOpaque()
			}
			i++
		}
	}
	s.splitText(text, at, next)
}

// escapeOfDirective reports whether the escape at the begin of text stands for
// a character of the directives: nobody writes them so who has nothing to hide.
func escapeOfDirective(text []byte) bool {
	digits, base := text[1:], 8
	if len(digits) > 0 && bytes.IndexByte([]byte("xuU"), digits[0]) >= 0 {
		digits, base = digits[1:], 16
	}
	value, n := 0, 0
	for ; n < len(digits) && value < 1<<20 && (base == 16 || n < 3); n++ {
		d := bytes.IndexByte([]byte("0123456789abcdef"), digits[n]|0x20)
		if digits[n] <= '9' {
			d = int(digits[n]) - '0'
		}
		if d < 0 || d >= base {
			break
		}
		value = value*base + d
	}
	return n > 0 && value < 0x80 && bytes.IndexByte([]byte(".includebINCLUDEB"), byte(value)) >= 0
}

// hasAsm reports whether the text may hold assembly; the answer is kept, since
// it reads all of the text.
func (s *scanner) hasAsm() bool {
	if s.asm == asmUnknown {
		s.asm = asmNone
		if bytes.Contains(s.src, []byte("asm")) || bytes.Contains(s.src, []byte("ASM")) {
			s.asm = asmFound
		}
	}
	return s.asm == asmFound
}

type asmPresence uint8

const (
	asmUnknown asmPresence = iota
	asmNone
	asmFound
)
