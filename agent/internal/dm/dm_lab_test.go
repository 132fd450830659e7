//go:build lab

package dm

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// The kernel is the judge: it takes the calls and has the device.
func TestCreate(t *testing.T) {
	d, err := Parse("broken,,,ro,0 2048 error")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Create(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		control, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer control.Close()
		if err := ioctl(control, devRemove, d.message(false)); err != nil {
			t.Error(err)
		}
	}()
	for file, want := range map[string]string{"size": "2048\n", "ro": "1\n", "dm/name": "broken\n"} {
		if got, err := os.ReadFile("/sys/block/dm-0/" + file); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", file, got, err)
		}
	}
	f, err := os.Open("/dev/dm-0")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Read(make([]byte, 512)); !errors.Is(err, unix.EIO) {
		t.Errorf("reading from the target error: %v", err)
	}
	if err := d.Create(); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a second time: %v", err)
	}

	// Of a device that cannot be, nothing is left.
	bad := &Device{Name: "bad", Sectors: 8, Target: "verity", Params: "1 /dev/absent /dev/absent 4096 4096 1 1 sha256 00 -"}
	if err := bad.Create(); err == nil {
		t.Error("a table with a device that does not exist is taken")
	}
	bad.Target = "no-such-target"
	if err := bad.Create(); err == nil {
		t.Error("a target that does not exist is taken")
	}
	if all, err := os.ReadDir("/dev/mapper"); err != nil || len(all) != 1 {
		t.Errorf("left: %v, %v", all, err)
	}
	if left, err := os.ReadDir("/sys/block/dm-1"); err == nil {
		t.Errorf("left: %v", left)
	}
}
