package compiler

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	environment "hpcc.dev/hpcc/internal/compiler/env"
)

const (
	// childTime bounds one question to a compiler. They take milliseconds; a
	// cold start from a network file system can take seconds, and so can each on a
	// machine full of compilers.
	childTime = time.Minute
	// childOutput bounds what is read of an answer. The longest, gcc's specs,
	// has about 20 kB.
	childOutput = 1 << 20
)

// driver is a compiler driver and all that decides how it answers.
type driver struct {
	path, argv0 string
	env         []string // only what decidesPrograms names
	options     []string // put before those of each question
	dir         string   // working directory; "" is the root
	split       bool     // gcc: the compile takes its debug information apart
}

func newDriver(path, argv0 string, env []string) driver {
	drv := driver{path: path, argv0: childName(path, argv0)}
	for _, e := range env {
		if decidesPrograms(e) {
			drv.env = append(drv.env, e)
		}
	}
	return drv
}

// childName is what the driver is started as. A relative name with a slash
// means nothing away from the caller's directory, so the absolute path, which
// the caller got by resolving it, takes its place.
func childName(path, argv0 string) string {
	if argv0 == "" || strings.Contains(argv0, "/") && !filepath.IsAbs(argv0) {
		return path
	}
	return argv0
}

// decidesPrograms reports whether a NAME=value decides which programs,
// libraries or specs stand behind a driver. Children see these variables only,
// so what they answer is a function of the memo's key.
func decidesPrograms(e string) bool {
	name, _, ok := strings.Cut(e, "=")
	return ok && environment.Roles(name)&environment.Identity != 0
}

// dependsOnCwd reports whether a variable names a directory relative to the
// working directory, in which programs, libraries or specs are looked for. An
// empty element of a list is that directory itself. (PATH is another matter:
// it is gone through up to such a directory.)
func dependsOnCwd(env []string) bool {
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		switch name {
		case "GCC_EXEC_PREFIX":
			if value != "" && !filepath.IsAbs(value) {
				return true
			}
		case "COMPILER_PATH", "LIBRARY_PATH", "LPATH", "LD_LIBRARY_PATH":
			for dir := range strings.SplitSeq(value, ":") {
				if value != "" && !filepath.IsAbs(dir) {
					return true
				}
			}
		}
	}
	return false
}

// key names the driver among all; equal keys mean equal answers as long as the
// files behind the driver do not change.
func (drv *driver) key() string {
	key := appendDriverKey(nil, drv.path, drv.argv0, drv.env, drv.options, drv.dir)
	if drv.split {
		key = append(key, "\x00split"...)
	}
	return string(key)
}

// appendDriverKey is driver.key without making a driver, for the path of a hit.
// A NUL ends each string: none of them can hold one.
func appendDriverKey(b []byte, path, argv0 string, env, options []string, dir string) []byte {
	b = append(append(b, path...), 0)
	b = append(append(b, childName(path, argv0)...), 0)
	for _, e := range env {
		if decidesPrograms(e) {
			b = append(append(b, e...), 0)
		}
	}
	if len(options) > 0 || dir != "" {
		b = append(append(b, 0), dir...)
		for _, o := range options {
			b = append(append(b, 0), o...)
		}
	}
	return b
}

// recordName is the name in the MemoStore of what is known under key.
func recordName(kind, key string) string {
	sum := sha256.Sum256([]byte(kind + "\x00" + key))
	return "compiler/" + hex.EncodeToString(sum[:])
}

// getenv is the value of a variable as the driver sees it.
func (drv *driver) getenv(name string) (string, bool) {
	for _, e := range drv.env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return v, true
		}
	}
	return "", false
}

// ask runs the driver with args.
func (drv *driver) ask(ctx context.Context, args ...string) (stdout, stderr []byte, err error) {
	argv := append([]string{drv.argv0}, drv.options...)
	return runChild(ctx, drv.path, append(argv, args...), drv.env, drv.dir)
}

// askLine is ask for an answer of one line on stdout.
func (drv *driver) askLine(ctx context.Context, args ...string) (string, error) {
	stdout, _, err := drv.ask(ctx, args...)
	return strings.TrimSpace(string(stdout)), err
}

// askProgram asks which program the driver would run for name. A path is
// absolute; a bare name is left to execvp, or not there at all.
func (drv *driver) askProgram(ctx context.Context, name string) (string, error) {
	path, err := drv.askLine(ctx, "-print-prog-name="+name)
	return drv.at(path), err
}

// at is the absolute form of a path that the driver printed, which -B can make
// relative to the working directory.
func (drv *driver) at(path string) string {
	if filepath.IsAbs(path) || !strings.Contains(path, "/") {
		return path
	}
	return drv.dir + "/" + path
}

// runChild runs a program without input, in the C locale so that its answer
// can be read, within childTime and childOutput.
func runChild(ctx context.Context, path string, argv, env []string, dir string) (stdout, stderr []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, childTime)
	defer cancel()
	var out, errs boundedBuffer
	cmd := exec.CommandContext(ctx, path)
	cmd.Args = argv
	cmd.Env = append(env[:len(env):len(env)], "LC_ALL=C")
	cmd.Dir = dir
	if dir == "" {
		cmd.Dir = "/"
	}
	cmd.Stdout, cmd.Stderr = &out, &errs
	// A grandchild that keeps the pipes open must not keep us.
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, nil, fmt.Errorf("%s %s: %w%s", argv[0], strings.Join(argv[1:], " "), err, lastLine(errs.kept.Bytes()))
	}
	if out.overflowed || errs.overflowed {
		return nil, nil, fmt.Errorf("%s: answer longer than %d bytes", argv[0], childOutput)
	}
	return out.kept.Bytes(), errs.kept.Bytes(), nil
}

// boundedBuffer keeps the first childOutput bytes and notes whether there were
// more. It takes them all: a child that gets EPIPE would answer otherwise. The
// buffer is not embedded, as io.Copy would then fill it past Write.
type boundedBuffer struct {
	kept       bytes.Buffer
	overflowed bool
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	room := childOutput - b.kept.Len()
	if len(p) > room {
		b.overflowed = true
		b.kept.Write(p[:room])
		return len(p), nil
	}
	return b.kept.Write(p)
}

// lastLine is what a failed child said in the end, for the error's text.
func lastLine(stderr []byte) string {
	s := strings.TrimSpace(string(stderr))
	s = s[strings.LastIndexByte(s, '\n')+1:]
	if s == "" {
		return ""
	}
	if len(s) > 200 {
		s = s[:200] + "…"
	}
	return " (" + s + ")"
}

// isContextError reports whether err comes from a caller that went away or a
// deadline, and so says nothing about the compiler.
func isContextError(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
