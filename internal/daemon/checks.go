package daemon

import (
	"context"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/compiler"
	"hpcc.dev/hpcc/internal/digest"
)

// checkRaces refuses what may have been otherwise when the compiler looked,
// though no file that it read is younger than that.
func (j *job) checkRaces(c *compiled, files []compiler.File, looked *compiler.Lookups) error {
	p := j.prep.place
	paths := slices.Concat(looked.Present, looked.Aliases, looked.Embedded, c.asm)
	for i := range files {
		paths = append(paths, files[i].Path)
	}
	if turned := c.before.turned(p, paths); turned != "" {
		return refuse(reasonModified, "%s", turned)
	}
	for _, x := range looked.Asked {
		if abs := p.absolute(x); !c.before.wasAbsent(abs) {
			return refuse(reasonModified, "%s may have been there", x)
		}
	}
	return nil
}

// checkOnce refuses units in which one content stands at two paths, though it
// asks to be included once, or #import does. gcc then goes by the times of
// modification, which are no input, and lists one of the two; which other
// files it passed over so is told by what its search ended at. Two names of
// one file are one by any rule.
func (j *job) checkOnce(files []compiler.File, inputs []action.Input, looked *compiler.Lookups) error {
	imports := slices.ContainsFunc(files, func(f compiler.File) bool {
		return slices.ContainsFunc(f.Scan.Directives, func(d compiler.Directive) bool { return d.Kind == compiler.Import })
	})
	p := j.prep.place
	once := map[digest.Digest]string{}
	sizes := map[int64]bool{}
	for i, f := range files {
		if !f.Scan.PragmaOnce && !imports {
			continue
		}
		sum := inputs[i].Digest
		if other, dup := once[sum]; dup && other != f.Path {
			pair := action.Pair{A: p.absolute(f.Path), B: p.absolute(other)}
			if !isSame(pair) {
				return refuse(reasonOnceCopies, "%s and %s", other, f.Path)
			}
			looked.Same = append(looked.Same, [2]string{f.Path, other})
		}
		once[sum] = f.Path
		sizes[sum.Size()] = true
	}
	if len(once) == 0 {
		return nil
	}
	for _, x := range looked.Present {
		var st unix.Stat_t
		if unix.Stat(p.absolute(x), &st) != nil || !sizes[st.Size] {
			continue
		}
		if sum, _, err := j.e.files.digest(j.e.files.at(p.absolute(x))); err != nil {
			return refuse(reasonModified, "%s", err)
		} else if other, dup := once[sum]; dup {
			return refuse(reasonOnceCopies, "%s and %s", other, x)
		}
	}
	return nil
}

// assembles reports whether the text of these files can make an assembler read
// others.
func assembles(files []compiler.File) bool {
	return slices.ContainsFunc(files, func(f compiler.File) bool { return f.Scan.AsmInclude }) || compiler.JoinsDirective(files)
}

// assembled returns what the assembler may have read besides what it listed,
// if it lists anything, and adds to looked where it may have looked in vain.
func (j *job) assembled(ctx context.Context, listed []string, sp compiler.SearchPath, files []compiler.File, fs compiler.FileSystem, looked *compiler.Lookups) (included []string, err error) {
	inv := j.prep.inv
	switch {
	case inv.CanListAssembly():
		looked.Absent = append(looked.Absent, compiler.FindAssemblerAbsences(inv, listed, fs)...)
		return nil, nil
	case !assembles(files):
		return nil, nil
	case inv.Family == compiler.GCC && inv.Mode == compiler.Assembly, inv.Mode == compiler.Listing:
		return nil, nil // nothing is assembled; clang's does read the files
	}
	l, err := compiler.FindAssemblerLookups(inv, sp, files, fs, func(path string) (*compiler.FileScan, error) {
		return j.e.scan(j.e.files.at(j.prep.place.absolute(path)))
	})
	switch {
	case err != nil:
		return nil, unreadable(err)
	case l.Opaque != "":
		if !j.assemblesNoFile(ctx) {
			return nil, refuse(reasonAsmInclude, "%s", l.Opaque)
		}
		return nil, nil
	}
	looked.Absent = append(looked.Absent, l.Absent...)
	// A file that was there to be read leaves no trace once it is gone.
	looked.Asked = append(looked.Asked, l.Absent...)
	return l.Files, nil
}

// assemblesNoFile asks the preprocessor for the text of a unit in which pieces
// of literals could be joined to a directive of the assembler's. Most never
// meet: one is a file name, say, and the other a word of a configuration.
func (j *job) assemblesNoFile(ctx context.Context) bool {
	if strings.HasPrefix(j.prep.inv.Language, "assembler") {
		return false
	}
	text, err := j.temp("i")
	if err != nil {
		return false
	}
	defer removeAll(text)
	j.outcome.preprocessedForDeps = true
	if j.quiet(ctx, j.prep.inv.PinnedArgs(""), text) != nil {
		return false
	}
	_, _, data, err := j.e.files.content(&file{path: text})
	return err == nil && compiler.AssemblesNoFile(data)
}
