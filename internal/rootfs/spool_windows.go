package rootfs

import (
	"errors"
	"os"
)

// errUnsupported: workers run on Linux; what is here lets hpccd build.
var errUnsupported = errors.New("images are not built on Windows")

func unnamedFile(string) (*os.File, error) { return nil, errUnsupported }
