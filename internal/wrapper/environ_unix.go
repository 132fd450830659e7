//go:build unix

package wrapper

import _ "unsafe" // for go:linkname

// runtimeEnviron returns the environment as the process was given it.
// os.Environ first makes a map of it, which is 3 % of a whole hit. The symbol
// is what package syscall itself starts from.
//
//go:linkname runtimeEnviron syscall.runtime_envs
func runtimeEnviron() []string
