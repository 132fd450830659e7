//go:build e2e && linux

package s3_test

import (
	"errors"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"hpcc.dev/hpcc/test/s3"
)

func each(t *testing.T, f func(t *testing.T, s *s3.Server)) {
	for _, kind := range []s3.Kind{s3.Versity, s3.Minio} {
		t.Run(string(kind), func(t *testing.T) { f(t, s3.Start(t, kind)) })
	}
}

func TestServersTakeOnlySignedRequests(t *testing.T) {
	each(t, func(t *testing.T, s *s3.Server) {
		bucket := s.NewBucket(t)
		path := "/" + bucket + "/name"
		if err := s.Do(t.Context(), http.MethodPut, path, nil, []byte("body")); err != nil {
			t.Fatal(err)
		}
		if err := s.Do(t.Context(), http.MethodGet, path, nil, nil); err != nil {
			t.Fatal(err)
		}
		s.SecretKey += "x"
		if err := s.Do(t.Context(), http.MethodGet, path, nil, nil); err == nil || !strings.Contains(err.Error(), "SignatureDoesNotMatch") {
			t.Errorf("a wrong key: %v", err)
		}
	})
}

func TestProxy(t *testing.T) {
	s := s3.Start(t, s3.Versity)
	p := s3.Toxic(t, s.Endpoint)
	get := func(timeout time.Duration) error {
		client := http.Client{Timeout: timeout, Transport: &http.Transport{DisableKeepAlives: true}}
		res, err := client.Get(p.Endpoint)
		if err == nil {
			res.Body.Close()
		}
		return err
	}
	isTimeout := func(err error) bool {
		var n net.Error
		return errors.As(err, &n) && n.Timeout()
	}
	const long, short = time.Minute, 200 * time.Millisecond
	if err := get(long); err != nil {
		t.Fatal(err)
	}
	p.Hang()
	if err := get(short); !isTimeout(err) {
		t.Errorf("hanging: %v", err)
	}
	p.Heal()
	p.Latency(long)
	if err := get(short); !isTimeout(err) {
		t.Errorf("slow: %v", err)
	}
	p.Heal()
	p.Reset()
	if err := get(long); err == nil || isTimeout(err) {
		t.Errorf("reset: %v", err)
	}
	p.Heal()
	p.LimitData(5)
	if err := get(long); err == nil || isTimeout(err) {
		t.Errorf("cut within the answer: %v", err)
	}
	p.Heal()
	p.Cut()
	if err := get(long); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("cut: %v", err)
	}
	p.Heal()
	p.Bandwidth(1000)
	if err := get(long); err != nil {
		t.Errorf("healed: %v", err)
	}
}
