// Hpccd is the heavy half of hpcc: the daemon that answers compiles, and every
// command of the command line. Users type hpcc, which stands behind the
// compilers' names and must start fast; hpcc runs hpccd for all that is not a
// compile, so the help texts here speak of hpcc.
//
// This program is the only place where packages with heavy dependencies are
// put together; see services.go.
package main

import (
	"os"

	"golang.org/x/term"
)

func main() {
	// Before anything is built up: a compile without a daemon comes here, and
	// its user waits.
	if len(os.Args) > 1 && os.Args[1] == "compile" {
		os.Exit(compileOnce(os.Args[2:]))
	}
	a := &app{
		services: wired,
		stdout:   os.Stdout,
		stderr:   os.Stderr,
		terminal: term.IsTerminal(int(os.Stdout.Fd())),

		stderrTerminal: term.IsTerminal(int(os.Stderr.Fd())),
	}
	os.Exit(a.run(os.Args[1:]))
}
