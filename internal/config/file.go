package config

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// maxFile bounds client.toml: a file of this size is not one.
const maxFile = 1 << 20

// applyFile sets what text, the content of client.toml, holds.
func (c *Config) applyFile(text []byte) error {
	if len(text) > maxFile {
		return fmt.Errorf("%s: larger than %d bytes", c.File, maxFile)
	}
	var f file
	dec := toml.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&f); err != nil {
		return c.fileError(err)
	}
	for _, k := range keys {
		v := k.at(&f)
		if v == nil {
			continue
		}
		where := c.File
		if n := lineOf(text, k.name); n > 0 {
			where = fmt.Sprintf("%s:%d", c.File, n)
		}
		if err := k.set(c, v); err != nil {
			return fmt.Errorf("%s: %s is %v: %w", where, k.name, v, err)
		}
		c.origins[k.name] = where
	}
	return nil
}

// fileError words what the TOML reader found, with line and nearest key.
func (c *Config) fileError(err error) error {
	var unknown *toml.StrictMissingError
	if errors.As(err, &unknown) {
		var lines []string
		for i := range unknown.Errors {
			e := &unknown.Errors[i]
			name := strings.Join(e.Key(), ".")
			row, _ := e.Position()
			line := fmt.Sprintf("%s:%d: unknown key %s", c.File, row, name)
			if near := nearest(name); near != "" {
				line += ": did you mean " + near + "?"
			}
			lines = append(lines, line)
		}
		return errors.New(strings.Join(lines, "\n"))
	}
	var syntax *toml.DecodeError
	if errors.As(err, &syntax) {
		row, col := syntax.Position()
		return fmt.Errorf("%s:%d:%d: %s", c.File, row, col, strings.TrimPrefix(syntax.Error(), "toml: "))
	}
	return fmt.Errorf("%s: %w", c.File, err)
}

// lineOf finds the line, from 1, on which a key of the table is set, or 0. It
// only serves to tell people where a value came from, so it knows the usual
// ways of writing a key and no others.
func lineOf(text []byte, name string) int {
	table, last, found := strings.Cut(name, ".")
	if !found {
		table, last = "", name
	}
	current := ""
	for i, raw := range strings.Split(string(text), "\n") {
		line := strings.TrimSpace(raw)
		if strings.HasPrefix(line, "[") {
			if end := strings.IndexByte(line, ']'); end > 0 {
				current = strings.TrimSpace(line[1:end])
			}
			continue
		}
		left, _, ok := strings.Cut(line, "=")
		if !ok {
			continue
		}
		left = strings.TrimSpace(left)
		if current == table && left == last || current == "" && left == name {
			return i + 1
		}
	}
	return 0
}

// nearest is the key or table that name was most likely meant to be, or "".
func nearest(name string) string {
	if len(name) > 64 { // no slip of the pen, and a distance costs the product of the lengths
		return ""
	}
	best, bestDistance := "", 1+len(name)/2
	for _, k := range keys {
		d := distance(name, k.name)
		// A key written without its table, or under a wrong one.
		if _, last, ok := strings.Cut(k.name, "."); ok && last == name[strings.LastIndexByte(name, '.')+1:] {
			d = min(d, 1)
		}
		if d < bestDistance {
			best, bestDistance = k.name, d
		}
		// The reader reports an unknown table by its own name.
		if table, _, ok := strings.Cut(k.name, "."); ok {
			if d := distance(name, table); d < bestDistance {
				best, bestDistance = table, d
			}
		}
	}
	return best
}

// distance is the number of single-byte edits between a and b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			above := row[j]
			cost := diagonal
			if a[i-1] != b[j-1] {
				cost++
			}
			row[j] = min(cost, above+1, row[j-1]+1)
			diagonal = above
		}
	}
	return row[len(b)]
}
