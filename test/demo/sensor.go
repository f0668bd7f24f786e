package main

import (
	"context"
	"errors"
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
	if err := settled(s.client.Connect()); err != nil {
		return nil, fmt.Errorf("connect to the board's bus %s: %w", broker, err)
	}
	tok := s.client.Subscribe("alarms/#", 1, func(_ mqtt.Client, m mqtt.Message) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.alarms = append(s.alarms, m.Topic()+" "+string(m.Payload()))
	})
	if err := settled(tok); err != nil {
		return nil, fmt.Errorf("subscribe to the alarms: %w", err)
	}
	return s, nil
}

// settled waits for the broker's answer.
func settled(tok mqtt.Token) error {
	if !tok.WaitTimeout(10 * time.Second) {
		return errors.New("no answer in 10 s")
	}
	return tok.Error()
}

// run publishes until ctx ends. Every acknowledgement that is missing is an event that may be lost.
func (s *sensors) run(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		for _, r := range readings() {
			begun := time.Now()
			err := settled(s.client.Publish("tele/"+r.sensor+"/SENSOR", 1, false, r.payload(begun)))
			s.mu.Lock()
			if err == nil {
				s.acked[r.sensor]++
				s.latency = append(s.latency, time.Since(begun))
			} else {
				s.failed = fmt.Errorf("publish a reading of %s: not acknowledged: %w", r.sensor, err)
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
