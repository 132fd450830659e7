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
func (e *Engine) addCandidate(id manifestID, name string, c action.Candidate) (manifestID, error) {
	source, known := sourceOf(&c, name)
	for try := 0; ; try++ {
		full, _, err := e.cache.Manifest(id.key)
		if known && err == nil && crowded(full, name) {
			if err := e.spread(id, name, full); err != nil {
				return id, err
			}
			id.key, known = sourcedKey(id.key, source), false
		}
		elsewhere := false
		_, err = e.cache.UpdateManifest(id.key, func(m *action.Manifest) error {
			// Marked just now, by another: nobody would look here.
			if elsewhere = known && m.Preprocess == needSource && try < addTries; !elsewhere {
				m.Add(c)
			}
			return nil
		})
		// The next look-up reads it, if there is one in this process.
		e.manifests.remove(id)
		if err != nil || !elsewhere {
			return id, err
		}
	}
}

// addTries bounds how often a manifest that others change is looked at again.
const addTries = 10

// spread moves what a crowded manifest holds to manifests of the sources. They
// are written first: whoever finds the mark finds them. What others add
// meanwhile is moved as well before the mark is set.
func (e *Engine) spread(id manifestID, name string, crowd *action.Manifest) error {
	moved := map[digest.Key]bool{}
	defer e.manifests.remove(id)
	for todo := crowd.Candidates; ; {
		for _, c := range slices.Backward(todo) {
			moved[c.Action] = true
			source, ok := sourceOf(&c, name)
			if !ok {
				continue
			}
			_, err := e.cache.UpdateManifest(sourcedKey(id.key, source), func(m *action.Manifest) error {
				m.Add(c)
				return nil
			})
			if err != nil {
				return err
			}
		}
		if len(crowd.Candidates) == 0 && crowd.Preprocess == needSource {
			return nil
		}
		todo = nil
		_, err := e.cache.UpdateManifest(id.key, func(m *action.Manifest) error {
			for _, c := range m.Candidates {
				if !moved[c.Action] {
					todo = append(todo, c)
				}
			}
			if len(todo) == 0 {
				m.Preprocess, m.Candidates = needSource, nil
			}
			return nil
		})
		if err != nil || len(todo) == 0 {
			return err
		}
	}
}
