package compiler

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
)

// Bounds on response files. Builds with very long command lines reach some
// hundred kilobytes in one file; nesting deeper than a level or two is a loop.
const (
	maxResponseDepth = 8
	maxResponseBytes = 8 << 20
	maxResponseArgs  = 1 << 17
)

// expandResponseFiles replaces @file arguments by the words of the files, as
// all drivers do, before anything else is looked at: an @file may also be the
// value of the option before it. argv[0] is left out.
func expandResponseFiles(family Family, cmd Command) ([]string, error) {
	e := responseExpander{cmd: cmd, family: family}
	if err := e.add(cmd.Args[1:], 0); err != nil {
		return nil, err
	}
	return e.args, nil
}

type responseExpander struct {
	cmd    Command
	family Family
	args   []string
	bytes  int
}

// split splits a file's text into words by the family's rules.
func (e *responseExpander) split(text string) (words []string, ok bool) {
	if !e.family.MSVC() {
		return splitResponse(text)
	}
	if text, ok = decodeResponse(text); !ok {
		return nil, false
	}
	return splitWindows(text)
}

func (e *responseExpander) add(args []string, depth int) error {
	for _, arg := range args {
		name, isFile := strings.CutPrefix(arg, "@")
		if !isFile || name == "" {
			e.args = append(e.args, arg)
			continue
		}
		// cl knows no files within files.
		if depth == maxResponseDepth || depth > 0 && e.family == CL || len(e.args) > maxResponseArgs || e.cmd.ReadFile == nil {
			return refuse(ReasonResponseFile, arg)
		}
		path := name
		if !filepath.IsAbs(path) {
			// Also within a response file, names are relative to the working
			// directory.
			path = filepath.Join(e.cmd.Cwd, path)
		}
		text, err := e.cmd.ReadFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			e.args = append(e.args, arg) // not a response file: an argument like any other
			continue
		case err != nil:
			return refuse(ReasonResponseFile, arg)
		}
		if e.bytes += len(text); e.bytes > maxResponseBytes {
			return refuse(ReasonResponseFile, arg)
		}
		words, ok := e.split(string(text))
		if !ok {
			return refuse(ReasonResponseFile, arg)
		}
		if err := e.add(words, depth+1); err != nil {
			return err
		}
	}
	if len(e.args) > maxResponseArgs {
		return refuse(ReasonResponseFile, "too many arguments")
	}
	return nil
}

// splitResponse splits the text of a response file into words: white space
// separates, quotes of both kinds join, and a backslash takes the next
// character as it is, between quotes too. ok is false where gcc and clang
// would read the text in different ways.
func splitResponse(text string) (words []string, ok bool) {
	// clang decodes byte order marks, and takes neither of the rarer blanks as
	// such.
	if strings.HasPrefix(text, "\xff\xfe") || strings.HasPrefix(text, "\xfe\xff") || strings.HasPrefix(text, "\xef\xbb\xbf") ||
		strings.ContainsAny(text, "\v\f\x00") {
		return nil, false
	}
	var word []byte
	inWord := false
	quote := byte(0)
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case c == '\\':
			if i++; i == len(text) {
				return nil, false // gcc drops it, clang keeps it
			}
			word, inWord = append(word, text[i]), true
		case quote != 0:
			if c == quote {
				quote = 0
			} else {
				word = append(word, c)
			}
		case c == '"' || c == '\'':
			quote, inWord = c, true
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			if inWord {
				if len(word) == 0 {
					return nil, false // '' is a word to gcc, nothing to clang
				}
				words = append(words, string(word))
				word, inWord = word[:0], false
			}
		default:
			word, inWord = append(word, c), true
		}
	}
	if inWord {
		if len(word) == 0 {
			return nil, false
		}
		words = append(words, string(word))
	}
	return words, true
}
