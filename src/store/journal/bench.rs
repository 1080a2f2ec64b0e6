//! What it costs to make groups of records durable, on the disk that holds the build directory.

use std::sync::Arc;

use divan::Bencher;
use divan::counter::ItemsCount;

use super::*;
use crate::store::disk::RealDisk;

#[divan::bench(args = [1, 64, 1_024], sample_size = 10)]
fn append(bencher: Bencher<'_, '_>, records: usize) {
    let dir = tempfile::tempdir_in(concat!(env!("CARGO_MANIFEST_DIR"), "/target")).unwrap();
    let mut journal = Journal::create(Arc::new(RealDisk), dir.path().join("journal"), 16 << 20).unwrap();
    let record = [b'x'; 640];
    bencher.counter(ItemsCount::new(records)).bench_local(|| {
        for _ in 0..records {
            journal.stage(&record);
        }
        let group = journal.commit().unwrap();
        // What a snapshot covers: segments are used again.
        journal.release(group).unwrap();
    });
}
