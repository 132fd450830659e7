package s3store_test

import (
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hpcc.dev/hpcc/internal/store"
	"hpcc.dev/hpcc/internal/store/s3store"
)

// TLS is the default, and a company's own authority is AWS's setting.
func TestPrivateAuthority(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { refuse(w, 404, "NoSuchKey") }))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	get := func() error {
		st, err := s3store.Open(t.Context(), s3store.Options{Bucket: "bucket", Endpoint: strings.TrimPrefix(s.URL, "https://"), PathStyle: true})
		if err != nil {
			t.Fatal(err)
		}
		defer st.Close()
		_, err = st.Get(t.Context(), "name", 1)
		return err
	}
	if err := get(); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an authority that is not known: %v", err)
	}
	bundle := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_CA_BUNDLE", bundle)
	if err := get(); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("one that is: %v", err)
	}
}

// Credentials come from AWS's chain: here a profile with a program of one's own, as
// companies have them. One that is written later counts.
func TestProfile(t *testing.T) {
	for _, k := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"} {
		t.Setenv(k, "")
		os.Unsetenv(k)
	}
	file := filepath.Join(t.TempDir(), "config")
	t.Setenv("AWS_CONFIG_FILE", file)
	var seen string
	st, _ := serve(t, s3store.Options{Profile: "ci"}, func(w http.ResponseWriter, r *http.Request) {
		seen = r.Header.Get("Authorization") + r.Header.Get("X-Amz-Security-Token")
		refuse(w, 404, "NoSuchKey")
	})
	profile := func(answer string) {
		t.Helper()
		text := "[profile ci]\nregion = eu-west-7\ncredential_process = echo '" + answer + "'\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := st.Get(t.Context(), "name", 1); !errors.Is(err, store.ErrDenied) || !strings.Contains(err.Error(), "ci") {
		t.Errorf("no profile: %v", err)
	}
	profile(`{"Version": 1, "AccessKeyId": "AKIAFROMPROCESS", "SecretAccessKey": "s", "SessionToken": "session"}`)
	if _, err := st.Get(t.Context(), "name", 1); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	for _, want := range []string{"AKIAFROMPROCESS/", "/eu-west-7/s3/", "session"} {
		if !strings.Contains(seen, want) {
			t.Errorf("%q lacks %q", seen, want)
		}
	}
	profile("no JSON")
	st, n := serve(t, s3store.Options{Profile: "ci"}, func(http.ResponseWriter, *http.Request) {})
	if _, err := st.Get(t.Context(), "name", 1); !errors.Is(err, store.ErrDenied) || n.Load() != 0 {
		t.Errorf("a program that fails: %v", err)
	}
}
