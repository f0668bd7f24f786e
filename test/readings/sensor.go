package readings

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// Sensor is an MQTT 3.1.1 client as small as a device's: one connection at a time, a session that outlives it, and what is not
// acknowledged is sent again, in order (4.4). It is not a library's client, since a proof needs to know which readings
// are acknowledged: paho completes the tokens of those that it sends again.
type Sensor struct {
	ID       string
	Topic    string // "up/...": the ledger sends it to the fleet too
	Format   string // of a reading's payload, from its number
	QoS      byte   // 1 or 2
	Handlers int    // triggers that match its topic

	way Way
	all *Sensors

	packet   uint16
	inFlight []*reading // oldest first
}

// Way to the broker, as sensors go it.
type Way struct {
	Dial   func(context.Context) (net.Conn, error)
	Pace   time.Duration // before each reading
	Silent time.Duration // a connection on which nothing comes for that long is given up; 0: a minute
}

// TCP is the way to an address.
func TCP(addr string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", addr) }
}

// reading is one message under way.
type reading struct {
	number   uint64
	packet   uint16
	received bool // QoS 2: the broker has it, and its packet id waits to be released
}

// run until all readings are acknowledged and no new ones are wanted.
func (s *Sensor) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := s.connection(ctx)
		if err == nil {
			return
		}
		var broken *protocolError
		if errors.As(err, &broken) {
			s.all.fail(fmt.Errorf("sensor %s: %w", s.ID, err))
			return
		}
		select { // the broker is being started again, or far away
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// protocolError is what no kill and no network explains.
type protocolError struct{ what string }

func (e *protocolError) Error() string { return e.what }

var errTakenOver = errors.New("taken over")

// connection is one from its dial to its loss, or to the end of all readings: nil.
func (s *Sensor) connection(ctx context.Context) error {
	c, err := s.way.Dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	connect := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	connect.ProtocolName, connect.ProtocolVersion, connect.ClientIdentifier, connect.Keepalive = "MQTT", 4, s.ID, 60
	if err := connect.Write(c); err != nil {
		return err
	}
	for _, r := range s.inFlight {
		if err := s.send(c, r, true); err != nil {
			return err
		}
	}
	for {
		more, err := s.fill(c)
		if err != nil {
			return err
		}
		if !more && len(s.inFlight) == 0 {
			return nil
		}
		if err := c.SetReadDeadline(time.Now().Add(s.way.Silent)); err != nil {
			return err
		}
		p, err := packets.ReadPacket(c)
		if err != nil {
			return err
		}
		if err := s.take(c, p); err != nil {
			return err
		}
	}
}

// fill the window with new readings.
func (s *Sensor) fill(c net.Conn) (more bool, err error) {
	for len(s.inFlight) < window {
		if s.way.Pace > 0 {
			<-time.After(s.way.Pace)
		}
		n, more := s.all.take()
		if !more {
			return false, nil
		}
		s.packet = s.packet%1000 + 1 // soon used again
		r := &reading{number: n, packet: s.packet}
		s.inFlight = append(s.inFlight, r)
		if err := s.send(c, r, false); err != nil {
			return true, err
		}
	}
	return true, nil
}

func (s *Sensor) send(c net.Conn, r *reading, again bool) error {
	if r.received {
		rel := packets.NewControlPacket(packets.Pubrel).(*packets.PubrelPacket)
		rel.MessageID = r.packet
		return rel.Write(c)
	}
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.Qos, p.Dup, p.MessageID, p.TopicName, p.Payload = s.QoS, again, r.packet, s.Topic, fmt.Appendf(nil, s.Format, r.number)
	return p.Write(c)
}

func (s *Sensor) take(c net.Conn, p packets.ControlPacket) error {
	switch p := p.(type) {
	case *packets.ConnackPacket:
		if p.ReturnCode != packets.Accepted {
			return &protocolError{fmt.Sprintf("refused with code %d", p.ReturnCode)}
		}
	case *packets.PubackPacket:
		return s.done(p.MessageID, 1)
	case *packets.PubcompPacket:
		return s.done(p.MessageID, 2)
	case *packets.PubrecPacket:
		for _, r := range s.inFlight {
			if r.packet == p.MessageID {
				r.received = true
				return s.send(c, r, false)
			}
		}
		// One that is complete: its PUBREC was sent again.
		rel := packets.NewControlPacket(packets.Pubrel).(*packets.PubrelPacket)
		rel.MessageID = p.MessageID
		return rel.Write(c)
	case *packets.DisconnectPacket: // MQTT 5 has it, and mochi tells everybody so that another connection has taken over
		return errTakenOver
	default:
		return &protocolError{fmt.Sprintf("an unexpected packet: %s", p)}
	}
	return nil
}

func (s *Sensor) done(packet uint16, qos byte) error {
	for i, r := range s.inFlight {
		if r.packet == packet {
			if s.QoS != qos || qos == 2 && !r.received {
				return &protocolError{fmt.Sprintf("reading %d is acknowledged out of turn", r.number)}
			}
			s.inFlight = append(s.inFlight[:i], s.inFlight[i+1:]...)
			s.all.acknowledge(r.number, s)
			return nil
		}
	}
	return nil // acknowledged twice
}
