package guest

import (
	"bufio"
	"bytes"
	_ "embed" // kernel.config
	"errors"
	"fmt"
	"strings"
)

// kernelConfig is the configuration that hpcc's kernel is built by.
//
//go:embed kernel.config
var kernelConfig []byte

// setting is one line of a Kconfig file: an option and its value, "" for one
// that is not set.
type setting struct{ option, value string }

func (s setting) String() string {
	if s.value == "" {
		return "# " + s.option + " is not set"
	}
	return s.option + "=" + s.value
}

// parseConfig reads a Kconfig file. Comments that set nothing are left out; an
// option that appears twice is an error, since one of the two would not hold.
func parseConfig(text []byte) ([]setting, error) {
	var all []setting
	seen := make(map[string]bool)
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		var s setting
		if rest, ok := strings.CutPrefix(line, "# CONFIG_"); ok {
			name, ok := strings.CutSuffix(rest, " is not set")
			if !ok {
				continue
			}
			s = setting{option: "CONFIG_" + name}
		} else if line == "" || line[0] == '#' {
			continue
		} else if option, value, ok := strings.Cut(line, "="); ok && strings.HasPrefix(option, "CONFIG_") && value != "" {
			s = setting{option, value}
		} else {
			return nil, fmt.Errorf("kernel configuration: line %d sets nothing: %q", n, line)
		}
		if seen[s.option] {
			return nil, fmt.Errorf("kernel configuration: line %d: %s appears twice", n, s.option)
		}
		seen[s.option] = true
		all = append(all, s)
	}
	return all, lines.Err()
}

// checkConfig tells whether config, which Kconfig wrote, holds every setting
// that was wanted. Kconfig drops in silence what depends on something that is
// off, and turns on what something else selects.
func checkConfig(config []byte, wanted []setting) error {
	got, err := parseConfig(config)
	if err != nil {
		return err
	}
	values := make(map[string]string, len(got))
	for _, s := range got {
		values[s.option] = s.value
	}
	var problems []error
	for _, w := range wanted {
		// An option that Kconfig does not write at all is off.
		if v := values[w.option]; v != w.value {
			problems = append(problems, fmt.Errorf("wanted %s, got %s", w, setting{w.option, v}))
		}
	}
	if len(problems) > 0 {
		return fmt.Errorf("this kernel cannot be configured as guest/kernel.config says: %w", errors.Join(problems...))
	}
	return nil
}
