package shared

import (
	"context"
	"errors"
	"fmt"
	"time"

	"hpcc.dev/hpcc/internal/action"
	"hpcc.dev/hpcc/internal/digest"
	"hpcc.dev/hpcc/internal/store"
)

// Description says for people what an object is.
type Description struct {
	Name     string    `json:"name"`
	Tenant   string    `json:"tenant"`
	Kind     Kind      `json:"kind"`
	Key      string    `json:"key"`
	Bytes    int64     `json:"bytes"`
	Modified time.Time `json:"modified"`

	// Of a result, as far as it could be read. Signer and Role are those of the file
	// of trusted keys; SignerKey is PublicKey.ID.
	Signer    string   `json:"signer,omitempty"`
	Role      Role     `json:"role,omitempty"`
	SignerKey string   `json:"signer_key,omitempty"`
	Result    string   `json:"result,omitempty"`
	Outputs   []Output `json:"outputs,omitempty"`
	Inputs    int      `json:"inputs,omitempty"`
	Command   []string `json:"command,omitempty"`

	// Of a manifest.
	Candidates int    `json:"candidates,omitempty"`
	Preprocess string `json:"preprocess,omitempty"`
}

// Output is one file of a result.
type Output struct {
	Role   string `json:"role"`
	Digest string `json:"digest"`
	// Packed says that it is in the pack; else it is an object of its own.
	Packed bool `json:"packed"`
}

// ErrForeign says that a name is none of a manifest, a result or a blob. What ccache
// has put there is foreign, too: nothing vouches for it.
var ErrForeign = errors.New("not an object of the shared cache")

// VerifyObject reads an object and checks it as a reader of the cache would, but
// that of a result's large blobs only their being there is asked for: they are
// objects that are verified by themselves. The error wraps ErrForeign, a
// RejectedError, or one of package store; what could be read is described all the
// same.
func VerifyObject(ctx context.Context, s store.Store, name string, trust *Trust) (Description, error) {
	tenant, kind, key, ok := ParseName(name)
	if !ok || kind == KindCcache {
		return Description{Name: name}, fmt.Errorf("%q: %w", clip(name), ErrForeign)
	}
	x := Description{Name: name, Tenant: tenant, Kind: kind, Key: key.String()}
	limit := map[Kind]int64{KindManifest: maxManifestObject, KindResult: maxPack}[kind]
	_, blob, isBlob := ParseBlob(name)
	if isBlob {
		limit = blob.Size() + int64(boxOverhead)
	}
	o, err := s.Get(ctx, name, limit)
	if errors.Is(err, store.ErrTooLarge) {
		return x, fmt.Errorf("%s: %w", name, reject(ReasonDamaged, "larger than %d bytes", limit))
	}
	if err != nil {
		return x, fmt.Errorf("%s: %w", name, err)
	}
	x.Bytes, x.Modified = int64(len(o.Body)), o.Modified
	switch kind {
	case KindManifest:
		var m *action.Manifest
		if m, err = openManifest(key, o.Body); err == nil {
			x.Candidates, x.Preprocess = len(m.Candidates), m.Preprocess
		}
	case KindBlob:
		_, err = unboxBlob(blob, o.Body)
	case KindResult:
		err = x.result(ctx, s, o.Body, key, trust)
	}
	if err != nil {
		return x, fmt.Errorf("%s: %w", name, err)
	}
	return x, nil
}

// result verifies and describes a pack.
func (x *Description) result(ctx context.Context, s store.Store, pack []byte, key digest.Key, trust *Trust) error {
	p, err := openPack(pack, x.Tenant, key, trust)
	if p != nil {
		x.Result, x.SignerKey, x.Signer, x.Role = p.result.String(), p.signer.Key.ID(), p.signer.Name, p.signer.Role
	}
	if err != nil {
		return err
	}
	x.Inputs, x.Command = len(p.entry.Action.Inputs), p.entry.Action.Command
	for _, o := range p.entry.Result.Outputs {
		_, packed := p.blobs[o.Digest]
		x.Outputs = append(x.Outputs, Output{o.Role, o.Digest.String(), packed})
	}
	for _, d := range p.missing {
		name := BlobName(x.Tenant, d)
		if _, err := s.Stat(ctx, name); errors.Is(err, store.ErrNotFound) {
			return reject(ReasonIncomplete, "%s is not there", name)
		} else if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
