//! Everything that was measured, cell by cell, and the median of each.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// One cell: what was measured of whom, how often.
#[derive(Serialize, Deserialize)]
pub struct Cell {
    /// The server or program.
    pub who: String,
    /// `submit`, `lives` and so on; a dot separates what belongs to it: `submit.p99_ms`.
    pub what: String,
    /// Connections, or actions that wait, whatever it is measured over; 0 where over nothing.
    pub at: u64,
    pub values: Vec<f64>,
}

#[derive(Serialize, Deserialize)]
pub struct Results {
    machine: String,
    begun_at_unix: u64,
    cells: Vec<Cell>,
}

impl Results {
    pub fn new() -> Self {
        let output = Command::new("uname").arg("-sr").output().unwrap();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        // Without what a distribution adds to the version.
        let kernel = String::from_utf8_lossy(&output.stdout);
        let kernel = kernel.split('-').next().unwrap_or_default().trim();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        Self { machine: format!("{cores} cores, {kernel}"), begun_at_unix: now.as_secs(), cells: Vec::new() }
    }

    pub fn machine(&self) -> &str {
        &self.machine
    }

    pub fn add(&mut self, who: &str, what: &str, at: u64, value: f64) {
        let found = self.cells.iter_mut().find(|cell| cell.who == who && cell.what == what && cell.at == at);
        if let Some(cell) = found {
            cell.values.push(value);
        } else {
            let (who, what) = (who.to_owned(), what.to_owned());
            self.cells.push(Cell { who, what, at, values: vec![value] });
        }
    }

    pub fn values(&self, who: &str, what: &str, at: u64) -> &[f64] {
        let cell = self.cells.iter().find(|cell| cell.who == who && cell.what == what && cell.at == at);
        cell.map_or(&[], |cell| &cell.values)
    }

    /// The middle one; of an even number the lower of both.
    pub fn median(&self, who: &str, what: &str, at: u64) -> Option<f64> {
        let mut values = self.values(who, what, at).to_vec();
        values.sort_by(f64::total_cmp);
        values.get(values.len().checked_sub(1)? / 2).copied()
    }

    /// Those of whom this was measured, in the order in which they were first.
    pub fn who(&self, what: &str) -> Vec<&str> {
        let mut all: Vec<&str> = Vec::new();
        for cell in &self.cells {
            if cell.what == what && !all.contains(&cell.who.as_str()) {
                all.push(&cell.who);
            }
        }
        all
    }

    /// Over what it was measured, ascending.
    pub fn over(&self, what: &str) -> Vec<u64> {
        let mut all: Vec<u64> =
            self.cells.iter().filter(|cell| cell.what == what).map(|cell| cell.at).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// What an earlier run wrote.
    pub fn read(path: &Path) -> Self {
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }

    /// Writes all of it as JSON; where to.
    pub fn write(&self, dir: &Path) -> PathBuf {
        std::fs::create_dir_all(dir).unwrap();
        let path = dir.join(format!("results-{}.json", self.begun_at_unix));
        std::fs::write(&path, serde_json::to_vec_pretty(self).unwrap()).unwrap();
        path
    }
}

/// A figure with three digits that count, thousands separated.
pub fn figure(value: f64) -> String {
    if value < 9.995 {
        return format!("{value:.2}");
    }
    if value < 99.95 {
        return format!("{value:.1}");
    }
    whole(value.round() as u64)
}

/// A number with its thousands separated.
pub fn whole(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
