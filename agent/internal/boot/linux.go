package boot

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"hpcc.dev/hpcc/agent/internal/dm"
)

// Linux is the kernel itself.
type Linux struct{}

func (Linux) Mount(source, target, fstype string, flags uintptr, data string) error {
	return unix.Mount(source, target, fstype, flags, data)
}
func (Linux) Mkdir(path string, mode uint32) error { return os.Mkdir(path, os.FileMode(mode)) }
func (Linux) Chdir(path string) error              { return unix.Chdir(path) }
func (Linux) Chroot(path string) error             { return unix.Chroot(path) }
func (Linux) Remove(path string) error             { return os.Remove(path) }
func (Linux) ReadFile(path string) ([]byte, error) { return os.ReadFile(path) }
func (Linux) Sethostname(name string) error        { return unix.Sethostname([]byte(name)) }
func (Linux) Sleep(d time.Duration)                { time.Sleep(d) }

func (Linux) Exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// WriteFile writes to a file that is there.
func (Linux) WriteFile(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(text)
	return err
}

func (Linux) MapDevice(value string) error {
	d, err := dm.Parse(value)
	if err != nil {
		return err
	}
	return d.Create()
}

func (Linux) LoadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), "", 0)
	if errors.Is(err, unix.ENODEV) {
		return nil // such as the processor's SHA instructions, or the host's clock
	}
	return err
}
