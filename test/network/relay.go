package main

import (
	"container/heap"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"
)

// maxQueue bounds a direction's packets, as a router's memory does; what comes on top is lost.
const maxQueue = 2000

// tally of one direction.
type tally struct{ passed, lost, doubled, overtaken, stopped, forgotten int }

func (t tally) String() string {
	return fmt.Sprintf("%d packets passed, %d lost, %d doubled, %d overtaken, %d stopped by a partition, %d of forgotten connections",
		t.passed, t.lost, t.doubled, t.overtaken, t.stopped, t.forgotten)
}

// parcel is a packet under way.
type parcel struct {
	due    time.Time
	number int
	packet []byte
}

type parcels []parcel

func (p parcels) Len() int { return len(p) }
func (p parcels) Less(i, k int) bool {
	return p[i].due.Before(p[k].due) || p[i].due.Equal(p[k].due) && p[i].number < p[k].number
}
func (p parcels) Swap(i, k int) { p[i], p[k] = p[k], p[i] }
func (p *parcels) Push(x any)   { *p = append(*p, x.(parcel)) }
func (p *parcels) Pop() any {
	last := (*p)[len(*p)-1]
	*p = (*p)[:len(*p)-1]
	return last
}

// lane is one direction: packets go in, and come out when weather and dice say, or never.
type lane struct {
	dice    *rand.Rand
	weather weather
	queue   parcels
	newest  time.Time // when the last of those that keep their order comes out
	number  int
	tally   tally
}

// put a packet in. The nth packet of a seed has the same luck in every run.
func (l *lane) put(now time.Time, packet []byte) {
	w := l.weather
	lost, doubled, overtaken, jitter := l.dice.Float64(), l.dice.Float64(), l.dice.Float64(), l.dice.Float64()
	switch {
	case w.closed:
		l.tally.stopped++
		return
	case lost < w.lost || len(l.queue) >= maxQueue:
		l.tally.lost++
		return
	}
	due := now.Add(w.delay + time.Duration(jitter*float64(w.jitter)))
	if overtaken < w.overtaken {
		l.tally.overtaken++
		due = due.Add(w.delay + w.jitter) // those behind it don't wait
	} else {
		if due.Before(l.newest) {
			due = l.newest
		}
		l.newest = due
	}
	l.push(due, packet)
	l.tally.passed++
	if doubled < w.doubled {
		l.tally.doubled++
		l.push(due.Add(w.delay/2), packet)
	}
}

func (l *lane) push(due time.Time, packet []byte) {
	l.number++
	heap.Push(&l.queue, parcel{due, l.number, packet})
}

// take a packet out whose time has come; else wait is how long the next one has, 0 without any.
func (l *lane) take(now time.Time) (packet []byte, wait time.Duration) {
	if len(l.queue) == 0 {
		return nil, 0
	}
	if first := l.queue[0].due; first.After(now) {
		return nil, first.Sub(now)
	}
	return heap.Pop(&l.queue).(parcel).packet, 0
}

// connection is one of TCP, by its ports at the board and at the far end.
type connection struct{ board, far uint16 }

// router knows connections by their first packet, until it is restarted.
type router struct {
	known map[connection]*restart // nil: known; else forgotten, by that restart
}

func (r *router) restart(how restart) {
	for c, forgotten := range r.known {
		if forgotten == nil {
			r.known[c] = &how
		}
	}
}

// admits says whether a packet belongs to a connection that is known. If not, answer goes back to its sender, unless nil.
func (r *router) admits(packet []byte, fromBoard bool) (ok bool, answer []byte) {
	s, tcp := parseSegment(packet)
	if !tcp {
		return isIPv4(packet), nil
	}
	c := connection{s.source, s.destination}
	if !fromBoard {
		c = connection{s.destination, s.source}
	}
	if s.flags&(flagSYN|flagACK) == flagSYN {
		r.known[c] = nil
	}
	how, seen := r.known[c]
	if seen && how == nil {
		return true, nil
	}
	told := seen && (fromBoard && how.board || !fromBoard && how.far)
	if !told || s.flags&flagRST != 0 || s.flags&flagACK == 0 {
		return false, nil
	}
	return false, reset(packet, s)
}

// relay joins two interfaces. Its index 0 is the board's, 1 the far end's.
type relay struct {
	ends [2]io.ReadWriter

	mu     sync.Mutex
	lanes  [2]*lane // from that end
	router router
	poke   [2]chan struct{} // hold one: something was put in
}

func newRelay(seed uint64, board, far io.ReadWriter) *relay {
	r := &relay{ends: [2]io.ReadWriter{board, far}, router: router{known: map[connection]*restart{}}}
	for i := range r.lanes {
		r.lanes[i] = &lane{dice: rand.New(rand.NewPCG(seed, uint64(i))), weather: fair}
		r.poke[i] = make(chan struct{}, 1)
	}
	return r
}

// turn the weather, and restart the router if that is to be.
func (r *relay) turn(p phase) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lanes[0].weather, r.lanes[1].weather = p.up, p.down
	if p.restart != nil {
		r.router.restart(*p.restart)
	}
}

func (r *relay) tallies() (up, down tally) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lanes[0].tally, r.lanes[1].tally
}

// run until ctx ends and the interfaces are closed.
func (r *relay) run(ctx context.Context) {
	var all sync.WaitGroup
	for i := range r.ends {
		all.Go(func() { r.receive(i) })
		all.Go(func() { r.send(ctx, i) })
	}
	all.Wait()
}

// receive packets of one end, until its interface is closed.
func (r *relay) receive(from int) {
	buf := make([]byte, 64<<10)
	for {
		n, err := r.ends[from].Read(buf)
		if err != nil {
			return
		}
		packet := append([]byte(nil), buf[:n]...)
		r.mu.Lock()
		ok, answer := r.router.admits(packet, from == 0)
		switch {
		case ok:
			r.lanes[from].put(time.Now(), packet)
		case isIPv4(packet):
			r.lanes[from].tally.forgotten++
			if answer != nil {
				r.lanes[1-from].push(time.Now(), answer)
			}
		}
		r.mu.Unlock()
		for _, poke := range r.poke {
			select {
			case poke <- struct{}{}:
			default:
			}
		}
	}
}

// send what comes out of a lane to the other end.
func (r *relay) send(ctx context.Context, from int) {
	idle := time.NewTimer(time.Hour)
	defer idle.Stop()
	for {
		r.mu.Lock()
		packet, wait := r.lanes[from].take(time.Now())
		r.mu.Unlock()
		if packet != nil {
			_, _ = r.ends[1-from].Write(packet) // one that the interface doesn't take is one more that is lost
			continue
		}
		if wait == 0 {
			wait = time.Hour
		}
		idle.Reset(wait)
		select {
		case <-idle.C:
		case <-r.poke[from]:
		case <-ctx.Done():
			return
		}
	}
}
