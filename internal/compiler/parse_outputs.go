package compiler

import (
	"path"
	"strings"
)

// depOptions collects the options of the -M family, the driver's and those
// handed on to the preprocessor apart, because gcc's driver gives cc1 its own
// first, whatever the order on the command line.
type depOptions struct {
	all, user bool // -MD, -MMD
	phony     bool
	shows     bool   // -H
	file      string // -MF
	targets   []DepTarget

	// What -Wp, and -Xpreprocessor say (gcc only): there -MD takes the file.
	handedOn     bool // which of the two apply fills
	innerSet     bool
	innerAll     bool
	innerFile    string
	innerTargets []DepTarget
}

func (d *depOptions) apply(does effect, value string) {
	file, targets := &d.file, &d.targets
	if d.handedOn {
		file, targets = &d.innerFile, &d.innerTargets
	}
	switch does {
	case setDepAll, setDepUser:
		switch {
		case d.handedOn:
			d.innerSet, d.innerAll, d.innerFile = true, does == setDepAll, value
		case does == setDepAll:
			d.all = true
		default:
			d.user = true
		}
	case setDepFile:
		*file = value
	case addDepTarget:
		*targets = append(*targets, DepTarget{Name: value})
	case addDepTargetQuoted:
		*targets = append(*targets, DepTarget{Name: value, Quoted: true})
	case setDepPhony:
		d.phony = true
	case setShowIncludes:
		d.shows = d.shows || !d.handedOn
	}
}

// clangDependencyOption reports whether the words of one -Wp, option are those
// that clang's driver turns into options of its own: "-MD,FILE" is -MD and
// -MF FILE, and not, as in gcc, something that only the preprocessor sees.
func (p *parser) clangDependencyOption(inner []word) bool {
	if len(inner) != 2 || inner[0].text != "-MD" && inner[0].text != "-MMD" {
		return false
	}
	o, _ := gnuGrammar.lookup(inner[0].text, Clang)
	value, _, _ := assign(o, pointers(inner), true)
	p.dep.apply(o.does, "")
	p.dep.apply(setDepFile, value)
	return true
}

// finish draws the conclusions from the whole command line.
func (p *parser) finish() {
	inv := p.inv
	p.likeMicrosoft()
	if p.lists != noEffect {
		p.listsOnly()
		return
	}
	switch {
	case !p.compile && !p.assemble:
		p.refuse(ReasonLinking, "")
	case len(inv.Sources) == 0:
		p.refuse(ReasonNoSource, "")
	case len(inv.Sources) > 1:
		p.refuse(ReasonMultipleSources, inv.Sources[1])
	case p.archs > 1:
		p.refuse(ReasonMultipleArchs, "-arch")
	case inv.Family.MSVC(): // no name is out of the question, and the last one counts
	case p.outputs > 0 && (p.output == "" || strings.HasSuffix(p.output, "/")):
		p.refuse(ReasonBadCommand, "-o "+p.output)
	case p.outputs > 1:
		// It does for the object, but gcc's dependency options fail.
		p.refuse(ReasonOutputName, "several -o")
	case p.output == "-", ownName(p.output), p.device() && p.output != nullDevice:
		p.refuse(ReasonOutputName, "-o "+p.output)
	case p.assemble && !compiled(inv.Language):
		p.refuse(ReasonOutputKind, "-S "+inv.Source) // the result goes to stdout, or there is none
	}
	if len(p.refusals) > 0 {
		return
	}

	inv.Mode = Object
	if p.assemble { // wins over -c, wherever it stands
		inv.Mode = Assembly
	}
	inv.Debug = p.debug
	inv.HoldsCwd = inv.HoldsCwd || p.debug
	if inv.Family.MSVC() {
		p.declareMSVCOutputs()
	} else {
		p.declareOutputs()
	}
	p.dependencies()
}

// listsOnly is -M and -MM. A command that only prints what its sources include
// is as good as a compile; everything else that preprocesses is passed on.
func (p *parser) listsOnly() {
	inv, d := p.inv, &p.dep
	plain := p.outputs == 0 && len(p.aux) == 0 && p.archs <= 1 && !p.mixed && len(inv.Sources) > 0 &&
		!d.all && !d.user && !d.innerSet && !d.phony && d.file == "" && d.innerFile == "" &&
		len(d.targets)+len(d.innerTargets) == 0
	if !plain || !preprocessed(inv.Language) || len(p.refusals) > 0 {
		p.refuse(ReasonPreprocessing, "-M")
		return
	}
	// -H means for clang what it does with -MMD: see dependencies.
	inv.Mode, inv.ListsUser = Listing, p.lists == setListUser && !(d.shows && inv.Family == Clang)
}

// declareOutputs fills in the names of everything that the compile leaves behind.
func (p *parser) declareOutputs() {
	inv := p.inv
	role, suffix := "object", ".o"
	if inv.Mode == Assembly {
		role, suffix = "assembly", ".s"
	}
	inv.Object = p.output
	if p.outputs == 0 {
		inv.Object = stem(baseName(inv.Source)) + suffix
	}
	inv.Outputs = []Output{{Role: role, Path: inv.Object}}
	if inv.Object == nullDevice {
		// Nothing is left, so a result made this way serves no other name.
		inv.Outputs, inv.HoldsOutputName = nil, true
	}

	gcc := inv.Family == GCC
	add := func(wanted bool, role string, optional bool) {
		if wanted {
			inv.Outputs = append(inv.Outputs, Output{Role: role, Path: p.companion(role), Optional: optional})
		}
	}
	// gcc has objcopy extract a .dwo from each object, clang's front end writes
	// one if there is debug information, with -S too.
	add(p.splitDwarf && (gcc && inv.Mode == Object || !gcc && (p.debug || !compiled(inv.Language))),
		"dwo", !gcc && (inv.LTO || !compiled(inv.Language)))
	if compiled(inv.Language) {
		add(p.testCoverage || p.coverage, "gcno", inv.LTO)
		// clang writes none for a unit without functions; without fat objects,
		// link-time optimisation leaves both to the link.
		add(p.stackUsage, "su", !gcc || inv.LTO)
		add(p.callGraph, "ci", inv.LTO)
	}
	if len(inv.Outputs) > 0 && p.device() {
		p.refuse(ReasonOutputName, inv.Object)
	}
	for _, o := range p.aux {
		if ownName(o.Path) {
			p.refuse(ReasonOutputName, o.Path)
		}
	}
	inv.Outputs = append(inv.Outputs, p.aux...)
}

// nullDevice is where output goes that nobody wants.
const nullDevice = "/dev/null"

// device reports whether the output is /dev/null or the like, beside which
// compilers put nothing. /dev/shm holds files.
func (p *parser) device() bool {
	return strings.HasPrefix(p.output, "/dev/") && !strings.HasPrefix(p.output, "/dev/shm/")
}

// ownName reports whether a path names something of the process that opens it:
// to hpcc it would be another file than to the compiler. Links that lead to one
// are found when they are opened.
func ownName(path string) bool {
	return strings.HasPrefix(path, "/proc/") || strings.HasPrefix(path, "/dev/fd/") || strings.HasPrefix(path, "/dev/std")
}

// companion is the name of a file beside the output, with its role as suffix.
func (p *parser) companion(role string) string {
	base := stem(p.inv.Object)
	if p.inv.Family.MSVC() && role == "d" {
		base = stem(baseName(p.inv.Source)) // whatever /Fo says
	}
	if p.inv.Family == Clang && role == "dwo" && !p.compile {
		base = stem(baseName(p.inv.Source)) // -o is heeded with -c only
	}
	// gcc takes no suffix off a name that is nothing but a suffix: .o gives
	// .o.dwo, but .d.
	if p.inv.Family == GCC && role != "d" && (base == "" || strings.HasSuffix(base, "/")) {
		base = p.inv.Object
	}
	return base + "." + role
}

// dependencies works out the dependency file and its targets.
func (p *parser) dependencies() {
	inv, d := p.inv, &p.dep
	if !preprocessed(inv.Language) {
		// Nothing heeds the options: gcc is silent, clang warns of them, so
		// they stay in command and key like any other.
		inv.depsUnused = true
		return
	}
	driver := d.all || d.user
	switch {
	case !driver && !d.innerSet:
		// Given all the same they are an error to gcc, a warning to clang.
		if d.file != "" || d.innerFile != "" || d.phony || len(d.targets)+len(d.innerTargets) > 0 {
			p.refuse(ReasonDependencyOption, "without -MD")
		}
		return
	case d.all && d.user && inv.Family.IsClang():
		p.refuse(ReasonDependencyOption, "-MD and -MMD") // clang warns of one
		return
	}
	deps := Deps{
		Requested: true,
		// -MMD wins over -MD, wherever it stands, except that what the
		// preprocessor is told directly comes later than both. clang's driver
		// takes -H for a wish to see system headers in this list too.
		SystemHeaders: !d.user || d.shows && inv.Family == Clang,
		File:          d.file,
		Phony:         d.phony,
	}
	if d.innerSet {
		deps.SystemHeaders = d.innerAll
	}
	if d.innerFile != "" {
		deps.File = d.innerFile
	}
	if deps.File == "" {
		if p.device() {
			p.refuse(ReasonOutputName, inv.Object)
		}
		deps.File = p.companion("d")
	}
	if deps.File == "-" || ownName(deps.File) {
		p.refuse(ReasonDependencyOption, "-MF "+deps.File)
	}
	for _, o := range inv.Outputs {
		if path.Clean(o.Path) == path.Clean(deps.File) { // which of the two is left, is the compiler's order
			p.refuse(ReasonDependencyOption, "-MF "+deps.File)
		}
	}
	deps.Targets = p.targets(driver)
	inv.Deps = deps
}

// targets are the dependency file's, in the order in which the compiler writes
// them; driver is whether -MD or -MMD was among the driver's own options.
func (p *parser) targets(driver bool) []DepTarget {
	given := p.dep.targets
	if p.outputs > 0 && driver && len(given) == 0 && !p.inv.Family.MSVC() {
		// gcc does this for its driver's -MD alone, not for -Wp,-MD, and then
		// even if -Wp,-MT names a target.
		given = []DepTarget{{Name: p.output, Quoted: true}}
	}
	if p.inv.Family == GCC {
		given = gccTargetOrder(given, p.dep.innerTargets)
	}
	if len(given) == 0 {
		given = []DepTarget{DefaultTarget(p.inv.Source)}
	}
	return given
}

// DefaultTarget is the target that a source's dependencies have where the
// command names none.
func DefaultTarget(source string) DepTarget {
	return DepTarget{Name: stem(baseName(source)) + ".o", Quoted: true}
}

// gccTargetOrder is the order in which gcc writes targets. Its driver passes
// every -MQ on before every -MT, then come those that -Wp, holds; and cc1 keeps
// the unquoted ones in front, by letting each change places with the first
// quoted one.
func gccTargetOrder(driver, inner []DepTarget) []DepTarget {
	var given, order []DepTarget
	for _, quoted := range []bool{true, false} {
		for _, t := range driver {
			if t.Quoted == quoted {
				given = append(given, t)
			}
		}
	}
	unquoted := 0
	for _, t := range append(given, inner...) {
		order = append(order, t)
		if !t.Quoted {
			last := len(order) - 1
			order[unquoted], order[last] = order[last], order[unquoted]
			unquoted++
		}
	}
	return order
}

// baseName is the last element of a path.
func baseName(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// stem is a path without the suffix of its last element, dot included.
func stem(path string) string {
	if dot := strings.LastIndexByte(path, '.'); dot > strings.LastIndexByte(path, '/') {
		return path[:dot]
	}
	return path
}
