package shared

import (
	"errors"
	"fmt"
)

// Reason says why an object is not believed.
type Reason string

// The reasons, in the order in which they are looked for.
const (
	// ReasonDamaged: not an object of its kind, cut short, or it does not decode.
	ReasonDamaged Reason = "damaged"
	// ReasonVersion: a pack of a version of hpcc that this one does not know.
	ReasonVersion Reason = "version"
	// ReasonUnsigned: a pack without a signature.
	ReasonUnsigned Reason = "unsigned"
	// ReasonStranger: signed by a key that is not trusted.
	ReasonStranger Reason = "stranger"
	// ReasonRevoked: signed by a key whose trust was taken back.
	ReasonRevoked Reason = "revoked"
	// ReasonTampered: the bytes are not those that were signed, or not those that a
	// blob's name stands for.
	ReasonTampered Reason = "tampered"
	// ReasonMoved: rightly signed, for another key or another tenant.
	ReasonMoved Reason = "moved"
	// ReasonIncomplete: a blob that the result needs is not there.
	ReasonIncomplete Reason = "incomplete"
)

// RejectedError says that an object is not believed, and why.
type RejectedError struct {
	Reason Reason
	Detail string
}

func (e *RejectedError) Error() string {
	if e.Detail == "" {
		return string(e.Reason)
	}
	return string(e.Reason) + ": " + e.Detail
}

func reject(r Reason, format string, args ...any) error {
	return &RejectedError{r, fmt.Sprintf(format, args...)}
}

// reasonOf is the reason for which err rejects something, or "".
func reasonOf(err error) Reason {
	var e *RejectedError
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}
