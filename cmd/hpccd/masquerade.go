package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"hpcc.dev/hpcc/internal/compiler"
)

func (a *app) newMasquerade() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "masquerade DIR [NAME…]",
		Short: "Make links to hpcc named after the compilers in PATH",
		Long: `Masquerade fills DIR with links to hpcc, one for each compiler in PATH: gcc,
g++, cc, c++, clang, clang++, and their versioned and cross names. With DIR
first in PATH, a build that knows nothing of hpcc is cached. It prints the line
that puts it there, for the shell to evaluate; everything else goes to stderr.

Where there is no compiler, since workers compile, NAMEs say which there would
be: the image has to know them. They are added to what PATH has.

Run it again after installing a compiler. A file that is not a link is never
replaced; a link that leads elsewhere only with --force.`,
		Example: `  hpcc masquerade ~/.hpcc/bin
  eval "$(hpcc masquerade ~/.hpcc/bin)" && ./configure && make
  hpcc masquerade ~/.hpcc/bin gcc g++ cc c++`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := oneArg("directory")(cmd, args[:min(len(args), 1)]); err != nil {
				return err
			}
			for _, name := range args[1:] {
				if _, _, ok := compiler.FamilyOf(name); !ok || name != filepath.Base(name) {
					return usage{withHint(fmt.Errorf("%q is not the name of a compiler that hpcc knows", name), "such as gcc, g++-12 or aarch64-linux-gnu-gcc")}
				}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			hpcc, err := besideSelf("hpcc")
			if err != nil {
				return err
			}
			dir, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			if strings.ContainsRune(dir, filepath.ListSeparator) {
				return fmt.Errorf("%s: PATH cannot hold a directory with %q in its name", dir, filepath.ListSeparator)
			}
			names := append(compilersIn(filepath.SplitList(os.Getenv("PATH")), hpcc), args[1:]...)
			slices.Sort(names)
			names = slices.Compact(names)
			if len(names) == 0 {
				return withHint(errors.New("no compiler found in PATH"),
					"install one, for instance gcc; or, where workers compile, name those of the image: %s gcc g++ cc c++", shellLine([]string{"hpcc", "masquerade", args[0]}))
			}
			made, err := masquerade(dir, hpcc, names, force)
			if err != nil {
				return err
			}
			a.note("%d links in %s, %d of them new: %s", len(names), dir, made, strings.Join(names, " "))
			a.note("to use them, put the directory first in PATH:")
			fmt.Fprintf(a.stdout, "export PATH=%s:\"$PATH\"\n", shellQuote(dir))
			return nil
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace links that lead elsewhere")
	return cmd
}

// besideSelf is the path of the program name that is installed with this one.
func besideSelf(name string) (string, error) {
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err != nil {
		return "", fmt.Errorf("own path: %w", err)
	}
	path := filepath.Join(filepath.Dir(self), name)
	if _, err := os.Stat(path); err != nil {
		return "", withHint(err, "%s and %s are installed in one directory", name, filepath.Base(self))
	}
	return path, nil
}

// compilersIn lists the names of the compilers in dirs, sorted, each once.
// Links to the program hpcc do not count: a directory of links must not keep
// alive the name of a compiler that is gone.
func compilersIn(dirs []string, hpcc string) []string {
	self, selfErr := os.Stat(hpcc)
	var names []string
	for _, dir := range dirs {
		// A relative directory means another one in each directory of the
		// build.
		if !filepath.IsAbs(dir) {
			continue
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // PATH often names directories that are not there
		}
		for _, e := range entries {
			if _, _, ok := compiler.FamilyOf(e.Name()); !ok {
				continue
			}
			info, err := os.Stat(filepath.Join(dir, e.Name()))
			if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
				continue
			}
			if selfErr == nil && os.SameFile(info, self) {
				continue
			}
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// masquerade makes the links and returns how many were not there yet. It
// checks all names before it changes anything.
func masquerade(dir, hpcc string, names []string, force bool) (made int, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	var missing []string
	for _, name := range names {
		path := filepath.Join(dir, name)
		info, err := os.Lstat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			missing = append(missing, name)
			continue
		case err != nil:
			return 0, err
		case info.Mode().Type() != fs.ModeSymlink:
			return 0, withHint(fmt.Errorf("%s exists and is not a link", path), "choose a directory of its own for the links")
		}
		target, err := os.Readlink(path)
		switch {
		case err != nil:
			return 0, err
		case target == hpcc:
		case !force:
			return 0, withHint(fmt.Errorf("%s leads to %s", path, target), "--force replaces it")
		default:
			missing = append(missing, name)
		}
	}
	for _, name := range missing {
		// A build may be using the directory: the name is never absent.
		temp := filepath.Join(dir, ".hpcc-"+name)
		if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return made, err
		}
		if err := os.Symlink(hpcc, temp); err != nil {
			return made, err
		}
		if err := os.Rename(temp, filepath.Join(dir, name)); err != nil {
			_ = os.Remove(temp)
			return made, err
		}
		made++
	}
	return made, nil
}
