package s3store

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"golang.org/x/sync/errgroup"

	"hpcc.dev/hpcc/internal/store"
)

// List asks for a page at a time, and for no more than is visited. Keys that are no
// objects' names are passed over: others' files, and what consoles make of folders.
func (s *Store) List(ctx context.Context, prefix string, visit func(store.Info) error) error {
	// A name's beginning is a name, or one that lacks its end.
	if prefix != "" && store.CheckName(prefix) != nil && store.CheckName(prefix+"0") != nil {
		return fmt.Errorf("%w: prefix %q", store.ErrName, prefix)
	}
	in := &s3.ListObjectsV2Input{
		Bucket: &s.opt.Bucket, Prefix: s.key(prefix),
		// Others' keys may be no XML.
		EncodingType: types.EncodingTypeUrl,
	}
	if s.opt.PageSize > 0 {
		in.MaxKeys = &s.opt.PageSize
	}
	last := ""
	for {
		var page *s3.ListObjectsV2Output
		err := s.do(ctx, func(c *s3.Client) (err error) {
			page, err = c.ListObjectsV2(ctx, in)
			return err
		})
		if err != nil {
			return err
		}
		if page.Name == nil && page.KeyCount == nil {
			return fmt.Errorf("%w: %s: what came is no listing", store.ErrUnavailable, s)
		}
		for _, o := range page.Contents {
			name, ok := s.name(aws.ToString(o.Key), page.EncodingType)
			if !ok || !strings.HasPrefix(name, prefix) {
				continue
			}
			if name <= last {
				return fmt.Errorf("%s: listed %q after %q: %w", s, name, last, errors.ErrUnsupported)
			}
			last = name
			i := store.Info{Name: name, Size: aws.ToInt64(o.Size), Version: store.Version(aws.ToString(o.ETag)), Modified: aws.ToTime(o.LastModified)}
			if err := visit(i); err != nil {
				return err
			}
		}
		if !aws.ToBool(page.IsTruncated) {
			return ctx.Err()
		}
		next := aws.ToString(page.NextContinuationToken)
		if next == "" || next == aws.ToString(in.ContinuationToken) {
			return fmt.Errorf("%w: %s: a page of a listing does not say where the next begins", store.ErrUnavailable, s)
		}
		in.ContinuationToken = &next
	}
}

// name is the name of a key as it is listed. A server that takes no notice of
// EncodingType lists keys as they are.
func (s *Store) name(key string, encoding types.EncodingType) (string, bool) {
	if encoding == types.EncodingTypeUrl {
		var err error
		if key, err = url.QueryUnescape(key); err != nil {
			return "", false
		}
	}
	name, ok := strings.CutPrefix(key, s.prefix)
	return name, ok && store.CheckName(name) == nil
}

const (
	// batch is how many objects S3 deletes by one request.
	batch = 1000
	// singly is how many are deleted at once where a server cannot delete several.
	singly = 16
)

// DeleteMany removes objects, up to a thousand by one request.
func (s *Store) DeleteMany(ctx context.Context, names []string) error {
	for _, name := range names {
		if err := s.mayWrite(name); err != nil {
			return err
		}
	}
	for len(names) > 0 {
		some := names[:min(len(names), batch)]
		names = names[len(some):]
		err := s.deleteBatch(ctx, some)
		if err != nil && !errors.Is(err, store.ErrDenied) && !errors.Is(err, store.ErrUnavailable) && ctx.Err() == nil {
			// Google's service cannot, and older ones demand another checksum.
			err = s.deleteSingly(ctx, some)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) deleteBatch(ctx context.Context, names []string) error {
	ids := make([]types.ObjectIdentifier, len(names))
	for i, name := range names {
		ids[i].Key = s.key(name)
	}
	return s.do(ctx, func(c *s3.Client) error {
		out, err := c.DeleteObjects(ctx, &s3.DeleteObjectsInput{Bucket: &s.opt.Bucket, Delete: &types.Delete{Objects: ids, Quiet: aws.Bool(true)}})
		if err != nil {
			return err
		}
		for _, e := range out.Errors {
			k, known := codes[aws.ToString(e.Code)]
			switch {
			case errors.Is(k.err, store.ErrNotFound):
			case known:
				return fmt.Errorf("%w: %s: %s", k.err, s, aws.ToString(e.Message))
			default:
				return fmt.Errorf("%s: delete %s: %s: %s", s, aws.ToString(e.Key), aws.ToString(e.Code), aws.ToString(e.Message))
			}
		}
		return nil
	})
}

func (s *Store) deleteSingly(ctx context.Context, names []string) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(singly)
	for _, name := range names {
		g.Go(func() error { return s.Delete(ctx, name) })
	}
	return g.Wait()
}
