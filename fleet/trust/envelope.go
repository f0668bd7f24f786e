package trust

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
)

// envelope is what the director signs: a DSSE envelope of one type, so that what was signed as one thing never passes for another.
type envelope struct {
	kind       string // DSSE's payload type
	payload    []byte
	signatures []dsse.Signature
}

// openEnvelope reads a canonical DSSE envelope of a kind. It verifies nothing.
func openEnvelope(b []byte, kind string, limit int) (envelope, error) {
	if len(b) > limit {
		return envelope{}, verdict(TooLarge, Director, 0, "envelope of %d bytes, limit is %d", len(b), limit)
	}
	var e dsse.Envelope
	if err := strict(b, &e); err != nil {
		return envelope{}, verdict(Malformed, Director, 0, "envelope: %v", err)
	}
	if e.PayloadType != kind {
		return envelope{}, verdict(Malformed, Director, 0, "envelope of type %.80q, want %s", e.PayloadType, kind)
	}
	payload, err := strictBase64(e.Payload)
	if err != nil {
		return envelope{}, verdict(Malformed, Director, 0, "envelope's payload: %v", err)
	}
	return envelope{kind, payload, e.Signatures}, nil
}

// verify counts the director's keys that signed.
func (e envelope) verify(r *root) error {
	pae := dsse.PAE(e.kind, e.payload)
	signed := map[string]bool{}
	for _, s := range e.signatures {
		key, ok := r.director[s.KeyID]
		if !ok {
			continue
		}
		if sig, err := strictBase64(s.Sig); err == nil && ed25519.Verify(key.public, pae, sig) {
			signed[hex.EncodeToString(key.public)] = true // by key, not by its name
		}
	}
	if len(signed) < r.threshold {
		return verdict(Signature, Director, 0, "%d of the director's keys signed, %d must", len(signed), r.threshold)
	}
	return nil
}

// seal signs a payload of a kind with keys.
func seal(payload []byte, kind string, limit int, keys []Key) ([]byte, error) {
	if len(keys) == 0 {
		return nil, errNoKeys
	}
	e := dsse.Envelope{PayloadType: kind, Payload: base64.StdEncoding.EncodeToString(payload)}
	for _, k := range keys {
		sig := ed25519.Sign(k.private, dsse.PAE(kind, payload))
		e.Signatures = append(e.Signatures, dsse.Signature{KeyID: k.Public().ID(), Sig: base64.StdEncoding.EncodeToString(sig)})
	}
	b, err := json.Marshal(e)
	if err != nil {
		return nil, err
	}
	if len(b) > limit {
		return nil, fmt.Errorf("%d bytes, limit is %d", len(b), limit)
	}
	return b, nil
}

// DoType is the DSSE type of a request to a board, and MaxDoEnvelopeBytes the most that its envelope takes.
const (
	DoType             = "application/vnd.dunlin.do.v1+json"
	MaxDoEnvelopeBytes = 16 << 10
)

// SignDo puts a request to a board (wire.MarshalDo) into an envelope signed by keys.
func SignDo(payload []byte, keys ...Key) ([]byte, error) {
	b, err := seal(payload, DoType, MaxDoEnvelopeBytes, keys)
	if err != nil {
		return nil, fmt.Errorf("sign request: %w", err)
	}
	return b, nil
}

// VerifyDo gives the payload of a request that the director of root signed; root was verified before (State.Root), or is pinned. For whom
// the request is, and until when, is in the payload. What expires with metadata is installing; a request doesn't.
func VerifyDo(root, b []byte) (payload []byte, err error) {
	r, err := parseRoot(root)
	if err != nil {
		return nil, err
	}
	e, err := openEnvelope(b, DoType, MaxDoEnvelopeBytes)
	if err != nil {
		return nil, err
	}
	if err := e.verify(r); err != nil {
		return nil, err
	}
	return e.payload, nil
}
