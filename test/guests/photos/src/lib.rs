//! Keeps what it is sent as objects of the wasi:blobstore container "photos".
//!
//! PUT /NAME keeps the body, GET /NAME answers with it, GET /NAME?START-END with a part, DELETE /NAME deletes it, GET / lists the
//! names and sizes, POST /NAME?to=OTHER moves it. POST /trap keeps an object and traps, POST /huge keeps one that no event may.

use std::io::{self, Read, Write};

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{
    Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};

wit_bindgen::generate!({
    path: "../../../wit",
    inline: r#"
        package dunlin:photos;
        world photos {
            import wasi:blobstore/blobstore@0.2.0-draft;
        }
    "#,
    with: {
        "wasi:io/error@0.2.12": wasip2::io::error,
        "wasi:io/poll@0.2.12": wasip2::io::poll,
        "wasi:io/streams@0.2.12": wasip2::io::streams,
    },
    generate_all,
});

use wasi::blobstore::blobstore::{self, Container};
use wasi::blobstore::types::{IncomingValue, ObjectId, OutgoingValue};

const PHOTOS: &str = "photos";

struct Photos;

wasip2::http::proxy::export!(Photos);

impl Guest for Photos {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        let (status, body) = match answer(&request, path.trim_start_matches('/'), query) {
            Ok(body) => (200, body),
            Err(e) => (500, e.into_bytes()),
        };
        let response = OutgoingResponse::new(Fields::new());
        response.set_status_code(status).expect("set status");
        let to = response.body().expect("take body");
        ResponseOutparam::set(out, Ok(response));
        let mut stream = to.write().expect("take stream");
        stream.write_all(&body).expect("write body");
        drop(stream);
        OutgoingBody::finish(to, None).expect("finish body");
    }
}

fn answer(request: &IncomingRequest, name: &str, query: &str) -> Result<Vec<u8>, String> {
    let photos = container()?;
    match (request.method(), name) {
        (Method::Get, "") => list(&photos),
        (Method::Get, _) => {
            let (start, end) = match query.split_once('-') {
                Some((start, end)) => (number(start)?, number(end)?),
                None => (0, u64::MAX),
            };
            let value = photos.get_data(&name.to_string(), start, end)?;
            let size = value.size();
            let mut body = Vec::new();
            // Half of all are read as a stream, by their size.
            if size % 2 == 0 {
                body = IncomingValue::incoming_value_consume_sync(value)?;
            } else {
                IncomingValue::incoming_value_consume_async(value)?
                    .read_to_end(&mut body)
                    .map_err(|e| e.to_string())?;
            }
            Ok(body)
        }
        (Method::Put, _) => {
            let body = request.consume().expect("take request body");
            let mut from = body.stream().expect("take request stream");
            keep(&photos, name, &mut from)?;
            Ok(b"kept\n".to_vec())
        }
        (Method::Post, "trap") => {
            keep(&photos, "trapped", &mut &b"never"[..])?;
            panic!("trapping, as told");
        }
        (Method::Post, "huge") => {
            keep(&photos, "huge", &mut io::repeat(b'x').take(9 << 20))?;
            Ok(b"kept\n".to_vec())
        }
        (Method::Post, _) => {
            let to = query.strip_prefix("to=").ok_or("where to?")?;
            let id = |object: &str| ObjectId { container: PHOTOS.into(), object: object.into() };
            blobstore::move_object(&id(name), &id(to))?;
            Ok(b"moved\n".to_vec())
        }
        (Method::Delete, _) => {
            photos.delete_object(&name.to_string())?;
            Ok(b"deleted\n".to_vec())
        }
        _ => Err("wrong method".into()),
    }
}

fn container() -> Result<Container, String> {
    let name = PHOTOS.to_string();
    if blobstore::container_exists(&name)? {
        return blobstore::get_container(&name);
    }
    blobstore::create_container(&name)
}

fn keep(photos: &Container, name: &str, from: &mut dyn Read) -> Result<(), String> {
    let value = OutgoingValue::new_outgoing_value();
    let mut to = value.outgoing_value_write_body().map_err(|()| "no stream".to_string())?;
    photos.write_data(&name.to_string(), &value)?;
    io::copy(from, &mut to).map_err(|e| e.to_string())?;
    drop(to);
    OutgoingValue::finish(value)
}

fn list(photos: &Container) -> Result<Vec<u8>, String> {
    let names = photos.list_objects()?;
    let mut text = String::new();
    loop {
        let (some, all) = names.read_stream_object_names(2)?;
        for name in some {
            let info = photos.object_info(&name)?;
            text += &format!("{}/{} {}\n", info.container, info.name, info.size);
        }
        if all {
            return Ok(text.into_bytes());
        }
    }
}

fn number(s: &str) -> Result<u64, String> {
    s.parse().map_err(|_| format!("{s} is no number"))
}
