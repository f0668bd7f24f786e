package fleet_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"testing"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/klauspost/compress/zstd"

	"dunlin.dev/dunlin/fleet"
	"dunlin.dev/dunlin/fleet/internal/content/contenttest"
	"dunlin.dev/dunlin/fleet/wire"
)

// offer asks until the encoding is made, as a board does.
func (b *board) offer(target []byte, have ...wire.Digest) wire.Offer {
	b.t.Helper()
	for request := uint32(100); ; request++ {
		raw, err := b.answer(wire.Get{Request: request, Offer: &wire.OfferRequest{
			Target: wire.Sum(target), Size: int64(len(target)), Have: have, BlockBytes: wire.DefaultBlockBytes,
		}}, wire.FrameOffer)
		var busy *wire.Error
		if errors.As(err, &busy) && busy.Retryable() {
			continue
		}
		if err != nil {
			b.t.Fatal(err)
		}
		o, err := wire.UnmarshalOffer(raw)
		if err != nil {
			b.t.Fatal(err)
		}
		return o
	}
}

func decode(t *testing.T, o wire.Offer, encoded, base []byte) []byte {
	t.Helper()
	if o.Kind == wire.EncodingRaw {
		return encoded
	}
	var opts []zstd.DOption
	if o.Kind == wire.EncodingZstdPatch {
		opts = append(opts, zstd.WithDecoderDictRaw(0, base))
	}
	d, err := zstd.NewReader(bytes.NewReader(encoded), opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	out, err := io.ReadAll(io.LimitReader(d, o.Size+1))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// 12 MB over a link that loses frames, loses the connection and loses the server: it goes on where it stopped.
func TestTransferGoesOnOverLostFramesConnectionsAndServers(t *testing.T) {
	dir := t.TempDir()
	s := start(t, fleet.Config{Data: dir})
	found(t, s)
	target := contenttest.Program(12<<20, 1)
	upload(t, s, target)
	b := connect(t, s, "board", nil)
	o := b.offer(target)
	if o.Kind != wire.EncodingZstd || len(o.Blocks) < 40 {
		t.Fatalf("offer of kind %s in %d blocks; the story wants many", o.Kind, len(o.Blocks))
	}
	blocks := wire.NewBlocks(uint32(len(o.Blocks)))
	encoded := make([]byte, o.Encoded)
	loss := rand.New(rand.NewPCG(1, 2))
	received, request := 0, uint32(2000)
	cuts := map[uint32]func(){
		blocks.Total() / 3: func() {
			b.c.Disconnect(0)
			b = connect(t, s, "board", nil)
		},
		blocks.Total() * 6 / 10: func() {
			b.c.Disconnect(0)
			s.stop()
			s = start(t, fleet.Config{Data: dir, HTTP: s.http, MQTT: s.mqtt})
			b = connect(t, s, "board", nil)
		},
	}
	for !blocks.Done() {
		for at, cut := range cuts {
			if blocks.Have() >= at {
				delete(cuts, at)
				cut()
			}
		}
		request++
		ranges := blocks.Next(16)
		b.ask(wire.Get{Request: request, Blocks: &wire.BlockRequest{Encoding: o.ID(), Ranges: ranges}})
		for n := count(ranges); n > 0; {
			f := receive(t, b.frames)
			if f.Request != request {
				continue // of the connection before
			}
			n--
			if err := f.Err(); err != nil {
				t.Fatal(err)
			}
			received++
			if loss.IntN(10) == 0 {
				continue // lost on the way
			}
			at, err := o.Block(f)
			if err != nil {
				t.Fatal(err)
			}
			copy(encoded[at:], f.Body)
			blocks.Add(f.Index)
		}
	}
	if !bytes.Equal(decode(t, o, encoded, nil), target) {
		t.Error("what arrived is not the target")
	}
	if most := len(o.Blocks) * 5 / 4; received > most {
		t.Errorf("%d blocks were sent for an encoding of %d, want at most %d: it started over", received, len(o.Blocks), most)
	}
}

func count(ranges []wire.Range) (n int) {
	for _, r := range ranges {
		n += int(r.Count)
	}
	return n
}

func TestOneLineChangeTravelsAsASmallPatch(t *testing.T) {
	s := start(t, fleet.Config{})
	found(t, s)
	v1 := contenttest.Program(12<<20, 1)
	at := len(v1) / 2
	v2 := append(append(append([]byte{}, v1[:at]...), "Hello, greenhouse! It is warm in here."...), v1[at+5:]...)
	upload(t, s, v1)
	upload(t, s, v2)
	b := connect(t, s, "board", nil)
	o := b.offer(v2, wire.Sum([]byte("unknown to the server")), wire.Sum(v1))
	if o.Kind != wire.EncodingZstdPatch || o.Base != wire.Sum(v1) {
		t.Fatalf("offer is %s against %s", o.Kind, o.Base.Short())
	}
	if o.Encoded > o.Size/100 {
		t.Errorf("patch of %d bytes for a target of %d, want at most a hundredth", o.Encoded, o.Size)
	}
	t.Logf("patch of %d bytes for a target of %d", o.Encoded, o.Size)
	b.ask(wire.Get{Request: 1, Blocks: &wire.BlockRequest{Encoding: o.ID(), Ranges: []wire.Range{{First: 0, Count: uint32(len(o.Blocks))}}}})
	var encoded []byte
	for range o.Blocks {
		encoded = append(encoded, receive(t, b.frames).Body...)
	}
	if !bytes.Equal(decode(t, o, encoded, v1), v2) {
		t.Error("the patch doesn't give the target")
	}
}

func TestUnanswerableRequestsGetTheirErrorCode(t *testing.T) {
	s := start(t, fleet.Config{})
	found(t, s)
	content := contenttest.Program(100_000, 2)
	d := upload(t, s, content)
	b := connect(t, s, "board", nil)
	o := b.offer(content)
	none := wire.Sum([]byte("none"))
	for name, c := range map[string]struct {
		get  wire.Get
		code wire.ErrorCode
	}{
		"metadata version":    {wire.Get{Request: 1, Meta: &wire.MetaRequest{Role: wire.RoleRoot, Version: 9}}, wire.CodeNotFound},
		"release":             {wire.Get{Request: 2, Meta: &wire.MetaRequest{Role: wire.RoleRelease, Digest: &none}}, wire.CodeNotFound},
		"blob":                {wire.Get{Request: 3, Offer: &wire.OfferRequest{Target: none, Size: 5, BlockBytes: 4096}}, wire.CodeNotFound},
		"size that isn't so":  {wire.Get{Request: 4, Offer: &wire.OfferRequest{Target: d, Size: 5, BlockBytes: 4096}}, wire.CodeBadRequest},
		"encoding":            {wire.Get{Request: 5, Blocks: &wire.BlockRequest{Encoding: none, Ranges: []wire.Range{{Count: 1}}}}, wire.CodeUnknownEncoding},
		"block beyond it":     {wire.Get{Request: 6, Blocks: &wire.BlockRequest{Encoding: o.ID(), Ranges: []wire.Range{{First: 1 << 20, Count: 1}}}}, wire.CodeBadRequest},
		"block at the corner": {wire.Get{Request: 7, Blocks: &wire.BlockRequest{Encoding: o.ID(), Ranges: []wire.Range{{First: 1<<32 - 1, Count: 1}}}}, wire.CodeBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			b.t = t
			b.ask(c.get)
			f := receive(t, b.frames)
			var e *wire.Error
			if !errors.As(f.Err(), &e) || e.Code != c.code || f.Request != c.get.Request {
				t.Errorf("answer to %d: %v, want code %s", f.Request, f.Err(), c.code)
			}
		})
	}
}

// A device whose socket takes nothing any more asks for megabytes; another one's transfer goes on at once.
func TestSlowDeviceStarvesNobody(t *testing.T) {
	s := start(t, fleet.Config{})
	found(t, s)
	content := make([]byte, 8<<20)
	if _, err := rand.NewChaCha8([32]byte{1}).Read(content); err != nil {
		t.Fatal(err)
	}
	upload(t, s, content)
	fast := connect(t, s, "fast", nil)
	o := fast.offer(content)

	gate := make(chan struct{})
	opts := options(s, "slow").SetCustomOpenConnectionFn(gated(s.mqtt, gate))
	slow := mqtt.NewClient(opts)
	must(t, slow.Connect())
	must(t, slow.Subscribe(topic("slow", wire.ChannelBlock), 0, nil))
	hello, err := wire.MarshalHello(wire.Hello{Version: wire.Version, Session: "slow", Agent: "0.1.0", Arch: "arm64", Boot: "b0"})
	if err != nil {
		t.Fatal(err)
	}
	must(t, slow.Publish(topic("slow", wire.ChannelHello), 1, false, hello))
	close(gate) // from here on it reads nothing
	for i := range uint32(40) {
		p, err := wire.MarshalGet(wire.Get{Request: i, Blocks: &wire.BlockRequest{Encoding: o.ID(), Ranges: []wire.Range{{First: 0, Count: wire.MaxWindow}}}})
		if err != nil {
			t.Fatal(err)
		}
		slow.Publish(topic("slow", wire.ChannelGet), 0, false, p)
	}
	for i := range uint32(2) {
		fast.ask(wire.Get{Request: i, Blocks: &wire.BlockRequest{Encoding: o.ID(), Ranges: []wire.Range{{First: i * 60, Count: 60}}}})
		for range 60 {
			if _, err := o.Block(receive(t, fast.frames)); err != nil {
				t.Fatal(err)
			}
		}
	}
	// The slow one is still stuck: the fast one didn't wait until the server gave up on it.
	d, err := s.client().Device(t.Context(), "slow")
	if err != nil || !d.Online {
		t.Errorf("the slow device: online %v, %v; the fast one was served after it", d.Online, err)
	}
}

// gated opens connections that stop reading when gate is closed.
func gated(addr string, gate chan struct{}) mqtt.OpenConnectionFunc {
	return func(_ *url.URL, _ mqtt.ClientOptions) (net.Conn, error) {
		c, err := net.DialTimeout("tcp", addr, patience)
		if err != nil {
			return nil, err
		}
		if err := c.(*net.TCPConn).SetReadBuffer(4096); err != nil {
			return nil, err
		}
		return &gatedConn{Conn: c, gate: gate, closed: make(chan struct{})}, nil
	}
}

type gatedConn struct {
	net.Conn
	gate, closed chan struct{}
}

func (g *gatedConn) Read(b []byte) (int, error) {
	select {
	case <-g.gate:
		<-g.closed
		return 0, net.ErrClosed
	default:
		return g.Conn.Read(b)
	}
}

func (g *gatedConn) Close() error {
	select {
	case <-g.closed:
	default:
		close(g.closed)
	}
	return g.Conn.Close()
}
