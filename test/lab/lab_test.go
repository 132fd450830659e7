package lab

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hpcc.dev/hpcc/test/lab/wire"
)

// script is an environment that sends frames and then does what after says.
func script(t *testing.T, ended *int, send func(w *wire.Writer), after func(*io.PipeWriter)) starter {
	t.Helper()
	return func(context.Context, *Job, string) (*environment, error) {
		r, w := io.Pipe()
		go func() {
			send(wire.NewWriter(w))
			after(w)
		}()
		return &environment{frames: r, end: func() string { *ended++; r.Close(); return "known" }}, nil
	}
}

func exitFrame(t *testing.T, w *wire.Writer, e wire.Ending) {
	text, err := json.Marshal(e)
	if err != nil {
		t.Error(err)
	}
	_ = w.Frame(wire.Exit, text)
}

// quick are limits of a clock that goes on only when all wait.
var quick = limits{200 * time.Millisecond, 200 * time.Millisecond}

func silent(*io.PipeWriter) {}

func testJob() (*Job, *bytes.Buffer) {
	var out bytes.Buffer
	return &Job{Stdout: &out, Stderr: &out, Log: func(string) {}}, &out
}

func TestAttempt(t *testing.T) {
	for _, c := range []struct {
		name    string
		send    func(w *wire.Writer)
		after   func(*io.PipeWriter)
		status  int
		problem string
	}{
		{"ends well", func(w *wire.Writer) { exitFrame(t, w, wire.Ending{}) }, silent, 0, ""},
		{"ends ill", func(w *wire.Writer) { exitFrame(t, w, wire.Ending{Status: 7}) }, silent, 7, ""},
		{"cannot run", func(w *wire.Writer) { exitFrame(t, w, wire.Ending{Error: "no disk"}) }, silent, 0, "no disk"},
		{"dies", func(w *wire.Writer) { _ = w.Frame(wire.Heartbeat, nil) }, func(w *io.PipeWriter) { w.Close() }, 0, "environment ended"},
		{"dies within a frame", func(*wire.Writer) {}, func(w *io.PipeWriter) { _, _ = w.Write([]byte("o\x00\x00")); w.Close() }, 0, "environment ended"},
		{"talks nonsense", func(*wire.Writer) {}, func(w *io.PipeWriter) { _, _ = w.Write([]byte("oXXXX")) }, 0, "a frame of"},
		{"never begins", func(*wire.Writer) {}, silent, 0, ErrSilent.Error()},
		{"falls silent", func(w *wire.Writer) { _ = w.Frame(wire.Stdout, []byte("so far")) }, silent, 0, ErrSilent.Error()},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ended := 0
				job, _ := testJob()
				r, err := attempt(t.Context(), job, script(t, &ended, c.send, c.after), quick)
				if c.problem == "" && (err != nil || r.Status != c.status) {
					t.Errorf("%+v, %v", r, err)
				}
				if c.problem != "" && (err == nil || !strings.Contains(err.Error(), c.problem) || !strings.Contains(err.Error(), "known")) {
					t.Errorf("%v, want %q and what is known", err, c.problem)
				}
				if ended != 1 {
					t.Errorf("ended %d times", ended)
				}
			})
		})
	}
}

// Silence is met with more attempts, any other end with none.
func TestInsist(t *testing.T) { synctest.Test(t, testInsist) }

func testInsist(t *testing.T) {
	ended, begun := 0, 0
	job, out := testJob()
	r, err := insist(t.Context(), job, func(ctx context.Context, j *Job, dir string) (*environment, error) {
		begun++
		return script(t, &ended, func(w *wire.Writer) {
			_ = w.Frame(wire.Stdout, []byte("x"))
			if begun == 2 {
				exitFrame(t, w, wire.Ending{Status: 5})
			}
		}, silent)(ctx, j, dir)
	}, quick)
	if err != nil || r.Status != 5 || begun != 2 || ended != 2 || out.String() != "xx" {
		t.Errorf("%+v, %v, begun %d, ended %d, wrote %q", r, err, begun, ended, out)
	}

	begun = 0
	_, err = insist(t.Context(), job, func(ctx context.Context, j *Job, dir string) (*environment, error) {
		begun++
		return script(t, &ended, func(*wire.Writer) {}, silent)(ctx, j, dir)
	}, quick)
	if !errors.Is(err, ErrSilent) || begun != attempts {
		t.Errorf("always silent: %v after %d attempts", err, begun)
	}

	begun = 0
	_, err = insist(t.Context(), job, func(ctx context.Context, j *Job, dir string) (*environment, error) {
		begun++
		return script(t, &ended, func(*wire.Writer) {}, func(w *io.PipeWriter) { w.Close() })(ctx, j, dir)
	}, quick)
	if err == nil || begun != 1 {
		t.Errorf("died: %v after %d attempts", err, begun)
	}
}

// What comes back stays below the directory, whatever it is called.
func TestCollect(t *testing.T) {
	for _, c := range []struct {
		name string
		head tar.Header
		ok   bool
	}{
		{"file", tar.Header{Name: "file", Typeflag: tar.TypeReg, Size: 4}, true},
		{"above", tar.Header{Name: "../file", Typeflag: tar.TypeReg, Size: 4}, false},
		{"absolute", tar.Header{Name: "/tmp/hpcc-lab-escaped", Typeflag: tar.TypeReg, Size: 4}, false},
		{"directory above", tar.Header{Name: "../dir", Typeflag: tar.TypeDir}, false},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&c.head); err != nil {
			t.Fatal(err)
		}
		if c.head.Typeflag == tar.TypeReg {
			_, _ = w.Write([]byte("data"))
		}
		_ = w.Close()
		parent := t.TempDir()
		dir := filepath.Join(parent, "out")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		err := unpack(&b, dir)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		if all, _ := os.ReadDir(parent); len(all) != 1 {
			t.Errorf("%s: %v in the directory above", c.name, all)
		}
	}
}

// What a killed run left goes when the next begins; a run that lives keeps its
// own.
func TestWorkDir(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	first, remove, err := workDir()
	if err != nil {
		t.Fatal(err)
	}
	killed := filepath.Join(os.TempDir(), "hpcc-lab-killed")
	if err := os.Mkdir(killed, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lock", "data.img"} {
		if err := os.WriteFile(filepath.Join(killed, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	second, removeSecond, err := workDir()
	if err != nil {
		t.Fatal(err)
	}
	for path, there := range map[string]bool{first: true, second: true, killed: false} {
		if _, err := os.Stat(path); (err == nil) != there {
			t.Errorf("%s: %v", path, err)
		}
	}
	remove()
	removeSecond()
	if left, _ := os.ReadDir(os.TempDir()); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestPrune(t *testing.T) {
	dir := t.TempDir()
	for name, age := range map[string]time.Duration{"new": 0, "today": 23 * time.Hour, "old": 25 * time.Hour} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	if err := prune(dir); err != nil {
		t.Fatal(err)
	}
	left, _ := filepath.Glob(filepath.Join(dir, "*"))
	if len(left) != 2 || filepath.Base(left[0]) != "new" || filepath.Base(left[1]) != "today" {
		t.Errorf("left: %v", left)
	}
}

func TestFilesRefused(t *testing.T) {
	for _, name := range []string{"", "/abs", "../x", "a/../b", "a b", "a\nb", ".lab/program", "a//b"} {
		job := Job{Program: "/bin/busybox", Files: map[string]string{name: "/bin/busybox"}}
		if _, err := job.files(t.TempDir()); err == nil {
			t.Errorf("%q is taken", name)
		}
	}
}
