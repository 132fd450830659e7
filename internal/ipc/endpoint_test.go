//go:build unix

package ipc

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func testEndpoint() *Endpoint {
	return &Endpoint{Port: 40123, Socket: "/run/user/1000/hpcc/sock", Pid: 4711, Token: bytes.Repeat([]byte{0xa5}, TokenSize), Version: "1.2"}
}

func TestPublishEndpoint(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "here")
	if _, err := ReadEndpoint(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before: %v, want fs.ErrNotExist", err)
	}
	for _, socket := range []string{"/plain", "", "/quo\"te/back\\slash/\n\x01", "/übung/\xff"} {
		want := testEndpoint()
		want.Socket = socket
		if err := PublishEndpoint(dir, want); err != nil {
			t.Fatal(err)
		}
		got, err := ReadEndpoint(dir)
		if err != nil || !reflect.DeepEqual(&got, want) {
			t.Errorf("socket %q: read %+v, %v; want %+v", socket, got, err, want)
		}
	}
	info, err := os.Stat(filepath.Join(dir, EndpointFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}

	if err := WithdrawEndpoint(dir, bytes.Repeat([]byte{1}, TokenSize)); err != nil {
		t.Error(err)
	}
	if _, err := ReadEndpoint(dir); err != nil {
		t.Errorf("another daemon's file was withdrawn: %v", err)
	}
	if err := WithdrawEndpoint(dir, testEndpoint().Token); err != nil {
		t.Error(err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestReadEndpointRefusesOthersFiles(t *testing.T) {
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o666} {
		dir := t.TempDir()
		PublishEndpoint(dir, testEndpoint())
		os.Chmod(filepath.Join(dir, EndpointFile), mode)
		if _, err := ReadEndpoint(dir); !errors.Is(err, ErrUnsafeEndpoint) {
			t.Errorf("mode %o: %v, want ErrUnsafeEndpoint", mode, err)
		}
	}
	if os.Getuid() == 0 { // only root can give a file away
		dir := t.TempDir()
		PublishEndpoint(dir, testEndpoint())
		os.Chown(filepath.Join(dir, EndpointFile), 65534, 65534)
		if _, err := ReadEndpoint(dir); !errors.Is(err, ErrUnsafeEndpoint) {
			t.Errorf("another owner: %v, want ErrUnsafeEndpoint", err)
		}
	}
	dir := t.TempDir()
	os.Mkdir(filepath.Join(dir, EndpointFile), 0o700)
	if _, err := ReadEndpoint(dir); !errors.Is(err, ErrUnsafeEndpoint) {
		t.Errorf("a directory: %v, want ErrUnsafeEndpoint", err)
	}
}

func TestParseEndpoint(t *testing.T) {
	token := strings.Repeat("0f", TokenSize)
	good := []string{
		`{"port":1,"pid":2,"auth_token":"` + token + `"}`,
		`{ "pid" : 2 , "socket" : "\/a\u00e9" , "auth_token":"` + strings.ToUpper(token) + `", "new":"x", "later":7 } ` + "\n",
	}
	for _, text := range good {
		if _, err := parseEndpoint([]byte(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if !json.Valid([]byte(text)) {
			t.Errorf("%s is not JSON", text)
		}
	}
	bad := []string{
		``, `{`, `{}`, `[]`, `{"port":1,"pid":2}`,
		`{"port":65536,"pid":2,"auth_token":"` + token + `"}`,
		`{"port":-1,"pid":2,"auth_token":"` + token + `"}`,
		`{"port":01,"pid":2,"auth_token":"` + token + `"}`,
		`{"port":1.5,"pid":2,"auth_token":"` + token + `"}`,
		`{"port":"1","pid":2,"auth_token":"` + token + `"}`,
		`{"port":1,"port":1,"pid":2,"auth_token":"` + token + `"}`,
		`{"port":1,"pid":0,"auth_token":"` + token + `"}`,
		`{"port":1,"pid":99999999999999999999,"auth_token":"` + token + `"}`,
		`{"port":1,"pid":2,"auth_token":"` + token[2:] + `"}`,
		`{"port":1,"pid":2,"auth_token":"zz` + token[2:] + `"}`,
		`{"port":1,"pid":2,"auth_token":5}`,
		`{"pid":2,"auth_token":"` + token + `"}`,
		`{"port":1,"pid":2,"auth_token":"` + token + `"} x`,
		`{"port":1,"pid":2,"auth_token":"` + token + `",}`,
		`{"port":1,"pid":2,"socket":"\ud800","auth_token":"` + token + `"}`,
		`{"port":1,"pid":2,"socket":"` + "\n" + `","auth_token":"` + token + `"}`,
		`{"port":1,"pid":2,"a":{},"auth_token":"` + token + `"}`,
		`{"port":1,"pid":2,"a":true,"auth_token":"` + token + `"}`,
	}
	for _, text := range bad {
		if e, err := parseEndpoint([]byte(text)); err == nil {
			t.Errorf("%s: accepted as %+v", text, e)
		}
	}
}

// What the reader accepts, encoding/json accepts too, with the same meaning.
func FuzzParseEndpoint(f *testing.F) {
	f.Add(testEndpoint().appendJSON(nil))
	f.Add([]byte(`{"port":1,"pid":2,"socket":"\u0041\\\"","auth_token":"` + strings.Repeat("0F", TokenSize) + `"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		e, err := parseEndpoint(text)
		if err != nil {
			return
		}
		var want struct {
			Port    int
			Socket  string
			Pid     int
			Version string
		}
		if bytes.ContainsFunc(text, func(r rune) bool { return r > 0x7e }) {
			return // paths may be what JSON may not
		}
		if err := json.Unmarshal(text, &want); err != nil {
			t.Fatalf("accepted %q, which is not JSON: %v", text, err)
		}
		// encoding/json takes "PORT" for port, so an unknown name may meet one.
		if bytes.Count(bytes.ToLower(text), []byte(`"port"`))+bytes.Count(bytes.ToLower(text), []byte(`\u`)) == 1 && e.Port != want.Port {
			t.Fatalf("%q: port %d, want %d", text, e.Port, want.Port)
		}
		again, err := parseEndpoint(e.appendJSON(nil))
		if err != nil || !reflect.DeepEqual(again, e) {
			t.Fatalf("%+v became %+v (%v)", e, again, err)
		}
	})
}

func TestConfigDir(t *testing.T) {
	if dir, err := ConfigDir(func(string) string { return "" }); err != ErrNoConfigDir {
		t.Errorf("empty environment: %q, %v", dir, err)
	}
	for _, key := range []string{"HPCC_CONFIG_DIR", "XDG_CONFIG_HOME", "HOME"} {
		t.Setenv(key, "")
	}
	t.Setenv("HOME", "/home/ada")
	for _, xdg := range []string{"", "/xdg", "relative"} {
		t.Setenv("XDG_CONFIG_HOME", xdg)
		want, err := os.UserConfigDir()
		if err != nil {
			want = "/home/ada/.config" // a relative one is an error there
		}
		if got, err := ConfigDir(os.Getenv); err != nil || got != filepath.Join(want, "hpcc") {
			t.Errorf("XDG_CONFIG_HOME=%q: %q, %v; want %q", xdg, got, err, want)
		}
	}
	t.Setenv("HPCC_CONFIG_DIR", "/given")
	if got, _ := ConfigDir(os.Getenv); got != "/given" {
		t.Errorf("HPCC_CONFIG_DIR is not heeded: %q", got)
	}
}

func TestTokenEqual(t *testing.T) {
	if !TokenEqual([]byte("abc"), []byte("abc")) || TokenEqual([]byte("abd"), []byte("abc")) ||
		TokenEqual([]byte("ab"), []byte("abc")) || TokenEqual(nil, nil) {
		t.Error("wrong answer")
	}
}
