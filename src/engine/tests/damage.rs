//! What is stored of one action is damaged: it waits for a person, and everything else goes on.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn action_with_a_damaged_body_is_held_and_the_others_run() {
    let dir = TempDir::new().unwrap();
    let engine = open(dir.path());
    let root = Actor { uid: 0, gid: 0, pid: 1 };
    engine.pause_queue(root, "default".into(), true).await.unwrap();
    let first = accepted(&engine, submission("rerun", 1, r#"{"sleep_ms":1,"x":"damage me"}"#)).await;
    let second = accepted(&engine, submission("rerun", 2, "{}")).await;
    stop(&engine).await;
    for entry in std::fs::read_dir(dir.path().join("store/bodies")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(9).position(|window| window == b"damage me").unwrap();
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    let engine = open(dir.path());
    let mut changes = engine.changes();
    engine.pause_queue(root, "default".into(), false).await.unwrap();
    let held = async {
        while !matches!(changes.recv().await.unwrap(), Change { id, state: State::Held, .. } if id == first) {
        }
    };
    tokio::time::timeout(BOUND, held).await.unwrap();
    reaches(&engine, second, State::Succeeded).await;
    let told = engine.command(OWNER, first, Command::Resume).await;
    assert!(matches!(told, Err(CommandError::Submit(SubmitError::Unreadable { id })) if id == first));
    assert!(engine.explain(first).await.is_err());
    // It is still held after the next start.
    stop(&engine).await;
    let engine = open(dir.path());
    let third = accepted(&engine, submission("rerun", 3, "{}")).await;
    reaches(&engine, third, State::Succeeded).await;
    assert!(engine.read(first).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempt_whose_status_is_damaged_meanwhile_is_held_when_it_ends() {
    let dir = TempDir::new().unwrap();
    let engine = open_with(dir.path(), || Timestamp(1), 64 << 10);
    let first = accepted(&engine, submission("rerun", 1, FOR_EVER)).await;
    reaches(&engine, first, State::Running).await;
    // Until a checkpoint has written it, claim and all, to the body file.
    let long = format!(r#"{{"sleep_ms":3600000,"x":"{}"}}"#, "x".repeat(8_000));
    for resource_id in 2..40 {
        accepted(&engine, submission("rerun", resource_id, &long)).await;
    }
    let written = async {
        while engine.store_health().checkpoints == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(BOUND, written).await.unwrap();
    let boot_id = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap();
    let path = dir.path().join("store/bodies");
    let path = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(36).position(|window| window == &boot_id[..36]).expect("a claim");
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let mut changes = engine.changes();
    engine.stop_attempts();
    let held = async {
        while !matches!(changes.recv().await.unwrap(), Change { id, state: State::Held, .. } if id == first) {
        }
    };
    tokio::time::timeout(BOUND, held).await.expect("it is held");
}
