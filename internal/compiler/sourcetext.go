package compiler

import (
	"bytes"
	"strings"
)

// A source text is one file that takes the place of a source: what its
// preprocessor includes is in it, conditions are decided, and macros are left to
// whoever compiles it. So the columns of tokens and what is a macro's are as
// they were, which messages and debug information depend on and which text with
// its macros expanded has lost: gcc's warnings of what a system header's macro
// does in the user's code, -Wmultistatement-macros and columns with -g, for
// example, differ there without a word.
//
// The rest of the command stays as it is. Linemarkers say where each part came
// from.

// The reasons why a source text cannot take a source's place; its files can.
const (
	// ReasonTextLanguage: neither C nor C++, or preprocessed already. The
	// assembler reads files by itself.
	ReasonTextLanguage Reason = "preprocessed-language"
	// ReasonTextOption: an option that a source text does not go with.
	ReasonTextOption Reason = "preprocessed-option"
	// ReasonTextWarning: gcc does not give -Wmisleading-indentation, which
	// -Wall asks for, once it has seen a linemarker.
	ReasonTextWarning Reason = "preprocessed-warning"
	// ReasonTextDebug: clang puts digests of the files into debug information
	// (DWARF 5), but not of those that linemarkers name.
	ReasonTextDebug Reason = "preprocessed-debug"
	// ReasonTextContent: the text has what cannot be told from a linemarker, or
	// switches on what ReasonTextWarning is about.
	ReasonTextContent Reason = "preprocessed-content"
)

// TextReasons lists the reasons of SourceText and its like, sorted by name.
func TextReasons() []ReasonInfo {
	return []ReasonInfo{
		{ReasonTextContent, "the preprocessed text cannot stand for the source (#line, raw strings, pragmas for warnings that it loses)"},
		{ReasonTextDebug, "clang's debug information holds digests of files that the preprocessed text does not have"},
		{ReasonTextLanguage, "neither C nor C++, so that preprocessed text is not all that is read"},
		{ReasonTextOption, "an option that does something else to preprocessed text"},
		{ReasonTextWarning, "gcc cannot warn of misleading indentation (-Wall) in preprocessed text"},
	}
}

// warning is what a command says of one of gcc's warnings.
type warning struct{ group, on, off, none bool }

// enabled follows gcc: the warning's own option counts before its group's,
// wherever the two stand, and -w before both.
func (w warning) enabled() bool { return !w.none && (w.on || w.group && !w.off) }

// SourceTextRefusal is a *NotCacheable where no source text can take the
// source's place, by the command alone.
func (inv *Invocation) SourceTextRefusal() error {
	switch {
	case inv.Family != GCC && inv.Family != Clang, inv.Language != langC && inv.Language != langCXX, inv.Mode == Listing:
		return refuse(ReasonTextLanguage, inv.Language)
	case inv.textOption != "":
		return refuse(ReasonTextOption, inv.textOption)
	case len(inv.Includes.Forced) > 0:
		// It would be included once more.
		return refuse(ReasonTextOption, "-include "+inv.Includes.Forced[0])
	case len(inv.Includes.Macros) > 0:
		return refuse(ReasonTextOption, "-imacros "+inv.Includes.Macros[0])
	case inv.Coverage:
		return refuse(ReasonTextOption, "coverage")
	case inv.Family == GCC && inv.indentation.enabled():
		return refuse(ReasonTextWarning, "")
	case inv.Family == Clang && inv.Debug:
		return refuse(ReasonTextDebug, "")
	}
	return nil
}

// SourceTextArgs is the command that writes the source text to stdout, for
// SourceText, without argv[0]; its dependency list, of the user's kind, goes to
// depFile.
func (inv *Invocation) SourceTextArgs(depFile string) []string {
	args := []string{"-E", "-fdirectives-only"}
	if inv.Family == Clang {
		args[1] = "-frewrite-includes"
	}
	kind := "-MMD"
	if inv.Deps.Requested && inv.Deps.SystemHeaders {
		kind = "-MD"
	}
	return inv.preprocessOnly(inv.askDeps(inv.quietAboutUnused(args), kind, depFile))
}

// PredefinedArgs is the command that writes to stdout the macros that the
// compiler defines by itself with these options, without argv[0]. Two compilers
// that agree on them read one text in one way.
func (inv *Invocation) PredefinedArgs() []string {
	args := inv.quietAboutUnused([]string{"-dM", "-E", "-x", inv.Language})
	for i := range inv.parsed {
		for _, w := range inv.parsed[i].words {
			switch {
			case w.opt == nil, w.opt == endOfOptions, w.opt.does == setLanguage, w.opt.does == toPreprocessor, w.opt.does == toAssembler:
			case w.opt.does == setCompile, w.opt.does == setAssemble, w.opt.is(roleDep), w.opt.does == addAuxOutput, w.opt.does == setColour:
			case !w.opt.is(roleProbe) && (w.opt.is(rolePath) || w.opt.is(roleVerbatim) || w.opt.is(rolePreprocessor) || w.opt.is(roleText) || w.opt.is(rolePathMap)):
			default:
				args = append(args, w.text)
			}
		}
	}
	return append(args, nullDevice)
}

// SourceText makes the source text of what the command of SourceTextArgs wrote.
// move tells where another machine has what a path names; it leaves alone what
// is not the project's. moved is true if it changed any. The error is a
// *NotCacheable.
func (inv *Invocation) SourceText(raw []byte, move func(string) string) (text []byte, moved bool, err error) {
	if inv.Family == GCC {
		if raw, err = inv.withoutPrelude(raw); err != nil {
			return nil, false, err
		}
		if bytes.Contains(raw, []byte("misleading-indentation")) {
			return nil, false, refuse(ReasonTextContent, "#pragma GCC diagnostic for misleading indentation")
		}
	}
	text = make([]byte, 0, len(raw)+len(raw)/16)
	continued := false
	for rest := raw; len(rest) > 0; {
		line := rest
		if i := bytes.IndexByte(rest, '\n'); i >= 0 {
			line = rest[:i+1]
		}
		rest = rest[len(line):]
		if name, at := markerName(line); at > 0 && !continued {
			if there := move(name); there != name {
				moved = true
				text = append(append(append(text, line[:at]...), there...), line[at+len(name):]...)
				continue
			}
		}
		text = append(text, line...)
		continued = bytes.HasSuffix(bytes.TrimRight(line, "\r\n \t"), []byte{'\\'})
	}
	if moved && bytes.Contains(raw, []byte(`R"`)) {
		return nil, false, refuse(ReasonTextContent, "a raw string, which may hold what looks like a linemarker")
	}
	return text, moved, nil
}

// withoutPrelude cuts off what gcc defines before the source begins: whoever
// compiles the text defines it again. That part ends at the source's first line
// behind the command line's.
func (inv *Invocation) withoutPrelude(raw []byte) ([]byte, error) {
	begin := bytes.Index(raw, []byte("\n# 0 \"<command-line>\""))
	if begin < 0 {
		begin = bytes.Index(raw, []byte("\n# 1 \"<command-line>\"")) // gcc 10 and older
	}
	if begin >= 0 {
		at := bytes.Index(raw[begin:], []byte("\n# 1 \""+inv.Source+"\"\n"))
		if at < 0 {
			at = bytes.Index(raw[begin:], []byte("\n# 1 \""+inv.Source+"\" 2\n"))
		}
		if at >= 0 {
			return raw[begin+at+1:], nil
		}
	}
	return nil, refuse(ReasonTextContent, "where the source begins in the preprocessor's text")
}

// markerName is the name in a linemarker, `# LINE "NAME" FLAGS`, as it stands
// there, and where it begins; 0 if the line is none. A name with escapes is
// none of those that are moved.
func markerName(line []byte) (name string, at int) {
	rest, ok := bytes.CutPrefix(line, []byte("# "))
	if !ok {
		return "", 0
	}
	digits := len(rest) - len(bytes.TrimLeft(rest, "0123456789"))
	if digits == 0 || !bytes.HasPrefix(rest[digits:], []byte(` "`)) {
		return "", 0
	}
	at = len("# ") + digits + len(` "`)
	end := bytes.IndexByte(line[at:], '"')
	if end < 0 {
		return "", 0
	}
	return string(line[at : at+end]), at
}

// PlainName reports whether linemarkers write a name as it is.
func PlainName(name string) bool {
	return !strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r > '~' || r == '"' || r == '\\' })
}
