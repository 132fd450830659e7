package compiler

import "bytes"

// str handles a string literal, raw or plain, that starts at i.
func (s *scanner) str(i int) int {
	if s.dialect&noRawStrings == 0 && isRawPrefix(s.src, i) {
		if end := s.rawString(i); end > 0 {
			return end
		}
	}
	end := s.literalEnd(i, '"')
	next := s.afterLiteral(end, '"')
	if i >= s.muted {
		s.stringText(s.src[i+1:end], i, next)
	}
	return next
}

// char handles a character literal, or an apostrophe within a number.
func (s *scanner) char(i int) int {
	if s.dialect&noSeparators == 0 && isDigitSeparator(s.src, i) {
		s.doubts |= noSeparators
		return i + 1
	}
	return s.afterLiteral(s.literalEnd(i, '\''), '\'')
}

// literalEnd returns the index of the quote that closes the literal at i, or
// of the end of the logical line if nothing closes it: that is where gcc and
// clang end it too.
func (s *scanner) literalEnd(i int, quote byte) int {
	src := s.src
	for i++; i < len(src); i++ {
		switch src[i] {
		case quote, '\n':
			return i
		case '\\':
			if end := spliceEnd(src, i); end > 0 {
				i = end - 1
			} else {
				i++
			}
		}
	}
	return len(src)
}

func (s *scanner) afterLiteral(end int, quote byte) int {
	if end < len(s.src) && s.src[end] == quote {
		return end + 1
	}
	return end
}

// isRawPrefix reports whether the quote at i follows R, LR, uR, UR or u8R.
func isRawPrefix(src []byte, i int) bool {
	if i == 0 || src[i-1] != 'R' {
		return false
	}
	start := i - 1
	for start > 0 && i-start < 5 && isWord(src[start-1]) {
		start--
	}
	switch string(src[start:i]) {
	case "R", "LR", "uR", "UR", "u8R":
		return true
	}
	return false
}

// rawString handles a raw string whose quote is at i and returns where it
// ends, or 0 if it is none.
func (s *scanner) rawString(i int) int {
	src := s.src
	open := i + 1
	for open < len(src) && open-i <= 17 && src[open] != '(' {
		if c := src[open]; isSpace(c) || c == ')' || c == '\\' {
			return 0
		}
		open++
	}
	if open >= len(src) || src[open] != '(' || s.rawMisses >= maxRawMisses {
		return 0
	}
	closing := make([]byte, 0, 20)
	closing = append(closing, ')')
	closing = append(closing, src[i+1:open]...)
	closing = append(closing, '"')
	n := bytes.Index(src[open+1:], closing)
	if n < 0 {
		s.rawMisses++
		return 0
	}
	end := open + 1 + n
	s.stringText(src[open+1:end], i, end+len(closing))
	s.doubts |= noRawStrings
	return end + len(closing)
}

// isDigitSeparator reports whether the apostrophe at i stands within a number,
// as in 1'000 or 0xff'ff: between word bytes, in a word that starts with a
// digit. Numbers are short, so the way back is bounded.
func isDigitSeparator(src []byte, i int) bool {
	const longest = 128
	if i == 0 || i+1 >= len(src) || !isWord(src[i-1]) || !isWord(src[i+1]) {
		return false
	}
	start := i - 1
	for start > 0 && i-start < longest && (isWord(src[start-1]) || src[start-1] == '\'' || src[start-1] == '.') {
		start--
	}
	for start < i && (src[start] == '\'' || src[start] == '.') {
		start++
	}
	return '0' <= src[start] && src[start] <= '9'
}
