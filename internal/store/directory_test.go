//go:build unix

package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/store"
)

// pair makes every second call by another opening of the same directory.
type pair struct {
	*store.Directory
	other *store.Directory
	calls atomic.Int64
}

func (p *pair) next() *store.Directory {
	if p.calls.Add(1)%2 == 0 {
		return p.other
	}
	return p.Directory
}

func (p *pair) Get(ctx context.Context, name string, limit int64) (store.Object, error) {
	return p.next().Get(ctx, name, limit)
}

func (p *pair) Put(ctx context.Context, name string, body []byte, when store.Condition) (store.Version, error) {
	return p.next().Put(ctx, name, body, when)
}

func (p *pair) Delete(ctx context.Context, name string) error { return p.next().Delete(ctx, name) }

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// People find objects under their names, and may lay files there themselves.
func TestDirectoryIsReadable(t *testing.T) {
	dir := t.TempDir()
	d := directory(t, dir, store.DirectoryOptions{})
	if _, err := d.Put(t.Context(), "default/result/ab/cd", []byte("body"), store.Condition{}); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "default/result/ab/cd")); err != nil || string(b) != "body" {
		t.Errorf("%q, %v", b, err)
	}
	write(t, filepath.Join(dir, "default/result/ab/by-hand"), "laid")
	if o, err := d.Get(t.Context(), "default/result/ab/by-hand", 10); err != nil || string(o.Body) != "laid" {
		t.Errorf("%q, %v", o.Body, err)
	}
	if got := names(t, d); got != "default/result/ab/by-hand default/result/ab/cd" {
		t.Error(got)
	}
	if left, err := os.ReadDir(filepath.Join(dir, ".tmp")); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
}

// Links that somebody laid lead nowhere, and what is no object is none.
func TestHostileDirectory(t *testing.T) {
	outside := t.TempDir()
	write(t, filepath.Join(outside, "secret"), "secret")
	dir := t.TempDir()
	for name, to := range map[string]string{"link": outside + "/secret", "dir": outside, "up": "..", "new": outside + "/new"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, foreign := range []string{"README", ".hidden", "a b", ".dir/file", "UPPER/file"} {
		write(t, filepath.Join(dir, foreign), "mine")
	}
	d := directory(t, dir, store.DirectoryOptions{})
	for _, name := range []string{"link", "dir/secret", "fifo", "new"} {
		if o, err := d.Get(t.Context(), name, 100); err == nil {
			t.Errorf("get %s: %q", name, o.Body)
		}
		if i, err := d.Stat(t.Context(), name); err == nil {
			t.Errorf("stat %s: %+v", name, i)
		}
	}
	for _, name := range []string{"dir/secret", "dir/sub/new", "up/x"} {
		if _, err := d.Put(t.Context(), name, []byte("overwritten"), store.Condition{}); err == nil {
			t.Errorf("put %s", name)
		}
		if err := d.Touch(t.Context(), name); err == nil {
			t.Errorf("touch %s", name)
		}
		d.Delete(t.Context(), name)
	}
	// A link in an object's place is replaced, not followed.
	if _, err := d.Put(t.Context(), "new", []byte("body"), store.Condition{}); err != nil {
		t.Error(err)
	}
	if got := names(t, d); got != "new" {
		t.Error(got)
	}
	if b, err := os.ReadFile(filepath.Join(outside, "secret")); err != nil || string(b) != "secret" {
		t.Errorf("outside: %q, %v", b, err)
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 1 {
		t.Errorf("outside: %v, %v", left, err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "UPPER/file")); err != nil || string(b) != "mine" {
		t.Errorf("foreign: %q, %v", b, err)
	}
}

func TestDirectoryReadOnly(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "name"), "body")
	d := directory(t, dir, store.DirectoryOptions{ReadOnly: true, Create: true})
	_, err := d.Put(t.Context(), "name", nil, store.Condition{})
	for _, err := range []error{err, d.Touch(t.Context(), "name"), d.Delete(t.Context(), "name")} {
		if !errors.Is(err, store.ErrReadOnly) {
			t.Error(err)
		}
	}
	if o, err := d.Get(t.Context(), "name", 10); err != nil || string(o.Body) != "body" {
		t.Errorf("%q, %v", o.Body, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
	away := directory(t, filepath.Join(dir, "none"), store.DirectoryOptions{ReadOnly: true, Create: true})
	if _, err := away.Get(t.Context(), "name", 1); !errors.Is(err, store.ErrUnavailable) {
		t.Error(err)
	}
}

// A share that is not mounted yet is no empty store.
func TestDirectoryComesLater(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "share")
	d := directory(t, dir, store.DirectoryOptions{})
	_, err := d.Put(t.Context(), "name", nil, store.Condition{})
	for _, err := range []error{err, d.List(t.Context(), "", func(store.Info) error { return nil })} {
		if !errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrNotFound) {
			t.Error(err)
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Put(t.Context(), "name", nil, store.Condition{}); err != nil {
		t.Error(err)
	}
	if _, err := store.OpenDirectory("", store.DirectoryOptions{}); err == nil {
		t.Error("no directory is one")
	}
}

func TestDirectorySweeps(t *testing.T) {
	dir := t.TempDir()
	old, fresh := filepath.Join(dir, ".tmp/old"), filepath.Join(dir, ".tmp/fresh")
	write(t, old, "half")
	write(t, fresh, "half")
	before := time.Now().Add(-25 * time.Hour)
	if err := os.Chtimes(old, before, before); err != nil {
		t.Fatal(err)
	}
	d := directory(t, dir, store.DirectoryOptions{})
	if got := names(t, d); got != "" {
		t.Error(got)
	}
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a dead writer's file: %v", err)
	}
	if _, err := os.Stat(fresh); err != nil {
		t.Error(err)
	}
}

// child is what the test's program does when it is started by spawn.
func child(job, dir string) error {
	d, err := store.OpenDirectory(dir, store.DirectoryOptions{})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	switch job {
	case "absent":
		for i := range 20 {
			_, err := d.Put(ctx, fmt.Sprintf("won/%02d", i), []byte(strconv.Itoa(os.Getpid())), store.Condition{Absent: true})
			if err == nil {
				fmt.Fprintln(os.Stderr, "won")
			} else if !errors.Is(err, store.ErrConflict) {
				return err
			}
		}
	case "count":
		for added := 0; added < 20; {
			o, err := d.Get(ctx, "counter", 1000)
			if err != nil {
				return err
			}
			_, err = d.Put(ctx, "counter", append(o.Body, '1'), store.Condition{Version: o.Version})
			if err == nil {
				added++
			} else if !errors.Is(err, store.ErrConflict) {
				return err
			}
		}
	case "forever":
		for i := byte(0); ; i++ {
			if _, err := d.Put(ctx, "big", whole(i), store.Condition{}); err != nil {
				return err
			}
		}
	case "touch":
		return d.Touch(ctx, "name")
	}
	return nil
}

func whole(i byte) []byte { return []byte(strings.Repeat(string([]byte{'a' + i%26}), 200_000)) }

func executable(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

func command(exe, job, dir string) *exec.Cmd {
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "STORE_TEST_CHILD="+job, "STORE_TEST_DIR="+dir)
	return cmd
}

func spawn(t *testing.T, job, dir string) (*exec.Cmd, *strings.Builder) {
	t.Helper()
	cmd := command(executable(t), job, dir)
	out := new(strings.Builder)
	cmd.Stderr = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, out
}

// Conditions hold between processes.
func TestDirectoryOfProcesses(t *testing.T) {
	dir := t.TempDir()
	d := directory(t, dir, store.DirectoryOptions{})
	if _, err := d.Put(t.Context(), "counter", nil, store.Condition{}); err != nil {
		t.Fatal(err)
	}
	const processes = 4
	won := 0
	for _, job := range []string{"absent", "count"} {
		var cmds []*exec.Cmd
		var outs []*strings.Builder
		for range processes {
			cmd, out := spawn(t, job, dir)
			cmds, outs = append(cmds, cmd), append(outs, out)
		}
		for i, cmd := range cmds {
			if err := cmd.Wait(); err != nil {
				t.Errorf("%s: %v\n%s", job, err, outs[i])
			}
			won += strings.Count(outs[i].String(), "won\n")
		}
	}
	if won != 20 {
		t.Errorf("20 names were won %d times", won)
	}
	if o, err := d.Get(t.Context(), "counter", 1000); err != nil || len(o.Body) != 20*processes {
		t.Errorf("counted %d, %v; want %d", len(o.Body), err, 20*processes)
	}
}

// A writer that is killed leaves a whole object, and no lock.
func TestDirectoryWriterIsKilled(t *testing.T) {
	dir := t.TempDir()
	d := directory(t, dir, store.DirectoryOptions{})
	for range 10 {
		before, _ := d.Stat(t.Context(), "big")
		cmd, out := spawn(t, "forever", dir)
		deadline := time.Now().Add(time.Minute)
		for {
			if now, err := d.Stat(t.Context(), "big"); err == nil && now.Version != before.Version {
				break
			}
			if time.Now().After(deadline) {
				cmd.Process.Kill()
				cmd.Wait()
				t.Fatalf("nothing is written: %s", out)
			}
			time.Sleep(time.Millisecond)
		}
		cmd.Process.Kill()
		cmd.Wait()
		o, err := d.Get(t.Context(), "big", 1<<20)
		if err != nil || len(o.Body) == 0 || string(o.Body) != string(whole(o.Body[0]-'a')) {
			t.Fatalf("%d bytes, %v", len(o.Body), err)
		}
		if _, err := d.Put(t.Context(), "big", []byte("a"), store.Condition{Version: o.Version}); err != nil {
			t.Fatal(err)
		}
	}
}

// Whoever may write to a shared directory may touch what another has put.
func TestTouchOfAnothersObject(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can be two users")
	}
	parent := t.TempDir()
	dir := filepath.Join(parent, "store")
	write(t, filepath.Join(dir, "name"), "body")
	old := time.Now().Add(-48 * time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "name"), old, old); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(executable(t))
	if err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(parent, "child")
	if err := os.WriteFile(exe, program, 0o755); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{filepath.Dir(parent): 0o755, parent: 0o755, dir: 0o777} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	cmd := command(exe, "touch", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	d := directory(t, dir, store.DirectoryOptions{})
	if o, err := d.Get(t.Context(), "name", 10); err != nil || string(o.Body) != "body" || time.Since(o.Modified) > time.Hour {
		t.Errorf("%q of %v, %v", o.Body, o.Modified, err)
	}
}
