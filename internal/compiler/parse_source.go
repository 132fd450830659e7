package compiler

import (
	"slices"
	"strings"
)

// Languages as -x names them.
const (
	langC               = "c"
	langCXX             = "c++"
	langObjC            = "objective-c"
	langObjCXX          = "objective-c++"
	langCOut            = "cpp-output"
	langCXXOut          = "c++-cpp-output"
	langObjCOut         = "objective-c-cpp-output"
	langObjCXXOut       = "objective-c++-cpp-output"
	langAssembler       = "assembler"
	langAssemblerSource = "assembler-with-cpp"
	// Not languages of -x, but what a name may stand for.
	langHeader = "header"
	langModule = "module"
)

// languages holds what -x may say, with the spelling used in Invocation.
var languages = []struct{ name, language string }{
	{"c", langC}, {"c++", langCXX},
	{"objective-c", langObjC}, {"objective-c++", langObjCXX},
	{"cpp-output", langCOut}, {"c++-cpp-output", langCXXOut},
	{"objective-c-cpp-output", langObjCOut}, {"objc-cpp-output", langObjCOut},
	{"objective-c++-cpp-output", langObjCXXOut}, {"objc++-cpp-output", langObjCXXOut},
	{"assembler", langAssembler}, {"assembler-with-cpp", langAssemblerSource},
	{"c-header", langHeader}, {"c++-header", langHeader}, {"c++-system-header", langHeader}, {"c++-user-header", langHeader},
	{"objective-c-header", langHeader}, {"objective-c++-header", langHeader}, {"cpp-header", langHeader},
	{"c++-module", langModule},
}

// sourceNames says which suffixes make a file a source, and of which language.
// Case counts: .C is C++.
var sourceNames = []struct {
	suffixes, language string
	only               Family
}{
	{".c", langC, 0},
	{".cc .cp .cxx .cpp .CPP .c++ .C", langCXX, 0},
	{".CC .CXX .C++", langCXX, Clang},
	{".m", langObjC, 0},
	{".mm .M", langObjCXX, 0},
	{".i", langCOut, 0},
	{".ii", langCXXOut, 0},
	{".mi", langObjCOut, 0},
	{".mii", langObjCXXOut, 0},
	{".s", langAssembler, 0},
	{".S", langAssemblerSource, 0},
	{".sx", langAssemblerSource, GCC},
	{".h .hh .H .hp .hxx .hpp .HPP .h++ .tcc", langHeader, 0},
	{".cppm .ccm .cxxm .c++m .ixx .pcm .iim", langModule, 0},
}

// SourcesIn guesses which arguments of a command name sources, by their
// suffixes alone: for commands that Parse refuses, and for people.
func SourcesIn(args []string) []string {
	var sources []string
	for _, a := range args {
		if strings.HasPrefix(a, "-") {
			continue
		}
		for _, n := range sourceNames {
			dot := strings.LastIndexByte(a, '.')
			if dot >= 0 && n.language != langHeader && slices.Contains(strings.Fields(n.suffixes), a[dot:]) {
				sources = append(sources, a)
				break
			}
		}
	}
	return sources
}

// input takes a word that is no option.
func (p *parser) input(name string) {
	if name == "-" || ownName(name) {
		p.inv.Sources = append(p.inv.Sources, name)
		p.refuse(ReasonStdin, strings.TrimPrefix(name, "-"))
		return
	}
	language := p.languageOf(name)
	switch language {
	case "":
		if p.language != "" {
			p.refuse(ReasonLanguage, p.language)
		} else {
			p.refuse(ReasonObjectInput, name)
		}
		return
	case langHeader:
		p.refuse(ReasonPrecompiled, name)
	case langModule:
		p.refuse(ReasonModules, name)
	}
	p.inv.Sources = append(p.inv.Sources, name)
	if len(p.inv.Sources) > 1 {
		p.mixed = p.mixed || language != p.inv.Language
		return
	}
	p.inv.Source, p.inv.Language = name, language
}

// languageOf is the language of an input, "" if it is no source.
func (p *parser) languageOf(name string) string {
	if p.language != "" {
		for _, l := range languages {
			if l.name == p.language {
				return l.language
			}
		}
		return ""
	}
	suffix := name[len(stem(name)):]
	if p.inv.Family == CL {
		return clSources[strings.ToLower(suffix)]
	}
	if strings.HasPrefix(name, "@") || suffix == "" {
		return ""
	}
	for _, s := range sourceNames {
		if s.only != 0 && s.only != p.inv.Family.gnu() {
			continue
		}
		for candidate := range strings.FieldsSeq(s.suffixes) {
			if candidate == suffix {
				return p.asCXX(s.language)
			}
		}
	}
	return ""
}

// asCXX is what g++ and clang++ make of a C file without -x.
func (p *parser) asCXX(language string) string {
	switch {
	case !p.inv.CXX:
		return language
	case language == langC:
		return langCXX
	case language == langCOut:
		return langCXXOut
	}
	return language
}

// preprocessed reports whether the compile runs the preprocessor: if not,
// nothing heeds dependency options.
func preprocessed(language string) bool {
	switch language {
	case langC, langCXX, langObjC, langObjCXX, langAssemblerSource:
		return true
	}
	return false
}

// compiled reports whether a language goes through the compiler proper, which
// writes .su, .ci and .gcno files, and not through the assembler alone.
func compiled(language string) bool {
	return language != langAssembler && language != langAssemblerSource
}
