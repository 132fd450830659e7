package shared

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestParseTrust(t *testing.T) {
	a, b := testSigner(t, "a"), testSigner(t, "b")
	got, err := parseTrust([]byte("# workers\n\n" + a.Line(RoleWorker) + "\t# the first\r\n \tclient  b " + b.Public().String() + " revoked # left\n"))
	if err != nil || len(got) != 2 || got[a.Public()] != (Member{RoleWorker, "a", a.Public(), false}) || got[b.Public()] != (Member{RoleClient, "b", b.Public(), true}) {
		t.Errorf("%+v, %v", got, err)
	}
	key := a.Public().String()
	for bad, want := range map[string]string{
		"worker":                             "1 words",
		"worker a":                           "2 words",
		"boss a " + key:                      `"boss" is not a role`,
		"worker a " + key[1:]:                "is not a key",
		"worker a " + key + "=":              "is not a key",
		"worker a AAAA":                      "is not a key",
		"worker a " + key + " Revoked":       `"Revoked" after the key`,
		"worker a " + key + " revoked again": "5 words",
		"worker " + strings.Repeat("a", 129) + " " + key: "is not a name",
		"worker ä " + key:  "is not a name",
		a.Line(RoleClient): "earlier line",
	} {
		_, err := parseTrust([]byte(a.Line(RoleWorker) + "\n\n" + bad + "\n"))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "line 3") || len(err.Error()) > 300 {
			t.Errorf("%q: %v, want %q of line 3", bad, err, want)
		}
	}
}

func FuzzParseTrust(f *testing.F) {
	f.Add([]byte(testSigner(f, "a").Line(RoleWorker) + " revoked # x\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		members, err := parseTrust(b)
		if err != nil {
			return
		}
		var again strings.Builder
		for key, m := range members {
			if m.Key != key {
				t.Fatalf("%+v under %s", m, key)
			}
			fmt.Fprintf(&again, "%s %s %s", m.Role, m.Name, m.Key)
			if m.Revoked {
				again.WriteString(" revoked")
			}
			again.WriteString("\n")
		}
		if same, err := parseTrust([]byte(again.String())); err != nil || len(same) != len(members) {
			t.Errorf("%q: %d, %v", &again, len(same), err)
		}
	})
}

func FuzzParseSigner(f *testing.F) {
	f.Add([]byte("# private\nhpcc-signing-key a AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parseSigner(b); err == nil && (s.name == "" || s.public == PublicKey{}) {
			t.Errorf("%+v", s)
		}
	})
}

func TestSigner(t *testing.T) {
	s := testSigner(t, "a")
	if again, err := NewSigner(s.key, "a"); err != nil || again.Public() != s.Public() {
		t.Errorf("of the whole key: %v", err)
	}
	broken := append([]byte(nil), s.key...)
	broken[40] ^= 1
	for _, bad := range [][]byte{nil, make([]byte, 31), make([]byte, 33), broken} {
		if _, err := NewSigner(bad, "a"); err == nil {
			t.Errorf("%d bytes are a key", len(bad))
		}
	}
	if _, err := NewSigner(s.key, "a b"); err == nil {
		t.Error("two words are a name")
	}
	dir := t.TempDir()
	const secret = "c2VjcmV0"
	for i, bad := range []string{
		"", "# nothing\n", "hpcc-signing-key a " + secret + "\n", secret + "\n", "hpcc-signing-key a\n",
		strings.Repeat("hpcc-signing-key a AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n", 2), strings.Repeat("#", maxKeyFile+1),
	} {
		file := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadSigner(file); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%.40q: %v", bad, err)
		}
	}
	if _, err := ReadSigner(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if _, err := GenerateKey(filepath.Join(dir, "key"), "boss", "a"); err == nil {
		t.Error("a key of no role")
	}
	if _, err := GenerateKey(filepath.Join(dir, "key"), RoleClient, ""); err == nil {
		t.Error("a key of no name")
	}
	if _, err := os.Stat(filepath.Join(dir, "key")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file of it: %v", err)
	}
}

// TestTrustFollowsItsFile: what somebody writes into the file counts a second later.
func TestTrustFollowsItsFile(t *testing.T) {
	a, b, own := testSigner(t, "a"), testSigner(t, "b"), testSigner(t, "own")
	file := filepath.Join(t.TempDir(), "trusted")
	now := time.Now()
	write := func(lines ...string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
			t.Fatal(err)
		}
		now = now.Add(2 * recheck)
	}
	write(a.Line(RoleWorker), b.Line(RoleClient))
	trust, err := ReadTrust(file, false)
	if err != nil {
		t.Fatal(err)
	}
	trust.file.now = func() time.Time { return now }
	with := trust.With(own)
	expect := func(what string, s *Signer, want Reason) {
		t.Helper()
		if _, err := with.Check(s.Public()); reasonOf(err) != want || want == "" && err != nil {
			t.Errorf("%s: %s: %v, want %q", what, s.Name(), err, want)
		}
	}
	expect("at first", a, "")
	expect("at first", b, "")
	expect("at first", own, "")
	if m, _ := with.Check(own.Public()); m.Name != "own" || m.Key != own.Public() {
		t.Errorf("own is %+v", m)
	}
	if _, err := trust.Check(own.Public()); reasonOf(err) != ReasonStranger {
		t.Errorf("own without With: %v", err)
	}

	write(a.Line(RoleWorker)+" revoked", own.Line(RoleClient)+" revoked")
	now = now.Add(-2*recheck + recheck/2)
	expect("within a second", a, "")
	now = now.Add(recheck)
	expect("revoked", a, ReasonRevoked)
	expect("revoked", own, ReasonRevoked)
	expect("taken out", b, ReasonStranger)

	write("what?")
	expect("file broken", a, ReasonRevoked)
	expect("file broken", own, ReasonRevoked)
	expect("file broken", b, ReasonStranger)
	if err := with.Err(); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("file broken: %v", err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	now = now.Add(2 * recheck)
	expect("file gone", a, ReasonRevoked)
	if err := with.Err(); !errors.Is(err, fs.ErrNotExist) || len(with.Members()) != 0 {
		t.Errorf("file gone: %v", err)
	}

	write(a.Line(RoleWorker), b.Line(RoleWorker), "worker c "+testSigner(t, "c").Public().String())
	expect("back", a, "")
	expect("back", b, "")
	expect("back", own, ReasonRevoked) // nobody wrote that it is not
	if err := with.Err(); err != nil || len(with.Members()) != 3 {
		t.Errorf("back: %v", err)
	}
}

func TestTrustWorkersOnly(t *testing.T) {
	w, c := testSigner(t, "w"), testSigner(t, "c")
	trust := trustOf(t, true, w.Line(RoleWorker), c.Line(RoleClient))
	if m, err := trust.Check(w.Public()); err != nil || m.Name != "w" {
		t.Errorf("%+v, %v", m, err)
	}
	if _, err := trust.Check(c.Public()); reasonOf(err) != ReasonStranger {
		t.Errorf("%v", err)
	}
	if _, err := trust.With(c).Check(c.Public()); err != nil {
		t.Errorf("one's own: %v", err)
	}
	if _, err := (*Trust)(nil).Check(w.Public()); reasonOf(err) != ReasonStranger {
		t.Errorf("nil: %v", err)
	}
	if _, err := ReadTrust(filepath.Join(t.TempDir(), "none"), false); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v", err)
	}
}
