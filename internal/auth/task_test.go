package auth

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

const testImage = "sha256:4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"

func testTask() Task {
	return Task{Tenant: "acme", Subject: "jane@acme.example", Image: testImage, Worker: "w1", Expires: time.Now().Add(5 * time.Minute)}
}

// ring is a keyring of one key, and a verifier that knows it.
func ring(t testing.TB) (*Keyring, *Verifier) {
	t.Helper()
	k, err := OpenKeyring(t.TempDir(), KeyringOptions{})
	if err != nil {
		t.Fatal(err)
	}
	v := NewVerifier()
	if err := v.Update(k.JWKS()); err != nil {
		t.Fatal(err)
	}
	return k, v
}

func sign(t testing.TB, k *Keyring, task Task) string {
	t.Helper()
	token, err := k.Sign(task)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func problem(err error) Problem {
	var e *TokenError
	if errors.As(err, &e) {
		return e.Problem
	}
	return Problem(fmt.Sprint(err))
}

func TestToken(t *testing.T) {
	k, v := ring(t)
	want := testTask()
	token := sign(t, k, want)
	got, err := v.Verify(token, "w1")
	if err != nil {
		t.Fatal(err)
	}
	if got.ID == "" || !got.Expires.Equal(want.Expires.Truncate(time.Second)) {
		t.Errorf("%+v", got)
	}
	got.ID, got.Expires = want.ID, want.Expires
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	other, err := v.Verify(sign(t, k, want), "w1")
	if again, _ := v.Verify(token, "w1"); err != nil || other.ID == again.ID {
		t.Errorf("two tokens of one name, %v", err)
	}
	want.ID = "mine"
	if got, err := v.Verify(sign(t, k, want), "w1"); err != nil || got.ID != "mine" {
		t.Errorf("%+v, %v", got, err)
	}
}

// What is signed is what RFC 7515 says, checked without any library for it.
func TestTokenByHand(t *testing.T) {
	k, _ := ring(t)
	parts := strings.Split(sign(t, k, testTask()), ".")
	if len(parts) != 3 {
		t.Fatalf("%d parts", len(parts))
	}
	decode := func(s string) []byte {
		b, err := base64.RawURLEncoding.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var set struct {
		Keys []map[string]string `json:"keys"`
	}
	if err := json.Unmarshal(k.JWKS(), &set); err != nil || len(set.Keys) != 1 {
		t.Fatalf("%v, %v", set, err)
	}
	key := set.Keys[0]
	if key["kty"] != "OKP" || key["crv"] != "Ed25519" || key["use"] != "sig" || key["alg"] != "EdDSA" || len(key) != 6 {
		t.Errorf("key %v", key)
	}
	if !ed25519.Verify(decode(key["x"]), []byte(parts[0]+"."+parts[1]), decode(parts[2])) {
		t.Error("the signature is wrong")
	}
	var header map[string]string
	if err := json.Unmarshal(decode(parts[0]), &header); err != nil || len(header) != 3 || header["alg"] != "EdDSA" || header["kid"] != key["kid"] || header["typ"] != "hpcc-task+jwt" {
		t.Errorf("header %v, %v", header, err)
	}
	var claims map[string]any
	if err := json.Unmarshal(decode(parts[1]), &claims); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{"iss": "hpcc-scheduler", "aud": "w1", "sub": "jane@acme.example", "tenant": "acme", "image": testImage} {
		if claims[name] != want {
			t.Errorf("%s is %v, want %v", name, claims[name], want)
		}
	}
	for _, name := range []string{"exp", "nbf", "iat", "jti"} {
		if claims[name] == nil {
			t.Errorf("no %s", name)
		}
	}
}

// forger makes tokens with a keyring's own key, or with others.
type forger struct {
	id      string
	private ed25519.PrivateKey
}

func (f forger) header(changes map[string]any) map[string]any {
	return changed(map[string]any{"alg": "EdDSA", "kid": f.id, "typ": tokenType}, changes)
}

func (f forger) claims(changes map[string]any) map[string]any {
	now := time.Now().Unix()
	return changed(map[string]any{
		"iss": Issuer, "sub": "jane", "aud": "w1", "exp": now + 300, "nbf": now, "iat": now, "jti": "1", "tenant": "acme", "image": testImage,
	}, changes)
}

// changed applies changes; a nil value removes.
func changed(m, changes map[string]any) map[string]any {
	for name, value := range changes {
		if m[name] = value; value == nil {
			delete(m, name)
		}
	}
	return m
}

func encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func (f forger) token(header, claims any) string {
	input := encode(header) + "." + encode(claims)
	return input + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(f.private, []byte(input)))
}

func newForger() forger {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		panic(err)
	}
	return forger{thumbprint(public), private}
}

func (f forger) jwks() []byte {
	return encodeJWKS([]string{f.id}, []ed25519.PublicKey{f.private.Public().(ed25519.PublicKey)})
}

func TestHostileTokens(t *testing.T) {
	f, stranger := newForger(), newForger()
	v := NewVerifier()
	if err := v.Update(f.jwks()); err != nil {
		t.Fatal(err)
	}
	good := f.token(f.header(nil), f.claims(nil))
	if _, err := v.Verify(good, "w1"); err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(good, ".")
	public := f.private.Public().(ed25519.PublicKey)
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	hs256 := func(secret []byte) string {
		input := encode(f.header(map[string]any{"alg": "HS256"})) + "." + parts[1]
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(input))
		return input + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	}
	header := func(changes map[string]any) string { return f.token(f.header(changes), f.claims(nil)) }
	claim := func(name string, value any) string {
		return f.token(f.header(nil), f.claims(map[string]any{name: value}))
	}
	now := time.Now().Unix()
	flip := func(part int) string {
		p := bytes.Split([]byte(good), []byte("."))
		if p[part][10] == 'A' {
			p[part][10] = 'B'
		} else {
			p[part][10] = 'A'
		}
		return string(bytes.Join(p, []byte(".")))
	}
	strangerJWK := map[string]any{"kty": "OKP", "crv": "Ed25519", "x": base64.RawURLEncoding.EncodeToString(stranger.private.Public().(ed25519.PublicKey))}
	for _, c := range []struct {
		name, token string
		want        Problem
	}{
		{"nothing", "", Malformed},
		{"no JWT", "hpcc_" + strings.Repeat("A", 43), Malformed},
		{"two parts", parts[0] + "." + parts[1], Malformed},
		{"four parts", good + ".", Malformed},
		{"spaces", " " + good, Malformed},
		{"a line's end", good + "\n", Malformed},
		{"padding", good + "=", Malformed},
		{"JSON serialisation", `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`, Malformed},
		{"too long", good + strings.Repeat("A", MaxToken), TooLong},
		{"a header that is none", "e30x." + parts[1] + "." + parts[2], Malformed},
		{"no algorithm", header(map[string]any{"alg": nil}), WrongAlgorithm},
		{"alg none", encode(f.header(map[string]any{"alg": "none"})) + "." + parts[1] + ".", WrongAlgorithm},
		{"alg None, signed", header(map[string]any{"alg": "None"}), WrongAlgorithm},
		{"alg eddsa", header(map[string]any{"alg": "eddsa"}), WrongAlgorithm},
		{"HS256 with the public key", hs256(public), WrongAlgorithm},
		{"HS256 with the public key in DER", hs256(spki), WrongAlgorithm},
		{"HS256 with the public key in base64", hs256([]byte(base64.RawURLEncoding.EncodeToString(public))), WrongAlgorithm},
		{"ES256", header(map[string]any{"alg": "ES256"}), WrongAlgorithm},
		{"no type", header(map[string]any{"typ": nil}), WrongType},
		{"another type", header(map[string]any{"typ": "JWT"}), WrongType},
		{"a type that is no string", header(map[string]any{"typ": []string{tokenType}}), WrongType},
		{"no key", header(map[string]any{"kid": nil}), UnknownKey},
		{"a key that nobody has", header(map[string]any{"kid": "x"}), UnknownKey},
		{"a stranger's key", stranger.token(stranger.header(nil), stranger.claims(nil)), UnknownKey},
		{"a stranger's signature", stranger.token(f.header(nil), f.claims(nil)), WrongSignature},
		{"a stranger's key within", stranger.token(f.header(map[string]any{"jwk": strangerJWK}), f.claims(nil)), Malformed},
		{"the address of a key", header(map[string]any{"jku": "https://example.com/keys"}), Malformed},
		{"payload not encoded", header(map[string]any{"b64": false, "crit": []string{"b64"}}), Malformed},
		{"something critical", header(map[string]any{"crit": []string{"x"}, "x": 1}), Malformed},
		{"no signature", parts[0] + "." + parts[1] + ".", WrongSignature},
		{"half a signature", good[:len(good)-42], WrongSignature},
		{"another payload", parts[0] + "." + encode(f.claims(map[string]any{"tenant": "other"})) + "." + parts[2], WrongSignature},
		{"a payload flipped", flip(1), WrongSignature},
		{"a signature flipped", flip(2), WrongSignature},
		{"no claims", f.token(f.header(nil), []int{1}), BadClaims},
		{"no issuer", claim("iss", nil), WrongIssuer},
		{"another issuer", claim("iss", "https://login.example.com"), WrongIssuer},
		{"no audience", claim("aud", nil), BadClaims},
		{"another audience", claim("aud", "w2"), WrongAudience},
		{"several audiences", claim("aud", []string{"w1", "w2"}), BadClaims},
		{"no subject", claim("sub", nil), BadClaims},
		{"a subject of escapes", claim("sub", "a\x1b[31m"), BadClaims},
		{"a subject too long", claim("sub", strings.Repeat("s", MaxSubject+1)), BadClaims},
		{"no tenant", claim("tenant", nil), BadClaims},
		{"tenant ..", claim("tenant", ".."), BadClaims},
		{"tenant a/b", claim("tenant", "a/b"), BadClaims},
		{"tenant A", claim("tenant", "A"), BadClaims},
		{"tenant -a", claim("tenant", "-a"), BadClaims},
		{"no image", claim("image", nil), BadClaims},
		{"an image's tag", claim("image", "debian:12"), BadClaims},
		{"no name", claim("jti", nil), BadClaims},
		{"a name too long", claim("jti", strings.Repeat("x", 65)), BadClaims},
		{"no end", claim("exp", nil), BadClaims},
		{"an end that is no time", claim("exp", "tomorrow"), BadClaims},
		{"an end beyond all times", claim("exp", int64(1)<<62), BadClaims},
		{"a negative end", claim("exp", -1), BadClaims},
		{"half a second", claim("exp", float64(now)+0.5), BadClaims},
		{"no beginning", claim("nbf", nil), BadClaims},
		{"never made", claim("iat", nil), BadClaims},
		{"too long a life", claim("exp", now+int64(MaxLifetime/time.Second)+1), BadClaims},
		{"ends before it begins", claim("nbf", now+301), BadClaims},
		{"expired", f.token(f.header(nil), f.claims(map[string]any{"exp": now - 60, "nbf": now - 90})), Expired},
		{"not yet valid", f.token(f.header(nil), f.claims(map[string]any{"exp": now + 1000, "nbf": now + 900})), NotYetValid},
	} {
		task, err := v.Verify(c.token, "w1")
		if problem(err) != c.want || task != (Task{}) {
			t.Errorf("%s: %+v, %v; want %s", c.name, task, err, c.want)
			continue
		}
		// Neither the token nor one of its parts.
		for p := range strings.SplitSeq(c.token, ".") {
			if len(p) >= 8 && strings.Contains(err.Error(), p) {
				t.Errorf("%s: the error holds a part of the token: %v", c.name, err)
			}
		}
		if len(err.Error()) > 400 {
			t.Errorf("%s: an error of %d bytes", c.name, len(err.Error()))
		}
	}
	// A claim that a newer scheduler adds is no reason.
	if _, err := v.Verify(claim("extra", true), "w1"); err != nil {
		t.Errorf("a claim that is not known: %v", err)
	}
}

// Clocks may be apart by Skew, at both ends.
func TestSkew(t *testing.T) {
	f := newForger()
	now := time.Unix(1_800_000_000, 0)
	for _, c := range []struct {
		after time.Duration // nbf
		want  Problem
	}{
		{-Skew - time.Second, NotYetValid}, {-Skew, ""}, {0, ""}, {299 * time.Second, ""},
		{300*time.Second + Skew - time.Second, ""}, {300*time.Second + Skew, Expired},
	} {
		payload, _ := json.Marshal(f.claims(map[string]any{"nbf": now.Unix(), "exp": now.Unix() + 300}))
		_, err := readClaims(payload, "w1", now.Add(c.after))
		if err == nil && c.want != "" || err != nil && problem(err) != c.want {
			t.Errorf("%v after: %v, want %q", c.after, err, c.want)
		}
	}
}

func TestSignRefuses(t *testing.T) {
	k, _ := ring(t)
	for name, change := range map[string]func(*Task){
		"tenant":    func(t *Task) { t.Tenant = "../x" },
		"subject":   func(t *Task) { t.Subject = "" },
		"image":     func(t *Task) { t.Image = "gcc:12" },
		"worker":    func(t *Task) { t.Worker = "W" },
		"past":      func(t *Task) { t.Expires = time.Now().Add(-time.Minute) },
		"no time":   func(t *Task) { t.Expires = time.Time{} },
		"for ever":  func(t *Task) { t.Expires = time.Now().Add(MaxLifetime + time.Minute) },
		"long name": func(t *Task) { t.ID = strings.Repeat("x", 65) },
	} {
		task := testTask()
		change(&task)
		if token, err := k.Sign(task); err == nil {
			t.Errorf("%s: signed %s", name, token)
		}
	}
	// The longest that there can be fits.
	task := testTask()
	task.Tenant, task.Worker, task.ID = strings.Repeat("t", MaxName), strings.Repeat("w", MaxName), strings.Repeat("i", maxID)
	task.Subject, task.Expires = strings.Repeat("<", MaxSubject), time.Now().Add(MaxLifetime)
	if token := sign(t, k, task); len(token) > MaxToken {
		t.Errorf("a token of %d bytes", len(token))
	}
}

func TestUpdate(t *testing.T) {
	f, other := newForger(), newForger()
	token := f.token(f.header(nil), f.claims(nil))
	v := NewVerifier()
	if _, err := v.Verify(token, "w1"); problem(err) != UnknownKey || v.Ready() {
		t.Errorf("without keys: %v", err)
	}
	if err := v.Update(f.jwks()); err != nil || !v.Ready() {
		t.Fatal(err)
	}
	key := string(f.jwks())
	one := key[len(`{"keys":[`) : len(key)-2]
	x := base64.RawURLEncoding.EncodeToString(f.private.Public().(ed25519.PublicKey))
	for name, bad := range map[string]string{
		"nothing":        "",
		"no JSON":        "x",
		"no set":         `[]`,
		"no keys":        `{"keys":[]}`,
		"no such field":  `{}`,
		"null":           `null`,
		"only others":    `{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB","kid":"a"},{"kty":"oct","k":"AAAA","kid":"b"}]}`,
		"for encryption": strings.Replace(key, `"sig"`, `"enc"`, 1),
		"Ed448":          strings.Replace(key, "Ed25519", "Ed448", 1),
		"a private key":  strings.Replace(key, `"kty"`, `"d":"`+base64.RawURLEncoding.EncodeToString(f.private.Seed())+`","kty"`, 1),
		"a short key":    strings.Replace(key, x, x[:40], 1),
		"no base64":      strings.Replace(key, x, "*"+x[1:], 1),
		"no name":        strings.Replace(key, f.id, "", 1),
		"a long name":    strings.Replace(key, f.id, strings.Repeat("k", 65), 1),
		"one name twice": `{"keys":[` + one + "," + one + `]}`,
		"too many":       `{"keys":[` + strings.Repeat(one+",", MaxKeys) + one + `]}`,
		"too long":       key + strings.Repeat(" ", MaxJWKS),
		"trailing":       key + "x",
	} {
		if err := v.Update([]byte(bad)); err == nil {
			t.Errorf("%s: taken", name)
		} else if strings.Contains(err.Error(), base64.RawURLEncoding.EncodeToString(f.private.Seed())) {
			t.Errorf("%s: the error holds the private key", name)
		}
		if _, err := v.Verify(token, "w1"); err != nil {
			t.Errorf("%s: the keys were lost: %v", name, err)
		}
	}
	// Keys of other kinds beside a good one.
	if err := v.Update([]byte(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"},` + one + `]}`)); err != nil {
		t.Error(err)
	}
	if _, err := v.Verify(token, "w1"); err != nil {
		t.Error(err)
	}
	// A key that is published no more is trusted no more.
	if err := v.Update(other.jwks()); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(token, "w1"); problem(err) != UnknownKey {
		t.Errorf("after another set: %v", err)
	}
}

func FuzzVerify(f *testing.F) {
	forge := newForger()
	v := NewVerifier()
	if err := v.Update(forge.jwks()); err != nil {
		f.Fatal(err)
	}
	good := forge.token(forge.header(nil), forge.claims(nil))
	parts := strings.Split(good, ".")
	f.Add(good)
	f.Add(encode(forge.header(map[string]any{"alg": "none"})) + "." + parts[1] + ".")
	f.Add(encode(forge.header(map[string]any{"alg": "HS256"})) + "." + parts[1] + "." + parts[2])
	f.Add(encode(forge.header(map[string]any{"jwk": map[string]any{"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}})) + "." + parts[1] + "." + parts[2])
	f.Add(encode(forge.header(map[string]any{"x5c": []string{"AAAA"}})) + "." + parts[1] + "." + parts[2])
	f.Add(encode(forge.header(map[string]any{"crit": []string{"b64"}, "b64": false})) + "." + parts[1] + "." + parts[2])
	f.Add("..")
	f.Add("")
	f.Fuzz(func(t *testing.T, token string) {
		task, err := v.Verify(token, "w1")
		if err == nil {
			// Ed25519 leaves one spelling of a signature, and base64url one of
			// the bytes: only what was signed is taken.
			if token != good {
				t.Fatalf("taken: %q, %+v", token, task)
			}
			return
		}
		if e := (*TokenError)(nil); !errors.As(err, &e) || task != (Task{}) || len(err.Error()) > 400 {
			t.Fatalf("%+v, %v", task, err)
		}
	})
}

// FuzzClaims reads payloads as if they had been signed.
func FuzzClaims(f *testing.F) {
	good, _ := json.Marshal(newForger().claims(nil))
	f.Add(good)
	f.Add([]byte(`{"exp":9223372036854775807,"nbf":-9223372036854775808}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		task, err := readClaims(payload, "w1", time.Now())
		if err != nil {
			return
		}
		if CheckName(task.Tenant) != nil || task.Worker != "w1" || CheckSubject(task.Subject) != nil || CheckImage(task.Image) != nil {
			t.Fatalf("%+v", task)
		}
		if left := time.Until(task.Expires); left < -Skew-time.Minute || left > MaxLifetime+Skew {
			t.Fatalf("it lives for %v", left)
		}
	})
}

func FuzzUpdate(f *testing.F) {
	forge := newForger()
	f.Add(forge.jwks())
	f.Add([]byte(`{"keys":[{"kty":"RSA"}]}`))
	f.Add([]byte(`{"keys":[null]}`))
	f.Add([]byte(`{"keys":null}`))
	f.Fuzz(func(t *testing.T, jwks []byte) {
		v := NewVerifier()
		if err := v.Update(jwks); err != nil {
			if v.Ready() || len(err.Error()) > 400 {
				t.Fatalf("%v", err)
			}
			return
		}
		keys := *v.keys.Load()
		if len(keys) == 0 || len(keys) > MaxKeys {
			t.Fatalf("%d keys", len(keys))
		}
		for id, k := range keys {
			if id == "" || len(id) > maxKeyID || len(k) != ed25519.PublicKeySize {
				t.Fatalf("key %q of %d bytes", id, len(k))
			}
		}
	})
}
