package link

import (
	"bytes"
	"io"
	"testing"

	"github.com/klauspost/compress/zstd"

	"dunlin.dev/dunlin/agent/internal/store/storetest"
	"dunlin.dev/dunlin/fleet/wire"
)

// received is a transfer whose blocks are all here.
type received struct {
	Content
	encoded []byte
}

func (r received) TransferReader(string, int) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(r.encoded)), nil
}

// Whatever a server sends as a component's encoding, only the bytes of the signed digest become a blob.
func FuzzAssemble(f *testing.F) {
	base, target := bytes.Repeat([]byte("base "), 1000), bytes.Repeat([]byte("target "), 1000)
	for _, dict := range [][]byte{nil, base} {
		opts := []zstd.EOption{zstd.WithEncoderLevel(zstd.SpeedBestCompression)}
		if dict != nil {
			opts = append(opts, zstd.WithEncoderDictRaw(0, dict))
		}
		enc, err := zstd.NewWriter(nil, opts...)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(enc.EncodeAll(target, nil), uint8(len(opts)))
	}
	f.Add(target, uint8(0))
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xa4, 0xff, 0xff, 0xff, 0x7f}, uint8(1)) // claims 2 GiB
	s := storetest.Open(f)
	if err := s.PutBlob(wire.Sum(base).String(), int64(len(base)), bytes.NewReader(base)); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, encoded []byte, kind uint8) {
		digest := wire.Sum(target)
		o := wire.Offer{Kind: wire.EncodingRaw + wire.EncodingKind(kind%3), Target: digest, Size: int64(len(target)), Base: wire.Sum(base)}
		err := assemble(received{s, encoded}, o)
		got, ok, readErr := s.Blob(digest.String())
		if readErr != nil || ok != (err == nil) || ok && !bytes.Equal(got, target) {
			t.Fatalf("%v, and a blob: %t, %v", err, ok, readErr)
		}
		if ok {
			if err := s.DeleteBlob(digest.String()); err != nil {
				t.Fatal(err)
			}
		}
	})
}
