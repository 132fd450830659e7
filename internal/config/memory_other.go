//go:build !linux

package config

// hostMemory is the machine's memory in bytes, 0 if it is not known.
func hostMemory() int64 { return 0 }
