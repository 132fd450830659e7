package compiler

import "slices"

// AssemblerLookups is what an assembler may look up for .incbin and .include.
// Paths are spelled as in Lookups; the lists are sorted.
type AssemblerLookups struct {
	// Files exist where the assembler looks. They may be more than it read.
	Files []string
	// Absent are the other places at which it may look.
	Absent []string
	// Opaque is "" or a file whose text does not tell what is read.
	Opaque string
}

// maxAsmFiles bounds the files that .include may lead to.
const maxAsmFiles = 1000

// FindAssemblerLookups derives from the text of the files that a compile read
// what its assembler may have read besides. It serves where no assembler can be
// asked: clang's own, which also reads the files for -S, and gcc's with
// link-time optimisation. Each directory counts in which some assembler looks
// (LLVM's SourceMgr::AddIncludeFile and BackendUtil, gas's read.c), whatever
// their order. scan reads an included text.
func FindAssemblerLookups(inv *Invocation, sp SearchPath, files []File, fs FileSystem, scan func(path string) (*FileScan, error)) (AssemblerLookups, error) {
	dirs := slices.Concat([]string{""}, inv.AsmIncludeDirs, sp.Quote, sp.Angle, sp.System, sp.After)
	found := make(map[string]struct{})
	absent := make(map[string]struct{})
	var l AssemblerLookups
	texts := slices.Clone(files)
	for i := 0; i < len(texts); i++ {
		s := texts[i].Scan
		if s.AsmOpaque || i >= len(files)+maxAsmFiles {
			l.Opaque = texts[i].Path
			return l, nil
		}
		for _, f := range s.AsmFiles {
			for _, d := range dirs {
				path := joinPath(trimDir(d), f.Name)
				if f.Name[0] == '/' {
					path = f.Name
				}
				kind, missing := fs.Look(path)
				if kind == Missing {
					absent[missing] = struct{}{}
					continue
				}
				if _, again := found[path]; again || kind == Directory {
					continue
				}
				found[path] = struct{}{}
				if !f.Text {
					continue
				}
				included, err := scan(path)
				if err != nil {
					return l, err
				}
				texts = append(texts, File{path, included})
			}
		}
	}
	if JoinsDirective(texts) {
		l.Opaque = inv.Source
		return l, nil
	}
	l.Files, l.Absent = sortedKeys(found), sortedKeys(absent)
	return l, nil
}

// FindAssemblerAbsences returns where gas must have looked in vain before it
// found the files that it lists: each may have been named relative to any
// directory in which gas looks. (It passes on its way each directory before the
// one; of the others a new file costs a miss.)
func FindAssemblerAbsences(inv *Invocation, listed []string, fs FileSystem) []string {
	absent := make(map[string]struct{})
	for _, p := range listed {
		for _, d := range inv.AsmIncludeDirs {
			name, ok := below(trimDotSlash(p), trimDir(d))
			if !ok {
				continue
			}
			for _, other := range slices.Concat([]string{""}, inv.AsmIncludeDirs) {
				if kind, missing := fs.Look(joinPath(trimDir(other), name)); kind == Missing {
					absent[missing] = struct{}{}
				}
			}
		}
	}
	return sortedKeys(absent)
}
