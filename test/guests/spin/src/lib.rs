//! A component as made for Spin's synchronous triggers, with the version strings that Spin uses.
//!
//! A message is kept under `message/<topic>` in the store "default", a cron event's time, in seconds, under `cron`, and the
//! variable `greeting`, where there is one, under `greeting`. The payload "fail" is kept, and then fails.

wit_bindgen::generate!({
    path: "../../../wit",
    inline: r#"
        package dunlin:spin-guest;
        world spin-guest {
            import wasi:config/store@0.2.0-draft-2024-09-27;
            import wasi:keyvalue/store@0.2.0-draft2;
            include spin:mqtt-trigger/spin-mqtt;
            include fermyon:spin-cron/spin-cron@2.0.0 with { metadata as cron-metadata, error as cron-error }
        }
    "#,
    generate_all,
});

use wasi::config0_2_0_draft_2024_09_27::store as config;
use wasi::keyvalue0_2_0_draft2::store;

struct Spin;

export!(Spin);

impl Guest for Spin {
    fn handle_message(message: Payload, metadata: Metadata) -> Result<(), Error> {
        keep(&format!("message/{}", metadata.topic), &message).map_err(Error::Other)?;
        if message == b"fail" {
            return Err(Error::Other("failing, as told".into()));
        }
        Ok(())
    }

    fn handle_cron_event(metadata: CronMetadata) -> Result<(), CronError> {
        keep("cron", metadata.timestamp.to_string().as_bytes()).map_err(CronError::Other)
    }
}

fn keep(key: &str, value: &[u8]) -> Result<(), String> {
    let bucket = store::open("default").map_err(|e| format!("open store: {e:?}"))?;
    if let Some(greeting) = config::get("greeting").map_err(|e| format!("variable greeting: {e:?}"))? {
        bucket.set("greeting", greeting.as_bytes()).map_err(|e| format!("set greeting: {e:?}"))?;
    }
    bucket.set(key, value).map_err(|e| format!("set {key}: {e:?}"))
}
