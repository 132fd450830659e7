package compiler

import "bytes"

// capital handles words that start with D, T or G and so could be DATE, TIME,
// TIMESTAMP (to be joined with underscores by ##), or the GCC of a pragma that
// a macro makes.
func (s *scanner) capital(i int) int {
	if i > 0 && isWord(s.src[i-1]) {
		return i + 1
	}
	word, end := s.word(i)
	switch string(word) {
	case "DATE":
		s.out.timeWord |= wordDate
	case "TIME":
		s.out.timeWord |= wordTime
	case "TIMESTAMP":
		s.out.timeWord |= wordTimestamp
	case "GCC":
		return s.vendorPragma(end)
	default:
		s.timePiece(i, end)
	}
	return s.aliasUse(i, end)
}

var timeMacros = [...]string{"__DATE__", "__TIME__", "__TIMESTAMP__"}

// timeWordOrPrefix handles a word that starts with __D or __T.
func (s *scanner) timeWordOrPrefix(word []byte) {
	for which, m := range timeMacros {
		// Of two pieces that make a name, one is a prefix of four bytes or more
		// or else the other a suffix that timePiece knows.
		if len(word) >= 4 && len(word) <= len(m) && m[:len(word)] == string(word) {
			s.usesTime(which)
		}
	}
}

// timePiece handles the word that ends at end and contains src[i:end]: a
// suffix of a time macro, or its middle, to be joined to the rest by ##.
func (s *scanner) timePiece(i, end int) {
	src := s.src
	start := i
	for start > 0 && end-start < len("__TIMESTAMP__") && isWord(src[start-1]) {
		start--
	}
	if start > 0 && isWord(src[start-1]) {
		return // too long
	}
	word := src[start:end]
	for which, m := range timeMacros {
		suffix := len(word) >= len("TE__") && len(word) < len(m) && m[len(m)-len(word):] == string(word)
		middle := len(word) >= len("DATE_") && (word[0] == '_' || word[len(word)-1] == '_') && bytes.Contains([]byte(m), word)
		if suffix || middle {
			s.usesTime(which)
		}
	}
}

func (s *scanner) usesTime(which int) {
	switch which {
	case 0:
		s.out.Date = true
	case 1:
		s.out.Time = true
	case 2:
		s.out.Timestamp = true
	}
}

// hash handles # within a line: only ## matters.
func (s *scanner) hash(i int) int {
	if i+1 < len(s.src) && s.src[i+1] == '#' {
		s.paste(i, i+2)
		return i + 2
	}
	return i + 1
}

// paste handles a ## operator at [i,end): if underscores alone, or with the
// begin of a name, are joined to something, a bare DATE elsewhere is enough.
func (s *scanner) paste(i, end int) {
	before := s.wordBefore(s.blanksBefore(i))
	if isTimePrefix(before) {
		s.out.timePaste = true
		return
	}
	after, _ := s.word(s.blanks(end))
	switch string(after) {
	case "_", "__", "E__", "P__", "TE__", "ME__", "MP__":
		s.out.timePaste = true
	}
}

func isTimePrefix(w []byte) bool {
	switch string(w) {
	case "_", "__", "__D", "__T":
		return true
	}
	return false
}
