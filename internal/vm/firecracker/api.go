//go:build linux

package firecracker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// The API of Firecracker 1.12, as far as hpcc uses it
// (src/firecracker/swagger/firecracker.yaml of its sources).

type machineConfig struct {
	VCPUs     int  `json:"vcpu_count"`
	MemoryMiB int  `json:"mem_size_mib"`
	SMT       bool `json:"smt"`
}

type bootSource struct {
	Kernel   string `json:"kernel_image_path"`
	Initrd   string `json:"initrd_path"`
	BootArgs string `json:"boot_args"`
}

type drive struct {
	ID       string `json:"drive_id"`
	Path     string `json:"path_on_host"`
	Root     bool   `json:"is_root_device"`
	ReadOnly bool   `json:"is_read_only"`
}

type vsock struct {
	CID  uint32 `json:"guest_cid"`
	Path string `json:"uds_path"`
}

type action struct {
	Type string `json:"action_type"`
}

// config is the answer to GET /vm/config. What is a list of devices that no
// machine of hpcc has is kept as it is.
type config struct {
	Machine  machineConfig     `json:"machine-config"`
	Boot     bootSource        `json:"boot-source"`
	Drives   []drive           `json:"drives"`
	Vsock    *vsock            `json:"vsock"`
	Networks []json.RawMessage `json:"network-interfaces"`
	MMDS     json.RawMessage   `json:"mmds-config"`
}

// FaultError is the API's refusal of a request.
type FaultError struct {
	Request string // method and path
	Status  int    // of HTTP
	Message string // fault_message, the monitor's words, bounded
}

func (e *FaultError) Error() string {
	return fmt.Sprintf("firecracker refuses %s: %d %s", e.Request, e.Status, e.Message)
}

const (
	// maxBody bounds an answer; GET /vm/config has some 2 KB.
	maxBody = 64 << 10
	// callLimit bounds a call. The longest is InstanceStart, which loads the
	// kernel: milliseconds, and where all is emulated less than a second, but
	// half a minute has been seen.
	callLimit = time.Minute
)

// api talks to one monitor.
type api struct{ client *http.Client }

func newAPI(dial func(context.Context) (net.Conn, error)) *api {
	return &api{&http.Client{
		Timeout: callLimit,
		Transport: &http.Transport{
			DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
			MaxResponseHeaderBytes: 16 << 10,
			MaxConnsPerHost:        1,
			DisableCompression:     true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (a *api) close() { a.client.CloseIdleConnections() }

func (a *api) put(ctx context.Context, path string, body any) error {
	return a.call(ctx, http.MethodPut, path, body, nil)
}

// get fills answer.
func (a *api) get(ctx context.Context, path string, answer any) error {
	return a.call(ctx, http.MethodGet, path, nil, answer)
}

func (a *api) call(ctx context.Context, method, path string, body, answer any) error {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://firecracker"+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := a.client.Do(req)
	if err != nil {
		return fmt.Errorf("firecracker's API: %w", err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	switch {
	case err != nil:
		return fmt.Errorf("firecracker's API: %s %s: %w", method, path, err)
	case len(got) > maxBody:
		return fmt.Errorf("firecracker's API: %s %s: an answer of more than %d bytes", method, path, maxBody)
	case resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNoContent:
		var fault struct {
			Message string `json:"fault_message"`
		}
		if json.Unmarshal(got, &fault) != nil || fault.Message == "" {
			fault.Message = string(got)
		}
		return &FaultError{method + " " + path, resp.StatusCode, printable(fault.Message, 400)}
	case answer == nil:
		return nil
	}
	if err := json.Unmarshal(got, answer); err != nil {
		return fmt.Errorf("firecracker's API: %s %s: %w", method, path, err)
	}
	return nil
}
