//! What it costs to turn an action's body and status into bytes and back.

use divan::{Bencher, black_box};

use super::tests::{full_body, full_status};
use super::*;
use crate::action::JsonText;

/// A body with as much metadata as the load generator sends.
fn body() -> crate::action::Body {
    let metadata = format!(r#"{{"git_ref":"main","note":"{}"}}"#, "n".repeat(360));
    crate::action::Body { metadata: JsonText::from_checked(metadata.as_str()), ..full_body() }
}

#[divan::bench(sample_size = 1_000)]
fn body_in(bencher: Bencher<'_, '_>) {
    let body = body();
    bencher.bench_local(|| encode_body(black_box(&body)));
}

#[divan::bench(sample_size = 1_000)]
fn body_out(bencher: Bencher<'_, '_>) {
    let bytes = encode_body(&body());
    bencher.bench_local(|| decode_body(black_box(&bytes)).unwrap());
}

#[divan::bench(sample_size = 1_000)]
fn status_in(bencher: Bencher<'_, '_>) {
    let status = full_status();
    bencher.bench_local(|| encode_status(black_box(&status)));
}

#[divan::bench(sample_size = 1_000)]
fn status_out(bencher: Bencher<'_, '_>) {
    let bytes = encode_status(&full_status());
    bencher.bench_local(|| decode_status(black_box(&bytes)).unwrap());
}
