//! The little of HTTP/1.1 that the generator reads: heads, chunks, and lines of JSON with their status.

use memchr::{memchr, memmem};

/// A response's head.
pub struct Head {
    pub bytes: usize,
    pub status: u16,
    pub length: Option<usize>,
}

/// The head at the begin of `bytes`, once it is whole.
pub fn head(bytes: &[u8]) -> Option<Head> {
    let end = memmem::find(bytes, b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&bytes[..end]).expect("a head in ASCII");
    let status = text.get(9..12).and_then(|text| text.parse().ok()).expect("a status line");
    let length = text.lines().skip(1).find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().expect("a length"))
    });
    Some(Head { bytes: end, status, length })
}

/// Counts the lines of a chunked body and checks that each says 202.
#[derive(Default)]
pub struct Lines {
    /// What is left of the chunk that has begun.
    left: usize,
    /// Begin of the line that is not whole yet: enough of it to see the status.
    start: Vec<u8>,
}

const START: usize = 48;

impl Lines {
    /// Lines that end in `bytes`, and how many bytes are used up: all but the begin of a chunk's size.
    pub fn take(&mut self, bytes: &[u8]) -> (usize, u64) {
        let (mut rest, mut lines) = (bytes, 0);
        while !rest.is_empty() {
            if self.left == 0 {
                // The line end after the chunk before it belongs to the size line here.
                let skip = if rest.starts_with(b"\r\n") { 2 } else { 0 };
                let Some(end) = memchr(b'\n', &rest[skip..]) else { break };
                let size = std::str::from_utf8(&rest[skip..skip + end]).expect("a chunk size").trim();
                rest = &rest[skip + end + 1..];
                if size.is_empty() {
                    continue;
                }
                self.left = usize::from_str_radix(size, 16).expect("a chunk size");
                continue;
            }
            let (piece, after) = rest.split_at(self.left.min(rest.len()));
            lines += self.data(piece);
            self.left -= piece.len();
            rest = after;
        }
        (bytes.len() - rest.len(), lines)
    }

    fn data(&mut self, mut piece: &[u8]) -> u64 {
        let mut lines = 0;
        while !piece.is_empty() {
            let end = memchr(b'\n', piece);
            let part = &piece[..end.unwrap_or(piece.len())];
            let missing = START - self.start.len();
            self.start.extend_from_slice(&part[..missing.min(part.len())]);
            let Some(end) = end else { break };
            let is_accepted = memmem::find(&self.start, b"\"status\":202").is_some();
            assert!(is_accepted, "refused: {}", String::from_utf8_lossy(part));
            self.start.clear();
            lines += 1;
            piece = &piece[end + 1..];
        }
        lines
    }
}
