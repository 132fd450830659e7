package s3store

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"hpcc.dev/hpcc/internal/store"
)

// Whatever a server lists, what comes of it is a name, and the key of that name.
func FuzzListedKey(f *testing.F) {
	for _, key := range []string{"cache/a", "cache/a%2Fb", "cache/%2e%2e/a", "cache/", "cache/+", "other/a", "cache/%zz", "cache//a"} {
		f.Add(key, true)
	}
	st, err := Open(f.Context(), Options{Bucket: "bucket"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, key string, encoded bool) {
		encoding := types.EncodingType("")
		if encoded {
			encoding = types.EncodingTypeUrl
		}
		name, ok := st.name(key, encoding)
		if !ok {
			return
		}
		if err := store.CheckName(name); err != nil {
			t.Errorf("%q: %v", key, err)
		}
		if again, ok := st.name(*st.key(name), encoding); !ok || again != name {
			t.Errorf("%q is %q, whose key is another's: %q", key, name, again)
		}
	})
}

// Whatever a server says of a body's size, and however it comes in pieces, it is all
// of it or an error, and not read past its bound.
func FuzzBody(f *testing.F) {
	f.Add([]byte("hello"), int64(5), int64(5))
	f.Add([]byte("hello"), int64(-1), int64(4))
	f.Add([]byte("hello"), int64(1<<40), int64(1<<40))
	f.Add([]byte(""), int64(0), int64(0))
	f.Fuzz(func(t *testing.T, sent []byte, size, limit int64) {
		limit = max(0, min(limit, store.MaxObject))
		if size > limit {
			return // Get refuses it
		}
		from := bytes.NewReader(sent)
		body, err := readBody(iotest.OneByteReader(from), size, limit)
		read := int64(len(sent) - from.Len())
		switch {
		case err == nil:
			if size >= 0 && int64(len(body)) != size || size < 0 && !bytes.Equal(body, sent) || !bytes.HasPrefix(sent, body) {
				t.Errorf("%q of %q, said to be %d", body, sent, size)
			}
		case size >= 0 && int64(len(sent)) >= size, size < 0 && int64(len(sent)) <= limit:
			t.Errorf("%d bytes, said to be %d, limit %d: %v", len(sent), size, limit, err)
		case !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, store.ErrTooLarge):
			t.Error(err)
		}
		if read > limit+1 {
			t.Errorf("%d bytes were read; limit %d", read, limit)
		}
	})
}
