package audit

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"hpcc.dev/hpcc/internal/digest"
)

const (
	// MaxRow bounds a row's encoding in bytes. A tile of a transparency log takes
	// entries of 65,535 bytes.
	MaxRow = 60 << 10
	// inlineBytes is up to what size a row keeps its command and its reads: most
	// rows of C units do, and are read without looking elsewhere.
	inlineBytes = 8 << 10
	// MaxText bounds each name of a row, in bytes; what somebody else wrote is to
	// be cut to it (Clip). Eleven of them in the six bytes that JSON may need for
	// one, with what stays inline and a full list of outputs, still fit a row.
	MaxText = 512
	// maxList bounds the lists that stay in a row.
	maxList = 32
	maxRole = 64
	// MaxName bounds the names of a tier and a signer, in bytes.
	MaxName = 128
	// MaxDetail bounds the encoding of a row's detail: four times what a job's message may
	// hold, for paths come in several lists.
	MaxDetail = 64 << 20
)

// Cache says where a job's result came from.
type Cache string

const (
	Hit  Cache = "hit"  // an earlier job's result
	Miss Cache = "miss" // it was run
	// Uncached was run, and neither looked for nor kept.
	Uncached Cache = "uncached"
)

// Row is one job. Its JSON is canonical: equal rows have equal bytes; fields are
// added, but never renamed or reused.
type Row struct {
	// Time is when the worker took the job.
	Time   time.Time `json:"time"`
	Tenant string    `json:"tenant"`
	// Subject is the person or program that asked, as the task token has it.
	Subject string `json:"subject"`
	Worker  string `json:"worker"`
	// VM is the machine that ran it; a hit has none.
	VM string `json:"vm,omitempty"`
	// Tier is the shared cache that a hit's result was fetched from, and Signer the
	// name of who signed it there, which is another worker as a rule: the row of the
	// run is in that one's log.
	Tier   string `json:"tier,omitempty"`
	Signer string `json:"signer,omitempty"`
	// Image is the toolchain's image, sha256:HEX.
	Image string `json:"image_digest"`

	// SourceDigest is SourceDigest(Inputs). It stands here also where the inputs
	// do not.
	SourceDigest Key `json:"source_digest"`
	// Action is the action key.
	Action Key `json:"action_key,omitzero"`

	// Detail names the blob that holds Command and Reads where they are long; see
	// Fit. Reads are then empty here, and Command may be.
	Detail Digest `json:"detail,omitzero"`
	Command
	Reads

	Outputs  []Output      `json:"outputs,omitempty"`
	Stdout   Digest        `json:"stdout,omitzero"`
	Stderr   Digest        `json:"stderr,omitzero"`
	Exit     int           `json:"exit"`
	Signal   int           `json:"signal,omitempty"`
	Limit    string        `json:"limit,omitempty"` // a limit that was hit
	Duration time.Duration `json:"duration_ns"`     // of the job in the machine
	Cache    Cache         `json:"cache"`
	// Accepted says of a run that the client confirmed the absences, before its
	// outputs were handed out. One that it did not accept was not stored.
	//
	// Rows of hits that were written before there was Offered have it set, too; it
	// says no more there than Offered does.
	Accepted bool `json:"accepted"`
	// Offered says of a hit that it was handed out with this row, and the client
	// not asked: it takes the result unless it has a file that the job looked for
	// in vain. Then it asks again with that file, and the answer has a row of its
	// own; this row does not tell which it was.
	Offered bool `json:"offered,omitempty"`
	// Error says why there is no result: machine lost, contract broken.
	Error string `json:"error,omitempty"`

	Isolation Isolation `json:"isolation"`
	Versions  Versions  `json:"versions"`
}

// Command is what a job was asked to do.
type Command struct {
	// Source is the path of what a person would call the source.
	Source string   `json:"source,omitempty"`
	Argv   []string `json:"argv,omitempty"`
	Env    []string `json:"env,omitempty"` // on top of what every job has
	Cwd    string   `json:"cwd,omitempty"`
	Roots  []string `json:"roots,omitempty"`
	// Declared are the outputs that the job might leave.
	Declared []Declared `json:"declared,omitempty"`
}

// Reads is what a job looked up below its roots.
type Reads struct {
	// Inputs are what the job read or followed, sorted by path.
	Inputs []Input `json:"inputs,omitempty"`
	// Absent are the paths that it looked for in vain, sorted.
	Absent []Name `json:"absent,omitempty"`
}

// detail is what a row's blob holds.
type detail struct {
	Command
	Reads
}

// Declared is an output that a job might leave.
type Declared struct {
	Role     string `json:"role"`
	Path     string `json:"path"`
	Optional bool   `json:"optional,omitempty"`
}

// Input is a name that a job found: a file by its digest, a symbolic link by its
// target, or, with neither, a directory that had to be there.
type Input struct {
	Path   Name   `json:"path"`
	Digest Digest `json:"digest,omitzero"`
	Target Name   `json:"target,omitempty"`
}

// Output is a file that a job left.
type Output struct {
	Role       string `json:"role"`
	Digest     Digest `json:"digest"`
	Executable bool   `json:"executable,omitempty"`
}

// Isolation is what stood between the job and the worker. A hit's is empty: the
// row of the job that was run has it.
type Isolation struct {
	Runtime string `json:"runtime,omitempty"` // "firecracker"
	Version string `json:"version,omitempty"` // of the virtual machine monitor
	// Digests of what ran besides the image, sha256:HEX, by name: "vmm",
	// "kernel", "initrd".
	Digests map[string]string `json:"digests,omitempty"`
	// NICs are the machine's network interfaces: an empty list, or it would not
	// have started. Null where no machine ran.
	NICs []string `json:"nics"`
}

// Versions are of the programs that took part.
type Versions struct {
	HPCC  string `json:"hpcc"`
	Agent string `json:"agent,omitempty"` // as it says of itself
}

// Digest is a digest whose text is hex, slash, size.
type Digest digest.Digest

// MarshalText writes what UnmarshalText reads; nothing for the zero value.
func (d Digest) MarshalText() ([]byte, error) {
	if digest.Digest(d).IsZero() {
		return nil, nil
	}
	return []byte(digest.Digest(d).String()), nil
}

// UnmarshalText reads a digest, or the zero value from nothing.
func (d *Digest) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*d = Digest{}
		return nil
	}
	parsed, err := digest.Parse(string(b))
	*d = Digest(parsed)
	return err
}

// Key is a key whose text is hex.
type Key digest.Key

// MarshalText writes the key in lower-case hex.
func (k Key) MarshalText() ([]byte, error) { return []byte(digest.Key(k).String()), nil }

// UnmarshalText reads what MarshalText writes.
func (k *Key) UnmarshalText(b []byte) error {
	parsed, err := digest.ParseKey(string(b))
	*k = Key(parsed)
	return err
}

// Name is a path of a guest's: any bytes. In JSON it is a string if it is UTF-8,
// and {"base64": …} otherwise, so that no two names look the same.
type Name string

// MarshalJSON writes the name.
func (n Name) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(n)) {
		return encode(string(n))
	}
	return encode(map[string]string{"base64": base64.StdEncoding.EncodeToString([]byte(n))})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (n *Name) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		*n = Name(s)
		return nil
	}
	var v struct {
		Base64 []byte `json:"base64"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	if utf8.Valid(v.Base64) {
		return errors.New("a name in base64 that is UTF-8")
	}
	*n = Name(v.Base64)
	return nil
}

// encode is json.Marshal without its escapes for HTML: paths and flags are read
// by people.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// SourceDigest is the SHA-256 over all inputs in the order of their paths, with
// kind, digest or target of each; whoever has the inputs can compute it.
func SourceDigest(inputs []Input) Key {
	inputs = slices.Clone(inputs)
	sortInputs(inputs)
	k := digest.NewKey("audit inputs")
	for _, in := range inputs {
		switch {
		case in.Target != "":
			k.Field("link", string(in.Path), string(in.Target))
		case in.Digest != Digest{}:
			k.Field("file", string(in.Path), digest.Digest(in.Digest).String())
		default:
			k.Field("directory", string(in.Path))
		}
	}
	return Key(k.Sum())
}

func sortInputs(inputs []Input) {
	slices.SortFunc(inputs, func(a, b Input) int { return cmp.Compare(a.Path, b.Path) })
}

// Fit brings a complete row into the form in which it is appended: lists sorted,
// SourceDigest computed, and what is long moved to a blob. It returns that blob,
// or nil; the caller stores it, under the digest that is now in r.Detail, before
// it appends the row, or the job cannot be rebuilt. A command that is short stays
// in the row as well, for those who only read.
//
// Jobs that differ in nothing but who asked share their blob.
func (r *Row) Fit() (blob []byte, err error) {
	r.Time = r.Time.UTC()
	r.Inputs, r.Absent = slices.Clone(r.Inputs), slices.Clone(r.Absent)
	sortInputs(r.Inputs)
	slices.Sort(r.Absent)
	r.SourceDigest = SourceDigest(r.Inputs)
	blob, err = encode(detail{r.Command, r.Reads})
	if err != nil {
		return nil, err
	}
	if len(blob) <= inlineBytes {
		return nil, nil
	}
	if len(blob) > MaxDetail {
		return nil, fmt.Errorf("audit: a job's detail of %d bytes, the limit is %d", len(blob), MaxDetail)
	}
	command, err := encode(r.Command)
	if err != nil {
		return nil, err
	}
	r.Detail, r.Reads = Digest(digest.Of(blob)), Reads{}
	if len(command) > inlineBytes {
		r.Command = Command{}
	}
	return blob, nil
}

// Restore puts the blob that r.Detail names back into the row, after checking
// that it is that blob and fits what the row says.
func (r *Row) Restore(blob []byte) error {
	if digest.Of(blob) != digest.Digest(r.Detail) {
		return fmt.Errorf("audit: detail of a row: %w", digest.ErrMismatch)
	}
	if len(blob) > MaxDetail {
		return fmt.Errorf("audit: a detail of %d bytes", len(blob))
	}
	var d detail
	if err := json.Unmarshal(blob, &d); err != nil {
		return fmt.Errorf("audit: detail of a row: %w", err)
	}
	if SourceDigest(d.Inputs) != r.SourceDigest {
		return errors.New("audit: the inputs in a row's detail are not those of its source digest")
	}
	if !reflect.DeepEqual(r.Command, Command{}) && !reflect.DeepEqual(r.Command, d.Command) {
		return errors.New("audit: the command in a row's detail is not the row's")
	}
	r.Command, r.Reads, r.Detail = d.Command, d.Reads, Digest{}
	return nil
}

// Clip cuts text of somebody else's to what a row may hold, and to UTF-8.
func Clip(s string) string {
	s = strings.ToValidUTF8(s[:min(len(s), MaxText+utf8.UTFMax)], "\uFFFD")
	if len(s) <= MaxText {
		return s
	}
	cut := MaxText
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut]
}

// RowError says what a row has that no row may have: a mistake of the caller's.
type RowError struct{ Reason string }

func (e *RowError) Error() string { return "audit: not a row: " + e.Reason }

// encodeRow checks a row and encodes it.
func encodeRow(r *Row) ([]byte, error) {
	if r.Time.IsZero() || r.Tenant == "" || r.Worker == "" || r.Image == "" {
		return nil, &RowError{"time, tenant, worker or image is missing"}
	}
	switch r.Cache {
	case Hit, Miss, Uncached:
	default:
		return nil, &RowError{fmt.Sprintf("cache %q", r.Cache)}
	}
	if r.Offered && (r.Cache != Hit || r.Accepted) {
		return nil, &RowError{"only a hit is offered, and nobody accepts it"}
	}
	if len(r.Outputs) > maxList || len(r.Isolation.Digests) > maxList || len(r.Isolation.NICs) > maxList {
		return nil, &RowError{"too many outputs, digests or interfaces"}
	}
	texts := []string{
		r.Tenant, r.Subject, r.Worker, r.VM, r.Image, r.Limit, r.Error,
		r.Isolation.Runtime, r.Isolation.Version, r.Versions.HPCC, r.Versions.Agent,
	}
	for _, name := range []string{r.Tier, r.Signer} {
		if len(name) > MaxName {
			return nil, &RowError{fmt.Sprintf("%.80q is longer than %d bytes", name, MaxName)}
		}
		texts = append(texts, name)
	}
	for _, o := range r.Outputs {
		if len(o.Role) > maxRole {
			return nil, &RowError{fmt.Sprintf("the role %.80q", o.Role)}
		}
		texts = append(texts, o.Role)
	}
	for name, d := range r.Isolation.Digests {
		texts = append(texts, name, d)
	}
	texts = append(texts, r.Isolation.NICs...)
	for _, s := range texts {
		if len(s) > MaxText || !utf8.ValidString(s) {
			return nil, &RowError{fmt.Sprintf("%.80q is longer than %d bytes, or no UTF-8", s, MaxText)}
		}
	}
	// What json would change in silence could not be run again.
	command := append(append(append(slices.Clone(r.Argv), r.Env...), r.Roots...), r.Cwd, r.Source)
	for _, d := range r.Declared {
		command = append(command, d.Role, d.Path)
	}
	for _, s := range command {
		if !utf8.ValidString(s) {
			return nil, &RowError{fmt.Sprintf("%.80q is no UTF-8", s)}
		}
	}
	canonical := *r
	canonical.Time = r.Time.UTC()
	if r.Isolation.Runtime != "" && r.Isolation.NICs == nil {
		canonical.Isolation.NICs = []string{}
	}
	b, err := encode(&canonical)
	if err != nil {
		return nil, &RowError{err.Error()}
	}
	if len(b) > MaxRow {
		return nil, &RowError{fmt.Sprintf("%d bytes, the limit is %d (Row.Fit)", len(b), MaxRow)}
	}
	return b, nil
}
