package fleet

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"log/slog"
	"sync"
	"time"

	"dunlin.dev/dunlin/fleet/internal/broker"
	"dunlin.dev/dunlin/fleet/wire"
)

// boards is the server as the broker sees it: who may come in, and where messages go.
type boards Server

func (b *boards) Fleet() string { return b.registry.Fleet() }

// Authenticate: a board's password is the fleet's join token.
func (b *boards) Authenticate(device string, password []byte) bool {
	given := sha256.Sum256(password)
	if subtle.ConstantTimeCompare(given[:], b.join[:]) != 1 {
		return false
	}
	if !b.devices.Admits(device) {
		b.cfg.Log.Warn("refuse device: the fleet is full", "device", device)
		return false
	}
	return true
}

// Receive hands a message to its part. Bytes that don't decode are acknowledged and dropped: sent again they would be no
// better.
func (b *boards) Receive(m broker.Message) error {
	switch m.Channel {
	case wire.ChannelHello:
		h, err := wire.UnmarshalHello(m.Payload)
		if err != nil {
			return b.drop(m, err)
		}
		err = b.devices.Hello(m.Device, m.Connection, h)
		if err == nil && m.Connection != 0 {
			b.requests.Gone(m.Device, h.Session)
		}
		return err
	case wire.ChannelState:
		s, err := wire.UnmarshalState(m.Payload)
		if err != nil {
			return b.drop(m, err)
		}
		b.devices.State(m.Device, s)
	case wire.ChannelReported:
		r, err := wire.UnmarshalReported(m.Payload)
		if err != nil {
			return b.drop(m, err)
		}
		return b.devices.Reported(m.Device, r)
	case wire.ChannelGet:
		g, err := wire.UnmarshalGet(m.Payload)
		if err != nil {
			return b.drop(m, err)
		}
		b.content.Ask(m.Device, g)
	case wire.ChannelData:
		d, err := wire.UnmarshalData(m.Payload)
		if err != nil {
			return b.drop(m, err)
		}
		_, err = b.store.AddUplinks(m.Device, b.cfg.Now().UTC(), d, b.cfg.MaxUplinks)
		return err
	case wire.ChannelLog:
		l, err := wire.UnmarshalLog(m.Payload)
		if err != nil {
			return b.drop(m, err)
		}
		for _, line := range l.Lines {
			b.cfg.Log.Debug("device log", "device", m.Device, "application", line.Application, "component", line.Component, "level", line.Level, "text", line.Text)
		}
	case wire.ChannelDone:
		d, err := wire.UnmarshalDone(m.Payload)
		if err != nil {
			return b.drop(m, err)
		}
		if !b.requests.Done(m.Device, d) {
			return b.drop(m, errors.New("an answer to a request that nobody waits for"))
		}
	}
	return nil
}

func (b *boards) Disconnected(device string, connection uint64) {
	b.devices.Disconnected(device, connection)
	b.requests.Gone(device, "")
}

func (b *boards) drop(m broker.Message, err error) error {
	if dropped, ok := b.noise.allow(b.cfg.Now()); ok {
		b.cfg.Log.Log(context.Background(), slog.LevelDebug, "drop message", "device", m.Device, "channel", string(m.Channel), "bytes", len(m.Payload), "error", err, "more", dropped)
	}
	return nil
}

// limiter lets ten events a second pass, and counts the others.
type limiter struct {
	mu      sync.Mutex
	second  int64
	n       int
	dropped int
}

func (l *limiter) allow(now time.Time) (dropped int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := now.Unix(); s != l.second {
		l.second, l.n = s, 0
	}
	if l.n++; l.n > 10 {
		l.dropped++
		return 0, false
	}
	dropped, l.dropped = l.dropped, 0
	return dropped, true
}
