package daemon

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestThroughProc(t *testing.T) {
	dir := t.TempDir()
	for name, target := range map[string]string{
		"stdin": "/dev/stdin", "cwd": "/proc/self/cwd", "plain": "file", "again": "cwd", "up": "../" + filepath.Base(dir) + "/cwd", "loop": "loop",
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{
		dir + "/file": false, dir + "/plain": false, dir + "/loop": false, dir + "/missing": false, "/": false, "/dev/null": false,
		"/procfs/x": false, dir + "/proc/x": false,
		dir + "/stdin": true, dir + "/cwd/x": true, dir + "/again/x": true, dir + "/up": true,
		"/dev/fd/0": true, "/dev/stdin": true, "/proc/self/cwd/x": true, "//proc/self/cwd": true, "/dev/../proc/self/root/etc/passwd": true,
	} {
		if got := throughProc(path); got != want {
			t.Errorf("throughProc(%s) is %v", path, got)
		}
		fd, err := openShared(path, unix.O_RDONLY, 0)
		if err == nil {
			unix.Close(fd)
		}
		if want && err == nil {
			t.Errorf("%s was opened", path)
		}
	}
}
