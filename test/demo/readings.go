package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// reading is one real measurement of this machine, in the form in which Tasmota sends a sensor's.
type reading struct {
	sensor string // as in tele/<sensor>/SENSOR
	chip   string // the key of the measurement: "CPU"
	values map[string]float64
}

// payload is Tasmota's SENSOR telemetry: the local time and one object for each chip.
func (r reading) payload(at time.Time) []byte {
	b, err := json.Marshal(map[string]any{"Time": at.Format("2006-01-02T15:04:05"), r.chip: r.values, "TempUnit": "C"})
	if err != nil {
		panic(err) // strings and finite numbers always encode
	}
	return b
}

// readings measures this machine: its thermal zones where there are any, its load and its memory. The example knows sensors of
// temperature, so the load and the percentage of memory stand in for one: real figures, dressed as degrees.
func readings() []reading {
	var all []reading
	zones, _ := filepath.Glob("/sys/class/thermal/thermal_zone*/temp")
	for i, zone := range zones {
		if milli, err := number(zone, 0); err == nil {
			all = append(all, reading{fmt.Sprintf("zone%d", i), "CPU", map[string]float64{"Temperature": milli / 1000}})
		}
	}
	if load, err := number("/proc/loadavg", 0); err == nil {
		all = append(all, reading{"load", "LOAD", map[string]float64{"Temperature": load}})
	}
	if used, err := memoryUsed(); err == nil {
		all = append(all, reading{"memory", "MEMORY", map[string]float64{"Temperature": used}})
	}
	return all
}

func number(path string, field int) (float64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(b))
	if field >= len(fields) {
		return 0, fmt.Errorf("read %s: no field %d", path, field)
	}
	return strconv.ParseFloat(fields[field], 64)
}

// memoryUsed is the share of memory in use, in percent: proc_meminfo(5).
func memoryUsed() (float64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	kb := map[string]float64{}
	for _, line := range strings.Split(string(b), "\n") {
		if f := strings.Fields(line); len(f) >= 2 {
			kb[f[0]], _ = strconv.ParseFloat(f[1], 64)
		}
	}
	if kb["MemTotal:"] == 0 {
		return 0, fmt.Errorf("read /proc/meminfo: no MemTotal")
	}
	return float64(int(1000*(1-kb["MemAvailable:"]/kb["MemTotal:"]))) / 10, nil
}
