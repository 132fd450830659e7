package auth

import (
	"fmt"
	"time"
)

// What host and worker agree on about task tokens.
const (
	// Issuer is who signs task tokens.
	Issuer = "hpcc-scheduler"
	// tokenType is a token's typ, so that no JWT made for another purpose with
	// the same key passes for one (RFC 8725, 3.11).
	tokenType = "hpcc-task+jwt"

	// MaxLifetime bounds how long a token may be good for. Keys that no longer
	// sign are published for as long.
	MaxLifetime = time.Hour
	// Skew is how far clocks of scheduler and workers may be apart.
	Skew = 30 * time.Second

	// MaxToken bounds a token, in bytes. The longest that Sign makes has some
	// 2,000.
	MaxToken = 4096
	// MaxJWKS bounds a key set, in bytes: MaxKeys of them have some 5,000.
	MaxJWKS = 64 << 10
	// MaxKeys bounds the keys of a keyring and of a key set.
	MaxKeys = 32

	maxKeyID = 64
	maxID    = 64
)

// Task is what a task token says: Subject of Tenant may have compiles made in
// Image on Worker.
type Task struct {
	Tenant, Subject string
	// Image is the digest of a platform's manifest, sha256:HEX.
	Image string
	// Worker is the name of the only worker that takes the token.
	Worker string
	// Expires is when the token ends, in whole seconds.
	Expires time.Time
	// ID names the token in logs and audit rows. Sign makes a random one where
	// it is "".
	ID string
}

// claims is a token's payload (RFC 7519). Every one of them must be there.
type claims struct {
	Issuer    string `json:"iss"`
	Subject   string `json:"sub"`
	Audience  string `json:"aud"` // one worker, never a list
	Expires   int64  `json:"exp"`
	NotBefore int64  `json:"nbf"`
	IssuedAt  int64  `json:"iat"`
	ID        string `json:"jti"`
	Tenant    string `json:"tenant"`
	Image     string `json:"image"`
}

// check tells whether every name in a task is one.
func (t *Task) check() error {
	if err := CheckName(t.Tenant); err != nil {
		return fmt.Errorf("tenant: %w", err)
	}
	if err := CheckSubject(t.Subject); err != nil {
		return err
	}
	if err := CheckImage(t.Image); err != nil {
		return err
	}
	if err := CheckName(t.Worker); err != nil {
		return fmt.Errorf("worker: %w", err)
	}
	if t.ID == "" || len(t.ID) > maxID || CheckSubject(t.ID) != nil {
		return fmt.Errorf("the token's name is empty, longer than %d bytes, or not printable", maxID)
	}
	return nil
}

// Problem names what is wrong with a token. The names are stable: they stand in
// logs and metrics.
type Problem string

// The problems.
const (
	// TooLong: more than MaxToken bytes.
	TooLong Problem = "too-long"
	// Malformed: no JWT in compact form, or one with headers that task tokens
	// do not have.
	Malformed Problem = "malformed"
	// WrongAlgorithm: not EdDSA.
	WrongAlgorithm Problem = "wrong-algorithm"
	// WrongType: a JWT for another purpose.
	WrongType Problem = "wrong-type"
	// UnknownKey: no key of that name is known. A key set that was fetched
	// after the token was made would have it.
	UnknownKey Problem = "unknown-key"
	// WrongSignature: not signed with the key that it names, or changed since.
	WrongSignature Problem = "wrong-signature"
	// WrongIssuer: signed by somebody for something else.
	WrongIssuer Problem = "wrong-issuer"
	// WrongAudience: for another worker.
	WrongAudience Problem = "wrong-audience"
	// Expired, NotYetValid: by the clock here; see Skew.
	Expired     Problem = "expired"
	NotYetValid Problem = "not-yet-valid"
	// BadClaims: one is missing, is no such, or the lifetime is beyond
	// MaxLifetime.
	BadClaims Problem = "bad-claims"
)

// TokenError is why a token was not taken.
type TokenError struct {
	Problem Problem
	// Detail is for people, and may be "". It holds nothing of a token whose
	// signature was not found good.
	Detail string
}

func (e *TokenError) Error() string {
	s := "task token refused: " + string(e.Problem)
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}

func refuse(p Problem, format string, args ...any) *TokenError {
	return &TokenError{p, fmt.Sprintf(format, args...)}
}
