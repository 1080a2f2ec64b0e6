//! The order of system calls: the journal is on disk before the submitter hears of it.

use std::fs;

use crate::common::daemon::Start;
use crate::common::home::NOOP;
use crate::common::{Daemon, Home, spec, until, with};

/// The trace's lines with `<unfinished ...>` and `<... resumed>` told apart: (ended, text of the call).
fn calls(trace: &str) -> Vec<(bool, String)> {
    let mut open: std::collections::HashMap<&str, String> = std::collections::HashMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let Some((pid, call)) = line.trim_start().split_once(char::is_whitespace) else { continue };
        let call = call.trim_start();
        if let Some(begun) = call.strip_suffix("<unfinished ...>") {
            open.insert(pid, begun.to_owned());
            calls.push((false, begun.to_owned()));
        } else if call.starts_with("<... ") {
            let end = call.split_once("resumed>").map_or("", |(_, end)| end);
            let begun = open.remove(pid).unwrap_or_default();
            calls.push((true, begun + end));
        } else {
            calls.push((false, call.to_owned()));
            calls.push((true, call.to_owned()));
        }
    }
    calls
}

#[test]
fn journal_is_synced_before_the_answer_is_written() {
    let home = Home::new().with_tables(NOOP);
    let trace = home.path("trace");
    let trace_name = trace.to_str().unwrap().to_owned();
    let wrapper = [
        "strace",
        "-D",
        "-f",
        "-y",
        "-s",
        "400",
        "-o",
        &trace_name,
        "-e",
        "trace=fdatasync,fsync,sync_file_range,read,recvfrom,recvmsg,write,writev,sendto,sendmsg,pwrite64,pwritev",
    ];
    let start = Start { wrapper: &wrapper, ..Start::default() };
    let daemon = Daemon::start_as(&home, &start).unwrap_or_else(|status| {
        panic!("strace or the daemon failed: {status}; it needs leave to trace (ptrace)\n{}", home.log())
    });
    daemon.pause_queue("default", true);
    for number in 0..5 {
        let id =
            daemon.accepted(&with(spec("restart", number), "user", format!("witness-{number}@example.com")));
        daemon.action(id);
    }
    let pid = daemon.pid();
    daemon.stop();
    let text = until("the end of the trace", || {
        let text = fs::read_to_string(&trace).unwrap_or_default();
        text.lines()
            .any(|line| line.starts_with(&pid.to_string()) && line.contains("+++ exited"))
            .then_some(text)
    });
    let calls = calls(&text);
    for number in 0..5 {
        let name = format!("witness-{number}@example.com");
        let place = |from: usize, what: &str, matches: &dyn Fn(bool, &str) -> bool| {
            from + calls[from..]
                .iter()
                .position(|(ended, call)| matches(*ended, call))
                .unwrap_or_else(|| panic!("no {what} in the trace after call {from}:\n{text}"))
        };
        let is_read = |call: &str| {
            ["read", "recvfrom", "recvmsg"].iter().any(|word| call.starts_with(&format!("{word}(")))
        };
        let is_answer = |call: &str| call.contains("HTTP/1.1 202");
        let asked = place(0, "request", &|ended, call| ended && is_read(call) && call.contains(&name));
        let answered = place(asked, "answer", &|ended, call| !ended && is_answer(call) && !is_read(call));
        let synced = place(asked, "sync of the journal", &|ended, call| {
            ended && call.starts_with("fdatasync(") && call.contains("/journal/") && call.contains("= 0")
        });
        assert!(synced < answered, "submission {number} was answered before the journal was synced:\n{text}");
    }
}
