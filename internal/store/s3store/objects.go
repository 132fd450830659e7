package s3store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"hpcc.dev/hpcc/internal/store"
)

// sumKey is the metadata that holds a body's SHA-256, in hexadecimal.
const sumKey = "sha256"

// Get checks the body against its SHA-256, if it was put with one.
func (s *Store) Get(ctx context.Context, name string, limit int64) (o store.Object, err error) {
	if err := store.CheckName(name); err != nil {
		return store.Object{}, err
	}
	limit = max(0, min(limit, store.MaxObject))
	err = s.do(ctx, func(c *s3.Client) error {
		// The client tries requests again, but not what comes after the header.
		for try := 1; ; try++ {
			var broken bool
			o, broken, err = s.get(ctx, c, name, limit)
			if !broken || try == attempts || ctx.Err() != nil {
				return err
			}
		}
	})
	return o, err
}

// get reports whether the body broke off.
func (s *Store) get(ctx context.Context, c *s3.Client, name string, limit int64) (_ store.Object, broken bool, _ error) {
	out, err := c.GetObject(ctx, &s3.GetObjectInput{Bucket: &s.opt.Bucket, Key: s.key(name)})
	if err != nil {
		return store.Object{}, false, err
	}
	// What was not read is not waited for: the connection is closed.
	defer out.Body.Close()
	if aws.ToString(out.ETag) == "" {
		return store.Object{}, false, s.noAnswer()
	}
	size := int64(-1)
	if out.ContentLength != nil {
		size = *out.ContentLength
	}
	if size > limit {
		return store.Object{}, false, fmt.Errorf("%w: %s has %d bytes", store.ErrTooLarge, name, size)
	}
	body, err := readBody(progress{ctx, out.Body}, size, limit)
	switch {
	case errors.Is(err, store.ErrTooLarge):
		return store.Object{}, false, fmt.Errorf("%w: %s has more than %d bytes", err, name, limit)
	case err != nil:
		return store.Object{}, true, fmt.Errorf("%w: %s broke off: %w", store.ErrUnavailable, name, err)
	}
	if want, ok := out.Metadata[sumKey]; ok {
		if sum := sha256.Sum256(body); !strings.EqualFold(want, hex.EncodeToString(sum[:])) {
			return store.Object{}, false, fmt.Errorf("%w: %s has SHA-256 %x, and was put with %.64q", store.ErrCorrupt, name, sum, want)
		}
	}
	o := store.Object{Body: body, Version: store.Version(aws.ToString(out.ETag)), Modified: aws.ToTime(out.LastModified)}
	return o, false, nil
}

// progress tells a guard of what comes.
type progress struct {
	ctx context.Context //nolint:containedctx // for one body
	io.Reader
}

func (p progress) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	store.Progress(p.ctx, n)
	return n, err
}

// firstRead is how much memory a server's word for a size is worth before any of
// the body has come.
const firstRead = 1 << 20

// readBody reads a body of size bytes, or of an unknown size if that is negative. It
// reads one byte more than limit at most.
func readBody(r io.Reader, size, limit int64) ([]byte, error) {
	if size < 0 {
		body, err := io.ReadAll(io.LimitReader(r, limit+1))
		if err == nil && int64(len(body)) > limit {
			err = store.ErrTooLarge
		}
		return body, err
	}
	body := make([]byte, 0, min(size, firstRead))
	for {
		n, err := io.ReadFull(r, body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case errors.Is(err, io.EOF):
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		case int64(len(body)) == size:
			return body, nil
		}
		body = append(make([]byte, 0, min(size, 4*int64(len(body)))), body...)
	}
}

func (s *Store) Put(ctx context.Context, name string, body []byte, when store.Condition) (v store.Version, err error) {
	if err := s.mayWrite(name); err != nil {
		return "", err
	}
	if len(body) > store.MaxObject {
		return "", fmt.Errorf("%w: %s has %d bytes", store.ErrTooLarge, name, len(body))
	}
	if when != (store.Condition{}) {
		if err := s.checkConditions(ctx); err != nil {
			return "", err
		}
	}
	err = s.do(ctx, func(c *s3.Client) error {
		v, err = s.put(ctx, c, name, body, when)
		return err
	})
	return v, err
}

func (s *Store) put(ctx context.Context, c *s3.Client, name string, body []byte, when store.Condition) (store.Version, error) {
	sum := sha256.Sum256(body)
	in := &s3.PutObjectInput{
		Bucket: &s.opt.Bucket, Key: s.key(name),
		Body: bytes.NewReader(body), ContentLength: aws.Int64(int64(len(body))),
		ContentType:          aws.String("application/octet-stream"),
		Metadata:             map[string]string{sumKey: hex.EncodeToString(sum[:])},
		ServerSideEncryption: types.ServerSideEncryption(s.opt.SSE), SSEKMSKeyId: optional(s.opt.KMSKey),
		IfMatch: optional(string(when.Version)),
	}
	if when.Absent {
		in.IfNoneMatch = aws.String("*")
	}
	out, err := c.PutObject(ctx, in)
	if err != nil {
		// That there is no object at all is how S3 says that it is no longer that one.
		if when.Version != "" && status(err) == http.StatusNotFound && code(err) != "NoSuchBucket" {
			return "", fmt.Errorf("%w: %s is gone", store.ErrConflict, name)
		}
		return "", err
	}
	if aws.ToString(out.ETag) == "" {
		return "", s.noAnswer()
	}
	return store.Version(*out.ETag), nil
}

// noAnswer is the error of an answer without a version, which no server of S3 gives:
// of a network that wants its user to log in first, say.
func (s *Store) noAnswer() error {
	return fmt.Errorf("%w: %s: what answers does not speak S3: there is no ETag", store.ErrUnavailable, s)
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func (s *Store) mayWrite(name string) error {
	if err := store.CheckName(name); err != nil {
		return err
	}
	if s.opt.ReadOnly {
		return fmt.Errorf("%w: %s", store.ErrReadOnly, s)
	}
	return nil
}

func (s *Store) head(ctx context.Context, c *s3.Client, name string) (*s3.HeadObjectOutput, error) {
	return c.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.opt.Bucket, Key: s.key(name)})
}

// Stat cannot tell a bucket that is not there from an object that is not.
func (s *Store) Stat(ctx context.Context, name string) (i store.Info, err error) {
	if err := store.CheckName(name); err != nil {
		return store.Info{}, err
	}
	err = s.do(ctx, func(c *s3.Client) error {
		out, err := s.head(ctx, c, name)
		if err == nil {
			i = store.Info{Name: name, Size: aws.ToInt64(out.ContentLength), Version: store.Version(aws.ToString(out.ETag)), Modified: aws.ToTime(out.LastModified)}
		}
		return err
	})
	return i, err
}

// Touch copies an object onto itself, within the server. Where that does not make
// it younger (versitygw changes the metadata alone), it is put again.
func (s *Store) Touch(ctx context.Context, name string) error {
	if err := s.mayWrite(name); err != nil {
		return err
	}
	return s.do(ctx, func(c *s3.Client) error {
		out, err := s.head(ctx, c, name)
		if err != nil {
			return err
		}
		// A copy onto itself has to change something: the metadata, to what it is.
		copied, err := c.CopyObject(ctx, &s3.CopyObjectInput{
			Bucket: &s.opt.Bucket, Key: s.key(name),
			CopySource:           aws.String(url.PathEscape(s.opt.Bucket) + "/" + *s.key(name)),
			CopySourceIfMatch:    out.ETag,
			MetadataDirective:    types.MetadataDirectiveReplace,
			Metadata:             out.Metadata,
			ContentType:          out.ContentType,
			StorageClass:         out.StorageClass,
			ServerSideEncryption: types.ServerSideEncryption(s.opt.SSE), SSEKMSKeyId: optional(s.opt.KMSKey),
		})
		if err == nil {
			r := copied.CopyObjectResult
			if r == nil || r.LastModified == nil || r.LastModified.After(aws.ToTime(out.LastModified)) {
				return nil
			}
			err = s.again(ctx, c, name)
		}
		if errors.Is(s.classify(ctx, err), store.ErrConflict) {
			return nil // somebody has just put another
		}
		return err
	})
}

// again puts an object as it is.
func (s *Store) again(ctx context.Context, c *s3.Client, name string) error {
	o, _, err := s.get(ctx, c, name, store.MaxObject)
	if err == nil {
		_, err = s.put(ctx, c, name, o.Body, store.Condition{Version: o.Version})
	}
	return err
}

func (s *Store) Delete(ctx context.Context, name string) error {
	if err := s.mayWrite(name); err != nil {
		return err
	}
	err := s.do(ctx, func(c *s3.Client) error {
		_, err := c.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.opt.Bucket, Key: s.key(name)})
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}
