use futures_util::FutureExt as _;

use super::*;

const ID: ActionId = ActionId(12_345);

fn texts(lines: &[String]) -> Vec<String> {
    lines
        .iter()
        .map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            value["line"].as_str().unwrap().to_owned()
        })
        .collect()
}

fn bytes_on_disk(dir: &Path) -> u64 {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn lines_come_back_in_order_as_json_with_their_stream() {
    let home = tempfile::tempdir().unwrap();
    let logs = Logs::new(home.path().to_owned(), 1 << 20);
    let writer = logs.writer(ID, 2);
    assert!(logs.attempts(ID).is_empty(), "an attempt that logs nothing leaves no file");
    writer.line(Stream::Stdout, b"one");
    writer.line(Stream::Stderr, b"a \"b\"\x1b[0m\0\xff");
    logs.writer(ID, 2).line(Stream::Daemon, "grüße".as_bytes());
    let lines = logs.read(ID, None).unwrap();
    assert_eq!(
        texts(&lines),
        ["one", "a \"b\"\u{1b}[0m\0\u{fffd} [not UTF-8: bytes were replaced]", "grüße"]
    );
    let streams = ["\"stream\":\"stdout\"", "\"stream\":\"stderr\"", "\"stream\":\"daemon\""];
    assert!(lines.iter().zip(streams).all(|(line, stream)| line.contains(stream)), "{lines:?}");
    assert!(home.path().join("12/12345/2.log").exists());
    assert_eq!(logs.attempts(ID), [2]);
    assert!(logs.read(ID, Some(1)).unwrap().is_empty());
    logs.remove(ID);
    assert!(!home.path().join("12").exists());
    assert!(logs.open(ID, 2).unwrap().is_none());
}

#[test]
fn long_line_is_cut_and_says_how_much_is_missing() {
    let home = tempfile::tempdir().unwrap();
    let logs = Logs::new(home.path().to_owned(), 1 << 20);
    let mut text = vec![b'x'; LINE_BYTES_MAX - 1];
    text.extend_from_slice("ü and more".as_bytes());
    logs.writer(ID, 1).line(Stream::Stdout, &text);
    let line = texts(&logs.read(ID, None).unwrap()).remove(0);
    assert!(line.ends_with("x\u{fffd} [cut: 10 bytes left out]"), "{}", &line[line.len() - 60..]);
}

#[test]
fn head_and_tail_are_kept_and_the_marker_says_what_is_missing() {
    let home = tempfile::tempdir().unwrap();
    let logs = Logs::new(home.path().to_owned(), 8_000);
    let writer = logs.writer(ID, 1);
    let mut written = 0;
    for number in 0..2_000 {
        let line = format!("line {number}");
        written += writer::json_line(crate::clock::now(), Stream::Stdout, &line).len() as u64;
        writer.line(Stream::Stdout, line.as_bytes());
    }
    let on_disk = bytes_on_disk(&home.path().join("12/12345"));
    assert!((6_000..=8_000).contains(&on_disk), "{on_disk}");
    let lines = texts(&logs.read(ID, None).unwrap());
    let marker = lines.iter().position(|line| line.starts_with('[')).unwrap();
    assert_eq!(lines[marker], format!("[{} bytes left out here]", written - on_disk));
    assert!((0..marker).all(|number| lines[number] == format!("line {number}")));
    let tail = &lines[marker + 1..];
    assert!(tail.len() > 20, "{}", tail.len());
    assert!(tail.iter().rev().zip((0..2_000).rev()).all(|(line, number)| *line == format!("line {number}")));
}

#[test]
fn lines_that_are_written_together_are_kept_as_if_they_came_alone() {
    let numbers: Vec<String> = (0..2_000).map(|number| format!("line {number}")).collect();
    let mut kept = Vec::new();
    for together in [1, 3, 2_000] {
        let home = tempfile::tempdir().unwrap();
        let logs = Logs::new(home.path().to_owned(), 8_000);
        let writer = logs.writer(ID, 1);
        for part in numbers.chunks(together) {
            let mut batch = Batch::new(Stream::Stdout);
            for line in part {
                batch.push(line.as_bytes(), 0);
            }
            writer.write(&batch);
        }
        writer.write(&Batch::new(Stream::Stdout));
        kept.push(texts(&logs.read(ID, None).unwrap()));
    }
    assert_eq!((&kept[0], &kept[0]), (&kept[1], &kept[2]));
}

#[test]
fn a_second_writer_goes_on_after_a_torn_line() {
    let home = tempfile::tempdir().unwrap();
    let logs = Logs::new(home.path().to_owned(), 1 << 20);
    logs.writer(ID, 1).line(Stream::Stdout, b"one");
    let path = home.path().join("12/12345/1.log");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, [&whole[..], &whole[..10]].concat()).unwrap();
    logs.writer(ID, 1).line(Stream::Daemon, b"two");
    let lines = logs.read(ID, None).unwrap();
    assert_eq!(lines.len(), 3);
    assert_eq!(texts(&[lines[0].clone(), lines[2].clone()]), ["one", "two"]);
}

#[test]
fn follower_gets_each_line_once_and_is_woken() {
    let home = tempfile::tempdir().unwrap();
    let logs = Logs::new(home.path().to_owned(), 1 << 20);
    let writer = logs.writer(ID, 1);
    writer.line(Stream::Stdout, b"one");
    writer.line(Stream::Stdout, b"two");
    let mut reader = logs.open(ID, 1).unwrap().unwrap();
    assert_eq!(texts(&reader.next_lines(1).unwrap()), ["one"], "a line at least, and no more than asked for");
    assert_eq!(texts(&reader.next_lines(1 << 20).unwrap()), ["two"]);
    let changed = logs.changed(ID);
    let again = logs.changed(ID);
    assert!(reader.next_lines(1 << 20).unwrap().is_empty());
    assert_eq!(logs.changed(ID).now_or_never(), None);
    writer.line(Stream::Stdout, b"three");
    assert_eq!(changed.now_or_never(), Some(()));
    assert_eq!(again.now_or_never(), Some(()));
    assert_eq!(texts(&reader.next_lines(1 << 20).unwrap()), ["three"]);
}

#[test]
fn slow_follower_learns_what_it_missed() {
    let home = tempfile::tempdir().unwrap();
    let logs = Logs::new(home.path().to_owned(), 4_000);
    let writer = logs.writer(ID, 1);
    writer.line(Stream::Stdout, b"0");
    let mut reader = logs.open(ID, 1).unwrap().unwrap();
    let mut got = reader.next_lines(1 << 20).unwrap();
    for number in 1..500 {
        writer.line(Stream::Stdout, number.to_string().as_bytes());
        if number == 50 {
            got.extend(reader.next_lines(1 << 20).unwrap());
        }
    }
    got.extend(reader.next_lines(1 << 20).unwrap());
    let got = texts(&got);
    assert!(got.iter().any(|line| line.ends_with("bytes left out here]")));
    let numbers: Vec<u32> = got.iter().filter_map(|line| line.parse().ok()).collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    assert_eq!((numbers.first(), numbers.last()), (Some(&0), Some(&499)));
}
