package daemon

import (
	"regexp"

	"hpcc.dev/hpcc/internal/compiler"
	"hpcc.dev/hpcc/internal/digest"
)

// needRoots stands in a manifest whose results are told apart by where the
// project lies, beside what its inputs hold.
const needRoots = "line-markers"

// rootedKey names the manifest of such results. Without roots it is the plain
// one's.
func rootedKey(key digest.Key, p place) digest.Key {
	roots := p.rootDirs()
	if len(roots) == 0 {
		return key
	}
	return digest.NewKey("rooted").Bytes("manifest", key[:]).Field("roots", roots...).Sum()
}

// lineMarker matches a line marker of either form up to its operands, which
// are captured. One that a splice or a comment breaks up is none to it; see
// marksPlace.
var lineMarker = regexp.MustCompile(`(?m)^[ \t]*(?:#|%:|\?\?=)[ \t]*(?:line\b|([0-9].*)$)(.*)$`)

// relativeMarker matches operands that name no absolute path: a number, alone
// or with a name that does not begin with a slash.
var relativeMarker = regexp.MustCompile(`^[ \t]*[0-9]+[ \t]*(?:"[^/\\"][^"\\]*"[ \t0-9]*|"")?[ \t\r]*$`)

// namesPlaces reports whether a compile that maps its roots read a file whose
// line markers name places. The compiler maps those below its own roots only:
// of one text, two checkouts make two objects.
func (j *job) namesPlaces(c *compiled) bool {
	if len(j.prep.place.rootDirs()) == 0 || c.inv.Mode == compiler.Listing {
		return false
	}
	for _, d := range c.deps {
		f := j.e.files.at(j.prep.place.absolute(d))
		scan, err := j.e.scan(f)
		if err != nil || !scan.LineMarkers {
			continue
		}
		_, _, text, err := j.e.files.content(f)
		if err != nil || marksPlace(text) {
			return true
		}
	}
	return false
}

// marksPlace reports whether a text with line markers names a place by one.
// Only what surely does not is taken for that.
func marksPlace(text []byte) bool {
	found := lineMarker.FindAllSubmatch(text, -1)
	for _, m := range found {
		operands := m[2]
		if m[1] != nil {
			operands = m[1]
		}
		if !relativeMarker.Match(operands) {
			return true
		}
	}
	return len(found) == 0 // they are there, in a form that is not seen here
}
