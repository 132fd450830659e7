package compiler

import (
	"bytes"
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

// foundMacro is a headerMacro that still points into a source.
type foundMacro struct {
	macro, name []byte
	angle       bool
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
		text := src[at:s.lineEnd(at)]
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
	}
}

// addMacro notes a macro if its text looks like a header's name.
func (s *scanner) addMacro(macro, name []byte, angle bool) {
	if len(s.macros) < maxHeaderMacros && likeHeader(name, angle) {
		s.macros = append(s.macros, foundMacro{macro, name, angle})
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

// computedOperand notes what stands for the name at i.
func (s *scanner) computedOperand(i int) {
	word, end := s.word(i)
	if end = s.blanks(end); end < len(s.src) && s.src[end] != '\n' && s.src[end] != ')' && s.src[end] != '/' {
		word = nil // the call of a macro, or several words
	}
	if len(s.out.operands) >= maxOperands {
		word = nil
	}
	if name := string(word); !slices.Contains(s.out.operands, name) {
		s.out.operands = append(s.out.operands, name)
	}
}

// finishMacros makes what was collected compact: all names share one string.
func (s *scanner) finishMacros() {
	if len(s.macros) == 0 {
		return
	}
	var all strings.Builder
	for _, m := range s.macros {
		all.Write(m.macro)
		all.Write(m.name)
	}
	text := all.String()
	cut := func(n int) (head string) {
		head, text = text[:n], text[n:]
		return head
	}
	seen := make(map[headerMacro]struct{}, len(s.macros))
	for _, m := range s.macros {
		h := headerMacro{macro: cut(len(m.macro)), name: cut(len(m.name)), angle: m.angle}
		if _, again := seen[h]; !again {
			seen[h] = struct{}{}
			s.out.headers = append(s.out.headers, h)
		}
	}
}
