package compiler

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// detectClang adds what clang reads and may run. real is the driver with links
// resolved.
func (det *detection) detectClang(ctx context.Context, t *Toolchain, about banner, real string) error {
	// It takes its options' grammar from its name; the other one's would fail
	// here.
	if named, _, _ := FamilyOf(det.driver.argv0); named.MSVC() {
		t.Family = ClangCL
	}
	_, stderr, err := det.driver.ask(ctx, append([]string{"-###", "-c"}, t.Family.emptySource(langC)...)...)
	if err != nil {
		return unlessContext(err)
	}
	cc1 := compilerCommand(stderr)
	if len(cc1) == 0 {
		return fmt.Errorf("%w: %s does not show its command", ErrUnknownCompiler, det.driver.path)
	}
	// clang runs itself. Another path there means that we asked a launcher.
	if self, err := filepath.EvalSymlinks(cc1[0]); err != nil || self != real {
		return fmt.Errorf("%w: %s runs %s", ErrCompilerScript, det.driver.path, cc1[0])
	}
	// The headers below the resource directory are inputs of their own; its
	// path is in every chain.
	det.fact("resource-dir", optionValue(cc1, "-resource-dir"))
	t.Sysroot = optionValue(cc1, "-isysroot")

	// Configuration files are looked for beside the program, among other
	// places that are fixed when clang is built and cannot be asked for.
	det.watch.path(filepath.Dir(real))
	for path := range strings.Lines(about.configs) {
		if err := det.part("configuration", strings.TrimSpace(path)); err != nil {
			return err
		}
	}
	if t.Family == ClangCL {
		// CodeView has the program's path. There is no other assembler, and
		// no GCC installation that counts.
		det.fact("program", cc1[0])
		return nil
	}
	det.watchInstallations(about)

	_, dirs, err := det.searchDirs(ctx)
	if err != nil {
		return err
	}
	// Used with -fno-integrated-as.
	return det.assembler(ctx, t, dirs)
}

// gccDirs bounds how many directories of gcc installations are watched.
const gccDirs = 64

// watchInstallations watches where clang looks for a gcc, whose newest version
// it chooses: lib*/gcc*/TRIPLE/VERSION below the prefix it is installed in and
// below the one chosen.
func (det *detection) watchInstallations(about banner) {
	prefixes := []string{about.installedDir + "/..", "/usr"}
	if lib := strings.LastIndex(about.installation, "/lib"); lib > 0 {
		prefixes = append(prefixes, about.installation[:lib])
	}
	// Gentoo's choice of a compiler, and Red Hat's newer ones.
	det.watch.absence("/etc/env.d/gcc")
	det.watch.absence("/opt/rh")
	slices.Sort(prefixes)
	watched := 0
	var descend func(dir string, depth int)
	descend = func(dir string, depth int) {
		if det.watch.absence(dir) || watched >= gccDirs {
			return
		}
		watched++
		entries, err := os.ReadDir(dir)
		if err != nil || depth == 0 {
			return
		}
		for _, e := range entries {
			// A triple, or a version in it, is a directory or a link to one.
			if e.IsDir() || e.Type()&os.ModeSymlink != 0 {
				descend(dir+"/"+e.Name(), depth-1)
			}
		}
	}
	seen := make(map[stamp]bool)
	for _, prefix := range prefixes {
		// /usr/bin/.. and /usr are one.
		if s := stampOf(prefix); seen[s] {
			continue
		} else {
			seen[s] = true
		}
		for _, lib := range []string{"/lib64", "/lib", "/lib32", "/libx32"} {
			descend(prefix+lib+"/gcc", 2)
			descend(prefix+lib+"/gcc-cross", 2)
		}
	}
}

// emptySource are the arguments that give a compiler an empty source in a
// language.
func (f Family) emptySource(language string) []string {
	switch {
	case !f.MSVC():
		return []string{"-x", language, os.DevNull}
	case language == langCXX:
		return []string{"/TP", "--", os.DevNull}
	}
	return []string{"/TC", "--", os.DevNull}
}

// compilerCommand picks from the answer to -v or -### the command line of the
// compiler proper: an indented line that starts with a path to cc1, cc1plus …
// (gcc) or whose first argument is -cc1 (clang).
func compilerCommand(stderr []byte) []string {
	for line := range strings.Lines(string(stderr)) {
		if !strings.HasPrefix(line, " ") {
			continue
		}
		words := splitShown(strings.TrimSpace(line))
		if len(words) < 2 {
			continue
		}
		if words[1] == "-cc1" || strings.HasPrefix(filepath.Base(words[0]), "cc1") {
			return words
		}
	}
	return nil
}

// splitShown splits a command line as drivers print it: words are quoted with
// "…", and a backslash makes the next character plain.
func splitShown(line string) []string {
	var words []string
	var word strings.Builder
	quoted, inWord := false, false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\\' && i+1 < len(line):
			i++
			word.WriteByte(line[i])
			inWord = true
		case c == '"':
			quoted, inWord = !quoted, true
		case c == ' ' && !quoted:
			if inWord {
				words = append(words, word.String())
			}
			word.Reset()
			inWord = false
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	return words
}

// optionValue is the argument after the last name in words, "" without one.
func optionValue(words []string, name string) string {
	for i := len(words) - 2; i >= 0; i-- {
		if words[i] == name {
			return words[i+1]
		}
	}
	return ""
}
