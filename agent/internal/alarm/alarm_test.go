package alarm

import (
	"math"
	"sync"
	"testing"
	"time"
)

// An alarm that was set for later must not keep one that is earlier, and a stopped one must not take others with it.
func TestEachAlarmRingsOnceAndNotBeforeItsTime(t *testing.T) {
	var clock Clock
	var all sync.WaitGroup
	began := time.Now()
	after := func(d time.Duration) *Alarm {
		all.Add(1)
		return clock.After(d, func() {
			defer all.Done()
			if took := time.Since(began); took < d {
				t.Errorf("an alarm for %s rang after %s", d, took)
			}
		})
	}
	far := clock.After(time.Hour, func() { t.Error("an alarm rang an hour early") })
	never := clock.After(math.MaxInt64, func() { t.Error("an alarm rang that never should") })
	for i := range 100 {
		after(time.Duration(100-i) * 100 * time.Microsecond)
		stopped := clock.After(time.Minute, func() { t.Error("a stopped alarm rang") })
		if !stopped.Stop() || stopped.Stop() {
			t.Error("Stop of a pending alarm: want true, then false")
		}
	}
	after(-time.Second)
	all.Wait()
	if !far.Stop() || !never.Stop() {
		t.Error("alarms that have not rung can't be stopped")
	}
	clock.mu.Lock()
	defer clock.mu.Unlock()
	if len(clock.pending) > 0 {
		t.Errorf("%d alarms are left", len(clock.pending))
	}
}

func TestARungAlarmCantBeStopped(t *testing.T) {
	var clock Clock
	rung := make(chan struct{})
	a := clock.After(0, func() { close(rung) })
	<-rung
	if a.Stop() {
		t.Error("Stop after the alarm rang: want false")
	}
}

func TestAlarmsFromManyGoroutines(t *testing.T) {
	var clock Clock
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 500 {
				if i%3 == 0 {
					all.Add(1)
					clock.After(time.Duration(i)*time.Microsecond, all.Done)
					continue
				}
				clock.After(time.Hour, func() { t.Error("an alarm rang an hour early") }).Stop()
			}
		})
	}
	all.Wait()
}
