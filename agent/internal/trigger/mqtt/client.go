package mqtt

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"slices"
	"sync"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"dunlin.dev/dunlin/agent/internal/inbox"
	"dunlin.dev/dunlin/agent/internal/mqttconn"
	"dunlin.dev/dunlin/agent/internal/trigger"
)

// brokerTimeout bounds each exchange with the broker: connect, subscribe, write.
const brokerTimeout = 10 * time.Second

// ClientConfig of a connection to an outside broker.
type ClientConfig struct {
	URL      string // mqtt://[user:password@]host[:port] or mqtts://
	ClientID string // names the session that the broker keeps; must not change
	Inbox    *inbox.Box
	Now      func() time.Time // what certificates are held against; nil: time.Now
	Limits   Limits

	KeepAlive time.Duration // how long a connection may be silent before the broker is asked whether it is there; 0: 30 s
}

// Client is a session with an outside broker and the source of its messages. The session is persistent: the broker keeps
// messages of QoS 1 and 2 while the agent is away. Filters that overlap may bring a message once for each, with brokers
// that deliver so (Mosquitto does not).
type Client struct {
	cfg     ClientConfig
	log     *slog.Logger
	queue   *dispatcher
	ready   chan struct{}
	up      sync.Once     // closes ready
	changed chan struct{} // holds one: the subscriptions have

	mu       sync.Mutex
	status   trigger.Status
	conn     *connection         // nil while there is none
	received map[uint16]*receipt // by packet id of the session
	ids      ids
	granted  map[string]byte // what the session is subscribed to, as far as this process knows
}

// connection is one paho client; a new one is made for each, since paho keeps the tokens of a lost one for ever.
type connection struct {
	paho.Client
	lost     chan struct{} // closed with err set
	loseOnce sync.Once
	err      error
}

func (c *connection) lose(err error) {
	c.loseOnce.Do(func() {
		c.err = err
		close(c.lost)
	})
}

// NewClient makes a client; Run connects.
func NewClient(cfg ClientConfig, log *slog.Logger) *Client {
	c := &Client{
		cfg: cfg, log: log, queue: newDispatcher(cfg.Limits, cfg.Inbox, log), ready: make(chan struct{}), changed: make(chan struct{}, 1),
		received: map[uint16]*receipt{}, granted: map[string]byte{},
	}
	c.cfg.Limits, c.cfg.KeepAlive = cfg.Limits.Complete(), cmp.Or(cfg.KeepAlive, 30*time.Second)
	c.setStatus(trigger.Stopped, "not started")
	return c
}

// Set replaces the subscriptions. One that is unchanged keeps its queue, and nothing is said to the broker about it; its
// next event goes to the new handler.
func (c *Client) Set(subs []Subscription) error {
	if _, err := c.queue.set(subs); err != nil {
		return err
	}
	select {
	case c.changed <- struct{}{}:
	default:
	}
	return nil
}

// Run keeps the session up until ctx ends, then waits for events in flight. A broker that is not there is tried again, with
// growing pauses; only a config that can't work is an error.
func (c *Client) Run(ctx context.Context) error {
	u, err := url.Parse(c.cfg.URL)
	if err != nil || u.Host == "" {
		err = fmt.Errorf("connect to broker: bus.url is not mqtt://host[:port] or mqtts://host[:port]")
		c.setStatus(trigger.Degraded, err.Error())
		return err
	}
	if err := c.remember(); err != nil {
		c.setStatus(trigger.Degraded, err.Error())
		return err
	}
	for again := (mqttconn.Reconnect{}); ctx.Err() == nil; {
		held, err := c.session(ctx, u)
		if ctx.Err() != nil {
			break
		}
		pause := again.Pause(held, rand.Float64())
		c.setStatus(trigger.Degraded, fmt.Sprintf("%v; next attempt %s", err, time.Now().Add(pause).Format(time.TimeOnly)))
		c.log.Warn("no connection to the broker", "url", u.Redacted(), "error", err, "pause", pause)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	c.setStatus(trigger.Stopped, "")
	return c.queue.stop()
}

// session is one connection, from dialling until it is lost or ctx ends; held is how long it was up.
func (c *Client) session(ctx context.Context, u *url.URL) (held time.Duration, err error) {
	conn := &connection{lost: make(chan struct{})}
	conn.Client = paho.NewClient(c.options(u, conn))
	defer conn.Disconnect(250)
	token := conn.Connect()
	if err := wait(ctx, conn, token); err != nil {
		return 0, fmt.Errorf("connect to %s: %w", u.Redacted(), err)
	}
	connect := token.(*paho.ConnectToken)
	if err := c.resume(conn, connect.SessionPresent()); err != nil {
		return 0, err
	}
	defer c.leave(conn)
	if !c.ids.asked { // Run's goroutine alone writes it while none asks
		asking, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() { defer close(done); c.recognise(asking) }()
		defer func() { cancel(); <-done }()
	}
	if err := c.subscribe(ctx, conn); err != nil {
		return 0, err
	}
	c.log.Info("connected to the broker", "url", u.Redacted(), "session", connect.SessionPresent())
	c.up.Do(func() { close(c.ready) })
	for up := time.Now(); ; {
		select {
		case <-c.changed:
			if err := c.subscribe(ctx, conn); err != nil {
				return time.Since(up), err
			}
		case <-conn.lost:
			return time.Since(up), conn.err
		case <-ctx.Done():
			// Still connected, so that what is in flight can be acknowledged.
			return time.Since(up), c.queue.stop()
		}
	}
}

func (c *Client) options(u *url.URL, conn *connection) *paho.ClientOptions {
	o := paho.NewClientOptions().AddBroker(u.String()).SetClientID(c.cfg.ClientID).SetProtocolVersion(4).SetCleanSession(false).
		SetAutoReconnect(false).SetConnectRetry(false).SetResumeSubs(false).
		SetConnectTimeout(c.patience()).SetWriteTimeout(brokerTimeout).SetKeepAlive(c.cfg.KeepAlive).SetPingTimeout(c.patience()).
		SetTLSConfig(&tls.Config{Time: c.cfg.Now}).
		SetCustomOpenConnectionFn(mqttconn.Opener(c.cfg.Limits.MaxPacket)).
		SetAutoAckDisabled(true).
		// paho's other mode starts a goroutine for each message, which loses their order. This one must never block.
		SetOrderMatters(true).
		SetStore(&releases{MemoryStore: paho.NewMemoryStore(), released: c.released}).
		SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) { c.take(conn, m) }).
		SetConnectionLostHandler(func(_ paho.Client, err error) { conn.lose(fmt.Errorf("connection lost: %w", err)) })
	if u.User != nil {
		o.SetUsername(u.User.Username())
		password, _ := u.User.Password()
		o.SetPassword(password)
	}
	return o
}

// patience with a broker that is asked something.
func (c *Client) patience() time.Duration { return min(brokerTimeout, c.cfg.KeepAlive) }

// wait for a paho token, the connection's end or ctx's.
func wait(ctx context.Context, conn *connection, t paho.Token) error {
	select {
	case <-t.Done():
		return t.Error()
	case <-conn.lost:
		return conn.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *Client) leave(conn *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == conn {
		c.conn = nil
	}
}

// subscribe tells the broker what has changed. A filter that it refuses degrades the source, and stops no other.
func (c *Client) subscribe(ctx context.Context, conn *connection) error {
	want := c.queue.filters()
	add, remove := map[string]byte{}, []string{}
	c.mu.Lock()
	for f, q := range want {
		if granted, ok := c.granted[f]; !ok || granted != q {
			add[f] = q
		}
	}
	for f := range c.granted {
		if _, ok := want[f]; !ok {
			remove = append(remove, f)
		}
	}
	c.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, c.patience(), errors.New("no answer"))
	defer cancel()
	if len(remove) > 0 {
		if err := wait(ctx, conn, conn.Unsubscribe(remove...)); err != nil {
			return fmt.Errorf("unsubscribe: %w", err)
		}
	}
	result := map[string]byte{}
	if len(add) > 0 {
		token := conn.SubscribeMultiple(add, nil)
		if err := wait(ctx, conn, token); err != nil {
			return fmt.Errorf("subscribe: %w", err)
		}
		result = token.(*paho.SubscribeToken).Result()
	}
	var refused []string
	c.mu.Lock()
	for _, f := range remove {
		delete(c.granted, f)
	}
	for f, q := range add {
		if code, ok := result[f]; ok && code > 2 {
			refused = append(refused, f)
			continue
		}
		c.granted[f] = q
	}
	c.mu.Unlock()
	if len(refused) > 0 {
		slices.Sort(refused)
		c.setStatus(trigger.Degraded, fmt.Sprintf("the broker refuses subscriptions to %q: allow them for user or client id %q in its access list", refused, c.cfg.ClientID))
		return nil
	}
	c.setStatus(trigger.Healthy, "")
	return nil
}

// take queues a message. It runs on paho's one goroutine for messages and never blocks.
func (c *Client) take(conn *connection, m paho.Message) {
	event := &trigger.Message{Topic: m.Topic(), Payload: m.Payload(), QoS: m.Qos(), Retain: m.Retained(), Dup: m.Duplicate()}
	if m.Qos() == 0 {
		c.queue.offer(offered{message: event})
		return
	}
	r, fresh := c.receive(conn, m)
	if !fresh {
		return
	}
	o := offered{message: event, done: func() { c.handled(m.MessageID(), r) }}
	if m.Qos() == 2 {
		r.kept = true
		o.ends.Rows = []trigger.Row{inbox.Receipt(c.cfg.ClientID, m.MessageID(), r.mark)}
	}
	if c.queue.offer(o) != nil {
		// The broker sends it again in the next connection.
		c.mu.Lock()
		delete(c.received, m.MessageID())
		c.mu.Unlock()
		conn.lose(errors.New("connection given up: no room in the queue"))
	}
}

// Publish sends m, which is taken when the broker has acknowledged it (QoS 0: when it is written). The board's own subscriptions get it
// from the broker, as every subscriber does.
func (c *Client) Publish(_ context.Context, m Message) (Taken, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	conn := c.conn
	c.mu.Unlock()
	if conn == nil {
		return nil, fmt.Errorf("publish to %s: %w", m.Topic, ErrDown)
	}
	token := conn.Client.Publish(m.Topic, m.QoS, m.Retain, m.Payload)
	return func(ctx context.Context) error {
		if err := wait(ctx, conn, token); err != nil {
			return fmt.Errorf("publish to %s: %w", m.Topic, err)
		}
		return nil
	}, nil
}

// ErrDown is returned for what needs the broker while it is not there.
var ErrDown = errors.New("the broker is not connected")

// Ready is closed once the client has been connected and subscribed.
func (c *Client) Ready() <-chan struct{} { return c.ready }

// Look into the inbox again for a trigger: something was put there.
func (c *Client) Look(trigger string) { c.queue.look(trigger) }

// Status of the source.
func (c *Client) Status() trigger.Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

func (c *Client) setStatus(h trigger.Health, detail string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status = trigger.Status{Source: string(trigger.KindMQTT), Health: h, Detail: detail}
}

// Counters of the source.
func (c *Client) Counters() Counters { return c.queue.count() }
