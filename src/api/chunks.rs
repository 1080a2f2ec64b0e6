//! The body of a request or an answer as it stands between two ends that do not know its length: chunked transfer
//! coding (RFC 9112, section 7.1), read and written.
//!
//! Guarantees: strict about line ends and sizes, for what two readers take for different bodies is a way to smuggle a
//! request; extensions and trailers mean nothing here and are dropped, at most [`IGNORED_BYTES_MAX`] of them.
//!
//! Used by `direct`; pure.

use bytes::{Buf as _, BytesMut};

/// What leads a chunk of an answer, as most have it: a size of three hexadecimal digits and a line end.
const LEAD: [u8; 5] = *b"000\r\n";
/// Extensions and trailers of one body.
const IGNORED_BYTES_MAX: usize = 16 * 1_024;
/// More digits than any size that fits `u64`.
const DIGITS_MAX: u8 = 15;

/// Where the reader is in the coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Size {
        value: u64,
        digits: u8,
    },
    /// Behind white space: nothing but an extension may follow.
    Space {
        value: u64,
    },
    Extension {
        value: u64,
    },
    SizeEnd {
        value: u64,
    },
    Data {
        left: u64,
    },
    DataReturn,
    DataEnd,
    /// `begun`: the line has something; `named`: it has a colon, as a field must.
    Trailer {
        begun: bool,
        named: bool,
    },
    TrailerEnd {
        begun: bool,
    },
    Done,
}

/// What reading came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Some of the body was taken.
    Some,
    /// More bytes are needed first.
    Nothing,
    /// The body is whole.
    End,
}

/// Reads a body that comes in chunks, or of a known length.
#[derive(Debug)]
pub(super) struct Reader {
    at: At,
    is_chunked: bool,
    ignored: usize,
}

impl Reader {
    pub fn chunked() -> Self {
        Self { at: At::Size { value: 0, digits: 0 }, is_chunked: true, ignored: 0 }
    }

    pub fn of_length(length: u64) -> Self {
        let at = if length == 0 { At::Done } else { At::Data { left: length } };
        Self { at, is_chunked: false, ignored: 0 }
    }

    pub fn is_done(&self) -> bool {
        self.at == At::Done
    }

    /// Moves what `from` has of the body to the end of `into`; what follows the body stays.
    ///
    /// # Errors
    ///
    /// What is wrong with the coding. Nothing more can be read from this connection then.
    pub fn read(&mut self, from: &mut BytesMut, into: &mut BytesMut) -> Result<Read, &'static str> {
        let before = into.len();
        let mut rest = &from[..];
        loop {
            match self.at {
                At::Data { left } => {
                    let count = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                    if count == 0 {
                        break;
                    }
                    let (data, after) = rest.split_at(count);
                    into.extend_from_slice(data);
                    rest = after;
                    self.at = match left - count as u64 {
                        0 if self.is_chunked => At::DataReturn,
                        0 => At::Done,
                        left => At::Data { left },
                    };
                }
                At::Done => break,
                _ => {
                    let Some((byte, after)) = rest.split_first() else { break };
                    rest = after;
                    self.at = self.after(*byte)?;
                }
            }
        }
        let used = from.len() - rest.len();
        from.advance(used);
        Ok(match () {
            () if into.len() > before => Read::Some,
            () if self.is_done() => Read::End,
            () => Read::Nothing,
        })
    }

    /// Where a byte outside of data leads.
    fn after(&mut self, byte: u8) -> Result<At, &'static str> {
        Ok(match (self.at, byte) {
            (At::Size { digits: DIGITS_MAX.., .. }, _) => return Err("a chunk's size is too large"),
            (At::Size { value, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).unwrap_or(0);
                // Zeros before the first digit are part of the grammar, and say nothing.
                let digits = if value == 0 { 1 } else { digits + 1 };
                At::Size { value: value << 4 | u64::from(digit), digits }
            }
            (At::Size { digits: 0, .. }, _) => return Err("a chunk has no size"),
            (At::Size { value, .. } | At::Space { value } | At::Extension { value }, b'\r') => {
                At::SizeEnd { value }
            }
            (At::Size { value, .. } | At::Space { value }, b';') => At::Extension { value },
            (At::Size { value, .. } | At::Space { value }, b' ' | b'\t') => {
                self.ignore(At::Space { value })?
            }
            (At::Size { .. } | At::Space { .. }, _) => return Err("a chunk's size is no number"),
            (At::Extension { .. } | At::Trailer { .. }, b'\n') => return Err("a line end stands alone"),
            (At::Extension { value }, _) => self.ignore(At::Extension { value })?,
            (At::SizeEnd { value: 0 }, b'\n') => At::Trailer { begun: false, named: false },
            (At::SizeEnd { value }, b'\n') => At::Data { left: value },
            (At::DataReturn, b'\r') => At::DataEnd,
            (At::DataEnd, b'\n') => At::Size { value: 0, digits: 0 },
            (At::DataReturn | At::DataEnd, _) => return Err("a chunk is longer than its size"),
            (At::Trailer { begun: true, named: false }, b'\r') => return Err("a trailer has no name"),
            (At::Trailer { begun, .. }, b'\r') => At::TrailerEnd { begun },
            (At::Trailer { named, .. }, byte) => {
                self.ignore(At::Trailer { begun: true, named: named || byte == b':' })?
            }
            (At::TrailerEnd { begun: false }, b'\n') => At::Done,
            (At::TrailerEnd { .. }, b'\n') => At::Trailer { begun: false, named: false },
            _ => return Err("a line does not end"),
        })
    }

    fn ignore(&mut self, at: At) -> Result<At, &'static str> {
        self.ignored += 1;
        if self.ignored > IGNORED_BYTES_MAX { Err("extensions or trailers are too long") } else { Ok(at) }
    }
}

/// Appends one chunk with what `write` appends; nothing if that is nothing, for an empty chunk is the end.
pub(super) fn write(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let begin = out.len();
    out.extend_from_slice(&LEAD);
    write(out);
    let count = out.len() - begin - LEAD.len();
    if count == 0 {
        out.truncate(begin);
        return;
    }
    let digits = (1 + count.ilog2() / 4) as usize;
    // Zeros before the digits are part of the grammar, but not every reader takes them.
    match digits.checked_sub(3) {
        Some(more) => _ = out.splice(begin..begin, std::iter::repeat_n(b'0', more)),
        None => _ = out.drain(begin..begin + 3 - digits),
    }
    let mut left = count;
    for place in out.iter_mut().skip(begin).take(digits).rev() {
        *place = b"0123456789abcdef".get(left % 16).copied().unwrap_or_default();
        left /= 16;
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the end of a body.
pub(super) fn write_end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body, if it is whole, and what follows it; the text comes in pieces of `step` bytes.
    fn read(text: &str, step: usize) -> Result<(String, String), &'static str> {
        let (mut reader, mut into, mut from) = (Reader::chunked(), BytesMut::new(), BytesMut::new());
        for piece in text.as_bytes().chunks(step) {
            from.extend_from_slice(piece);
            while reader.read(&mut from, &mut into)? == Read::Some {}
        }
        if !reader.is_done() {
            return Err("not whole");
        }
        Ok((String::from_utf8(into.to_vec()).unwrap(), String::from_utf8(from.to_vec()).unwrap()))
    }

    #[test]
    fn body_is_the_same_however_it_comes() {
        let text =
            "4\r\nWiki\r\n6;a=\"b\"\r\npedia \r\nE \r\nin \r\n\r\nchunks.\r\n0\r\nTrailer: x\r\n\r\nPOST";
        for step in 1..text.len() {
            assert_eq!(read(text, step), Ok(("Wikipedia in \r\n\r\nchunks.".to_owned(), "POST".to_owned())));
        }
        assert_eq!(read("0\r\n\r\n", 5), Ok((String::new(), String::new())));
        assert_eq!(
            read("0000000000000000001 \t;a\r\nx\r\n0 \r\n\r\n", 9),
            Ok(("x".to_owned(), String::new()))
        );
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for text in [
            "\r\n",
            "x\r\n",
            "-1\r\n",
            "4\nWiki\r\n",
            "4\r\nWikipedia\r\n",
            "4\r\nWiki\n0\r\n\r\n",
            "10000000000000000\r\n",
            "4;a\nb\r\nWiki\r\n",
            "5 7f\r\n",
            "0\r\nTrailer: x\n\r\n",
            "0\r\nnot a trailer\r\n\r\n",
            "0\r\n\rX",
        ] {
            assert!(read(text, text.len()).is_err(), "{text:?}");
        }
        let long = format!("1;{}\r\n", "x".repeat(IGNORED_BYTES_MAX + 1));
        assert_eq!(read(&long, 100), Err("extensions or trailers are too long"));
    }

    #[test]
    fn body_of_a_known_length_ends_there() {
        let (mut reader, mut into) = (Reader::of_length(3), BytesMut::new());
        let mut from = BytesMut::from(&b"ab"[..]);
        assert_eq!(reader.read(&mut from, &mut into), Ok(Read::Some));
        assert_eq!(reader.read(&mut from, &mut into), Ok(Read::Nothing));
        from.extend_from_slice(b"cd");
        assert_eq!(reader.read(&mut from, &mut into), Ok(Read::Some));
        assert_eq!(reader.read(&mut from, &mut into), Ok(Read::End));
        assert_eq!((&into[..], &from[..]), (&b"abc"[..], &b"d"[..]));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut out = Vec::new();
        for count in [1, 15, 16, 70_000] {
            write(&mut out, |out| out.resize(out.len() + count, b'x'));
        }
        write(&mut out, |_| ());
        write_end(&mut out);
        assert!(out.starts_with(b"1\r\nx\r\nf\r\n"));
        let read = read(&String::from_utf8(out).unwrap(), 1_000).unwrap();
        assert_eq!(read, ("x".repeat(70_032), String::new()));
    }
}
