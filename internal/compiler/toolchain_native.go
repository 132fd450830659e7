package compiler

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// NativeExpansion says what inv's -march=native and its like mean on this
// machine: the options that the compiler proper gets instead, as one string
// for the key. It is remembered for the life of the process, as the processor
// does not change meanwhile.
func (t *Toolchain) NativeExpansion(ctx context.Context, inv *Invocation) (string, error) {
	drv := t.driver
	drv.options = inv.Probe
	if !dependsOnCwd(drv.env) {
		drv.dir = ""
	}
	key := t.Identity.String() + inv.Language + "\x00" + drv.key()
	return t.detector.natives.get(ctx, key, func(ctx context.Context) (string, watchList, bool, error) {
		_, stderr, err := drv.ask(ctx, append([]string{"-###", "-E"}, t.Family.emptySource(inv.Language)...)...)
		if err != nil {
			return "", nil, false, fmt.Errorf("meaning of native for %s: %w", t.driver.path, err)
		}
		words := compilerCommand(stderr)
		if len(words) == 0 {
			return "", nil, false, fmt.Errorf("meaning of native for %s: %w", t.driver.path, ErrUnknownCompiler)
		}
		return strings.Join(machineOptions(words), " "), nil, true, nil
	})
}

// machineOptions picks from a command line what describes the processor: gcc's
// -m options and cache sizes, clang's -target-cpu, -tune-cpu and features,
// whose order clang does not promise.
func machineOptions(words []string) []string {
	var options, features []string
	for i, word := range words {
		value := ""
		if i+1 < len(words) {
			value = words[i+1]
		}
		switch {
		case word == "-target-feature":
			features = append(features, value)
		case word == "-target-cpu", word == "-tune-cpu", word == "-target-abi", word == "--param":
			options = append(options, word, value)
		case strings.HasPrefix(word, "-m") && word != "-main-file-name" && word != "-mrelocation-model":
			options = append(options, word)
		}
	}
	slices.Sort(features)
	return append(options, features...)
}
