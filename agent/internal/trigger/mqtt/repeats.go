package mqtt

import (
	"context"
	"hash/crc32"
	"slices"
	"strings"

	paho "github.com/eclipse/paho.mqtt.golang"
	"github.com/eclipse/paho.mqtt.golang/packets"

	"dunlin.dev/dunlin/agent/internal/crash"
)

// receipt is a message of QoS 1 or 2 from the time that it came until the session is done with its packet id.
//
// For one of QoS 2 that should be when the broker releases the id. But Mosquitto, of which no version up to 2.0.20 is free of it, publishes a
// released message again when a connection broke before it had repeated all its PUBRELs (4.3.3 forbids that). So the receipts of
// those that it released last are kept: it takes ids in turn, so that the same words under one of these are the same message.
// Other brokers take a free id again at once, and may mean another message of the same words, of which they call even the first
// transmission a repeat (mochi does): theirs go with their id's release.
type receipt struct {
	qos      byte
	mark     uint64      // of its topic and payload; 0: not known
	conn     *connection // on which it came last
	ack      func()
	handled  bool
	kept     bool // the inbox has a receipt of it, or will have
	before   bool // it is from before the start, and may have been released there
	released bool
}

const (
	keepIDs = 256 // released ids that are kept at least, and twice as many at most
	noID    = 0   // its receipt says that the broker is Mosquitto
)

// ids is what is known of the session's packet ids.
type ids struct {
	asked     bool     // what the broker is
	mosquitto bool     // it is this one
	fresh     bool     // a new message came: what was under way before the start has been repeated
	released  []uint16 // those whose receipts are kept, and those from before the start, oldest first; some twice
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// markOf a message tells it from another under its packet id.
func markOf(m paho.Message) uint64 {
	sum := crc32.Update(crc32.Checksum([]byte(m.Topic()), castagnoli), castagnoli, m.Payload())
	return uint64(sum)<<32 | uint64(uint32(len(m.Payload())))<<1 | 1
}

// remember the packet ids of QoS 2 that came in before the start.
func (c *Client) remember() error {
	all, err := c.cfg.Inbox.Receipts()
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, mark := range all[c.cfg.ClientID] {
		if id == noID {
			c.ids.mosquitto = true
		} else if c.received[id] == nil {
			c.received[id] = &receipt{qos: 2, mark: mark, handled: true, kept: true, before: true}
			c.ids.released = append(c.ids.released, id)
		}
	}
	c.ids.released = inTurnFrom(c.ids.released)
	return nil
}

// inTurnFrom gives ids in the order in which they were taken in turn: from behind the largest gap.
func inTurnFrom(ids []uint16) []uint16 {
	slices.Sort(ids)
	first, gap := 0, uint16(0)
	for i, id := range ids {
		if d := id - ids[(i+len(ids)-1)%len(ids)]; d > gap {
			first, gap = i, d
		}
	}
	return append(slices.Clone(ids[first:]), ids[:first]...)
}

// resume takes over what the broker knows of the session.
func (c *Client) resume(conn *connection, present bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn = conn
	if present {
		return nil
	}
	// Packet ids start anew. What came on this connection already belongs to the new session.
	var old []uint16
	for id, r := range c.received {
		if r.conn == conn {
			continue
		}
		if r.kept {
			old = append(old, id)
		}
		delete(c.received, id)
	}
	if c.ids.mosquitto { // it may be another now
		old = append(old, noID)
	}
	c.ids = ids{}
	clear(c.granted)
	return c.forget(old)
}

// recognise the broker, by what it says of itself.
func (c *Client) recognise(ctx context.Context) {
	facts, err := survey(ctx, c.cfg.URL, c.cfg.Now, func(f Facts) bool { return f.Version != "" })
	if err != nil || ctx.Err() != nil {
		return // the next connection asks again
	}
	is := strings.HasPrefix(facts.Version, "mosquitto")
	c.mu.Lock()
	was := c.ids.mosquitto
	c.ids.asked, c.ids.mosquitto = true, is
	var stale []uint16
	if was && !is {
		stale = append(c.drop(len(c.ids.released), false), noID)
	}
	c.mu.Unlock()
	if is && !was {
		c.stayBehind(c.cfg.Inbox.Keep(c.cfg.ClientID, noID))
	}
	c.stayBehind(c.forget(stale))
}

// forget the receipts of packet ids.
func (c *Client) forget(ids []uint16) error {
	if len(ids) == 0 {
		return nil
	}
	return c.cfg.Inbox.Release(c.cfg.ClientID, ids...)
}

// receive notes a message of QoS 1 or 2. Not fresh: it is known, from an earlier connection of the session, and is
// acknowledged here once it has been handled.
func (c *Client) receive(conn *connection, m paho.Message) (r *receipt, fresh bool) {
	id, mark := m.MessageID(), uint64(0)
	if m.Qos() == 2 {
		mark = markOf(m)
	}
	c.mu.Lock()
	r = c.received[id]
	if r != nil && m.Duplicate() && r.qos == m.Qos() && (r.mark == mark || r.mark == 0) {
		r.conn, r.ack, r.before = conn, m.Ack, false // it is acknowledged here, be it one from before the start
		handled := r.handled
		c.mu.Unlock()
		if handled {
			c.handled(id, r)
		}
		return r, false
	}
	c.ids.fresh = c.ids.fresh || !m.Duplicate()
	var stale []uint16
	if r != nil && (r.released || r.before) { // it takes ids again; Mosquitto does so when it was given an older state of its own
		stale = append(c.drop(len(c.ids.released), false), id)
	}
	r = &receipt{qos: m.Qos(), mark: mark, conn: conn, ack: m.Ack}
	c.received[id] = r
	c.mu.Unlock()
	c.stayBehind(c.forget(stale))
	return r, true
}

// handled acknowledges a message, if the connection that it came on is still there.
func (c *Client) handled(id uint16, r *receipt) {
	c.mu.Lock()
	r.handled = true
	ack := r.ack
	up := r.conn == c.conn || c.conn == nil && r.conn.IsConnectionOpen()
	current := c.received[id] == r
	if up && current && r.qos == 1 {
		delete(c.received, id)
	}
	c.mu.Unlock()
	if up && current {
		crash.At("acknowledge")
		ack()
	}
}

// released: the broker has the acknowledgement of a QoS 2 message, and may use its packet id again when it has the answer to
// this, which paho sends after.
func (c *Client) released(id uint16) {
	c.mu.Lock()
	var stale []uint16
	switch r := c.received[id]; {
	case r == nil:
	case !r.kept:
		delete(c.received, id)
	case !c.ids.mosquitto:
		delete(c.received, id)
		stale = []uint16{id}
	case !r.released:
		r.released, r.before = true, false
		if c.ids.released = append(c.ids.released, id); len(c.ids.released) > 2*keepIDs {
			stale = c.drop(keepIDs, c.ids.fresh)
		}
	}
	c.mu.Unlock()
	c.stayBehind(c.forget(stale))
	crash.At("released")
}

// drop the receipts of the n oldest ids that are kept, and give those that the inbox is to forget. The caller holds mu.
func (c *Client) drop(n int, before bool) (stale []uint16) {
	var left []uint16
	for _, id := range c.ids.released[:n] {
		switch r := c.received[id]; {
		case r == nil:
		case r.released, before && r.before:
			delete(c.received, id)
			stale = append(stale, id)
		case r.before:
			left = append(left, id)
		}
	}
	c.ids.released = append(left, c.ids.released[n:]...)
	return stale
}

// stayBehind says that receipts do, or are not there. A later message under such an id overwrites its receipt.
func (c *Client) stayBehind(err error) {
	if err != nil {
		c.log.Warn("a receipt is not as it should be", "cause", err)
	}
}

// releases is a paho store that tells of PUBREL packets, which paho has no handler for.
type releases struct {
	*paho.MemoryStore
	released func(id uint16)
}

func (s *releases) Put(key string, p packets.ControlPacket) {
	if rel, ok := p.(*packets.PubrelPacket); ok && key[0] == 'i' {
		s.released(rel.MessageID)
	}
	s.MemoryStore.Put(key, p)
}
