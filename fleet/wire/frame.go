package wire

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"
)

// FrameKind says what a Frame's body is. Append only.
type FrameKind uint8

// Frame kinds.
const (
	FrameError FrameKind = 1 // Index is the ErrorCode, Body its text
	FrameMeta  FrameKind = 2 // part Index of Total of a metadata file or release manifest
	FrameOffer FrameKind = 3 // part Index of Total of an Offer (MarshalOffer)
	FrameBlock FrameKind = 4 // block Index of Total of Encoding
)

// ErrorCode says why the fleet can't answer a get. Append only.
type ErrorCode uint32

// Error codes, and what the board does. A Done has them too.
const (
	CodeBadRequest      ErrorCode = 1 // a bug on one side: report it, don't ask again
	CodeNotFound        ErrorCode = 2 // no such metadata, manifest or blob
	CodeUnknownEncoding ErrorCode = 3 // the offer is gone: ask for a new one
	CodeBusy            ErrorCode = 4 // ask again later
	CodeInternal        ErrorCode = 5 // the server's own failure: ask again later
	CodeRefused         ErrorCode = 6 // of a Done: the board's config or state forbids it
)

func (c ErrorCode) String() string {
	switch c {
	case CodeBadRequest:
		return "bad request"
	case CodeNotFound:
		return "not found"
	case CodeUnknownEncoding:
		return "unknown encoding"
	case CodeBusy:
		return "busy"
	case CodeInternal:
		return "internal error"
	case CodeRefused:
		return "refused"
	}
	return fmt.Sprintf("code %d", uint32(c))
}

// Error is an error answer. Callers branch on Code.
type Error struct {
	Code ErrorCode
	Text string
}

func (e *Error) Error() string { return "fleet answered " + e.Code.String() + ": " + e.Text }

// Retryable reports whether the same request may succeed later.
func (e *Error) Retryable() bool { return e.Code == CodeBusy || e.Code == CodeInternal }

// Frame is one answer on ChannelBlock. On the wire, all integers big endian:
//
//	offset  0  "DN", frame version (1), kind
//	        4  request id, 4 bytes
//	        8  index, 4 bytes
//	       12  total, 4 bytes
//	       16  encoding id, 32 bytes, all zero but for FrameBlock
//	       48  body
type Frame struct {
	Kind     FrameKind
	Request  uint32
	Index    uint32
	Total    uint32
	Encoding Digest
	Body     []byte
}

// FrameHeaderBytes is what a Frame adds to its body.
const FrameHeaderBytes = 48

const (
	frameMagic0, frameMagic1 = 'D', 'N'
	frameVersion             = 1
)

// MarshalFrame gives the bytes of f.
func MarshalFrame(f Frame) ([]byte, error) {
	if err := f.check(); err != nil {
		return nil, fmt.Errorf("encode frame: %w", err)
	}
	b := make([]byte, FrameHeaderBytes, FrameHeaderBytes+len(f.Body))
	b[0], b[1], b[2], b[3] = frameMagic0, frameMagic1, frameVersion, byte(f.Kind)
	binary.BigEndian.PutUint32(b[4:], f.Request)
	binary.BigEndian.PutUint32(b[8:], f.Index)
	binary.BigEndian.PutUint32(b[12:], f.Total)
	copy(b[16:], f.Encoding[:])
	return append(b, f.Body...), nil
}

// UnmarshalFrame is the inverse of MarshalFrame. Body points into b.
func UnmarshalFrame(b []byte) (Frame, error) {
	if len(b) < FrameHeaderBytes || b[0] != frameMagic0 || b[1] != frameMagic1 {
		return Frame{}, fmt.Errorf("decode frame: %d bytes that don't start as a frame", len(b))
	}
	if b[2] != frameVersion {
		return Frame{}, fmt.Errorf("decode frame: version %d, this build reads %d: %w", b[2], frameVersion, ErrVersion)
	}
	f := Frame{
		Kind:     FrameKind(b[3]),
		Request:  binary.BigEndian.Uint32(b[4:]),
		Index:    binary.BigEndian.Uint32(b[8:]),
		Total:    binary.BigEndian.Uint32(b[12:]),
		Encoding: Digest(b[16:48]),
		Body:     b[FrameHeaderBytes:],
	}
	if err := f.check(); err != nil {
		return Frame{}, fmt.Errorf("decode frame: %w", err)
	}
	return f, nil
}

// Err is the error that f carries, nil if it is an answer of another kind.
func (f Frame) Err() error {
	if f.Kind != FrameError {
		return nil
	}
	return &Error{Code: ErrorCode(f.Index), Text: string(f.Body)}
}

// ErrorFrame answers request with an error. The text is cut at MaxErrorBytes.
func ErrorFrame(request uint32, code ErrorCode, text string) Frame {
	return Frame{Kind: FrameError, Request: request, Index: uint32(code), Total: 1, Body: []byte(Clip(text))}
}

func (f Frame) check() error {
	if len(f.Body) > MaxBlockBytes {
		return fmt.Errorf("body of %d bytes, limit is %d", len(f.Body), MaxBlockBytes)
	}
	if f.Kind != FrameBlock && !f.Encoding.IsZero() {
		return fmt.Errorf("encoding id on a frame of kind %d", f.Kind)
	}
	switch f.Kind {
	case FrameError:
		if f.Index == 0 || f.Total != 1 || len(f.Body) > MaxErrorBytes || !utf8.Valid(f.Body) {
			return fmt.Errorf("bad error frame (code %d, total %d, %d bytes)", f.Index, f.Total, len(f.Body))
		}
	case FrameMeta, FrameOffer:
		if f.Index >= f.Total || f.Total > MaxParts {
			return fmt.Errorf("part %d of %d, at most %d", f.Index, f.Total, MaxParts)
		}
		// One byte string has one split, so parts can't be empty.
		if len(f.Body) == 0 || f.Index < f.Total-1 && len(f.Body) != MaxBlockBytes {
			return fmt.Errorf("part %d of %d has %d bytes", f.Index, f.Total, len(f.Body))
		}
	case FrameBlock:
		if f.Index >= f.Total || len(f.Body) == 0 || f.Encoding.IsZero() {
			return fmt.Errorf("block %d of %d has %d bytes of encoding %s", f.Index, f.Total, len(f.Body), f.Encoding.Short())
		}
	default:
		return fmt.Errorf("unknown kind %d", f.Kind)
	}
	return nil
}

// Split cuts a metadata file, manifest or offer into frames that answer request. b is not empty.
func Split(kind FrameKind, request uint32, b []byte) ([]Frame, error) {
	total := (len(b) + MaxBlockBytes - 1) / MaxBlockBytes
	if total == 0 || total > MaxParts {
		return nil, fmt.Errorf("split answer: %d bytes, want 1 to %d", len(b), MaxParts*MaxBlockBytes)
	}
	var frames []Frame
	for i := range total {
		end := min(len(b), (i+1)*MaxBlockBytes)
		frames = append(frames, Frame{Kind: kind, Request: request, Index: uint32(i), Total: uint32(total), Body: b[i*MaxBlockBytes : end]})
	}
	return frames, nil
}

// Parts puts the frames of one Split answer together again, in any order, repeats allowed.
// The zero value is not ready: set Kind, Request and Limit (bytes).
type Parts struct {
	Kind    FrameKind
	Request uint32
	Limit   int64 // refuse answers that are longer

	parts [][]byte
	seen  int
}

// Add takes one frame, and reports whether the answer is whole (then call Bytes). An error frame comes back as its
// *Error; a frame that doesn't belong here is an error and changes nothing. Body is copied.
func (p *Parts) Add(f Frame) (bool, error) {
	if f.Request != p.Request {
		return false, fmt.Errorf("join answer: frame answers request %d, not %d", f.Request, p.Request)
	}
	if err := f.Err(); err != nil {
		return false, err
	}
	if f.Kind != p.Kind {
		return false, fmt.Errorf("join answer: frame of kind %d, not %d", f.Kind, p.Kind)
	}
	if err := f.check(); err != nil {
		return false, fmt.Errorf("join answer: %w", err)
	}
	if int64(f.Total-1)*MaxBlockBytes >= p.Limit || f.Total == f.Index+1 && int64(f.Index)*MaxBlockBytes+int64(len(f.Body)) > p.Limit {
		return false, fmt.Errorf("join answer: %d parts, limit is %d bytes", f.Total, p.Limit)
	}
	if p.parts == nil {
		p.parts = make([][]byte, f.Total)
	}
	if len(p.parts) != int(f.Total) {
		return false, fmt.Errorf("join answer: %d parts, was %d", f.Total, len(p.parts))
	}
	if p.parts[f.Index] == nil {
		p.parts[f.Index] = append([]byte{}, f.Body...)
		p.seen++
	}
	return p.seen == len(p.parts), nil
}

// Bytes is the whole answer, nil while parts are missing.
func (p *Parts) Bytes() []byte {
	if p.parts == nil || p.seen != len(p.parts) {
		return nil
	}
	var b []byte
	for _, part := range p.parts {
		b = append(b, part...)
	}
	return b
}

// Clip cuts s to at most MaxErrorBytes of valid UTF-8, for error and detail fields.
func Clip(s string) string { return clip(s, MaxErrorBytes) }

func clip(s string, n int) string {
	if len(s) > n {
		s = s[:n]
		for len(s) > 0 && !utf8.RuneStart(s[len(s)-1]) {
			s = s[:len(s)-1]
		}
		if len(s) > 0 && s[len(s)-1] >= utf8.RuneSelf {
			s = s[:len(s)-1]
		}
	}
	if utf8.ValidString(s) {
		return s
	}
	b := make([]byte, 0, len(s))
	for _, r := range s {
		if r != utf8.RuneError {
			b = utf8.AppendRune(b, r)
		}
	}
	return string(b)
}
