//! Measures the real daemon under load, beside its peers and the limits of the machine: `benches/run [words]`.
//!
//! Each word is a part (`parts/`); without words all are measured. Servers run on the disk that holds `BENCH_DIR` and are
//! driven from this process over Unix sockets. Who is compared gets its turn round by round, so that a
//! disturbance meets all. The generator's own share of the CPU is told beside the figures, because all share the machine.
//!
//! Progress goes to stderr, tables in Markdown to stdout, every value as JSON to a file. Figures, not checks: what is too
//! slow fails no run, whatever else goes wrong ends it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a benchmark: whatever fails ends it, its figures are for people and belong on stdout"
)]

mod acceptance;
mod closed_loop;
mod flood;
mod http;
mod parts;
mod payload;
mod picture;
mod process;
mod results;
mod servers;
mod settings;
mod table;

use std::path::Path;

use parts::Bench;
use results::Results;
use settings::Settings;

/// A word, and what it measures.
type Part = (&'static str, fn(&mut Bench));

const PARTS: [Part; 9] = [
    ("limits", parts::limits::measure),
    ("submit", parts::submit::measure),
    ("flood", parts::flood::measure),
    ("lives", parts::lives::measure),
    ("exec", parts::exec::measure),
    ("dispatch", parts::dispatch::measure),
    ("waiting", parts::waiting::measure),
    ("backlog", parts::backlog::measure),
    ("churn", parts::churn::measure),
];

fn main() {
    // `cargo bench` adds --bench.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let below = home.join("target/bench");
    if let [word, file] = &words[..]
        && word == "again"
    {
        return show(&Results::read(Path::new(file)), &below);
    }
    for word in &words {
        let names = PARTS.map(|(name, _)| name).join(" ");
        assert!(PARTS.iter().any(|(name, _)| name == word), "{word} is not one of {names}");
    }
    raise_open_files();
    let mut bench = Bench { settings: Settings::read(), results: Results::new() };
    let (machine, disk) = (bench.results.machine(), disk(&bench));
    println!("{machine}, {} rounds of {:?}, on {disk}", bench.settings.rounds, bench.settings.time);
    for (name, measure) in PARTS {
        if words.is_empty() || words.iter().any(|word| word == name) {
            measure(&mut bench);
        }
    }
    let _ = std::fs::remove_dir_all(&bench.settings.dir);
    println!("\nAll values: {}", bench.results.write(&below).display());
    // README shows the pictures of a full run; those of a part of one are for a look.
    let is_full = words.is_empty() && std::env::var_os("QUICK").is_none();
    show(&bench.results, if is_full { home } else { &below });
}

/// The verdicts and the pictures.
fn show(results: &Results, home: &Path) {
    acceptance::print(results);
    let dir = home.join("benches");
    std::fs::create_dir_all(&dir).unwrap();
    for path in picture::draw(results, &dir) {
        println!("\nDrawn: {}", path.display());
    }
}

/// Two thousand connections and more.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

/// The file system under measurement. One in memory syncs nothing.
fn disk(bench: &Bench) -> String {
    let dir = &bench.settings.dir;
    std::fs::create_dir_all(dir).unwrap();
    let output = std::process::Command::new("stat").args(["-f", "-c", "%T"]).arg(dir).output().unwrap();
    let kind = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(kind != "tmpfs" && kind != "ramfs", "BENCH_DIR: {} is no disk", dir.display());
    kind
}
