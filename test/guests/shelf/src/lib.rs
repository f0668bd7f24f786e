//! Serves and keeps files with wasi:filesystem.
//!
//! GET /PATH answers with a file, from the preopened directory whose path is the longest before it; GET /PATH/ lists a folder. PUT
//! /PATH keeps the body, DELETE /PATH removes it. POST /tour uses every function on the directory at /data and tells what each gave;
//! POST /grow fills a file there until it can't; POST /open?PATH tells how opening a path below each directory ends.

use std::io::{Read, Write};

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::filesystem::preopens;
use wasip2::filesystem::types::{
    Advice, Descriptor, DescriptorFlags, ErrorCode, NewTimestamp, OpenFlags, PathFlags,
    filesystem_error_code,
};
use wasip2::http::types::{
    Fields, IncomingRequest, Method, OutgoingBody, OutgoingResponse, ResponseOutparam,
};
use wasip2::io::streams::StreamError;

struct Shelf;

wasip2::http::proxy::export!(Shelf);

impl Guest for Shelf {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        let (status, body) = match answer(&request, path, query) {
            Ok(body) => (200, body),
            Err(ErrorCode::NoEntry) => (404, b"no such file\n".to_vec()),
            Err(e) => (500, format!("{}\n", e.name()).into_bytes()),
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

fn answer(request: &IncomingRequest, path: &str, query: &str) -> Result<Vec<u8>, ErrorCode> {
    match (request.method(), path) {
        (Method::Post, "/tour") => tour(),
        (Method::Post, "/grow") => grow(),
        (Method::Post, "/open") => Ok(open_everywhere(query)),
        (Method::Get, _) => {
            let (dir, rest) = find(path)?;
            match rest.strip_suffix('/') {
                Some(folder) => list(&dir, if folder.is_empty() { "." } else { folder }),
                None if rest.is_empty() => list(&dir, "."),
                None => read(&dir, &rest),
            }
        }
        (Method::Put, _) => {
            let (dir, rest) = find(path)?;
            let body = request.consume().expect("take request body");
            let mut from = body.stream().expect("take request stream");
            let mut data = Vec::new();
            from.read_to_end(&mut data).map_err(|_| ErrorCode::Io)?;
            keep(&dir, &rest, &data)?;
            Ok(b"kept\n".to_vec())
        }
        (Method::Delete, _) => {
            let (dir, rest) = find(path)?;
            dir.unlink_file_at(&rest)?;
            Ok(b"deleted\n".to_vec())
        }
        _ => Err(ErrorCode::Unsupported),
    }
}

/// The directory whose path is the longest before this one, and the rest of the path.
fn find(path: &str) -> Result<(Descriptor, String), ErrorCode> {
    preopens::get_directories()
        .into_iter()
        .filter_map(|(dir, at)| {
            let rest = path.strip_prefix(at.trim_end_matches('/'))?;
            let rest = rest.strip_prefix('/').or(rest.is_empty().then_some(""))?;
            Some((at.len(), dir, rest.to_string()))
        })
        .max_by_key(|(len, _, _)| *len)
        .map(|(_, dir, rest)| (dir, rest))
        .ok_or(ErrorCode::NoEntry)
}

fn open(dir: &Descriptor, path: &str, how: OpenFlags, want: DescriptorFlags) -> Result<Descriptor, ErrorCode> {
    dir.open_at(PathFlags::SYMLINK_FOLLOW, path, how, want)
}

fn read(dir: &Descriptor, path: &str) -> Result<Vec<u8>, ErrorCode> {
    let file = open(dir, path, OpenFlags::empty(), DescriptorFlags::READ)?;
    let mut stream = file.read_via_stream(0)?;
    let mut body = Vec::new();
    stream.read_to_end(&mut body).map_err(|_| ErrorCode::Io)?;
    Ok(body)
}

fn list(dir: &Descriptor, path: &str) -> Result<Vec<u8>, ErrorCode> {
    let folder = open(dir, path, OpenFlags::DIRECTORY, DescriptorFlags::READ)?;
    let entries = folder.read_directory()?;
    let mut lines = Vec::new();
    while let Some(entry) = entries.read_directory_entry()? {
        lines.push(format!("{} {:?}\n", entry.name, entry.type_));
    }
    lines.sort();
    Ok(lines.concat().into_bytes())
}

fn keep(dir: &Descriptor, path: &str, data: &[u8]) -> Result<(), ErrorCode> {
    let how = OpenFlags::CREATE | OpenFlags::TRUNCATE;
    let file = open(dir, path, how, DescriptorFlags::WRITE)?;
    let stream = file.write_via_stream(0)?;
    for part in data.chunks(4096) {
        stream.blocking_write_and_flush(part).map_err(code)?;
    }
    drop(stream);
    file.sync()
}

/// What a stream's error was to the file system.
fn code(e: StreamError) -> ErrorCode {
    match e {
        StreamError::LastOperationFailed(e) => filesystem_error_code(&e).unwrap_or(ErrorCode::Io),
        StreamError::Closed => ErrorCode::Pipe,
    }
}

fn grow() -> Result<Vec<u8>, ErrorCode> {
    let (dir, _) = find("/data/")?;
    let file = open(&dir, "grown", OpenFlags::CREATE, DescriptorFlags::WRITE)?;
    let stream = file.append_via_stream()?;
    loop {
        if let Err(e) = stream.blocking_write_and_flush(&[0; 4096]) {
            let size = file.stat()?.size;
            return Ok(format!("{} after {size} bytes\n", code(e).name()).into_bytes());
        }
    }
}

fn open_everywhere(path: &str) -> Vec<u8> {
    let mut text = String::new();
    for (dir, at) in preopens::get_directories() {
        for (what, how, want) in [
            ("read", OpenFlags::empty(), DescriptorFlags::READ),
            ("create", OpenFlags::CREATE, DescriptorFlags::WRITE),
        ] {
            let end = match open(&dir, path, how, want) {
                Ok(_) => "opened",
                Err(e) => e.name(),
            };
            text += &format!("{at} {what} {end}\n");
        }
    }
    text.into_bytes()
}

fn tour() -> Result<Vec<u8>, ErrorCode> {
    let (dir, _) = find("/data/")?;
    let mut text = String::new();
    let mut tell = |what: &str, got: String| text += &format!("{what}: {got}\n");
    let both = DescriptorFlags::READ | DescriptorFlags::WRITE;
    dir.create_directory_at("tour")?;
    let file = open(&dir, "tour/a", OpenFlags::CREATE | OpenFlags::EXCLUSIVE, both)?;
    tell("write", file.write(b"hello", 2)?.to_string());
    let (data, end) = file.read(100, 2)?;
    tell("read", format!("{} {end}", String::from_utf8_lossy(&data)));
    file.set_size(4)?;
    file.advise(0, 4, Advice::Sequential)?;
    file.sync_data()?;
    let stat = file.stat()?;
    tell("stat", format!("{:?} {} {}", stat.type_, stat.size, stat.link_count));
    tell("flags", format!("{:?}", file.get_flags()?));
    tell("types", format!("{:?} {:?}", file.get_type()?, dir.get_type()?));
    let day = wasip2::clocks::wall_clock::Datetime { seconds: 86400, nanoseconds: 7 };
    file.set_times(NewTimestamp::NoChange, NewTimestamp::Timestamp(day))?;
    dir.set_times_at(PathFlags::empty(), "tour/a", NewTimestamp::Now, NewTimestamp::NoChange)?;
    let at = dir.stat_at(PathFlags::empty(), "tour/a")?.data_modification_timestamp.expect("a time");
    tell("modified", format!("{}.{:09}", at.seconds, at.nanoseconds));
    dir.link_at(PathFlags::empty(), "tour/a", &dir, "tour/b")?;
    dir.symlink_at("b", "tour/c")?;
    tell("link", dir.readlink_at("tour/c")?);
    let folder = open(&dir, "tour", OpenFlags::DIRECTORY, DescriptorFlags::READ)?;
    let other = open(&folder, "c", OpenFlags::empty(), DescriptorFlags::READ)?;
    tell("same", format!("{} {}", file.is_same_object(&other), file.is_same_object(&dir)));
    let (a, b) = (file.metadata_hash()?, dir.metadata_hash_at(PathFlags::SYMLINK_FOLLOW, "tour/c")?);
    tell("hash", format!("{}", a.lower == b.lower && a.upper == b.upper));
    folder.rename_at("b", &dir, "moved")?;
    tell("dangling", format!("{:?}", open(&folder, "c", OpenFlags::empty(), DescriptorFlags::READ).err().map(|e| e.name())));
    let stream = file.append_via_stream()?;
    stream.blocking_write_and_flush(b"!").map_err(code)?;
    drop(stream);
    let stream = file.read_via_stream(1)?;
    tell("stream", format!("{:?}", stream.blocking_read(100).map_err(code)?));
    tell("list", String::from_utf8_lossy(&list(&dir, "tour")?).replace('\n', ", "));
    tell("busy", format!("{:?}", dir.remove_directory_at("tour").err().map(|e| e.name())));
    for name in ["tour/a", "tour/c", "moved"] {
        dir.unlink_file_at(name)?;
    }
    dir.remove_directory_at("tour")?;
    dir.sync()?;
    tell("left", String::from_utf8_lossy(&list(&dir, ".")?).into_owned());
    Ok(text.into_bytes())
}
