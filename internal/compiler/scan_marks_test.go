package compiler

import (
	"bytes"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// scanEverywhere is Scan as it would be without marks: its main loop sees every
// byte of every reading.
func scanEverywhere(src []byte) *FileScan {
	s := &scanner{out: new(FileScan)}
	for _, text := range readings(bytes.TrimPrefix(src, []byte("\xef\xbb\xbf"))) {
		s.marks = marks{everywhere: true}
		s.scanDialects(text)
	}
	s.finish()
	return s.out
}

// checkMarks reports whether a scan by marks finds what one of every byte does.
func checkMarks(t *testing.T, src []byte) bool {
	t.Helper()
	got, want := Scan(src), scanEverywhere(src)
	if reflect.DeepEqual(got, want) {
		return true
	}
	t.Errorf("by marks:   %+v\neverywhere: %+v\nof %q", got, want, src[:min(len(src), 4000)])
	return false
}

// markPieces are words that mean something, whole and in pieces, and what stands
// around them.
var markPieces = append(strings.Split(`__DATE__,DATE,__DA,__DAT,TE__,ATE__,_DATE,DATE_,__TI,__TIM,__TIME__,TIME,TIME_,ME__,__TIMESTAMP__,TIMESTAMP,TAMP_,AMP__,MP__,MP_,
__D,__T,_,__,E__,P__,x##__,__##D,##,%:%:,_Pragma,_Pragma("once"),_Pragma("GCC system_header"),GCC,GCC dependency,xGCC,clang,pragma,
__has_include,__has_include__,__has_include_next,__has_embed,__has_,(<a.h>),("b.h"),(X),defined(__has_include),A_INCLUDE,A_INCLUDE_NEXT,A_HAS_INCLUDE(<c.h>),
import,module,export,export module m;,import <x>;,@import y;,module;,include,incbin,.include,.incbin,.INCLUDE "f",.incbin "g",.IncBin,(include),(incbin,
(.),( .inc ),(.incb#,..., .,.\,.\x,\x2e,asm,asm(,"in","c","lude",".in",".","incl" "ude",I,A,DA,TI,#,#define X,#include,#embed <e>,%:include <p.h>,??=,
	,(,),;,<q.h>,"r.h",.,1'0`, ","), ",", ",.inc,", ", .#", `asm(".","inc" "bin")`)

// TestMarksInSoup holds scans by marks against scans of every byte, of texts made
// of pieces and of headers with pieces put into them.
func TestMarksInSoup(t *testing.T) {
	rnd := rand.New(rand.NewPCG(11, 4))
	pieces := append(append([]string{}, markPieces...), soupPieces...)
	pieces = append(pieces, includePieces...)
	for range counts(20_000, 1_000_000) {
		var src []byte
		for range 1 + rnd.IntN(30) {
			src = append(src, pieces[rnd.IntN(len(pieces))]...)
			if rnd.IntN(3) == 0 {
				src = append(src, " \n"[rnd.IntN(2)])
			}
		}
		if rnd.IntN(20) == 0 {
			src = bytes.Repeat(src, 1+4096/(len(src)+1)) // more than marks are kept
		}
		if !checkMarks(t, src) {
			return
		}
	}
}

// TestMarksInHeaders does so with the headers of this machine, as they are and
// with pieces put into them.
func TestMarksInHeaders(t *testing.T) {
	rnd := rand.New(rand.NewPCG(12, 4))
	pieces := append(append([]string{}, markPieces...), soupPieces...)
	every, n := counts(40, 1), 0
	for _, root := range []string{"/usr/include", "/usr/lib/gcc", "/usr/lib/llvm-14"} {
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() || strings.Contains(filepath.Ext(path), ".so") {
				return nil //nolint:nilerr // what cannot be read is no header
			}
			if n++; n%every != 0 {
				return nil
			}
			text, err := os.ReadFile(path)
			if err != nil || len(text) > 1<<20 || bytes.HasPrefix(text, []byte("\x7fELF")) {
				return nil //nolint:nilerr // as above
			}
			if !checkMarks(t, text) {
				return fs.SkipAll
			}
			for range 3 {
				mutant := bytes.Clone(text)
				for range 1 + rnd.IntN(4) {
					at := rnd.IntN(len(mutant) + 1)
					piece := []byte(pieces[rnd.IntN(len(pieces))])
					if cut := min(rnd.IntN(8), len(mutant)-at); rnd.IntN(2) == 0 {
						mutant = append(mutant[:at], mutant[at+cut:]...)
					}
					mutant = append(mutant[:at], append(piece, mutant[at:]...)...)
				}
				if !checkMarks(t, mutant) {
					return fs.SkipAll
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d files", n/every)
}
