package mqtt

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net/url"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"dunlin.dev/dunlin/agent/internal/mqttconn"
)

// Facts of an outside broker, as it tells them on its $SYS topics. MQTT 3.1.1 knows no such topics (4.7.2 only reserves them), nor any that
// would tell a broker's limits.
type Facts struct {
	Version string // "" where it doesn't say
	Dropped string // messages that it has dropped by its limits since it started; "" where it doesn't say
}

const (
	versionTopic = "$SYS/broker/version"
	droppedTopic = "$SYS/broker/publish/messages/dropped"
	surveyTime   = 2 * time.Second // the facts are retained, so they come at once or not at all
)

// Survey asks a broker what it is, on a connection of its own that leaves no session. An error says that it can't be reached or refuses.
func Survey(ctx context.Context, broker string, now func() time.Time) (Facts, error) {
	return survey(ctx, broker, now, func(f Facts) bool { return f.Version != "" && f.Dropped != "" })
}

// survey until it is enough.
func survey(ctx context.Context, broker string, now func() time.Time, enough func(Facts) bool) (Facts, error) {
	var facts Facts
	u, err := url.Parse(broker)
	if err != nil {
		return facts, fmt.Errorf("connect to broker: %w", err)
	}
	told := make(chan paho.Message, 8)
	conn := &connection{lost: make(chan struct{})}
	o := paho.NewClientOptions().AddBroker(u.String()).SetClientID(fmt.Sprintf("dunlin-asks-%08x", rand.Uint32())).SetProtocolVersion(4).SetCleanSession(true).
		SetAutoReconnect(false).SetConnectRetry(false).SetConnectTimeout(surveyTime).SetWriteTimeout(surveyTime).
		SetTLSConfig(&tls.Config{Time: now}).SetCustomOpenConnectionFn(mqttconn.Opener(Limits{}.Complete().MaxPacket)).
		SetDefaultPublishHandler(func(_ paho.Client, m paho.Message) {
			select {
			case told <- m:
			default:
			}
		}).
		SetConnectionLostHandler(func(_ paho.Client, err error) { conn.lose(fmt.Errorf("connection lost: %w", err)) })
	if u.User != nil {
		password, _ := u.User.Password()
		o.SetUsername(u.User.Username()).SetPassword(password)
	}
	conn.Client = paho.NewClient(o)
	defer conn.Disconnect(0)
	if err := wait(ctx, conn, conn.Connect()); err != nil {
		return facts, fmt.Errorf("connect to %s: %w", u.Redacted(), err)
	}
	ctx, cancel := context.WithTimeout(ctx, surveyTime)
	defer cancel()
	if err := wait(ctx, conn, conn.SubscribeMultiple(map[string]byte{versionTopic: 0, droppedTopic: 0}, nil)); err != nil {
		return facts, nil // a broker that tells nothing
	}
	for !enough(facts) {
		select {
		case m := <-told:
			switch m.Topic() {
			case versionTopic:
				facts.Version = string(m.Payload())
			case droppedTopic:
				facts.Dropped = string(m.Payload())
			}
		case <-conn.lost:
			return facts, nil
		case <-ctx.Done():
			return facts, nil
		}
	}
	return facts, nil
}
