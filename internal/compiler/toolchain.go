package compiler

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"hpcc.dev/hpcc/internal/digest"
)

// ErrCompilerScript says that what stands behind the compiler's name, or one
// of the programs it runs, is a script or another program's launcher (Debian's
// c99-gcc, a ccache link): what it would run in the end cannot be told from
// its content.
var ErrCompilerScript = errors.New("compiler is a script or a launcher")

// ErrUnknownCompiler says that the program answers neither as gcc nor as
// clang does, or that its parts cannot all be found.
var ErrUnknownCompiler = errors.New("not a compiler that is known")

// Toolchain is a compiler as it would run now, with the programs and libraries
// behind it. It is immutable and may be shared by goroutines.
type Toolchain struct {
	// Family is what the compiler says it is, whatever its name.
	Family Family
	// Version is the version number alone ("12.2.0").
	Version string
	// Target is the default target ("x86_64-linux-gnu").
	Target string
	// Identity is the same for two toolchains only if they make the same
	// objects from the same input: it is made from content, not from paths.
	Identity digest.Key
	// Parts are the files whose content Identity is made from, in a fixed
	// order, for explanations.
	Parts []Part
	// AsPath is the assembler that the driver would run, "" if there is none.
	AsPath string
	// Sysroot is the compiler's configured root for headers, often "".
	Sysroot string

	// facts is what Identity is made from besides Parts.
	facts    []Fact
	driver   driver
	detector *Detector
}

// Part is one file of a toolchain.
type Part struct {
	// Name is its role: "driver", "cc1plus", "as", "library libisl.so.23", ….
	Name string
	// Path is where it was found; symbolic links are not resolved.
	Path   string
	Digest digest.Digest
}

// MemoStore keeps small records between processes, checked against damage.
// Memo returns an error for a record that it does not have.
type MemoStore interface {
	Memo(name string) ([]byte, error)
	PutMemo(name string, b []byte) error
}

// Detector finds out what compilers are, and remembers it for as long as the
// files behind them stay what they were. Its methods may be called from many
// goroutines; callers that ask the same at once share one run of the compiler.
type Detector struct {
	store      MemoStore
	toolchains memo[*Toolchain]
	chains     memo[builtinChain]
	natives    memo[string]
	contents   contentMemo
}

// NewDetector returns a detector that persists what it learns in store, which
// may be nil.
func NewDetector(store MemoStore) *Detector {
	return &Detector{store: store, contents: contentMemo{store: store}}
}

// Identify says what the compiler at compilerPath (absolute) is when it is
// started as argv0 with the environment env.
//
// argv0 must be what the compile itself will be started with: a driver finds
// the rest of its installation through it, and a bare name through PATH. From
// env the variables that decide which programs, libraries and specs are used
// take part; the others may be there and are not looked at.
//
// A known toolchain costs one stat for each of its files and for each place
// where another would be found first. The errors are ErrCompilerScript,
// ErrUnknownCompiler, ctx's, and those of reading the files.
func (d *Detector) Identify(ctx context.Context, compilerPath, argv0 string, env []string) (*Toolchain, error) {
	var buf [2048]byte
	key := appendDriverKey(buf[:0], compilerPath, argv0, env, nil, "")
	if t, ok := d.toolchains.lookup(key); ok {
		return t, nil
	}
	if !filepath.IsAbs(compilerPath) {
		return nil, fmt.Errorf("%w: %q is not an absolute path", ErrUnknownCompiler, compilerPath)
	}
	return d.identify(ctx, string(key), newDriver(compilerPath, argv0, env))
}

// For returns the toolchain as inv's options and the working directory make
// it: -B and its like put other programs behind the same driver, and so do
// relative directories in variables; with -gsplit-dwarf gcc runs objcopy as
// well. Without those it is t itself.
// cwd is the compile's working directory.
func (t *Toolchain) For(ctx context.Context, inv *Invocation, cwd string) (*Toolchain, error) {
	options := helperOptions(t.Family, inv.Probe)
	split := t.Family == GCC && slices.ContainsFunc(inv.Outputs, func(o Output) bool { return o.Role == "dwo" })
	relative := len(options) > 0 || dependsOnCwd(t.driver.env)
	if !relative && !split {
		return t, nil
	}
	drv := t.driver
	drv.options, drv.split = options, split
	if relative {
		drv.dir = cwd
	}
	return t.detector.identify(ctx, drv.key(), drv)
}

func (d *Detector) identify(ctx context.Context, key string, drv driver) (*Toolchain, error) {
	return d.toolchains.get(ctx, key, func(ctx context.Context) (*Toolchain, watchList, bool, error) {
		name := recordName("toolchain", key)
		if t, watches, ok := d.loadToolchain(name); ok {
			t.driver, t.detector = drv, d
			return t, watches, true, nil
		}
		det := detection{driver: drv, contents: &d.contents, watch: newWatcher()}
		t, err := det.detect(ctx)
		if err != nil {
			return nil, nil, false, fmt.Errorf("identifying %s: %w", drv.path, err)
		}
		t.driver, t.detector = drv, d
		watches, settled := det.watch.list(), det.watch.settled()
		if settled {
			d.storeToolchain(name, t, watches)
		}
		return t, watches, settled, nil
	})
}

// helperOptions picks from the probe options those by which a driver finds
// other programs, or clang another gcc installation.
func helperOptions(family Family, probe []string) []string {
	prefixes := []string{"-B", "--prefix"}
	if family.IsClang() {
		prefixes = append(prefixes, "--sysroot", "-isysroot", "--gcc-toolchain", "-gcc-toolchain",
			"--target", "-target", "-resource-dir")
	}
	var options []string
	for i := 0; i < len(probe); i++ {
		j := slices.IndexFunc(prefixes, func(p string) bool { return strings.HasPrefix(probe[i], p) })
		if j < 0 {
			continue
		}
		options = append(options, probe[i])
		// A bare option name has its value in the next argument.
		if probe[i] == prefixes[j] && i+1 < len(probe) {
			i++
			options = append(options, probe[i])
		}
	}
	return options
}
