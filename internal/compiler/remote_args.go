package compiler

import (
	"crypto/sha256"
	"encoding/hex"
	"path"
	"slices"
	"strings"
)

// MachineOut is the directory in a machine in which a compile leaves what the
// client does not name itself. It holds no input.
const MachineOut = "/hpcc/out"

// RoleDependencies is the role of the dependency file among the outputs of a
// RemoteCommand.
const RoleDependencies = "dependencies"

// The reasons that RemoteArgs gives besides those of Parse.
const (
	// ReasonNative: -march=native means the processor of the machine that runs
	// the compiler, which no key would see.
	ReasonNative Reason = "native"
	// ReasonOutsideRoots: a path of the client's that no root holds, or that
	// leads elsewhere once the roots lie elsewhere.
	ReasonOutsideRoots Reason = "outside-roots"
	// ReasonClientTools: -B names a directory of the client's.
	ReasonClientTools Reason = "client-tools"
	// ReasonRecordedPlace: the object names its own place, where the program
	// will write; see Invocation.InPlace.
	ReasonRecordedPlace Reason = "recorded-place"
)

// RemoteReasons lists the reasons of RemoteArgs that Parse does not have,
// sorted by name.
func RemoteReasons() []ReasonInfo {
	return []ReasonInfo{
		{ReasonClientTools, "the compiler is told to take its own programs from the project"},
		{ReasonNative, "code for the processor of this computer, which only this computer can make"},
		{ReasonOutsideRoots, "a path leads out of the project's roots; name a common directory as the root (HPCC_ROOT)"},
		{ReasonRecordedPlace, "the program will write coverage or profile data where the object was compiled"},
	}
}

// RemoteOptions say how a command is written for a machine.
type RemoteOptions struct {
	// Compiler is argv[0] in the machine.
	Compiler string
	// Cwd is the working directory here: absolute and clean, at or below a
	// root.
	Cwd string
	// Paths has the project's roots; each Root.Neutral is where the machine has
	// it.
	Paths *PathMap
	// Out is where outputs go, "" for MachineOut. Tests without a machine have
	// another.
	Out string
	// Extra goes before the user's own options, as in RunOptions.
	Extra []string
}

// RemoteCommand is a compile as it runs in a machine. Two clients that ask for
// the same compile get the same one, wherever their checkouts lie and whatever
// they call the outputs.
type RemoteCommand struct {
	Argv []string
	// Cwd is the working directory in the machine.
	Cwd string
	// Source is the (first) source in the machine, absolute; "" where that is
	// the null device.
	Source string
	// Outputs are what the compile may leave: those of Invocation.Outputs, with
	// their roles, and the dependency file, if one is asked for. Paths are
	// absolute and clean.
	Outputs []Output
}

// InPlace reports whether the command must run at the caller's own paths:
// programs with coverage and profiles write their data beside the object, by
// the absolute name that the compile saw. RemoteArgs then takes only roots that
// stay where they are (Root.Neutral is Root.Dir).
func (inv *Invocation) InPlace() bool { return inv.Coverage }

// DecidesColour reports whether the command says itself if messages are
// coloured; RemoteArgs asks for colours where it does not.
func (inv *Invocation) DecidesColour() bool { return inv.colour != "" && inv.colour != colourAuto }

// Seed is the value for -frandom-seed that follows from the command and the
// neutral name of its source, and not from its inputs: gcc writes it into debug
// information.
func (inv *Invocation) Seed(m *PathMap) string {
	sum := sha256.Sum256([]byte(strings.Join(inv.KeyArgs(m), "\x00")))
	return hex.EncodeToString(sum[:8])
}

// Machine is the map of the machine that a command of RemoteArgs runs in: its
// roots lie where m says that they appear. So m.LocalText(m.Machine().
// NeutralText(text)) is what the machine printed, with the paths of here.
func (m *PathMap) Machine() *PathMap {
	if m.identity() {
		return m
	}
	there := &PathMap{Roots: slices.Clone(m.Roots)}
	for i := range there.Roots {
		there.Roots[i].Dir = there.Roots[i].Neutral
	}
	return there
}

// RemoteArgs is the command for a machine whose image has the compiler. The
// main output goes to /hpcc/out under the name of its role, other outputs
// beside it; the dependency file, if the user asks for one, is
// /hpcc/out/dependencies, of the kind that the user asks for, with AskedTarget
// for its target. Where an output holds its name, all keep the names that they
// have. Paths below the roots are the machine's, others are left: they are the
// image's. Messages are coloured unless the user has decided about that.
//
// The error is a *NotCacheable where the compile can only be made here.
func (inv *Invocation) RemoteArgs(o RemoteOptions) (*RemoteCommand, error) {
	switch {
	case inv.Native:
		return nil, refuse(ReasonNative, "")
	case inv.RecordsCommand:
		return nil, refuse(ReasonRecordedCommand, "")
	}
	r := &remote{inv: inv, o: o, there: o.Paths.Machine(), keep: inv.HoldsOutputName}
	if r.o.Out == "" {
		r.o.Out = MachineOut
	}
	for _, p := range append(slices.Clone(inv.Sources), o.Cwd) {
		// Builds probe options by a source that is empty everywhere.
		if o.Paths.rootOf(r.local(p)) < 0 && p != nullDevice {
			return nil, refuse(ReasonOutsideRoots, p)
		}
	}
	cmd := &RemoteCommand{Cwd: r.placed(o.Cwd)}
	if inv.Source != nullDevice {
		cmd.Source = r.placed(r.local(inv.Source))
	}
	if inv.InPlace() && slices.ContainsFunc(o.Paths.Roots, func(root Root) bool { return root.Dir != root.Neutral }) {
		return nil, refuse(ReasonRecordedPlace, "")
	}
	r.outputs(cmd)
	cmd.Argv = append(append([]string{o.Compiler}, o.Extra...), r.added()...)
	cmd.Argv = inv.renderAll(cmd.Argv, r.edit)
	return cmd, r.err
}

// remote writes one command for a machine.
type remote struct {
	inv   *Invocation
	o     RemoteOptions
	there *PathMap
	// keep is true where the outputs keep their names.
	keep bool
	err  error // the first
}

func (r *remote) refuse(why Reason, detail string) {
	if r.err == nil {
		r.err = refuse(why, detail)
	}
}

// local makes a path of here absolute and clean.
func (r *remote) local(p string) string {
	if !strings.HasPrefix(p, "/") {
		p = r.o.Cwd + "/" + p
	}
	return path.Clean(p)
}

// placed is a path of here as the machine has it.
func (r *remote) placed(p string) string { return r.there.Local(r.o.Paths.Neutral(p)) }

// out is the path of an output by its role.
func (r *remote) out(role string) string {
	name := r.o.Out + "/" + role
	if r.inv.Family.MSVC() && role == "object" {
		name += ".obj" // else the compiler would append it
	}
	if r.inv.Family.MSVC() && role == roleListing {
		name += ".asm"
	}
	return name
}

// outputs declares what the compile may leave.
func (r *remote) outputs(cmd *RemoteCommand) {
	inv := r.inv
	for i, o := range inv.Outputs {
		switch {
		case r.named(o):
			o.Path = r.out(o.Role)
		case r.keep:
			here := r.local(o.Path)
			if r.o.Paths.rootOf(here) < 0 {
				r.refuse(ReasonOutsideRoots, o.Path)
			}
			o.Path = r.placed(here)
		case i == 0:
			o.Path = r.out(o.Role)
		default:
			// Beside the main output, whose name has no suffix.
			o.Path = stem(r.out(inv.Outputs[0].Role)) + "." + o.Role
		}
		// A role twice is one option given twice, of which the last counts.
		if !slices.ContainsFunc(cmd.Outputs, func(other Output) bool { return other.Path == o.Path }) {
			cmd.Outputs = append(cmd.Outputs, o)
		}
	}
	if inv.Deps.Requested {
		cmd.Outputs = append(cmd.Outputs, Output{Role: RoleDependencies, Path: r.out(RoleDependencies)})
	}
}

// named reports whether an option of its own names the output, so that its name
// is nowhere else.
func (r *remote) named(o Output) bool {
	if o.Role == roleListing {
		return !r.keep || !r.inv.Family.MSVC()
	}
	for i := range r.inv.parsed {
		a := &r.inv.parsed[i]
		if slices.ContainsFunc(slices.Concat(a.words, a.inner), func(w word) bool {
			return w.opt != nil && w.opt.does == addAuxOutput && string(w.opt.why) == o.Role
		}) {
			return true
		}
	}
	return false
}

// added are the options that take the place of the user's, and what makes
// objects the same everywhere.
func (r *remote) added() []string {
	inv := r.inv
	var args []string
	if inv.Family == GCC && inv.RandomSeed == "" {
		args = append(args, "-frandom-seed="+inv.Seed(r.o.Paths))
	}
	args = append(args, inv.ReproducibleArgs(nil)...)
	switch {
	case inv.DecidesColour(), inv.Family == CL:
	case inv.Family == ClangCL:
		args = append(args, "-fcolor-diagnostics")
	case inv.Family == Clang && inv.Language == langAssembler: // warns that it is not used
	default:
		args = append(args, "-fdiagnostics-color=always")
	}
	if inv.Deps.Requested {
		kind := "-MMD"
		if inv.Deps.SystemHeaders {
			kind = "-MD"
		}
		args = inv.askDeps(args, kind, r.out(RoleDependencies))
	}
	if len(inv.Outputs) == 0 || r.keep {
		return args
	}
	if !inv.Family.MSVC() {
		return append(args, "-o", r.out(inv.Outputs[0].Role))
	}
	args = append(args, "/Fo"+r.out(inv.Outputs[0].Role))
	if slices.ContainsFunc(inv.Outputs, func(o Output) bool { return o.Role == roleListing }) {
		args = append(args, "/Fa"+r.out(roleListing))
	}
	return args
}

// edit writes one of the user's words.
func (r *remote) edit(w word) (string, bool) {
	name, value := w.text[:w.value], w.text[w.value:]
	switch {
	case w.opt.is(roleDep) && !r.inv.depsUnused:
		return "", false
	case w.opt.is(roleOutput):
		// The outputs were found to lie below a root.
		return name + r.relocated(value, false), r.keep || len(r.inv.Outputs) == 0
	case w.opt == nil:
		return r.relocated(value, true), true
	}
	switch w.opt.does {
	case setColour:
		return w.text, r.inv.colour != colourAuto
	case addAuxOutput:
		if value != "" {
			value = r.out(string(w.opt.why))
		}
		return name + value, true
	case addListing:
		if letters, _, toFile := strings.Cut(value, "="); toFile {
			value = letters + "=" + r.out(roleListing)
		}
		return name + value, true
	case setAsmListing:
		// The one that names the file is replaced.
		return name + r.relocated(value, false), value == "" || r.keep
	case addPrefix:
		if value != "" && r.o.Paths.rootOf(r.local(value)) >= 0 {
			r.refuse(ReasonClientTools, value)
		}
	}
	if value == "" {
		return w.text, true
	}
	switch {
	case w.opt.is(rolePath):
		value = r.relocated(value, true)
	case w.opt.is(roleText):
		value = string(r.there.LocalText(r.o.Paths.NeutralText([]byte(value))))
	case w.opt.is(rolePathMap):
		value = r.mapped(value)
	}
	return name + value, true
}

// relocated is a path as the machine has it, spelled as it was: relative if it
// was so. Where it is checked, one that would lead elsewhere is refused.
func (r *remote) relocated(p string, check bool) string {
	if p == "" {
		return p
	}
	here := r.local(p)
	there, want := r.placed(p), r.placed(here)
	got := there
	if !strings.HasPrefix(p, "/") {
		got = r.placed(r.o.Cwd) + "/" + p
	}
	if check && (path.Clean(got) != want || r.there.rootOf(want) != r.o.Paths.rootOf(here)) {
		r.refuse(ReasonOutsideRoots, p)
	}
	return there
}

// mapped is OLD=NEW of the user's own -ffile-prefix-map and its like. Compilers
// compare OLD letter by letter with the paths that they open; NEW gets into the
// outputs as it is.
func (r *remote) mapped(value string) string {
	from, to, ok := strings.Cut(value, "=")
	if !ok {
		return value
	}
	for _, root := range r.o.Paths.Roots {
		if len(from) < len(root.Dir) && strings.HasPrefix(root.Dir, from) && root.Dir != root.Neutral {
			// It would change the root's own name.
			r.refuse(ReasonOutsideRoots, value)
		}
	}
	return r.placed(from) + "=" + to
}
