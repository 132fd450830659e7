package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Rules for what users see:
//
//   - Results go to stdout; everything else to stderr.
//   - A line on stderr starts with "hpcc: ", then lower case, no full stop.
//   - An error says what to do next where we know it, as a hint line.
//   - On a terminal a result is a table with human units. When piped it is one
//     record per line, tab-separated, plain numbers, no headings. With --json it
//     is one JSON value, whose fields are never renamed.

// hinted is an error with the next step.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

// usage is an error in how a command was called; it exits with status 2.
type usage struct{ error }

func (u usage) Unwrap() error { return u.error }

func withHint(err error, format string, args ...any) error {
	return hinted{err, fmt.Sprintf(format, args...)}
}

// report writes err, all its lines, and its hint.
func (a *app) report(err error) {
	for _, line := range strings.Split(strings.TrimRight(err.Error(), "\n"), "\n") {
		a.note("%s", line)
	}
	var h hinted
	if errors.As(err, &h) {
		a.note("hint: %s", h.hint)
	}
}

// note writes one line to stderr.
func (a *app) note(format string, args ...any) {
	fmt.Fprintf(a.stderr, "hpcc: "+format+"\n", args...)
}

// printJSON writes v as one indented value, with nothing in it that a terminal
// would take for an order.
func (a *app) printJSON(v any) error {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false) // paths and flags are read by people too
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return err
	}
	_, err := io.WriteString(a.stdout, escapeOdd(text.String()))
	return err
}

// escapeOdd writes what is no text for people as JSON's escapes. Only strings of
// JSON hold such.
func escapeOdd(text string) string {
	var b strings.Builder
	for _, r := range text {
		if r != '\n' && isOdd(r) {
			for _, u := range utf16.Encode([]rune{r}) {
				fmt.Fprintf(&b, `\u%04x`, u)
			}
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

// table collects rows of cells and writes them aligned on a terminal and
// tab-separated elsewhere.
type table struct {
	terminal bool
	out      io.Writer
	w        *tabwriter.Writer
	err      error
}

// newTable starts a table. The headings are only shown on a terminal, and may
// be left out.
func (a *app) newTable(headings ...string) *table {
	t := &table{terminal: a.terminal, out: a.stdout}
	if t.terminal {
		t.w = tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
		if len(headings) > 0 {
			t.row(headings...)
		}
	}
	return t
}

func (t *table) row(cells ...string) {
	out := t.out
	if t.terminal {
		out = t.w
	}
	line := ""
	for i, c := range cells {
		if i > 0 {
			line += "\t"
		}
		line += printable(c)
	}
	if _, err := io.WriteString(out, line+"\n"); err != nil && t.err == nil {
		t.err = err
	}
}

// flush ends the table; it returns the first error of any row.
func (t *table) flush() error {
	if t.terminal {
		if err := t.w.Flush(); err != nil && t.err == nil {
			t.err = err
		}
	}
	return t.err
}

// printable escapes what is not text for people, as Go's string literals do:
// names from a build or a shared cache may hold control characters, and bytes
// that are no UTF-8.
func printable(s string) string {
	if !strings.ContainsFunc(s, isOdd) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if isOdd(r) {
			quoted := strconv.QuoteToGraphic(s[i : i+n])
			if r == utf8.RuneError || !strings.HasPrefix(quoted, `"\`) {
				quoted = strconv.QuoteToASCII(s[i : i+n])
			}
			b.WriteString(quoted[1 : len(quoted)-1])
		} else {
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

func isOdd(r rune) bool { return r == utf8.RuneError || !unicode.IsPrint(r) }

// shellQuote writes arg so that a POSIX shell reads it back as it is.
func shellQuote(arg string) string {
	if arg != "" && strings.Trim(arg, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=+,./:@%") == "" {
		return arg
	}
	return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
}

func shellLine(argv []string) string {
	quoted := make([]string, len(argv))
	for i, arg := range argv {
		quoted[i] = shellQuote(arg)
	}
	return strings.Join(quoted, " ")
}
