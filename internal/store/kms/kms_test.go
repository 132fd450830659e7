package kms

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"hpcc.dev/hpcc/internal/store"
)

// fakeKMS answers the two calls as AWS does, over an AES key of its own; the
// encryption context is associated data.
type fakeKMS struct {
	t      *testing.T
	cipher cipher.AEAD
	server *httptest.Server

	mu sync.Mutex
	// fail, if set, is the type of error that is answered, with failStatus.
	fail       string
	failStatus int
	keyBytes   int
	calls      []string
}

func newFakeKMS(t *testing.T) *fakeKMS {
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeKMS{t: t, cipher: aead, keyBytes: 32}
	f.server = httptest.NewServer(f)
	t.Cleanup(f.server.Close)

	home := t.TempDir()
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "",
		"AWS_REGION": "", "AWS_DEFAULT_REGION": "", "AWS_PROFILE": "",
		"AWS_CONFIG_FILE":             filepath.Join(home, "config"),
		"AWS_SHARED_CREDENTIALS_FILE": filepath.Join(home, "credentials"),
		"AWS_EC2_METADATA_DISABLED":   "true",
		"AWS_MAX_ATTEMPTS":            "1",
	} {
		t.Setenv(name, value)
	}
	return f
}

func (f *fakeKMS) options() Options { return Options{Region: "test-1", Endpoint: f.server.URL} }

func (f *fakeKMS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if auth := r.Header.Get("Authorization"); !strings.Contains(auth, "Credential=AKIDEXAMPLE/") || !strings.Contains(auth, "/test-1/kms/aws4_request") {
		f.t.Errorf("signed as %q", auth)
	}
	target := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "TrentService.")
	f.calls = append(f.calls, target)
	refuse := func(status int, kind string) {
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]string{"__type": kind, "message": "no"})
	}
	if f.fail != "" {
		refuse(f.failStatus, f.fail)
		return
	}
	var in struct {
		KeyID             string `json:"KeyId"`
		KeySpec           string
		CiphertextBlob    []byte
		EncryptionContext map[string]string
	}
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = json.Unmarshal(body, &in)
	}
	if err != nil {
		f.t.Error(err)
	}
	context, _ := json.Marshal(in.EncryptionContext) // keys sorted
	out := map[string]any{"KeyId": "arn:aws:kms:test-1:1:key/x"}
	switch target {
	case "GenerateDataKeyWithoutPlaintext":
		if in.KeyID != "alias/cache" || in.KeySpec != "AES_256" {
			refuse(http.StatusBadRequest, "NotFoundException")
			return
		}
		key := make([]byte, f.keyBytes)
		_, _ = rand.Read(key)
		out["CiphertextBlob"] = f.cipher.Seal(nil, nil, key, context)
	case "Decrypt":
		key, err := f.cipher.Open(nil, nil, in.CiphertextBlob, context)
		if err != nil {
			refuse(http.StatusBadRequest, "InvalidCiphertextException")
			return
		}
		out["Plaintext"] = key
	default:
		f.t.Errorf("called %q", target)
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	_ = json.NewEncoder(w).Encode(out)
}

func TestCreateAndKey(t *testing.T) {
	f := newFakeKMS(t)
	file := filepath.Join(t.TempDir(), "cache.kms")
	if err := Create(t.Context(), file, "alias/cache", f.options()); err != nil {
		t.Fatal(err)
	}
	key, err := Key(t.Context(), file, f.options())
	if err != nil || len(key) != store.SealKeySize {
		t.Fatalf("%x, %v", key, err)
	}
	again, err := Key(t.Context(), file, f.options())
	if err != nil || string(again) != string(key) {
		t.Fatalf("another key the second time: %v", err)
	}
	text, err := os.ReadFile(file)
	if err != nil || strings.Contains(string(text), string(key)) {
		t.Errorf("the file: %q, %v", text, err)
	}
	if err := Create(t.Context(), file, "alias/cache", f.options()); !errors.Is(err, fs.ErrExist) {
		t.Errorf("made over a key: %v", err)
	}
	if now, _ := os.ReadFile(file); string(now) != string(text) {
		t.Error("the key was lost")
	}
}

func TestCreateFailsWithoutTrace(t *testing.T) {
	f := newFakeKMS(t)
	file := filepath.Join(t.TempDir(), "cache.kms")
	if err := Create(t.Context(), file, "alias/none", f.options()); !errors.Is(err, store.ErrDenied) {
		t.Errorf("an unknown key: %v", err)
	}
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left a file: %v", err)
	}
}

func TestKeyFailures(t *testing.T) {
	f := newFakeKMS(t)
	dir := t.TempDir()
	good := filepath.Join(dir, "good")
	if err := Create(t.Context(), good, "alias/cache", f.options()); err != nil {
		t.Fatal(err)
	}
	f.keyBytes = 16
	short := filepath.Join(dir, "short")
	if err := Create(t.Context(), short, "alias/cache", f.options()); err != nil {
		t.Fatal(err)
	}
	strange := filepath.Join(dir, "strange")
	if err := os.WriteFile(strange, []byte("c3RyYW5nZSBieXRlcyB0aGF0IEtNUyBuZXZlciBzYXc=\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, file, fail string
		status           int
		want             error
	}{
		{name: "16 bytes", file: short, want: store.ErrKeyFile},
		{name: "another's", file: strange, want: store.ErrKeyFile},
		{name: "refused", file: good, fail: "AccessDeniedException", status: 400, want: store.ErrDenied},
		{name: "disabled", file: good, fail: "DisabledException", status: 400, want: store.ErrDenied},
		{name: "too often", file: good, fail: "ThrottlingException", status: 400, want: store.ErrUnavailable},
		{name: "broken", file: good, fail: "KMSInternalException", status: 500, want: store.ErrUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.mu.Lock()
			f.fail, f.failStatus = c.fail, c.status
			f.mu.Unlock()
			key, err := Key(t.Context(), c.file, f.options())
			if !errors.Is(err, c.want) || key != nil {
				t.Errorf("%x, %v", key, err)
			}
		})
	}
	f.server.Close()
	if _, err := Key(t.Context(), good, f.options()); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("with nobody there: %v", err)
	}
	if _, err := Key(t.Context(), filepath.Join(dir, "none"), f.options()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func FuzzDecodeBlob(f *testing.F) {
	f.Add([]byte("c3RyYW5nZSBieXRlcyB0aGF0IEtNUyBuZXZlciBzYXc=\n"))
	f.Add([]byte(strings.Repeat("A", 2*maxBlob)))
	f.Fuzz(func(t *testing.T, text []byte) {
		blob, err := decodeBlob("file", text)
		if err == nil && (len(blob) == 0 || len(blob) > maxBlob) || err != nil && !errors.Is(err, store.ErrKeyFile) {
			t.Errorf("%d bytes, %v", len(blob), err)
		}
	})
}
