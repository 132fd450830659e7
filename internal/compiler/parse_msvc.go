package compiler

import (
	"bytes"
	"slices"
	"strings"
)

// msvcLookup finds an option of cl or clang-cl: one of Microsoft's, or for
// clang-cl one that it takes in the GNU spelling.
func msvcLookup(text string, family Family) (namedOption, bool) {
	if o, ok := msvcGrammar.lookup(text, family); ok || family != ClangCL {
		return o, ok
	}
	o, ok := gnuGrammar.lookup(text, Clang)
	return o, ok && (o.does == refused || o.does == toFrontEnd || o.is(roleCore) && followed(o.does))
}

// followed reports whether an effect of the GNU grammar's is the same where
// clang-cl is told of it, by itself or by /clang:.
func followed(does effect) bool {
	switch does {
	case noEffect, refused, setDepAll, setDepFile, addDepTarget, addDepTargetQuoted, setDepPhony,
		addQuoteDir, addAngleDir, addSystemDir, addAfterDir, addForced, addMacros, addReadFile, setDebug,
		setCodeView, setTarget, setStackSearch, setCoverage, setProfileArcs, setLTO, setNoLTO, setMachine, setRandomSeed,
		setColour, addDefine, addSysroot, setTextOption, setAllWarnings, setNoWarnings, setIndentation, setNoIndentation:
		return true
	}
	return false
}

// isSlashOption tells an option from the absolute path of a file, as clang-cl
// does where paths begin with a slash: what is no option's name is an input.
func (p *parser) isSlashOption(text string) bool {
	if p.inv.Family != ClangCL {
		return true
	}
	_, ok := p.lookup(text)
	// A file in the root is a source of nobody's; an option that is not known
	// should be called so.
	return ok || !strings.Contains(text[1:], "/")
}

// handedToDriver reads the words of /clang:, which clang-cl reads as clang
// would, behind all others.
func (p *parser) handedToDriver() {
	p.dep.handedOn = false
	words := p.driver
	for len(words) > 0 {
		o, ok := gnuGrammar.lookup(words[0].text, Clang)
		if ok && o.does == setDepUser {
			p.refuse(ReasonDependencyOption, words[0].text)
			return
		}
		if !ok || !followed(o.does) || o.does != refused && !o.is(roleCore|roleDep|rolePreprocessor) {
			p.refuse(ReasonUnknownOption, words[0].text)
			return
		}
		value, n, ok := assign(o, words, false)
		if !ok {
			p.refuse(ReasonBadCommand, words[0].text)
			return
		}
		probed := len(p.inv.Probe)
		p.apply(o, value)
		// The questions to the compiler are in cl's grammar, too.
		for i := probed; i < len(p.inv.Probe); i++ {
			p.inv.Probe[i] = driverPrefix + p.inv.Probe[i]
		}
		words = words[n:]
	}
}

// driverPrefix hands a word to clang's own driver.
const driverPrefix = "/clang:"

// msvcInput is an input of the MSVC grammar.
type msvcInput struct{ name, language string }

// applyMSVC carries out the effects of options that only cl and clang-cl have.
func (p *parser) applyMSVC(does effect, value string) {
	switch does {
	case setObjectFile:
		p.output, p.outputs = value, p.outputs+1
		p.notes, p.notesSet = stem(value), true
	case setAllC:
		p.language = langC
	case setAllCXX:
		p.language = langCXX
	case addSourceC:
		p.inputs = append(p.inputs, msvcInput{value, langC})
	case addSourceCXX:
		p.inputs = append(p.inputs, msvcInput{value, langCXX})
	case setCodeView:
		p.debug, p.codeView = true, true
	case setShowAll:
		p.inv.showIncludes = showAll
	case setShowUser:
		p.inv.showIncludes = showUser
	case setNoTimestamp:
		p.noTimestamp = true
	case setTimestamp:
		p.noTimestamp = false
	case setAsmListing:
		p.asmListing = true
		if value != "" {
			p.asmListingFile = value
		}
	}
}

// msvcInputs takes the inputs, once all options have been read.
func (p *parser) msvcInputs() {
	for _, in := range p.inputs {
		if in.language == "" {
			p.input(in.name)
			continue
		}
		all := p.language
		p.language = in.language
		p.input(in.name)
		p.language = all
	}
	if !p.inv.Family.MSVC() {
		return
	}
	switch p.inv.Language {
	case "", langC, langCXX, langCOut, langCXXOut, langHeader, langModule:
	default:
		p.refuse(ReasonLanguage, p.inv.Language)
	}
}

// targetsMicrosoft reports whether a target's name, or a compiler's with a
// target's, may be one of Microsoft's environment: others on Windows are called
// gnu or mingw.
func targetsMicrosoft(name string) bool {
	return strings.Contains(name, "msvc") ||
		(strings.Contains(name, "windows") || strings.Contains(name, "win32")) && !strings.Contains(name, "gnu") && !strings.Contains(name, "mingw")
}

// likeMicrosoft draws the conclusions for clang where it compiles for
// Microsoft's environment without being clang-cl: its defaults are the same
// there.
func (p *parser) likeMicrosoft() {
	inv := p.inv
	inv.StackSearch = inv.StackSearch || inv.Family.MSVC() || inv.Family == Clang && p.microsoft
	if inv.Family != Clang {
		return
	}
	if p.debug && (p.microsoft || p.codeView) {
		inv.RecordsCommand, inv.HoldsOutputName = true, true
	}
	inv.Timestamped = p.microsoft && !p.assemble && !inv.LTO
	if inv.StackSearch && (p.dep.user || p.lists != noEffect) {
		p.refuse(ReasonDependencyOption, "with Microsoft's search rule")
	}
}

// clSources are the suffixes of sources to Microsoft's cl.
var clSources = map[string]string{".c": langC, ".cpp": langCXX, ".cxx": langCXX, ".ixx": langModule}

// declareMSVCOutputs is declareOutputs for cl and clang-cl.
func (p *parser) declareMSVCOutputs() {
	inv := p.inv
	inv.Object = p.msvcOutput(p.output, "obj")
	inv.Outputs = []Output{{Role: "object", Path: inv.Object}}
	inv.Timestamped = !p.noTimestamp && !inv.LTO
	if p.coverage {
		// They follow /Fo as it is written, even if that names a directory,
		// and no other option.
		if !p.notesSet {
			p.notes = stem(baseName(inv.Source))
		}
		inv.Outputs = append(inv.Outputs, Output{Role: "gcno", Path: p.notes + ".gcno"})
	}
	if p.asmListing && !inv.LTO {
		inv.Outputs = append(inv.Outputs, Output{Role: roleListing, Path: p.msvcOutput(p.asmListingFile, "asm")})
	}
	for _, o := range inv.Outputs {
		if ownName(o.Path) || strings.HasPrefix(o.Path, "/dev/") && !strings.HasPrefix(o.Path, "/dev/shm/") {
			p.refuse(ReasonOutputName, o.Path)
		}
	}
	// CodeView names the object and, by clang, the whole command of its front
	// end. With DWARF instead (-gdwarf) none of this holds, but few ask for it.
	if p.debug {
		inv.RecordsCommand = true
		inv.HoldsOutputName = true
	}
}

// roleListing is the role of an assembly listing beside the object.
const roleListing = "listing"

// msvcOutput is the name of an output: value is what the option says, a file
// or, with a slash at the end, a directory, or nothing.
func (p *parser) msvcOutput(value, suffix string) string {
	slashes := "/"
	if p.inv.Family == CL {
		slashes = `\/`
	}
	name := p.inv.Source
	name = name[strings.LastIndexAny(name, slashes)+1:]
	file := value[strings.LastIndexAny(value, slashes)+1:]
	if file == "" {
		name = value + name
	} else {
		name = value
		// "." and ".." have none, as to std::filesystem.
		if strings.Contains(file, ".") && file != "." && file != ".." {
			return name
		}
	}
	if dot := strings.LastIndexByte(name, '.'); dot > strings.LastIndexAny(name, slashes) {
		name = name[:dot]
	}
	return name + "." + suffix
}

// InputsFrom says how a compile's list of inputs can be had.
type InputsFrom uint8

const (
	// FromOption: the compile writes it if asked to (RunOptions.DepFile).
	FromOption InputsFrom = iota
	// FromOutput: the user's own options make the compile print it: see
	// ParseShowIncludes.
	FromOutput
	// FromPreprocessor: asking the compile would change what it makes, so the
	// preprocessor must be asked (Invocation.AllDepsArgs), before the compile
	// begins: then a file that changes in between has a later time.
	FromPreprocessor
)

// InputsFrom says how the list of the compile's inputs can be had, where the
// user's own command does not write one.
func (inv *Invocation) InputsFrom() InputsFrom {
	switch {
	case inv.Family != CL && !inv.RecordsCommand && inv.showIncludes != showUser:
		return FromOption
	case inv.showIncludes == showAll:
		return FromOutput
	}
	// A list with the system's headers would make clang-cl print those as well.
	return FromPreprocessor
}

// notePrefix begins the lines of /showIncludes. cl translates it; clang-cl
// does not.
const notePrefix = "Note: including file:"

// ParseShowIncludes returns what /showIncludes printed on the given streams,
// the source at the head, each file once, spelled as in a dependency file. A
// file that was only asked for (__has_include) is not printed. Lines of other
// messages are passed over.
func ParseShowIncludes(source string, streams ...[]byte) []string {
	files := []string{trimDotSlash(source)}
	seen := map[string]bool{files[0]: true}
	for _, s := range streams {
		for line := range strings.Lines(string(s)) {
			name, ok := strings.CutPrefix(line, notePrefix)
			if !ok {
				continue
			}
			// As many blanks as the file is deep. A terminal ends lines with
			// a carriage return.
			name = strings.TrimRight(strings.TrimLeft(name, " "), "\r\n")
			if name = trimDotSlash(name); !seen[name] {
				seen[name] = true
				files = append(files, name)
			}
		}
	}
	return files
}

// PrintableIncludes reports whether the names in directives are such that
// ParseShowIncludes can read them back.
func PrintableIncludes(files []File) bool {
	return !slices.ContainsFunc(files, func(f File) bool {
		return slices.ContainsFunc(f.Scan.Directives, func(d Directive) bool {
			return strings.HasPrefix(d.Name, " ") || strings.ContainsAny(d.Name, "\r\n")
		})
	})
}

// SameOutput reports whether an output is the same in two results of one
// command, but for the time that the head of a COFF object may hold.
func (inv *Invocation) SameOutput(role string, a, b []byte) bool {
	if !inv.Timestamped || role != "object" || len(a) != len(b) || len(a) < 12 {
		return bytes.Equal(a, b)
	}
	// A head that begins so is that of an object with many sections
	// (ANON_OBJECT_HEADER_BIGOBJ); else it is an IMAGE_FILE_HEADER.
	at := 4
	if bytes.HasPrefix(a, []byte{0, 0, 0xff, 0xff}) {
		at = 8
	}
	return bytes.Equal(a[:at], b[:at]) && bytes.Equal(a[at+4:], b[at+4:])
}
