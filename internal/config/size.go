package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// units are the suffixes of a size, largest first within each base, which is
// the order in which FormatSize prefers them.
var units = []struct {
	suffix string
	bytes  int64
}{
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3},
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
}

var errSize = errors.New(`must be a size such as "10GB" or "512MiB"`)

// ParseSize reads a number of bytes: digits with an optional fraction and an
// optional unit, decimal (kB, MB, GB, TB) or binary (KiB, MiB, GiB, TiB). Case
// does not matter, and the B may be left out ("10G" is 10 GB). The result is
// positive.
func ParseSize(s string) (int64, error) {
	text := strings.TrimSpace(s)
	cut := strings.LastIndexAny(text, "0123456789.") + 1
	number, unit := text[:cut], strings.TrimSpace(text[cut:])
	scale := int64(1)
	if unit != "" && !strings.EqualFold(unit, "B") {
		scale = 0
		for _, u := range units {
			if strings.EqualFold(unit, u.suffix) || strings.EqualFold(unit, u.suffix[:len(u.suffix)-1]) {
				scale = u.bytes
			}
		}
		if scale == 0 {
			return 0, errSize
		}
	}
	// Whole numbers stay exact; ParseFloat alone would round above 2^53, and
	// takes forms ("1e3", "inf", "0x1p4") that are no sizes.
	if strings.Trim(number, "0123456789.") != "" {
		return 0, errSize
	}
	if n, err := strconv.ParseInt(number, 10, 64); err == nil {
		if n <= 0 {
			return 0, errors.New("must be more than 0")
		}
		if n > math.MaxInt64/scale {
			return 0, errors.New("too large")
		}
		return n * scale, nil
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return 0, errSize
	}
	f *= float64(scale)
	switch {
	case f >= math.MaxInt64:
		return 0, errors.New("too large")
	case f < 1:
		return 0, errors.New("must be more than 0")
	}
	return int64(f), nil
}

// FormatSize writes n so that ParseSize gives n back: with a unit where that
// is exact, else in bytes.
func FormatSize(n int64) string {
	for _, u := range units {
		if n >= u.bytes && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.suffix
		}
	}
	return strconv.FormatInt(n, 10) + "B"
}

// HumanSize writes n for people to read, rounded to three digits.
func HumanSize(n int64) string {
	for _, u := range units[:4] {
		if n >= u.bytes {
			v := float64(n) / float64(u.bytes)
			digits := 2
			if v >= 100 {
				digits = 0
			} else if v >= 10 {
				digits = 1
			}
			return fmt.Sprintf("%.*f %s", digits, v, u.suffix)
		}
	}
	return fmt.Sprintf("%d B", n)
}
