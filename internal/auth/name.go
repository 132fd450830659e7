package auth

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxName is the length of the longest name of a tenant or worker, in bytes: a
// label of DNS, so that a name can become a part of a host's.
const MaxName = 63

// MaxSubject is the length of the longest subject, in bytes: that of an OpenID
// Connect subject.
const MaxSubject = 255

// reservedNames are directories that Windows cannot have.
var reservedNames = []string{"aux", "con", "nul", "prn"}

// CheckName tells whether name can be a tenant's or a worker's: 1 to MaxName of
// a to z, 0 to 9 and hyphen, none at either end. Such a name is a file's name
// everywhere, in one spelling, and needs no quotes in a URL, a log or a metric.
// (The four devices that Windows finds in every directory are no names.)
func CheckName(name string) error {
	switch {
	case name == "":
		return errors.New("the name is empty")
	case len(name) > MaxName:
		return fmt.Errorf("the name is %d bytes long, more than %d", len(name), MaxName)
	case strings.ContainsFunc(name, notInName):
		return fmt.Errorf("name %s holds something other than a to z, 0 to 9 and hyphen", strconv.Quote(name))
	case name[0] == '-' || name[len(name)-1] == '-':
		return fmt.Errorf("name %q begins or ends with a hyphen", name)
	case slices.Contains(reservedNames, name) || len(name) == 4 && (name[:3] == "com" || name[:3] == "lpt") && name[3] >= '0' && name[3] <= '9':
		return fmt.Errorf("name %q is a device's on Windows", name)
	}
	return nil
}

func notInName(r rune) bool {
	return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
}

// CheckSubject tells whether s can name who within a tenant: 1 to MaxSubject
// bytes of printable UTF-8 with no space at either end. It goes to logs and audit
// rows, never into a path.
func CheckSubject(s string) error {
	switch {
	case s == "":
		return errors.New("the subject is empty")
	case len(s) > MaxSubject:
		return fmt.Errorf("the subject is %d bytes long, more than %d", len(s), MaxSubject)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		return errors.New("the subject holds what cannot be printed")
	case s != strings.TrimSpace(s):
		return errors.New("the subject begins or ends with a space")
	}
	return nil
}

// CheckImage tells whether s is an image's digest: sha256: and 64 lower-case hex
// digits.
func CheckImage(s string) error {
	hex, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(hex) != 64 || strings.Trim(hex, "0123456789abcdef") != "" {
		return errors.New("the image is no digest: sha256: and 64 lower-case hex digits")
	}
	return nil
}
