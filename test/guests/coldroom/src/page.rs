//! What others are shown: the page, the API's JSON, and an alarm's.

use serde_json::{Value, json};

use crate::sensor::{Change, Limits, Sensor};

pub const VERSION: &str = if cfg!(feature = "v2") { "2.0.0" } else { "1.0.0" };

/// {"version":"1.0.0","threshold":8.0,"now":<ms>,"sensors":[{"name":...,"temperature":...,"alarm":"ok|high|silent",...}]}
pub fn json(sensors: &[(String, Sensor)], limits: &Limits, now: u64) -> String {
    let sensors: Vec<Value> = sensors
        .iter()
        .map(|(name, s)| {
            #[allow(unused_mut)]
            let mut v = json!({
                "name": name, "temperature": rounded(s.last), "humidity": s.humidity, "min": rounded(s.min),
                "max": rounded(s.max), "count": s.count, "seen": s.seen, "alarm": s.alarm(),
            });
            #[cfg(feature = "v2")]
            {
                v["average"] = json!(s.average.map(rounded));
                v["trend"] = json!(s.trend());
            }
            v
        })
        .collect();
    json!({"version": VERSION, "threshold": limits.threshold, "now": now, "sensors": sensors}).to_string() + "\n"
}

/// {"sensor":"cellar","alarm":"high|normal|silent|back","temperature":9.4,"threshold":8.0,"at":<ms>}
pub fn alarm(name: &str, sensor: &Sensor, change: &Change, limits: &Limits) -> String {
    json!({
        "sensor": name, "alarm": change.name(), "temperature": rounded(sensor.last),
        "threshold": limits.threshold, "at": sensor.seen,
    })
    .to_string()
}

/// To a hundredth, which is more than any of these sensors knows.
fn rounded(celsius: f64) -> f64 {
    (celsius * 100.0).round() / 100.0
}

pub fn html(sensors: &[(String, Sensor)], limits: &Limits, now: u64) -> String {
    let mut cards = String::new();
    for (name, s) in sensors {
        let ago = now.saturating_sub(s.seen) / 1000;
        let humidity = s.humidity.map(|h| format!(" &middot; {h:.0} % humid")).unwrap_or_default();
        cards += &format!(
            "<section class=\"{alarm}\"><h2>{name}</h2><p class=\"t\">{last:.1}<small> &deg;C</small></p>{trend}\
             <p>{min:.1} to {max:.1} &deg;C{humidity}</p><p class=\"s\">{alarm} &middot; {count} reading{plural} &middot; {ago} s ago</p></section>\n",
            alarm = s.alarm(),
            name = escaped(name),
            last = s.last,
            trend = trend(s),
            min = s.min,
            max = s.max,
            count = s.count,
            plural = if s.count == 1 { "" } else { "s" },
        );
    }
    if cards.is_empty() {
        cards = "<p>No sensor has been heard yet. Readings arrive on <code>tele/&lt;sensor&gt;/SENSOR</code>.</p>\n".into();
    }
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"2\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>Cold room</title>\n<style>{STYLE}</style>\n\
         <h1>Cold room</h1>\n<main>\n{cards}</main>\n<footer>alarm above {:.1} &deg;C &middot; coldroom {VERSION}</footer>\n</html>\n",
        limits.threshold
    )
}

#[cfg(feature = "v2")]
fn trend(s: &Sensor) -> String {
    let arrow = match s.trend() {
        "rising" => "&#8599;",
        "falling" => "&#8600;",
        _ => "&#8594;",
    };
    format!("<p>{arrow} {}, average {:.1} &deg;C</p>", s.trend(), s.average.unwrap_or(s.last))
}

#[cfg(not(feature = "v2"))]
fn trend(_: &Sensor) -> &'static str {
    ""
}

/// A sensor's name comes from a topic, so from anyone who may publish.
fn escaped(text: &str) -> String {
    let mut s = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => s += "&amp;",
            '<' => s += "&lt;",
            '>' => s += "&gt;",
            '"' => s += "&quot;",
            c => s.push(c),
        }
    }
    s
}

const STYLE: &str = "body{font:16px system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem;color:#123;background:#f4f7fa}\
main{display:grid;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));gap:1rem}\
section{background:#fff;border-left:.4rem solid #2a9d6f;border-radius:.4rem;padding:.8rem 1rem;box-shadow:0 1px 3px #0002}\
section.high{border-color:#d33}section.silent{border-color:#999;color:#888}h2{font-size:1rem;margin:0}p{margin:.2rem 0}\
.t{font-size:2.4rem;font-weight:600}.t small{font-size:1rem;font-weight:400}.s,footer{color:#678;font-size:.85rem}footer{margin-top:1.5rem}\
@media(prefers-color-scheme:dark){body{background:#10181f;color:#dde6ee}section{background:#1a252f}}";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_become_markup() {
        let sensors = [("<script>alert(\"1\")&".to_string(), Sensor::default())];
        let limits = Limits { threshold: 8.0, hysteresis: 0.5, silent_after_ms: 60_000 };
        let page = html(&sensors, &limits, 0);
        assert!(page.contains("<h2>&lt;script&gt;alert(&quot;1&quot;)&amp;</h2>"), "{page}");
        assert!(!page.contains("<script"));
    }
}
