//! Pictures of two tables as SVG: throughput over connections, cost over the length of the queue.
//!
//! They are made to be read without colour too: each series has its own mark and its name beside its end. The colours are
//! those of Okabe and Ito, which people who see fewer colours tell apart; the ground is white of its own, so that
//! they read alike on a light and on a dark page.

use std::path::{Path, PathBuf};

use plotters::coord::Shift;
use plotters::prelude::*;

use super::results::{Results, whole};

type Canvas<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const SIZE: (u32, u32) = (900, 460);
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
const FAINT: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
const FONT: &str = "sans-serif";
/// Room for the names at the right, and the least distance of two.
const NAMES: i32 = 170;
const APART: i32 = 17;

struct Series {
    name: String,
    colour: RGBColor,
    is_ours: bool,
    points: Vec<(f64, f64)>,
}

/// How a picture is laid out; coordinates are logarithms where they say so.
struct Frame<'a> {
    title: &'a str,
    below: String,
    x_name: &'a str,
    y_name: &'a str,
    x: (f64, f64),
    y: (f64, f64),
    ticks: (usize, usize),
    x_text: fn(f64) -> String,
    y_text: fn(f64) -> String,
}

/// Draws what was measured into `dir`; which files.
pub fn draw(results: &Results, dir: &Path) -> Vec<PathBuf> {
    let mut drawn = Vec::new();
    if results.over("submit").len() > 1 {
        let path = dir.join("throughput.svg");
        throughput(results, &path);
        drawn.push(path);
    }
    if results.over("backlog.submit").len() > 1 {
        let path = dir.join("backlog.svg");
        backlog(results, &path);
        drawn.push(path);
    }
    drawn
}

fn throughput(results: &Results, path: &Path) {
    let colours = [
        ("actiond NDJSON", RGBColor(0x00, 0x72, 0xb2)),
        ("actiond HTTP", RGBColor(0x56, 0xb4, 0xe9)),
        ("Redis list", RGBColor(0xd5, 0x5e, 0x00)),
        ("Redis stream", RGBColor(0xe6, 0x9f, 0x00)),
        ("beanstalkd", RGBColor(0x00, 0x9e, 0x73)),
        ("PostgreSQL", RGBColor(0xcc, 0x79, 0xa7)),
    ];
    let over = results.over("submit");
    let mut all: Vec<Series> = Vec::new();
    for (name, colour) in colours {
        let point =
            |at: &u64| Some(((*at as f64).log2(), (results.median(name, "submit", *at)? / 1e3).log2()));
        let points: Vec<_> = over.iter().filter_map(point).collect();
        if !points.is_empty() {
            all.push(Series { name: name.to_owned(), colour, is_ours: name.starts_with("actiond"), points });
        }
    }
    let last = (over[over.len() - 1] as f64).log2();
    let frame = Frame {
        title: "Durable submissions per second",
        below: format!("{}; one outstanding on each connection", results.machine()),
        x_name: "connections",
        y_name: "per second",
        x: ((over[0] as f64).log2(), last),
        y: range(&all),
        ticks: (6, 8),
        x_text: |x| whole(x.exp2().round() as u64),
        y_text: |y| whole(y.exp2().round() as u64 * 1_000),
    };
    paint(path, &frame, &all);
}

/// Whole doublings around all of it.
fn range(all: &[Series]) -> (f64, f64) {
    let values = || all.iter().flat_map(|series| series.points.iter().map(|point| point.1));
    let (low, high) = (values().fold(f64::MAX, f64::min), values().fold(f64::MIN, f64::max));
    (low.floor(), high.ceil())
}

fn backlog(results: &Results, path: &Path) {
    let over = results.over("backlog.submit");
    let series = |name: &str, what: &str, colour| {
        let point = |at: &u64| Some(((*at as f64).log10(), results.median("actiond NDJSON", what, *at)?));
        Series {
            name: name.to_owned(),
            colour,
            is_ours: true,
            points: over.iter().filter_map(point).collect(),
        }
    };
    let all = [
        series("a whole life", "backlog.life_cpu_us", RGBColor(0xd5, 0x5e, 0x00)),
        series("a submission", "backlog.submit_cpu_us", RGBColor(0x00, 0x72, 0xb2)),
    ];
    let high = all.iter().flat_map(|series| series.points.iter().map(|point| point.1)).fold(0.0, f64::max);
    let frame = Frame {
        title: "What each costs actiond while others wait",
        below: format!("{}; 64 connections", results.machine()),
        x_name: "waiting actions",
        y_name: "µs of CPU",
        x: ((over[0] as f64).log10(), (over[over.len() - 1] as f64).log10()),
        y: (0.0, (high * 1.25 / 10.0).ceil() * 10.0),
        ticks: (6, 6),
        x_text: |x| {
            if (x - x.round()).abs() < 1e-9 { whole(10_f64.powf(x).round() as u64) } else { String::new() }
        },
        y_text: |y| format!("{y:.0}"),
    };
    paint(path, &frame, &all);
}

fn paint(path: &Path, frame: &Frame<'_>, all: &[Series]) {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE).unwrap();
    root.draw_text(frame.title, &(FONT, 20).into_font().color(&INK).into_text_style(&root), (20, 14))
        .unwrap();
    root.draw_text(&frame.below, &(FONT, 13).into_font().color(&INK).into_text_style(&root), (20, 40))
        .unwrap();
    let body = root.margin(64, 12, 12, NAMES);
    let (x, y) = (frame.x.0..frame.x.1 + 1e-9, frame.y.0..frame.y.1 + 1e-9);
    let mut chart =
        ChartBuilder::on(&body).x_label_area_size(48).y_label_area_size(76).build_cartesian_2d(x, y).unwrap();
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(FAINT)
        .axis_style(INK)
        .label_style((FONT, 13).into_font().color(&INK))
        .axis_desc_style((FONT, 14).into_font().color(&INK))
        .x_labels(frame.ticks.0)
        .y_labels(frame.ticks.1)
        .x_desc(frame.x_name)
        .y_desc(frame.y_name)
        .x_label_formatter(&|x| (frame.x_text)(*x))
        .y_label_formatter(&|y| (frame.y_text)(*y))
        .draw()
        .unwrap();
    let mut ends = Vec::new();
    for (at, series) in all.iter().enumerate() {
        let style = series.colour.stroke_width(if series.is_ours { 4 } else { 2 });
        chart.draw_series(LineSeries::new(series.points.iter().copied(), style)).unwrap();
        for point in &series.points {
            mark(&root, chart.backend_coord(point), at, series.colour);
        }
        ends.push((chart.backend_coord(&series.points[series.points.len() - 1]), at));
    }
    // From the top; who stands too near the one above moves down.
    ends.sort_by_key(|((_, y), _)| *y);
    let mut free = i32::MIN;
    for ((x, y), at) in ends {
        let y = (y - 8).max(free);
        free = y + APART;
        let series = &all[at];
        mark(&root, (x + 28, y + 8), at, series.colour);
        let font = (FONT, 14).into_font();
        let font = if series.is_ours { font.style(FontStyle::Bold) } else { font };
        root.draw_text(&series.name, &font.color(&INK).into_text_style(&root), (x + 40, y)).unwrap();
    }
    root.present().unwrap();
}

/// A mark of its own for each series.
fn mark(root: &Canvas<'_>, at: (i32, i32), number: usize, colour: RGBColor) {
    let filled = colour.filled();
    match number % 6 {
        0 => root.draw(&Circle::new(at, 6, filled)),
        1 => root.draw(&Rectangle::new([(at.0 - 5, at.1 - 5), (at.0 + 5, at.1 + 5)], filled)),
        2 => root.draw(&TriangleMarker::new(at, 7, filled)),
        3 => root.draw(&Cross::new(at, 5, colour.stroke_width(3))),
        4 => root.draw(&Circle::new(at, 5, colour.stroke_width(2))),
        _ => root.draw(&Rectangle::new([(at.0 - 4, at.1 - 4), (at.0 + 4, at.1 + 4)], colour.stroke_width(2))),
    }
    .unwrap();
}
