package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/klauspost/compress/zstd"

	"dunlin.dev/dunlin/agent/internal/crash"
	"dunlin.dev/dunlin/agent/internal/store"
	"dunlin.dev/dunlin/fleet/wire"
)

// Content is where fetched bytes go: finished blobs, and transfers that survive a restart.
type Content interface {
	BeginTransfer(target string, meta []byte) error
	Transfer(target string) (t store.Transfer, ok bool, err error)
	PutBlocks(target string, blocks map[int][]byte) error
	TransferReader(target string, blocks int) (io.ReadCloser, error)
	EndTransfer(target string) error
	PutBlob(digest string, size int64, r io.Reader) error
	Blob(digest string) (data []byte, ok bool, err error)
}

const (
	window = 16 // blocks that one request asks for: 1 MiB of the default size
	batch  = 4  // blocks that one commit stores: a crash costs at most these
)

// Fetch brings a blob of a known digest and size onto the board: as a patch against one of have, or whole, in blocks that are
// checked one by one and kept, so that it goes on where it stopped after any interruption. progress is told encoded bytes.
func (l *Link) Fetch(ctx context.Context, to Content, target wire.Digest, size int64, have []wire.Digest, progress func(done, total int64)) error {
	if err := l.fetch(ctx, to, target, size, have, progress); err != nil {
		return fmt.Errorf("fetch %s: %w", target.Short(), err)
	}
	return nil
}

func (l *Link) fetch(ctx context.Context, to Content, target wire.Digest, size int64, have []wire.Digest, progress func(done, total int64)) error {
	if size > store.MaxBlob {
		return fmt.Errorf("it has %d bytes, and a board stores at most %d of one component", size, store.MaxBlob)
	}
	for renewed := false; ; renewed = true {
		offer, blocks, err := l.begin(ctx, to, target, size, have)
		if err != nil {
			return err
		}
		err = l.pull(ctx, to, offer, blocks, progress)
		var answer *wire.Error
		if errors.As(err, &answer) && answer.Code == wire.CodeUnknownEncoding && !renewed {
			// The fleet forgot the encoding since: what is here of it is of no use any more.
			if err := to.EndTransfer(target.String()); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if err := assemble(to, offer); err != nil {
			// Every block was as offered and the whole is not the target: the offer was wrong. Start over the next time.
			return errors.Join(err, to.EndTransfer(target.String()))
		}
		return to.EndTransfer(target.String())
	}
}

// begin goes on with the stored transfer of target, or asks for an offer and stores it.
func (l *Link) begin(ctx context.Context, to Content, target wire.Digest, size int64, have []wire.Digest) (wire.Offer, *wire.Blocks, error) {
	stored, ok, err := to.Transfer(target.String())
	if err != nil {
		return wire.Offer{}, nil, err
	}
	if ok {
		offer, err := wire.UnmarshalOffer(stored.Meta)
		if err == nil && checkOffer(offer, target, size, have) == nil {
			blocks := wire.NewBlocks(uint32(len(offer.Blocks)))
			for _, i := range stored.Have {
				blocks.Add(uint32(i))
			}
			l.log.Info("a transfer goes on", "target", target.Short(), "encoding", offer.Kind.String(), "blocks", blocks.Have(), "of", blocks.Total())
			return offer, blocks, nil
		}
	}
	b, err := l.join(ctx, wire.Get{Offer: &wire.OfferRequest{Target: target, Size: size, Have: have, BlockBytes: wire.DefaultBlockBytes}}, wire.FrameOffer, wire.MaxOfferBytes)
	if err != nil {
		return wire.Offer{}, nil, fmt.Errorf("ask for an offer: %w", err)
	}
	offer, err := wire.UnmarshalOffer(b)
	if err != nil {
		return wire.Offer{}, nil, err
	}
	if err := checkOffer(offer, target, size, have); err != nil {
		return wire.Offer{}, nil, fmt.Errorf("check offer: %w", err)
	}
	l.log.Info("a transfer begins", "target", target.Short(), "encoding", offer.Kind.String(), "bytes", offer.Encoded, "of", size)
	return offer, wire.NewBlocks(uint32(len(offer.Blocks))), to.BeginTransfer(target.String(), b)
}

// checkOffer refuses what could only cost a transfer: the wrong content, an encoding that is larger than the content itself, or
// a patch against something that isn't here.
func checkOffer(o wire.Offer, target wire.Digest, size int64, have []wire.Digest) error {
	switch {
	case o.Target != target || o.Size != size:
		return fmt.Errorf("it is for %s of %d bytes, asked for %s of %d", o.Target.Short(), o.Size, target.Short(), size)
	case o.Encoded > size:
		return fmt.Errorf("%d bytes to send %d", o.Encoded, size)
	case o.Kind == wire.EncodingZstdPatch && !slices.Contains(have, o.Base):
		return fmt.Errorf("it is a patch of %s, which is not on the board", o.Base.Short())
	}
	return nil
}

// pull fetches the missing blocks, a window at a time.
func (l *Link) pull(ctx context.Context, to Content, offer wire.Offer, blocks *wire.Blocks, progress func(done, total int64)) error {
	id := offer.ID()
	done := func() int64 { return min(int64(blocks.Have())*int64(offer.BlockBytes), offer.Encoded) }
	progress(done(), offer.Encoded)
	keep := func(got map[int][]byte) error {
		if err := to.PutBlocks(offer.Target.String(), got); err != nil {
			return err
		}
		for i := range got {
			blocks.Add(uint32(i))
		}
		progress(done(), offer.Encoded)
		l.log.Debug("blocks are stored", "target", offer.Target.Short(), "blocks", blocks.Have(), "of", blocks.Total())
		return nil
	}
	for stalled := 0; !blocks.Done(); {
		before := blocks.Have()
		err := l.blocks(ctx, offer, id, blocks.Next(window), keep)
		if blocks.Have() > before {
			stalled = 0
		}
		if errors.Is(err, errSilent) && stalled < 3 {
			stalled++ // answers are not acknowledged one by one: what was lost is asked for again
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// blocks asks for some ranges and keeps what comes and is as offered, a batch at a time, up to what ends it early.
func (l *Link) blocks(ctx context.Context, offer wire.Offer, id wire.Digest, ranges []wire.Range, keep func(map[int][]byte) error) error {
	left := map[uint32]bool{}
	for _, r := range ranges {
		for i := range r.Count {
			left[r.First+i] = true
		}
	}
	got := map[int][]byte{}
	flush := func() error {
		if len(got) == 0 {
			return nil
		}
		defer clear(got)
		return keep(got)
	}
	err := l.ask(ctx, wire.Get{Blocks: &wire.BlockRequest{Encoding: id, Ranges: ranges}}, 2*len(left), func(f wire.Frame) (bool, error) {
		if _, err := offer.Block(f); err != nil {
			return false, err
		}
		if !left[f.Index] {
			return false, nil // a repeat, or one that was not asked for
		}
		delete(left, f.Index)
		got[int(f.Index)] = f.Body
		if len(got) == batch || len(left) == 0 {
			return len(left) == 0, flush()
		}
		return false, nil
	})
	return errors.Join(err, flush())
}

// assemble decodes the transfer into the target's blob. What comes out is bounded by the signed size and must have the signed
// digest before anything else looks at it.
func assemble(to Content, o wire.Offer) error {
	r, err := to.TransferReader(o.Target.String(), len(o.Blocks))
	if err != nil {
		return err
	}
	defer r.Close()
	if o.Kind == wire.EncodingRaw {
		return to.PutBlob(o.Target.String(), o.Size, r)
	}
	// The frame's window may be as large as the target rounded up to a power of two, and no larger.
	limit := uint64(1 << 20)
	for limit < uint64(o.Size) {
		limit <<= 1
	}
	opts := []zstd.DOption{zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(limit), zstd.WithDecoderMaxMemory(limit), zstd.WithDecoderLowmem(true)}
	if o.Kind == wire.EncodingZstdPatch {
		base, ok, err := to.Blob(o.Base.String())
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("apply patch: its base %s is not on the board any more", o.Base.Short())
		}
		opts = append(opts, zstd.WithDecoderDictRaw(0, base))
	}
	dec, err := zstd.NewReader(r, opts...)
	if err != nil {
		return fmt.Errorf("decode %s: %w", o.Kind, err)
	}
	defer dec.Close()
	if o.Kind == wire.EncodingZstdPatch {
		crash.At("patch")
		defer crash.At("patched")
	}
	return to.PutBlob(o.Target.String(), o.Size, io.LimitReader(dec, o.Size+1))
}
