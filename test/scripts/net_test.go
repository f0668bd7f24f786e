package scripts

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"dunlin.dev/dunlin/test/need"
	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/rogpeppe/go-internal/testscript"
)

// ports remembers what freePort gave, so that stories that run at the same time don't share one.
var ports struct {
	sync.Mutex
	given map[int]bool
}

// freePort finds a port that nothing listens on. It lies below the range that the kernel takes for outgoing connections,
// so none of those takes it before the program under test does.
func freePort() (int, error) {
	ports.Lock()
	defer ports.Unlock()
	if ports.given == nil {
		ports.given = map[int]bool{}
	}
	for range 1000 {
		port := 10000 + rand.IntN(20000)
		if ports.given[port] {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		ports.given[port] = true
		return port, l.Close()
	}
	return 0, errors.New("find port: none is free between 10000 and 30000")
}

// usageError is a mistake in the story itself, which no repetition mends.
type usageError string

func (e usageError) Error() string { return string(e) }

func request(ts *testscript.TestScript, neg bool, args []string) {
	stdout, stderr, err := httpOnce(args)
	fmt.Fprint(ts.Stdout(), stdout)
	fmt.Fprint(ts.Stderr(), stderr)
	if bad := err != nil; bad != neg {
		ts.Fatalf("http %s: %v\n%s%s", strings.Join(args, " "), err, stderr, stdout)
	}
}

// httpOnce makes the request that the arguments of the http command describe.
func httpOnce(args []string) (body, header string, err error) {
	const usage = usageError("usage: http [-H 'K: V'] [-d BODY] STATUS METHOD URL")
	flags := flag.NewFlagSet("http", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	data := flags.String("d", "", "")
	fields := http.Header{}
	flags.Func("H", "", func(field string) error {
		k, v, ok := strings.Cut(field, ":")
		if !ok {
			return usage
		}
		fields.Add(k, strings.TrimSpace(v))
		return nil
	})
	if err := flags.Parse(args); err != nil || flags.NArg() != 3 {
		return "", "", usage
	}
	want, err := strconv.Atoi(flags.Arg(0))
	if err != nil {
		return "", "", usage
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // against a server that never answers
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, flags.Arg(1), flags.Arg(2), strings.NewReader(*data))
	if err != nil {
		return "", "", usageError(err.Error())
	}
	req.Header = fields
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true}, // a restarted server is a new connection
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	var head strings.Builder
	fmt.Fprintln(&head, resp.Status)
	if werr := resp.Header.Write(&head); werr != nil {
		return "", "", werr
	}
	if err == nil && resp.StatusCode != want {
		err = fmt.Errorf("status %d, want %d", resp.StatusCode, want)
	}
	return string(b), head.String(), err
}

// connect opens an MQTT session, trying until the broker is there.
func connect(ts *testscript.TestScript, name, addr string, onConnect func(mqtt.Client)) mqtt.Client {
	s := of(ts)
	client := mqtt.NewClient(mqtt.NewClientOptions().
		AddBroker("tcp://" + addr).
		SetClientID(fmt.Sprintf("story-%s-%08x", name, rand.Uint32())).
		SetCleanSession(true).
		SetConnectRetry(true).
		SetConnectRetryInterval(50 * time.Millisecond).
		SetMaxReconnectInterval(200 * time.Millisecond).
		SetOrderMatters(true).
		SetOnConnectHandler(onConnect))
	s.wait(ts, client.Connect(), "connect to "+addr)
	return client
}

// wait for an MQTT exchange to end well.
func (s *story) wait(ts *testscript.TestScript, token mqtt.Token, what string) {
	if !token.WaitTimeout(s.remaining()) {
		ts.Fatalf("%s: no answer", what)
	}
	if err := token.Error(); err != nil {
		ts.Fatalf("%s: %v", what, err)
	}
}

func mqttPublish(ts *testscript.TestScript, neg bool, args []string) {
	flags := flag.NewFlagSet("mqttpub", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	qos := flags.Uint("q", 1, "")
	retain := flags.Bool("r", false, "")
	n := flags.Int("n", 1, "")
	if err := flags.Parse(args); err != nil || neg || flags.NArg() != 3 || *qos > 2 {
		ts.Fatalf("usage: mqttpub [-q QOS] [-r] [-n N] ADDR TOPIC PAYLOAD")
	}
	addr, topic, payload := flags.Arg(0), flags.Arg(1), flags.Arg(2)
	client := connect(ts, "pub", addr, nil)
	defer client.Disconnect(250)
	tokens := make([]mqtt.Token, *n)
	for i := range tokens {
		text := strings.ReplaceAll(payload, "{i}", strconv.Itoa(i+1))
		tokens[i] = client.Publish(topic, byte(*qos), *retain, text)
	}
	for _, token := range tokens {
		of(ts).wait(ts, token, "publish to "+topic)
	}
}

func mqttSubscribe(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: mqttsub NAME ADDR FILTER")
	}
	s, name, filter := of(ts), args[0], args[2]
	if s.sources[name] != nil {
		ts.Fatalf("mqttsub %s: the name is taken", name)
	}
	out, err := s.journalOf(name)
	ts.Check(err)
	// A subscription ends with its connection here (clean session), so every connection makes it again.
	subscribed := make(chan mqtt.Token, 1)
	client := connect(ts, name, args[1], func(c mqtt.Client) {
		token := c.Subscribe(filter, 1, func(_ mqtt.Client, m mqtt.Message) {
			fmt.Fprintf(out, "%s %s\n", m.Topic(), m.Payload())
		})
		select {
		case subscribed <- token:
		default: // only the first is waited for
		}
	})
	src := &source{out: out, done: make(chan struct{})}
	src.stop = sync.OnceFunc(func() {
		client.Disconnect(0)
		close(src.done)
	})
	s.sources[name] = src
	s.wait(ts, <-subscribed, "subscribe to "+filter)
}

func tamper(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: tamper FILE OFFSET")
	}
	offset, err := strconv.Atoi(args[1])
	ts.Check(err)
	name := ts.MkAbs(args[0])
	data, err := os.ReadFile(name)
	ts.Check(err)
	if offset < 0 {
		offset += len(data)
	}
	if offset < 0 || offset >= len(data) {
		ts.Fatalf("tamper %s: it has %d bytes", args[0], len(data))
	}
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	ts.Check(err)
	defer f.Close()
	_, err = f.WriteAt([]byte{data[offset] ^ 0x10}, int64(offset))
	ts.Check(err)
	ts.Check(f.Close())
}

func seedJS(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: seedjs WHAT")
	}
	for _, name := range []string{"seed", "seed-changed"} {
		wasm, err := os.ReadFile(need.SeedJS(of(ts).t, name, args[0]))
		ts.Check(err)
		ts.Check(os.WriteFile(ts.MkAbs(name+".wasm"), wasm, 0o666))
	}
}

func needs(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: needs TOOL WHAT")
	}
	need.Tool(of(ts).t, args[0], args[1])
}
