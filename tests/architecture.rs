//! The walls between the rooms of `src/`, as `docs/design.md` describes them.

use std::fs;
use std::path::{Path, PathBuf};

/// Source files of a room: `src/<room>.rs` and everything under `src/<room>/`.
fn files(room: &str) -> Vec<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = vec![];
    let single = source.join(format!("{room}.rs"));
    if single.exists() {
        found.push(single);
    }
    let mut folders = vec![source.join(room)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "the room `{room}` is empty");
    found
}

/// Lines of code before a file's tests: tests may look over the walls.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line.to_owned()));
    let before_tests = lines.take_while(|(_, line)| line.trim() != "#[cfg(test)]");
    before_tests.filter(|(_, line)| !line.trim_start().starts_with("//")).collect()
}

fn offences(rooms: &[&str], forbidden: impl Fn(&str) -> bool) -> Vec<String> {
    let files = rooms.iter().flat_map(|room| files(room));
    files
        .flat_map(|path| {
            let hits = code(&path).into_iter().filter(|(_, line)| forbidden(line)).collect::<Vec<_>>();
            hits.into_iter().map(move |(number, line)| format!("{}:{number}: {}", path.display(), line.trim()))
        })
        .collect()
}

/// Whether a line names a module of this crate, also inside a braced import.
fn names_module(line: &str, module: &str) -> bool {
    let path = format!("crate::{module}");
    let named = line
        .match_indices(&path)
        .any(|(at, _)| !line[at + path.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_'));
    let braced = line.split_once("crate::{").is_some_and(|(_, inside)| {
        inside
            .split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
            .any(|word| word == module || word.starts_with(&format!("{module}::")))
    });
    named || braced
}

fn none(offences: Vec<String>) {
    assert!(offences.is_empty(), "\n{}", offences.join("\n"));
}

const REPORTING: [&str; 5] = ["frame", "analysis", "format", "figures", "report"];

#[test]
fn reporting_never_imports_measuring() {
    let measuring = ["sweep", "store", "engine", "meter", "stage", "evaluate", "model", "prompts", "text", "hub"];
    none(offences(&REPORTING, |line| measuring.iter().any(|module| names_module(line, module))));
}

#[test]
fn polars_stops_at_the_analysis() {
    none(offences(&["format", "figures", "report", "stage", "engine", "meter", "sweep", "store"], |line| {
        line.contains("polars")
    }));
}

#[test]
fn a_measured_number_becomes_a_string_only_in_format() {
    // a precision in a format string is where a number would be rounded for people
    let rounds = |line: &str| line.contains(":.") && line.contains('{') && line.contains('"');
    none(offences(&["analysis", "report"], rounds));
}

#[test]
fn each_third_party_crate_has_one_door() {
    let doors: [(&str, &[&str]); 9] = [
        ("serde_yaml::", &["sweep"]),
        ("ureq::", &["hub"]),
        ("chrono::", &["calendar"]),
        ("ttf_parser", &["figures"]),
        ("nvml_wrapper", &["meter"]),
        ("plotters", &["figures"]),
        ("minijinja", &["template"]),
        ("indicatif", &["cli"]),
        ("tokenizers::", &["text"]),
    ];
    let rooms = all_rooms();
    for (name, allowed) in doors {
        let others: Vec<&str> = rooms.iter().map(String::as_str).filter(|room| !allowed.contains(room)).collect();
        none(offences(&others, |line| line.contains(name)));
    }
}

#[test]
fn candle_stays_in_the_engine() {
    let rooms = all_rooms();
    let others: Vec<&str> = rooms.iter().map(String::as_str).filter(|room| *room != "engine").collect();
    none(offences(&others, |line| line.contains("candle_")));
}

#[test]
fn the_stage_writes_nothing_and_prints_nothing() {
    let loud = ["println!", "eprintln!", "std::fs", "File::", "crate::store", "crate::cli"];
    none(offences(&["stage"], |line| loud.iter().any(|word| line.contains(word))));
}

fn all_rooms() -> Vec<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let names = fs::read_dir(source).unwrap().map(|entry| entry.unwrap().path());
    let room = |path: PathBuf| path.file_stem().unwrap().to_string_lossy().into_owned();
    let mut rooms: Vec<String> = names.map(room).filter(|room| room != "main" && room != "lib").collect();
    rooms.sort();
    rooms.dedup();
    rooms
}
