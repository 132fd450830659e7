package config

import (
	"strings"
	"testing"
	"time"
)

func TestParseTier(t *testing.T) {
	tier, tenant, err := ParseTier(map[string]string{"url": "s3://bucket", "endpoint": "http://127.0.0.1:7070", "path_style": "true", "read_timeout": "1s", "tenant": "payments"})
	if err != nil || tenant != "payments" || tier.Bucket != "bucket" || tier.Prefix != "cache/" || !tier.PathStyle || tier.ReadTimeout != time.Second || tier.WriteTimeout != 5*time.Second {
		t.Errorf("%+v, %q: %v", tier, tenant, err)
	}
	if tier, tenant, err := ParseTier(map[string]string{"url": "file:///mnt/share"}); err != nil || tenant != "default" || tier.Dir != "/mnt/share" {
		t.Errorf("%+v, %q: %v", tier, tenant, err)
	}
	for want, set := range map[string]map[string]string{
		"url":                                {},
		"did you mean endpoint?":             {"url": "s3://bucket", "endpiont": "http://h"},
		"unknown setting max_size":           {"url": "s3://bucket", "max_size": "1GB"},
		"must be s3://BUCKET":                {"url": "s3://user:SECRET@bucket"},
		"tenant must be":                     {"url": "s3://bucket", "tenant": "../other"},
		"tenant is empty":                    {"url": "s3://bucket", "tenant": ""},
		"profile is for s3:// only":          {"url": "file:///mnt/share", "profile": "p"},
		"path_style must be true":            {"url": "s3://bucket", "path_style": "SECRET"},
		"encryption_key_file must be an abs": {"url": "s3://bucket", "encryption_key_file": "key"},
	} {
		if _, _, err := ParseTier(set); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%v: %v, want %q", set, err, want)
		}
	}
}
