//! What is known of one sensor, and when that is an alarm. No I/O: a reading and the time go in, changes come out.

use serde::{Deserialize, Serialize};

use crate::tasmota::Reading;

/// From the manifest's variables.
pub struct Limits {
    pub threshold: f64,  // degrees Celsius; above it is an alarm
    pub hysteresis: f64, // the alarm ends this much below the threshold
    pub silent_after_ms: u64,
}

/// The record in the store. Fields are only ever added, each with a default: an older version that is rolled back to reads
/// what a newer one wrote, and the other way round.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Sensor {
    pub last: f64,
    pub humidity: Option<f64>,
    pub min: f64,
    pub max: f64,
    pub count: u64,
    pub seen: u64, // milliseconds since 1970
    pub high: bool,
    pub silent: bool,
    /// Rolling average, new readings weighing a fifth.
    #[cfg(feature = "v2")]
    pub average: Option<f64>,
}

/// Something that is published once, when it happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    High,
    Normal,
    Silent,
    Back,
}

impl Change {
    pub fn name(self) -> &'static str {
        match self {
            Change::High => "high",
            Change::Normal => "normal",
            Change::Silent => "silent",
            Change::Back => "back",
        }
    }

    pub fn is_alarm(self) -> bool {
        matches!(self, Change::High | Change::Silent)
    }
}

impl Sensor {
    /// Takes a reading in, at `now`.
    pub fn take(&mut self, reading: &Reading, now: u64, limits: &Limits) -> Vec<Change> {
        let t = reading.celsius;
        (self.min, self.max) = if self.count == 0 { (t, t) } else { (self.min.min(t), self.max.max(t)) };
        #[cfg(feature = "v2")]
        {
            // A record of version 1 has no average: it begins with the last value.
            let before = self.average.unwrap_or(if self.count == 0 { t } else { self.last });
            self.average = Some(before + (t - before) / 5.0);
        }
        self.last = t;
        self.humidity = reading.humidity;
        self.count += 1;
        self.seen = now;

        let mut changes = Vec::new();
        if std::mem::take(&mut self.silent) {
            changes.push(Change::Back);
        }
        if !self.high && t > limits.threshold {
            self.high = true;
            changes.push(Change::High);
        } else if self.high && t <= limits.threshold - limits.hysteresis {
            self.high = false;
            changes.push(Change::Normal);
        }
        changes
    }

    /// Whether the sensor has just been noticed to be silent. A clock that went backwards is no silence.
    pub fn check(&mut self, now: u64, limits: &Limits) -> Option<Change> {
        if self.silent || now.saturating_sub(self.seen) < limits.silent_after_ms {
            return None;
        }
        self.silent = true;
        Some(Change::Silent)
    }

    /// The state in a word, the worst first.
    pub fn alarm(&self) -> &'static str {
        match (self.silent, self.high) {
            (true, _) => "silent",
            (_, true) => "high",
            _ => "ok",
        }
    }

    /// Where the temperature is going, against its average.
    #[cfg(feature = "v2")]
    pub fn trend(&self) -> &'static str {
        match self.last - self.average.unwrap_or(self.last) {
            d if d > 0.2 => "rising",
            d if d < -0.2 => "falling",
            _ => "steady",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { threshold: 8.0, hysteresis: 0.5, silent_after_ms: 60_000 };

    fn reading(celsius: f64) -> Reading {
        Reading { sensor: "cellar".into(), celsius, humidity: None }
    }

    #[test]
    fn an_alarm_is_told_once_a_change_with_hysteresis() {
        let mut sensor = Sensor::default();
        for (celsius, want) in [
            (4.0, vec![]),
            (8.0, vec![]),
            (8.1, vec![Change::High]),
            (9.0, vec![]),
            (7.9, vec![]), // below the threshold, within the hysteresis
            (8.2, vec![]),
            (7.5, vec![Change::Normal]),
            (7.9, vec![]),
            (8.5, vec![Change::High]),
        ] {
            assert_eq!(sensor.take(&reading(celsius), 1, &LIMITS), want, "{celsius}");
        }
        assert_eq!((sensor.min, sensor.max, sensor.count), (4.0, 9.0, 9));
    }

    #[test]
    fn silence_is_noticed_once_and_ends_with_a_reading() {
        let mut sensor = Sensor::default();
        sensor.take(&reading(4.0), 100_000, &LIMITS);
        assert_eq!(sensor.check(159_999, &LIMITS), None);
        assert_eq!(sensor.check(160_000, &LIMITS), Some(Change::Silent));
        assert_eq!(sensor.check(999_999, &LIMITS), None);
        assert_eq!(sensor.alarm(), "silent");
        assert_eq!(sensor.take(&reading(9.0), 999_999, &LIMITS), [Change::Back, Change::High]);
        assert_eq!(sensor.check(5, &LIMITS), None, "a clock that went backwards");
    }

    #[test]
    fn a_record_of_another_version_is_read() {
        let old = r#"{"last":4.5,"min":4.0,"max":5.0,"count":7,"seen":1,"high":false,"silent":false}"#;
        let mut sensor: Sensor = serde_json::from_str(old).unwrap();
        sensor.take(&reading(5.5), 2, &LIMITS);
        assert_eq!((sensor.count, sensor.max), (8, 5.5));
        #[cfg(feature = "v2")]
        assert_eq!((sensor.average, sensor.trend()), (Some(4.7), "rising"));

        let new = r#"{"last":4.5,"count":7,"average":4.4,"something":"newer"}"#;
        assert_eq!(serde_json::from_str::<Sensor>(new).unwrap().count, 7);
    }
}
