package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// fates of n packets, one a millisecond, in the order in which they come out.
func fates(seed uint64, w weather, n int) (out []string, t tally) {
	l := &lane{dice: rand.New(rand.NewPCG(seed, 0)), weather: w}
	now := time.Unix(0, 0)
	for i := range n {
		l.put(now, fmt.Append(nil, i))
		now = now.Add(time.Millisecond)
	}
	now = now.Add(time.Hour)
	for packet, _ := l.take(now); packet != nil; packet, _ = l.take(now) {
		out = append(out, string(packet))
	}
	return out, l.tally
}

func TestASeedRepeatsWhatBecomesOfEachPacket(t *testing.T) {
	w := weather{lost: .1, doubled: .1, overtaken: .2, delay: 5 * time.Millisecond, jitter: 3 * time.Millisecond}
	first, tally := fates(7, w, 1000)
	again, _ := fates(7, w, 1000)
	other, _ := fates(8, w, 1000)
	if !slices.Equal(first, again) || slices.Equal(first, other) {
		t.Error("a seed gives two outcomes, or two seeds one")
	}
	if tally.lost < 50 || tally.doubled < 50 || tally.overtaken < 100 || len(first) != 1000-tally.lost+tally.doubled {
		t.Errorf("of 1000 packets %s; %d come out", tally, len(first))
	}
	if in, _ := fates(7, weather{delay: time.Second, jitter: time.Second}, 1000); !slices.IsSortedFunc(in, byNumber) || len(in) != 1000 {
		t.Error("without overtaking, packets change their order")
	}
	if out, tally := fates(7, weather{closed: true}, 10); len(out) != 0 || tally.stopped != 10 {
		t.Errorf("a partition lets %d of 10 pass", len(out))
	}
}

func byNumber(a, b string) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return bytes.Compare([]byte(a), []byte(b))
}

func TestEachKindOfWeatherComesRound(t *testing.T) {
	for seed := range uint64(50) {
		names := map[string]bool{}
		for _, p := range forecast(seed, 15*time.Second) {
			names[p.name] = true
		}
		if len(names) != 7 {
			t.Errorf("seed %d: %v", seed, names)
		}
	}
}

// FuzzSegment: no packet makes the relay fail, and what it answers is a packet that it reads itself, with right checksums.
func FuzzSegment(f *testing.F) {
	f.Add(reset(reset(make([]byte, 40), segment{}), segment{source: 1883, destination: 40000, acknowledges: 7}))
	f.Add([]byte{0x45})
	f.Fuzz(func(t *testing.T, packet []byte) {
		r := router{known: map[connection]*restart{}}
		_, _ = r.admits(packet, true)
		r.restart(restart{true, true})
		_, _ = r.admits(packet, false)
		s, ok := parseSegment(packet)
		if !ok {
			return
		}
		answer := reset(packet, s)
		back, ok := parseSegment(answer)
		if !ok || back.source != s.destination || back.destination != s.source || back.flags != flagRST {
			t.Fatalf("the answer is %x", answer)
		}
		if checksum(0, answer[:20]) != 0 || checksum(6+20+sum(answer[12:20]), answer[20:]) != 0 {
			t.Fatalf("the checksums of %x are wrong", answer)
		}
	})
}

// The kernel must believe the relay's resets, or a restart of the router would be no more than a partition.
func TestAForgottenConnectionIsResetWhereThatIsTold(t *testing.T) {
	if inner := asRoot("-test.v", "-test.run=^"+t.Name()+"$"); inner != nil {
		if out, err := inner.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	board, err := newNamespace(t.TempDir(), boardIP)
	if err != nil {
		absent(t, err)
	}
	far, err := newNamespace(t.TempDir(), farIP)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := newRelay(1, board.tun, far.tun)
	passing := make(chan struct{})
	go func() { r.run(ctx); close(passing) }()
	defer func() {
		cancel()
		if err := errors.Join(board.close(), far.close()); err != nil {
			t.Error(err)
		}
		<-passing
	}()
	var l net.Listener
	far.do(func() { l, err = net.Listen("tcp", farIP+":7777") })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, told := range []restart{{}, {board: true}, {far: true}, {true, true}} {
		for _, fromBoard := range []bool{true, false} {
			near, err := board.dial(ctx, farIP+":7777")
			if err != nil {
				t.Fatal(err)
			}
			distant, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			from, to, learns := near, distant, told.board
			if !fromBoard {
				from, to, learns = distant, near, told.far
			}
			if got := exchange(t, from, to); got != nil {
				t.Fatalf("nothing passes: %v", got)
			}
			r.turn(phase{up: fair, down: fair, restart: &told})
			if err := exchange(t, from, to); errors.Is(err, syscall.ECONNRESET) != learns || err == nil {
				t.Errorf("%+v, from the board %v: sending gives %v", told, fromBoard, err)
			}
			near.Close()
			distant.Close()
		}
	}
}

// exchange sends a byte; nil: it arrived, else how the sender learns that it did not.
func exchange(t *testing.T, from, to net.Conn) error {
	t.Helper()
	if _, err := from.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	ends := make(chan error, 2)
	look := func(c net.Conn, wanted bool) {
		_, err := c.Read(make([]byte, 1))
		if (err == nil) == wanted {
			ends <- err
		}
	}
	var both sync.WaitGroup
	both.Go(func() { look(to, true) })
	both.Go(func() { look(from, false) })
	var err error
	select {
	case err = <-ends:
	case <-time.After(300 * time.Millisecond):
		err = errors.New("silence")
	}
	for _, c := range []net.Conn{from, to} { // both reads end before the next exchange
		err = errors.Join(err, c.SetReadDeadline(time.Unix(1, 0)))
	}
	both.Wait()
	for _, c := range []net.Conn{from, to} {
		err = errors.Join(err, c.SetReadDeadline(time.Time{}))
	}
	return err
}
