package s3store

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	smithy "github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"hpcc.dev/hpcc/internal/store"
)

// kind is what an error of the server means here, and what is to be done about it.
type kind struct {
	err  error
	hint string
}

const (
	hintClock   = "this machine's clock and the server's differ too much: set it, by NTP say"
	hintExpired = "the credentials have expired: log in again (aws sso login), or renew the session token"
	hintUnknown = "the server does not know these credentials: see aws configure list, AWS_PROFILE and the AWS_... variables"
	hintDenied  = "ask for s3:GetObject and s3:ListBucket, and to write for s3:PutObject and s3:DeleteObject (without s3:ListBucket an object that is absent looks denied)"
	hintRegion  = "set the bucket's region"
	hintBucket  = "create the bucket, correct its name, or set auto_create"
	hintKMS     = "ask for kms:Decrypt and kms:GenerateDataKey on the bucket's key"
)

// codes are what servers call errors.
var codes = map[string]kind{
	"NoSuchKey": {err: store.ErrNotFound},
	"NotFound":  {err: store.ErrNotFound}, // HEAD

	"PreconditionFailed":         {err: store.ErrConflict},
	"ConditionalRequestConflict": {err: store.ErrConflict},
	"OperationAborted":           {err: store.ErrConflict},

	"EntityTooLarge":           {err: store.ErrTooLarge},
	"MaxMessageLengthExceeded": {err: store.ErrTooLarge},

	"RequestTimeTooSkewed": {store.ErrDenied, hintClock},
	"RequestExpired":       {store.ErrDenied, hintClock},

	"ExpiredToken":          {store.ErrDenied, hintExpired},
	"ExpiredTokenException": {store.ErrDenied, hintExpired},
	"TokenRefreshRequired":  {store.ErrDenied, hintExpired},
	"InvalidToken":          {store.ErrDenied, hintExpired},
	"InvalidTokenId":        {store.ErrDenied, hintExpired},

	"InvalidAccessKeyId":    {store.ErrDenied, hintUnknown},
	"SignatureDoesNotMatch": {store.ErrDenied, hintUnknown},
	"InvalidSecurity":       {store.ErrDenied, hintUnknown},
	"XAdminUserNotFound":    {store.ErrDenied, hintUnknown}, // versitygw's, with status 404
	"AccessDenied":          {store.ErrDenied, hintDenied},

	"AuthorizationHeaderMalformed":       {store.ErrDenied, hintRegion},
	"PermanentRedirect":                  {store.ErrDenied, hintRegion},
	"TemporaryRedirect":                  {store.ErrUnavailable, ""},
	"IllegalLocationConstraintException": {store.ErrDenied, hintRegion},
	"NoSuchBucket":                       {store.ErrUnavailable, hintBucket},
	"KMS.DisabledException":              {store.ErrDenied, hintKMS},
	"KMS.NotFoundException":              {store.ErrDenied, hintKMS},

	"BadDigest":                   {err: store.ErrCorrupt},
	"InvalidDigest":               {err: store.ErrCorrupt},
	"IncompleteBody":              {err: store.ErrCorrupt},
	"XAmzContentSHA256Mismatch":   {err: store.ErrCorrupt},
	"XAmzContentChecksumMismatch": {err: store.ErrCorrupt},

	// Servers that keep objects as files.
	"KeyTooLongError":               {err: store.ErrName},
	"XMinioParentIsObject":          {err: store.ErrName},
	"XMinioObjectExistsAsDirectory": {err: store.ErrName},
	"XMinioInvalidObjectName":       {err: store.ErrName},
	"ObjectParentIsFile":            {err: store.ErrName},
	"ExistingObjectIsDirectory":     {err: store.ErrName},
	"DirectoryNotEmpty":             {err: store.ErrName},

	"NotImplemented": {err: errors.ErrUnsupported},
	"RequestTimeout": {err: store.ErrUnavailable},
}

// code is what the server called an error; "" if it did not answer.
func code(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

// status is the HTTP status of an error; 0 if there was no answer.
func status(err error) int {
	var res *smithyhttp.ResponseError
	if errors.As(err, &res) {
		return res.HTTPStatusCode()
	}
	return 0
}

// classify wraps an error in the one of package store that fits, and says what to do.
func (s *Store) classify(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil && errors.Is(err, errCredentials):
		return fmt.Errorf("%w while waiting for credentials", ctx.Err())
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, errCredentials):
		return fmt.Errorf("%w: %w; %s", store.ErrDenied, err, hintUnknown)
	}
	var ours bool
	for _, e := range []error{store.ErrNotFound, store.ErrConflict, store.ErrTooLarge, store.ErrReadOnly, store.ErrDenied, store.ErrUnavailable, store.ErrCorrupt, store.ErrName, errors.ErrUnsupported} {
		ours = ours || errors.Is(err, e)
	}
	if ours {
		return err
	}
	k := kindOf(err)
	text := err.Error()
	var api smithy.APIError
	if errors.As(err, &api) {
		text = api.ErrorCode()
		if m := api.ErrorMessage(); m != "" && m != text {
			text += ": " + m
		}
	}
	if k.hint != "" {
		text += "; " + k.hint
	}
	if k.err == nil {
		return fmt.Errorf("%s: %s", s, text)
	}
	return fmt.Errorf("%w: %s: %s", k.err, s, text)
}

// kindOf goes by the code, which says most, then by the status.
func kindOf(err error) kind {
	if k, ok := codes[code(err)]; ok {
		return k
	}
	switch n := status(err); {
	case n == 0:
		return kind{err: store.ErrUnavailable} // the network's
	case n == http.StatusNotFound && code(err) == http.StatusText(n):
		return kind{err: store.ErrNotFound} // there was no body
	case n == http.StatusPreconditionFailed, n == http.StatusConflict:
		return kind{err: store.ErrConflict}
	case n == http.StatusUnauthorized:
		return kind{store.ErrDenied, hintUnknown}
	case n == http.StatusForbidden:
		return kind{store.ErrDenied, hintDenied}
	case n == http.StatusRequestEntityTooLarge:
		return kind{err: store.ErrTooLarge}
	case n == http.StatusMovedPermanently, n == http.StatusTemporaryRedirect, n == http.StatusPermanentRedirect:
		return kind{store.ErrDenied, hintRegion}
	case n == http.StatusNotImplemented, n == http.StatusMethodNotAllowed:
		return kind{err: errors.ErrUnsupported}
	case n == http.StatusTooManyRequests, n == http.StatusRequestTimeout, n >= 500:
		return kind{err: store.ErrUnavailable}
	case n < 400:
		return kind{err: store.ErrUnavailable} // nothing that S3 says
	}
	return kind{}
}
