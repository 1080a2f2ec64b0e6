//! NDJSON streams: one thread writes, one counts answers, for each connection.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;

/// Opens a stream; chunks of lines follow.
pub const HEAD: &str = "POST /v1/actions HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";

/// Sends `lines` on each of `connections` streams; returns when all are answered.
pub fn run(socket: &Path, connections: u64, lines: u64) {
    thread::scope(|scope| {
        for connection in 0..connections {
            let writer = UnixStream::connect(socket).unwrap();
            let reader = writer.try_clone().unwrap();
            scope.spawn(move || send(writer, connection * lines, lines));
            scope.spawn(move || receive(reader, lines));
        }
    });
}

fn send(mut stream: UnixStream, first: u64, lines: u64) {
    stream.write_all(HEAD.as_bytes()).unwrap();
    let mut number = first;
    while number < first + lines {
        let mut body = String::new();
        while body.len() < 60_000 && number < first + lines {
            body.push_str(&super::daemon::spec(number));
            body.push('\n');
            number += 1;
        }
        stream.write_all(format!("{:x}\r\n{body}\r\n", body.len()).as_bytes()).unwrap();
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
}

/// Counts the lines of a chunked body until all are there.
fn receive(mut stream: UnixStream, lines: u64) {
    let mut buffer = vec![0; 262_144];
    let (mut kept, mut in_chunk, mut is_body) = (Vec::new(), 0_usize, false);
    let mut counted = 0;
    while counted < lines {
        let length = stream.read(&mut buffer).unwrap();
        assert!(length > 0, "the daemon closed a stream after {counted} of {lines} answers");
        kept.extend_from_slice(buffer.get(..length).unwrap());
        let mut rest = kept.as_slice();
        if !is_body {
            let Some(end) = rest.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            assert!(rest.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(rest));
            (is_body, rest) = (true, rest.get(end + 4..).unwrap());
        }
        loop {
            if in_chunk == 0 {
                // The size line; the line end after the chunk before it belongs to it.
                let start = if rest.starts_with(b"\r\n") { 2 } else { 0 };
                let after = rest.get(start..).unwrap();
                let Some(end) = after.iter().position(|byte| *byte == b'\n') else { break };
                let size = String::from_utf8_lossy(after.get(..end).unwrap()).trim().to_owned();
                in_chunk = usize::from_str_radix(&size, 16).expect("a chunk size");
                rest = after.get(end + 1..).unwrap();
                if in_chunk == 0 {
                    break;
                }
            }
            let piece = rest.get(..in_chunk.min(rest.len())).unwrap();
            counted += piece.iter().filter(|byte| **byte == b'\n').count() as u64;
            in_chunk -= piece.len();
            rest = rest.get(piece.len()..).unwrap();
            if rest.is_empty() {
                break;
            }
        }
        kept = rest.to_vec();
    }
}
