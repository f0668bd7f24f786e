package wire

import (
	"fmt"
	"strings"
)

// Channel is the last level of a fleet topic: what a message is about.
type Channel string

// Channels, with the side that publishes and how.
const (
	ChannelHello    Channel = "hello"    // board: birth, QoS 1
	ChannelState    Channel = "state"    // board: online or not, QoS 1, retained; the last will too
	ChannelDesired  Channel = "desired"  // fleet: signed envelope, QoS 1, retained
	ChannelReported Channel = "reported" // board: what runs, QoS 1
	ChannelGet      Channel = "get"      // board: asks for content, QoS 1
	ChannelBlock    Channel = "block"    // fleet: Frames that answer a get, QoS 0 or 1, never retained
	ChannelLog      Channel = "log"      // board: log lines, QoS 0
	ChannelData     Channel = "data"     // board: uplink Data, QoS 1
	ChannelDo       Channel = "do"       // fleet: a request with a deadline, QoS 1, never retained
	ChannelDone     Channel = "done"     // board: its answer, QoS 1
)

// channels in the order above; true where the board publishes.
var channels = []struct {
	Channel Channel
	Up      bool
}{
	{ChannelHello, true}, {ChannelState, true}, {ChannelDesired, false}, {ChannelReported, true}, {ChannelGet, true},
	{ChannelBlock, false}, {ChannelLog, true}, {ChannelData, true}, {ChannelDo, false}, {ChannelDone, true},
}

// Up reports whether boards publish on c (and the fleet subscribes), else the other way round. False for unknown channels.
func (c Channel) Up() bool {
	for _, k := range channels {
		if k.Channel == c {
			return k.Up
		}
	}
	return false
}

// Known reports whether c is a channel of this protocol version.
func (c Channel) Known() bool {
	for _, k := range channels {
		if k.Channel == c {
			return true
		}
	}
	return false
}

// TopicPrefix is the first two levels of every fleet topic: the name and the protocol's major version.
const TopicPrefix = "dunlin/v1"

// Topic is dunlin/v1/<fleet>/<device>/<channel>.
type Topic struct {
	Fleet, Device string
	Channel       Channel
}

// Format gives the MQTT topic. It doesn't check the names: they come from ParseTopic, CheckName or a checked message.
func (t Topic) Format() string {
	return TopicPrefix + "/" + t.Fleet + "/" + t.Device + "/" + string(t.Channel)
}

func (t Topic) String() string { return t.Format() }

// ParseTopic is the inverse of Format. It refuses anything that Format would not give for valid names.
func ParseTopic(s string) (Topic, error) {
	rest, ok := strings.CutPrefix(s, TopicPrefix+"/")
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 3 {
		return Topic{}, fmt.Errorf("parse topic %.200q: want %s/<fleet>/<device>/<channel>", s, TopicPrefix)
	}
	t := Topic{Fleet: parts[0], Device: parts[1], Channel: Channel(parts[2])}
	if err := CheckName("fleet", t.Fleet); err != nil {
		return Topic{}, fmt.Errorf("parse topic %.200q: %w", s, err)
	}
	if err := CheckName("device", t.Device); err != nil {
		return Topic{}, fmt.Errorf("parse topic %.200q: %w", s, err)
	}
	if !t.Channel.Known() {
		return Topic{}, fmt.Errorf("parse topic %.200q: unknown channel %q", s, t.Channel)
	}
	return t, nil
}

// FleetFilters are the server's subscriptions: every channel that boards publish on, for every board of one fleet.
func FleetFilters(fleet string) []string { return filters(fleet, "+", true) }

// DeviceFilters are one board's subscriptions: every channel that the fleet publishes on.
func DeviceFilters(fleet, device string) []string { return filters(fleet, device, false) }

func filters(fleet, device string, up bool) []string {
	var f []string
	for _, k := range channels {
		if k.Up == up {
			f = append(f, Topic{Fleet: fleet, Device: device, Channel: k.Channel}.Format())
		}
	}
	return f
}

// MayPublish reports whether a board may publish on topic: its own, on a channel of boards.
func MayPublish(fleet, device, topic string) bool {
	t, err := ParseTopic(topic)
	return err == nil && t.Fleet == fleet && t.Device == device && t.Channel.Up()
}

// MaySubscribe reports whether a board may subscribe to filter: exactly one of DeviceFilters.
func MaySubscribe(fleet, device, filter string) bool {
	t, err := ParseTopic(filter)
	return err == nil && t.Fleet == fleet && t.Device == device && !t.Channel.Up()
}

// CheckName checks the name of a fleet, device, application or component: 1 to 64 of a-z 0-9 - _ and dot, not
// starting with - or a dot (names become file names and arguments). kind opens the error.
func CheckName(kind, s string) error {
	switch {
	case s == "":
		return fmt.Errorf("%s name is empty", kind)
	case len(s) > MaxNameBytes:
		return fmt.Errorf("%s name %.80q is longer than %d bytes", kind, s, MaxNameBytes)
	case s[0] == '-' || s[0] == '.':
		return fmt.Errorf("%s name %q starts with %q: start it with a letter or digit", kind, s, s[0])
	}
	for i := range len(s) {
		if !nameByte(s[i]) {
			return fmt.Errorf("%s name %q: use lower-case letters, digits, dots, - and _", kind, s)
		}
	}
	return nil
}

func nameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.'
}
