//go:build linux

package jail

import (
	"bytes"
	"strings"
	"testing"
)

func messages() []*Message {
	return []*Message{
		{Kind: Start, ID: "a-1", Memory: 1 << 40, PIDs: 64},
		{Kind: ConnectAPI}, {Kind: ConnectVsock}, {Kind: End}, {Kind: Sweep}, {Kind: Connected},
		{Kind: Started, UID: 1, PID: 2, Digest: [32]byte{3, 31: 4}},
		{Kind: Ended, Status: 9, OOMKills: 1, Peak: 2, Text: "left"}, {Kind: Ended},
		{Kind: Swept}, {Kind: Swept, Text: strings.Repeat("x", MaxText)},
		{Kind: Failed, Code: Full, Text: "why"},
	}
}

func TestRoundTrip(t *testing.T) {
	for _, m := range messages() {
		b, err := m.Encode()
		if err != nil {
			t.Errorf("%+v: %v", m, err)
			continue
		}
		if len(b) > maxMessage {
			t.Errorf("%d bytes, more than %d", len(b), maxMessage)
		}
		if got, err := Decode(b); err != nil || *got != *m {
			t.Errorf("%+v became %+v, %v", m, got, err)
		}
		// Ids and texts end with the message; nothing else may be cut.
		if m.Kind != Start && m.Text == "" && len(b) > 2 {
			if _, err := Decode(b[:len(b)-1]); err == nil {
				t.Errorf("%+v is understood without its last byte", m)
			}
		}
	}
	for _, m := range []*Message{{}, {Kind: last + 1}, {Kind: Start, ID: "../x"}, {Kind: Swept, Text: strings.Repeat("x", MaxText+1)}, {Kind: Failed, Code: Full + 1}} {
		if _, err := m.Encode(); err == nil {
			t.Errorf("%+v is encoded", m)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, m := range messages() {
		b, err := m.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			return
		}
		again, err := m.Encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("%x is understood as %+v, which is %x, %v", b, m, again, err)
		}
		if m.Kind == Start && CheckID(m.ID) != nil || len(m.Text) > MaxText {
			t.Errorf("%+v", m)
		}
	})
}
