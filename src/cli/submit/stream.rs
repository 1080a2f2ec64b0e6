//! `submit --file`: one object, or a stream of many; the content decides.
//!
//! A file whose only value is one JSON object is one submission, over how many lines it may go. Otherwise it
//! is NDJSON: sent while it is read, each answer told as it comes, in order. To know which it is, the second
//! line is awaited before the first is sent; `--ndjson` spares a slow source that.

use std::os::fd::AsFd;
use std::path::Path;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

use super::accepted;
use crate::api::wire;
use crate::cli::exit::Exit;
use crate::cli::follow::{self, Patience};
use crate::cli::output::{Failure, Out, describe, escape};
use crate::client::{BodySender, Client, body};

/// Longest object read into memory to look at it; the daemon's own limits are far below.
const OBJECT_BYTES_MAX: u64 = 64 << 20;
const CHUNK_BYTES: usize = 64 << 10;

type Source = BufReader<Box<dyn AsyncRead + Send + Unpin>>;

/// What the beginning of a file shows.
#[derive(Debug, PartialEq)]
enum Content {
    /// The whole file.
    One(Vec<u8>),
    /// The lines read so far.
    Many(Vec<u8>),
}

pub(super) async fn submit_file(
    client: &Client,
    out: Out,
    file: &Path,
    ndjson: bool,
    patience: Option<Patience>,
) -> Result<Exit, Failure> {
    let unreadable =
        |error: std::io::Error| Failure::new(Exit::Usage, format!("cannot read {}: {error}", file.display()));
    let source: Box<dyn AsyncRead + Send + Unpin> = if file == Path::new("-") {
        let stdin = std::io::stdin().as_fd().try_clone_to_owned().map_err(unreadable)?;
        Box::new(tokio::fs::File::from_std(stdin.into()))
    } else {
        Box::new(tokio::fs::File::open(file).await.map_err(unreadable)?)
    };
    let mut source = BufReader::with_capacity(CHUNK_BYTES, source);
    let content =
        if ndjson { Content::Many(Vec::new()) } else { look(&mut source).await.map_err(unreadable)? };
    match content {
        Content::One(object) => {
            let submitted = client.submit_json(object.into()).await?;
            accepted(client, out, &submitted, patience).await
        }
        Content::Many(head) => stream(client, out, head, source, patience).await,
    }
}

/// Reads until it is clear what the source holds.
async fn look(source: &mut Source) -> std::io::Result<Content> {
    let mut text = Vec::new();
    if !next_line(source, &mut text).await? {
        return Ok(Content::One(text));
    }
    let second = text.len();
    if is_json(&text) {
        let more = next_line(source, &mut text).await?;
        return Ok(if more { Content::Many(text) } else { Content::One(text) });
    }
    // The first line is not a value: an object over many lines, or NDJSON that begins badly.
    next_line(source, &mut text).await?;
    if text.get(second..).is_some_and(is_json) {
        return Ok(Content::Many(text));
    }
    source.take(OBJECT_BYTES_MAX).read_to_end(&mut text).await?;
    Ok(Content::One(text))
}

/// Appends lines up to and with the next that is not blank; false at the end.
async fn next_line(source: &mut Source, text: &mut Vec<u8>) -> std::io::Result<bool> {
    loop {
        let from = text.len();
        if source.take(OBJECT_BYTES_MAX).read_until(b'\n', text).await? == 0 {
            return Ok(false);
        }
        if text.get(from..).is_some_and(|line| !line.trim_ascii().is_empty()) {
            return Ok(true);
        }
    }
}

/// Whether the text is one whole JSON object.
fn is_json(text: &[u8]) -> bool {
    text.trim_ascii().starts_with(b"{") && serde_json::from_slice::<&RawValue>(text).is_ok()
}

async fn stream(
    client: &Client,
    out: Out,
    head: Vec<u8>,
    source: Source,
    patience: Option<Patience>,
) -> Result<Exit, Failure> {
    let (sender, lines) = body();
    let feed = tokio::spawn(feed(sender, head, source));
    let mut answers = client.submit_stream(lines).await?;
    let mut told = Told::default();
    let end = loop {
        match answers.next().await {
            Ok(Some(answer)) => told.answer(out, &answer)?,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    let Told { ids, refused, last } = told;
    if !out.json {
        out.say(format!("{} accepted, {refused} refused", ids.len()));
    }
    if let Err(error) = end {
        let mut failure = Failure::from(error);
        failure.text = format!("{}\nafter line {last} it is unknown which lines were accepted", failure.text);
        return Err(failure);
    }
    if !feed.is_finished() {
        feed.abort();
        let text = format!("the daemon ended the stream after line {last}; later lines were not accepted");
        return Err(Failure::new(Exit::Unreachable, text));
    }
    if let Ok(Err(error)) = feed.await {
        return Err(Failure::new(Exit::Usage, format!("the input broke off after line {last}: {error}")));
    }
    let mut exit = Exit::Done;
    if let Some(patience) = patience {
        let (ended, code) = follow::all(client, out, &ids, patience).await?;
        exit = code;
        if !out.json {
            for action in &ended {
                out.say(follow::verdict(action));
            }
        }
    }
    Ok(if refused > 0 { Exit::Refused } else { exit })
}

/// Sends what was read to look, then the rest. Ends early, without an error, when nobody takes it.
async fn feed(sender: BodySender, head: Vec<u8>, mut source: Source) -> std::io::Result<()> {
    if !head.is_empty() && !sender.send(head.into()).await {
        return Ok(());
    }
    loop {
        let chunk = Bytes::copy_from_slice(source.fill_buf().await?);
        source.consume(chunk.len());
        if chunk.is_empty() || !sender.send(chunk).await {
            return Ok(());
        }
    }
}

/// The answers so far.
#[derive(Default)]
struct Told {
    ids: Vec<u64>,
    refused: u64,
    last: u64,
}

impl Told {
    fn answer(&mut self, out: Out, answer: &wire::LineAnswer) -> Result<(), Failure> {
        let wire::LineAnswer { line, status, action, problem } = answer;
        self.last = *line;
        if let Some(action) = action {
            self.ids.push(action.id);
        } else {
            self.refused += 1;
        }
        if out.json {
            return out.json(answer);
        }
        match (action, problem) {
            (Some(action), _) => out.text(action.id.to_string())?,
            (None, Some(problem)) => out.say(format!("line {line} refused: {}", escape(&describe(problem)))),
            (None, None) => out.say(format!("line {line} refused with status {status}")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn content(text: &'static str) -> Content {
        let source: Box<dyn AsyncRead + Send + Unpin> = Box::new(text.as_bytes());
        look(&mut BufReader::new(source)).await.unwrap()
    }

    #[tokio::test]
    async fn content_decides_between_one_and_many() {
        for one in [
            "{\"a\":1}",
            "\n{\"a\":1}\n\n",
            "{\n  \"a\": 1\n}\n",
            "{\n\"a\": {\n\"b\": 1}}\n",
            "nonsense",
            "",
        ] {
            assert_eq!(content(one).await, Content::One(one.into()), "{one:?}");
        }
        for many in ["{\"a\":1}\n{\"a\":2}\n", "{\"a\":1}\n\nnonsense\n", "nonsense\n{\"a\":1}\n"] {
            assert_eq!(content(many).await, Content::Many(many.into()), "{many:?}");
        }
    }
}
