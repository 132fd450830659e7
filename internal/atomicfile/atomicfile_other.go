//go:build !linux

package atomicfile

import "io"

func writeUnnamed(string, func(io.Writer) error, Options) error { return errUnnamed }
