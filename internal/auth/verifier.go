package auth

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Verifier checks task tokens against keys that were published. It knows none
// until Update. Its methods may be called by many goroutines.
type Verifier struct {
	keys atomic.Pointer[map[string]ed25519.PublicKey]
}

// NewVerifier returns a verifier that refuses every token until it has keys.
func NewVerifier() *Verifier {
	v := &Verifier{}
	v.keys.Store(&map[string]ed25519.PublicKey{})
	return v
}

// Update replaces the keys by those of a JSON Web Key Set, as Keyring.JWKS
// writes it. After an error it has the keys that it had: one bad answer of a
// scheduler stops no build.
func (v *Verifier) Update(jwks []byte) error {
	keys, err := decodeJWKS(jwks)
	if err != nil {
		return err
	}
	v.keys.Store(&keys)
	return nil
}

// Ready tells whether there are keys.
func (v *Verifier) Ready() bool { return len(*v.keys.Load()) > 0 }

// Verify returns what a token says, if it was signed with one of the keys, is
// for worker, and is valid now. The error is a *TokenError.
//
// The signature is checked before any of the payload is read.
func (v *Verifier) Verify(token, worker string) (Task, error) {
	if len(token) > MaxToken {
		return Task{}, refuse(TooLong, "%d bytes, more than %d", len(token), MaxToken)
	}
	if !canonical(token) {
		return Task{}, refuse(Malformed, "it is no signed JWT")
	}
	jws, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		var algorithm *jose.ErrUnexpectedSignatureAlgorithm
		if errors.As(err, &algorithm) {
			return Task{}, refuse(WrongAlgorithm, "only EdDSA is taken")
		}
		return Task{}, refuse(Malformed, "it is no signed JWT")
	}
	h := jws.Signatures[0].Protected
	if typ, _ := h.ExtraHeaders[jose.HeaderType].(string); typ != tokenType {
		return Task{}, refuse(WrongType, "its type is not %s", tokenType)
	}
	// Headers can name keys, certificates and addresses of keys, and change what
	// is signed. Ours have none of it.
	if len(h.ExtraHeaders) != 1 || h.JSONWebKey != nil || h.Nonce != "" {
		return Task{}, refuse(Malformed, "it has headers besides alg, typ and kid")
	}
	key, ok := (*v.keys.Load())[h.KeyID]
	if !ok {
		return Task{}, refuse(UnknownKey, "it is signed with a key that the scheduler has not told of, or no longer has")
	}
	payload, err := jws.Verify(key)
	if err != nil {
		return Task{}, refuse(WrongSignature, "")
	}
	return readClaims(payload, worker, time.Now())
}

// canonical tells whether token is base64url without padding or spare bits, in
// three parts: one token then has one spelling, and what is logged, cached or
// revoked by its text cannot be had by another.
func canonical(token string) bool {
	parts := 0
	for p := range strings.SplitSeq(token, ".") {
		// The decoder passes over ends of lines.
		if _, err := base64.RawURLEncoding.Strict().DecodeString(p); err != nil || strings.ContainsAny(p, "\r\n") {
			return false
		}
		parts++
	}
	return parts == 3
}

// readClaims judges a payload that the scheduler's key has signed.
func readClaims(payload []byte, worker string, now time.Time) (Task, error) {
	var c claims
	if err := json.Unmarshal(payload, &c); err != nil {
		return Task{}, refuse(BadClaims, "the payload is no set of claims")
	}
	if c.Issuer != Issuer {
		return Task{}, refuse(WrongIssuer, "it was not made by %s", Issuer)
	}
	// Seconds since 1970, and below what time.Unix can add to.
	const last = 1 << 40
	for _, t := range []int64{c.Expires, c.NotBefore, c.IssuedAt} {
		if t <= 0 || t > last {
			return Task{}, refuse(BadClaims, "exp, nbf or iat is missing or no time")
		}
	}
	t := Task{Tenant: c.Tenant, Subject: c.Subject, Image: c.Image, Worker: c.Audience, Expires: time.Unix(c.Expires, 0), ID: c.ID}
	if err := t.check(); err != nil {
		return Task{}, refuse(BadClaims, "%v", err)
	}
	if c.NotBefore >= c.Expires || c.Expires-c.NotBefore > int64(MaxLifetime/time.Second) {
		return Task{}, refuse(BadClaims, "it is valid for no time, or for more than %v", MaxLifetime)
	}
	if t.Worker != worker {
		return Task{}, refuse(WrongAudience, "it is for worker %q, and this is %q", t.Worker, worker)
	}
	if over := now.Sub(t.Expires); over >= Skew {
		return Task{}, refuse(Expired, "%v ago", over.Truncate(time.Second))
	}
	if early := time.Unix(c.NotBefore, 0).Sub(now); early > Skew {
		return Task{}, refuse(NotYetValid, "for another %v: is a clock wrong?", early.Truncate(time.Second))
	}
	return t, nil
}
