package host

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"dunlin.dev/dunlin/agent/internal/engine"
	"dunlin.dev/dunlin/fleet/wire"
)

// message is wasi:messaging's. Metadata of a message that is sent: "qos" ("0", "1" or "2"; 1 if absent) and "retain"
// ("true" or "false"; false if absent) are MQTT's; MQTT 3.1.1 has no place for others, nor for a content type.
type message struct {
	topic       string // "" for one that the guest made
	contentType string
	data        []byte
	metadata    [][2]string
}

// messagingClient is a guest's connection: there is one bus, so every name leads to it.
type messagingClient struct{}

// replyOptions are request-reply's, which is refused.
type replyOptions struct{}

func messagingInterfaces() []*iface {
	const version = "@0.2.0-draft"
	refused := engine.Err(engine.Variant("other", engine.String("request-reply is not supported: publish, and handle the answer as an event")))
	ignore := f(func(*Guest, []engine.Val) (engine.Val, error) { return none, nil }, kHandle, kU32)
	return []*iface{
		{
			name:  "wasi:messaging/types" + version,
			funcs: messageFuncs(),
			resources: resources{
				"client":  typMessagingClient,
				"message": typMessage,
			},
		},
		{
			name:      "wasi:messaging/producer" + version,
			grant:     grantPublish,
			funcs:     map[string]fn{"send": f(send, kHandle, kString, kHandle)},
			resources: resources{"client": typMessagingClient, "message": typMessage},
		},
		{
			name:      "wasi:messaging/request-reply" + version,
			grant:     grantPublish,
			resources: resources{"request-options": typReplyOptions, "client": typMessagingClient, "message": typMessage},
			funcs: map[string]fn{
				"[constructor]request-options": f(func(g *Guest, _ []engine.Val) (engine.Val, error) {
					return own(g, typReplyOptions, &replyOptions{})
				}),
				"[method]request-options.set-timeout-ms":       ignore,
				"[method]request-options.set-expected-replies": ignore,
				"request": f(func(g *Guest, a []engine.Val) (engine.Val, error) {
					if !a[3].IsSet() {
						return refused, nil
					}
					_, err := take[replyOptions](g, a[3].Payload())
					return refused, err
				}, kHandle, kString, kHandle, kOption),
				"reply": f(func(g *Guest, a []engine.Val) (engine.Val, error) {
					_, err := take[message](g, a[1])
					return refused, err
				}, kHandle, kHandle),
			},
		},
	}
}

func messageFuncs() map[string]fn {
	funcs := map[string]fn{
		"[static]client.connect": f(func(g *Guest, _ []engine.Val) (engine.Val, error) {
			return ownOK(g, typMessagingClient, &messagingClient{})
		}, kString),
		"[method]client.disconnect": f(func(*Guest, []engine.Val) (engine.Val, error) { return okUnit, nil }, kHandle),
		"[constructor]message": f(func(g *Guest, a []engine.Val) (engine.Val, error) {
			if err := g.hold(len(a[0].Raw())); err != nil {
				return none, err
			}
			return own(g, typMessage, &message{data: a[0].Raw()})
		}, kBytes),
	}
	method := func(name string, do func(g *Guest, m *message, a []engine.Val) (engine.Val, error), params ...engine.Kind) {
		funcs["[method]message."+name] = f(func(g *Guest, a []engine.Val) (engine.Val, error) {
			m, err := get[message](g, a[0])
			if err != nil {
				return none, err
			}
			return do(g, m, a[1:])
		}, append([]engine.Kind{kHandle}, params...)...)
	}
	method("topic", func(_ *Guest, m *message, _ []engine.Val) (engine.Val, error) { return someText(m.topic), nil })
	method("content-type", func(_ *Guest, m *message, _ []engine.Val) (engine.Val, error) { return someText(m.contentType), nil })
	method("set-content-type", func(g *Guest, m *message, a []engine.Val) (engine.Val, error) {
		m.contentType = a[0].Text()
		return none, g.hold(len(m.contentType))
	}, kString)
	method("data", func(_ *Guest, m *message, _ []engine.Val) (engine.Val, error) { return engine.Bytes(m.data), nil })
	method("set-data", func(g *Guest, m *message, a []engine.Val) (engine.Val, error) {
		m.data = a[0].Raw()
		return none, g.hold(len(m.data))
	}, kBytes)
	method("metadata", func(_ *Guest, m *message, _ []engine.Val) (engine.Val, error) {
		if m.metadata == nil {
			return absent, nil
		}
		vals := make([]engine.Val, len(m.metadata))
		for i, kv := range m.metadata {
			vals[i] = engine.Tuple(engine.String(kv[0]), engine.String(kv[1]))
		}
		return engine.Some(engine.List(vals...)), nil
	})
	method("add-metadata", func(g *Guest, m *message, a []engine.Val) (engine.Val, error) {
		m.metadata = slices.DeleteFunc(m.metadata, func(kv [2]string) bool { return kv[0] == a[0].Text() })
		m.metadata = append(m.metadata, [2]string{a[0].Text(), a[1].Text()})
		return none, g.hold(len(a[0].Text()) + len(a[1].Text()))
	}, kString, kString)
	method("set-metadata", func(g *Guest, m *message, a []engine.Val) (engine.Val, error) {
		m.metadata = [][2]string{}
		for _, e := range a[0].Elems() {
			k, v, err := pair(e)
			if err != nil {
				return none, err
			}
			m.metadata = append(m.metadata, [2]string{k.Text(), v.Text()})
			if err := g.hold(len(k.Text()) + len(v.Text())); err != nil {
				return none, err
			}
		}
		return none, nil
	}, kList)
	method("remove-metadata", func(_ *Guest, m *message, a []engine.Val) (engine.Val, error) {
		m.metadata = slices.DeleteFunc(m.metadata, func(kv [2]string) bool { return kv[0] == a[0].Text() })
		return none, nil
	}, kString)
	return funcs
}

// send is the producer's: the message leaves when the event is committed.
func send(g *Guest, a []engine.Val) (engine.Val, error) {
	m, err := take[message](g, a[2])
	if err != nil {
		return none, err
	}
	if _, err := get[messagingClient](g, a[0]); err != nil {
		return none, err
	}
	qos, retain, err := m.delivery()
	if err != nil {
		return messagingErr("other", err), nil
	}
	if name, err := g.publish(a[1].Text(), m.data, qos, retain); name != "" {
		return messagingErr(name, err), nil
	}
	return okUnit, nil
}

// publish a message with the event's commit, if the manifest lets it; name is "", or wasi:messaging's for what went wrong.
func (g *Guest) publish(topic string, data []byte, qos byte, retain bool) (name string, err error) {
	if err := mayPublish(g.env.Grants.Publish, topic); err != nil {
		g.log.emit(slog.LevelWarn, "publish", err.Error())
		return "permission-denied", err
	}
	if g.env.Publisher == nil {
		return "connection", errors.New("there is no message bus here")
	}
	if err := g.note("wasi:messaging", g.env.Publisher.Publish(topic, data, qos, retain)); err != nil {
		return "other", err
	}
	return "", nil
}

func messagingErr(name string, err error) engine.Val {
	return engine.Err(engine.Variant(name, errText(err)))
}

// mayPublish checks a topic against the filters of the manifest's publish.
func mayPublish(filters []string, topic string) error {
	bare, uplink := strings.CutPrefix(topic, wire.UplinkPrefix)
	if err := wire.CheckTopic(bare); err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	for _, filter := range filters {
		pattern, up := strings.CutPrefix(filter, wire.UplinkPrefix)
		if up == uplink && wire.MatchFilter(pattern, bare) {
			return nil
		}
	}
	return fmt.Errorf("publish to %.200q denied: no filter of publish = [%s] matches it", topic, quoted(filters))
}

// delivery reads MQTT's own properties from the metadata.
func (m *message) delivery() (qos byte, retain bool, err error) {
	qos = 1
	for _, kv := range m.metadata {
		switch k, v := kv[0], kv[1]; {
		case k == "qos" && (v == "0" || v == "1" || v == "2"):
			qos = v[0] - '0'
		case k == "retain" && (v == "true" || v == "false"):
			retain = v == "true"
		case k == "qos" || k == "retain":
			return 0, false, fmt.Errorf(`metadata %s is %.50q: qos is "0", "1" or "2", retain "true" or "false"`, k, v)
		}
	}
	return qos, retain, nil
}
