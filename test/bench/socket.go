package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"dunlin.dev/dunlin/test/guests"
	"dunlin.dev/dunlin/test/process"
)

const (
	publishers, flying = 64, 16
	floodTime          = 3 * time.Second
	durableBytes       = 200
)

// socket measures durable messages from the publisher's socket to the committed effect, each durability by itself, on a board of its own.
func (b *bench) socket(ctx context.Context) error {
	o, err := b.another(ctx, "socket", "")
	if err != nil {
		return err
	}
	defer o.end()
	if err := o.push(ctx, "keeper", "1.0.0", `
trigger.mqtt = [
  { topic = "sync/+", qos = 1, durability = "sync", component = "keeper" },
  { topic = "batch/+", qos = 1, durability = "batch", component = "keeper" },
  { topic = "memory/+", qos = 1, durability = "memory", component = "keeper" },
]
trigger.http = [{ route = "/keys", component = "keeper" }]
component.keeper = { source = "keeper.wasm", key_value_stores = ["default"], variables = { greeting = "" }, publish = ["spin/#"], limits = { queue = 2048 } }
`, map[string][]byte{"keeper.wasm": guests.Spin}); err != nil {
		return err
	}
	for _, durability := range []string{"sync", "batch", "memory"} {
		rate, err := o.kept(ctx, durability, publishers, flying)
		if err != nil {
			return err
		}
		b.figure("socket_"+durability+"_busy_rate", rate, "1/s")
	}
	for _, perSecond := range []int{1, 100, 5000} {
		if err := b.paced(ctx, o.bus, perSecond); err != nil {
			return err
		}
	}
	if err := b.largeMessages(ctx, o); err != nil {
		return err
	}
	return b.slow(ctx, o)
}

// slow is the same board where each sync of a file takes 5 ms longer, which strace sees to.
func (b *bench) slow(ctx context.Context, o *bench) (err error) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		note("ABSENT: strace (apt-get install strace): the figures of a slow card")
		return nil //nolint:nilerr // it isn't wrong, it is absent
	}
	o.board.Stop()
	o.board, err = process.Start(o.path("slow.log"), strace, "-D", "-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=fdatasync,fsync",
		"-e", "inject=fdatasync,fsync:delay_exit=5000", o.path("dunlin-agent"), "--config", o.path("agent.toml"))
	if err != nil {
		return err
	}
	m, err := o.board.Line(ctx, `msg=ready http=(\S+) bus=(\S+)`)
	if err != nil {
		return err
	}
	o.http, o.bus = m[1], m[2]
	lone, err := o.kept(ctx, "sync", 1, 1)
	if err != nil {
		return err
	}
	busy, err := o.kept(ctx, "sync", publishers, flying)
	if err != nil {
		return err
	}
	b.figure("socket_slow_lone_rate", lone, "1/s")
	b.figure("socket_slow_busy_rate", busy, "1/s")
	b.figure("socket_slow_group_ratio", busy/lone, "ratio")
	return nil
}

// kept is how many messages a second n publishers bring through with so many under way each, until the effect of the last one of each
// can be read.
func (b *bench) kept(ctx context.Context, kind string, n, flying int) (perSecond float64, err error) {
	begun := time.Now()
	sent, errs := make([]int, n), make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			sent[i], errs[i] = flood(b.bus, fmt.Sprintf("%s/%d", kind, i), flying, floodTime, readingOf)
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return 0, err
	}
	total, want := 0, make([]string, n)
	for i, of := range sent {
		total += of
		want[i] = fmt.Sprintf("message/%s/%d=%s\n", kind, i, readingOf(of))
	}
	err = b.keeps(ctx, want)
	return float64(total) / time.Since(begun).Seconds(), err
}

// readingOf is the nth payload of a publisher.
func readingOf(n int) []byte { return fmt.Appendf(nil, "%0*d", durableBytes, n) }

// keeps waits until the handler's store has those values.
func (b *bench) keeps(ctx context.Context, want []string) error {
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for {
		c, err := dial(b.http)
		if err != nil {
			return err
		}
		keys, err := c.page("/keys")
		c.close()
		if err != nil {
			return err
		}
		missing := slices.IndexFunc(want, func(line string) bool { return !strings.Contains(keys, line) })
		if missing < 0 {
			return nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", want[missing], context.Cause(ctx))
		}
	}
}

// flood publishes at QoS 1 for d with so many unacknowledged, waits for the acknowledgements, and tells how many there were.
func flood(addr, topic string, flying int, d time.Duration, payload func(n int) []byte) (int, error) {
	p, err := connect(addr)
	if err != nil {
		return 0, err
	}
	defer p.close()
	sent, acknowledged := 0, 0
	var out []byte
	for end := time.Now().Add(d); ; {
		out = out[:0]
		for sent-acknowledged < flying && (sent == 0 || time.Now().Before(end)) {
			sent++
			out = appendPublish(out, topic, uint16(sent%65535+1), payload(sent))
		}
		if sent == acknowledged {
			return sent, nil
		}
		if err := p.conn.SetDeadline(time.Now().Add(patience)); err != nil {
			return 0, err
		}
		if _, err := p.conn.Write(out); err != nil {
			return 0, err
		}
		for more := true; more; more = p.in.Buffered() >= 4 {
			if _, err := p.acknowledged(); err != nil {
				return 0, fmt.Errorf("after %d messages to %s: %w", acknowledged, topic, err)
			}
			acknowledged++
		}
	}
}

// appendPublish appends a PUBLISH of QoS 1.
func appendPublish(b []byte, topic string, id uint16, payload []byte) []byte {
	b = append(b, 0x32)
	b = binary.AppendUvarint(b, uint64(2+len(topic)+2+len(payload))) // MQTT's remaining length has the same form
	b = binary.BigEndian.AppendUint16(b, uint16(len(topic)))
	b = append(b, topic...)
	return append(binary.BigEndian.AppendUint16(b, id), payload...)
}

// acknowledged reads a PUBACK, and gives its packet id.
func (p *publisher) acknowledged() (uint16, error) {
	var got [4]byte
	if _, err := io.ReadFull(p.in, got[:]); err != nil {
		return 0, err
	}
	if got[0] != 0x40 || got[1] != 2 {
		return 0, fmt.Errorf("got the packet %x, want an acknowledgement", got)
	}
	return binary.BigEndian.Uint16(got[2:]), nil
}

// paced publishes durable messages at a rate, whether acknowledgements come or not, and measures how long each of those takes.
func (b *bench) paced(ctx context.Context, addr string, perSecond int) error {
	conns := min(publishers/4, max(1, perSecond/100))
	seconds := map[int]int{1: 20, 100: 10, 5000: 4}[perSecond]
	every := time.Duration(conns) * time.Second / time.Duration(perSecond)
	samples, errs := make([][]time.Duration, conns), make([]error, conns)
	begun := time.Now()
	var all sync.WaitGroup
	for i := range conns {
		all.Go(func() {
			first := begun.Add(every * time.Duration(i) / time.Duration(conns))
			samples[i], errs[i] = pace(ctx, addr, fmt.Sprintf("sync/%d", i), first, every, seconds*perSecond/conns)
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	var times []time.Duration
	for _, of := range samples {
		times = append(times, of...)
	}
	name := fmt.Sprintf("socket_sync_at_%d", perSecond)
	b.figure(name+"_p50", micros(times, 0.5), "us")
	b.figure(name+"_p99", micros(times, 0.99), "us")
	if reached := float64(len(times)) / time.Since(begun).Seconds(); perSecond > 1 {
		b.figure(name+"_rate", reached, "1/s")
	}
	return nil
}

// pace sends n messages on one connection, one each interval. A message's time begins when it is due, or when the generator's timer woke for it; if
// the connection holds the generator up, that counts.
func pace(ctx context.Context, addr, topic string, first time.Time, every time.Duration, n int) ([]time.Duration, error) {
	p, err := connect(addr)
	if err != nil {
		return nil, err
	}
	defer p.close()
	if err := p.conn.SetDeadline(first.Add(every*time.Duration(n) + patience)); err != nil {
		return nil, err
	}
	var mu sync.Mutex
	sent := map[uint16]time.Time{}
	wrote := make(chan error, 1)
	go func() {
		wrote <- func() error {
			for i := range n {
				due := first.Add(every * time.Duration(i))
				if wait := time.Until(due); wait > 0 {
					select {
					case <-time.After(wait):
						due = time.Now()
					case <-ctx.Done():
						return errors.Join(context.Cause(ctx), p.conn.Close())
					}
				}
				id := uint16(i%65535 + 1)
				mu.Lock()
				sent[id] = due
				mu.Unlock()
				if _, err := p.conn.Write(appendPublish(nil, topic, id, readingOf(i))); err != nil {
					return err
				}
			}
			return nil
		}()
	}()
	samples := make([]time.Duration, 0, n)
	for range n {
		id, err := p.acknowledged()
		if err != nil {
			return nil, errors.Join(err, p.conn.Close(), <-wrote)
		}
		now := time.Now()
		mu.Lock()
		samples = append(samples, now.Sub(sent[id]))
		mu.Unlock()
	}
	return samples, <-wrote
}

// together is one agent that has requests and messages at the same time, both of handlers without durable effects.
func (b *bench) together(context.Context) error {
	const n = 8
	sent, errs := make([]int, n), make([]error, n)
	begun := time.Now()
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			sent[i], errs[i] = flood(b.bus, "quiet/"+strconv.Itoa(i), flying, floodTime, func(int) []byte { return []byte("ok") })
		})
	}
	f, err := closedLoop(b.http, request("/"), []byte("Hello World!"), n, floodTime)
	all.Wait()
	if err := errors.Join(err, errors.Join(errs...)); err != nil {
		return err
	}
	total := 0
	for _, of := range sent {
		total += of
	}
	b.figure("together_http_rate", f.perSecond, "1/s")
	b.figure("together_mqtt_rate", float64(total)/time.Since(begun).Seconds(), "1/s")
	return nil
}
