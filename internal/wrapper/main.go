// Package wrapper is the program hpcc: what stands behind a compiler's name.
//
// A call (one compiler invocation of a build) is described to the daemon,
// which leads from there: it answers that the outputs are in place (a hit), or
// has commands run here and stores what they made (a miss), or gives the call
// back (Pass, OneShot). See proto/hpcc/ipc/v1/ipc.proto for the conversation.
// The wrapper knows nothing of compilers; it is the process that the build
// started, and so the one whose stdin, signals, job server, limits and
// terminal a compile must have. Runner is that part, for hpccd's one-shot path
// as well.
//
// A build never fails because of hpcc. Whatever is wrong with the daemon, the
// call goes to hpccd for a compile in one shot, and if that cannot start, to
// the compiler itself; one line on stderr says so, and not for each call
// (note_unix.go).
//
// A compile pays for this program's start each time, so it is kept small: a
// test holds its dependencies and its size.
package wrapper

import (
	"path/filepath"
	"strings"
)

// program is the name under which hpcc is itself; under any other it is the
// compiler of that name.
const program = "hpcc"

// subcommands are what hpccd understands. All other words after hpcc name a
// compiler, so that "hpcc CC args…" works as a launcher for compilers that
// nobody has heard of.
const subcommands = " audit ca cache clean compile completion config daemon doctor explain fsck guest help image inspect login logout" +
	" masquerade replay scheduler start stats stop tenant top version worker __complete __completeNoDesc "

// mode is what a command line of hpcc asks for.
type mode uint8

const (
	modeCompile  mode = iota // args[0] names the compiler
	modeShow                 // the same, but only print what would run
	modeDelegate             // args are for hpccd
	modeUsage                // wrap without a compiler
)

// parse tells the mode of argv and which part of it the mode is about. An
// empty argv, which only a strange caller gives, is hpccd's.
func parse(argv []string) (mode, []string) {
	if len(argv) == 0 {
		return modeDelegate, nil
	}
	// Not a prefix of hpcc only: the file may be called hpcc-1.2 or hpcc.exe.
	if !strings.HasPrefix(filepath.Base(argv[0]), program) {
		return modeCompile, argv
	}
	args := argv[1:]
	switch {
	case len(args) == 0, strings.HasPrefix(args[0], "-"):
		return modeDelegate, args
	case args[0] == "wrap":
		return parseWrap(args)
	case !strings.Contains(args[0], " ") && strings.Contains(subcommands, " "+args[0]+" "):
		return modeDelegate, args
	}
	return modeCompile, args
}

// parseWrap reads "wrap [--show-command] [--] COMPILER ARGS…".
func parseWrap(args []string) (mode, []string) {
	m, rest := modeCompile, args[1:]
	for len(rest) > 0 && strings.HasPrefix(rest[0], "-") {
		switch rest[0] {
		case "--show-command":
			m = modeShow
		case "--":
			if rest = rest[1:]; len(rest) == 0 {
				return modeUsage, nil
			}
			return m, rest
		default: // --help, or what hpccd will explain
			return modeDelegate, args
		}
		rest = rest[1:]
	}
	if len(rest) == 0 {
		return modeUsage, nil
	}
	return m, rest
}

// quote writes a command in one line that a shell reads back as args.
func quote(args []string) string {
	var b strings.Builder
	for i, arg := range args {
		if i > 0 {
			b.WriteByte(' ')
		}
		if arg != "" && strings.Trim(arg, shellSafe) == "" {
			b.WriteString(arg)
			continue
		}
		b.WriteByte('\'')
		b.WriteString(strings.ReplaceAll(arg, "'", `'\''`))
		b.WriteByte('\'')
	}
	return b.String()
}

// shellSafe are the characters that mean themselves in every shell. A tilde or
// an equals sign may not, at the beginning of a word.
const shellSafe = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+:,./-"
