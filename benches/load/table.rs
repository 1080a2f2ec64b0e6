//! Tables in Markdown, as they are printed and stand in README.

use super::results::{Results, whole};

/// A heading, the names of the columns and a line that separates them.
pub fn head(title: &str, columns: &[String]) {
    println!("\n{title}:\n\n| {} |\n|{}", columns.join(" | "), " --- |".repeat(columns.len()));
}

pub fn row(cells: &[String]) {
    println!("| {} |", cells.join(" | "));
}

/// Who in rows, over what in columns; `cell` renders one, `-` stands where nothing was measured.
pub fn cross(
    results: &Results,
    title: &str,
    what: &str,
    over: &str,
    cell: impl Fn(&str, u64) -> Option<String>,
) {
    let all = results.over(what);
    let columns: Vec<String> =
        std::iter::once(over.to_owned()).chain(all.iter().map(|at| whole(*at))).collect();
    head(title, &columns);
    for who in results.who(what) {
        let cells = all.iter().map(|at| cell(who, *at).unwrap_or_else(|| "-".to_owned()));
        row(&std::iter::once(who.to_owned()).chain(cells).collect::<Vec<_>>());
    }
}
