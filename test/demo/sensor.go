package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// sensors publish the machine's readings at QoS 1, one after the other, and count what was acknowledged: by then the board has
// handled it.
type sensors struct {
	client mqtt.Client

	mu      sync.Mutex
	acked   map[string]int // by sensor
	latency []time.Duration
	alarms  []string
	failed  error
}

func connectSensors(broker string) (*sensors, error) {
	s := &sensors{acked: map[string]int{}}
	o := mqtt.NewClientOptions().AddBroker("tcp://" + broker).SetClientID("demo-sensors").SetAutoReconnect(false).SetOrderMatters(false)
	s.client = mqtt.NewClient(o)
	if tok := s.client.Connect(); !tok.WaitTimeout(10*time.Second) || tok.Error() != nil {
		return nil, fmt.Errorf("connect to the board's bus %s: %v", broker, tok.Error())
	}
	tok := s.client.Subscribe("alarms/#", 1, func(_ mqtt.Client, m mqtt.Message) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.alarms = append(s.alarms, m.Topic()+" "+string(m.Payload()))
	})
	if !tok.WaitTimeout(10*time.Second) || tok.Error() != nil {
		return nil, fmt.Errorf("subscribe to the alarms: %v", tok.Error())
	}
	return s, nil
}

// run publishes until ctx ends. Every acknowledgement that is missing is an event that may be lost.
func (s *sensors) run(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		for _, r := range readings() {
			begun := time.Now()
			tok := s.client.Publish("tele/"+r.sensor+"/SENSOR", 1, false, r.payload(begun))
			ok := tok.WaitTimeout(10*time.Second) && tok.Error() == nil
			s.mu.Lock()
			if ok {
				s.acked[r.sensor]++
				s.latency = append(s.latency, time.Since(begun))
			} else {
				s.failed = fmt.Errorf("publish a reading of %s: not acknowledged (%v)", r.sensor, tok.Error())
			}
			s.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (s *sensors) total() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, c := range s.acked {
		n += c
	}
	return n
}

// quantiles of the time from a publish to its acknowledgement.
func (s *sensors) quantiles() (p50, p99 time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := slices.Sorted(slices.Values(s.latency))
	if len(l) == 0 {
		return 0, 0
	}
	return l[len(l)/2], l[len(l)*99/100]
}
