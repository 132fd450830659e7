// Package env knows the environment variables that compilers read and says
// what each means for a cached compile. The wrapper links it, to send only
// what matters, so it depends on little and makes nothing at start.
package env

import "strings"

// Role is a bit set: what a variable means for a compile.
type Role uint8

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
	// Ignore: looked up by a compiler, but without influence on what a
	// successful compile leaves behind. Not sent to the daemon.
	Ignore
)

// variable is one row of the table. A row with several names stands for as
// many variables of one role.
type variable struct {
	names string
	role  Role
}

// variables is searched from the front: it is short, and a compile has few
// dozen variables.
var variables = [...]variable{
	{"CPATH C_INCLUDE_PATH CPLUS_INCLUDE_PATH OBJC_INCLUDE_PATH OBJCPLUS_INCLUDE_PATH", Search},
	{"SOURCE_DATE_EPOCH", Key | Time},
	// SDKROOT and the deployment targets count on macOS only, where they choose
	// headers and target; LLVM_OVERRIDE_PRODUCER is in clang's debug
	// information.
	{"SDKROOT MACOSX_DEPLOYMENT_TARGET IPHONEOS_DEPLOYMENT_TARGET LLVM_OVERRIDE_PRODUCER", Key},
	{"ROCM_PATH CUDA_PATH", Key},
	{"PWD", Cwd},

	// A driver finds cc1, as and its specs through these. LIBRARY_PATH and
	// LPATH are for the link, but gcc also looks for files of its own there.
	{"PATH COMPILER_PATH GCC_EXEC_PREFIX GCC_ROOT G++_ROOT BINUTILS_ROOT LIBRARY_PATH LPATH", Identity},
	{"LD_LIBRARY_PATH LD_PRELOAD DYLD_LIBRARY_PATH DYLD_INSERT_LIBRARIES", Identity},

	{"LANG LANGUAGE LC_ALL LC_MESSAGES LC_CTYPE LOCPATH NLSPATH", Stdio},
	{"TERM COLORTERM COLUMNS LINES GCC_COLORS GCC_URLS TERM_URLS NO_COLOR TERMINFO TERMINFO_DIRS", Stdio},
	// Fix-it hints in a form for editors, after each diagnostic.
	{"GCC_EXTRA_DIAGNOSTIC_OUTPUT", Stdio},

	// A second dependency file, or other options than on the command line.
	{"DEPENDENCIES_OUTPUT SUNPRO_DEPENDENCIES", Refuse},
	{"CCC_OVERRIDE_OPTIONS QA_OVERRIDE_GCC3_OPTIONS CCC_ADD_ARGS", Refuse},
	{"GCC_COMPARE_DEBUG", Refuse},
	// Logs and reports of each run.
	{"CC_PRINT_OPTIONS CC_PRINT_OPTIONS_FILE CC_PRINT_HEADERS CC_PRINT_HEADERS_FILE CC_LOG_DIAGNOSTICS CC_LOG_DIAGNOSTICS_FILE", Refuse},
	{"CC_PRINT_PROC_STAT CC_PRINT_PROC_STAT_FILE CC_PRINT_INTERNAL_STAT CC_PRINT_INTERNAL_STAT_FILE AS_SECURE_LOG_FILE", Refuse},
	{"FORCE_CLANG_DIAGNOSTICS_CRASH RC_DEBUG_OPTIONS", Refuse},

	// Where temporary files go: their names are in no output that is cached.
	{"TMPDIR TMP TEMP TEMPDIR", Ignore},
	// Set by the driver for its own children.
	{"COLLECT_GCC COLLECT_GCC_OPTIONS COLLECT_AS_OPTIONS COLLECT_LTO_WRAPPER", Ignore},
	// The job server of a parallel link; Debian's driver tries a failed
	// compile again by DEB_BUILD_OPTIONS; HOME is for module caches and
	// histories; bar is looked up by clang so that its linker keeps a symbol.
	{"MAKEFLAGS MFLAGS DEB_BUILD_OPTIONS HOME bar", Ignore},
}

// Roles is what the variable name means; 0 for one that no compiler reads.
func Roles(name string) Role {
	for i := range variables {
		if hasWord(variables[i].names, name) {
			return variables[i].role
		}
	}
	return 0
}

// Select keeps of environ (NAME=value strings) what the daemon is to know, in
// the order given: what compilers read, and hpcc's own settings.
func Select(environ []string) []string {
	var selected []string
	for _, e := range environ {
		name, _, ok := strings.Cut(e, "=")
		if ok && (Roles(name)&^Ignore != 0 || strings.HasPrefix(name, "HPCC_")) {
			selected = append(selected, e)
		}
	}
	return selected
}

// Refused names a variable of environ that is in the way of caching. clang
// reads some of them as switches by their presence, so an empty one counts.
func Refused(environ []string) (name string, found bool) {
	for _, e := range environ {
		name, _, ok := strings.Cut(e, "=")
		if ok && Roles(name)&Refuse != 0 {
			return name, true
		}
	}
	return "", false
}

// hasWord reports whether name is one of the words of a space-separated list.
// It is strings.Contains first, because nearly all variables are none of ours.
func hasWord(words, name string) bool {
	for name != "" {
		i := strings.Index(words, name)
		if i < 0 {
			return false
		}
		end := i + len(name)
		if (i == 0 || words[i-1] == ' ') && (end == len(words) || words[end] == ' ') {
			return true
		}
		words = words[end:]
	}
	return false
}
