//go:build linux && !lab

package firecracker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hpcc.dev/hpcc/internal/vm"
)

// What needs Firecracker itself is in lab_test.go.

// fakeMonitor serves an API on a Unix socket, as Firecracker does.
func fakeMonitor(t *testing.T, h http.HandlerFunc) *api {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	go s.Serve(l)
	a := newAPI(func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	})
	t.Cleanup(func() {
		a.close()
		s.Close()
	})
	return a
}

func TestAPI(t *testing.T) {
	var method, path, body, kind string
	a := fakeMonitor(t, func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		method, path, body, kind = r.Method, r.URL.Path, string(text), r.Header.Get("Content-Type")
		if r.Method == http.MethodGet {
			fmt.Fprint(w, `{"firecracker_version":"1.12.1","later":"more"}`)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	if err := a.put(t.Context(), "/drives/root", drive{"root", "/drive", false, true}); err != nil {
		t.Fatal(err)
	}
	// As firecracker.yaml names the fields.
	if want := `{"drive_id":"root","path_on_host":"/drive","is_root_device":false,"is_read_only":true}`; method != "PUT" || path != "/drives/root" || body != want || kind != "application/json" {
		t.Errorf("%s %s %s %s", method, path, body, kind)
	}
	var v struct {
		Version string `json:"firecracker_version"`
	}
	if err := a.get(t.Context(), "/version", &v); err != nil || v.Version != "1.12.1" || method != "GET" {
		t.Errorf("%+v, %v", v, err)
	}
}

// A monitor that was taken over answers as it likes.
func TestHostileAPI(t *testing.T) {
	fault := func(status int, text string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			fmt.Fprint(w, text)
		}
	}
	for _, c := range []struct {
		name string
		do   http.HandlerFunc
		want string
	}{
		{"a fault", fault(400, `{"fault_message":"The kernel file cannot be opened: No such file"}`), "firecracker refuses GET /vm/config: 400 The kernel file cannot be opened"},
		{"a fault for terminals", fault(400, `{"fault_message":"\u001b[2J\nroot#"}`), "400 ·[2J·root#"},
		{"a fault that is none", fault(500, "<html>\x1b"), "500 <html>·"},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://localhost:1/", http.StatusFound)
		}, "302"},
		{"no JSON", fault(200, "{"), "unexpected end of JSON"},
		{"other JSON", fault(200, `{"drives":7}`), "cannot unmarshal"},
		{"endless", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := io.WriteString(w, strings.Repeat(" ", 4096)); err != nil {
					return
				}
			}
		}, "more than 65536 bytes"},
		{"endless headers", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 1<<20))
		}, "server response headers exceeded"},
		{"silence", func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "deadline"},
		{"an end", func(w http.ResponseWriter, r *http.Request) {
			c, _, _ := w.(http.Hijacker).Hijack()
			c.Close()
		}, "EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			limit := time.Minute
			if c.name == "silence" {
				limit = 200 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			var got config
			err := fakeMonitor(t, c.do).get(ctx, "/vm/config", &got)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if err != nil && len(err.Error()) > 1000 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			var f *FaultError
			if is := errors.As(err, &f); is != strings.Contains(c.want, "00 ") && c.name != "a redirect" {
				t.Errorf("a fault: %v", is)
			}
		})
	}
}

// The answer of Firecracker 1.12.1, and what must not be in it.
func TestCheck(t *testing.T) {
	const answer = `{"balloon":null,
		"drives":[{"drive_id":"root","partuuid":null,"is_root_device":false,"cache_type":"Unsafe","is_read_only":true,"path_on_host":"/drive","rate_limiter":null,"io_engine":"Sync","socket":null}],
		"boot-source":{"kernel_image_path":"/vmlinux","initrd_path":"/initrd","boot_args":"args"},
		"cpu-config":null,"logger":null,
		"machine-config":{"vcpu_count":1,"mem_size_mib":256,"smt":false,"track_dirty_pages":false,"huge_pages":"None"},
		"metrics":null,"mmds-config":null,"network-interfaces":[],
		"vsock":{"guest_cid":3,"uds_path":"/v.sock"},"entropy":null}`
	want := config{
		Machine: machineConfig{VCPUs: 1, MemoryMiB: 256}, Boot: bootSource{"/vmlinux", "/initrd", "args"},
		Drives: []drive{{"root", "/drive", false, true}}, Vsock: &vsock{3, "/v.sock"},
	}
	for _, c := range []struct{ from, to, want string }{
		{"", "", ""},
		{`"network-interfaces":[]`, `"network-interfaces":[{"iface_id":"eth0"}]`, "1 network interfaces"},
		{`"mmds-config":null`, `"mmds-config":{"network_interfaces":["eth0"]}`, "metadata"},
		{`"is_read_only":true`, `"is_read_only":false`, "drives"},
		{`"drives":[{`, `"drives":[{"drive_id":"two"},{`, "drives"},
		{`"path_on_host":"/drive"`, `"path_on_host":"/other"`, "drives"},
		{`"vsock":{"guest_cid":3,"uds_path":"/v.sock"}`, `"vsock":null`, "vsock"},
		{`"guest_cid":3`, `"guest_cid":4`, "vsock"},
		{`"boot_args":"args"`, `"boot_args":"args rdinit=/bin/sh"`, "something else"},
		{`"vcpu_count":1`, `"vcpu_count":2`, "machine is"},
	} {
		text := strings.Replace(answer, c.from, c.to, 1)
		var got config
		if err := json.Unmarshal([]byte(text), &got); err != nil {
			t.Fatal(err)
		}
		nics, err := check(&got, &want)
		if len(nics) != 0 || (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.to, err, c.want)
		}
	}
}

func TestVersions(t *testing.T) {
	for v, ok := range map[string]bool{
		"1.12.0": true, "1.12.1": true, "1.13.0-dev": true, "1.99.0": true,
		"1.11.9": false, "0.25.0": false, "2.0.0": false, "": false, "1.12": false, "v1.12.1": false, "1.12.1\n": false, "1.12.\x1b[2J": false, "1.99999.0": false,
	} {
		err := checkVersion(v)
		var wrong *VersionError
		if (err == nil) != ok || err != nil && (!errors.As(err, &wrong) || strings.ContainsAny(err.Error(), "\x1b\n")) {
			t.Errorf("%q: %v", v, err)
		}
	}
}

func TestBootArgs(t *testing.T) {
	r := &Runtime{Config: Config{BootArgs: "console=ttyS0 rdinit=/init"}}
	hash := strings.Repeat("ab", 32)
	good := vm.Spec{Rootfs: vm.Rootfs{DataBlocks: 1000, RootHash: hash, Salt: "00ff"}, StoreBytes: 1 << 20}
	got, err := r.bootArgs(&good)
	want := `console=ttyS0 rdinit=/init hpcc.root=/dev/dm-0 hpcc.store=1048576 dm-mod.create="root,,,ro,0 8000 verity 1 /dev/vda /dev/vda 4096 4096 1000 1001 sha256 ` + hash + ` 00ff"`
	if err != nil || got != want {
		t.Errorf("%s\n%v", got, err)
	}
	for _, bad := range []vm.Rootfs{
		{DataBlocks: 0, RootHash: hash}, {DataBlocks: -1, RootHash: hash}, {DataBlocks: 1, RootHash: hash[:62]},
		{DataBlocks: 1, RootHash: hash[:60] + `" x`}, {DataBlocks: 1, RootHash: hash, Salt: `" rdinit=/bin/sh "`},
		{DataBlocks: 1, RootHash: hash, Salt: strings.Repeat("00", 257)},
	} {
		if got, err := r.bootArgs(&vm.Spec{Rootfs: bad}); err == nil {
			t.Errorf("%+v gives %s", bad, got)
		}
	}
	r.BootArgs = strings.Repeat("x", 2048)
	if _, err := r.bootArgs(&good); err == nil {
		t.Error("a line that the kernel cuts")
	}
}

func TestConsole(t *testing.T) {
	r, w := io.Pipe()
	c := readConsole(r)
	for i := range 10_000 {
		if _, err := fmt.Fprintf(c, "line %d \x1b[31m\xff\r\n\r\n", i); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := c.tail(2), "line 9998 ·[31m�\nline 9999 ·[31m�"; got != want {
		t.Errorf("%q", got)
	}
	if _, err := w.Write([]byte(strings.Repeat("y", 1<<20))); err != nil {
		t.Fatal(err)
	}
	w.Close()
	<-c.done
	if got := c.tail(100); len(got) != 200 || len(c.kept) > 2*consoleBytes {
		t.Errorf("%d bytes of %d kept", len(got), len(c.kept))
	}
}

func TestClone(t *testing.T) {
	from, to := filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "to")
	if err := os.WriteFile(from, []byte("image"), 0o400); err != nil {
		t.Fatal(err)
	}
	if err := Clone(to, from); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(to)
	info, _ := os.Stat(to)
	if err != nil || string(data) != "image" || info.Mode() != 0o644 {
		t.Errorf("%q, %v, %v", data, info.Mode(), err)
	}
	if err := Clone(to, from); !errors.Is(err, os.ErrExist) {
		t.Errorf("over a file: %v", err)
	}
	if err := Clone(filepath.Join(t.TempDir(), "x"), t.TempDir()); err == nil {
		t.Error("a directory is cloned")
	}
}
