package compiler

import "slices"

// Reason names why a compiler call is passed through instead of cached. The
// names are counters in `hpcc stats`, so they are stable.
type Reason string

// The reasons that Parse gives. Whoever bails out later (while looking for
// inputs, or after the compile) has reasons of its own.
const (
	ReasonAssemblerOption  Reason = "assembler-option"
	ReasonBadCommand       Reason = "bad-command"
	ReasonDependencyOption Reason = "dependency-option"
	ReasonDumpFiles        Reason = "dump-files"
	ReasonEnvironment      Reason = "environment"
	ReasonIncludeOption    Reason = "include-option"
	ReasonLanguage         Reason = "language"
	ReasonLinking          Reason = "linking"
	ReasonModules          Reason = "modules"
	ReasonMultipleArchs    Reason = "multiple-archs"
	ReasonMultipleSources  Reason = "multiple-sources"
	ReasonNoSource         Reason = "no-source"
	ReasonObjectInput      Reason = "object-input"
	ReasonOutputKind       Reason = "output-kind"
	ReasonOutputName       Reason = "output-name"
	ReasonPlugin           Reason = "plugin"
	ReasonPrecompiled      Reason = "precompiled-header"
	ReasonPreprocessing    Reason = "preprocessing"
	ReasonProfileUse       Reason = "profile-use"
	ReasonProgramDatabase  Reason = "program-database"
	ReasonQuery            Reason = "query"
	ReasonRecordedCommand  Reason = "recorded-command"
	ReasonResponseFile     Reason = "response-file"
	ReasonSaveTemps        Reason = "save-temps"
	ReasonSpecs            Reason = "specs"
	ReasonStdin            Reason = "stdin"
	ReasonUnknownOption    Reason = "unknown-option"
	ReasonUnrepeatable     Reason = "unrepeatable-output"
	ReasonWrapper          Reason = "wrapped-tools"
)

// ReasonInfo describes a reason in one line.
type ReasonInfo struct {
	Reason      Reason
	Description string
}

var reasons = []ReasonInfo{
	{ReasonAssemblerOption, "an option for the assembler names a file or is not understood"},
	{ReasonBadCommand, "the command is one that the compiler itself refuses"},
	{ReasonDependencyOption, "dependency options that go to stdout, or that nothing uses"},
	{ReasonDumpFiles, "the compiler is asked for dumps or reports beside the object"},
	{ReasonEnvironment, "an environment variable makes the compiler write or run something else"},
	{ReasonIncludeOption, "a way to name include directories that is not followed"},
	{ReasonLanguage, "the language is not C, C++, Objective-C or assembler"},
	{ReasonLinking, "the command links"},
	{ReasonModules, "C++20 or Clang modules"},
	{ReasonMultipleArchs, "one object for several architectures"},
	{ReasonMultipleSources, "several sources in one command"},
	{ReasonNoSource, "no source file"},
	{ReasonObjectInput, "an input that is not a source file"},
	{ReasonOutputKind, "the output is neither an object nor assembly"},
	{ReasonOutputName, "the output goes to stdout or a device, or its companions' names cannot be told"},
	{ReasonPlugin, "a compiler plug-in"},
	{ReasonPrecompiled, "a precompiled header is made or named"},
	{ReasonPreprocessing, "preprocessing or dependency output only"},
	{ReasonProfileUse, "a recorded profile whose file name the compiler works out itself"},
	{ReasonProgramDatabase, "debug information goes to a .pdb that several compiles write"},
	{ReasonQuery, "a question to the compiler, or a run that only shows or checks"},
	{ReasonRecordedCommand, "the object records the whole command line"},
	{ReasonResponseFile, "a response file that cannot be read or is too large or too deep"},
	{ReasonSaveTemps, "intermediate files are kept"},
	{ReasonSpecs, "a specs or configuration file changes what the driver does"},
	{ReasonStdin, "the source is read from standard input or another open descriptor"},
	{ReasonUnknownOption, "an option that hpcc does not know"},
	{ReasonUnrepeatable, "the compiler is asked to print what no two runs have in common"},
	{ReasonWrapper, "the compiler is told to run its tools through another program"},
}

// Reasons lists every reason of Parse, sorted by name.
func Reasons() []ReasonInfo { return slices.Clone(reasons) }

// NotCacheable is Parse's error for a command that is to be run as it stands.
type NotCacheable struct {
	Reason Reason
	// Detail is the option, file or variable that decided, "" if none did.
	Detail string
}

func (e *NotCacheable) Error() string {
	if e.Detail == "" {
		return "not cacheable: " + string(e.Reason)
	}
	return "not cacheable: " + string(e.Reason) + ": " + e.Detail
}

func refuse(r Reason, detail string) error { return &NotCacheable{Reason: r, Detail: detail} }
