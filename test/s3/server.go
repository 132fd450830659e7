//go:build linux

package s3

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// Kind is a make of server.
type Kind string

const (
	// Versity is versitygw over a directory: objects are files, whose ETags and
	// metadata lie in extended attributes.
	Versity Kind = "versitygw"
	// Minio is MinIO's server over one directory.
	Minio Kind = "minio"
)

// Region is what both servers call theirs.
const Region = "us-east-1"

// Server is a server that runs.
type Server struct {
	Kind Kind
	// Endpoint is "http://127.0.0.1:PORT".
	Endpoint             string
	AccessKey, SecretKey string
	// Dir is what the server keeps its objects in, a directory for each bucket.
	Dir string

	process *process
	buckets atomic.Int64
}

// Start starts a server of its own for a test, at whose end it is stopped.
func Start(t testing.TB, kind Kind) *Server {
	t.Helper()
	s, err := Launch(t.Context(), kind, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Stop()
		if t.Failed() {
			t.Logf("%s said:\n%s", kind, &s.process.said)
		}
	})
	return s
}

// Launch starts a server that keeps its objects below dir, and returns once it
// answers. It ends by Stop, or with this process.
func Launch(ctx context.Context, kind Kind, dir string) (_ *Server, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("s3: %s: %w", kind, err)
		}
	}()
	path, err := map[Kind]program{Versity: versitygw, Minio: minio}[kind].build(ctx)
	if err != nil {
		return nil, err
	}
	data := filepath.Join(dir, "data")
	if err := os.MkdirAll(data, 0o755); err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	s := &Server{Kind: kind, Endpoint: "http://" + address, AccessKey: "AKIAEXAMPLE", SecretKey: "example/secret+key", Dir: data}
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir}
	var cmd *exec.Cmd
	switch kind {
	case Versity:
		env = append(env, "ROOT_ACCESS_KEY="+s.AccessKey, "ROOT_SECRET_KEY="+s.SecretKey)
		cmd = exec.Command(path, "--quiet", "--keep-alive", "--region", Region, "--port", address, "posix", data)
	case Minio:
		env = append(env, "MINIO_ROOT_USER="+s.AccessKey, "MINIO_ROOT_PASSWORD="+s.SecretKey, "MINIO_REGION="+Region,
			"MINIO_BROWSER=off", "MINIO_UPDATE=off")
		cmd = exec.Command(path, "server", "--quiet", "--address", address, data)
	}
	if s.process, err = start(ctx, cmd, env, dir, address); err != nil {
		return nil, err
	}
	// One that listens may not serve yet.
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		err := s.Do(ctx, http.MethodGet, "/", nil, nil)
		if err == nil {
			return s, nil
		}
		if s.process.wait(ctx) != nil {
			s.Stop()
			return nil, fmt.Errorf("does not serve: %w\n%s", err, &s.process.said)
		}
	}
}

// Stop ends the server; its files stay.
func (s *Server) Stop() { s.process.stop() }

// Env is what a program's environment needs besides for the standard chain to find
// the server's credentials, and none of the machine's own.
func (s *Server) Env() []string {
	return []string{
		"AWS_ACCESS_KEY_ID=" + s.AccessKey,
		"AWS_SECRET_ACCESS_KEY=" + s.SecretKey,
		"AWS_SESSION_TOKEN=",
		"AWS_PROFILE=",
		"AWS_REGION=" + Region,
		"AWS_EC2_METADATA_DISABLED=true",
		"AWS_CONFIG_FILE=" + os.DevNull,
		"AWS_SHARED_CREDENTIALS_FILE=" + os.DevNull,
	}
}

// Setenv gives the test's own process what Env says.
func (s *Server) Setenv(t testing.TB) {
	t.Helper()
	for _, v := range s.Env() {
		for i := range v {
			if v[i] == '=' {
				t.Setenv(v[:i], v[i+1:])
				break
			}
		}
	}
}

// NewBucket makes an empty bucket and returns its name.
func (s *Server) NewBucket(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("bucket-%d", s.buckets.Add(1))
	if err := s.MakeBucket(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	return name
}

// MakeBucket makes a bucket.
func (s *Server) MakeBucket(ctx context.Context, name string) error {
	return s.Do(ctx, http.MethodPut, "/"+name, nil, nil)
}
