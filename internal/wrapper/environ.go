package wrapper

import (
	"slices"
	"strings"
)

// activeVar carries the compilers that hpcc already stands behind, outermost
// first. Below one of them hpcc is not to cache again (a compiler that is a
// script would be cached twice, and stored under both keys), nor to find the
// same script as its own compiler, which would call hpcc for ever.
const activeVar = "HPCC_ACTIVE"

// maxActive ends a chain of compilers that call each other through hpcc
// without end. Wrappers around wrappers are seldom three deep.
const maxActive = 16

// environment is a process's environment as NAME=value strings.
type environment []string

func (e environment) get(name string) string {
	value, _ := e.lookup(name)
	return value
}

func (e environment) lookup(name string) (value string, ok bool) {
	for _, entry := range e {
		if len(entry) > len(name) && entry[len(name)] == '=' && entry[:len(name)] == name {
			return entry[len(name)+1:], true
		}
	}
	return "", false
}

// with returns a copy in which the variables of set (NAME=value) replace their
// namesakes, and those named by unset are gone.
func (e environment) with(set, unset []string) environment {
	replaced := func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.Contains(unset, name) || slices.ContainsFunc(set, func(s string) bool {
			return strings.HasPrefix(s, name) && strings.HasPrefix(s[len(name):], "=")
		})
	}
	out := make(environment, 0, len(e)+len(set))
	for _, entry := range e {
		if !replaced(entry) {
			out = append(out, entry)
		}
	}
	return append(out, set...)
}

// active lists the compilers that the process runs below.
func (e environment) active() []string {
	list := e.get(activeVar)
	if list == "" {
		return nil
	}
	return strings.Split(list, ":")
}

// withActive adds compiler to the list.
func (e environment) withActive(compiler string) environment {
	return e.with([]string{activeVar + "=" + strings.Join(append(e.active(), compiler), ":")}, nil)
}

// on reports whether a switch like HPCC_DISABLE is set, to other than 0.
func (e environment) on(name string) bool {
	value := e.get(name)
	return value != "" && value != "0" && value != "false"
}
