package trust

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Key is a private key (ed25519). The zero value is none.
type Key struct{ private ed25519.PrivateKey }

// PublicKey is a public key (ed25519). The zero value is none.
type PublicKey struct{ public ed25519.PublicKey }

// GenerateKey makes a key.
func GenerateKey() (Key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Key{}, fmt.Errorf("generate key: %w", err)
	}
	return Key{private}, nil
}

const pemType = "PRIVATE KEY"

// PEM is the key in PKCS #8, as openssl reads it.
func (k Key) PEM() ([]byte, error) {
	if k.private == nil {
		return nil, errors.New("encode key: no key")
	}
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}), nil
}

// ParseKey is the inverse of PEM.
func ParseKey(b []byte) (Key, error) {
	block, rest := pem.Decode(b)
	if block == nil || block.Type != pemType || len(bytes.TrimSpace(rest)) != 0 {
		return Key{}, fmt.Errorf("parse key: want one PEM block %q (PKCS #8, not encrypted)", pemType)
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return Key{}, fmt.Errorf("parse key: %w", err)
	}
	private, ok := any.(ed25519.PrivateKey)
	if !ok {
		return Key{}, fmt.Errorf("parse key: %T, want ed25519", any)
	}
	return Key{private}, nil
}

// Public is the key's public half.
func (k Key) Public() PublicKey { return PublicKey{k.private.Public().(ed25519.PublicKey)} }

func (k PublicKey) tuf() *metadata.Key {
	return &metadata.Key{Type: metadata.KeyTypeEd25519, Scheme: metadata.KeySchemeEd25519, Value: metadata.KeyVal{PublicKey: hex.EncodeToString(k.public)}}
}

// ID is the key's TUF id, 64 hex digits.
func (k PublicKey) ID() string {
	id, err := k.tuf().ID()
	if err != nil {
		panic(err) // three plain strings always have a canonical form
	}
	return id
}

// JSON is the key in TUF's form, as it stands in a root.
func (k PublicKey) JSON() ([]byte, error) {
	if k.public == nil {
		return nil, errors.New("encode public key: no key")
	}
	b, err := json.Marshal(k.tuf())
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	return b, nil
}

// ParsePublicKey is the inverse of JSON.
func ParsePublicKey(b []byte) (PublicKey, error) {
	var t metadata.Key
	if err := json.Unmarshal(b, &t); err != nil {
		return PublicKey{}, fmt.Errorf("parse public key: %w", err)
	}
	k, err := fromTUFKey(&t)
	if err != nil {
		return PublicKey{}, fmt.Errorf("parse public key: %w", err)
	}
	if again, err := k.JSON(); err != nil || !bytes.Equal(again, bytes.TrimSpace(b)) {
		return PublicKey{}, errors.New("parse public key: not in canonical form")
	}
	return k, nil
}

func fromTUFKey(t *metadata.Key) (PublicKey, error) {
	if t == nil || t.Type != metadata.KeyTypeEd25519 || t.Scheme != metadata.KeySchemeEd25519 {
		return PublicKey{}, errors.New("not an ed25519 key")
	}
	public, err := hex.DecodeString(t.Value.PublicKey)
	if err != nil || len(public) != ed25519.PublicKeySize {
		return PublicKey{}, fmt.Errorf("ed25519 key of %d hex digits, want %d", len(t.Value.PublicKey), 2*ed25519.PublicKeySize)
	}
	return PublicKey{public}, nil
}
