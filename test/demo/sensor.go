package main

import (
	"context"
	"encoding/json"
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
	alarms  []alarm
	heard   chan struct{} // closed and replaced at each alarm
	muted   string        // the sensor that is silent
	failed  error
}

// alarm is what the example publishes under alarms/coldroom/ when something changes.
type alarm struct {
	Sensor      string  `json:"sensor"`
	Alarm       string  `json:"alarm"` // high, normal, silent, back
	Temperature float64 `json:"temperature"`
}

func connectSensors(broker string) (*sensors, error) {
	s := &sensors{acked: map[string]int{}, heard: make(chan struct{})}
	o := mqtt.NewClientOptions().AddBroker("tcp://" + broker).SetClientID("demo-sensors").SetAutoReconnect(false).SetOrderMatters(false)
	s.client = mqtt.NewClient(o)
	if err := settled(s.client.Connect()); err != nil {
		return nil, fmt.Errorf("connect to the board's bus %s: %w", broker, err)
	}
	tok := s.client.Subscribe("alarms/#", 1, func(_ mqtt.Client, m mqtt.Message) {
		s.mu.Lock()
		defer s.mu.Unlock()
		var a alarm
		if err := json.Unmarshal(m.Payload(), &a); err != nil {
			s.failed = fmt.Errorf("read alarm on %s: %w", m.Topic(), err)
			return
		}
		fmt.Printf("   %s  ALARM %s: %s (%s, last reading %.2f)\n", time.Now().Format("15:04:05"), a.Sensor, a.Alarm, m.Topic(), a.Temperature)
		s.alarms = append(s.alarms, a)
		close(s.heard)
		s.heard = make(chan struct{})
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

// alarm waits until one of that kind was published for a sensor.
func (s *sensors) alarm(ctx context.Context, sensor, kind string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, fmt.Errorf("no alarm says that %s is %s", sensor, kind))
	defer cancel()
	for {
		s.mu.Lock()
		ok := slices.ContainsFunc(s.alarms, func(a alarm) bool { return a.Sensor == sensor && a.Alarm == kind })
		heard := s.heard
		s.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-heard:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// mute stops one sensor's readings; "" none.
func (s *sensors) mute(sensor string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.muted = sensor
}

func (s *sensors) silent(sensor string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.muted == sensor
}

// run publishes until ctx ends. Every acknowledgement that is missing is an event that may be lost.
func (s *sensors) run(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		for _, r := range readings() {
			if s.silent(r.sensor) {
				continue
			}
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

// outcome is how many alarms came, and what went wrong.
func (s *sensors) outcome() (alarms int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.alarms), s.failed
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
