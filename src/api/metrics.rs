//! `/metrics`: counts for Prometheus in OpenMetrics text, made from what engine and store say at the time.
//!
//! Requests and connections are counted here, for the whole process: a scrape over one door must see both.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use hyper::StatusCode;
use hyper::header::HeaderValue;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::problem::{Problem, Word};
use super::reply::{self, Reply};
use super::routes::{Call, ROUTES};
use super::status;
use crate::engine::EngineStatus;
use crate::store::Health;

const KIND: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// More rows than the table of routes; the last one is for what matched none.
const ROWS: usize = 32;
/// Statuses that are counted apart; anything else counts as the last.
const STATUSES: [u16; 19] =
    [200, 202, 400, 403, 404, 405, 408, 409, 410, 413, 415, 422, 429, 500, 503, 507, 431, 414, 0];

static ANSWERED: [[AtomicU64; STATUSES.len()]; ROWS] =
    [const { [const { AtomicU64::new(0) }; STATUSES.len()] }; ROWS];
static CONNECTIONS: [(&str, AtomicI64); 2] = [("socket", AtomicI64::new(0)), ("status", AtomicI64::new(0))];

/// Counts an answer; `row` is the route's place in the table, none if no route matched.
pub(super) fn answered(row: Option<usize>, status: u16) {
    let row = row.unwrap_or(ROWS - 1).min(ROWS - 1);
    let column = STATUSES.iter().position(|known| *known == status).unwrap_or(STATUSES.len() - 1);
    if let Some(count) = ANSWERED.get(row).and_then(|row| row.get(column)) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

pub(super) fn connection_opened(door: &str) {
    count_connection(door, 1);
}

pub(super) fn connection_closed(door: &str) {
    count_connection(door, -1);
}

fn count_connection(door: &str, by: i64) {
    for (name, count) in &CONNECTIONS {
        if *name == door {
            count.fetch_add(by, Ordering::Relaxed);
        }
    }
}

pub(super) fn page(call: &Call<'_>) -> Result<Reply, Problem> {
    let counts = Counts { engine: call.api.engine.status(), store: call.api.engine.store_health() };
    match encoded(counts) {
        Ok(text) => Ok(reply::full(StatusCode::OK, KIND, text)),
        Err(fmt::Error) => Err(Problem::new(Word::Internal, "cannot write the metrics")),
    }
}

fn encoded(counts: Counts) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("actiond");
    registry.register_collector(Box::new(counts));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

#[derive(Debug)]
struct Counts {
    engine: EngineStatus,
    store: Health,
}

impl Collector for Counts {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut sheet = Sheet(encoder);
        self.engine(&mut sheet)?;
        self.store(&mut sheet)?;
        http(&mut sheet)
    }
}

impl Counts {
    fn engine(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let EngineStatus { incarnation, draining, reboot_due, by_state: _, accepted, recovered, queues } =
            &self.engine;
        sheet.gauges(
            "build_info",
            "The release that runs",
            [([("version", env!("CARGO_PKG_VERSION"))], 1)],
        )?;
        sheet.gauge("incarnation", "Starts of the daemon on this store", *incarnation)?;
        sheet.gauge("draining", "1 while the daemon stops", u64::from(*draining))?;
        sheet.gauge(
            "reboot_due",
            "1 while nothing is started because the host will reboot",
            u64::from(*reboot_due),
        )?;
        sheet.counter("actions_accepted", "Actions accepted since the start", *accepted)?;
        sheet.counter("actions_recovered", "Interrupted attempts decided about at the start", *recovered)?;
        let (finished, unfinished): (Vec<_>, Vec<_>) =
            status::states(&self.engine).partition(|(state, _)| state.is_final());
        let rows = finished.iter().map(|(state, count)| ([("state", state.as_str())], *count));
        sheet.counters("actions_finished", "Actions that ended since the start", rows)?;
        let rows = unfinished.iter().map(|(state, count)| ([("state", state.as_str())], *count));
        sheet.gauges("actions_unfinished", "Actions that have not ended", rows)?;
        let running = queues.iter().map(|queue| queue.running).sum();
        sheet.gauge("running", "Attempts that run", running)?;
        let rows = |value: fn(&crate::engine::QueueStatus) -> u64| {
            queues.iter().map(move |queue| ([("queue", queue.name.as_str())], value(queue)))
        };
        sheet.gauges("queue_waiting", "Actions that wait in the queue", rows(|queue| queue.waiting))?;
        sheet.gauges("queue_running", "Attempts of the queue that run", rows(|queue| queue.running))?;
        sheet.gauges(
            "queue_concurrency",
            "Attempts that may run at once",
            rows(|queue| queue.concurrency.into()),
        )?;
        sheet.gauges("queue_length_max", "Actions that may wait", rows(|queue| queue.length_max))?;
        sheet.gauges("queue_paused", "1 while the queue is paused", rows(|queue| queue.paused.into()))
    }

    fn store(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let Health {
            rebuilding,
            rebuilds,
            last_rebuild_reason: _,
            live_actions,
            journal_groups,
            journal_bytes,
            checkpoints,
            snapshots,
            memory_bytes,
            disk_free_bytes,
        } = &self.store;
        sheet.gauge("store_rebuilding", "1 while the table is rebuilt", u64::from(rebuilding.is_some()))?;
        sheet.counter("store_rebuilds", "Rebuilds of the table since the start", *rebuilds)?;
        sheet.gauge("store_live_actions", "Actions that the store holds", *live_actions)?;
        sheet.counter("journal_groups", "Groups written and synced", *journal_groups)?;
        sheet.gauge("journal_bytes", "Bytes of the journal", *journal_bytes)?;
        sheet.counter("store_checkpoints", "Checkpoints since the start", *checkpoints)?;
        sheet.counter("store_snapshots", "Snapshots since the start", *snapshots)?;
        sheet.gauge("store_memory_bytes", "Bytes of changes that wait for a checkpoint", *memory_bytes)?;
        sheet.gauge("store_disk_free_bytes", "Free bytes on the store's disk", *disk_free_bytes)
    }
}

fn http(sheet: &mut Sheet<'_>) -> fmt::Result {
    let rows = CONNECTIONS
        .iter()
        .map(|(door, count)| ([("door", *door)], u64::try_from(count.load(Ordering::Relaxed)).unwrap_or(0)));
    sheet.gauges("connections", "Open connections", rows)?;
    let mut rows = Vec::new();
    for (row, counts) in ANSWERED.iter().enumerate() {
        let (method, path) = ROUTES.get(row).map_or(("", "none"), |route| (route.method, route.path));
        for (status, count) in STATUSES.iter().zip(counts) {
            let count = count.load(Ordering::Relaxed);
            if count > 0 {
                rows.push((method, path, status.to_string(), count));
            }
        }
    }
    let rows = rows.iter().map(|(method, path, status, count)| {
        ([("method", *method), ("route", *path), ("status", status.as_str())], *count)
    });
    sheet.counters(
        "http_requests",
        "Requests answered; status 0 stands for any that has none of its own",
        rows,
    )
}

/// Writes families of plain numbers.
struct Sheet<'a>(DescriptorEncoder<'a>);

impl Sheet<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(encoder)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(value).encode(encoder)
    }

    fn gauges<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = ([(&'l str, &'l str); N], u64)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in rows {
            ConstGauge::new(value).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn counters<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = ([(&'l str, &'l str); N], u64)>,
    ) -> fmt::Result {
        let mut encoder = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in rows {
            ConstCounter::new(value).encode(encoder.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_has_each_family_with_its_labels() {
        answered(Some(0), 202);
        answered(None, 404);
        let queue = crate::engine::QueueStatus {
            name: "slow".into(),
            concurrency: 2,
            paused: true,
            waiting: 7,
            running: 1,
            length_max: 10,
        };
        let mut engine = EngineStatus { accepted: 5, queues: vec![queue], ..EngineStatus::default() };
        engine.by_state[crate::action::State::Failed as usize] = 3;
        let text = encoded(Counts { engine, store: Health { checkpoints: 4, ..Health::default() } }).unwrap();
        for line in [
            "actiond_actions_accepted_total 5",
            "actiond_actions_finished_total{state=\"failed\"} 3",
            "actiond_queue_waiting{queue=\"slow\"} 7",
            "actiond_queue_paused{queue=\"slow\"} 1",
            "actiond_store_checkpoints_total 4",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(text.contains("route=\"/v1/actions\",status=\"202\""), "{text}");
    }

    #[test]
    fn every_route_has_a_row_and_every_problem_a_column() {
        assert!(ROUTES.len() < ROWS);
        for word in Word::ALL {
            assert!(STATUSES.contains(&word.status()), "{word:?}");
        }
    }
}
