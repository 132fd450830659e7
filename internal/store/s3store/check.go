package s3store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"hpcc.dev/hpcc/internal/store"
)

// Health is what Check found.
type Health struct {
	// Endpoint is what was asked: a URL, or AWS's region.
	Endpoint string `json:"endpoint"`
	// Credentials is where they came from: "EnvConfigCredentials", "SSOProvider".
	Credentials string `json:"credentials"`
	// Skew is how far the server's clock is ahead of this machine's. S3 takes
	// nothing that differs by more than 15 minutes.
	Skew time.Duration `json:"skew"`
	// Writable says that objects were may be put, and that conditions of it hold.
	Writable bool `json:"writable"`
}

// Check tells whether the bucket can be used, for people who ask: it is there, may be
// listed and read, and, unless it is only to be read, written to with conditions that
// hold. The error is the first of these that fails, and says what to do; Health has
// what was found so far.
func (s *Store) Check(ctx context.Context) (h Health, err error) {
	err = s.do(ctx, func(c *s3.Client) error {
		o := c.Options()
		if h.Endpoint = aws.ToString(o.BaseEndpoint); h.Endpoint == "" {
			h.Endpoint = o.Region
		}
		credentials, err := o.Credentials.Retrieve(ctx)
		if err != nil {
			return err
		}
		h.Credentials = credentials.Source
		out, err := c.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &s.opt.Bucket, Prefix: s.key(""), MaxKeys: aws.Int32(1)})
		if err != nil {
			return err
		}
		if at, ok := awsmiddleware.GetServerTime(out.ResultMetadata); ok {
			// The header has whole seconds.
			if skew := time.Until(at); skew.Abs() > 2*time.Second {
				h.Skew = skew.Round(time.Second)
			}
		}
		return nil
	})
	if err != nil {
		return h, err
	}
	// That an object is absent shows that objects may be read.
	if _, err := s.Get(ctx, "hpcc-check/"+strings.ToLower(rand.Text()), 0); err != nil && !errors.Is(err, store.ErrNotFound) {
		return h, err
	}
	if s.opt.ReadOnly {
		return h, nil
	}
	if err := s.tryConditions(ctx); err != nil {
		return h, err
	}
	h.Writable = true
	return h, nil
}

// checkConditions returns an error unless conditions of Put hold at this server. AWS
// is known to; of another one it is found out before the first such Put, for one that
// takes no notice would let writers tear what they share.
func (s *Store) checkConditions(ctx context.Context) error {
	select {
	case s.checking <- struct{}{}:
		defer func() { <-s.checking }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.conditions != nil {
		return *s.conditions
	}
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	if c.Options().BaseEndpoint != nil {
		err = s.tryConditions(ctx)
	}
	if err == nil || errors.Is(err, errors.ErrUnsupported) {
		s.conditions = &err
	}
	return err
}

// conditionsKey is an object that is put to find out whether conditions hold. It
// stays, so that the next client needs to write nothing: no object's name begins with
// a dot.
const conditionsKey = ".conditional-writes"

// tryConditions puts an object on conditions that do not hold.
func (s *Store) tryConditions(ctx context.Context) error {
	put := func(when store.Condition) error {
		return s.do(ctx, func(c *s3.Client) error {
			_, err := s.put(ctx, c, conditionsKey, []byte("hpcc tries here whether this server holds to conditions of writes.\n"), when)
			return err
		})
	}
	refused := func(header string, when store.Condition) error {
		switch err := put(when); {
		case errors.Is(err, store.ErrConflict):
			return nil
		case err == nil, errors.Is(err, errors.ErrUnsupported):
			return fmt.Errorf("%w: %s takes no notice of %s, so that clients would overwrite each other's objects; use a server that does, or set access to read-only", errors.ErrUnsupported, s, header)
		default:
			return err
		}
	}
	// The first client of all makes the object.
	if err := put(store.Condition{Absent: true}); err == nil || errors.Is(err, errors.ErrUnsupported) {
		if err := refused("If-None-Match", store.Condition{Absent: true}); err != nil {
			return err
		}
	} else if !errors.Is(err, store.ErrConflict) {
		return err
	}
	return refused("If-Match", store.Condition{Version: `"00000000000000000000000000000000"`})
}
