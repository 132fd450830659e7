package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"

	"hpcc.dev/hpcc/internal/digest"
)

// A journal's file begins with a header line and has a line for each row:
//
//	{"hpcc_audit":1,"first":NUMBER,"chain":"HEX"}
//	{"number":NUMBER,"chain":"HEX","row":{…}}
//
// The header's chain is that of the row before the first; a row's is the SHA-256
// over the chain before it, its number and its bytes. Lines are JSON for
// everybody's tools, but are read here by their exact bytes: there is one way to
// write a row.
const (
	headerStart = `{"hpcc_audit":1,"first":`
	rowStart    = `{"number":`
	chainStart  = `,"chain":"`
	rowMiddle   = `","row":`
	maxDigits   = 20
	// maxLine is the longest line, with its newline.
	maxLine = len(rowStart) + maxDigits + len(chainStart) + 2*sha256.Size + len(rowMiddle) + MaxRow + len("}\n")
)

// Entry is a row as it stands in a journal.
type Entry struct {
	// Number counts a journal's rows from 1.
	Number uint64
	// Chain covers this row and all rows before it.
	Chain Key
	// Raw is the row's canonical JSON.
	Raw json.RawMessage
}

// Row decodes the entry's row.
func (e *Entry) Row() (*Row, error) {
	var r Row
	if err := json.Unmarshal(e.Raw, &r); err != nil {
		return nil, fmt.Errorf("audit: row %d: %w", e.Number, err)
	}
	return &r, nil
}

// Line is the entry's line in the journal, without newline.
func (e *Entry) Line() []byte { return appendLine(nil, e.Number, e.Chain, e.Raw) }

// nextChain is the chain with one more row.
func nextChain(before Key, number uint64, row []byte) Key {
	h := sha256.New()
	h.Write([]byte("hpcc audit 1\n"))
	h.Write(before[:])
	h.Write(binary.BigEndian.AppendUint64(nil, number))
	h.Write(row)
	return Key(h.Sum(nil))
}

func appendLine(b []byte, number uint64, chain Key, row []byte) []byte {
	b = append(b, rowStart...)
	b = strconv.AppendUint(b, number, 10)
	b = append(b, chainStart...)
	b = hex.AppendEncode(b, chain[:])
	b = append(b, rowMiddle...)
	b = append(b, row...)
	return append(b, '}')
}

func appendHeader(b []byte, first uint64, chain Key) []byte {
	b = append(b, headerStart...)
	b = strconv.AppendUint(b, first, 10)
	b = append(b, chainStart...)
	b = hex.AppendEncode(b, chain[:])
	return append(b, "\"}"...)
}

// parseLine reads a row's line, without newline, and checks number and chain. The
// entry's Raw is a part of line.
func parseLine(line []byte, number uint64, before Key) (Entry, error) {
	rest, n, chain, err := parseStart(line, rowStart)
	if err != nil {
		return Entry{}, err
	}
	rest, ok := bytes.CutPrefix(rest, []byte(rowMiddle))
	if !ok {
		return Entry{}, fmt.Errorf("no row")
	}
	row, ok := bytes.CutSuffix(rest, []byte("}"))
	if !ok {
		return Entry{}, fmt.Errorf("no end")
	}
	if n != number {
		return Entry{}, fmt.Errorf("it is numbered %d", n)
	}
	if nextChain(before, number, row) != chain {
		return Entry{}, fmt.Errorf("it is not what was written, or a row before it is not")
	}
	return Entry{Number: n, Chain: chain, Raw: row}, nil
}

// parseHeader reads a file's first line.
func parseHeader(line []byte) (first uint64, chain Key, err error) {
	rest, first, chain, err := parseStart(line, headerStart)
	if err == nil && (string(rest) != "\"}" || first == 0) {
		err = fmt.Errorf("not a header of this version")
	}
	return first, chain, err
}

func parseStart(line []byte, start string) (rest []byte, number uint64, chain Key, err error) {
	rest, ok := bytes.CutPrefix(line, []byte(start))
	if !ok {
		return nil, 0, Key{}, fmt.Errorf("it does not begin with %s", start)
	}
	digits, rest, ok := bytes.Cut(rest, []byte(chainStart))
	if !ok || len(digits) > maxDigits || len(rest) < 2*sha256.Size {
		return nil, 0, Key{}, fmt.Errorf("no number or chain")
	}
	number, err = strconv.ParseUint(string(digits), 10, 64)
	if err != nil || strconv.FormatUint(number, 10) != string(digits) {
		return nil, 0, Key{}, fmt.Errorf("%q is no number", digits)
	}
	k, err := digest.ParseKey(string(rest[:2*sha256.Size]))
	if err != nil {
		return nil, 0, Key{}, err
	}
	return rest[2*sha256.Size:], number, Key(k), nil
}
