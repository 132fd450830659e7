//go:build linux

package firecracker

import (
	"io"
	"strings"
	"sync"
	"unicode"
)

// consoleBytes is what is kept of a machine's console: the guest can write
// without end, and an oops with its trace has some 4 KB.
const consoleBytes = 16 << 10

// console keeps the end of what was written to it: the guest's serial port, and
// the messages of jailer and monitor.
type console struct {
	mu   sync.Mutex
	kept []byte
	done chan struct{}
}

// readConsole takes all that comes from r, so that no writer ever waits, and
// closes it at the end.
func readConsole(r io.ReadCloser) *console {
	c := &console{done: make(chan struct{})}
	go func() {
		defer close(c.done)
		defer r.Close()
		_, _ = io.Copy(c, r)
	}()
	return c
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept = append(c.kept, p...); len(c.kept) > 2*consoleBytes {
		c.kept = append([]byte(nil), c.kept[len(c.kept)-consoleBytes:]...)
	}
	return len(p), nil
}

// tail is the last lines, at most n, with nothing in them that a terminal would
// obey.
func (c *console) tail(n int) string {
	c.mu.Lock()
	text := string(c.kept[max(0, len(c.kept)-consoleBytes):])
	c.mu.Unlock()
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimRight(line, "\r\n"); line != "" {
			lines = append(lines, printable(line, 200))
		}
	}
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// printable bounds a foreign text to one line without control characters.
func printable(s string, most int) string {
	cut := strings.ToValidUTF8(s[:min(len(s), most)], "�")
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '·'
		}
		return r
	}, cut)
}
