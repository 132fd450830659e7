package daemon

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"

	"hpcc.dev/hpcc/internal/cache"
	"hpcc.dev/hpcc/internal/digest"
	ipcv1 "hpcc.dev/hpcc/proto/hpcc/ipc/v1"
)

// verifies reports whether a hit of this job is to be compiled anyway and
// compared: by the configured share, or HPCC_VERIFY=1 in the build's own
// environment. Kinds whose two plain compiles already differ are left out
// (temporary names in coverage notes and LTO objects).
func (j *job) verifies() bool {
	inv := j.prep.inv
	if (inv.Coverage || inv.LTO) && inv.RandomSeed == "" {
		return false
	}
	return slices.Contains(j.req.GetEnv(), "HPCC_VERIFY=1") || rand.Float64() < j.e.opt.Verify
}

// expected result of a compile that only verifies a hit.
type verification struct {
	manifest digest.Key
	found    *candidate
	result   *result
}

// compare judges a stored result by a compile just made. One that differs is
// taken out of the cache, and the user is told: either hpcc missed an input,
// or the compiler does not give the same bytes twice.
func (j *job) compare(c *compiled, done *ipcv1.Done) {
	v := j.verifying
	var differs []string
	for role, sum := range v.result.digests {
		if out, ok := c.outputs[role]; !ok || digest.Of(out.data) != sum {
			differs = append(differs, role)
		}
	}
	paths := j.prep.place.paths
	if !bytes.Equal(paths.LocalText(v.result.Stderr), c.stderr) || !bytes.Equal(paths.LocalText(v.result.Stdout), c.stdout) {
		differs = append(differs, "messages")
	}
	j.outcome = outcome{kind: hitDirect, action: v.found.action, manifest: v.manifest}
	if len(differs) == 0 {
		return
	}
	slices.Sort(differs)
	j.outcome.kind, j.outcome.reason = uncacheable, reasonVerify
	j.outcome.detail = strings.Join(differs, ", ")
	j.e.results.remove(v.found.action)
	if err := j.e.cache.Remove(cache.KindEntry, v.found.action); err != nil {
		j.e.log.Error("quarantine-failed", "action", v.found.action.String(), "error", err.Error())
	}
	j.e.log.Error("verify-mismatch", "source", j.source(), "manifest", v.manifest.String(),
		"action", v.found.action.String(), "differs", j.outcome.detail)
	done.Note = "verification: the cached " + j.outcome.detail + " of " + j.source() +
		" was not what the compiler makes; it is removed (action " + v.found.action.String()[:16] + ")"
}
