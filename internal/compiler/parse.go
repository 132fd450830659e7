package compiler

import (
	"strings"

	"hpcc.dev/hpcc/internal/compiler/env"
)

// Parse understands one compiler call, or says with *NotCacheable why it is
// to be passed through. It is strict: a command is understood only if each of
// its options is known, because an unknown one may read or write a file that
// nobody asked about. It reads nothing but response files.
//
// The family is taken from the compiler's name; where detection finds another,
// use ParseAs.
func Parse(cmd Command) (*Invocation, error) {
	family, _, ok := FamilyOf(cmd.Compiler)
	if !ok {
		family = GCC
	}
	return ParseAs(family, cmd)
}

// ParseAs is Parse for a compiler whose family is known.
func ParseAs(family Family, cmd Command) (*Invocation, error) {
	if len(cmd.Args) == 0 {
		return nil, refuse(ReasonBadCommand, "")
	}
	if name, ok := env.Refused(cmd.Env, family.MSVC()); ok {
		return nil, refuse(ReasonEnvironment, name)
	}
	args, err := expandResponseFiles(family, cmd)
	if err != nil {
		return nil, err
	}
	// The driver looks at the name it is called by, not at its file's.
	_, cxx, ok := FamilyOf(cmd.Args[0])
	if !ok {
		_, cxx, _ = FamilyOf(cmd.Compiler)
	}
	p := &parser{inv: &Invocation{Family: family, CXX: cxx, Args: args}}
	// clang takes its target from a prefix of its name.
	p.microsoft = targetsMicrosoft(baseName(cmd.Args[0])) || targetsMicrosoft(baseName(cmd.Compiler))
	p.command(args)
	p.finish()
	if err := p.refusal(); err != nil {
		return nil, err
	}
	return p.inv, nil
}

// parser collects what the options say; finish draws the conclusions, once
// later options can no longer change them.
type parser struct {
	inv      *Invocation
	refusals []*NotCacheable

	compile, assemble bool
	language          string // of the last -x, "" for none
	lists             effect // of the last -M or -MM
	mixed             bool   // sources of several languages
	output            string // of the last -o
	outputs           int    // how many -o there are
	archs             int

	dep depOptions

	// Words for other programs, in order, over all options that hand some on;
	// driver is for those of /clang:.
	preprocessor, assembler, frontEnd, driver []*word

	debug, splitDwarf, stackUsage, callGraph bool
	coverage, testCoverage                   bool // --coverage, -ftest-coverage
	aux                                      []Output

	microsoft, codeView bool // the target is Microsoft's; -gcodeview

	// Of the MSVC grammar: all inputs have one language, wherever the option
	// for it stands.
	inputs         []msvcInput
	notes          string // coverage notes, without suffix; "" for the default
	notesSet       bool
	noTimestamp    bool // of the last /Brepro
	asmListing     bool
	asmListingFile string // "" for the default
}

// refuse notes a reason not to cache. Parsing goes on, since a later argument
// may give a reason that tells more (refusal).
func (p *parser) refuse(r Reason, detail string) {
	p.refusals = append(p.refusals, &NotCacheable{Reason: r, Detail: detail})
}

// refusal picks the reason that tells the user most: what kind of call it is
// before which option was in the way.
func (p *parser) refusal() error {
	if len(p.refusals) == 0 {
		return nil
	}
	for _, kind := range []Reason{ReasonQuery, ReasonPreprocessing, ReasonLinking} {
		for _, r := range p.refusals {
			if r.Reason == kind {
				return r
			}
		}
	}
	return p.refusals[0]
}

// command reads the driver's own arguments.
func (p *parser) command(args []string) {
	words := make([]word, len(args))
	for i, a := range args {
		words[i].text = a
	}
	inputsOnly := false
	for i := 0; i < len(words); {
		text := words[i].text
		switch {
		case inputsOnly || !p.isOption(text):
			words[i].value = 0
			if p.inv.Family.MSVC() {
				p.inputs = append(p.inputs, msvcInput{name: text})
			} else {
				p.input(text)
			}
			p.keep(words[i : i+1])
			i++
		case text == "--" && p.inv.Family.IsClang():
			inputsOnly = true
			words[i].opt, words[i].value = endOfOptions, len(text)
			p.keep(words[i : i+1])
			i++
		default:
			i += p.option(words[i:])
		}
	}
	p.handedOn()
	p.msvcInputs()
}

// isOption reports whether a word is an option and not an input.
func (p *parser) isOption(text string) bool {
	if p.inv.Family.MSVC() && strings.HasPrefix(text, "/") {
		return p.isSlashOption(text)
	}
	return strings.HasPrefix(text, "-") && text != "-"
}

// endOfOptions stands for clang's "--" in parsed command lines.
var endOfOptions = &option{names: "--", form: alone}

func (p *parser) keep(words []word) {
	p.inv.parsed = append(p.inv.parsed, parsedArg{words: words})
}

// option reads the option that words begins with and returns how many words
// it takes.
func (p *parser) option(words []word) int {
	o, ok := p.lookup(words[0].text)
	if !ok {
		p.refuse(ReasonUnknownOption, words[0].text)
		return 1
	}
	value, n, ok := assign(o, pointers(words[:min(2, len(words))]), false)
	if !ok {
		p.refuse(ReasonBadCommand, words[0].text)
		return 1
	}
	switch o.does {
	case toPreprocessor:
		p.preprocessor = append(p.preprocessor, p.handOn(words[:n], o, value)...)
	case toAssembler:
		p.assembler = append(p.assembler, p.handOn(words[:n], o, value)...)
	case toFrontEnd:
		p.frontEnd = append(p.frontEnd, p.handOn(words[:n], o, value)...)
	case toDriver:
		p.driver = append(p.driver, p.handOn(words[:n], o, value)...)
	default:
		p.keep(words[:n])
		p.apply(o, value)
	}
	return n
}

// lookup finds the option of the driver's own that a word begins with.
func (p *parser) lookup(text string) (namedOption, bool) {
	if p.inv.Family.MSVC() {
		return msvcLookup(text, p.inv.Family)
	}
	return gnuGrammar.lookup(text, p.inv.Family)
}

// assign gives the first of words, which o matched, to the option, and the
// second too if o's value is separate. ok is false if that is missing.
func assign(o namedOption, words []*word, handedOn bool) (value string, n int, ok bool) {
	first := words[0]
	first.opt, first.value = o.option, len(o.name)
	if first.value < len(first.text) {
		return first.text[first.value:], 1, true
	}
	if o.form&separate == 0 && !(handedOn && o.is(rolePreprocessorValue)) {
		return "", 1, true
	}
	if len(words) < 2 {
		return "", 0, false
	}
	words[1].opt, words[1].value = o.option, 0
	return words[1].text, 2, true
}

func pointers(words []word) []*word {
	ptrs := make([]*word, len(words))
	for i := range words {
		ptrs[i] = &words[i]
	}
	return ptrs
}

// handOn keeps an option like -Wp,a,b or -Xassembler a or /clang:a and returns
// its inner words.
func (p *parser) handOn(words []word, o namedOption, value string) []*word {
	arg := parsedArg{words: words, joined: o.form&separate == 0}
	texts := []string{value}
	if strings.HasSuffix(o.name, ",") {
		texts = strings.Split(value, ",")
	}
	if arg.joined {
		arg.words = []word{{text: o.name, opt: o.option, value: len(o.name)}}
	}
	arg.inner = make([]word, len(texts))
	for i, t := range texts {
		arg.inner[i].text = t
	}
	p.inv.parsed = append(p.inv.parsed, arg)
	if p.inv.Family == Clang && p.clangDependencyOption(arg.inner) {
		return nil
	}
	return pointers(arg.inner)
}

// apply carries out what an option does, for the driver's own options and for
// those handed on.
func (p *parser) apply(o namedOption, value string) {
	inv := p.inv
	if o.is(roleProbe) {
		inv.Probe = append(inv.Probe, o.words(value)...)
	}
	inv.HoldsCwd = inv.HoldsCwd || o.is(roleHoldsCwd)
	inv.HoldsOutputName = inv.HoldsOutputName || o.is(roleHoldsOutput)
	if o.is(roleFamily) && o.form&separate != 0 && namesFile(value) {
		p.refuse(ReasonUnknownOption, o.spell(value))
	}

	switch o.does {
	case refused:
		p.refuse(o.why, o.spell(value))
	case setCompile:
		p.compile = true
	case setAssemble:
		p.assemble = true
	case setListAll, setListUser:
		p.lists = o.does
	case setOutput:
		p.output, p.outputs = value, p.outputs+1
	case setLanguage:
		p.language = value
		if value == "none" {
			p.language = ""
		}
	case setArch:
		p.archs++
	case setDepAll, setDepUser, setDepFile, addDepTarget, addDepTargetQuoted, setDepPhony, setShowIncludes:
		p.dep.apply(o.does, value)
	case addQuoteDir, addAngleDir, addSystemDir, addAfterDir:
		p.includeDir(o, value)
	case addForced:
		inv.Includes.Forced = append(inv.Includes.Forced, value)
	case addMacros:
		inv.Includes.Macros = append(inv.Includes.Macros, value)
	case addReadFile:
		inv.ReadFiles = append(inv.ReadFiles, value)
	case addAuxOutput:
		p.aux = append(p.aux, Output{Role: string(o.why), Path: value})
	case addListing:
		p.listing(o, value)
	case addAsmDir:
		inv.AsmIncludeDirs = append(inv.AsmIncludeDirs, value)
	case setMachine:
		inv.Native = inv.Native || strings.HasSuffix(value, "=native")
	case setRandomSeed:
		inv.RandomSeed = value
	case setLTO:
		inv.LTO = true
	case setNoLTO:
		inv.LTO = false
	case setDebug:
		// clang-cl does not heed -g0.
		p.debug = !strings.HasSuffix(value, "0") || inv.Family == ClangCL
		// A level of 3; -gdwarf-3 is a version, but -dD does it no harm.
		inv.DebugMacros = inv.DebugMacros || strings.HasSuffix(value, "3")
	case setMacroDebug:
		inv.DebugMacros = true
	case setSplitDwarf:
		p.splitDwarf = true
		p.debug = p.debug || inv.Family == GCC // gcc's implies -g
	case setNoSplitDwarf:
		p.splitDwarf = false
	case setCoverage:
		inv.Coverage, p.coverage = true, true
	case setProfileArcs:
		inv.Coverage = true
	case setTestCoverage:
		inv.Coverage, p.testCoverage = true, true
	case setNoTestCoverage:
		p.testCoverage = false
	case setStackUsage:
		p.stackUsage = true
	case setCallGraph:
		p.callGraph = true
	case setTarget:
		p.microsoft = p.microsoft || targetsMicrosoft(value)
	case setStackSearch:
		inv.StackSearch = true
	case addDefine:
		inv.defines = append(inv.defines, value)
	case addSysroot:
		inv.sysroots = append(inv.sysroots, value)
	case setColour:
		if inv.colour = value; value == "" {
			inv.colour = o.name
		}
	case setTextOption:
		inv.textOption = o.spell(value)
	case setAllWarnings:
		inv.indentation.group = true
	case setNoWarnings:
		inv.indentation.none = true
	case setIndentation, setNoIndentation:
		inv.indentation.on = o.does == setIndentation
		inv.indentation.off = !inv.indentation.on
	default:
		p.applyMSVC(o.does, value)
	}
}

func (p *parser) includeDir(o namedOption, dir string) {
	// gcc replaces a leading = or $SYSROOT, and each compiler knows other
	// cases in which it does not.
	if strings.HasPrefix(dir, "=") || strings.HasPrefix(dir, "$SYSROOT") {
		p.refuse(ReasonIncludeOption, o.spell(dir))
		return
	}
	inc := &p.inv.Includes
	list, asm := &inc.Angle, true
	switch o.does {
	case addQuoteDir:
		list, asm = &inc.Quote, p.inv.Family.IsClang()
	case addSystemDir:
		list, asm = &inc.System, p.inv.Family.IsClang()
	case addAfterDir:
		list, asm = &inc.After, false
	}
	*list = append(*list, dir)
	if asm {
		p.inv.AsmIncludeDirs = append(p.inv.AsmIncludeDirs, dir)
	}
}

// listing is the assembler's -a[letters][=FILE].
func (p *parser) listing(o namedOption, value string) {
	letters, file, toFile := strings.Cut(value, "=")
	p.inv.listing = true
	switch {
	case strings.Trim(letters, "cdhilmns") != "": // g prints the time
		p.refuse(ReasonAssemblerOption, o.name+value)
	case toFile:
		p.aux = append(p.aux, Output{Role: "listing", Path: file})
	}
}

// handedOn reads the words for other programs, when all are there.
func (p *parser) handedOn() {
	p.read(p.preprocessor, ReasonUnknownOption, func(text string) (namedOption, bool) {
		o, ok := gnuGrammar.lookup(text, p.inv.Family)
		return o, ok && (o.is(rolePreprocessor) || o.is(roleFamily) && o.does == noEffect || o.does == refused)
	})
	p.read(p.frontEnd, ReasonUnknownOption, func(text string) (namedOption, bool) {
		if o, ok := frontEndGrammar.lookup(text, p.inv.Family); ok {
			return o, true
		}
		o, ok := gnuGrammar.lookup(text, p.inv.Family.gnu())
		return o, ok && !o.is(roleDep) && (o.is(rolePreprocessor) || o.is(roleFamily) || o.does == refused)
	})
	p.read(p.assembler, ReasonAssemblerOption, func(text string) (namedOption, bool) {
		return assemblerGrammar.lookup(text, p.inv.Family)
	})
	p.handedToDriver()
}

func (p *parser) read(words []*word, unknown Reason, lookup func(string) (namedOption, bool)) {
	p.dep.handedOn = true
	for len(words) > 0 {
		o, ok := lookup(words[0].text)
		if !ok {
			p.refuse(unknown, words[0].text)
			return
		}
		value, n, ok := assign(o, words, true)
		if !ok {
			p.refuse(ReasonBadCommand, words[0].text)
			return
		}
		if o.is(roleDep) && p.inv.Family.IsClang() {
			p.refuse(ReasonDependencyOption, words[0].text)
		}
		p.apply(o, value)
		words = words[n:]
	}
}
