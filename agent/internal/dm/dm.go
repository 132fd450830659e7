//go:build linux

// Package dm makes the device that the boot argument dm-mod.create= describes,
// where the kernel cannot do so itself: a distribution's kernel has the device
// mapper, or the disk's driver, as a module, or lacks CONFIG_DM_INIT. hpcc's own
// kernel makes the device before the agent runs.
//
// Sources: Documentation/admin-guide/device-mapper/dm-init.rst for the argument,
// include/uapi/linux/dm-ioctl.h for the calls.
package dm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Device is one mapped device with one target.
type Device struct {
	Name     string
	ReadOnly bool
	// Sectors of 512 bytes, from 0; there is one target for all of them.
	Sectors uint64
	Target  string // "verity"
	Params  string // of the target
}

// Parse reads the value of dm-mod.create for one device with one target from
// sector 0, which is all that hpcc asks for: NAME,UUID,MINOR,FLAGS,TABLE with an
// empty UUID and MINOR, the flags ro or rw, and a table of START SECTORS TARGET
// PARAMETERS.
func Parse(value string) (*Device, error) {
	fields := strings.SplitN(value, ",", 5)
	if len(fields) != 5 || strings.ContainsAny(fields[4], ",;") {
		return nil, errors.New("dm-mod.create: want one device with one table: NAME,,,FLAGS,TABLE")
	}
	d := &Device{Name: fields[0]}
	if d.Name == "" || len(d.Name) >= nameLen || strings.ContainsAny(d.Name, "/\x00") {
		return nil, fmt.Errorf("dm-mod.create: %.40q cannot be a device's name", d.Name)
	}
	if fields[1] != "" || fields[2] != "" {
		return nil, errors.New("dm-mod.create: a UUID or a minor number is not understood")
	}
	switch fields[3] {
	case "ro":
		d.ReadOnly = true
	case "rw":
	default:
		return nil, fmt.Errorf("dm-mod.create: flags %.40q, want ro or rw", fields[3])
	}
	table := strings.SplitN(fields[4], " ", 4)
	if len(table) < 3 || table[0] != "0" {
		return nil, errors.New("dm-mod.create: want a table from sector 0: 0 SECTORS TARGET PARAMETERS")
	}
	var err error
	if d.Sectors, err = strconv.ParseUint(table[1], 10, 64); err != nil || d.Sectors == 0 {
		return nil, fmt.Errorf("dm-mod.create: %.40q is no number of sectors", table[1])
	}
	if d.Target = table[2]; d.Target == "" || len(d.Target) >= targetLen || strings.Contains(d.Target, "\x00") {
		return nil, fmt.Errorf("dm-mod.create: %.40q cannot be a target", d.Target)
	}
	if len(table) == 4 {
		d.Params = table[3]
	}
	if len(d.Params) > 2048 || strings.Contains(d.Params, "\x00") {
		return nil, errors.New("dm-mod.create: the target's parameters are too long, or no text")
	}
	return d, nil
}

// From dm-ioctl.h.
const (
	headerLen = 312 // struct dm_ioctl
	nameLen   = 128
	specLen   = 40 // struct dm_target_spec
	targetLen = 16

	devCreate  = 0xc138fd03 // _IOWR(0xfd, 3, struct dm_ioctl)
	devRemove  = 0xc138fd04
	devSuspend = 0xc138fd06 // resumes, without the flag for suspending
	tableLoad  = 0xc138fd09

	readOnlyFlag = 1
)

// message is a struct dm_ioctl and what follows it.
func (d *Device) message(withTable bool) []byte {
	b := make([]byte, headerLen)
	flags := uint32(0)
	if d.ReadOnly {
		flags |= readOnlyFlag
	}
	for i, v := range []uint32{4, 0, 0, headerLen, headerLen, 0, 0, flags} {
		binary.NativeEndian.PutUint32(b[4*i:], v)
	}
	copy(b[48:], d.Name)
	if !withTable {
		return b
	}
	spec := make([]byte, specLen)
	binary.NativeEndian.PutUint64(spec[8:], d.Sectors)
	copy(spec[24:], d.Target)
	b = append(append(append(b, spec...), d.Params...), 0)
	b = append(b, make([]byte, -len(b)&7)...)
	binary.NativeEndian.PutUint32(b[12:], uint32(len(b))) // data_size
	binary.NativeEndian.PutUint32(b[20:], 1)              // target_count
	return b
}

func ioctl(control *os.File, request uintptr, message []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, control.Fd(), request, uintptr(unsafe.Pointer(&message[0])))
	if errno != 0 {
		return errno
	}
	return nil
}

// patience is how long a disk may take to appear after its driver was loaded.
const patience = 2 * time.Second

// Create makes the device, which appears as /dev/dm-0 if it is the first; devtmpfs
// must be mounted at /dev. After an error there is no device.
func (d *Device) Create() error {
	control, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("device mapper: %w", err)
	}
	defer control.Close()
	call := func(what string, request uintptr, message []byte) error {
		if err := ioctl(control, request, message); err != nil {
			return fmt.Errorf("device mapper: %s %s: %w", what, d.Name, err)
		}
		return nil
	}
	if err := call("creating", devCreate, d.message(false)); err != nil {
		return err
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		err = call("loading the table of", tableLoad, d.message(true))
		if !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENOENT) || time.Now().After(deadline) {
			break
		}
	}
	if err == nil {
		err = call("resuming", devSuspend, d.message(false))
	}
	if err != nil {
		return errors.Join(err, call("removing", devRemove, d.message(false)))
	}
	return nil
}
