package compiler

import "bytes"

// directive handles the directive whose # (or %:) ends before i, and returns
// where the main loop goes on: behind the operand, if there is one that it must
// not read, else behind the name.
func (s *scanner) directive(i int) int {
	i = s.blanks(i)
	name, end := s.word(i)
	if len(name) == 0 {
		return i
	}
	switch string(name) {
	case "include":
		return s.operand(Include, end)
	case "include_next":
		return s.operand(IncludeNext, end)
	case "import":
		return s.operand(Import, end)
	case "embed":
		return s.operand(Embed, end)
	case "pragma":
		return s.pragma(s.blanks(end))
	case "define":
		return s.define(s.blanks(end), i)
	case "line":
		s.out.LineMarkers = true
	case "error", "warning":
		// clang reads the rest of the line as it is: a comment does not start
		// there, nor a literal.
		eol := s.lineEnd(end)
		if bytes.Contains(s.src[end:eol], []byte("/*")) {
			s.doubts |= errorTokens
			if s.dialect&errorTokens != 0 {
				return end
			}
		}
		return eol
	default:
		if '0' <= name[0] && name[0] <= '9' {
			s.out.LineMarkers = true
			return end
		}
		return i // the word may be one that the main loop looks for
	}
	return end
}

// define looks at the definition of the macro that is named at i for an alias of
// __has_include, and returns where to go on: at word if it is none.
func (s *scanner) define(i, word int) int {
	name, at := s.word(i)
	s.headerMacro(name, at)
	kind, ok := aliasKind(name)
	if !ok {
		return word
	}
	parameter := []byte(nil)
	if at < len(s.src) && s.src[at] == '(' {
		if parameter, at, ok = s.soleArgument(at); !ok {
			return word
		}
		if string(parameter) == "..." {
			parameter = []byte("__VA_ARGS__")
		}
	}
	operator, at := s.word(s.blanks(at))
	if string(operator) != kind.String() {
		return word
	}
	if parameter != nil {
		argument, end, ok := s.soleArgument(s.blanks(at))
		if !ok || !bytes.Equal(argument, parameter) {
			return word
		}
		at = end
	}
	at = s.blanks(at)
	if at < len(s.src) && s.src[at] != '\n' && !bytes.HasPrefix(s.src[at:], []byte("//")) {
		return word
	}
	s.out.definesAlias = true
	return at
}

// soleArgument reads a word or an ellipsis in parentheses at i.
func (s *scanner) soleArgument(i int) (argument []byte, end int, ok bool) {
	if i >= len(s.src) || s.src[i] != '(' {
		return nil, i, false
	}
	i = s.blanks(i + 1)
	argument, end = s.word(i)
	if bytes.HasPrefix(s.src[i:], []byte("...")) {
		argument, end = s.src[i:i+3], i+3
	}
	end = s.blanks(end)
	if len(argument) == 0 || end >= len(s.src) || s.src[end] != ')' {
		return nil, i, false
	}
	return argument, end + 1, true
}

// aliasKind says which operator a macro may stand for by its name. Macros of
// other names are no aliases: what they do is computed.
func aliasKind(name []byte) (DirectiveKind, bool) {
	switch {
	case bytes.HasSuffix(name, []byte("_INCLUDE")):
		return HasInclude, true
	case bytes.HasSuffix(name, []byte("_INCLUDE_NEXT")):
		return HasIncludeNext, true
	}
	return 0, false
}

// aliasUse handles the word that contains src[i:end] and ends at end, which may
// be an alias of __has_include, maybe one that another file defines.
func (s *scanner) aliasUse(i, end int) int {
	if c := s.src[end-1]; c != 'E' && c != 'T' {
		return end
	}
	kind, ok := aliasKind(s.src[i:end])
	if !ok {
		return end
	}
	for i > 0 && isWord(s.src[i-1]) {
		i--
	}
	if s.isMention(i) {
		return end
	}
	at := s.blanks(end)
	if at < len(s.src) && s.src[at] == '(' {
		if name, angle, after := s.headerName(s.blanks(at + 1)); name != nil {
			s.add(kind, angle, name)
			return after
		}
	}
	s.out.computesAlias = true
	return end
}

// operand reads the operand of an include-like directive at i.
func (s *scanner) operand(kind DirectiveKind, i int) int {
	i = s.blanks(i)
	name, angle, end := s.headerName(i)
	if name != nil {
		s.add(kind, angle, name)
		return end
	}
	if i < len(s.src) && s.src[i] != '\n' {
		s.out.ComputedInclude = true
		s.computedOperand(i)
	}
	return i
}

// headerName reads <name> or "name" at i; name is nil if there is neither. The
// end of the line ends it, and nothing escapes the closing delimiter.
func (s *scanner) headerName(i int) (name []byte, angle bool, end int) {
	src := s.src
	if i >= len(src) || src[i] != '"' && src[i] != '<' {
		return nil, false, i
	}
	closing := byte('"')
	if src[i] == '<' {
		closing = '>'
	}
	for end = i + 1; end < len(src) && src[end] != '\n'; end++ {
		if src[end] == closing {
			return src[i+1 : end], closing == '>', end + 1
		}
	}
	return nil, false, i
}

// add notes a literal directive. An empty name is an error to every compiler.
func (s *scanner) add(kind DirectiveKind, angle bool, name []byte) {
	if len(name) == 0 {
		return
	}
	const few = 16
	if len(s.found) <= few {
		for i := range s.found {
			if d := &s.found[i]; d.kind == kind && d.angle == angle && bytes.Equal(d.name, name) {
				d.repeated = true
				return
			}
		}
	} else {
		if s.index == nil {
			s.index = make(map[foundKey]int)
			for i, d := range s.found {
				s.index[foundKey{d.kind, d.angle, string(d.name)}] = i
			}
		}
		key := foundKey{kind, angle, string(name)}
		if i, ok := s.index[key]; ok {
			s.found[i].repeated = true
			return
		}
		s.index[key] = len(s.found)
	}
	s.found = append(s.found, foundDirective{kind: kind, angle: angle, name: name})
}

// pragma reads the text of a pragma at i: behind #pragma, or within the literal
// of a _Pragma.
func (s *scanner) pragma(i int) int {
	name, end := s.word(i)
	switch string(name) {
	case "once":
		s.out.PragmaOnce = true
	case "system_header":
		// An old spelling without its name space.
		s.out.PragmaSystemHeader = true
	case "dependency":
		s.out.PragmaDependency = true
	case "GCC", "clang":
		return s.vendorPragma(end)
	default:
		return i
	}
	return end
}

// vendorPragma reads what follows GCC or clang in a pragma.
func (s *scanner) vendorPragma(i int) int {
	name, end := s.word(s.blanks(i))
	switch string(name) {
	case "system_header":
		s.out.PragmaSystemHeader = true
	case "dependency":
		s.out.PragmaDependency = true
	case "pch_preprocess":
		s.out.PragmaPCH = true
	case "module":
		s.out.Module = true
	default:
		return i
	}
	return end
}

// underscore handles the words that start with an underscore; within a word,
// only how it ends.
func (s *scanner) underscore(i int) int {
	src := s.src
	if i > 0 && isWord(src[i-1]) {
		_, end := s.word(i)
		if src[end-1] == '_' {
			s.timePiece(i, end)
		}
		return s.aliasUse(i, end)
	}
	word, end := s.word(i)
	if len(word) < 3 {
		return end
	}
	switch word[1] {
	case 'P':
		if string(word) == "_Pragma" {
			return s.pragmaOperator(end)
		}
	case '_':
		switch word[2] {
		case 'D', 'T':
			s.timeWordOrPrefix(word)
		case 'h':
			if bytes.HasPrefix(word, []byte("__has_")) {
				return s.hasOperator(i, word, end)
			}
		}
	case 'D', 'T':
		s.timePiece(i, end)
	}
	return s.aliasUse(i, end)
}

// hasOperator handles __has_include and its kin, which stand at i.
func (s *scanner) hasOperator(i int, word []byte, end int) int {
	var kind DirectiveKind
	switch string(word) {
	case "__has_include", "__has_include__":
		kind = HasInclude
	case "__has_include_next", "__has_include_next__":
		kind = HasIncludeNext
	case "__has_embed":
		kind = HasEmbed
	default:
		return end
	}
	if s.isMention(i) {
		return end
	}
	at := s.blanks(end)
	if at < len(s.src) && s.src[at] == '(' {
		at = s.blanks(at + 1)
	}
	name, angle, after := s.headerName(at)
	if name == nil {
		s.out.ComputedHasInclude = true
		s.computedOperand(at)
		return end
	}
	s.add(kind, angle, name)
	return after
}

// isMention reports whether the word at i is only asked for or defined, as in
// `#ifdef __has_include` or `defined(__has_include)`. It looks back within the
// line; what it does not understand is a use.
func (s *scanner) isMention(i int) bool {
	i = s.blanksBefore(i)
	if i > 0 && s.src[i-1] == '(' {
		i = s.blanksBefore(i - 1)
		return string(s.wordBefore(i)) == "defined"
	}
	switch string(s.wordBefore(i)) {
	case "defined", "ifdef", "ifndef", "elifdef", "elifndef", "define", "undef":
		return true
	}
	return false
}

// lookBack bounds each look behind the scanner's position, so that time stays
// linear in texts made of blanks.
const lookBack = 64

func (s *scanner) blanksBefore(i int) int {
	for n := 0; i > 0 && isBlank(s.src[i-1]) && n < lookBack; n++ {
		i--
	}
	return i
}

func (s *scanner) wordBefore(i int) []byte {
	start := i
	for start > 0 && isWord(s.src[start-1]) && i-start < lookBack {
		start--
	}
	return s.src[start:i]
}

// pragmaOperator handles the operand of _Pragma at i. One that is made by
// macros is found by its words: see capital.
func (s *scanner) pragmaOperator(i int) int {
	at := s.blanks(i)
	if at >= len(s.src) || s.src[at] != '(' {
		return i
	}
	prefix, at := s.word(s.blanks(at + 1))
	if at < len(s.src) && s.src[at] == '"' {
		at++
		if bytes.HasSuffix(prefix, []byte("R")) {
			for at < len(s.src) && s.src[at-1] != '(' && s.src[at] != '\n' {
				at++
			}
		}
		s.pragma(s.blanks(at))
	}
	return i
}
