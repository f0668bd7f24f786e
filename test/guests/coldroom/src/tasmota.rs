//! Readings as Tasmota sends them: {"Time":"...","DS18B20":{"Id":"...","Temperature":4.1},"TempUnit":"C"}.

use serde_json::Value;

/// One temperature of one sensor.
#[derive(Debug, PartialEq)]
pub struct Reading {
    pub sensor: String,
    pub celsius: f64,
    pub humidity: Option<f64>, // percent
}

/// The part of `tele/<sensor>/SENSOR` that names the sensor; it may have several levels.
pub fn source(topic: &str) -> Option<&str> {
    topic.strip_prefix("tele/")?.strip_suffix("/SENSOR").filter(|s| !s.is_empty())
}

/// The temperatures in a message. Whatever the probe is called, it is one if it has a number called Temperature (Tasmota
/// sends null when it can't read the probe). A message with several probes names each: "<source>-<probe>".
pub fn readings(source: &str, payload: &[u8]) -> Result<Vec<Reading>, String> {
    let message: Value = serde_json::from_slice(payload).map_err(|e| format!("not JSON: {e}"))?;
    let fields = message.as_object().ok_or("not a JSON object")?;
    let fahrenheit = fields.get("TempUnit").and_then(Value::as_str) == Some("F");
    let probes: Vec<_> = fields
        .iter()
        .filter_map(|(probe, v)| Some((probe, v.get("Temperature")?.as_f64()?, v.get("Humidity"))))
        .collect();
    Ok(probes
        .iter()
        .map(|(probe, t, humidity)| Reading {
            sensor: if probes.len() == 1 { source.into() } else { format!("{source}-{probe}") },
            celsius: if fahrenheit { (t - 32.0) / 1.8 } else { *t },
            humidity: humidity.and_then(Value::as_f64),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(sensor: &str, celsius: f64, humidity: Option<f64>) -> Reading {
        Reading { sensor: sensor.into(), celsius, humidity }
    }

    #[test]
    fn messages_of_real_devices_are_understood() {
        for (payload, want) in [
            (
                r#"{"Time":"2026-11-23T22:00:00","DS18B20":{"Id":"01131B123456","Temperature":4.1},"TempUnit":"C"}"#,
                vec![reading("cellar", 4.1, None)],
            ),
            (
                r#"{"Time":"2026-11-23T22:00:00","AM2301":{"Temperature":5,"Humidity":61.5,"DewPoint":-1.7},"TempUnit":"C"}"#,
                vec![reading("cellar", 5.0, Some(61.5))],
            ),
            (r#"{"SI7021":{"Temperature":41.0,"Humidity":50},"TempUnit":"F"}"#, vec![reading("cellar", 5.0, Some(50.0))]),
            (
                r#"{"DS18B20-1":{"Temperature":1.5},"DS18B20-2":{"Temperature":2.5}}"#,
                vec![reading("cellar-DS18B20-1", 1.5, None), reading("cellar-DS18B20-2", 2.5, None)],
            ),
            (r#"{"DS18B20":{"Temperature":null},"TempUnit":"C"}"#, vec![]),
            (r#"{"ENERGY":{"Power":12}}"#, vec![]),
        ] {
            assert_eq!(readings("cellar", payload.as_bytes()).as_ref(), Ok(&want), "{payload}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for payload in ["", "4.1", "[]", "{\"DS18B20\":", "\u{0}"] {
            assert!(readings("cellar", payload.as_bytes()).is_err(), "{payload:?}");
        }
    }

    #[test]
    fn the_topic_names_the_sensor() {
        assert_eq!(source("tele/cellar/SENSOR"), Some("cellar"));
        assert_eq!(source("tele/house/cellar/SENSOR"), Some("house/cellar"));
        for topic in ["tele//SENSOR", "tele/SENSOR", "stat/cellar/SENSOR", "tele/cellar/STATE", ""] {
            assert_eq!(source(topic), None, "{topic}");
        }
    }
}
