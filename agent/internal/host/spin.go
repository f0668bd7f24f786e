package host

import (
	"net/url"

	"dunlin.dev/dunlin/agent/internal/engine"
)

// spinConnection is to the board's bus, whatever address it was opened with: the message waits there for a link that is down.
type spinConnection struct{}

var spinQoS = map[string]byte{"at-most-once": 0, "at-least-once": 1, "exactly-once": 2}

func spinPublish(g *Guest, a []engine.Val) (engine.Val, error) {
	if _, err := get[spinConnection](g, a[0]); err != nil {
		return none, err
	}
	if name, err := g.publish(a[1].Text(), a[2].Raw(), spinQoS[a[3].Text()], false); name != "" {
		if name != "other" {
			name = "connection-failed"
		}
		return messagingErr(name, err), nil
	}
	return okUnit, nil
}

// spinInterfaces are those of Spin's own that have an equal here, so that its handlers run as they are. The type-only ones are what
// its worlds import beside.
func spinInterfaces() []*iface {
	kv := bucketFuncs("store")
	kv["[static]store.open"] = opener(typSpinStore)
	kv["[method]store.get-keys"] = onBucket(func(g *Guest, b *bucket, _ []engine.Val) (engine.Val, error) {
		var vals []engine.Val
		after := ""
		for {
			keys, err := g.env.KV.Keys(b.name, after, keysPage)
			if err != nil {
				return none, err
			}
			for _, k := range keys {
				vals = append(vals, engine.String(k))
				if err := g.hold(len(k)); err != nil {
					return none, misuse(err)
				}
			}
			if len(keys) < keysPage {
				return engine.OK(engine.List(vals...)), nil
			}
			after = keys[len(keys)-1]
		}
	})
	return []*iface{
		{name: "fermyon:spin/key-value@2.0.0", funcs: kv, resources: resources{"store": typSpinStore}, grant: grantStores},
		{name: "fermyon:spin/variables@2.0.0", grant: grantVariables, funcs: map[string]fn{
			"get": f(func(g *Guest, a []engine.Val) (engine.Val, error) {
				name := a[0].Text()
				if v, ok := g.env.Grants.Variables[name]; ok {
					return engine.OK(engine.String(v)), nil
				}
				return engine.Err(engine.Variant("undefined", engine.String(name))), nil
			}, kString),
		}},
		{name: "fermyon:spin/mqtt@2.0.0", grant: grantPublish, resources: resources{"connection": typSpinConnection}, funcs: map[string]fn{
			"[static]connection.open": f(func(g *Guest, a []engine.Val) (engine.Val, error) {
				u, err := url.Parse(a[0].Text())
				if err == nil && u.Host != "" && (u.Scheme == "mqtt" || u.Scheme == "mqtts") {
					return ownOK(g, typSpinConnection, &spinConnection{})
				}
				return engine.Err(engine.Variant("invalid-address")), nil
			}, kString, kString, kString, kU64),
			"[method]connection.publish": f(spinPublish, kHandle, kString, kBytes, kEnum),
		}},
		{name: "spin:mqtt-trigger/spin-mqtt-types"},
		{name: "fermyon:spin-cron/cron-types@2.0.0"},
	}
}
