//! wasi:http/types fields.

use crate::wasi::http::types::{Fields, HeaderError, OutgoingRequest, OutgoingResponse};
use crate::{Case, Outcome, Peers, check, check_matches};

/// Those that belong to the connection.
const FORBIDDEN: [&str; 9] = [
    "Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Transfer-Encoding", "Upgrade",
    "Host", "HTTP2-Settings",
];

const BAD_NAMES: [&str; 11] = ["", " ", "a b", "a:b", "a\n", "a\r\nb", "a\0", "ä", "a(b)", "a\"b", "a,b"];
const BAD_VALUES: [&[u8]; 7] = [b"a\nb", b"a\rb", b"a\r\nb: c", b"\0", b"a\x7f", b"\x1b[0m", b"\n"];
const BAD_LENGTHS: [&[u8]; 7] = [b"", b"x", b"-1", b"+1", b"1.0", b"0x10", b"99999999999999999999"];

pub fn pairs(list: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
    list.iter().map(|(k, v)| (k.to_string(), v.as_bytes().to_vec())).collect()
}

pub const CASES: &[Case] = &[
    ("fields/new-ones-are-empty", |_| {
        let f = Fields::new();
        check!(f.entries().is_empty() && !f.has("a") && f.get("a").is_empty(), "{:?}", f.entries());
        Ok(())
    }),
    ("fields/from-list-keeps-names-values-and-order", |_| {
        let list = pairs(&[("B-Name", "1"), ("a-name", ""), ("B-Name", "2"), ("X", "\t ü ~")]);
        let f = Fields::from_list(&list).map_err(|e| format!("{e:?}"))?;
        check!(f.entries() == list, "{:?}", f.entries());
        Ok(())
    }),
    ("fields/names-are-case-insensitive", |_| {
        let f = Fields::from_list(&pairs(&[("X-Name", "1"), ("x-name", "2")])).map_err(|e| format!("{e:?}"))?;
        check!(f.get("x-NAME") == [b"1".to_vec(), b"2".to_vec()], "{:?}", f.get("x-NAME"));
        check!(f.has("X-NAME"), "has() says no");
        check_matches!(f.delete("x-Name"), Ok(()));
        check!(f.entries().is_empty(), "{:?}", f.entries());
        Ok(())
    }),
    ("fields/set-replaces-all-values", |_| {
        let f = Fields::from_list(&pairs(&[("a", "1"), ("b", "2"), ("A", "3")])).map_err(|e| format!("{e:?}"))?;
        check_matches!(f.set("a", &[b"4".to_vec(), b"5".to_vec()]), Ok(()));
        check!(f.get("a") == [b"4".to_vec(), b"5".to_vec()] && f.get("b") == [b"2".to_vec()], "{:?}", f.entries());
        Ok(())
    }),
    ("fields/set-to-nothing-removes", |_| {
        let f = Fields::from_list(&pairs(&[("a", "1")])).map_err(|e| format!("{e:?}"))?;
        check_matches!(f.set("a", &[]), Ok(()));
        check!(!f.has("a"), "it is still there");
        Ok(())
    }),
    ("fields/append-adds", |_| {
        let f = Fields::new();
        for v in ["1", "", "1"] {
            check_matches!(f.append("a", v.as_bytes()), Ok(()));
        }
        check!(f.get("a") == [b"1".to_vec(), vec![], b"1".to_vec()], "{:?}", f.get("a"));
        Ok(())
    }),
    ("fields/delete-of-what-is-not-there", |_| {
        check_matches!(Fields::new().delete("not-there"), Ok(()));
        Ok(())
    }),
    ("fields/values-are-bytes", |_| {
        let every: Vec<u8> = (0..=255).filter(|&b| b == b'\t' || b >= b' ' && b != 0x7f).collect();
        let f = Fields::new();
        check_matches!(f.set("bytes", &[every.clone()]), Ok(()));
        check!(f.get("bytes") == [every], "they have changed");
        Ok(())
    }),
    ("fields/bad-names-are-invalid-syntax", |_| {
        let f = Fields::new();
        for name in BAD_NAMES {
            check_matches!(f.append(name, b"v"), Err(HeaderError::InvalidSyntax));
            check_matches!(f.set(name, &[b"v".to_vec()]), Err(HeaderError::InvalidSyntax));
            check_matches!(f.set(name, &[]), Err(HeaderError::InvalidSyntax));
            check_matches!(f.delete(name), Err(HeaderError::InvalidSyntax));
            check_matches!(Fields::from_list(&pairs(&[("ok", "v"), (name, "v")])), Err(HeaderError::InvalidSyntax));
        }
        Ok(())
    }),
    ("fields/bad-names-are-not-there", |_| {
        let f = Fields::from_list(&pairs(&[("a", "1")])).map_err(|e| format!("{e:?}"))?;
        for name in BAD_NAMES {
            check!(!f.has(name) && f.get(name).is_empty(), "{name:?} is there");
        }
        Ok(())
    }),
    ("fields/bad-values-are-invalid-syntax", |_| {
        let f = Fields::new();
        for value in BAD_VALUES {
            check_matches!(f.append("a", value), Err(HeaderError::InvalidSyntax));
            check_matches!(f.set("a", &[b"fine".to_vec(), value.to_vec()]), Err(HeaderError::InvalidSyntax));
            check_matches!(Fields::from_list(&[("a".into(), value.to_vec())]), Err(HeaderError::InvalidSyntax));
        }
        check!(f.entries().is_empty(), "{:?}", f.entries());
        Ok(())
    }),
    ("fields/those-of-the-connection-are-forbidden", |_| {
        let f = Fields::new();
        for name in FORBIDDEN.iter().flat_map(|n| [n.to_string(), n.to_lowercase(), n.to_uppercase()]) {
            check_matches!(f.append(&name, b"v"), Err(HeaderError::Forbidden));
            check_matches!(f.set(&name, &[b"v".to_vec()]), Err(HeaderError::Forbidden));
            check_matches!(f.delete(&name), Err(HeaderError::Forbidden));
            check_matches!(Fields::from_list(&pairs(&[(&name, "v")])), Err(HeaderError::Forbidden));
        }
        check!(f.entries().is_empty(), "{:?}", f.entries());
        Ok(())
    }),
    ("fields/a-content-length-is-a-number", |_| {
        let f = Fields::new();
        for value in BAD_LENGTHS {
            check_matches!(f.append("Content-Length", value), Err(HeaderError::InvalidSyntax));
            check_matches!(f.set("content-length", &[value.to_vec()]), Err(HeaderError::InvalidSyntax));
            check_matches!(Fields::from_list(&[("content-length".into(), value.to_vec())]), Err(HeaderError::InvalidSyntax));
        }
        check_matches!(f.append("content-length", b"0"), Ok(()));
        Ok(())
    }),
    ("fields/there-is-one-content-length", |_| {
        let f = Fields::from_list(&pairs(&[("content-length", "5")])).map_err(|e| format!("{e:?}"))?;
        check_matches!(f.append("Content-Length", b"6"), Err(HeaderError::InvalidSyntax));
        check_matches!(f.set("content-length", &[b"7".to_vec(), b"8".to_vec()]), Err(HeaderError::InvalidSyntax));
        check_matches!(Fields::from_list(&pairs(&[("content-length", "5"), ("Content-Length", "6")])), Err(HeaderError::InvalidSyntax));
        check!(f.get("content-length") == [b"5".to_vec()], "{:?}", f.entries());
        check_matches!(f.set("content-length", &[b"7".to_vec()]), Ok(()));
        Ok(())
    }),
    ("fields/a-clone-is-apart", |_| {
        let f = Fields::from_list(&pairs(&[("a", "1")])).map_err(|e| format!("{e:?}"))?;
        let c = f.clone();
        check_matches!(c.append("b", b"2"), Ok(()));
        check_matches!(f.delete("a"), Ok(()));
        check!(f.entries().is_empty() && c.entries() == pairs(&[("a", "1"), ("b", "2")]), "{:?} {:?}", f.entries(), c.entries());
        Ok(())
    }),
    ("fields/a-requests-are-immutable", |_| {
        immutable(OutgoingRequest::new(some_fields()?).headers())
    }),
    ("fields/a-responses-are-immutable", |_| {
        immutable(OutgoingResponse::new(some_fields()?).headers())
    }),
    ("fields/a-clone-of-immutable-ones-is-not", |_| {
        let c = OutgoingRequest::new(some_fields()?).headers().clone();
        check_matches!(c.append("b", b"2"), Ok(()));
        check_matches!(c.delete("a"), Ok(()));
        check!(c.entries() == pairs(&[("b", "2")]), "{:?}", c.entries());
        Ok(())
    }),
    ("fields/many-names-trap", |_| without_end(|f, i| f.append(&format!("name-{i}"), b"a"))),
    ("fields/many-empty-values-trap", |_| without_end(|f, i| f.append(&format!("name-{i}"), b""))),
    ("fields/many-values-trap", |_| without_end(|f, _| f.append("a", b"b"))),
    ("fields/many-empty-values-of-one-name-trap", |_| without_end(|f, _| f.append("a", b""))),
    ("fields/a-value-of-a-megabyte-traps", |_| {
        let _ = Fields::new().append("a", &vec![b'x'; 1 << 20]);
        Err("it was taken".into())
    }),
    ("fields/what-is-replaced-does-not-count", |_: &Peers| {
        let f = Fields::new();
        let value = vec![b'x'; 16 << 10];
        for _ in 0..100 {
            check_matches!(f.set("a", &[value.clone()]), Ok(()));
        }
        Ok(())
    }),
];

fn some_fields() -> Result<Fields, String> {
    Fields::from_list(&pairs(&[("a", "1")])).map_err(|e| format!("{e:?}"))
}

pub fn immutable(f: Fields) -> Outcome {
    let before = f.entries();
    check_matches!(f.append("a", b"2"), Err(HeaderError::Immutable));
    check_matches!(f.set("a", &[b"2".to_vec()]), Err(HeaderError::Immutable));
    check_matches!(f.set("content-length", &[b"10".to_vec()]), Err(HeaderError::Immutable));
    check_matches!(f.delete("a"), Err(HeaderError::Immutable));
    check!(f.entries() == before, "{:?} has become {:?}", before, f.entries());
    Ok(())
}

fn without_end(add: fn(&Fields, u32) -> Result<(), HeaderError>) -> Outcome {
    let f = Fields::new();
    for i in 0..10_000_000 {
        check_matches!(add(&f, i), Ok(()));
    }
    Err("ten million were taken".into())
}
