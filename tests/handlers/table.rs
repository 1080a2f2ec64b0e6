//! What was tried with which type, and how it ended.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use crate::cases::CASES;

/// Type by case.
#[derive(Default)]
pub struct Table(BTreeMap<String, BTreeMap<&'static str, Result<Duration, String>>>);

impl Table {
    pub fn enter(&mut self, subject: &str, case: &'static str, ended: Result<Duration, String>) {
        let said = match &ended {
            Ok(took) => format!("ok ({} ms)", took.as_millis()),
            Err(why) => format!("FAILED\n{why}"),
        };
        println!("{subject}: {case}: {said}");
        self.0.entry(subject.to_owned()).or_default().insert(case, ended);
    }

    /// Prints it. Fails if anything failed, was left out, or nothing was tried.
    pub fn conclude(self) -> ExitCode {
        println!();
        let width = self.0.keys().map(String::len).max().unwrap_or(0);
        print!("{:width$}", "");
        for (case, _) in CASES {
            print!("  {case}");
        }
        println!();
        let (mut passed, mut failed) = (0, 0);
        for (subject, cells) in &self.0 {
            print!("{subject:width$}");
            for (case, _) in CASES {
                let word = match cells.get(case) {
                    Some(Ok(_)) => "ok",
                    Some(Err(_)) => "FAILED",
                    None => "LEFT OUT",
                };
                *(if word == "ok" { &mut passed } else { &mut failed }) += 1;
                print!("  {word:width$}", width = case.len());
            }
            println!();
        }
        let word = if failed == 0 && passed > 0 { "ok" } else { "FAILED" };
        println!(
            "\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out"
        );
        if word == "ok" { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
