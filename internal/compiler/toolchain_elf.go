package compiler

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
)

// executable is what the dynamic linker is told by a program or library.
type executable struct {
	interpreter string   // "" for a static program
	runPath     []string // $ORIGIN expanded
}

// readExecutable reads the headers of an ELF file. Anything else is a script
// or a launcher of another kind: ErrCompilerScript.
func readExecutable(path string) (executable, error) {
	f, err := elf.Open(path)
	var notELF *elf.FormatError
	if errors.As(err, &notELF) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return executable{}, fmt.Errorf("%w: %s is not an ELF program", ErrCompilerScript, path)
	}
	if err != nil {
		return executable{}, err
	}
	defer f.Close()
	var x executable
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP || p.Filesz > 4096 {
			continue
		}
		b := make([]byte, p.Filesz)
		if _, err := p.ReadAt(b, 0); err != nil {
			return executable{}, fmt.Errorf("%s: interpreter: %w", path, err)
		}
		x.interpreter = string(bytes.TrimRight(b, "\x00"))
	}
	// $ORIGIN is the directory of the file itself, links resolved.
	origin := filepath.Dir(path)
	if real, err := filepath.EvalSymlinks(path); err == nil {
		origin = filepath.Dir(real)
	}
	for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
		lists, _ := f.DynString(tag) // a static program has none
		for _, list := range lists {
			for dir := range strings.SplitSeq(list, ":") {
				dir = strings.NewReplacer("$ORIGIN", origin, "${ORIGIN}", origin).Replace(dir)
				x.runPath = append(x.runPath, dir)
			}
		}
	}
	return x, nil
}

// library is a shared library as the dynamic linker found it.
type library struct{ name, path string }

// loadedLibraries asks the program's own interpreter which libraries it would
// load, LD_PRELOAD's included, in the environment env and the working directory
// dir ("" is the root).
func loadedLibraries(ctx context.Context, interpreter, program string, env []string, dir string) ([]library, error) {
	stdout, _, err := runChild(ctx, interpreter, []string{interpreter, "--list", program}, env, dir)
	if err != nil {
		return nil, err
	}
	var libs []library
	for line := range strings.Lines(string(stdout)) {
		// "libz.so.1 => /lib/libz.so.1 (0x…)", "/lib64/ld.so (0x…)", and the
		// kernel's "linux-vdso.so.1 (0x…)", which has no file.
		line, _, _ = strings.Cut(strings.TrimSpace(line), " (0x")
		name, path, ok := strings.Cut(line, " => ")
		if !ok {
			name, path = filepath.Base(line), line
		}
		if !filepath.IsAbs(path) && strings.Contains(path, "/") {
			path = dir + "/" + path // LD_LIBRARY_PATH=lib
		}
		switch {
		case filepath.IsAbs(path):
			libs = append(libs, library{filepath.Base(name), path})
		case ok:
			return nil, fmt.Errorf("%w: %s needs %s: %s", ErrUnknownCompiler, program, name, path)
		}
	}
	return libs, nil
}
