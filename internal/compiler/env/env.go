// Package env knows the environment variables that compilers read and says
// what each means for a cached compile. The wrapper links it, to send only
// what matters, so it depends on little and makes nothing at start.
package env

import "strings"

// Role is a bit set: what a variable means for a compile.
type Role uint16

const (
	// Key: the value can change an object, so it belongs to the key.
	Key Role = 1 << iota
	// Stdio: the value can change what is printed: colours, widths, language.
	Stdio
	// Identity: the value helps to decide which programs, libraries and specs
	// stand behind the compiler's name.
	Identity
	// Search: the value lists directories that are searched for includes. They
	// take part in the look-up of each include, and belong to the key.
	Search
	// Time: the value is the time that the compile sees.
	Time
	// Cwd: the value is how the working directory is spelled in debug
	// information. The compiler heeds it only if it names that directory.
	Cwd
	// Refuse: with the variable set, the compiler writes or runs something
	// that is not followed; the compile is not cached.
	Refuse
	// MSVC: cl and clang-cl alone look it up.
	MSVC
	// Ignore: looked up by a compiler, but without influence on what a
	// successful compile leaves behind. Not sent to the daemon.
	Ignore
)

// Roles is what the variable name means; 0 for one that no compiler reads. It
// is the table, as a switch because that costs nothing at start and a dozen
// comparisons per variable.
func Roles(name string) Role {
	switch name {
	case "CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "OBJC_INCLUDE_PATH", "OBJCPLUS_INCLUDE_PATH":
		return Search
	// clang-cl takes these as the system's directories, or looks for Visual
	// Studio's below the others.
	case "INCLUDE", "EXTERNAL_INCLUDE", "VCToolsInstallDir", "VCINSTALLDIR":
		return Search | Identity | MSVC
	case "SOURCE_DATE_EPOCH":
		return Key | Time
	// SDKROOT and the deployment targets count on macOS only, where they choose
	// headers and target; LLVM_OVERRIDE_PRODUCER is in clang's debug
	// information.
	case "SDKROOT":
		return Key | Identity
	case "MACOSX_DEPLOYMENT_TARGET", "IPHONEOS_DEPLOYMENT_TARGET", "LLVM_OVERRIDE_PRODUCER":
		return Key
	case "ROCM_PATH", "CUDA_PATH":
		return Key
	// objcopy's format of objects, for split DWARF; and what cc1 writes into an
	// object for link-time optimisation unless the driver says otherwise.
	case "GNUTARGET", "COLLECT_AS_OPTIONS":
		return Key
	case "PWD":
		return Cwd

	// A driver finds cc1, as and its specs through these. LIBRARY_PATH and
	// LPATH are for the link, but gcc also looks for files of its own there.
	case "PATH", "COMPILER_PATH", "GCC_EXEC_PREFIX", "GCC_ROOT", "G++_ROOT", "BINUTILS_ROOT", "LIBRARY_PATH", "LPATH":
		return Identity
	case "LD_LIBRARY_PATH", "LD_PRELOAD", "LD_AUDIT", "GLIBC_TUNABLES", "DYLD_LIBRARY_PATH", "DYLD_INSERT_LIBRARIES":
		return Identity
	// clang looks for configuration files below it.
	case "HOME":
		return Identity

	case "LANG", "LANGUAGE", "LC_ALL", "LC_MESSAGES", "LC_CTYPE", "LOCPATH", "NLSPATH":
		return Stdio
	case "TERM", "COLORTERM", "COLUMNS", "LINES", "GCC_COLORS", "GCC_URLS", "TERM_URLS", "NO_COLOR", "TERMINFO",
		"TERMINFO_DIRS":
		return Stdio
	// Fix-it hints in a form for editors, after each diagnostic.
	case "GCC_EXTRA_DIAGNOSTIC_OUTPUT":
		return Stdio

	// A second dependency file, or other options than on the command line.
	case "DEPENDENCIES_OUTPUT", "SUNPRO_DEPENDENCIES":
		return Refuse
	case "CCC_OVERRIDE_OPTIONS", "QA_OVERRIDE_GCC3_OPTIONS", "CCC_ADD_ARGS":
		return Refuse
	case "GCC_COMPARE_DEBUG":
		return Refuse
	// More options, in front of the command line's and behind.
	case "CL", "_CL_":
		return Refuse | MSVC
	// Logs and reports of each run.
	case "CC_PRINT_OPTIONS", "CC_PRINT_OPTIONS_FILE", "CC_PRINT_HEADERS", "CC_PRINT_HEADERS_FILE", "CC_LOG_DIAGNOSTICS",
		"CC_LOG_DIAGNOSTICS_FILE":
		return Refuse
	case "CC_PRINT_PROC_STAT", "CC_PRINT_PROC_STAT_FILE", "CC_PRINT_INTERNAL_STAT", "CC_PRINT_INTERNAL_STAT_FILE",
		"AS_SECURE_LOG_FILE":
		return Refuse
	case "FORCE_CLANG_DIAGNOSTICS_CRASH", "RC_DEBUG_OPTIONS":
		return Refuse

	// Where temporary files go: their names are in no output that is cached.
	case "TMPDIR", "TMP", "TEMP", "TEMPDIR":
		return Ignore
	// Set by the driver for its own children.
	case "COLLECT_GCC", "COLLECT_GCC_OPTIONS", "COLLECT_LTO_WRAPPER":
		return Ignore
	// The job server of a parallel link; Debian's driver tries a failed
	// compile again by DEB_BUILD_OPTIONS; bar is looked up by clang so that its
	// linker keeps a symbol.
	case "MAKEFLAGS", "MFLAGS", "DEB_BUILD_OPTIONS", "bar":
		return Ignore
	}
	return 0
}

// Select keeps of environ (NAME=value strings) what the daemon is to know, in
// the order given: what compilers read, and hpcc's own settings.
func Select(environ []string) []string { return AppendSelected(nil, environ) }

// AppendSelected appends to selected what Select keeps of environ.
func AppendSelected(selected, environ []string) []string {
	for _, e := range environ {
		name, _, ok := strings.Cut(e, "=")
		if ok && (Roles(name)&^Ignore != 0 || strings.HasPrefix(name, "HPCC_")) {
			selected = append(selected, e)
		}
	}
	return selected
}

// Refused names a variable of environ that is in the way of caching; msvc is
// whether the compiler is cl or clang-cl. clang reads some of them as switches
// by their presence, so an empty one counts.
func Refused(environ []string, msvc bool) (name string, found bool) {
	for _, e := range environ {
		name, value, ok := strings.Cut(e, "=")
		roles := Roles(name)
		if ok && roles&Refuse != 0 && (roles&MSVC == 0 || msvc && value != "") {
			return name, true
		}
	}
	return "", false
}
