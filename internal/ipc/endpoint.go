package ipc

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// EndpointFile is the name of the daemon's file in the configuration
// directory.
const EndpointFile = "daemon.json"

// maxEndpointFile bounds what is read of daemon.json, in bytes. Socket paths
// end at 108, so real ones stay below it even if all of that is escaped.
const maxEndpointFile = 1 << 10

// ErrUnsafeEndpoint says that daemon.json belongs to another user or that
// others may read or write it: it could name somebody else's program.
var ErrUnsafeEndpoint = errors.New("not a private file of this user")

// Endpoint says where a running daemon listens and how to prove oneself to it.
// In the file it is one JSON object with the members port, socket, pid,
// auth_token (hexadecimal) and version.
type Endpoint struct {
	// Port is the daemon's on 127.0.0.1, or 0 if it does not listen there.
	Port int
	// Socket is the absolute path of its Unix socket, or empty.
	Socket string
	// Pid is the daemon's. A process of this number may meanwhile be another.
	Pid int
	// Token is TokenSize bytes that Hello carries.
	Token []byte
	// Version is the daemon's; for people, since Hello is what decides.
	Version string
}

// PublishEndpoint writes dir/daemon.json in one step, readable by the user
// only. Readers see the old file, none, or all of the new one. dir is made
// (0700) if it is not there. The daemon calls it once it listens.
func PublishEndpoint(dir string, e *Endpoint) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	// Not synced to disk: a daemon does not outlive a crash of the machine.
	f, err := os.CreateTemp(dir, EndpointFile+".*") // 0600
	if err != nil {
		return err
	}
	_, err = f.Write(e.appendJSON(nil))
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, EndpointFile))
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// WithdrawEndpoint removes dir/daemon.json if it is still that of the daemon
// with this token; a successor's stays.
func WithdrawEndpoint(dir string, token []byte) error {
	e, err := ReadEndpoint(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !TokenEqual(e.Token, token) {
		return nil
	}
	return os.Remove(filepath.Join(dir, EndpointFile))
}

// ReadEndpoint reads dir/daemon.json. The error is fs.ErrNotExist if no daemon
// published itself, ErrUnsafeEndpoint if the file is not private, and another
// if it is damaged.
func ReadEndpoint(dir string) (Endpoint, error) {
	return readEndpoint(dir, make([]byte, maxEndpointFile))
}

// readEndpoint is ReadEndpoint with buf, of maxEndpointFile bytes, for the text.
func readEndpoint(dir string, buf []byte) (Endpoint, error) {
	path := dir + string(filepath.Separator) + EndpointFile
	n, err := readPrivate(path, buf)
	if err != nil {
		return Endpoint{}, &fs.PathError{Op: "read", Path: path, Err: err}
	}
	e, err := parseEndpoint(buf[:n])
	if err != nil {
		return Endpoint{}, &fs.PathError{Op: "parse", Path: path, Err: err}
	}
	return e, nil
}

// appendJSON appends e as it stands in the file.
func (e *Endpoint) appendJSON(b []byte) []byte {
	b = append(b, `{"port": `...)
	b = strconv.AppendInt(b, int64(e.Port), 10)
	b = append(b, `, "socket": `...)
	b = appendString(b, e.Socket)
	b = append(b, `, "pid": `...)
	b = strconv.AppendInt(b, int64(e.Pid), 10)
	b = append(b, `, "auth_token": "`...)
	for _, c := range e.Token {
		b = append(b, hexDigits[c>>4], hexDigits[c&15])
	}
	b = append(b, `", "version": `...)
	b = appendString(b, e.Version)
	return append(b, "}\n"...)
}

// members are the names in the file, in the order of bits of a set of them.
var members = [...]string{"port", "socket", "pid", "auth_token", "version"}

// parseEndpoint reads the file. Members that it does not know are skipped, so
// that another version of the daemon is met as such and not as damage.
func parseEndpoint(b []byte) (Endpoint, error) {
	var e Endpoint
	var seen uint
	err := parseObject(b, func(name []byte, v value) error {
		known := -1
		for i := range members {
			if string(name) == members[i] {
				known = i
			}
		}
		if known < 0 {
			return nil
		}
		if seen&(1<<known) != 0 {
			return errors.New(members[known] + ": given twice")
		}
		seen |= 1 << known
		var err error
		switch members[known] {
		case "port":
			e.Port, err = v.integer(0, 65535)
		case "socket":
			e.Socket, err = v.text()
		case "pid":
			e.Pid, err = v.integer(1, 1<<31-1)
		case "auth_token":
			e.Token, err = v.hex()
		case "version":
			e.Version, err = v.text()
		}
		if err != nil {
			return errors.New(members[known] + ": " + err.Error())
		}
		return nil
	})
	switch {
	case err != nil:
		return Endpoint{}, err
	case len(e.Token) != TokenSize:
		return Endpoint{}, errors.New("auth_token: wrong length")
	case e.Pid == 0:
		return Endpoint{}, errors.New("pid: missing")
	case e.Port == 0 && e.Socket == "":
		return Endpoint{}, errors.New("neither port nor socket")
	}
	return e, nil
}
