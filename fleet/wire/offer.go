package wire

import (
	"encoding/binary"
	"fmt"
)

// EncodingKind is how an encoding's bytes become the target's. Append only.
type EncodingKind uint8

// Encoding kinds.
const (
	EncodingRaw       EncodingKind = 1 // the target itself
	EncodingZstd      EncodingKind = 2 // one zstd stream
	EncodingZstdPatch EncodingKind = 3 // one zstd stream with the base as raw-content dictionary
)

func (k EncodingKind) String() string {
	switch k {
	case EncodingRaw:
		return "raw"
	case EncodingZstd:
		return "zstd"
	case EncodingZstdPatch:
		return "zstd-patch"
	}
	return fmt.Sprintf("encoding %d", uint8(k))
}

// Offer is how the fleet would send a target: the encoding, cut into blocks, each with its digest. Nothing in it is
// trusted: a wrong offer costs a transfer, and the target must match the signed digest in the end.
type Offer struct {
	Kind       EncodingKind
	Target     Digest
	Size       int64  // target bytes
	Base       Digest // EncodingZstdPatch only: a blob that the board named
	Encoded    int64  // encoding's bytes
	BlockBytes int    // all blocks but the last
	Blocks     []Digest
}

// On the wire, big endian: "DO", version (1), kind, block size (4), size (8), encoded (8), target (32), base (32), block digests.
const (
	offerMagic0, offerMagic1 = 'D', 'O'
	offerVersion             = 1
	offerHeaderBytes         = 88
)

// MaxOfferBytes bounds a marshalled offer, for Parts.Limit.
const MaxOfferBytes = 8 << 20

// NewOffer describes encoded, cut into blocks of blockBytes.
func NewOffer(kind EncodingKind, target Digest, size int64, base Digest, encoded []byte, blockBytes int) (Offer, error) {
	o := Offer{Kind: kind, Target: target, Size: size, Base: base, Encoded: int64(len(encoded)), BlockBytes: blockBytes}
	if blockBytes >= MinBlockBytes {
		for at := 0; at < len(encoded); at += blockBytes {
			o.Blocks = append(o.Blocks, Sum(encoded[at:min(len(encoded), at+blockBytes)]))
		}
	}
	if err := o.check(); err != nil {
		return Offer{}, fmt.Errorf("make offer: %w", err)
	}
	return o, nil
}

// ID names the offer's encoding with its list of blocks: the digest of MarshalOffer's bytes. Block requests and frames carry it.
func (o Offer) ID() Digest { return Sum(o.append(nil)) }

// MarshalOffer gives the bytes of o.
func MarshalOffer(o Offer) ([]byte, error) {
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("encode offer: %w", err)
	}
	return o.append(nil), nil
}

func (o Offer) append(b []byte) []byte {
	b = append(b, offerMagic0, offerMagic1, offerVersion, byte(o.Kind))
	b = binary.BigEndian.AppendUint32(b, uint32(o.BlockBytes))
	b = binary.BigEndian.AppendUint64(b, uint64(o.Size))
	b = binary.BigEndian.AppendUint64(b, uint64(o.Encoded))
	b = append(b, o.Target[:]...)
	b = append(b, o.Base[:]...)
	for _, d := range o.Blocks {
		b = append(b, d[:]...)
	}
	return b
}

// UnmarshalOffer is the inverse of MarshalOffer.
func UnmarshalOffer(b []byte) (Offer, error) {
	if len(b) < offerHeaderBytes || len(b) > MaxOfferBytes || b[0] != offerMagic0 || b[1] != offerMagic1 {
		return Offer{}, fmt.Errorf("decode offer: %d bytes that aren't an offer", len(b))
	}
	if b[2] != offerVersion {
		return Offer{}, fmt.Errorf("decode offer: version %d, this build reads %d: %w", b[2], offerVersion, ErrVersion)
	}
	list := b[offerHeaderBytes:]
	if len(list)%len(Digest{}) != 0 {
		return Offer{}, fmt.Errorf("decode offer: block list of %d bytes", len(list))
	}
	o := Offer{
		Kind:       EncodingKind(b[3]),
		BlockBytes: int(binary.BigEndian.Uint32(b[4:])),
		Size:       int64(binary.BigEndian.Uint64(b[8:])),
		Encoded:    int64(binary.BigEndian.Uint64(b[16:])),
		Target:     Digest(b[24:56]),
		Base:       Digest(b[56:88]),
	}
	for ; len(list) > 0; list = list[len(Digest{}):] {
		o.Blocks = append(o.Blocks, Digest(list[:len(Digest{})]))
	}
	if err := o.check(); err != nil {
		return Offer{}, fmt.Errorf("decode offer: %w", err)
	}
	return o, nil
}

func (o Offer) check() error {
	switch o.Kind {
	case EncodingRaw:
		if o.Encoded != o.Size {
			return fmt.Errorf("raw encoding of %d bytes for a target of %d", o.Encoded, o.Size)
		}
	case EncodingZstd, EncodingZstdPatch:
	default:
		return fmt.Errorf("unknown encoding kind %d", o.Kind)
	}
	if (o.Kind == EncodingZstdPatch) == o.Base.IsZero() {
		return fmt.Errorf("%s encoding with base %s", o.Kind, o.Base)
	}
	if o.Size < 1 || o.Size > MaxBlobBytes || o.Encoded < 1 || o.Encoded > MaxBlobBytes {
		return fmt.Errorf("%d bytes for a target of %d, want 1 to %d", o.Encoded, o.Size, MaxBlobBytes)
	}
	if o.BlockBytes < MinBlockBytes || o.BlockBytes > MaxBlockBytes {
		return fmt.Errorf("blocks of %d bytes, want %d to %d", o.BlockBytes, MinBlockBytes, MaxBlockBytes)
	}
	if want := (o.Encoded + int64(o.BlockBytes) - 1) / int64(o.BlockBytes); int64(len(o.Blocks)) != want {
		return fmt.Errorf("%d block digests, want %d", len(o.Blocks), want)
	}
	if len(o.Blocks) > (MaxOfferBytes-offerHeaderBytes)/len(Digest{}) {
		return fmt.Errorf("%d blocks are too many: ask for larger ones", len(o.Blocks))
	}
	return nil
}

// BlockLen is the length of block i in bytes, 0 beyond the last.
func (o Offer) BlockLen(i uint32) int {
	switch n := uint32(len(o.Blocks)); {
	case i >= n:
		return 0
	case i == n-1:
		return int(o.Encoded - int64(i)*int64(o.BlockBytes))
	}
	return o.BlockBytes
}

// Block checks a FrameBlock against the offer: right encoding, index, length and digest. It returns the block's offset
// in the encoding.
func (o Offer) Block(f Frame) (offset int64, err error) {
	if f.Kind != FrameBlock || f.Encoding != o.ID() {
		return 0, fmt.Errorf("check block %d: frame of kind %d for encoding %s", f.Index, f.Kind, f.Encoding.Short())
	}
	if f.Total != uint32(len(o.Blocks)) || f.Index >= f.Total || len(f.Body) != o.BlockLen(f.Index) {
		return 0, fmt.Errorf("check block %d of %d: %d bytes, want block of %d", f.Index, f.Total, len(f.Body), o.BlockLen(f.Index))
	}
	if got := Sum(f.Body); got != o.Blocks[f.Index] {
		return 0, fmt.Errorf("check block %d: digest %s, offer says %s", f.Index, got.Short(), o.Blocks[f.Index].Short())
	}
	return int64(f.Index) * int64(o.BlockBytes), nil
}
