//! What a waiting action costs on the disk, and how long submitters wait: run by hand in a release build.
//!
//! `ACTIOND_MEASURE=300000 cargo test --release --lib store::tests::measure -- --ignored --nocapture`

use super::*;

fn bytes_in(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let meta = std::fs::metadata(dir).unwrap();
    if !meta.is_dir() {
        return meta.blocks() * 512;
    }
    std::fs::read_dir(dir).unwrap().map(|entry| bytes_in(&entry.unwrap().path())).sum()
}

fn tell(bench: &Bench, what: &str, count: u64) {
    let parts = ["table", "journal", "snapshot"].map(|part| (part, bytes_in(&bench.path(part)) / count));
    let total: u64 = parts.iter().map(|(_, bytes)| bytes).sum();
    eprintln!("{what}: {total} bytes an action, {parts:?}, {} snapshots", bench.snapshots().len());
}

#[test]
#[ignore = "a measurement"]
fn disk_per_waiting_action() {
    let count: u64 = std::env::var("ACTIOND_MEASURE").map_or(20_000, |count| count.parse().unwrap());
    let mut bench = Bench::new();
    let config = crate::config::Config::default().store;
    bench.options.segment_bytes = config.segment_bytes;
    bench.options.memory_bytes_max = config.memory_bytes_max;
    bench.options.cache_bytes = config.cache_bytes;
    bench.options.snapshot_after_bytes = config.snapshot_after_bytes;
    let mut random = fastrand::Rng::with_seed(1);
    let (mut opened, _) = bench.start();
    let (begun, mut worst, mut pressed_since) = (Instant::now(), Duration::ZERO, None);
    let mut most = 0;
    while opened.store.ledger.next_id <= count {
        if opened.store.pressure() == Pressure::MemoryFull {
            let since = *pressed_since.get_or_insert_with(Instant::now);
            worst = worst.max(since.elapsed());
            opened.store.commit().unwrap();
            std::thread::yield_now();
            continue;
        }
        pressed_since = None;
        for _ in 0..500 {
            let id = opened.store.ledger.next_id;
            let noise: String = (0..380).map(|_| random.alphanumeric()).collect();
            let metadata = JsonText::from_checked(format!("{{\"x\":\"{noise}\"}}"));
            let body = Arc::new(Body { metadata, ..body(id, 0) });
            assert!((550..570).contains(&encode_len(&body)), "{}", encode_len(&body));
            opened.store.submit(ActionId(id), body, Status::accepted(State::Queued, None)).unwrap();
        }
        opened.store.commit().unwrap();
        if opened.store.ledger.next_id % 20_000 == 1 {
            let parts = ["table", "journal", "snapshot"].map(|part| bytes_in(&bench.path(part)));
            most = most.max(parts.iter().sum::<u64>() / opened.store.ledger.next_id);
        }
    }
    let health = opened.reader.health();
    eprintln!(
        "{count} submitted in {:?}, {} checkpoints, {} snapshots, longest wait of a submitter {worst:?}, at most {most} bytes",
        begun.elapsed(),
        health.checkpoints,
        health.snapshots
    );
    tell(&bench, "just submitted", count);
    checkpoint(&mut opened);
    let is_unfinished = |path: &std::path::PathBuf| path.extension().is_some_and(|end| end == "tmp");
    until(&mut opened, |_| !files(&bench.path("snapshot")).iter().any(is_unfinished));
    opened.store.journal.settle();
    tell(&bench, "checkpointed", count);
    snapshot(&mut opened);
    opened.store.commit().unwrap();
    opened.store.journal.settle();
    tell(&bench, "after a snapshot", count);
    let closing = Instant::now();
    opened.store.close().unwrap();
    eprintln!("closed in {:?}", closing.elapsed());
    std::fs::remove_dir_all(bench.path("table")).unwrap();
    let opening = Instant::now();
    let (mut opened, loaded) = bench.start();
    eprintln!("opened without a table in {:?}, {} loaded", opening.elapsed(), loaded.len());
    drop(loaded);
    let begun = Instant::now();
    while opened.reader.health().rebuilding.is_some() {
        std::thread::yield_now();
    }
    eprintln!("rebuilt in {:?}", begun.elapsed());
    checkpoint(&mut opened);
    tell(&bench, "rebuilt", count);
}

fn encode_len(body: &Body) -> usize {
    record::encode_body(body).len()
}
