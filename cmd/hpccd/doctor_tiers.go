package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"hpcc.dev/hpcc/internal/config"
	"hpcc.dev/hpcc/internal/shared"
	"hpcc.dev/hpcc/internal/store"
	"hpcc.dev/hpcc/internal/tiers"
)

// tierPatience bounds the questions to one tier: single sign-on takes its time.
const tierPatience = 20 * time.Second

// largestSkew is how far clocks may be apart before it is worth a word: S3 refuses
// requests beyond 15 minutes.
const largestSkew = time.Minute

// tiers asks each shared cache, as a build would, and looks at the files of keys.
func (d *doctor) tiers() {
	if d.cfg == nil || !d.cfg.Cache.Enabled() {
		return
	}
	c := &d.cfg.Cache
	if !d.cfg.Reproducible.Enabled {
		d.warn("tiers", "remove reproducible.enabled from client.toml", "no shared cache is asked: results that hold this machine's paths are of no use to others")
	}
	if !d.daemonAnswers {
		d.warn("tiers-daemon", "hpcc start", "without a daemon no shared cache is asked")
	}
	d.tierKeys(c.SigningKeyFile, c.TrustedKeysFile, c.Trust)
	var now *shared.Stats
	if d.daemonAnswers && wired.sharedStats != nil {
		now = wired.sharedStats(d.cfg)
	}
	for i := range c.Tiers {
		d.tier(&c.Tiers[i], now)
	}
}

// tierKeys looks at the files that say who signs and who is believed.
func (d *doctor) tierKeys(signing, trusted string, trust config.TrustIn) {
	if signing == "" {
		d.warn("tiers-signing-key", "make one: hpcc cache keygen, and name it in cache.signing_key_file", "results of this machine are not written to the shared caches")
	} else if mode, open := openToOthers(signing); open {
		d.fail("tiers-signing-key", "chmod 600 "+shellQuote(signing)+", and make another key if somebody may have read it",
			"%s has mode %#o: others can sign results in this machine's name, and hpcc does not use it", signing, mode)
	} else if s, err := shared.ReadSigner(signing); err != nil {
		d.fail("tiers-signing-key", "make one: hpcc cache keygen", "%s", err)
	} else {
		d.ok("tiers-signing-key", "signs as %s (key %s)", s.Name(), s.Public().ID())
	}
	if trusted == "" {
		d.warn("tiers-trusted-keys", "name a file with the public keys of those whose results are to be believed in cache.trusted_keys_file",
			"nobody's results are believed but this machine's own")
		return
	}
	t, err := shared.ReadTrust(trusted, trust == config.TrustWorkers)
	if err != nil {
		d.fail("tiers-trusted-keys", "mend the line: ROLE NAME KEY, as hpcc cache keygen prints it", "%s", err)
		return
	}
	if fi, err := os.Stat(trusted); err == nil && fi.Mode().Perm()&0o022 != 0 {
		d.fail("tiers-trusted-keys", "chmod go-w "+shellQuote(trusted), "%s has mode %#o: others can have this machine believe results of theirs", trusted, fi.Mode().Perm())
		return
	}
	believed, revoked := 0, 0
	for _, m := range t.Members() {
		switch {
		case m.Revoked:
			revoked++
		case trust != config.TrustWorkers || m.Role == shared.RoleWorker:
			believed++
		}
	}
	if believed == 0 {
		d.warn("tiers-trusted-keys", "add a line ROLE NAME KEY for each whose results are to be believed", "%s names nobody who is believed", trusted)
		return
	}
	d.ok("tiers-trusted-keys", "%d keys are believed, %d are revoked", believed, revoked)
}

// openToOthers tells whether others than its owner may use a file. A key that is so is
// refused by whoever reads it.
func openToOthers(file string) (mode fs.FileMode, open bool) {
	fi, err := os.Stat(file)
	if err != nil {
		return 0, false
	}
	mode = fi.Mode().Perm()
	return mode, mode&0o077 != 0
}

// tier asks one shared cache. now is what the daemon says, or nil.
func (d *doctor) tier(t *config.Tier, now *shared.Stats) {
	check := "tier-" + t.Name
	ctx, cancel := context.WithTimeout(d.ctx, tierPatience)
	defer cancel()
	h, err := tiers.Check(ctx, t)
	switch {
	case errors.Is(err, store.ErrKeyFile), errors.Is(err, fs.ErrNotExist) && t.EncryptionKeyFile != "":
		mend := "see cache.tiers.encryption_key_file"
		if _, open := openToOthers(t.EncryptionKeyFile); open {
			mend = "chmod 600 " + shellQuote(t.EncryptionKeyFile) + ", and make another key if somebody may have read it"
		}
		d.fail(check, mend, "%s", err)
	case errors.Is(err, store.ErrDenied):
		d.fail(check, "builds go on without it; see aws configure list, and the rights of the bucket", "%s", err)
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		d.warn(check, "builds go on without it; see that "+t.URL()+" can be reached from here, and is spelt right", "%s", err)
	case err != nil:
		d.fail(check, "builds go on without it; set access to read-only if it cannot be mended", "%s", err)
	case h.Skew.Abs() > largestSkew:
		d.warn(check, "set this machine's clock", "its clock and that of %s are %s apart", h.Where, h.Skew.Abs())
	default:
		d.ok(check, "%s", tierFound(t, &h))
	}
	if now == nil {
		return
	}
	for i := range now.Tiers {
		if s := &now.Tiers[i]; s.Name == t.Name && s.State == shared.StateAway {
			until := ""
			if !s.Until.IsZero() {
				until = " until " + s.Until.Local().Format(time.TimeOnly)
			}
			d.warn(check+"-daemon", "nothing, if the line above is well: it is asked again by itself", "the daemon does not ask it%s: %s", until, firstLine(s.Why))
		}
	}
}

// tierFound says what a tier that is well is like.
func tierFound(t *config.Tier, h *tiers.Health) string {
	text := fmt.Sprintf("%s answers (%.0f ms)", h.Where, h.Took.Seconds()*1000)
	if h.Credentials != "" {
		text += ", credentials from " + h.Credentials
	}
	if h.Writable {
		return text + ", writes on conditions hold"
	}
	if t.Access == config.ReadOnly {
		return text + ", read-only"
	}
	return text
}
