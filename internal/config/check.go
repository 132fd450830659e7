package config

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Names go into paths, metrics and tokens.
const (
	maxName    = 63
	maxSubject = 255
)

// checkName takes the name of a tenant or of a worker: it becomes the name of
// directories, and a label of DNS perhaps.
func checkName(s string) error {
	plain := func(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }
	ok := len(s) >= 1 && len(s) <= maxName && plain(s[0]) && plain(s[len(s)-1])
	for i := range len(s) {
		ok = ok && (plain(s[i]) || s[i] == '-')
	}
	if !ok {
		return fmt.Errorf("must be 1 to %d of a-z, 0-9 and -, with no hyphen first or last", maxName)
	}
	return nil
}

// checkSubject takes who somebody is within a tenant: an address, an account, a
// pipeline. It goes into tokens and audit rows, and is read by people.
func checkSubject(s string) error {
	if !utf8.ValidString(s) || len(s) > maxSubject || s != strings.TrimSpace(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("must be at most %d bytes of printable text, with no space around it", maxSubject)
	}
	return nil
}

// checkListen takes an address to listen on; the host may be missing.
func checkListen(s string) error {
	if _, _, err := splitAddress(s); err != nil {
		return errors.New(`must be an address to listen on, such as ":7500" or "127.0.0.1:7500"`)
	}
	return nil
}

// checkAddress takes the address of somebody else.
func checkAddress(s string) error {
	if host, port, err := splitAddress(s); err != nil || host == "" || port == 0 {
		return errors.New(`must be an address, such as "build.example.com:7500"`)
	}
	return nil
}

func splitAddress(s string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, err
	}
	if strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' || r == '@' }) {
		return "", 0, errors.New("no host name")
	}
	port, err = strconv.Atoi(text)
	if err != nil || port < 0 || port > 65535 {
		return "", 0, errors.New("no port number")
	}
	return host, port, nil
}

// imageDigest returns the digest of an image that is named by it, or "".
func imageDigest(name string) string {
	if i := strings.LastIndexByte(name, '@'); i > 0 {
		name = name[i+1:]
	}
	if text, ok := strings.CutPrefix(name, "sha256:"); ok && isSHA256(text) {
		return name
	}
	return ""
}

func checkImage(s string) error {
	if imageDigest(s) == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("must name an image by its digest: sha256:HEX, or a reference with @sha256:HEX behind it (hpcc image build shows it)")
	}
	return nil
}

// isSHA256 tells whether s is a SHA-256 in lower-case hex.
func isSHA256(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil && len(s) == 64 && strings.ToLower(s) == s
}

func checkSHA256(s string) error {
	if !isSHA256(s) {
		return errors.New("must be the SHA-256 of a credential, 64 hexadecimal digits in lower case (hpcc ca credential prints one)")
	}
	return nil
}

// checkPlatform takes OS/ARCHITECTURE[/VARIANT].
func checkPlatform(s string) error {
	parts := strings.Split(s, "/")
	ok := len(parts) == 2 || len(parts) == 3
	for _, p := range parts {
		ok = ok && len(p) >= 1 && len(p) <= 32 && strings.Trim(p, "abcdefghijklmnopqrstuvwxyz0123456789_") == ""
	}
	if !ok {
		return errors.New(`must be a platform, such as "linux/amd64"`)
	}
	return nil
}

// text takes a list's entry that check takes.
func text(check func(string) error) func(any) (string, error) {
	return func(v any) (string, error) {
		s, ok := v.(string)
		if !ok {
			return "", errors.New("must be a list of strings")
		}
		if s == "" {
			return "", nil
		}
		return s, check(s)
	}
}
