// Package uplink sends what waits on the board for the fleet: in batches, several on their way at once, what matters first, and history no
// faster than the link stands.
package uplink

import (
	"context"
	"log/slog"
	"time"

	"dunlin.dev/dunlin/agent/internal/store"
	"dunlin.dev/dunlin/fleet/wire"
)

// Box is the outbox: *store.Store.
type Box interface {
	Lanes() []store.Lane
	Uplinks(lane, after uint64, n int, bytes int64) (messages []store.Message, upto uint64, err error)
	DeliveredUplinks(upto map[uint64]uint64) error
	RefusedUplink()
	ExpireUplinks(now store.Stamp) error
}

// Link is the session with the fleet.
type Link interface {
	// Session is the present one's id, and whether there is one.
	Session() (id string, up bool)
	// SendData sends d in a session, behind what was sent in it before; taken returns when the fleet has taken it. After an error of either the
	// session ends: what comes behind must not be taken while d is not.
	SendData(session string, d wire.Data) (taken func(context.Context) error, err error)
}

// Config of a Sender.
type Config struct {
	Box     Box
	Link    Link
	Outbox  uint64                          // wire.Data's
	Newest  func() uint64                   // the newest id on the disk
	Message func(store.Message) wire.Uplink // as the fleet gets it, but for Historical
	Now     func() store.Stamp
	Rate    int64 // of history, bytes a second; 0: without limit
	Log     *slog.Logger
}

// What is on its way.
const (
	maxBatches  = 8
	maxMessages = 512      // of a batch
	maxBatch    = 64 << 10 // bytes of a batch; one message may be larger
	minBatch    = 2 << 10
	expireEvery = time.Minute
)

// Sender sends. Run it once.
type Sender struct {
	cfg   Config
	up    chan struct{} // holds one: there is a new session
	batch int           // bytes
	fly   int           // bytes that may be on their way
	// bucket outlives sessions: a link that comes and goes is no faster for it.
	bucket *bucket
}

// New sender.
func New(cfg Config) *Sender {
	s := &Sender{cfg: cfg, up: make(chan struct{}, 1), batch: maxBatch, fly: maxBatches * maxBatch, bucket: newBucket(cfg.Rate, time.Now())}
	if cfg.Rate > 0 { // what is on its way can't be overtaken: at most what takes two seconds
		s.batch = int(min(maxBatch, max(minBatch, cfg.Rate/2)))
		s.fly = int(min(int64(s.fly), max(2*cfg.Rate, minBatch)))
	}
	return s
}

// Up tells that there is a new session.
func (s *Sender) Up() {
	select {
	case s.up <- struct{}{}:
	default:
	}
}

// Run sends until ctx ends. wake tells of new messages.
func (s *Sender) Run(ctx context.Context, wake <-chan struct{}) error {
	last := ""
	for {
		if id, up := s.cfg.Link.Session(); up && id != last {
			last = id
			if err := s.session(ctx, id, wake); err != nil {
				return err
			}
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.up:
		}
	}
}

// flight is a batch on its way.
type flight struct {
	upto  map[uint64]uint64 // by lane
	bytes int
	taken func(context.Context) error
}

// session sends until the session ends, which is no error. What was on its way then is sent again with the next one.
func (s *Sender) session(ctx context.Context, session string, wake <-chan struct{}) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	p := &progress{Sender: s, session: session, mark: s.cfg.Newest(), sent: map[uint64]uint64{}}
	for {
		wait, err := p.fill(ctx)
		if err != nil {
			return err
		}
		if p.over {
			return nil
		}
		var timer <-chan time.Time
		if wait > 0 {
			timer = time.After(wait)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wake:
		case <-timer:
		case <-s.up:
			if id, _ := s.cfg.Link.Session(); id != session {
				return nil
			}
		case err := <-p.landed:
			if err != nil {
				return ctx.Err() // the link says why
			}
			if err := p.land(ctx); err != nil {
				return err
			}
		}
	}
}

// progress of one session.
type progress struct {
	*Sender
	session string
	mark    uint64            // the newest message from before the session
	sent    map[uint64]uint64 // by lane: up to which id
	flights []flight          // oldest first
	bytes   int               // of them
	landed  chan error        // of the oldest, which is waited for: each has its own time
	expired time.Time
	over    bool
}

// land takes the oldest flight off the outbox.
func (p *progress) land(ctx context.Context) error {
	f := p.flights[0]
	p.flights, p.bytes = p.flights[1:], p.bytes-f.bytes
	p.watch(ctx)
	return p.cfg.Box.DeliveredUplinks(f.upto)
}

// watch the oldest flight.
func (p *progress) watch(ctx context.Context) {
	p.landed = nil
	if len(p.flights) > 0 {
		landed, taken := make(chan error, 1), p.flights[0].taken
		p.landed = landed
		go func() { landed <- taken(ctx) }()
	}
}

// fill the air with batches. wait is when history may go on, where that is all that there is; 0: not by the clock.
func (p *progress) fill(ctx context.Context) (wait time.Duration, err error) {
	for !p.over && len(p.flights) < maxBatches && (p.bytes < p.fly || len(p.flights) == 0) {
		now := time.Now()
		if now.Sub(p.expired) >= expireEvery {
			p.expired = now
			if err := p.cfg.Box.ExpireUplinks(p.cfg.Now()); err != nil {
				return 0, err
			}
		}
		later, history := p.bucket.open(now)
		b, held, err := p.collect(history)
		if err != nil {
			return 0, err
		}
		if len(b.upto) == 0 {
			if held {
				wait = later
			}
			return wait, nil
		}
		p.launch(ctx, b)
	}
	return 0, nil
}

// load is what one batch is made of.
type load struct {
	messages []wire.Uplink
	bytes    int
	upto     map[uint64]uint64
}

// collect the next batch. held: there is history that has to wait.
func (p *progress) collect(history bool) (b load, held bool, err error) {
	b.upto = map[uint64]uint64{}
	var lanes []store.Lane
	for _, l := range p.cfg.Box.Lanes() {
		if l.Deferred() {
			continue
		}
		lanes = append(lanes, l)
	}
	for rest := turns(lanes, p.sent, p.mark); len(rest) > 0 && !p.full(b); {
		var same []turn
		if same, rest = side(rest); same[0].paced && !history {
			held = true
			continue
		}
		for more := true; more && !p.full(b); {
			more = false
			for i, t := range same {
				// A lane's share of what is left: lanes of one rank go on side by side.
				some, err := p.read(&b, t, max(16, (maxMessages-len(b.messages))/(len(same)-i)))
				if err != nil {
					return b, held, err
				}
				same[i].after = max(t.after, p.sent[t.lane])
				more = more || some
			}
		}
	}
	return b, held, nil
}

func (p *progress) full(b load) bool { return b.bytes >= p.batch || len(b.messages) >= maxMessages }

// read up to n messages of a lane into b.
func (p *progress) read(b *load, t turn, n int) (some bool, err error) {
	if p.full(*b) {
		return false, nil
	}
	messages, upto, err := p.cfg.Box.Uplinks(t.lane, t.after, min(n, maxMessages-len(b.messages)), int64(p.batch-b.bytes))
	if err != nil {
		return false, err
	}
	for i, m := range messages {
		u := p.cfg.Message(m)
		u.Historical = m.ID <= p.mark
		if err := u.Check(); err != nil {
			p.cfg.Log.Error("a message to the fleet can't be sent and is dropped", "application", m.Application, "topic", m.Topic, "cause", err)
			p.cfg.Box.RefusedUplink()
			continue
		}
		if b.bytes+u.Bytes() > wire.MaxDataBytes {
			upto = t.after
			if i > 0 {
				upto = messages[i-1].ID
			}
			break
		}
		b.messages = append(b.messages, u)
		b.bytes += u.Bytes()
	}
	if upto <= t.after {
		return false, nil
	}
	b.upto[t.lane], p.sent[t.lane] = upto, upto
	return true, nil
}

// launch a batch.
func (p *progress) launch(ctx context.Context, b load) {
	f := flight{upto: b.upto, bytes: b.bytes, taken: func(context.Context) error { return nil }}
	if len(b.messages) > 0 { // else all were refused
		taken, err := p.cfg.Link.SendData(p.session, wire.Data{Outbox: p.cfg.Outbox, Messages: b.messages})
		if p.over = err != nil; p.over {
			return // the link says why
		}
		f.taken = taken
	}
	p.bucket.take(b.bytes)
	p.flights, p.bytes = append(p.flights, f), p.bytes+b.bytes
	if len(p.flights) == 1 {
		p.watch(ctx)
	}
}
