//! What the machine itself can do: syncs of its disk, an ideal group commit, processes in a bare loop.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Bench, say};
use crate::payload;
use crate::results::figure;
use crate::settings::Settings;
use crate::table;

/// Outstanding records of the ideal group commit.
pub const SUBMITTERS: u64 = 1_024;
/// Size of the zeroed file; written from the front again when it is full.
const FILE_BYTES: usize = 256 << 20;

pub fn measure(bench: &mut Bench) {
    let settings = &bench.settings;
    for round in 1..=settings.rounds {
        say(&format!("limits: round {round}"));
        let (rate, p50) = sync(settings);
        bench.results.add("fdatasync", "sync", 4_096, rate);
        bench.results.add("fdatasync", "sync.p50_ms", 4_096, p50);
        bench.results.add("ideal group commit", "flood", SUBMITTERS, ideal(settings));
        bench.results.add("spawn and wait", "spawn", 2, spawn(settings));
    }
    let median =
        |who: &str, what: &str, at: u64| figure(bench.results.median(who, what, at).unwrap_or(f64::NAN));
    table::head("The machine's limits", &["what".to_owned(), "per s".to_owned()]);
    let sync = median("fdatasync", "sync", 4_096);
    let p50 = median("fdatasync", "sync.p50_ms", 4_096);
    table::row(&[format!("fdatasync of 4 KiB in a zeroed file (p50 {p50} ms)"), sync]);
    let ideal = median("ideal group commit", "flood", SUBMITTERS);
    table::row(&[
        format!("ideal group commit, {SUBMITTERS} records of {} bytes each", payload::BYTES),
        ideal,
    ]);
    table::row(&[
        "spawn and wait for /bin/true, two threads".to_owned(),
        median("spawn and wait", "spawn", 2),
    ]);
}

/// Writes `block` and syncs it, over and over, into a zeroed file; how long each took.
fn rewrite(settings: &Settings, block: &[u8]) -> Vec<Duration> {
    std::fs::create_dir_all(&settings.dir).unwrap();
    let path = settings.dir.join("zeroed");
    let mut file = File::create(&path).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..FILE_BYTES / zeros.len() {
        file.write_all(&zeros).unwrap();
    }
    file.sync_all().unwrap();
    let (begin, mut at, mut times) = (Instant::now(), FILE_BYTES, Vec::new());
    while begin.elapsed() < settings.time {
        if at + block.len() > FILE_BYTES {
            file.seek(SeekFrom::Start(0)).unwrap();
            at = 0;
        }
        let since = Instant::now();
        file.write_all(block).unwrap();
        file.sync_data().unwrap();
        times.push(since.elapsed());
        at += block.len();
    }
    std::fs::remove_file(path).unwrap();
    times
}

/// Syncs per second of 4 KiB each, and the median of one in milliseconds.
pub fn sync(settings: &Settings) -> (f64, f64) {
    let mut times = rewrite(settings, &[b'x'; 4_096]);
    times.sort_unstable();
    let sum: Duration = times.iter().sum();
    (times.len() as f64 / sum.as_secs_f64(), times[times.len() / 2].as_secs_f64() * 1e3)
}

/// Records per second that a log could make durable if nothing else cost anything: as many as there are submitters
/// go into one write and one sync.
pub fn ideal(settings: &Settings) -> f64 {
    let records = usize::try_from(SUBMITTERS).unwrap();
    let times = rewrite(settings, &vec![b'x'; records * payload::BYTES]);
    let sum: Duration = times.iter().sum();
    (times.len() * records) as f64 / sum.as_secs_f64()
}

/// Runs of /bin/true per second by two threads that do nothing else. With nothing in its environment: cargo puts
/// directories there (`LD_LIBRARY_PATH`) in which the loader would look for the libraries of each, a fifth of the time.
pub fn spawn(settings: &Settings) -> f64 {
    let begin = Instant::now();
    let run = || {
        let mut count = 0_u64;
        while begin.elapsed() < settings.time {
            assert!(Command::new("/bin/true").env_clear().stdin(Stdio::null()).status().unwrap().success());
            count += 1;
        }
        count
    };
    let count = std::thread::scope(|scope| {
        let other = scope.spawn(run);
        run() + other.join().unwrap()
    });
    count as f64 / begin.elapsed().as_secs_f64()
}
