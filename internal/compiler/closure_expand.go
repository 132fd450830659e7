package compiler

import (
	"strings"
)

// Bounds on what one computed name may be expanded to. Boost's MPL has the most:
// some 40 headers in a dozen directories.
const (
	maxExpansions   = 4096
	maxExpandDepth  = 12
	maxExpandedName = 512
)

// expander guesses what a text of macros may become. It knows the macros that
// stand for parts of names, under every condition; of one with arguments it knows
// nothing, and takes its call for the arguments, joined: most that stand in such
// texts make a string of theirs, or join them.
type expander struct {
	c     *closer
	out   []headerMacro
	seen  map[headerMacro]struct{}
	steps int
}

// expand returns the headers that an operand may name.
func (c *closer) expand(operand string) []headerMacro {
	e := &expander{c: c, seen: make(map[headerMacro]struct{})}
	e.text(operand, 0, 0)
	return e.out
}

// text expands what stands at from and behind.
func (e *expander) text(s string, from, depth int) {
	if e.steps++; e.steps > maxExpansions || len(s) > maxExpandedName || !e.c.step() {
		return
	}
	for i := from; i < len(s); {
		if !isWord(s[i]) {
			i++
			continue
		}
		end := i
		for end < len(s) && isWord(s[end]) {
			end++
		}
		word := s[i:end]
		if end-i == len(s) {
			for _, h := range e.c.headers[word] {
				e.note(h)
			}
		}
		if depth < maxExpandDepth {
			if texts := e.c.wordTexts(word); len(texts) > 0 {
				for _, t := range texts {
					e.text(s[:i]+t+s[end:], i, depth+1)
				}
				return
			}
		}
		if open := end + len(s[end:]) - len(strings.TrimLeft(s[end:], " \t")); open < len(s) && s[open] == '(' {
			if args, after, ok := callArguments(s, open); ok {
				s = s[:i] + args + s[after:]
				continue // the arguments are looked at next
			}
		}
		i = end
	}
	e.name(s)
}

// name notes a text that nothing is left to expand of.
func (e *expander) name(s string) {
	s = noBlanks.Replace(s)
	angle := strings.HasPrefix(s, "<") && strings.HasSuffix(s, ">")
	if n := len(s) - 1; n > 1 && (angle || s[0] == '"' && s[n] == '"') {
		s = s[1:n]
	}
	if likeHeader([]byte(s), angle) {
		e.note(headerMacro{name: s, angle: angle})
	}
}

func (e *expander) note(h headerMacro) {
	h.macro = ""
	if _, again := e.seen[h]; !again {
		e.seen[h] = struct{}{}
		e.out = append(e.out, h)
	}
}

// joint stands between arguments that are to be joined once they are expanded.
const joint = 1

var noBlanks = strings.NewReplacer(" ", "", "\t", "", string(rune(joint)), "")

// callArguments joins the arguments of the call whose parenthesis is at open, and
// says where the call ends.
func callArguments(s string, open int) (joined string, after int, ok bool) {
	var b strings.Builder
	depth, begin := 0, open+1
	for i := open; i < len(s); i++ {
		switch s[i] {
		case '(':
			depth++
		case ',':
			if depth == 1 {
				b.WriteString(strings.Trim(s[begin:i], " \t"))
				b.WriteByte(joint)
				begin = i + 1
			}
		case ')':
			if depth--; depth == 0 {
				b.WriteString(strings.Trim(s[begin:i], " \t"))
				return b.String(), i + 1, true
			}
		}
	}
	return "", 0, false
}

// wordTexts are the texts of a macro in the files seen so far.
func (c *closer) wordTexts(macro string) []string {
	m, ok := c.words[macro]
	if !ok {
		if c.words == nil {
			c.words = make(map[string]*wordTexts)
		}
		m = &wordTexts{}
		c.words[macro] = m
	}
	bit := wordBit(macro)
	for ; m.seen < len(c.tasks); m.seen++ {
		s := c.tasks[m.seen].file.scan
		if s.wordNames&bit == 0 {
			continue
		}
		for _, w := range s.words {
			if w.macro == macro && w.text != macro {
				m.add(w.text)
			}
		}
	}
	return m.texts
}

// wordTexts are the texts of one macro.
type wordTexts struct {
	texts []string
	seen  int // of the closer's tasks
}

func (m *wordTexts) add(text string) {
	for _, t := range m.texts {
		if t == text {
			return
		}
	}
	m.texts = append(m.texts, text)
}
