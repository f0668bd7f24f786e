// Package requests asks one board for something over its MQTT session and waits for the answer: a signed `do` goes out, a `done` comes
// back. Nothing of it outlives the session or the server.
package requests

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"dunlin.dev/dunlin/fleet/trust"
	"dunlin.dev/dunlin/fleet/wire"
)

// Errors that callers branch on; a *Refusal is the board's own.
var (
	ErrTooOld = errors.New("its agent is too old for this request: update it")
	ErrSilent = errors.New("it did not answer in time")
	ErrLost   = errors.New("its connection was lost before it answered: whether it was done is not known")
	ErrBusy   = errors.New("too many requests wait for answers")
)

// Refusal is a board's answer that it did not do it.
type Refusal struct {
	Device string
	Code   wire.ErrorCode
	Text   string
}

func (r *Refusal) Error() string { return fmt.Sprintf("device %s: %s", r.Device, r.Text) }

// Bounds of what waits.
const (
	maxWaiting    = 1000 // requests to all boards
	maxWaitingOne = 16   // to one: as many as wait on a board
)

// Config of Requests.
type Config struct {
	Fleet    func() string
	Director trust.Key
	Reach    func(device string) (Session, error)       // an error says why a board can't be asked
	Send     func(device string, envelope []byte) error // at QoS 1, not retained
	Now      func() time.Time
	Patience time.Duration // how long a board may take to answer; 0: 15 s
}

// Session is a board's present one.
type Session struct {
	ID         string
	Agent      string // its version
	Operations []wire.Operation
}

// Requests that wait for answers. Safe for concurrent use.
type Requests struct {
	cfg Config

	mu      sync.Mutex
	waiting map[string]*waiting // by request
	of      map[string]int      // how many wait, by device
}

type waiting struct {
	device, session string
	answer          chan wire.Done // holds one
	lost            chan struct{}
	over            bool // lost is closed
}

// New makes Requests.
func New(cfg Config) *Requests {
	if cfg.Patience == 0 {
		cfg.Patience = 15 * time.Second
	}
	return &Requests{cfg: cfg, waiting: map[string]*waiting{}, of: map[string]int{}}
}

// Ask a board to do something, and give its result. An error of the Config's Reach, one of the above, or a *Refusal.
func (r *Requests) Ask(ctx context.Context, device string, o wire.Operation, arguments map[string]string) ([]byte, error) {
	to, err := r.cfg.Reach(device)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(to.Operations, o) {
		return nil, fmt.Errorf("device %s: %w (it has %s)", device, ErrTooOld, to.Agent)
	}
	id, err := newID()
	if err != nil {
		return nil, err
	}
	payload, err := wire.MarshalDo(wire.Do{Fleet: r.cfg.Fleet(), Device: device, Session: to.ID, ID: id, Operation: o,
		Deadline: r.cfg.Now().Add(r.cfg.Patience).UTC(), Arguments: arguments})
	if err != nil {
		return nil, err
	}
	envelope, err := trust.SignDo(payload, r.cfg.Director)
	if err != nil {
		return nil, err
	}
	w := &waiting{device: device, session: to.ID, answer: make(chan wire.Done, 1), lost: make(chan struct{})}
	if err := r.begin(id, w); err != nil {
		return nil, err
	}
	defer r.end(id, w)
	if now, err := r.cfg.Reach(device); err != nil || now.ID != to.ID { // it changed before Gone could know of this request
		return nil, errors.Join(fmt.Errorf("device %s: %w", device, ErrLost), err)
	}
	if err := r.cfg.Send(device, envelope); err != nil {
		return nil, fmt.Errorf("ask device %s: %w", device, err)
	}
	silence := time.NewTimer(r.cfg.Patience)
	defer silence.Stop()
	select {
	case d := <-w.answer:
		return resultOf(device, d)
	case <-w.lost:
		select {
		case d := <-w.answer: // came before
			return resultOf(device, d)
		default:
		}
		return nil, fmt.Errorf("device %s: %w", device, ErrLost)
	case <-silence.C:
		return nil, fmt.Errorf("device %s: %w (%s)", device, ErrSilent, r.cfg.Patience)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func resultOf(device string, d wire.Done) ([]byte, error) {
	if d.Code != 0 {
		return nil, &Refusal{device, d.Code, d.Error}
	}
	return d.Result, nil
}

func (r *Requests) begin(id string, w *waiting) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := r.of[w.device]; n >= maxWaitingOne || len(r.waiting) >= maxWaiting {
		return fmt.Errorf("ask device %s: %w: %d of it, %d of all", w.device, ErrBusy, n, len(r.waiting))
	}
	r.waiting[id] = w
	r.of[w.device]++
	return nil
}

func (r *Requests) end(id string, w *waiting) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.waiting, id)
	if r.of[w.device]--; r.of[w.device] == 0 {
		delete(r.of, w.device)
	}
}

// Done takes a board's answer. It reports whether somebody waited for it: the first answer of the board that was asked counts.
func (r *Requests) Done(device string, d wire.Done) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.waiting[d.ID]
	if w == nil || w.device != device {
		return false
	}
	select {
	case w.answer <- d:
		return true
	default:
		return false
	}
}

// Gone says that a board's sessions are over, but for the one that is named: what was asked in them has no answer.
func (r *Requests) Gone(device, present string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of[device] == 0 {
		return
	}
	for _, w := range r.waiting {
		if w.device == device && w.session != present && !w.over {
			w.over = true
			close(w.lost)
		}
	}
}

func newID() (string, error) {
	var b [12]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("make request id: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}
