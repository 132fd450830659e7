//go:build unix

package main

import (
	"strings"
	"testing"
	"time"
)

func env(set map[string]string) func(string) string {
	return func(name string) string { return set[name] }
}

func TestEndpoint(t *testing.T) {
	for text, want := range map[string]time.Duration{"": 10 * time.Minute, "0": 0, "60": time.Minute, "9223372036854775807": maxIdle} {
		path, idle, err := endpoint(env(map[string]string{"CRSH_IPC_ENDPOINT": "/s", "CRSH_IDLE_TIMEOUT": text}))
		if path != "/s" || idle != want || err != nil {
			t.Errorf("%q: %s, %v: %v", text, path, idle, err)
		}
	}
	for _, set := range []map[string]string{{}, {"CRSH_IPC_ENDPOINT": "/s", "CRSH_IDLE_TIMEOUT": "-1"}} {
		if _, _, err := endpoint(env(set)); err == nil {
			t.Errorf("%v is taken", set)
		}
	}
}

func TestPlace(t *testing.T) {
	tier, tenant, err := place(env(map[string]string{
		"CRSH_URL": "hpcc://bucket", "CRSH_NUM_ATTR": "3",
		"CRSH_ATTR_KEY_0": "path-style", "CRSH_ATTR_VALUE_0": "true",
		"CRSH_ATTR_KEY_1": "tenant", "CRSH_ATTR_VALUE_1": "red",
		"CRSH_ATTR_KEY_2": "read_timeout", "CRSH_ATTR_VALUE_2": "1s",
	}))
	if err != nil || tenant != "red" || tier.Bucket != "bucket" || !tier.PathStyle || tier.ReadTimeout != time.Second {
		t.Errorf("%+v, %s: %v", tier, tenant, err)
	}
	for url, want := range map[string]string{"hpcc:///mnt/share": "/mnt/share", "hpcc:/mnt/a%20b": "/mnt/a b", "file:///mnt/share": "/mnt/share"} {
		if tier, _, err := place(env(map[string]string{"CRSH_URL": url})); err != nil || tier.Dir != want {
			t.Errorf("%s: %+v: %v", url, tier, err)
		}
	}
	for _, c := range []struct {
		set  map[string]string
		want string
	}{
		{map[string]string{}, "url"},
		{map[string]string{"CRSH_URL": "hpcc://"}, "must be hpcc://BUCKET"},
		{map[string]string{"CRSH_URL": "hpcc://bucket/prefix"}, "@prefix"},
		{map[string]string{"CRSH_URL": "hpcc://me:SECRET@bucket"}, "must be"},
		{map[string]string{"CRSH_URL": "hpcc://me:SECRET@bucket:x y"}, "must be"},
		{map[string]string{"CRSH_URL": "http://h/"}, "must be s3://BUCKET or file:///DIRECTORY"},
		{map[string]string{"CRSH_URL": "hpcc://bucket", "CRSH_NUM_ATTR": "65"}, "CRSH_NUM_ATTR"},
		{map[string]string{"CRSH_URL": "hpcc://bucket", "CRSH_NUM_ATTR": "1", "CRSH_ATTR_KEY_0": "url"}, "not to be set"},
		{map[string]string{"CRSH_URL": "hpcc://bucket", "CRSH_NUM_ATTR": "1", "CRSH_ATTR_KEY_0": "tennant"}, "did you mean tenant?"},
	} {
		if _, _, err := place(env(c.set)); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%v: %v, want %q", c.set, err, c.want)
		}
	}
}
