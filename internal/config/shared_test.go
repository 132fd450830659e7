package config

import (
	"reflect"
	"strings"
	"testing"
	"time"
)

const tiersText = `
signing_key_file = "/k"

[[cache.tiers]]
name = "near"
url = "file:///mnt/share/"
max_size = "5GB"
auto_create = true

[[cache.tiers]]
name = "central"
url = "s3://builds.example"
prefix = "hpcc/main/"
region = "eu-central-1"
endpoint = "http://127.0.0.1:7070"
profile = "p"
path_style = true
access = "read-only"
sse = "aws:kms"
kms_key = "alias/k"
encryption_key_file = "/e"
read_timeout = "500ms"
write_timeout = "1m"
list_timeout = "1m"
`

func TestTiers(t *testing.T) {
	want := []Tier{
		{
			Name: "near", url: "file:///mnt/share/", Dir: "/mnt/share", Prefix: "cache/", Access: ReadWrite, MaxSize: 5e9, AutoCreate: true,
			ReadTimeout: 2 * time.Second, WriteTimeout: 5 * time.Second, ListTimeout: 30 * time.Second,
		},
		{
			Name: "central", url: "s3://builds.example", Bucket: "builds.example", Prefix: "hpcc/main/", Region: "eu-central-1",
			Endpoint: "http://127.0.0.1:7070", Profile: "p", PathStyle: true, Access: ReadOnly, SSE: "aws:kms", KMSKey: "alias/k",
			EncryptionKeyFile: "/e", ReadTimeout: 500 * time.Millisecond, WriteTimeout: time.Minute, ListTimeout: time.Minute,
		},
	}
	check := func(s *Shared, all []Setting, table string) {
		t.Helper()
		if s.SigningKeyFile != "/k" || s.Trust != TrustAll || s.Memory != 64e6 || !s.Enabled() || !reflect.DeepEqual(s.Tiers, want) {
			t.Errorf("%+v", s)
		}
		for _, e := range all {
			if e.Key == table+".tiers[1].profile" && e.Value == "p" && strings.Contains(e.Origin, ".toml:") {
				return
			}
		}
		t.Errorf("%s.tiers[1].profile is not shown: %v", table, all)
	}
	c, err := loadText(t, "[cache]"+tiersText, nil)
	if err != nil {
		t.Fatal(err)
	}
	check(&c.Cache.Shared, c.Settings(), "cache")
	if !c.Reproducible.Enabled || c.Cache.Tenant != "default" {
		t.Errorf("%+v", c)
	}
	w, err := loadRole(t, "worker.toml", workerText+"[store]"+strings.ReplaceAll(tiersText, "cache.tiers", "store.tiers"), nil, LoadWorkerFrom)
	if err != nil {
		t.Fatal(err)
	}
	check(&w.Store.Shared, w.Settings(), "store")
	if w.Store.MaxSize != 20e9 {
		t.Errorf("%+v", w.Store)
	}
	if c, err = loadText(t, "[cache]"+tiersText+"[reproducible]\nenabled = false\n", nil); err != nil || c.Reproducible.Enabled {
		t.Errorf("a setting that is made is not followed: %v", err)
	}
	if c, err = loadText(t, "[cache]\nmemory = \"\"\n", nil); err != nil || c.Cache.Memory != 0 {
		t.Errorf("no memory: %v", err)
	}
}

func TestTierErrors(t *testing.T) {
	const one = "[[cache.tiers]]\nname = \"a\"\nurl = \"s3://bucket\"\n"
	const key = "[cache]\nsigning_key_file = \"/k\"\n"
	for _, tt := range []struct{ name, text, want string }{
		{"nobody is believed", one, "nobody is believed: name the public keys"},
		{"paranoid", "paranoid = true\n[remote]\nscheduler = \"s:1\"\nimage = \"" + image + "\"\n" + key + one, "each hit is a worker's and has a row"},
		{"no tenant", key + "tenant = \"\"\n" + one, "cache.tenant is empty"},
		{"tenant", "[cache]\ntenant = \"../x\"\n", "cache.tenant is ../x: must be 1 to 63"},
		{"hidden tenant", "[cache]\ntenant = \".x\"\n", "with a letter or a digit first"},
		{"misspelt", key + one + "acess = \"read-only\"\n", "client.toml:6: unknown key cache.tiers.acess: did you mean cache.tiers.access?"},
		{"no list", "[cache.tiers]\nname = \"a\"\n", "cache.tiers is a list of tables: write [[cache.tiers]] before each"},
		{"no name", key + "[[cache.tiers]]\nurl = \"s3://bucket\"\n", "client.toml:3: cache.tiers: name is missing"},
		{"no url", key + "[[cache.tiers]]\nname = \"a\"\n", "url is missing"},
		{"other url", key + "[[cache.tiers]]\nname = \"a\"\nurl = \"https://s3cret@x/y\"\n", "client.toml:5: cache.tiers.url: must be s3://BUCKET or file:///DIRECTORY"},
		{"password", key + "[[cache.tiers]]\nname = \"a\"\nurl = \"s3://k:s3cret@bucket\"\n", "credentials come from the AWS configuration"},
		{"password that is no URL", key + "[[cache.tiers]]\nname = \"a\"\nurl = \"s3://k:s3cret@bucket:x%\"\n", "must be s3://BUCKET"},
		{"password for the endpoint", key + one + "endpoint = \"http://k:s3cret@host\"\n", "endpoint: must be a URL"},
		{"path in the bucket", key + "[[cache.tiers]]\nname = \"a\"\nurl = \"s3://bucket/cache\"\n", "the rest of the path is prefix's"},
		{"bucket", key + "[[cache.tiers]]\nname = \"a\"\nurl = \"s3://B\"\n", "a bucket's name has 3 to 63"},
		{"relative directory", key + "[[cache.tiers]]\nname = \"a\"\nurl = \"file://share/x\"\n", "file:// is followed by an absolute path"},
		{"whole disk", key + "[[cache.tiers]]\nname = \"a\"\nurl = \"file:///x/..\"\n", "file:// is followed by an absolute path"},
		{"bucket's setting", key + "[[cache.tiers]]\nname = \"a\"\nurl = \"file:///x\"\nregion = \"r\"\n", "region is for s3:// only"},
		{"no prefix", key + one + "prefix = \"\"\n", "prefix is empty"},
		{"prefix", key + one + "prefix = \"/a/\"\n", "end in a slash"},
		{"prefix that climbs", key + one + "prefix = \"a/../\"\n", "must not have . or .."},
		{"key of no kms", key + one + "kms_key = \"k\"\n", `kms_key is set, and sse is not "aws:kms"`},
		{"kms without a file", key + one + "encryption_kms = true\n", "encryption_kms is set, and encryption_key_file is not"},
		{"sse", key + one + "sse = \"rot13\"\n", "must be one of"},
		{"access", key + one + "access = \"rw\"\n", "must be one of read-write, read-only"},
		{"time", key + one + "read_timeout = \"0s\"\n", "must be a time from 10ms to 1m"},
		{"two names", key + one + "[[cache.tiers]]\nname = \"a\"\nurl = \"s3://other\"\n", "two of cache.tiers have the name a"},
		{"one place", key + one + "[[cache.tiers]]\nname = \"b\"\nurl = \"s3://bucket\"\n", "cache.tiers a and b are one place"},
		{"trust", "[cache]\ntrust = \"me\"\n", "must be one of all, workers"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := loadText(t, tt.text, nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("error %q, want %q", err, tt.want)
			}
		})
	}
}
