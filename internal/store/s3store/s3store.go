// Package s3store keeps objects in a bucket of S3, or of a service that speaks its
// protocol (MinIO, versitygw, Cloudflare R2, Google Cloud Storage).
//
// Who a client is comes from AWS's standard chain (environment, shared files and
// profiles, SSO, web identity, processes, instance roles), and so do a private
// authority's certificates (AWS_CA_BUNDLE). hpcc stores no credentials.
//
// An object's SHA-256 is kept with it as metadata and checked when it is read. That
// finds damage, by a disk or a proxy; who may write to the bucket can write both.
//
// A request is tried twice at most, 20 to 60 ms apart: a connection that was
// kept open may have been closed by the other side, which only the next request
// finds out, and a server may ask for a second try. More would only make a build
// wait for what store.Guard gives up on anyway.
package s3store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go/logging"

	"hpcc.dev/hpcc/internal/store"
)

// Options name a bucket. What is "" is as AWS's configuration says.
type Options struct {
	Bucket string
	// Prefix is what the names of all objects begin with in the bucket; "" is
	// "cache/", and "/" is none. Nothing else in the bucket is read, listed or
	// deleted.
	Prefix  string
	Region  string
	Profile string
	// Endpoint is the URL of a service other than AWS's. Without a scheme it is
	// https; http is for a loopback or a network that is trusted.
	Endpoint string
	// PathStyle puts the bucket in the path instead of the host's name.
	PathStyle bool
	// ReadOnly makes all that changes anything store.ErrReadOnly.
	ReadOnly bool
	// AutoCreate makes the bucket where there is none.
	AutoCreate bool
	// SSE is how the server encrypts: "", "AES256", "aws:kms" or "aws:kms:dsse"; and
	// KMSKey is the key's ID for the latter two, "" being the account's own.
	SSE, KMSKey string
	// PageSize is how many objects are listed by one request; 0 is 1000, the most
	// that S3 lists.
	PageSize int32
}

// DefaultPrefix is what objects' names begin with in a bucket.
const DefaultPrefix = "cache/"

const (
	// attempts at a request, the first included.
	attempts = 2
	// backoff is the shortest wait between them; what chance adds is twice as long.
	backoff = 20 * time.Millisecond
	// idle is how many connections are kept open: as many as a build of 64 jobs
	// uses at once for reads, and some for writes.
	idle = 96
	// buffer of a connection, each way: most objects in a few system calls.
	buffer = 32 << 10
)

// Store is a bucket, or what of it begins with a prefix.
type Store struct {
	opt    Options
	prefix string

	// Reading AWS's configuration and making a client takes milliseconds, which a
	// program that starts need not wait for.
	mu     sync.Mutex
	client *s3.Client
	pool   *http.Transport
	closed bool

	creating chan struct{} // a token: who has it makes the bucket
	checking chan struct{} // ditto: who has it finds out whether conditions work
	// conditions is what was found out: nil while nothing was.
	conditions *error
}

// validPrefix is what a prefix may be: the beginning of a key that needs no escape.
var validPrefix = regexp.MustCompile(`^([A-Za-z0-9_.-]+/)*$`)

// Open returns the store. It does not ask the server, nor read AWS's configuration,
// before the first call does; what Options cannot be is an error here.
func Open(_ context.Context, opt Options) (*Store, error) {
	fail := func(format string, args ...any) (*Store, error) {
		return nil, fmt.Errorf("s3: "+format, args...)
	}
	if opt.Bucket == "" || strings.ContainsAny(opt.Bucket, " \t\r\n?#") {
		return fail("%q is not the name of a bucket", opt.Bucket)
	}
	prefix := cmp.Or(opt.Prefix, DefaultPrefix)
	prefix = strings.TrimLeft(prefix, "/")
	if prefix != "" && !strings.HasSuffix(prefix, "/") {
		prefix += "/"
	}
	if !validPrefix.MatchString(prefix) || len(prefix) > 256 {
		return fail("prefix %q: use letters, digits, and -._/", opt.Prefix)
	}
	switch {
	case opt.SSE == "" && opt.KMSKey != "":
		return fail(`a KMS key needs sse = "aws:kms"`)
	case opt.SSE == string(types.ServerSideEncryptionAes256) && opt.KMSKey != "":
		return fail("AES256 takes no KMS key")
	case opt.SSE != "" && opt.SSE != string(types.ServerSideEncryptionAes256) &&
		opt.SSE != string(types.ServerSideEncryptionAwsKms) && opt.SSE != string(types.ServerSideEncryptionAwsKmsDsse):
		return fail(`server-side encryption %q: use "AES256" or "aws:kms"`, opt.SSE)
	}
	if opt.PageSize < 0 || opt.PageSize > 1000 {
		return fail("pages of %d objects", opt.PageSize)
	}
	if opt.Endpoint != "" {
		if !strings.Contains(opt.Endpoint, "://") {
			opt.Endpoint = "https://" + opt.Endpoint
		}
		u, err := url.Parse(opt.Endpoint)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.User != nil {
			return fail("endpoint %q is not an http or https URL", opt.Endpoint)
		}
	}
	return &Store{opt: opt, prefix: prefix, creating: make(chan struct{}, 1), checking: make(chan struct{}, 1)}, nil
}

// String is "s3://BUCKET/PREFIX".
func (s *Store) String() string {
	return strings.TrimSuffix("s3://"+s.opt.Bucket+"/"+s.prefix, "/")
}

// Close closes connections that nobody uses.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.pool != nil {
		s.pool.CloseIdleConnections()
	}
	return nil
}

// connect returns the client. What fails is tried anew by the next call: somebody
// may have written the profile meanwhile.
func (s *Store) connect(ctx context.Context) (*s3.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("%w: closed", store.ErrUnavailable)
	}
	if s.client != nil {
		return s.client, nil
	}
	load := []func(*config.LoadOptions) error{
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
			t.MaxIdleConns, t.MaxIdleConnsPerHost = idle, idle
			t.MaxConnsPerHost = 0
			t.IdleConnTimeout = time.Minute
			t.ReadBufferSize, t.WriteBufferSize = buffer, buffer
		}).WithDialerOptions(func(d *net.Dialer) {
			d.Timeout = 10 * time.Second
		})),
		// It would write to stderr, which is the build's; what fails is in the error.
		config.WithLogger(logging.Nop{}),
		// Other services than AWS's know no checksums in trailers.
		config.WithRequestChecksumCalculation(aws.RequestChecksumCalculationWhenRequired),
		config.WithResponseChecksumValidation(aws.ResponseChecksumValidationWhenRequired),
	}
	if s.opt.Region != "" {
		load = append(load, config.WithRegion(s.opt.Region))
	}
	if s.opt.Profile != "" {
		load = append(load, config.WithSharedConfigProfile(s.opt.Profile))
	}
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, fmt.Errorf("%w: AWS's configuration: %w", store.ErrDenied, err)
	}
	// Any region does where there are none.
	cfg.Region = cmp.Or(cfg.Region, "us-east-1")
	if c, ok := cfg.HTTPClient.(*awshttp.BuildableClient); ok {
		s.pool = c.GetTransport()
		cfg.HTTPClient = &http.Client{
			Transport:     s.pool,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	s.client = s3.NewFromConfig(cfg, func(o *s3.Options) {
		o.Credentials = tagged{o.Credentials}
		o.UsePathStyle = s.opt.PathStyle
		if s.opt.Endpoint != "" {
			o.BaseEndpoint = &s.opt.Endpoint
		}
		// Not AWS_MAX_ATTEMPTS, which is meant for what can wait.
		o.RetryMaxAttempts = attempts
		o.Retryer = retry.NewStandard(func(o *retry.StandardOptions) {
			o.MaxAttempts = attempts
			o.Backoff = retry.BackoffDelayerFunc(func(int, error) (time.Duration, error) {
				return backoff + rand.N(2*backoff), nil
			})
			o.RateLimiter = ratelimit.None
		})
	})
	return s.client, nil
}

// errCredentials says that a request was not sent for want of credentials.
var errCredentials = errors.New("no credentials")

// tagged marks errors, which otherwise look as the network's.
type tagged struct{ aws.CredentialsProvider }

func (t tagged) Retrieve(ctx context.Context) (aws.Credentials, error) {
	if t.CredentialsProvider == nil {
		return aws.Credentials{}, errCredentials
	}
	c, err := t.CredentialsProvider.Retrieve(ctx)
	if err != nil {
		return c, fmt.Errorf("%w: %w", errCredentials, err)
	}
	return c, nil
}

// key is an object's name in the bucket.
func (s *Store) key(name string) *string { return aws.String(s.prefix + name) }

// do calls f with the client. Where the bucket may be made, it is made and f is
// called again.
func (s *Store) do(ctx context.Context, f func(c *s3.Client) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	c, err := s.connect(ctx)
	if err != nil {
		return err
	}
	err = f(c)
	if s.opt.AutoCreate && !s.opt.ReadOnly && code(err) == "NoSuchBucket" {
		if err := s.create(ctx, c); err != nil {
			return s.classify(ctx, err)
		}
		err = f(c)
	}
	return s.classify(ctx, err)
}

// create makes the bucket, once for all calls that want it at once.
func (s *Store) create(ctx context.Context, c *s3.Client) error {
	select {
	case s.creating <- struct{}{}:
		defer func() { <-s.creating }()
	case <-ctx.Done():
		return ctx.Err()
	}
	in := &s3.CreateBucketInput{Bucket: &s.opt.Bucket}
	if r := c.Options().Region; c.Options().BaseEndpoint == nil && r != "us-east-1" {
		in.CreateBucketConfiguration = &types.CreateBucketConfiguration{LocationConstraint: types.BucketLocationConstraint(r)}
	}
	_, err := c.CreateBucket(ctx, in)
	if code(err) == "BucketAlreadyOwnedByYou" {
		return nil
	}
	return err
}
