//! The client against a scripted peer on a real Unix socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;

use super::*;

#[test]
fn filter_becomes_an_encoded_query() {
    let filter = Filter {
        states: vec!["queued".into(), "running".into()],
        user: Some("a b&c=d/é".into()),
        before: Some(7),
        ..Filter::default()
    };
    assert_eq!(filter.query(), "?state=queued,running&user=a%20b%26c%3Dd%2F%C3%A9&before=7");
    assert_eq!(Filter::default().query(), "");
}

#[test]
fn only_absence_and_503_are_worth_another_try() {
    let absent = |kind| ClientError::Unreachable { socket: "/s".into(), cause: String::new(), kind };
    assert!(absent(std::io::ErrorKind::NotFound).is_transient());
    assert!(!absent(std::io::ErrorKind::PermissionDenied).is_transient());
    for (status, transient) in [(503, true), (404, false), (507, false)] {
        let problem = wire::Problem {
            kind: "urn:actiond:problem:x".into(),
            title: String::new(),
            status,
            detail: String::new(),
            action_id: None,
        };
        assert_eq!(ClientError::Problem(Box::new(problem)).is_transient(), transient);
    }
}

const EXPLAINED: &str = r#"{"id":1,"state":"queued","causes":[]}"#;

/// Answers each connection with its list of answers, one a request, then closes it.
fn peer(scripts: Vec<Vec<String>>) -> (tempfile::TempDir, Client, Arc<AtomicU32>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let connections = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        for script in scripts {
            let (stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            let mut stream = BufReader::new(stream);
            for answer in script {
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    stream.read_line(&mut line).await.unwrap();
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    if line.trim().is_empty() {
                        break;
                    }
                }
                stream.read_exact(&mut vec![0; length]).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    });
    (dir, Client::new(path), connections)
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn one_connection_serves_many_calls_and_is_opened_again_when_gone() {
    let ok = || answer("200 OK", EXPLAINED);
    let (_dir, client, connections) = peer(vec![vec![ok(), ok()], vec![ok()]]);
    for expected in [1, 1, 2] {
        assert_eq!(client.explain(1).await.unwrap().state, "queued");
        assert_eq!(connections.load(Ordering::SeqCst), expected);
    }
}

#[tokio::test]
async fn refusals_come_in_the_words_of_the_daemon() {
    let problem = r#"{"type":"urn:actiond:problem:not-found","title":"t","status":404,"detail":"there is no action 9"}"#;
    let (_dir, client, _) = peer(vec![vec![
        answer("404 Not Found", problem),
        answer("502 Bad Gateway", "<html>"),
        answer("200 OK", "[]"),
    ]]);
    let refused = client.action(9).await.unwrap_err();
    assert_eq!(refused.to_string(), "there is no action 9");
    assert!(matches!(refused, ClientError::Problem(problem) if problem.status == 404));
    assert!(
        matches!(client.action(9).await.unwrap_err(), ClientError::Protocol(text) if text.contains("<html>"))
    );
    assert!(matches!(client.explain(9).await.unwrap_err(), ClientError::Protocol(_)));
}

#[tokio::test]
async fn a_write_that_breaks_off_is_not_repeated() {
    let (_dir, client, connections) = peer(vec![vec![String::new()], vec![answer("200 OK", EXPLAINED)]]);
    let broken = client.command(1, "cancel", &serde_json::json!({})).await.unwrap_err();
    assert!(
        matches!(&broken, ClientError::Unreachable { cause, .. } if cause.contains("unknown")),
        "{broken}"
    );
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn nobody_there_is_told_with_the_path() {
    let absent = Client::new("/nonexistent/s".into()).status().await.unwrap_err();
    assert!(matches!(&absent, ClientError::Unreachable { kind: std::io::ErrorKind::NotFound, .. }));
    assert!(absent.to_string().starts_with("cannot reach actiond at /nonexistent/s: "));
}

#[tokio::test]
async fn a_cut_stream_is_an_error_and_a_whole_one_ends() {
    let line = r#"{"at":"t","stream":"stdout","line":"hello"}"#;
    let whole = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{line}\n");
    let cut = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{line}\n{{\"at\"");
    let event =
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n: hi\n\nevent: x\ndata: {\"id\":3}\n\n".to_owned();
    let (_dir, client, _) = peer(vec![vec![whole], vec![cut], vec![event]]);
    let mut log = client.log(1, None, true).await.unwrap();
    assert_eq!(log.next().await.unwrap().unwrap().line, "hello");
    assert!(log.next().await.unwrap().is_none());
    let mut log = client.log(1, Some(2), false).await.unwrap();
    assert!(log.next().await.unwrap().is_some());
    assert!(matches!(log.next().await, Err(ClientError::Unreachable { .. })));
    let mut events = client.events(None).await.unwrap();
    assert_eq!(events.next().await.unwrap(), Some(serde_json::json!({"id": 3})));
    assert_eq!(events.next().await.unwrap(), None);
}
