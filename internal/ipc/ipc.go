// Package ipc is how a wrapper and the daemon of one user find each other and
// talk.
//
// The daemon publishes an Endpoint (the file daemon.json in the user's
// configuration directory); a wrapper reads it, dials, and the two exchange
// the messages of proto/hpcc/ipc/v1, one to a frame, over a Conn. The
// conversation itself is described in ipc.proto.
//
// Who is trusted: only processes of one's own user. A wrapper does what the
// daemon tells it, and the daemon writes the files that a wrapper names, so
// each proves itself to the other. The Unix socket does so by its peer's
// credentials; over loopback TCP the wrapper asks the kernel whose port it is,
// and shows a token that only the user can read.
//
// The wrapper links this package and starts once for each compile, so nothing
// here is made at start, and nothing heavier than os is imported.
package ipc

import (
	"crypto/subtle"
	"errors"
	"path/filepath"
	"runtime"
	"strings"
)

// Protocol counts incompatible changes of the conversation. It is sent beside
// Version so that builds without a version tell each other apart.
const Protocol = 2

// Version names the build. The two ends must agree on it exactly: they are
// installed together, and no compatibility is worth a wrong object. Set by
// -ldflags "-X hpcc.dev/hpcc/internal/ipc.Version=…".
var Version = "dev"

// ErrNoConfigDir says that the environment names no place for configuration:
// neither HPCC_CONFIG_DIR nor what the platform uses is set.
var ErrNoConfigDir = errors.New("no configuration directory: neither HPCC_CONFIG_DIR nor HOME is set")

// ConfigDir returns the directory of the user's configuration, in which
// daemon.json lies too: HPCC_CONFIG_DIR, or hpcc under what
// os.UserConfigDir would answer. getenv looks up a variable, "" if it is not
// set; it is a parameter because the wrapper has the environment at hand and
// os.Getenv would copy all of it.
func ConfigDir(getenv func(string) string) (string, error) {
	if dir := getenv("HPCC_CONFIG_DIR"); dir != "" {
		return dir, nil
	}
	base := ""
	switch runtime.GOOS {
	case "windows":
		base = getenv("AppData")
	case "darwin", "ios":
		if home := getenv("HOME"); home != "" {
			base = filepath.Join(home, "Library", "Application Support")
		}
	default:
		// A relative XDG_CONFIG_HOME would mean another file in each directory
		// of a build; the specification says to ignore it.
		if base = getenv("XDG_CONFIG_HOME"); !strings.HasPrefix(base, "/") {
			base = ""
			if home := getenv("HOME"); home != "" {
				base = filepath.Join(home, ".config")
			}
		}
	}
	if base == "" {
		return "", ErrNoConfigDir
	}
	return filepath.Join(base, "hpcc"), nil
}

// TokenSize is the length of a daemon's token in bytes: 256 random bits.
const TokenSize = 32

// TokenEqual compares the token that a wrapper sent with the daemon's own, in
// a time that does not tell how much of it was right. An empty token equals
// nothing.
func TokenEqual(got, want []byte) bool {
	return len(want) > 0 && subtle.ConstantTimeCompare(got, want) == 1
}
