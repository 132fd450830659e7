package s3store_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/leaktest"
	"hpcc.dev/hpcc/internal/store"
	"hpcc.dev/hpcc/internal/store/s3store"
)

func TestMain(m *testing.M) {
	// None of this machine's credentials, and no looking for any.
	for k, v := range map[string]string{
		"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "",
		"AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "AWS_ENDPOINT_URL": "", "AWS_ENDPOINT_URL_S3": "",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
	} {
		os.Setenv(k, v)
	}
	os.Exit(leaktest.Run(m))
}

// serve returns a store of a server that answers by f, and counts requests.
func serve(t *testing.T, opt s3store.Options, f http.HandlerFunc) (*s3store.Store, *atomic.Int64) {
	t.Helper()
	n := new(atomic.Int64)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		w.Header().Set("ETag", `"1"`)
		f(w, r)
	}))
	t.Cleanup(s.Close)
	opt.Bucket, opt.Endpoint, opt.PathStyle = "bucket", s.URL, true
	st, err := s3store.Open(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st, n
}

// refuse answers as S3 does by an error.
func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	if code != "" {
		fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>the server's words</Message></Error>`, code)
	}
}

func TestErrors(t *testing.T) {
	for _, c := range []struct {
		status int
		code   string
		want   error
		hint   string
		tries  int64
	}{
		{404, "NoSuchKey", store.ErrNotFound, "", 1},
		{404, "", store.ErrNotFound, "", 1},
		{404, "XAdminUserNotFound", store.ErrDenied, "AWS_PROFILE", 1},
		{404, "NoSuchSomethingElse", nil, "NoSuchSomethingElse", 1},
		{404, "NoSuchBucket", store.ErrUnavailable, "create the bucket", 1},
		{403, "AccessDenied", store.ErrDenied, "s3:ListBucket", 1},
		{403, "", store.ErrDenied, "s3:GetObject", 1},
		{403, "RequestTimeTooSkewed", store.ErrDenied, "clock", 2},
		{403, "InvalidAccessKeyId", store.ErrDenied, "AWS_PROFILE", 1},
		{403, "SignatureDoesNotMatch", store.ErrDenied, "AWS_PROFILE", 1},
		{400, "ExpiredToken", store.ErrDenied, "aws sso login", 1},
		{400, "AuthorizationHeaderMalformed", store.ErrDenied, "region", 1},
		{301, "PermanentRedirect", store.ErrDenied, "region", 1},
		{401, "", store.ErrDenied, "AWS_PROFILE", 1},
		{409, "ConditionalRequestConflict", store.ErrConflict, "", 1},
		{412, "PreconditionFailed", store.ErrConflict, "", 1},
		{429, "", store.ErrUnavailable, "", 2},
		{503, "SlowDown", store.ErrUnavailable, "", 2},
		{500, "InternalError", store.ErrUnavailable, "", 2},
		{502, "", store.ErrUnavailable, "", 2},
		{501, "NotImplemented", errors.ErrUnsupported, "", 1},
		{400, "XMinioInvalidObjectName", store.ErrName, "", 1},
		{400, "SomethingElse", nil, "SomethingElse: the server's words", 1},
	} {
		t.Run(fmt.Sprint(c.status, c.code), func(t *testing.T) {
			st, n := serve(t, s3store.Options{}, func(w http.ResponseWriter, r *http.Request) {
				if c.code == "RequestTimeTooSkewed" { // the client corrects itself, and tries again
					w.Header().Set("Date", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
				}
				refuse(w, c.status, c.code)
			})
			_, err := st.Get(t.Context(), "name", 10)
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.hint) {
				t.Errorf("%v; want %v, %q", err, c.want, c.hint)
			}
			for _, other := range []error{store.ErrNotFound, store.ErrConflict, store.ErrDenied, store.ErrUnavailable, store.ErrTooLarge, store.ErrName, store.ErrCorrupt} {
				if other != c.want && errors.Is(err, other) { //nolint:errorlint // two sentinels
					t.Errorf("%v is %v as well", err, other)
				}
			}
			if got := n.Load(); got != c.tries {
				t.Errorf("%d requests; want %d", got, c.tries)
			}
		})
	}
}

// No answer at all, and answers that are not S3's.
func TestNoServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	nobody, err := s3store.Open(t.Context(), s3store.Options{Bucket: "b", Endpoint: "http://" + l.Addr().String(), PathStyle: true})
	if err != nil {
		t.Fatal(err)
	}
	defer nobody.Close()
	if _, err := nobody.Get(t.Context(), "name", 1); !errors.Is(err, store.ErrUnavailable) {
		t.Error(err)
	}
	if err := nobody.List(t.Context(), "", func(store.Info) error { return nil }); !errors.Is(err, store.ErrUnavailable) {
		t.Error(err)
	}
	st, n := serve(t, s3store.Options{}, func(w http.ResponseWriter, r *http.Request) {
		c, _, _ := http.NewResponseController(w).Hijack()
		c.Close()
	})
	if _, err := st.Put(t.Context(), "name", nil, store.Condition{}); !errors.Is(err, store.ErrUnavailable) || n.Load() != 2 {
		t.Errorf("%v after %d requests", err, n.Load())
	}
	st, _ = serve(t, s3store.Options{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Etag"] = nil
		io.WriteString(w, "<html>Please log in to the hotel's network</html>")
	})
	if err := st.List(t.Context(), "", func(store.Info) error { return nil }); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("a list of nothing: %v", err)
	}
	if _, err := st.Get(t.Context(), "name", 1000); !errors.Is(err, store.ErrUnavailable) {
		t.Error(err)
	}
	if _, err := st.Put(t.Context(), "name", nil, store.Condition{}); !errors.Is(err, store.ErrUnavailable) {
		t.Error(err)
	}
}

func TestCancelled(t *testing.T) {
	hang := make(chan struct{})
	st, _ := serve(t, s3store.Options{}, func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	})
	defer close(hang)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := st.Get(ctx, "name", 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// A server that sends without end is not listened to for longer than the limit.
func TestBodyIsBounded(t *testing.T) {
	for name, c := range map[string]struct {
		length, limit, atMost int64
	}{
		"said":              {length: store.MaxObject + 1, limit: 1 << 40, atMost: 16 << 20},
		"small limit, said": {length: 1 << 30, limit: 1000, atMost: 16 << 20},
		// Some is on the way that nobody reads.
		"unsaid": {length: -1, limit: 3 << 20, atMost: 19 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			var sent atomic.Int64
			ended := make(chan struct{})
			st, _ := serve(t, s3store.Options{}, func(w http.ResponseWriter, r *http.Request) {
				defer close(ended)
				if c.length >= 0 {
					w.Header().Set("Content-Length", fmt.Sprint(c.length))
				}
				chunk := make([]byte, 64<<10)
				for {
					n, err := w.Write(chunk)
					sent.Add(int64(n))
					if err != nil {
						return
					}
				}
			})
			if _, err := st.Get(t.Context(), "name", c.limit); !errors.Is(err, store.ErrTooLarge) {
				t.Error(err)
			}
			<-ended // since nobody listens any more
			if n := sent.Load(); n > c.atMost {
				t.Errorf("%d bytes were sent", n)
			}
		})
	}
}

// A server that says it will send a gigabyte and does not costs no gigabyte.
func TestBodyBreaksOff(t *testing.T) {
	st, n := serve(t, s3store.Options{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(1<<30))
		w.Write(make([]byte, 3<<20))
	})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := st.Get(t.Context(), "name", store.MaxObject); !errors.Is(err, store.ErrUnavailable) {
		t.Error(err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 64<<20 {
		t.Errorf("%d bytes of memory", got)
	}
	if n.Load() != 2 {
		t.Errorf("%d requests; want two", n.Load())
	}
}

func TestChecksum(t *testing.T) {
	const hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
	for sum, want := range map[string]error{
		"": nil, hello: nil, strings.ToUpper(hello): nil,
		strings.Replace(hello, "2cf", "2ce", 1): store.ErrCorrupt, "x": store.ErrCorrupt,
	} {
		st, _ := serve(t, s3store.Options{}, func(w http.ResponseWriter, r *http.Request) {
			if sum != "" {
				w.Header().Set("x-amz-meta-sha256", sum)
			}
			io.WriteString(w, "hello")
		})
		if o, err := st.Get(t.Context(), "name", 10); !errors.Is(err, want) || err == nil && string(o.Body) != "hello" {
			t.Errorf("%q: %q, %v; want %v", sum, o.Body, err, want)
		}
	}
}

// A server that takes no notice of conditions, or knows none, is told of before
// anything is written on one.
func TestConditionsUnsupported(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"no notice": func(w http.ResponseWriter, r *http.Request) {},
		"not implemented": func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("If-None-Match")+r.Header.Get("If-Match") != "" {
				refuse(w, 501, "NotImplemented")
			}
		},
		"no notice of versions": func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("If-None-Match") != "" {
				refuse(w, 412, "PreconditionFailed")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			var wrote atomic.Int64
			st, n := serve(t, s3store.Options{}, func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/name") {
					wrote.Add(1)
				}
				answer(w, r)
			})
			for _, when := range []store.Condition{{Absent: true}, {Version: `"1"`}} {
				if _, err := st.Put(t.Context(), "name", nil, when); !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "read-only") {
					t.Error(err)
				}
			}
			if wrote.Load() != 0 {
				t.Error("written all the same")
			}
			asked := n.Load()
			if _, err := st.Put(t.Context(), "name", nil, store.Condition{Absent: true}); err == nil || n.Load() != asked {
				t.Error("asked again")
			}
			if _, err := st.Put(t.Context(), "name", nil, store.Condition{}); err != nil || wrote.Load() != 1 {
				t.Errorf("without a condition: %v", err)
			}
		})
	}
}

// What a server answers for a while is not held against it.
func TestConditionsAreAskedAgain(t *testing.T) {
	var down atomic.Bool
	down.Store(true)
	st, n := serve(t, s3store.Options{}, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case down.Load():
			refuse(w, 503, "SlowDown")
		case !strings.HasSuffix(r.URL.Path, "/name"):
			refuse(w, 412, "PreconditionFailed")
		}
	})
	if _, err := st.Put(t.Context(), "name", nil, store.Condition{Absent: true}); !errors.Is(err, store.ErrUnavailable) {
		t.Error(err)
	}
	down.Store(false)
	n.Store(0)
	for range 3 {
		if _, err := st.Put(t.Context(), "name", nil, store.Condition{Absent: true}); err != nil {
			t.Error(err)
		}
	}
	if n.Load() != 2+3 {
		t.Errorf("%d requests; want 2, once, and one for each", n.Load())
	}
}

func TestReadOnly(t *testing.T) {
	st, n := serve(t, s3store.Options{ReadOnly: true, AutoCreate: true}, func(w http.ResponseWriter, r *http.Request) { refuse(w, 404, "NoSuchBucket") })
	_, err := st.Put(t.Context(), "name", nil, store.Condition{})
	for _, err := range []error{err, st.Touch(t.Context(), "name"), st.Delete(t.Context(), "name"), st.DeleteMany(t.Context(), []string{"name"})} {
		if !errors.Is(err, store.ErrReadOnly) {
			t.Error(err)
		}
	}
	if _, err := st.Get(t.Context(), "name", 1); !errors.Is(err, store.ErrUnavailable) || n.Load() != 1 {
		t.Errorf("%v, %d requests", err, n.Load())
	}
}

// A listing that does not end, goes back, or holds what is no object.
func TestHostileListing(t *testing.T) {
	page := func(next string, keys ...string) string {
		var b strings.Builder
		b.WriteString(`<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><Name>bucket</Name><EncodingType>url</EncodingType>`)
		for _, k := range keys {
			fmt.Fprintf(&b, "<Contents><Key>%s</Key><Size>1</Size></Contents>", k)
		}
		if next != "" {
			fmt.Fprintf(&b, "<IsTruncated>true</IsTruncated><NextContinuationToken>%s</NextContinuationToken>", next)
		}
		return b.String() + "</ListBucketResult>"
	}
	for name, c := range map[string]struct {
		page string
		want []string
		err  error
	}{
		"foreign":   {page("", "another/a", "cache", "cache/", "cache/.conditional-writes", "cache/A", "cache/a", "cache/a%00", "cache/a//b", "cache/b/", "cache/b%2Fc", "cache/%zz", "cachez"), []string{"a", "b/c"}, nil},
		"unescaped": {strings.Replace(page("", "cache/a%2Fb", "cache/b"), "<EncodingType>url</EncodingType>", "", 1), []string{"b"}, nil},
		"backwards": {page("", "cache/b", "cache/a"), []string{"b"}, errors.ErrUnsupported},
		"endless":   {page("1", "cache/a"), []string{"a"}, errors.ErrUnsupported},
		"stands":    {page("1"), nil, store.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			st, _ := serve(t, s3store.Options{}, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, c.page) })
			var got []string
			err := st.List(t.Context(), "", func(i store.Info) error {
				got = append(got, i.Name)
				return nil
			})
			if !errors.Is(err, c.err) || fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("%q, %v; want %q, %v", got, err, c.want, c.err)
			}
		})
	}
}

// Where a server cannot delete several objects at once, they are deleted one by one.
func TestDeleteSingly(t *testing.T) {
	var gone atomic.Int64
	st, _ := serve(t, s3store.Options{}, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			refuse(w, 400, "MissingContentMD5")
			return
		}
		gone.Add(1)
		w.WriteHeader(http.StatusNoContent)
	})
	var names []string
	for i := range 40 {
		names = append(names, fmt.Sprint("name", i))
	}
	if err := st.DeleteMany(t.Context(), names); err != nil || gone.Load() != 40 {
		t.Errorf("%v, %d", err, gone.Load())
	}
	st, n := serve(t, s3store.Options{}, func(w http.ResponseWriter, r *http.Request) { refuse(w, 403, "AccessDenied") })
	if err := st.DeleteMany(t.Context(), names); !errors.Is(err, store.ErrDenied) || n.Load() != 1 {
		t.Errorf("%v after %d requests", err, n.Load())
	}
	st, _ = serve(t, s3store.Options{}, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `<DeleteResult><Error><Key>cache/name1</Key><Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>`)
	})
	if err := st.DeleteMany(t.Context(), names); !errors.Is(err, store.ErrDenied) {
		t.Error(err)
	}
}

func TestAutoCreate(t *testing.T) {
	var made atomic.Bool
	var creations atomic.Int64
	answer := func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/bucket" && r.Method == http.MethodPut:
			creations.Add(1)
			if made.Swap(true) {
				refuse(w, 409, "BucketAlreadyOwnedByYou")
			}
		case !made.Load():
			refuse(w, 404, "NoSuchBucket")
		case r.Method == http.MethodGet:
			refuse(w, 404, "NoSuchKey")
		}
	}
	st, _ := serve(t, s3store.Options{}, answer)
	if _, err := st.Put(t.Context(), "name", nil, store.Condition{}); !errors.Is(err, store.ErrUnavailable) || creations.Load() != 0 {
		t.Errorf("%v, %d made", err, creations.Load())
	}
	st, _ = serve(t, s3store.Options{AutoCreate: true}, answer)
	if _, err := st.Get(t.Context(), "name", 1); !errors.Is(err, store.ErrNotFound) || creations.Load() != 1 {
		t.Errorf("%v, %d made", err, creations.Load())
	}
	if _, err := st.Put(t.Context(), "name", nil, store.Condition{}); err != nil || creations.Load() != 1 {
		t.Errorf("%v, %d made", err, creations.Load())
	}
}

// What is asked of the server to encrypt, in each request that writes.
func TestEncryption(t *testing.T) {
	var puts, copies atomic.Int64
	st, _ := serve(t, s3store.Options{SSE: "aws:kms", KMSKey: "alias/hpcc"}, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPut {
			w.Header().Set("Last-Modified", time.Unix(0, 0).UTC().Format(http.TimeFormat))
			return
		}
		if r.Header.Get("x-amz-server-side-encryption") != "aws:kms" || r.Header.Get("x-amz-server-side-encryption-aws-kms-key-id") != "alias/hpcc" {
			t.Errorf("%s: %v", r.URL, r.Header)
		}
		if r.Header.Get("x-amz-copy-source") != "" {
			copies.Add(1)
			io.WriteString(w, "<CopyObjectResult><LastModified>2026-01-01T00:00:00.000Z</LastModified></CopyObjectResult>")
		} else {
			puts.Add(1)
		}
	})
	if _, err := st.Put(t.Context(), "name", nil, store.Condition{}); err != nil {
		t.Error(err)
	}
	if err := st.Touch(t.Context(), "name"); err != nil {
		t.Error(err)
	}
	if puts.Load() != 1 || copies.Load() != 1 {
		t.Errorf("%d puts, %d copies", puts.Load(), copies.Load())
	}
}

func TestOptions(t *testing.T) {
	for _, opt := range []s3store.Options{
		{}, {Bucket: "a b"}, {Bucket: "b", Prefix: "a b/"}, {Bucket: "b", Prefix: "a//b"}, {Bucket: "b", Prefix: "ä"},
		{Bucket: "b", SSE: "rot13"}, {Bucket: "b", KMSKey: "k"}, {Bucket: "b", SSE: "AES256", KMSKey: "k"},
		{Bucket: "b", Endpoint: "ftp://host"}, {Bucket: "b", Endpoint: "http://"}, {Bucket: "b", Endpoint: "https://user:pass@host"},
		{Bucket: "b", PageSize: 1001}, {Bucket: "b", PageSize: -1},
	} {
		if _, err := s3store.Open(t.Context(), opt); err == nil {
			t.Errorf("%+v is taken", opt)
		}
	}
	for prefix, want := range map[string]string{"": "s3://b/cache", "/": "s3://b", "team": "s3://b/team", "/team/x/": "s3://b/team/x"} {
		st, err := s3store.Open(t.Context(), s3store.Options{Bucket: "b", Prefix: prefix, Endpoint: "minio.example:9000"})
		if err != nil || st.String() != want {
			t.Errorf("prefix %q: %v, %v; want %s", prefix, st, err, want)
		}
	}
}

func TestNoCredentials(t *testing.T) {
	for _, k := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
		t.Setenv(k, "")
		os.Unsetenv(k)
	}
	st, n := serve(t, s3store.Options{}, func(w http.ResponseWriter, r *http.Request) {})
	if _, err := st.Get(t.Context(), "name", 1); !errors.Is(err, store.ErrDenied) || !strings.Contains(err.Error(), "AWS_PROFILE") || n.Load() != 0 {
		t.Errorf("%v, %d requests", err, n.Load())
	}
	st, err := s3store.Open(t.Context(), s3store.Options{Bucket: "b", Profile: "nobody"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := st.Get(t.Context(), "name", 1); !errors.Is(err, store.ErrDenied) || !strings.Contains(err.Error(), "nobody") {
		t.Error(err)
	}
}

func BenchmarkOpen(b *testing.B) {
	for b.Loop() {
		if _, err := s3store.Open(b.Context(), s3store.Options{Bucket: "b"}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFirstCall is what making the client costs, and one request.
func BenchmarkFirstCall(b *testing.B) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { refuse(w, 404, "NoSuchKey") }))
	defer s.Close()
	for b.Loop() {
		st, err := s3store.Open(b.Context(), s3store.Options{Bucket: "b", Endpoint: s.URL, PathStyle: true})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := st.Get(b.Context(), "name", 1); !errors.Is(err, store.ErrNotFound) {
			b.Fatal(err)
		}
		st.Close()
	}
}

func BenchmarkGet(b *testing.B) {
	body := make([]byte, 100_000)
	sum := sha256.Sum256(body)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"1"`)
		w.Header().Set("x-amz-meta-sha256", hex.EncodeToString(sum[:]))
		w.Write(body)
	}))
	defer s.Close()
	st, err := s3store.Open(b.Context(), s3store.Options{Bucket: "b", Endpoint: s.URL, PathStyle: true})
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	for b.Loop() {
		if _, err := st.Get(b.Context(), "name", 1<<20); err != nil {
			b.Fatal(err)
		}
	}
}
