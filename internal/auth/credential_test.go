package auth

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestNames(t *testing.T) {
	for _, good := range []string{"a", "0", "acme", "acme-2", "a--b", "console", "com10", "com", strings.Repeat("a", MaxName)} {
		if err := CheckName(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{
		"", "-", "-a", "a-", "A", "a.b", ".", "..", "../a", "a/b", `a\b`, "a b", "a\n", "a\x00", "a_b", "ä", "ａ", "a\xff", "con", "aux", "com1", "lpt9",
		strings.Repeat("a", MaxName+1), strings.Repeat("x", 1<<20),
	} {
		if err := CheckName(bad); err == nil || len(err.Error()) > 400 {
			t.Errorf("%.80q: %v", bad, err)
		}
	}
	for _, good := range []string{"j", "jane@acme.example", "CI job 12", "Jané", strings.Repeat("s", MaxSubject)} {
		if err := CheckSubject(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", " a", "a ", "a\nb", "a\x1b[0m", "a\xff", "a\u202eb", "a\u2028", strings.Repeat("s", MaxSubject+1)} {
		if err := CheckSubject(bad); err == nil {
			t.Errorf("%q is a subject", bad)
		}
	}
	for _, bad := range []string{"", "gcc:12", testImage[1:], testImage + "0", strings.ToUpper(testImage), "sha256:" + strings.Repeat("g", 64), "sha512:" + testImage[7:]} {
		if err := CheckImage(bad); err == nil {
			t.Errorf("%q is an image", bad)
		}
	}
}

func TestNewCredential(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		c, hash := NewCredential()
		if err := CheckCredential(c); err != nil || len(c) != 48 || seen[c] {
			t.Fatalf("%q: %v", c, err)
		}
		seen[c] = true
		// What sha256sum says.
		sum := sha256.Sum256([]byte(c))
		if hash.String() != hex.EncodeToString(sum[:]) {
			t.Errorf("%s", hash)
		}
		if again, err := ParseCredentialHash(hash.String()); err != nil || again != hash {
			t.Errorf("%v, %v", again, err)
		}
	}
	c, hash := NewCredential()
	for _, bad := range []string{"", c, hash.String()[1:], hash.String() + "0", strings.ToUpper(hash.String()), "sha256:" + hash.String()} {
		if _, err := ParseCredentialHash(bad); err == nil && bad != strings.ToLower(bad) || err == nil && len(bad) != 64 {
			t.Errorf("%q is a hash", bad)
		} else if err != nil && strings.Contains(err.Error(), c[5:]) {
			t.Errorf("the error holds the credential: %v", err)
		}
	}
}

func TestAuthenticate(t *testing.T) {
	client, clientHash := NewCredential()
	second, secondHash := NewCredential()
	worker, workerHash := NewCredential()
	operator, operatorHash := NewCredential()
	nobody, _ := NewCredential()
	jane := Identity{Role: Client, Tenant: "acme", Subject: "jane", Images: []string{testImage}}
	list := []Credential{
		{clientHash, jane}, {secondHash, jane},
		{workerHash, Identity{Role: Worker, Subject: "w1"}},
		{operatorHash, Identity{Role: Operator, Subject: "ops"}},
	}
	c, err := NewCredentials(list)
	if err != nil {
		t.Fatal(err)
	}
	list[0].Identity.Tenant, list[0].Identity.Images[0] = "other", "other" // they are its own
	for shown, want := range map[string]string{client: "acme jane client", second: "acme jane client", worker: " w1 worker", operator: " ops operator"} {
		id, err := c.Authenticate(shown)
		if got := id.Tenant + " " + id.Subject + " " + string(id.Role); err != nil || got != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
	id, _ := c.Authenticate(client)
	if !id.MayUse(testImage) || id.MayUse("sha256:"+strings.Repeat("0", 64)) {
		t.Error("the images of a client are others")
	}
	id.Images[0] = "other"
	if id, _ = c.Authenticate(client); !id.MayUse(testImage) {
		t.Error("an answer can be changed by the one before")
	}
	if (Identity{Role: Worker}).MayUse(testImage) || !(Identity{Role: Client}).MayUse(testImage) {
		t.Error("who may use images")
	}
	for shown, want := range map[string]error{
		"": ErrNoCredential, nobody: ErrUnknownCredential,
		client[:len(client)-1]: ErrBadCredential, client + "A": ErrBadCredential, client + "\n": ErrBadCredential, " " + client: ErrBadCredential,
		"hpcc_" + strings.Repeat("A", 42) + "\n": ErrBadCredential, "hpcc_" + strings.Repeat("*", 43): ErrBadCredential,
		"HPCC_" + client[5:]: ErrBadCredential, clientHash.String(): ErrBadCredential, strings.Repeat("x", 1<<20): ErrBadCredential,
		"hpcc_" + strings.Repeat("A", 42) + "B": ErrBadCredential, // spare bits
	} {
		id, err := c.Authenticate(shown)
		if !errors.Is(err, want) || id.Role != "" {
			t.Errorf("%.60q: %+v, %v; want %v", shown, id, err, want)
		}
	}
	empty, err := NewCredentials(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := empty.Authenticate(client); !errors.Is(err, ErrUnknownCredential) {
		t.Errorf("%v", err)
	}
}

func TestBadCredentials(t *testing.T) {
	_, hash := NewCredential()
	good := Identity{Role: Client, Tenant: "acme", Subject: "jane"}
	for name, list := range map[string][]Credential{
		"no role":                {{hash, Identity{Tenant: "acme", Subject: "jane"}}},
		"unknown role":           {{hash, Identity{Role: "admin", Subject: "jane"}}},
		"client without tenant":  {{hash, Identity{Role: Client, Subject: "jane"}}},
		"client without subject": {{hash, Identity{Role: Client, Tenant: "acme"}}},
		"tenant of two":          {{hash, Identity{Role: Client, Tenant: "a/b", Subject: "jane"}}},
		"a tag":                  {{hash, Identity{Role: Client, Tenant: "acme", Subject: "jane", Images: []string{"gcc:12"}}}},
		"worker of a tenant":     {{hash, Identity{Role: Worker, Tenant: "acme", Subject: "w1"}}},
		"worker with images":     {{hash, Identity{Role: Worker, Subject: "w1", Images: []string{testImage}}}},
		"worker's name":          {{hash, Identity{Role: Worker, Subject: "w 1"}}},
		"nameless operator":      {{hash, Identity{Role: Operator}}},
		"no hash":                {{CredentialHash{}, good}},
		"twice":                  {{hash, good}, {hash, Identity{Role: Operator, Subject: "ops"}}},
		"too many":               slices.Repeat([]Credential{{hash, good}}, maxCredentials+1),
	} {
		if _, err := NewCredentials(list); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestBearer(t *testing.T) {
	for header, want := range map[string]string{
		"Bearer abc": "abc", "bearer abc": "abc", "BEARER abc": "abc", "": "", "abc": "", "Basic abc": "", "Bearer ": "", "Bearer": "",
	} {
		got, err := Bearer(header)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", header, got, err)
		}
	}
}

func BenchmarkAuthenticate(b *testing.B) {
	list := make([]Credential, maxCredentials)
	var shown string
	for i := range list {
		shown, list[i].Hash = NewCredential()
		list[i].Identity = Identity{Role: Client, Tenant: "acme", Subject: "jane"}
	}
	c, err := NewCredentials(list)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := c.Authenticate(shown); err != nil {
			b.Fatal(err)
		}
	}
}
