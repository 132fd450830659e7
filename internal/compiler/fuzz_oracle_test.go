package compiler

import (
	"bytes"
	"errors"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The fuzz targets of this package compare its readers with slow ones that
// were written after the programs that hpcc stands in for, or after a
// textbook: they share no code and no shortcuts with the package.

// libiberty reads a response file as gcc's driver does: buildargv of
// libiberty/argv.c.
func libiberty(text string) (words []string) {
	const blanks = " \t\n\v\f\r"
	input := strings.TrimLeft(text, blanks)
	for input != "" {
		var arg []byte
		var single, double, backslash bool
		i := 0
		for ; i < len(input); i++ {
			c := input[i]
			if strings.IndexByte(blanks, c) >= 0 && !single && !double && !backslash {
				break
			}
			switch {
			case backslash:
				backslash, arg = false, append(arg, c)
			case c == '\\':
				backslash = true
			case single && c == '\'':
				single = false
			case double && c == '"':
				double = false
			case single || double:
				arg = append(arg, c)
			case c == '\'':
				single = true
			case c == '"':
				double = true
			default:
				arg = append(arg, c)
			}
		}
		words = append(words, string(arg))
		input = strings.TrimLeft(input[i:], blanks)
	}
	return words
}

// llvm reads a response file as clang's driver does: TokenizeGNUCommandLine of
// llvm/lib/Support/CommandLine.cpp.
func llvm(text string) (words []string) {
	isBlank := func(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }
	var token []byte
	for i := 0; i < len(text); i++ {
		if len(token) == 0 {
			for i < len(text) && isBlank(text[i]) {
				i++
			}
			if i == len(text) {
				break
			}
		}
		c := text[i]
		switch {
		case c == '\\' && i+1 < len(text):
			i++
			token = append(token, text[i])
		case c == '"' || c == '\'':
			for i++; i < len(text) && text[i] != c; i++ {
				if text[i] == '\\' && i+1 < len(text) {
					i++
				}
				token = append(token, text[i])
			}
		case isBlank(c):
			if len(token) > 0 {
				words = append(words, string(token))
			}
			token = nil
		default:
			token = append(token, c)
		}
	}
	if len(token) > 0 {
		words = append(words, string(token))
	}
	return words
}

// spliced expands response files as libiberty's expandargv does: in place, and
// what came out of a file is looked at again. ok is false beyond its limit of
// files.
func spliced(args []string, files map[string]string) (out []string, ok bool) {
	out = slices.Clone(args)
	for i, left := 0, 2000; i < len(out); {
		name, isFile := strings.CutPrefix(out[i], "@")
		text, exists := files[name]
		if !isFile || name == "" || !exists {
			i++
			continue
		}
		if left--; left == 0 {
			return nil, false
		}
		out = slices.Replace(out, i, i+1, libiberty(text)...)
		if len(out) > 4*maxResponseArgs {
			return nil, false
		}
	}
	return out, true
}

// FuzzResponseFiles expands a command over three files that may name each
// other.
func FuzzResponseFiles(f *testing.F) {
	f.Add("-c\n@a\n-o\n@b", `"x y" @b`, `p\ q '@c'`, "-DX=\"a\"")
	f.Add("@a", "@b @b", "@c @c", "w")
	f.Add("@a", "@a", "", "")
	f.Add("@missing\n@\n@@a", "@missing", `""`, `a\`)
	f.Fuzz(func(t *testing.T, command, a, b, c string) {
		files := map[string]string{"a": a, "b": b, "c": c}
		read := 0
		argv := strings.Split(command, "\n")
		got, err := expandResponseFiles(GCC, Command{
			Args: append([]string{"gcc"}, argv...), Cwd: "/w",
			ReadFile: func(path string) ([]byte, error) {
				text, ok := files[strings.TrimPrefix(path, "/w/")]
				if !ok {
					return nil, fs.ErrNotExist
				}
				read += len(text)
				return []byte(text), nil
			},
		})
		// What is refused was read within bounds, too: one file may come after
		// the limit was seen.
		if read > maxResponseBytes+max(len(a), len(b), len(c)) {
			t.Fatalf("read %d bytes", read)
		}
		if err != nil {
			var refusal *NotCacheable
			if !errors.As(err, &refusal) || refusal.Reason != ReasonResponseFile {
				t.Fatalf("refused by %v", err)
			}
			return
		}
		if len(got) > maxResponseArgs {
			t.Fatalf("%d arguments", len(got))
		}
		// The names a, b and c can be spelled in other ways (./a), which the
		// slow expansion does not know.
		for _, text := range []string{command, a, b, c} {
			if strings.ContainsAny(text, "./") {
				return
			}
		}
		if want, ok := spliced(argv, files); !ok || !slices.Equal(got, want) {
			t.Fatalf("%q, a=%q b=%q c=%q:\n got %q\nwant %q", argv, a, b, c, got, want)
		}
	})
}

var (
	splice        = regexp.MustCompile(`\\[ \t\f\v]*\n`)
	includeAtHash = regexp.MustCompile(`^[ \t\f\v]*(include_next|include|import)\b[ \t\f\v]*(<[^>\n]+>|"[^"\n]+")`)
)

// plainIncludes finds #include and its like as a textbook reads C: lines are
// joined, comments are blanks, strings end with their line, and a directive is
// a line that begins with #. ok is false for text that languages or compilers
// read in different ways.
func plainIncludes(src []byte) (found []Directive, ok bool) {
	text := string(bytes.TrimPrefix(src, []byte("\xef\xbb\xbf")))
	if strings.ContainsAny(text, "\r\x00") || strings.Contains(text, "??") || strings.Contains(text, "%:") {
		return nil, false
	}
	text = splice.ReplaceAllString(text, "") + "\n"
	lineStart := true
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\n':
			lineStart = true
			continue
		case strings.IndexByte(" \t\f\v", c) >= 0:
			continue
		case strings.HasPrefix(text[i:], "//"):
			i += strings.IndexByte(text[i:], '\n') - 1
			continue
		case strings.HasPrefix(text[i:], "/*"):
			n := strings.Index(text[i+2:], "*/")
			if n < 0 {
				return found, true
			}
			i += 2 + n + 1
			continue
		case c == '"' || c == '\'':
			if c == '"' && i > 0 && text[i-1] == 'R' {
				return nil, false // maybe a raw string
			}
			for i++; text[i] != c && text[i] != '\n'; i++ {
				if text[i] == '\\' && text[i+1] != '\n' {
					i++
				}
			}
			if text[i] == '\n' {
				i--
			}
		case c == '#' && lineStart:
			m := includeAtHash.FindStringSubmatch(text[i+1:])
			if m == nil {
				break
			}
			kind := map[string]DirectiveKind{"include": Include, "include_next": IncludeNext, "import": Import}[m[1]]
			found = append(found, Directive{Kind: kind, Angle: m[2][0] == '<', Name: m[2][1 : len(m[2])-1]})
			i += len(m[0])
		}
		lineStart = false
	}
	return found, true
}
