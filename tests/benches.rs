//! Results of the benches that are published: each row can be computed again from the records beside it, and the page
//! that shows them shows these numbers.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use common::{repository, results, run, stderr, stdout};
use serde_json::Value;

/// Numbers computed twice may differ by rounding.
const ROUNDING: f64 = 1e-9;

/// A measured window of any engine.
struct Window {
    key: Key,
    source: String,
    seconds: f64,
    steps: f64,
    tokens: f64,
    joules: Option<f64>,
    /// Energy as a multiple of its floor, by the run's own table of results.
    floor: Option<f64>,
    load_s: Option<f64>,
}

/// UUID of the card, engine, shape and batch size: what a row is about.
type Key = (String, String, String, u64);

fn read(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn uuid(gpus: &Value) -> String {
    text(&gpus[0]["uuid"])
}

fn is_empty(list: &Value) -> bool {
    list.as_array().unwrap().is_empty()
}

/// The windows of a run of this program.
fn ours(folder: &Path) -> Vec<Window> {
    let (info, table) = (read(&folder.join("run.json")), results(folder));
    let lines = fs::read_to_string(folder.join("records.jsonl")).unwrap();
    let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let measured = lines.filter(|line| line["kind"] == "trial" && line["outcome"]["outcome"] == "measured");
    let window = |line: Value| {
        let (cell, outcome) = (&line["cell"], &line["outcome"]);
        let window = &outcome["window"];
        let gpus = &info["parts"][line["part"].as_u64().unwrap() as usize]["meter"]["gpus"];
        let valid = is_empty(&outcome["validity"]["invalid_reasons"]);
        let (cell_of_line, block) = (text(&cell["id"]), line["block"].to_string());
        let result = table.iter().find(|row| row["cell"] == cell_of_line && row["block"] == block);
        Window {
            key: (uuid(gpus), text(&info["name"]), text(&cell["model"]), cell["batch_size"].as_u64().unwrap()),
            source: name(folder),
            seconds: window["t1_s"].as_f64().unwrap() - window["t0_s"].as_f64().unwrap(),
            steps: window["batches"].as_f64().unwrap() * cell["max_new_tokens"].as_f64().unwrap(),
            tokens: outcome["tokens_out"].as_f64().unwrap(),
            joules: outcome["energy"]["total_j"].as_f64().filter(|_| valid),
            floor: result.unwrap().get("floor_multiple").and_then(|multiple| multiple.parse().ok()),
            load_s: outcome["load"]["duration_s"].as_f64(),
        }
    };
    measured.map(window).collect()
}

/// The windows of an engine in Python: its calls, and the meter's stage of the same name.
fn theirs(file: &Path) -> Vec<Window> {
    let record = read(file);
    let meter = &record["meter"];
    let of = |window: &Value| {
        let stage = meter["stages"].as_array().unwrap().iter().find(|stage| stage["name"] == window["stage"]).unwrap();
        let (calls, seconds) = (window["calls"].as_f64().unwrap(), window["seconds"].as_f64().unwrap());
        let staged = stage["seconds"].as_f64().unwrap();
        assert!((staged - seconds).abs() < 0.05, "{}: {staged} s by the meter, {seconds} s in all", file.display());
        let logits = window["logits"].as_str().map(|kind| format!("-{kind}")).unwrap_or_default();
        let engine = text(&record["engine"]) + &logits;
        let valid = is_empty(&stage["validity"]["invalid_reasons"]) && is_empty(&meter["validity"]["invalid_reasons"]);
        Window {
            key: (uuid(&meter["gpus"]), engine, text(&record["shape"]), window["batch"].as_u64().unwrap()),
            source: name(file),
            seconds,
            steps: calls * window["steps_per_call"].as_f64().unwrap(),
            tokens: calls * window["tokens_per_call"].as_f64().unwrap(),
            joules: stage["energy_j"].as_f64().filter(|_| valid),
            floor: None,
            load_s: None,
        }
    };
    record["windows"].as_array().unwrap().iter().map(of).collect()
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

fn windows(folder: &Path) -> BTreeMap<Key, Vec<Window>> {
    let mut found: BTreeMap<Key, Vec<Window>> = BTreeMap::new();
    for entry in entries(folder) {
        let own = match () {
            () if entry.join("records.jsonl").exists() => ours(&entry),
            () if entry.extension().is_some_and(|extension| extension == "json") => theirs(&entry),
            () => continue,
        };
        for window in own {
            found.entry(window.key.clone()).or_default().push(window);
        }
    }
    found
}

/// Milliseconds a step, and joules a token of the windows with a valid energy.
fn cost(own: &[Window]) -> (f64, Option<f64>) {
    let sum = |of: fn(&Window) -> f64| own.iter().map(of).sum::<f64>();
    let valid: Vec<(f64, f64)> = own.iter().filter_map(|window| Some((window.joules?, window.tokens))).collect();
    let (joules, tokens) = valid.iter().fold((0.0, 0.0), |(j, t), (joules, tokens)| (j + joules, t + tokens));
    (1e3 * sum(|window| window.seconds) / sum(|window| window.steps), (tokens > 0.0).then(|| joules / tokens))
}

/// Bytes a second of the fastest plain read on each card.
fn bandwidths(folder: &Path) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    for file in entries(folder).iter().filter(|file| file.extension().is_some_and(|extension| extension == "json")) {
        let record = read(file);
        let read = &record["read"];
        if let (Some(bytes), Some(seconds)) = (read["bytes"].as_f64(), read["seconds"].as_f64()) {
            let fastest: &mut f64 = found.entry(uuid(&record["meter"]["gpus"])).or_default();
            *fastest = fastest.max(bytes / seconds);
        }
    }
    found
}

/// Bytes of weights and, except for the products alone, of the mean KV cache, that a step has to read.
fn bytes_per_step(folder: &Path, key: &Key) -> f64 {
    let (uuid, engine, shape, batch) = key;
    let own = folder.join("shapes").join(shape);
    let shapes = if own.exists() { own } else { repository().join("data/shapes").join(shape) };
    let config = read(&shapes.join("config.json"));
    let number = |key: &str| config[key].as_f64().unwrap();
    let (hidden, layers, head) = (number("hidden_size"), number("num_hidden_layers"), number("head_dim"));
    let (q, kv) = (number("num_attention_heads") * head, number("num_key_value_heads") * head);
    let layer = hidden * (2.0 * q + 2.0 * kv) + 3.0 * hidden * number("intermediate_size");
    let width = if uuid.is_empty() { 4.0 } else { 2.0 };
    let columns = (1..256).map(|step| f64::from(128 + step)).sum::<f64>() / 256.0;
    let cache = if engine == "products" { 0.0 } else { *batch as f64 * layers * 2.0 * kv * columns };
    width * (layers * layer + number("vocab_size") * hidden + cache)
}

fn key_of(row: &Value) -> Key {
    (text(&row["uuid"]), text(&row["engine"]), text(&row["shape"]), row["batch"].as_u64().unwrap())
}

fn same(stored: &Value, computed: Option<f64>) -> bool {
    match (stored.as_f64(), computed) {
        (Some(stored), Some(computed)) => (stored / computed - 1.0).abs() < ROUNDING,
        (None, None) => true,
        _ => false,
    }
}

/// What in the rows isn't what the records say.
fn differences(results: &Value, folder: &Path) -> Vec<String> {
    let (windows, reads) = (windows(folder), bandwidths(folder));
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let rows = ["rows", "prefill"].into_iter().flat_map(|table| results[table].as_array().unwrap());
    for row in rows {
        let key = key_of(row);
        let Some(own) = windows.get(&key) else {
            found.push(format!("{key:?}: no records"));
            continue;
        };
        let (ms, joules) = cost(own);
        let mut check = |what: &str, computed: Option<f64>| {
            if !same(&row[what], computed) {
                found.push(format!("{key:?}: {what} is {}, computed {computed:?}", row[what]));
            }
        };
        check("j_per_output_token", joules);
        let each = || own.iter().filter_map(|window| Some(window.joules? / window.tokens));
        check("j_lowest_window", each().min_by(f64::total_cmp));
        check("j_highest_window", each().max_by(f64::total_cmp));
        if key.1.starts_with("prefill") {
            check("ms_per_call", Some(ms));
        } else {
            check("ms_per_step", Some(ms));
            let bytes = bytes_per_step(folder, &key);
            check("bytes_per_step", Some(bytes));
            check("share_of_bandwidth_limit", reads.get(&key.0).map(|read| bytes / read / (ms / 1e3)));
            let base = windows.get(&(key.0.clone(), "products".to_owned(), key.2.clone(), key.3)).map(|own| cost(own));
            check("ratio_to_products", base.map(|(base, _)| ms / base));
            let joules_ratio = || Some(joules? / base?.1?);
            check("joules_ratio_to_products", joules_ratio());
            let floors: Vec<f64> = own.iter().filter_map(|window| window.floor).collect();
            let mean = floors.iter().sum::<f64>() / floors.len() as f64;
            check("multiple_of_energy_floor", (!floors.is_empty()).then_some(mean));
        }
        let sources: BTreeSet<_> = own.iter().map(|window| window.source.clone()).collect();
        let named: BTreeSet<_> = row["sources"].as_array().unwrap().iter().map(text).collect();
        if sources != named {
            found.push(format!("{key:?}: made from {sources:?}, names {named:?}"));
        }
        seen.insert(key);
    }
    found.extend(windows.keys().filter(|key| !seen.contains(*key)).map(|key| format!("{key:?}: no row")));
    for row in results["loading"].as_array().unwrap() {
        let loads = windows.values().flatten().filter(|window| row["source"] == window.source.as_str());
        if !loads.map(|window| window.load_s).any(|load| same(&row["load_s"], load)) {
            found.push(format!("loading {row}: not in its records"));
        }
    }
    found
}

/// Results on GPUs with their folders: those published, and one small run on a processor that tests the tests.
fn on_gpus() -> Vec<(PathBuf, PathBuf)> {
    let mut files = entries(&repository().join("benches/results"));
    files.push(repository().join("tests/benches/dry-run.json"));
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files
        .into_iter()
        .map(|file| (file.clone(), file.with_extension("")))
        .filter(|(_, folder)| folder.is_dir())
        .collect()
}

#[test]
fn every_row_of_a_table_on_a_gpu_follows_from_the_records_beside_it() {
    let tables = on_gpus();
    assert!(!tables.is_empty());
    for (file, folder) in tables {
        assert_eq!(differences(&read(&file), &folder), [""; 0], "{}", file.display());
    }
}

#[test]
fn a_number_that_differs_from_its_records_is_noticed() {
    let (file, folder) = (repository().join("tests/benches/dry-run.json"), repository().join("tests/benches/dry-run"));
    let results = read(&file);
    assert!(results["rows"].as_array().unwrap().len() >= 12, "three engines, two shapes, two batch sizes");
    for (table, keys) in [
        (
            "rows",
            ["ms_per_step", "share_of_bandwidth_limit", "ratio_to_products", "joules_ratio_to_products"].as_slice(),
        ),
        ("prefill", &["ms_per_call", "j_per_output_token", "j_lowest_window", "j_highest_window"]),
        ("loading", &["load_s"]),
    ] {
        for place in 0..results[table].as_array().unwrap().len() {
            for key in keys {
                let mut changed = results.clone();
                let number = &mut changed[table][place][*key];
                *number = number.as_f64().map_or(1.0, |number| number * 1.0001).into();
                assert_eq!(differences(&changed, &folder).len(), 1, "{table} {place} {key}");
            }
        }
    }
    let mut shorter = results;
    shorter["rows"].as_array_mut().unwrap().pop();
    assert!(differences(&shorter, &folder)[0].ends_with("no row"));
}

#[test]
fn the_energies_of_the_published_tables_are_confirmed_by_their_samples() {
    for (_, folder) in on_gpus() {
        for run_of in entries(&folder).iter().filter(|entry| entry.join("samples").exists()) {
            let output = run(["recompute".as_ref(), run_of.as_os_str(), "--format".as_ref(), "json".as_ref()]);
            let found: Value =
                serde_json::from_str(&stdout(&output)).unwrap_or_else(|why| panic!("{why}: {}", stderr(&output)));
            for trial in found["trials"].as_array().unwrap() {
                assert_eq!(trial["stored_j"], trial["recomputed_j"], "{}: {trial}", run_of.display());
            }
        }
    }
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    if numbers.len() % 2 == 1 { numbers[middle] } else { (numbers[middle - 1] + numbers[middle]) / 2.0 }
}

#[test]
fn every_speed_on_the_processor_is_the_median_of_its_rounds() {
    let results = read(&repository().join("benches/results/cpu-decode.json"));
    let windows = results["windows"].as_array().unwrap();
    let rounds = |row: &Value, engine: &str| -> BTreeMap<u64, f64> {
        let own = windows.iter().filter(|window| {
            window["engine"] == engine && window["shape"] == row["shape"] && window["batch"] == row["batch"]
        });
        let speed = |window: &Value| window["tokens"].as_f64().unwrap() / window["seconds"].as_f64().unwrap();
        own.map(|window| (window["round"].as_u64().unwrap(), speed(window))).collect()
    };
    let rows = results["rows"].as_array().unwrap();
    assert!(rows.len() >= 9, "three engines on three cells");
    for row in rows {
        let own = rounds(row, row["engine"].as_str().unwrap());
        assert!(own.len() >= 2, "{row}");
        assert!(same(&row["tokens_per_s"], Some(median(own.values().copied().collect()))), "{row}");
        for other in ["transformers", "llama.cpp"] {
            let Some(ratio) = row.get(format!("ratio_to_{other}")) else { continue };
            let theirs = rounds(row, other);
            let ratios = own.iter().map(|(round, speed)| speed / theirs[round]).collect();
            assert!(same(ratio, Some(median(ratios))), "{row}");
        }
    }
}

/// A number as `benches/tables.py` prints it: three significant digits.
fn shown(value: f64) -> String {
    let leading = |mut value: f64| {
        let mut zeros = 0;
        while value > 0.0 && value < 0.1 {
            value *= 10.0;
            zeros += 1;
        }
        zeros
    };
    let magnitude = if value >= 1.0 { (value as u64).to_string().len() as i32 } else { -leading(value) };
    format!("{value:.decimals$}", decimals = (3 - magnitude).max(0) as usize)
}

#[test]
fn the_page_on_performance_shows_the_published_numbers() {
    assert_eq!([12.34, 5.0, 0.0123, 123.4, 1234.0].map(shown), ["12.3", "5.00", "0.0123", "123", "1234"]);
    let page = fs::read_to_string(repository().join("docs/performance.md")).unwrap();
    let results = repository().join("benches/results");
    let gpu = results.join("h100-decode.json");
    let decode = if gpu.exists() { read(&gpu) } else { Value::Null };
    for row in decode["rows"].as_array().into_iter().flatten() {
        let joules = row["j_per_output_token"].as_f64().map_or("–".to_owned(), shown);
        let cell = format!("{} · {joules}", shown(row["ms_per_step"].as_f64().unwrap()));
        assert!(page.contains(&cell), "{cell} isn't on the page: run benches/tables.py docs/performance.md");
    }
    for row in read(&results.join("cpu-decode.json"))["rows"].as_array().unwrap() {
        let cell = format!("| {} |", shown(row["tokens_per_s"].as_f64().unwrap()));
        assert!(page.contains(&cell), "{cell} isn't on the page: run benches/tables.py docs/performance.md");
    }
}
