// Package compiler knows compilers: what a command line asks for, which files
// a compile reads and looks for, what stands behind a compiler's name.
//
// A Command is one compiler call as the build made it. Parse turns it into an
// Invocation, in which every option is understood, or gives a Reason why the
// call is passed through. From an Invocation come the arguments that belong to
// the key (KeyArgs), the command that is run on a miss (RunArgs) and, where
// the dependency file cannot serve, the preprocessor's (PreprocessArgs). All
// three, the parser and the path mapper read one table per grammar of options;
// a grammar is a set of rows (option), whatever its options look like, so that
// another family of compilers is another table and another walk over argv.
package compiler

// Family is a kind of compiler whose options, dependency files and include
// rules follow one grammar.
type Family uint8

// The families of the GNU grammar, then those of the MSVC grammar.
const (
	GCC Family = iota + 1
	Clang
	// ClangCL is clang under the name clang-cl: its own front end, dependency
	// files and objects, but cl's options, response files and include rule.
	ClangCL
	// CL is Microsoft's own compiler. It runs on Windows alone, where hpcc does
	// not run yet: its grammar is confirmed by tables only, and no detection
	// finds it.
	CL
)

// MSVC reports whether the family's options are Microsoft's.
func (f Family) MSVC() bool { return f == ClangCL || f == CL }

// IsClang reports whether clang's front end stands behind the family: its
// dependency files, messages and objects.
func (f Family) IsClang() bool { return f == Clang || f == ClangCL }

// gnu is the family under whose name the GNU table lists what the family
// understands of it.
func (f Family) gnu() Family {
	if f == ClangCL {
		return Clang
	}
	return f
}

func (f Family) String() string {
	switch f {
	case GCC:
		return "gcc"
	case Clang:
		return "clang"
	case ClangCL:
		return "clang-cl"
	case CL:
		return "cl"
	}
	return "unknown"
}

// Mode is what the compile makes.
type Mode uint8

const (
	// Object is -c.
	Object Mode = iota + 1
	// Assembly is -S.
	Assembly
	// Listing is -M or -MM: the dependencies go to stdout, and nothing is
	// compiled.
	Listing
)

// Command is one compiler call as the build made it.
type Command struct {
	// Compiler is the absolute path of the real compiler.
	Compiler string
	// Args is argv, Args[0] included.
	Args []string
	// Cwd is the working directory, absolute, as the kernel names it.
	Cwd string
	// Env holds NAME=value for the variables that package env lists.
	Env []string
	// ReadFile reads a response file; relative names are already joined to
	// Cwd. It bounds what it reads.
	ReadFile func(path string) ([]byte, error)
}

// Output is a file that the compile leaves behind, besides the dependency
// file.
type Output struct {
	// Role names it within the result: "object", "assembly", "dwo", "gcno",
	// "su", …
	Role string
	// Path is where it goes, as the command names it (relative to Cwd, or
	// absolute).
	Path string
	// Optional outputs may be absent after a successful compile.
	Optional bool
}

// DepTarget is a target of the dependency file.
type DepTarget struct {
	Name string
	// Quoted targets (-MQ and the default) are written with make's special
	// characters escaped; -MT's are written as given.
	Quoted bool
}

// Deps is what the command asks of the -M family.
type Deps struct {
	// Requested is true with -MD or -MMD.
	Requested bool
	// SystemHeaders is true with -MD, false with -MMD.
	SystemHeaders bool
	// File is the dependency file's path, the default filled in.
	File string
	// Targets in order, the default filled in where none was given.
	Targets []DepTarget
	// Phony is -MP.
	Phony bool
}

// Includes are the options that name include directories and forced includes,
// each list in the order of the command line, as written.
type Includes struct {
	Quote  []string // -iquote
	Angle  []string // -I
	System []string // -isystem
	After  []string // -idirafter
	Forced []string // -include
	Macros []string // -imacros
}

// Invocation is a command that was understood: one source, one compile, every
// option known to the table.
type Invocation struct {
	Family Family
	// CXX is true where the driver's name makes C sources C++ (g++).
	CXX bool
	// Args is argv without argv[0], response files expanded.
	Args []string
	// Source is the source file as written. A Listing may have several, all
	// of one language: Sources has them in order, Source is the first.
	Source  string
	Sources []string
	// Language is gcc's name for -x: "c", "c++", "objective-c",
	// "objective-c++", "assembler", "assembler-with-cpp", "cpp-output", ….
	Language string
	Mode     Mode
	// ListsUser is true for a Listing that leaves out system headers (-MM).
	ListsUser bool
	// Object is the path of the main output: -o or the default.
	Object string
	// Outputs lists every output but the dependency file, the main one first.
	Outputs  []Output
	Deps     Deps
	Includes Includes
	// Probe holds the options that decide the compiler's own search path and
	// predefined set, to be passed on when it is asked for them.
	Probe []string
	// ReadFiles are files named by options whose content decides the result.
	ReadFiles []string
	// AsmIncludeDirs are the directories the assembler searches for .include
	// and .incbin, in order, after the working directory.
	AsmIncludeDirs []string
	// HoldsCwd is true where an output may hold the working directory
	// (debug information, coverage, profiles, LTO).
	HoldsCwd bool
	// HoldsOutputName is true where an output holds the -o name (split DWARF,
	// coverage).
	HoldsOutputName bool
	Debug           bool
	// DebugMacros is true with -g3: unused macros reach the object.
	DebugMacros bool
	Coverage    bool
	LTO         bool
	// Native is true with -march=native and its like.
	Native bool
	// RandomSeed is the user's -frandom-seed, "" without one.
	RandomSeed string
	// RecordsCommand is true where an output holds the command line (CodeView
	// debug information): the command for a miss must be the user's own, word
	// for word, and all of it is in the key, under no other paths.
	RecordsCommand bool
	// Timestamped is true where the object's header holds the time of the
	// compile, so that no two compiles give the same bytes.
	Timestamped bool
	// StackSearch is true where "…" is also searched in the directories of the
	// files that include the includer: Microsoft's rule.
	StackSearch bool
	// showIncludes is the last of cl's options that print each included file
	// on stdout.
	showIncludes showIncludes

	// defines are the values of -D, sysroots the directories that stand for the
	// root of the system's headers; FindClosure guesses by them.
	defines, sysroots []string
	// colour is the last of the options that decide about colours: the value of
	// -fdiagnostics-color=, or the option's name; "" without any.
	colour string
	// listing is true with the assembler's -a, to a file or to stdout.
	listing bool
	// textOption is an option that does something else to preprocessed text, ""
	// without any, and indentation what is said of gcc's
	// -Wmisleading-indentation.
	textOption  string
	indentation warning
	// parsed is the classified command line, in order; KeyArgs, RunArgs and
	// PreprocessArgs are written from it.
	parsed []parsedArg
	// depsUnused is true where no preprocessor runs, so that dependency
	// options are words without effect.
	depsUnused bool
}

// colourAuto asks for colours on a terminal, as the compilers do by themselves.
const colourAuto = "auto"

// showIncludes is what cl's options of that name ask for.
type showIncludes uint8

const (
	showNone showIncludes = iota
	showAll
	showUser // no system headers
)

// SearchPath is the complete include chain of one compile, in the order of
// search, as the compiler spells the directories. Directories that do not
// exist are kept: if one appears, it is searched.
type SearchPath struct {
	Quote  []string // for "…" only
	Angle  []string // -I, CPATH
	System []string // -isystem, C_INCLUDE_PATH & co, then the compiler's own
	After  []string // -idirafter
	// Duplicates are directories that the compiler leaves out, each with the
	// name of the one among the others that it is a second name of.
	Duplicates [][2]string
}

// Unrepeatable says why two runs of the command leave different bytes, "" where
// they do not. seeded is true where the run has a -frandom-seed: without one
// gcc names things by chance that end up in coverage notes and in objects for
// link-time optimisation. A listing's head names a temporary file.
func (inv *Invocation) Unrepeatable(seeded bool) string {
	switch {
	case inv.Family != GCC:
		return ""
	case inv.listing:
		return "listing"
	case inv.Coverage && !seeded:
		return "coverage"
	case inv.LTO && !seeded:
		return "link-time-optimisation"
	}
	return ""
}
