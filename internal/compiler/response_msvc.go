package compiler

import (
	"encoding/binary"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// decodeResponse returns the text of a response file of cl's: UTF-16 where a
// byte order mark says so, else UTF-8 or whatever 8-bit text, whose bytes are
// left as they are. ok is false for what is not text in the encoding that the
// mark promises.
func decodeResponse(text string) (decoded string, ok bool) {
	var order binary.ByteOrder
	switch {
	case strings.HasPrefix(text, "\xff\xfe"):
		order = binary.LittleEndian
	case strings.HasPrefix(text, "\xfe\xff"):
		order = binary.BigEndian
	case strings.HasPrefix(text, "\xef\xbb\xbf"):
		return text[3:], utf8.ValidString(text)
	default:
		return text, true
	}
	if len(text)%2 != 0 {
		return "", false
	}
	units := make([]uint16, 0, len(text)/2)
	for i := 2; i < len(text); i += 2 {
		units = append(units, order.Uint16([]byte(text[i:i+2])))
	}
	decoded = string(utf16.Decode(units))
	// A lone surrogate becomes U+FFFD, which nobody writes in a command.
	return decoded, !strings.ContainsRune(decoded, utf8.RuneError)
}

// splitWindows splits text into words by the rules of Microsoft's C library,
// as LLVM carries them out for response files: white space separates, double
// quotes join, and backslashes mean themselves, except before a double quote,
// where two stand for one and an odd one takes the quote's meaning away. Two
// quotes between quotes are one. ok is false for text that is read in
// different ways: without a closing quote, or with NUL bytes.
func splitWindows(text string) (words []string, ok bool) {
	if strings.IndexByte(text, 0) >= 0 {
		return nil, false
	}
	var word []byte
	inWord, quoted := false, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\':
			n := 1
			for i+n < len(text) && text[i+n] == '\\' {
				n++
			}
			i += n - 1
			inWord = true
			if i+1 == len(text) || text[i+1] != '"' {
				word = append(word, text[i-n+1:i+1]...)
				continue
			}
			word = append(word, text[i-n/2+1:i+1]...)
			if n%2 == 1 {
				word = append(word, '"')
				i++
			}
		case c == '"' && quoted && i+1 < len(text) && text[i+1] == '"':
			word = append(word, '"')
			i++
		case c == '"':
			quoted, inWord = !quoted, true
		case !quoted && (c == ' ' || c == '\t' || c == '\r' || c == '\n'):
			if inWord {
				words = append(words, string(word))
				word, inWord = word[:0], false
			}
		default:
			word, inWord = append(word, c), true
		}
	}
	if inWord {
		words = append(words, string(word))
	}
	return words, !quoted
}
