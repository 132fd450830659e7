package daemon

import "hpcc.dev/hpcc/internal/compiler"

// nextSteps say what can be done about a reason for not caching. Where nothing
// need be done, they say so: most calls that pass through cost nothing.
var nextSteps = map[compiler.Reason]string{
	compiler.ReasonAssemblerOption:  "pass to the assembler only options that name no file",
	compiler.ReasonBadCommand:       "mend the command: the compiler refuses it as well",
	compiler.ReasonDependencyOption: "write dependencies to a file beside the compile: -MD -MF FILE",
	compiler.ReasonDumpFiles:        "leave out the option that asks for dumps, but where they are looked at",
	compiler.ReasonEnvironment:      "unset the variable for the build",
	compiler.ReasonIncludeOption:    "name include directories by -I, -iquote, -isystem or -idirafter",
	compiler.ReasonLanguage:         "nothing: only C, C++, Objective-C and assembler are cached",
	compiler.ReasonLinking:          "nothing: links are not cached; compile with -c to cache that part",
	compiler.ReasonModules:          "nothing: units that use modules are not cached",
	compiler.ReasonMultipleArchs:    "compile once for each architecture",
	compiler.ReasonMultipleSources:  "compile each source by a command of its own",
	compiler.ReasonNoSource:         "nothing: there is nothing to compile",
	compiler.ReasonObjectInput:      "nothing: links are not cached",
	compiler.ReasonOutputKind:       "ask for an object (-c) or assembly (-S)",
	compiler.ReasonOutputName:       "name the output by -o FILE",
	compiler.ReasonPlugin:           "leave the plug-in out where it is not needed",
	compiler.ReasonPrecompiled:      "build without precompiled headers: with a warm cache they save little",
	compiler.ReasonPreprocessing:    "nothing: preprocessing is not cached",
	compiler.ReasonProfileUse:       "name the profile's file: -fprofile-use=FILE",
	compiler.ReasonQuery:            "nothing: questions to the compiler are not cached",
	compiler.ReasonRecordedCommand:  "leave out -grecord-gcc-switches or -frecord-gcc-switches",
	compiler.ReasonResponseFile:     "see that the response file can be read when the compile starts",
	compiler.ReasonSaveTemps:        "leave out -save-temps",
	compiler.ReasonSpecs:            "leave out the specs or configuration file, or put its options on the command line",
	compiler.ReasonStdin:            "compile from a file",
	compiler.ReasonUnknownOption:    "report the option, so that hpcc learns it",
	compiler.ReasonUnrepeatable:     "leave out the option, but where its report is read",
	compiler.ReasonWrapper:          "leave out the option that puts a program before the compiler's tools",

	"program-database": "write debug information into the objects: /Z7",

	reasonError:         "see the daemon's log (HPCC_LOG_LEVEL=debug), and run hpcc doctor",
	reasonFailed:        "mend what the compiler reports; failing compiles are not cached",
	reasonDisabled:      "unset HPCC_DISABLE, or set disable = false in client.toml",
	reasonScript:        "call the compiler itself: hpcc doctor lists what stands behind each name",
	reasonUnknown:       "run hpcc doctor, which says what the compiler answered",
	reasonModified:      "nothing if it happens once; else see that nothing writes the file while it is compiled",
	reasonIrregular:     "include regular files only",
	reasonOutputMissing: "see why the compiler leaves no such file",
	reasonOutputSpecial: "nothing: what goes to a device is not worth keeping",
	reasonOutputLarge:   "nothing: so large an output is written faster than kept",
	reasonOutputShared:  "give each compile an output of its own",
	reasonStdioGone:     "nothing: the compile itself lost what it had to say",
	reasonStdio:         "keep NUL bytes and parts of the project's path out of the compiler's messages",
	reasonStdioLarge:    "mend the warnings, or switch those off that fill megabytes",
	reasonDepFile:       "report the dependency options, so that hpcc learns the form",
	reasonDateTime:      "set SOURCE_DATE_EPOCH, or reproducible.date_time = \"pin\", or keep the macros out of the unit",
	reasonOnceCopies:    "keep one copy of the header, or use include guards instead of #pragma once",
	reasonAsmInclude:    "compile the unit with gcc, whose assembler lists what it reads",
	reasonDependency:    "leave the #pragma to the build system",
	reasonComputed:      "nothing: the next compile of it is stored",
	reasonStore:         "run hpcc doctor: the cache could not be written",
	reasonVerify:        "hpcc inspect shows the quarantined entry by its key",
	reasonAway:          "see hpcc doctor; remote.fallback says whether a local compiler may be used meanwhile",
	reasonNoRoot:        "set HPCC_ROOT or reproducible.roots, or compile below a directory with .git or .hpcc.toml",
	reasonLimit:         "ask the worker's owner for a higher limit, or split the unit",
	reasonUnbounded:     "split the unit",
	reasonProjectCC:     "put the compiler into the image",
	reasonOutputDir:     "make the directory before the compile",

	reasonRoot: "set reproducible.roots to the project's own directory",
}

// nextStep says what to do about a reason; "" for one that is not known.
func nextStep(r compiler.Reason) string { return nextSteps[r] }
