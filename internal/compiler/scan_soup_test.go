package compiler

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// soupPieces are what decides where a directive begins and what hides it.
var soupPieces = []string{
	"/*", "*/", "//", "\"", "'", "\\", "\\\n", "\\ \n", "\n", "\n", "\n", " ", "\t", "\f", "\r", "\r\n", "\x00",
	"R\"(", ")\"", "R\"x(", ")x\"", "u8R\"\"(", ")\"\"", "LR\"/*(", "\\\"", "\\'", "'\"'", "\"'\"", "1'0", "0x'", "'a'",
	"#", "%:", "??=", "??/\n", "??/", "??'", "#define X ", "#error ", "#warning ", "#pragma ", "#if 0\n", "#endif\n", "#line 3\n",
	"a", "R", "u8", "/", "*", "/\\\n*", "*\\\n/", "/\\\n/", "<", ">",
}

// includePieces are directives of a numbered header.
var includePieces = []string{
	"\n#include <h%d.h>\n", "\n#include \"h%d.h\"\n", "#include <h%d.h>", "\n # include/**/<h%d.h>\n", "\n%%:include <h%d.h>\n",
	"\n??=include <h%d.h>\n", "\n#inc\\\nlude <h%d.h>\n", "\n#\\\ninclude \"h\\\n%d.h\"\n", "\n#if __has_include(<h%d.h>)\n#endif\n",
	"\r#include <h%d.h>\r", "\n#include_next <h%d.h>\n", "\n/**/#/*\n*/include <h%d.h>\n", "\n#import <h%d.h>\n",
}

var (
	soupHeader  = regexp.MustCompile(`h(\d+)\.h`)
	soupModes   = []string{"-std=c89", "-std=gnu89", "-std=c99", "-std=gnu17", "-std=c++98", "-std=gnu++17", "-xassembler-with-cpp", "-trigraphs"}
	soupCommand = []string{"-M", "-MG", "-w", "-fmax-errors=1"}
)

// TestScanSeesWhatCompilersInclude makes sources out of lexical traps and asks
// gcc and clang which headers they would include: Scan must name each of them.
func TestScanSeesWhatCompilersInclude(t *testing.T) {
	scanTools(t, "gcc-12", "clang-14")
	seed := uint64(7)
	if s, err := strconv.ParseUint(os.Getenv("HPCC_TEST_SEED"), 10, 64); err == nil {
		seed = s
	}
	rnd := rand.New(rand.NewPCG(seed, 1))
	dir := t.TempDir()
	included := 0
	for range 150 {
		var src strings.Builder
		n := 0
		for range 5 + rnd.IntN(40) {
			if rnd.IntN(4) == 0 {
				fmt.Fprintf(&src, includePieces[rnd.IntN(len(includePieces))], n)
				n++
			} else {
				src.WriteString(soupPieces[rnd.IntN(len(soupPieces))])
			}
		}
		text := []byte(src.String())
		if err := os.WriteFile(filepath.Join(dir, "soup"), text, 0o644); err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, d := range Scan(text).Directives {
			seen[d.Name] = true
		}
		mode := soupModes[rnd.IntN(len(soupModes))]
		for _, cc := range []string{"gcc-12", "clang-14"} {
			args := append([]string{"-xc", mode}, soupCommand...)
			if strings.Contains(mode, "++") {
				args[0] = "-xc++"
			}
			if cc == "clang-14" {
				args = args[:len(args)-1]
			}
			cmd := exec.Command(cc, append(args, "soup")...)
			cmd.Dir = dir
			out, _ := cmd.Output() // soup seldom goes without errors
			for _, m := range soupHeader.FindAllStringSubmatch(string(out), -1) {
				included++
				if !seen[m[0]] {
					t.Errorf("%s %s includes %s of %q", cc, mode, m[0], text)
				}
			}
		}
	}
	if included < 50 {
		t.Errorf("only %d includes: the pieces hide too much", included)
	}
	t.Logf("%d includes", included)
}
