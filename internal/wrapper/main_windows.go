package wrapper

import (
	"os"
	"os/exec"
)

// Main runs the compiler, or hpccd, and waits for it: on Windows a process
// cannot become another program.
func Main() int {
	mode, args := parse(os.Args)
	if mode == modeDelegate {
		args = append([]string{"hpccd"}, args...)
	}
	if mode == modeShow {
		os.Stdout.WriteString(quote(args) + "\n")
		return 0
	}
	if len(args) == 0 {
		os.Stderr.WriteString(program + ": no compiler given; for example: hpcc wrap cl /c hello.c\n")
		return 2
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	if cmd.ProcessState == nil {
		os.Stderr.WriteString(program + ": " + err.Error() + "\n")
		return 127
	}
	return cmd.ProcessState.ExitCode()
}
