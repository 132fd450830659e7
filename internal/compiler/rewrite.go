package compiler

import "slices"

// KeyArgs is the command as it goes into the key: everything that can change
// an output or a diagnostic, and nothing else, so that the same compile asked
// for from elsewhere has the same key. The -o name is left out unless an
// output holds it, and dependency options are, because the dependency file is
// stored as a list and written anew. All else stays, as spelled and in order:
// most options mean something by their order, some compilers quote their
// spelling in warnings, and debug information records both.
//
// Where an output records the command, all of that stays too, and m must be nil.
//
// The first element is the language, because a source's may follow from the
// compiler's name. Paths are neutral under m; nil maps nothing.
func (inv *Invocation) KeyArgs(m *PathMap) []string {
	args := append(make([]string, 0, len(inv.parsed)+8), inv.Language)
	return inv.renderAll(args, func(w word) (string, bool) {
		switch {
		case w.opt.is(roleOutput) && !inv.HoldsOutputName, w.opt.is(roleDep) && !inv.depsUnused && !inv.RecordsCommand:
			return "", false
		}
		return w.text[:w.value] + neutralValue(m, w.opt, w.text[w.value:]), true
	})
}

// neutralValue maps the paths in an option's value, by what the option's row
// says of it.
func neutralValue(m *PathMap, o *option, value string) string {
	switch {
	case value == "" || m.identity():
		return value
	case o == nil || o.is(rolePath):
		return m.Neutral(value)
	case o.is(roleText):
		return string(m.NeutralText([]byte(value)))
	case o.is(rolePathMap):
		for i := range len(value) {
			if value[i] == '=' { // both compilers split at the first
				return m.Neutral(value[:i]) + value[i:]
			}
		}
	}
	return value
}

// RunOptions says how a compile on a miss differs from what the user asked.
type RunOptions struct {
	// DepFile is where the full list of dependencies goes, system headers
	// included. The user's own dependency options are left out then. "" leaves
	// them as they are; so it must be where Invocation.InputsFrom is not
	// FromOption.
	DepFile string
	// AsmDepFile is where the assembler lists what it read; ignored where
	// CanListAssembly is false.
	AsmDepFile string
	// Extra goes before everything else, so that where the last option wins
	// the user's own does (-frandom-seed=, -ffile-prefix-map=).
	Extra []string
}

// CanListAssembly reports whether the compile's assembler can be asked, by
// RunOptions.AsmDepFile, for the files that .incbin and .include read. clang's
// own assembler cannot. With link-time optimisation gcc records the options
// for the assembler in the object, so asking would change it.
func (inv *Invocation) CanListAssembly() bool {
	return inv.Family == GCC && inv.Mode == Object && !inv.LTO
}

// depTarget stands as target in the dependency files that hpcc asks for: the
// user's targets are known without.
const depTarget = "x"

// AskedTarget is the target in the dependency files that RunArgs and
// PreprocessArgs ask for.
var AskedTarget = DepTarget{Name: depTarget}

// RunArgs is the command to run on a miss, without argv[0]. Its object,
// stdout and stderr are those of the user's command.
func (inv *Invocation) RunArgs(o RunOptions) []string {
	args := make([]string, 0, len(inv.parsed)+len(o.Extra)+16)
	args = append(args, o.Extra...)
	ownDeps := o.DepFile != "" && !inv.depsUnused
	if ownDeps {
		args = inv.askDeps(args, "-MD", o.DepFile)
	}
	if o.AsmDepFile != "" && inv.CanListAssembly() {
		// Not -Wa,: that would end the name at a comma.
		args = append(args, "-Xassembler", "--MD", "-Xassembler", o.AsmDepFile)
	}
	return inv.renderAll(args, func(w word) (string, bool) {
		return w.text, !(ownDeps && w.opt.is(roleDep))
	})
}

// ListArgs is the command that lists the dependencies of a Listing's sources
// on stdout in full, system headers included, without argv[0].
func (inv *Invocation) ListArgs() []string {
	return inv.renderAll(make([]string, 0, len(inv.parsed)+8), func(w word) (string, bool) {
		if w.opt != nil && w.opt.does == setListUser {
			return "-M", true
		}
		return w.text, true
	})
}

// Each returns the invocations of a Listing's sources, each as if it were
// alone.
func (inv *Invocation) Each() []*Invocation {
	all := make([]*Invocation, len(inv.Sources))
	for i, source := range inv.Sources {
		one := *inv
		one.Source, one.Sources = source, inv.Sources[i:i+1]
		all[i] = &one
	}
	return all
}

// PreprocessArgs is the command that writes the preprocessed source to stdout,
// without argv[0]: comments are kept, because warnings read them, and with -g3
// the macros that the object will describe. The dependencies go to depFile in
// full; "" asks for none. It makes no sense for a language that is not
// preprocessed.
func (inv *Invocation) PreprocessArgs(depFile string) []string {
	args := inv.toDriver(nil, "-E", "-CC")
	if inv.DebugMacros {
		args = inv.toDriver(args, "-dD")
	}
	args = inv.quietAboutUnused(args)
	if depFile != "" {
		args = inv.askDeps(args, "-MD", depFile)
	}
	return inv.preprocessOnly(args)
}

// PinnedArgs is a command that writes the preprocessed source to stdout with
// the string value for each of macros, which are among __DATE__, __TIME__ and
// __TIMESTAMP__. Both compilers let their own macros be redefined; a definition
// of the user's comes later and counts.
func (inv *Invocation) PinnedArgs(value string, macros ...string) []string {
	args := inv.quietAboutUnused([]string{"-E", "-Wno-builtin-macro-redefined"})
	for _, m := range macros {
		args = append(args, "-D"+m+`="`+value+`"`)
	}
	// -g3 would write the definitions out.
	return inv.preprocessOnly(args, setDebug, setMacroDebug)
}

// UserDepsArgs is the command that lists in depFile the dependencies that
// -MMD would, and writes preprocessed text that nobody needs to stdout.
func (inv *Invocation) UserDepsArgs(depFile string) []string { return inv.depsArgs("-MMD", depFile) }

// AllDepsArgs is the command that lists in depFile all dependencies, as RunArgs
// would, and writes preprocessed text that nobody needs to stdout.
func (inv *Invocation) AllDepsArgs(depFile string) []string { return inv.depsArgs("-MD", depFile) }

func (inv *Invocation) depsArgs(kind, depFile string) []string {
	args := inv.quietAboutUnused(inv.toDriver(nil, "-E"))
	return inv.preprocessOnly(inv.askDeps(args, kind, depFile))
}

// askDeps appends the options that ask for a dependency file.
func (inv *Invocation) askDeps(args []string, kind, file string) []string {
	return inv.toDriver(args, kind, "-MF", file, "-MT", depTarget)
}

// toDriver appends options of the GNU grammar as the family takes them.
func (inv *Invocation) toDriver(args []string, words ...string) []string {
	if inv.Family != ClangCL {
		return append(args, words...)
	}
	for _, w := range words {
		args = append(args, driverPrefix+w)
	}
	return args
}

// ReproducibleArgs are the options for RunOptions.Extra that put to in the
// place of from, for each pair, wherever an output holds a path, and keep the
// time of the compile out of the object.
func (inv *Invocation) ReproducibleArgs(pairs [][2]string) []string {
	var args []string
	for _, p := range pairs {
		args = inv.toDriver(args, "-ffile-prefix-map="+p[0]+"="+p[1])
	}
	if inv.Family == ClangCL {
		args = append(args, "/Brepro")
	}
	return args
}

// quietAboutUnused keeps clang from warning of options for later stages, which
// with -Werror would be an error.
func (inv *Invocation) quietAboutUnused(args []string) []string {
	if inv.Family.IsClang() {
		return append(args, "-Qunused-arguments")
	}
	return args
}

// preprocessOnly puts those of the user's options behind args that count for
// the preprocessor, but for those that do what is to be dropped.
func (inv *Invocation) preprocessOnly(args []string, drop ...effect) []string {
	return inv.renderAll(args, func(w word) (string, bool) {
		if w.opt == nil {
			return w.text, true
		}
		switch w.opt.does {
		case setCompile, setAssemble, setOutput, setObjectFile, toAssembler, addAuxOutput, addListing, addAsmDir,
			setShowAll, setShowUser, setAsmListing:
			return "", false
		}
		if slices.Contains(drop, w.opt.does) {
			return "", false
		}
		return w.text, !w.opt.is(roleDep)
	})
}
