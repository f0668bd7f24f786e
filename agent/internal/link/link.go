// Package link is the board's one MQTT session with its fleet. It speaks fleet/wire only: it says hello, hands on what the
// fleet desires, reports, and fetches content by digest with resume. It believes nothing: that is package trust's.
package link

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"dunlin.dev/dunlin/agent/internal/mqttconn"
	"dunlin.dev/dunlin/fleet/wire"
)

// Config of a Link. The functions are called on the link's own goroutines and must not block.
type Config struct {
	URL    string // mqtt://host[:port]
	Fleet  string
	Device string
	Token  string // the fleet's join token

	KeepAlive time.Duration // how long the connection may be silent before the server is asked whether it is there; 0 is a minute
	Silence   time.Duration // how long an answer may make no progress before its request is given up; 0 is 30 s: the fleet takes up to 20 s to make an encoding

	Now func() time.Time // what certificates are held against; nil: time.Now

	Hello     func(session string) wire.Hello // asked for at each connect
	OnUp      func()                          // connected, subscribed and said hello
	OnDesired func(envelope []byte)           // a desired envelope arrived: not verified
	OnDo      func(Request)                   // a request arrived: not verified
}

// Request is one of the fleet's, as it arrived.
type Request struct {
	Session  string // in which it came
	Envelope []byte
	Answer   func(context.Context, wire.Done) error // over the connection that it came over; returns when the broker has it
}

// ErrDown is returned for what needs a connection while there is none.
var ErrDown = errors.New("the fleet is not connected")

// Link is a session that comes and goes. Safe for concurrent use.
type Link struct {
	cfg Config
	log *slog.Logger

	mu      sync.Mutex
	client  mqtt.Client  // nil while down
	lost    chan<- error // ends the connection
	session string
	detail  string // why it is down
	expires time.Time
	pending map[uint32]*exchange
	nextID  uint32
}

// New makes a Link; Run connects it.
func New(cfg Config, log *slog.Logger) *Link {
	cfg.Silence, cfg.KeepAlive = cmp.Or(cfg.Silence, 30*time.Second), cmp.Or(cfg.KeepAlive, time.Minute)
	return &Link{cfg: cfg, log: log, detail: "not connected yet", pending: map[uint32]*exchange{}}
}

// Session is the current session's id, and whether the link is up.
func (l *Link) Session() (id string, up bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.session, l.client != nil
}

// Detail says why the link is down; empty while it is up.
func (l *Link) Detail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.detail
}

// CertificateExpires is when the certificate does that the server showed last; zero where it showed none.
func (l *Link) CertificateExpires() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.expires
}

func (l *Link) noteCertificate(s tls.ConnectionState) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expires = s.PeerCertificates[0].NotAfter
	return nil
}

// Run keeps the session up until ctx ends, reconnecting with a spread backoff. It returns ctx's error only.
func (l *Link) Run(ctx context.Context) error {
	var again mqttconn.Reconnect
	for {
		held, err := l.connected(ctx)
		l.down(err)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		delay := again.Pause(held, mathrand.Float64())
		l.log.Warn("fleet link is down", "cause", err, "retry_in", delay.Round(time.Millisecond))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(delay):
		}
	}
}

// connected is one connection from its start to its end; held is how long it was up.
func (l *Link) connected(ctx context.Context) (held time.Duration, err error) {
	session, err := newSession()
	if err != nil {
		return 0, err
	}
	lost := make(chan error, 2) // the client's own, and SendData's
	will, err := wire.MarshalState(wire.State{Online: false, Session: session})
	if err != nil {
		return 0, err
	}
	o := mqtt.NewClientOptions().
		AddBroker(l.cfg.URL).
		SetClientID(l.cfg.Fleet+"."+l.cfg.Device).
		SetUsername(l.cfg.Device).SetPassword(l.cfg.Token).
		SetCleanSession(true). // desired is retained and reports are whole states: nothing is lost with the session
		SetAutoReconnect(false).
		SetOrderMatters(true). // a newer desired state must not be overtaken by an older one; receive never blocks
		SetKeepAlive(l.cfg.KeepAlive).SetPingTimeout(min(20*time.Second, l.cfg.KeepAlive)).SetWriteTimeout(30*time.Second).SetConnectTimeout(min(20*time.Second, l.cfg.KeepAlive)).
		SetBinaryWill(l.topic(wire.ChannelState), will, 1, true).
		SetTLSConfig(&tls.Config{Time: l.cfg.Now, VerifyConnection: l.noteCertificate}).
		SetCustomOpenConnectionFn(mqttconn.Opener(wire.MaxMessageBytes + 1<<10)).
		SetConnectionLostHandler(func(_ mqtt.Client, err error) {
			select {
			case lost <- err:
			default:
			}
		})
	c := mqtt.NewClient(o)
	defer c.Disconnect(250)
	if err := wait(ctx, c.Connect()); err != nil {
		return 0, fmt.Errorf("connect %s: %w", l.cfg.URL, err)
	}
	defer func() {
		if ctx.Err() == nil {
			return
		}
		// A clean end sends no last will, so it is said here; a broker that is silent must not hold up a stop.
		bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = wait(bye, c.Publish(l.topic(wire.ChannelState), 1, true, will))
	}()
	filters := map[string]byte{}
	for _, f := range wire.DeviceFilters(l.cfg.Fleet, l.cfg.Device) {
		filters[f] = 1
	}
	if err := wait(ctx, c.SubscribeMultiple(filters, func(c mqtt.Client, m mqtt.Message) { l.receive(c, session, m) })); err != nil {
		return 0, fmt.Errorf("subscribe: %w", err)
	}
	hello, err := wire.MarshalHello(l.cfg.Hello(session))
	if err != nil {
		return 0, err
	}
	if err := wait(ctx, c.Publish(l.topic(wire.ChannelHello), 1, false, hello)); err != nil {
		return 0, fmt.Errorf("say hello: %w", err)
	}
	online, err := wire.MarshalState(wire.State{Online: true, Session: session})
	if err != nil {
		return 0, err
	}
	if err := wait(ctx, c.Publish(l.topic(wire.ChannelState), 1, true, online)); err != nil {
		return 0, fmt.Errorf("say online: %w", err)
	}
	l.mu.Lock()
	l.client, l.lost, l.session, l.detail = c, lost, session, ""
	l.mu.Unlock()
	l.log.Info("fleet link is up", "url", l.cfg.URL, "session", session)
	l.cfg.OnUp()
	up := time.Now()
	select {
	case err := <-lost:
		return time.Since(up), fmt.Errorf("connection lost: %w", err)
	case <-ctx.Done():
		return time.Since(up), ctx.Err()
	}
}

func (l *Link) topic(ch wire.Channel) string {
	return wire.Topic{Fleet: l.cfg.Fleet, Device: l.cfg.Device, Channel: ch}.Format()
}

// down forgets the connection and fails what waits for an answer.
func (l *Link) down(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.client = nil
	if cause != nil {
		l.detail = cause.Error()
	}
	for id, x := range l.pending {
		x.fail(ErrDown)
		delete(l.pending, id)
	}
}

// receive handles what the fleet sends. It never blocks: paho's reader waits for it.
func (l *Link) receive(c mqtt.Client, session string, m mqtt.Message) {
	t, err := wire.ParseTopic(m.Topic())
	if err != nil {
		return
	}
	switch t.Channel {
	case wire.ChannelDesired:
		if len(m.Payload()) > 0 {
			l.cfg.OnDesired(m.Payload())
		}
	case wire.ChannelBlock:
		l.answer(m.Payload())
	case wire.ChannelDo:
		l.cfg.OnDo(Request{Session: session, Envelope: m.Payload(), Answer: func(ctx context.Context, d wire.Done) error {
			b, err := wire.MarshalDone(d)
			if err != nil {
				return err
			}
			return wait(ctx, c.Publish(l.topic(wire.ChannelDone), 1, false, b))
		}})
	}
}

// Report sends the board's whole state.
func (l *Link) Report(ctx context.Context, r wire.Reported) error {
	b, err := wire.MarshalReported(r)
	if err != nil {
		return err
	}
	return l.publish(ctx, wire.ChannelReported, b)
}

// publish returns when the broker has acknowledged; what the connection is to blame for is ErrDown.
func (l *Link) publish(ctx context.Context, ch wire.Channel, payload []byte) error {
	l.mu.Lock()
	c := l.client
	l.mu.Unlock()
	if c == nil {
		return ErrDown
	}
	err := wait(ctx, c.Publish(l.topic(ch), 1, false, payload))
	if err == nil || ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("%w: publish %s: %w", ErrDown, ch, err)
}

// wait for a token, at most 30 s: a broker that accepts and then says nothing must not hold the link for ever.
func wait(ctx context.Context, tok mqtt.Token) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("the broker did not answer in 30s"))
	defer cancel()
	select {
	case <-tok.Done():
		return tok.Error()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func newSession() (string, error) {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("make session id: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

// SendData sends messages to the fleet in the session that is named, behind those that were sent in it before. taken returns when the fleet's broker has acknowledged them. After
// an error of either the session ends: what was sent behind them must not be taken while they are not.
func (l *Link) SendData(session string, d wire.Data) (taken func(context.Context) error, err error) {
	l.mu.Lock()
	c, lost, now := l.client, l.lost, l.session
	l.mu.Unlock()
	if c == nil || now != session {
		return nil, ErrDown
	}
	fail := func(err error) error {
		err = fmt.Errorf("publish %s: %w", wire.ChannelData, err)
		select {
		case lost <- err:
		default:
		}
		return err
	}
	b, err := wire.MarshalData(d)
	if err != nil {
		return nil, fail(err)
	}
	token := c.Publish(l.topic(wire.ChannelData), 1, false, b)
	return func(ctx context.Context) error {
		err := wait(ctx, token)
		if err == nil || ctx.Err() != nil {
			return err
		}
		return fail(err)
	}, nil
}
