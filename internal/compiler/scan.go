package compiler

import (
	"bytes"
	"strings"
	"sync"
)

// DirectiveKind says how a directive looks for its file.
type DirectiveKind uint8

// The directives and operators that make a compiler look for a file.
const (
	Include DirectiveKind = iota + 1
	IncludeNext
	Import
	HasInclude
	HasIncludeNext
	Embed
	HasEmbed
)

func (k DirectiveKind) String() string {
	switch k {
	case Include:
		return "#include"
	case IncludeNext:
		return "#include_next"
	case Import:
		return "#import"
	case HasInclude:
		return "__has_include"
	case HasIncludeNext:
		return "__has_include_next"
	case Embed:
		return "#embed"
	case HasEmbed:
		return "__has_embed"
	}
	return "unknown"
}

// Directive is one distinct literal operand of an include-like directive.
type Directive struct {
	Kind DirectiveKind
	// Angle is true for <name>, false for "name".
	Angle bool
	// Repeated is true where the same directive stands in the file more than
	// once, or where its place depends on how the file is read; the list holds
	// it at the first place that was seen.
	Repeated bool
	// Name is what stands between the delimiters, escapes not interpreted (no
	// compiler does).
	Name string
}

// FileScan is what the text of one file can make a compiler look for. It
// ignores #if, so it says what may happen, never what does: everything is
// reported that any supported compiler, language mode or macro definition
// could make of the text. It is small, holds no part of the source, and is not
// changed after Scan, so that it can be shared and kept per content.
type FileScan struct {
	// Directives in the order of their first appearance, without duplicates.
	Directives []Directive

	// ComputedInclude: an include-like directive whose operand is a macro.
	ComputedInclude bool
	// ComputedHasInclude: __has_include or __has_embed with a macro for its
	// operand, or handed on by a macro.
	ComputedHasInclude bool
	// definesAlias: a macro like PROJECT_HAS_INCLUDE that stands for
	// __has_include. Its uses with literal operands are among the Directives;
	// computesAlias: another use of a macro of such a name, maybe in a file that
	// does not define it. See computedHasIncludes.
	definesAlias, computesAlias bool

	// Date, Time and Timestamp: the identifiers __DATE__, __TIME__ and
	// __TIMESTAMP__ outside comments, or pieces that ## could join to them
	// within this file. Pieces in different files are for TimeMacros.
	Date, Time, Timestamp bool
	// timePaste and timeWord are the halves of `__##x##__` with x = DATE,
	// which may stand in different files.
	timePaste bool
	timeWord  timeNames

	// AsmInclude: .incbin or .include could reach an assembler from here.
	// AsmFiles are their operands, and AsmOpaque is set if some is not written
	// out.
	AsmInclude, AsmOpaque bool
	AsmFiles              []AsmFile
	// split is for JoinsDirective.
	split splitParts
	// operands are what stands for the names in computed directives: a macro, or
	// the text that makes one, "" for too long a text. headers are macros that may
	// stand for such a name, words for a part of it, and wordNames has a bit for
	// the name of each of words. FindClosure guesses by them.
	operands  []string
	headers   []headerMacro
	words     []wordMacro
	wordNames uint64
	// Module: C++20 modules (import, module, export), @import, or
	// `#pragma clang module`.
	Module bool
	// LineMarkers: #line or `# 1 "file"`; the latter may change what counts as
	// a system header.
	LineMarkers bool

	PragmaOnce         bool // #pragma once
	PragmaSystemHeader bool // #pragma GCC (or clang) system_header
	PragmaDependency   bool // #pragma GCC dependency: reads a file's mtime
	PragmaPCH          bool // #pragma GCC pch_preprocess: reads a PCH
}

// timeNames is a set of DATE, TIME and TIMESTAMP.
type timeNames uint8

const (
	wordDate timeNames = 1 << iota
	wordTime
	wordTimestamp
)

// TimeMacros reports which of __DATE__, __TIME__ and __TIMESTAMP__ a compile
// of these files together may expand, names joined by ## included.
func TimeMacros(files []File) (date, time, timestamp bool) {
	var paste bool
	var words timeNames
	for i := range files {
		s := files[i].Scan
		date, time, timestamp = date || s.Date, time || s.Time, timestamp || s.Timestamp
		paste = paste || s.timePaste
		words |= s.timeWord
	}
	if paste {
		date = date || words&wordDate != 0
		time = time || words&wordTime != 0
		timestamp = timestamp || words&wordTimestamp != 0
	}
	return date, time, timestamp
}

// computedHasIncludes reports whether one of these files, together, may use
// __has_include on a name that only macros know.
func computedHasIncludes(files []File) bool {
	var defines, computes bool
	for i := range files {
		s := files[i].Scan
		if s.ComputedHasInclude {
			return true
		}
		defines, computes = defines || s.definesAlias, computes || s.computesAlias
	}
	return defines && computes
}

// Scan reads the text of a C-family or preprocessed-assembler source or header
// and reports what it may make a compiler look for. It never fails: what is
// not C reports whatever its lines happen to look like. Time is linear in
// len(src), memory in the number of distinct directives, and an eighth of the text
// at most for where to look.
//
// Where compilers or language modes read the same bytes differently (trigraphs,
// lone carriage returns, raw strings, …) the text is read once for each way,
// and the reports are united.
func Scan(src []byte) *FileScan {
	s := scanners.Get().(*scanner)
	defer s.release()
	s.out = new(FileScan)
	s.text(bytes.TrimPrefix(src, []byte("\xef\xbb\xbf")))
	s.finish()
	return s.out
}

// text adds all readings of a text.
func (s *scanner) text(src []byte) {
	s.marks.find(src)
	if m := &s.marks; !m.returns && !m.nulls && !m.trigraphs {
		s.scanDialects(src)
		if joined := s.joined(src); joined != nil {
			s.marks.find(joined)
			s.scanDialects(joined)
		}
		return
	}
	for _, text := range readings(src) {
		s.marks.find(text)
		s.scanDialects(text)
	}
}

func (s *scanner) joined(src []byte) []byte {
	if !s.marks.backslashes {
		return nil
	}
	return joinLines(src)
}

// scanners are kept for the room that they have.
var scanners = sync.Pool{New: func() any { return new(scanner) }}

// maxRoom bounds what a scanner that is kept has room for, in elements.
const maxRoom = 1 << 14

// release keeps the scanner's room, and nothing of the text.
func (s *scanner) release() {
	clear(s.found)
	clear(s.macros)
	m := &s.marks
	if cap(s.found) > maxRoom || cap(s.macros) > maxRoom || cap(m.words) > maxRoom || cap(m.directives) > maxRoom {
		return
	}
	*s = scanner{
		found: s.found[:0], macros: s.macros[:0], places: s.places,
		marks: marks{words: m.words[:0], directives: m.directives[:0]},
	}
	scanners.Put(s)
}

// readings returns the ways in which src must be read: nearly always src alone.
func readings(src []byte) [][]byte {
	crs := bytes.IndexByte(src, '\r') >= 0
	if crs {
		src = bytes.ReplaceAll(src, []byte("\r\n"), []byte{'\n'})
		crs = bytes.IndexByte(src, '\r') >= 0
	}
	texts := [][]byte{src}
	if bytes.IndexByte(src, 0) >= 0 {
		// NUL is a blank, for gcc even between a backslash and its newline.
		texts = append(texts, bytes.ReplaceAll(src, []byte{0}, []byte{' '}))
	}
	if crs {
		// A lone CR ends a line for clang and is a stray byte for gcc.
		for i, t := range texts {
			texts[i] = bytes.ReplaceAll(t, []byte{'\r'}, []byte{' '})
			texts = append(texts, bytes.ReplaceAll(t, []byte{'\r'}, []byte{'\n'}))
		}
	}
	if bytes.Contains(src, []byte("??")) {
		for _, t := range texts {
			if r := replaceTrigraphs(t); r != nil {
				texts = append(texts, r)
			}
		}
	}
	for _, t := range texts {
		if r := joinLines(t); r != nil {
			texts = append(texts, r)
		}
	}
	return texts
}

// replaceTrigraphs returns text with its trigraphs replaced, or nil if it has
// none that could matter here: # for directives and pasting, backslash for
// joined lines, and the one that would else look like a character literal.
func replaceTrigraphs(text []byte) []byte {
	replaced := bytes.ReplaceAll(text, []byte("??="), []byte{'#'})
	replaced = bytes.ReplaceAll(replaced, []byte("??/"), []byte{'\\'})
	replaced = bytes.ReplaceAll(replaced, []byte("??'"), []byte{'^'})
	if len(replaced) == len(text) {
		return nil
	}
	return replaced
}

// joinLines returns text without its line splices if one of them may split a
// word or an operator, else nil. The scanner follows splices at the end of
// comments, strings and directives by itself, which serves nearly all files;
// `__DA\⏎TE__` and `/\⏎*` need the text joined.
func joinLines(text []byte) []byte {
	if !splitsWord(text) {
		return nil
	}
	joined := make([]byte, 0, len(text))
	for {
		i, end := nextSplice(text)
		if i < 0 {
			return append(joined, text...)
		}
		joined = append(joined, text[:i]...)
		text = text[end:]
	}
}

// splitsWord reports whether some splice has a non-blank on both sides.
func splitsWord(text []byte) bool {
	for {
		i, end := nextSplice(text)
		if i < 0 {
			return false
		}
		if i > 0 && !isSpace(text[i-1]) && end < len(text) && !isSpace(text[end]) {
			return true
		}
		// The byte before the next splice may be the newline of this one: two
		// splices in a row join what stands around both.
		if i > 0 && !isSpace(text[i-1]) && end < len(text) && text[end] == '\\' {
			return true
		}
		text = text[end:]
	}
}

// nextSplice finds the first line splice: a backslash, blanks that compilers
// forgive, a newline. It returns -1 if there is none.
func nextSplice(text []byte) (start, end int) {
	for at := 0; ; {
		i := bytes.IndexByte(text[at:], '\\')
		if i < 0 {
			return -1, -1
		}
		at += i
		if end := spliceEnd(text, at); end > 0 {
			return at, end
		}
		at++
	}
}

// spliceEnd returns the index behind the line splice that starts with the
// backslash at text[at], or 0 if it starts none.
func spliceEnd(text []byte, at int) int {
	for i := at + 1; i < len(text); i++ {
		if text[i] == '\n' {
			return i + 1
		}
		if !isBlank(text[i]) || text[i] == 0 {
			break
		}
	}
	return 0
}

// isBlank is for white space within a line.
func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\f' || c == '\v' || c == 0 }

func isSpace(c byte) bool { return isBlank(c) || c == '\n' }

// isWord is for bytes of identifiers and numbers; those beyond ASCII may be
// letters.
func isWord(c byte) bool { return wordByte[c] }

var wordByte = func() (t [256]bool) {
	for c := range t {
		t[c] = 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '$' || c >= 0x80
	}
	return t
}()

// finish makes the collected directives compact: all names share one string.
func (s *scanner) finish() {
	s.finishMacros()
	n := 0
	for _, d := range s.found {
		n += len(d.name)
	}
	if len(s.found) == 0 {
		return
	}
	var all strings.Builder
	all.Grow(n)
	for _, d := range s.found {
		all.Write(d.name)
	}
	names := all.String()
	s.out.Directives = make([]Directive, len(s.found))
	for i, d := range s.found {
		s.out.Directives[i] = Directive{d.kind, d.angle, d.repeated || s.readings > 1, names[:len(d.name)]}
		names = names[len(d.name):]
	}
}
