//! What JSON costs: a submission read from it, an action written to it.

use divan::{Bencher, black_box};

use super::convert::tests::example;
use super::{convert, parse};
use crate::action::Actor;

#[divan::bench(sample_size = 1_000)]
fn submission_in(bencher: Bencher<'_, '_>) {
    let text = format!(
        r#"{{"user":"john@example.com","resource_type":"Stack","action":"restart","resource_id":1234567,"started_via":"api","metadata":{{"git_ref":"main","note":"{}"}}}}"#,
        "n".repeat(360)
    );
    let limits = parse::Limits { metadata_bytes_max: 65_536, metadata_depth_max: 32 };
    let actor = Actor { uid: 1, gid: 2, pid: 3 };
    bencher.bench_local(|| parse::submission(black_box(text.as_bytes()), actor, limits).unwrap());
}

#[divan::bench(sample_size = 1_000)]
fn action_out(bencher: Bencher<'_, '_>) {
    let action = example();
    let mut out = Vec::new();
    bencher.bench_local(|| {
        out.clear();
        convert::write_action(&mut out, black_box(&action), convert::Show::All);
    });
}
