package daemon

import (
	"slices"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
)

// needSource stands in a manifest that was full of candidates of different
// sources: a hundred directories may each have a main.c and one command for it,
// or one source may have been edited often. From then on the source's content
// is part of the manifest's name, so that each has room for its own candidates.
// It is not from the beginning, because that would cost every hit a second
// look-up to save those few.
const needSource = "source"

// sourcedKey names the manifest of one of the sources that share a command.
func sourcedKey(key digest.Key, source digest.Digest) digest.Key {
	return digest.NewKey("sourced").Bytes("manifest", key[:]).Field("source", source.String()).Sum()
}

// sourced is the manifest of the job's own source.
func (j *job) sourced(id manifestID) manifestID {
	f := j.e.files.at(j.prep.place.absolute(j.prep.inv.Source))
	if sum, _, err := j.e.files.digest(f); err == nil {
		id.key = sourcedKey(id.key, sum)
	}
	return id
}

// sourceOf is the content of the source, whose stored path is name, among a
// candidate's inputs.
func sourceOf(c *action.Candidate, name string) (digest.Digest, bool) {
	i := slices.IndexFunc(c.Inputs, func(in action.Input) bool { return in.Path == name })
	if i < 0 {
		return digest.Digest{}, false
	}
	return c.Inputs[i].Digest, true
}

// crowded reports whether a manifest that is full, or that has been before,
// holds several sources' candidates.
func crowded(m *action.Manifest, name string) bool {
	if m.Preprocess == needSource {
		return true
	}
	if m.Preprocess != "" || len(m.Candidates) < action.MaxCandidates {
		return false
	}
	first, ok := sourceOf(&m.Candidates[0], name)
	return ok && slices.ContainsFunc(m.Candidates, func(c action.Candidate) bool {
		other, ok := sourceOf(&c, name)
		return ok && other != first
	})
}

// addCandidate adds c to a manifest, or, where that is crowded, to its source's
// own, and returns which. name is the stored path of the source.
//
// What a crowded manifest holds is moved to manifests of the sources before it
// is marked, so that whoever finds the mark finds them, with what others added
// in between.
func (e *Engine) addCandidate(id manifestID, name string, c action.Candidate) (manifestID, error) {
	source, known := sourceOf(&c, name)
	moved := map[digest.Key]bool{}
	for {
		var crowd []action.Candidate
		full := false
		_, err := e.cache.UpdateManifest(id.key, func(m *action.Manifest) error {
			if full = known && crowded(m, name); !full {
				m.Add(c)
				return nil
			}
			for _, old := range m.Candidates {
				if !moved[old.Action] {
					crowd = append(crowd, old)
				}
			}
			if len(crowd) == 0 {
				m.Preprocess, m.Candidates = needSource, nil
			}
			return nil
		})
		// The next look-up reads it, if there is one in this process.
		e.manifests.remove(id)
		if err != nil || !full {
			return id, err
		}
		if len(crowd) == 0 {
			break
		}
		for _, old := range slices.Backward(crowd) {
			moved[old.Action] = true
			if of, ok := sourceOf(&old, name); ok {
				if err := e.addTo(sourcedKey(id.key, of), old); err != nil {
					return id, err
				}
			}
		}
	}
	id.key = sourcedKey(id.key, source)
	err := e.addTo(id.key, c)
	e.manifests.remove(id)
	return id, err
}

func (e *Engine) addTo(manifest digest.Key, c action.Candidate) error {
	_, err := e.cache.UpdateManifest(manifest, func(m *action.Manifest) error {
		m.Add(c)
		return nil
	})
	return err
}
