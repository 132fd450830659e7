package shared

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"hpcc.dev/hpcc/internal/atomicfile"
)

// Role is what kind of machine a signer is.
type Role string

// The roles. A worker's results were compiled in a virtual machine; a client's
// where somebody sits who could have changed anything.
const (
	RoleWorker Role = "worker"
	RoleClient Role = "client"
)

func (r Role) valid() bool { return r == RoleWorker || r == RoleClient }

// revokedWord is the word that takes a line's trust back.
const revokedWord = "revoked"

// Bounds of the file of trusted keys: a company's workers, with their names.
const (
	maxTrustFile = 4 << 20
	maxTrusted   = 1 << 16
	maxName      = 128
)

// recheck is how long the file of trusted keys is not looked at again: a stat a
// second costs nothing, and a revocation is not faster anywhere else.
const recheck = time.Second

// Member is one line of a file of trusted keys.
type Member struct {
	Role    Role
	Name    string
	Key     PublicKey
	Revoked bool
}

// Trust says whose results are believed: the members of a file and, where With
// added it, one's own key. It may be used concurrently; nil trusts nobody.
type Trust struct {
	file *trustFile // nil: none
	own  []*Signer
}

// trustFile is a file of trusted keys, as it was last read.
type trustFile struct {
	path        string
	workersOnly bool
	now         func() time.Time

	mu      sync.Mutex
	stamp   fileStamp
	checked time.Time
	members map[PublicKey]Member
	// gone are keys that were seen revoked: that the file cannot be read for a
	// while gives them nothing back.
	gone map[PublicKey]bool
	err  error
}

// fileStamp tells two contents of a file apart, but for two of one length within
// a tick of the clock.
type fileStamp struct {
	size     int64
	modified int64
}

// ReadTrust reads a file of trusted keys, one on a line:
//
//	ROLE NAME KEY [revoked]
//
// ROLE is worker or client, KEY an Ed25519 public key in base64; words are
// separated by blanks, and what follows a # is a comment. A key that stands there
// twice, another word and a malformed key are errors that name the line. With
// workersOnly clients' keys are strangers'; that they are revoked still counts.
//
// The file is read again when its size or time changes, which is looked for at
// most once a second. While it cannot be read, nobody in it is trusted.
func ReadTrust(file string, workersOnly bool) (*Trust, error) {
	f := &trustFile{path: file, workersOnly: workersOnly, now: time.Now, gone: map[PublicKey]bool{}}
	f.checked = f.now()
	if f.reload(); f.err != nil {
		return nil, f.err
	}
	return &Trust{file: f}, nil
}

// With is t with a signer's key trusted besides, unless the file revokes it. Both
// share the file. t and s may be nil.
func (t *Trust) With(s *Signer) *Trust {
	with := &Trust{}
	if t != nil {
		*with = *t
	}
	if s != nil {
		with.own = append(slices.Clip(with.own), s)
	}
	return with
}

// Err says why the file cannot be read at present, so that nobody in it is
// trusted.
func (t *Trust) Err() error {
	if t == nil || t.file == nil {
		return nil
	}
	t.file.mu.Lock()
	defer t.file.mu.Unlock()
	t.file.refresh()
	return t.file.err
}

// Members are the lines of the file, in no order.
func (t *Trust) Members() []Member {
	if t == nil || t.file == nil {
		return nil
	}
	t.file.mu.Lock()
	defer t.file.mu.Unlock()
	t.file.refresh()
	list := make([]Member, 0, len(t.file.members))
	for _, m := range t.file.members {
		list = append(list, m)
	}
	return list
}

// Check returns the member whose key it is; of one's own key that is in no file,
// Role is "". The error is a RejectedError with ReasonStranger or ReasonRevoked,
// and the Member then what is known.
func (t *Trust) Check(key PublicKey) (Member, error) {
	if t == nil {
		return Member{Key: key}, reject(ReasonStranger, "key %s", key.ID())
	}
	m, err := t.file.check(key)
	if reasonOf(err) == ReasonStranger {
		for _, s := range t.own {
			if s.public == key {
				return Member{Role: m.Role, Name: s.name, Key: key}, nil
			}
		}
	}
	return m, err
}

func (f *trustFile) check(key PublicKey) (Member, error) {
	if f == nil {
		return Member{Key: key}, reject(ReasonStranger, "key %s", key.ID())
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refresh()
	m, ok := f.members[key]
	m.Key = key
	switch {
	case m.Revoked || f.gone[key]:
		return m, reject(ReasonRevoked, "key %s of %s", key.ID(), m.Name)
	case !ok:
		return m, reject(ReasonStranger, "key %s", key.ID())
	case f.workersOnly && m.Role != RoleWorker:
		return m, reject(ReasonStranger, "key %s of %s, who is no worker", key.ID(), m.Name)
	}
	return m, nil
}

// refresh reads the file again if it changed. The caller holds mu.
func (f *trustFile) refresh() {
	now := f.now()
	if since := now.Sub(f.checked); since >= 0 && since < recheck {
		return
	}
	f.checked = now
	fi, err := os.Stat(f.path)
	if err == nil && f.err == nil && stampOf(fi) == f.stamp {
		return
	}
	f.reload()
}

// reload reads the file. The stamp is taken before the content, so that a change in
// between is read again.
func (f *trustFile) reload() {
	f.stamp, f.members, f.err = fileStamp{}, nil, nil
	fi, err := os.Stat(f.path)
	var b []byte
	if err == nil {
		f.stamp = stampOf(fi)
		b, err = atomicfile.Read(f.path, maxTrustFile)
	}
	if err == nil {
		if f.members, err = parseTrust(b); err != nil {
			err = fmt.Errorf("%s: %w", f.path, err)
		}
	}
	if err != nil {
		f.err = fmt.Errorf("trusted keys: %w", err)
	}
	for key, m := range f.members {
		if m.Revoked {
			f.gone[key] = true
		} else {
			delete(f.gone, key) // somebody wrote so
		}
	}
}

func stampOf(fi os.FileInfo) fileStamp { return fileStamp{fi.Size(), fi.ModTime().UnixNano()} }

func parseTrust(b []byte) (map[PublicKey]Member, error) {
	members := map[PublicKey]Member{}
	n := 0
	for line := range strings.Lines(string(b)) {
		n++
		m, ok, err := parseMember(line)
		if err == nil && ok {
			if _, twice := members[m.Key]; twice {
				err = errors.New("this key stands in an earlier line")
			} else if members[m.Key] = m; len(members) > maxTrusted {
				err = fmt.Errorf("more than %d keys", maxTrusted)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	return members, nil
}

// parseMember reads a line; ok is false where it says nothing.
func parseMember(line string) (m Member, ok bool, err error) {
	line, _, _ = strings.Cut(line, "#")
	fields := strings.Fields(line)
	if len(fields) == 0 {
		return m, false, nil
	}
	if len(fields) < 3 || len(fields) > 4 {
		return m, false, fmt.Errorf("%d words, want ROLE NAME KEY [%s]", len(fields), revokedWord)
	}
	m.Role, m.Name = Role(fields[0]), fields[1]
	if !m.Role.valid() {
		return m, false, fmt.Errorf("%q is not a role: want %q or %q", clip(fields[0]), RoleWorker, RoleClient)
	}
	if !validName(m.Name) {
		return m, false, fmt.Errorf("%q is not a name", clip(m.Name))
	}
	key, err := base64.StdEncoding.Strict().DecodeString(fields[2])
	if err != nil || len(key) != ed25519.PublicKeySize {
		return m, false, fmt.Errorf("%q is not a key: want %d bytes in base64", clip(fields[2]), ed25519.PublicKeySize)
	}
	m.Key = PublicKey(key)
	if len(fields) == 4 {
		if fields[3] != revokedWord {
			return m, false, fmt.Errorf("%q after the key, where only %q may stand", clip(fields[3]), revokedWord)
		}
		m.Revoked = true
	}
	return m, true, nil
}

// validName reports whether a signer may be called so: one printable word.
func validName(name string) bool {
	if name == "" || len(name) > maxName {
		return false
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c > '~' || c == '#' {
			return false
		}
	}
	return true
}
