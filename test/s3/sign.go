//go:build linux

package s3

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Do sends one signed request and reports an error unless the answer is a success.
// It is for what a test does behind the back of the client that it tests: path is
// "/BUCKET/NAME" of characters that need no escape, without a query.
func (s *Server) Do(ctx context.Context, method, path string, header map[string]string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, method, s.Endpoint+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	s.sign(req, body)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		return err
	}
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("s3: %s %s: %s: %s", method, path, res.Status, text)
	}
	return nil
}

// sign signs a request by AWS's Signature Version 4, in a header.
func (s *Server) sign(req *http.Request, body []byte) {
	now := time.Now().UTC()
	day := now.Format("20060102")
	sum := sha256.Sum256(body)
	req.Header.Set("X-Amz-Date", now.Format("20060102T150405Z"))
	req.Header.Set("X-Amz-Content-Sha256", hex.EncodeToString(sum[:]))
	signed := map[string]string{"host": req.URL.Host}
	for k := range req.Header {
		if k = strings.ToLower(k); strings.HasPrefix(k, "x-amz-") {
			signed[k] = strings.TrimSpace(req.Header.Get(k))
		}
	}
	names := slices.Sorted(maps.Keys(signed))
	var headers strings.Builder
	for _, k := range names {
		fmt.Fprintf(&headers, "%s:%s\n", k, signed[k])
	}
	canonical := strings.Join([]string{req.Method, req.URL.EscapedPath(), "", headers.String(), strings.Join(names, ";"), hex.EncodeToString(sum[:])}, "\n")
	hashed := sha256.Sum256([]byte(canonical))
	scope := day + "/" + Region + "/s3/aws4_request"
	text := strings.Join([]string{"AWS4-HMAC-SHA256", req.Header.Get("X-Amz-Date"), scope, hex.EncodeToString(hashed[:])}, "\n")
	key := []byte("AWS4" + s.SecretKey)
	for _, part := range []string{day, Region, "s3", "aws4_request", text} {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(part))
		key = mac.Sum(nil)
	}
	req.Header.Set("Authorization", fmt.Sprintf("AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%x",
		s.AccessKey, scope, strings.Join(names, ";"), key))
}
