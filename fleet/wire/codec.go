package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// ErrCanonical is in the chain of every error about bytes that decode but aren't the canonical encoding of their value.
var ErrCanonical = errors.New("not in canonical form")

// ErrVersion is in the chain of an error about a message of another protocol version.
var ErrVersion = errors.New("other protocol version")

// checker is a message that can say whether its values are allowed. Both directions ask.
type checker interface{ check() error }

// encode gives the canonical JSON of m.
func encode(name string, m checker, limit int) ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("encode %s: %w", name, err)
	}
	b, err := canonical(m)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", name, err)
	}
	if len(b) > limit {
		return nil, fmt.Errorf("encode %s: %d bytes, limit is %d", name, len(b), limit)
	}
	return b, nil
}

// decode reads canonical JSON into m.
func decode(name string, b []byte, m checker, limit int) error {
	if len(b) > limit {
		return fmt.Errorf("decode %s: %d bytes, limit is %d", name, len(b), limit)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(m); err != nil {
		return fmt.Errorf("decode %s: %w", name, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("decode %s: more bytes after the message", name)
	}
	if err := m.check(); err != nil {
		return fmt.Errorf("decode %s: %w", name, err)
	}
	again, err := canonical(m)
	if err != nil {
		return fmt.Errorf("decode %s: %w", name, err)
	}
	// Duplicate keys, other key order or case, white space, null, escapes, invalid UTF-8: all end here.
	if !bytes.Equal(b, again) {
		return fmt.Errorf("decode %s: %w", name, ErrCanonical)
	}
	return nil
}

// canonical is compact JSON, fields in declaration order, map keys sorted, empty fields left out, no HTML escapes.
func canonical(v any) ([]byte, error) {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}
