package compiler

import (
	"slices"
	"strings"
)

// form says how an option's value is written; an option may have several.
type form uint8

const (
	alone    form = 1 << iota // -c
	joined                    // -Idir; the value is not empty
	separate                  // -I dir
)

// role is a bit set: what an option means to those who do not interpret it
// (the key, the path mapper, the rewriter), and what its value is.
type role uint32

const (
	// The value is a path: neutral in the key.
	rolePath role = 1 << iota
	// The value is OLD=NEW, where OLD is a path. NEW gets into outputs, so it
	// stays as it is.
	rolePathMap
	// The value is text for another program that does not reach the outputs:
	// paths in it are neutral in the key.
	roleText
	// The value is a macro definition or the like. It may get into outputs
	// letter by letter, so paths in it are no business of the key's.
	roleVerbatim
	// An option of the dependency family: not in the key, replaced on a miss.
	roleDep
	// The value names the main output.
	roleOutput
	// The option helps to decide the built-in search path.
	roleProbe
	// An output may hold the working directory.
	roleHoldsCwd
	// An output holds the output's name.
	roleHoldsOutput
	// A whole family of options by one row. Members that seem to name a file
	// must have a row of their own.
	roleFamily
	// The option has a meaning for the preprocessor alone, so -Wp, and
	// -Xpreprocessor may hold it.
	rolePreprocessor
	// In -Wp, and -Xpreprocessor the value is separate, whatever form says.
	rolePreprocessorValue
	// clang-cl knows the option, too. What it does not know, it ignores with a
	// warning, so a whole family may have the role if it knows some, but not an
	// option that makes a file unless it does know it.
	roleCore
)

// effect is what the parser does with an option besides keeping it.
type effect uint8

const (
	noEffect effect = iota
	refused         // not cacheable, for the row's reason
	setCompile
	setAssemble
	setListAll  // dependencies instead of a compile
	setListUser // the same without system headers
	setOutput
	setLanguage
	setDepAll
	setDepUser
	setDepFile
	addDepTarget
	addDepTargetQuoted
	setDepPhony
	setShowIncludes
	addQuoteDir
	addAngleDir
	addSystemDir
	addAfterDir
	addForced
	addMacros
	addReadFile
	addAuxOutput
	setDebug
	setSplitDwarf
	setNoSplitDwarf
	setMacroDebug
	setCoverage
	setTestCoverage
	setNoTestCoverage
	setProfileArcs
	setStackUsage
	setCallGraph
	setLTO
	setNoLTO
	setMachine
	setRandomSeed
	setArch
	setTarget
	setStackSearch // Microsoft's rule for "…"
	setColour
	addDefine
	addSysroot
	addPrefix     // where the driver looks for programs of its own
	setTextOption // does something else to text that is preprocessed already
	setAllWarnings
	setNoWarnings
	setIndentation // -Wmisleading-indentation
	setNoIndentation
	// cl's.
	setObjectFile // setOutput, and coverage notes go beside it
	setAllC       // each source is C
	setAllCXX
	addSourceC // the value is a source
	addSourceCXX
	setCodeView
	setShowAll
	setShowUser
	setNoTimestamp
	setTimestamp
	setAsmListing
	toDriver // the value is a word of the GNU grammar
	addAsmDir
	addListing     // the assembler's -a
	toPreprocessor // the value is words for the preprocessor
	toAssembler
	toFrontEnd // clang's -Xclang
)

// option is one row of a grammar's table. A row with several names stands for
// as many options that differ in name alone.
type option struct {
	// names, separated by spaces, each with its dashes. A slash stands for
	// either a slash or a dash.
	names string
	form  form
	roles role
	does  effect
	// why is the reason of a refused option and the output's role of
	// addAuxOutput.
	why Reason
	// only restricts the row to one family; to the other the name means
	// nothing, or what a shorter row says.
	only Family
}

func (o *option) is(r role) bool { return o != nil && o.roles&r != 0 }

// namedOption is a row under one of its names.
type namedOption struct {
	name string
	*option
}

// words writes the option with a value, apart where it can be.
func (o namedOption) words(value string) []string {
	if value == "" || o.form&separate == 0 {
		return []string{o.name + value}
	}
	return []string{o.name, value}
}

// spell is words for people.
func (o namedOption) spell(value string) string { return strings.Join(o.words(value), " ") }

// grammar is a table made ready for look-up.
type grammar struct {
	// sorted by name; rows of one name (for different families) adjoin.
	options []namedOption
}

func newGrammar(rows []option) *grammar {
	g := &grammar{}
	for i := range rows {
		for name := range strings.FieldsSeq(rows[i].names) {
			g.options = append(g.options, namedOption{name, &rows[i]})
			if rest, ok := strings.CutPrefix(name, "/"); ok {
				g.options = append(g.options, namedOption{"-" + rest, &rows[i]})
			}
		}
	}
	slices.SortStableFunc(g.options, func(a, b namedOption) int { return strings.Compare(a.name, b.name) })
	return g
}

// lookup finds the option that arg is or begins with, the longest name first.
// The value begins at arg[len(name):]; a separate one is in the next word.
func (g *grammar) lookup(arg string, family Family) (namedOption, bool) {
	// Every name that arg begins with sorts at or before arg. So take the last
	// name up to arg, and if it is no match, go on with the part of arg that
	// the two have in common: no longer name can match.
	for key := arg; key != ""; {
		i, found := slices.BinarySearchFunc(g.options, key, func(o namedOption, key string) int {
			return strings.Compare(o.name, key)
		})
		if !found {
			if i--; i < 0 {
				break
			}
			if name := g.options[i].name; !strings.HasPrefix(key, name) {
				key = key[:commonPrefix(key, name)]
				continue
			}
		}
		name := g.options[i].name
		for i > 0 && g.options[i-1].name == name {
			i--
		}
		for ; i < len(g.options) && g.options[i].name == name; i++ {
			if o := g.options[i]; o.accepts(arg[len(name):], family) {
				return o, true
			}
		}
		key = name[:len(name)-1]
	}
	return namedOption{}, false
}

// accepts reports whether the option can be written with rest joined to it.
func (o *option) accepts(rest string, family Family) bool {
	if o.only != 0 && o.only != family {
		return false
	}
	if rest == "" {
		return o.form&(alone|separate) != 0
	}
	if o.form&joined == 0 {
		return false
	}
	return !o.is(roleFamily) || !namesFile(rest)
}

// namesFile reports whether a member of an option family, written without the
// family's name, looks as though it named a file or directory. Such an option
// needs a row of its own that says what becomes of the file.
func namesFile(member string) bool {
	name, value, _ := strings.Cut(member, "=")
	if strings.ContainsRune(value, '/') {
		return true
	}
	if value == "" {
		return false
	}
	for _, suffix := range []string{"file", "files", "path", "dir", "list", "map"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}

func commonPrefix(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
