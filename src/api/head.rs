//! The head of a request as far as `direct` takes it: a submission without anything unusual.
//!
//! Guarantees: what is taken means the same to hyper, for its own parser reads it, and each header is one that changes
//! nothing or is understood here. Whatever is doubtful is left to hyper, errors included.
//!
//! Called by `direct` only; pure.

use super::reply;

const BEGIN: &[u8] = b"POST /v1/actions HTTP/1.1\r\n";
/// A longer head is unusual.
const HEAD_BYTES_MAX: usize = 4 * 1_024;
const HEADERS_MAX: usize = 12;

/// How the body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(u64),
    Chunked,
}

/// What the request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// One JSON object of that length. The head's own length comes first, as in the next.
    Object { head_bytes: usize, length: usize },
    /// A stream of lines.
    Lines { head_bytes: usize, framing: Framing },
    /// The head is not whole yet.
    Partial,
    /// Something for hyper.
    Other,
}

/// What the bytes that a connection has begin with.
pub(super) fn look(bytes: &[u8], body_bytes_max: usize) -> Head {
    let known = bytes.len().min(BEGIN.len());
    if bytes.get(..known) != BEGIN.get(..known) {
        return Head::Other;
    }
    if bytes.len() < BEGIN.len() {
        return Head::Partial;
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(head_bytes)) => {
            taken(request.headers, head_bytes, body_bytes_max).unwrap_or(Head::Other)
        }
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => Head::Partial,
        Ok(httparse::Status::Partial) | Err(_) => Head::Other,
    }
}

/// None if a header is unusual, or given twice.
fn taken(headers: &[httparse::Header<'_>], head_bytes: usize, body_bytes_max: usize) -> Option<Head> {
    let (mut kind, mut length, mut chunked) = (None, None, None);
    for header in headers {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        let first = if is("content-type") {
            kind.replace(reply::without_parameters(std::str::from_utf8(header.value).ok()?)).is_none()
        } else if is("content-length") {
            length.replace(number(header.value)?).is_none()
        } else if is("transfer-encoding") {
            chunked.replace(header.value.eq_ignore_ascii_case(b"chunked").then_some(())?).is_none()
        } else {
            is("host") || is("user-agent") || is("accept")
        };
        // What is not ASCII hyper reads in a way of its own.
        if !first || !header.value.is_ascii() {
            return None;
        }
    }
    let framing = match (length, chunked) {
        (Some(length), None) => Framing::Length(length),
        (None, Some(())) => Framing::Chunked,
        _ => return None,
    };
    let kind = kind.unwrap_or("application/json");
    if kind.eq_ignore_ascii_case("application/x-ndjson") {
        return Some(Head::Lines { head_bytes, framing });
    }
    match framing {
        Framing::Length(length) if kind.eq_ignore_ascii_case("application/json") => {
            let length = usize::try_from(length).ok().filter(|length| *length <= body_bytes_max)?;
            Some(Head::Object { head_bytes, length })
        }
        _ => None,
    }
}

/// Digits only, and not too many.
fn number(text: &[u8]) -> Option<u64> {
    let plain = text.iter().all(u8::is_ascii_digit) && (1..=18).contains(&text.len());
    std::str::from_utf8(text).ok().filter(|_| plain)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(headers: &str) -> Head {
        look(format!("POST /v1/actions HTTP/1.1\r\n{headers}\r\n").as_bytes(), 100)
    }

    #[test]
    fn usual_submissions_are_taken() {
        let usual = "Host: x\r\nuser-agent: y\r\nAccept: */*\r\n";
        let head_bytes = BEGIN.len() + usual.len();
        for (more, kind) in [("", "Object"), ("Content-Type: Application/JSON; charset=utf-8\r\n", "Object")]
        {
            let text = format!("{usual}{more}content-length: 12\r\n");
            let head_bytes = BEGIN.len() + text.len() + 2;
            assert_eq!(head(&text), Head::Object { head_bytes, length: 12 }, "{kind} {more}");
        }
        let lines = format!("{usual}Content-Type: application/x-ndjson\r\nTransfer-Encoding: Chunked\r\n");
        assert!(matches!(head(&lines), Head::Lines { framing: Framing::Chunked, .. }));
        let lines = format!("{usual}Content-Type: application/x-ndjson\r\nContent-Length: 1000000\r\n");
        assert!(matches!(head(&lines), Head::Lines { framing: Framing::Length(1_000_000), .. }));
        assert_eq!(look(&BEGIN[..7], 100), Head::Partial);
        assert_eq!(look(b"", 100), Head::Partial);
        assert_eq!(look(&[BEGIN, usual.as_bytes()].concat()[..head_bytes], 100), Head::Partial);
    }

    #[test]
    fn whatever_is_unusual_is_left_to_hyper() {
        for headers in [
            "",
            "Host: x\r\nContent-Length: 101\r\n",
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: +1\r\n",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Content-Type: application/x-ndjson\r\nTransfer-Encoding: gzip, chunked\r\n",
            "Content-Type: text/plain\r\nContent-Length: 1\r\n",
            "Content-Type: application/json\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n",
            "Content-Length: 1\r\nExpect: 100-continue\r\n",
            "Content-Length: 1\r\nConnection: close\r\n",
            "Content-Length: 1\r\nbad header\r\n",
        ] {
            assert_eq!(head(headers), Head::Other, "{headers}");
        }
        for begin in
            ["GET / HTTP/1.1\r\n", "POST /v1/actions HTTP/1.0\r\n", "POST /v1/actions?a HTTP/1.1\r\n"]
        {
            assert_eq!(look(begin.as_bytes(), 100), Head::Other, "{begin}");
        }
        let long = format!("Accept: {}", "x".repeat(HEAD_BYTES_MAX));
        assert_eq!(look(&[BEGIN, long.as_bytes()].concat(), 100), Head::Other);
    }
}
