//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// hands is how many objects are made by hand, too.
const hands = 3

// byHand makes some of the objects by the image's compiler with the command that
// hpcc says it runs.
func (s *site) byHand(c *client, objects map[string]string) error {
	if err := s.unpack(); err != nil {
		return err
	}
	for i, name := range names(objects) {
		if i == hands {
			break
		}
		unit := strings.TrimSuffix(name, ".o")
		command, err := s.run(c.user, c.sources(), c.env(), hpcc, "wrap", "--show-command", "gcc", "-std=gnu99", "-Wall", "-Wextra", "-DLUA_COMPAT_5_3",
			"-DLUA_USE_LINUX", "-O2", "-c", unit+".c", "-o", name)
		if err != nil {
			return err
		}
		indent("$ " + command)
		if _, err := s.inImage("/hpcc/src/src", command); err != nil {
			return err
		}
		text, err := s.run(root, "/", nil, "sha256sum", chroot+"/hpcc/out/object")
		if err != nil {
			return err
		}
		sum, _, _ := strings.Cut(text, " ")
		if sum != objects[name] {
			return fmt.Errorf("%s: %s by hand, %s by hpcc", name, sum, objects[name])
		}
		say("     %s: %.12s…, the same", name, sum)
		if err := os.Remove(chroot + "/hpcc/out/object"); err != nil {
			return err
		}
	}
	return nil
}

// link has the image's compiler link a client's objects: lua, which is then run,
// or, if some are missing, one object of them.
func (s *site) link(c *client, objects map[string]string) error {
	if _, err := s.run(root, "/", nil, "sh", "-c", "cp "+c.sources()+"/*.o "+chroot+"/hpcc/out"); err != nil {
		return err
	}
	if len(s.units) > 0 {
		if _, err := s.inImage("/hpcc/out", "gcc -r -o some.o "+strings.Join(names(objects), " ")); err != nil {
			return err
		}
		say("   gcc -r: one object of %d", len(objects))
		return nil
	}
	command := "rm luac.o && gcc -Wl,-E -o lua *.o -lm -ldl"
	if _, err := s.inImage("/hpcc/out", command); err != nil {
		return err
	}
	const program = `print(_VERSION, ("compiled %s"):format("on workers"), 6 * 7)`
	text, err := s.inImage("/hpcc/out", "./lua -v && ./lua -e '"+program+"'")
	if err != nil {
		return err
	}
	indent("$ " + command + " && ./lua -v && ./lua -e …\n" + text)
	if !strings.Contains(text, "compiled on workers\t42") {
		return fmt.Errorf("lua says %q", text)
	}
	return nil
}

// chroot is where the image's programs run without hpcc.
const chroot = "/mnt/chroot"

// unpack makes the image's files a place to work in: they are not written to.
func (s *site) unpack() error {
	img := filepath.Join(worked, "images", strings.TrimPrefix(s.image, "sha256:")+".img")
	for _, dir := range []string{"/mnt/image", "/mnt/over", chroot} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("tmpfs", "/mnt/over", "tmpfs", 0, ""); err != nil {
		return err
	}
	for _, dir := range []string{"/mnt/over/upper", "/mnt/over/work"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	if _, err := s.run(root, "/", nil, "mount", "-t", "ext4", "-o", "ro,loop", img, "/mnt/image"); err != nil {
		return err
	}
	if err := unix.Mount("overlay", chroot, "overlay", 0, "lowerdir=/mnt/image,upperdir=/mnt/over/upper,workdir=/mnt/over/work"); err != nil {
		return err
	}
	for _, dir := range []string{"/hpcc/out", "/tmp", "/dev"} {
		if err := os.MkdirAll(chroot+dir, 0o777); err != nil {
			return err
		}
	}
	if err := unix.Mknod(chroot+"/dev/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	_, err := s.run(root, "/", nil, "cp", "-r", "/data/lua", chroot+"/hpcc/src")
	return err
}

// inImage runs a command of the image's in dir, in its shell.
func (s *site) inImage(dir, command string) (string, error) {
	cmd := s.command(root, dir, []string{"PATH=/usr/bin:/bin", "HOME=/", "TZ=UTC"}, "/bin/dash", "-c", command)
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: chroot}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("in the image: %s: %w\n%s", command, err, out)
	}
	return strings.TrimSpace(string(out)), nil
}
