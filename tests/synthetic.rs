//! The whole binary on a simulated device: every answer is known in closed form.

mod common;

use std::fs;

use common::{Folder, experiment, results, run, stdout, sweep};

/// The least energy of a batch by hand: sequence by sequence, step by step. Bytes cost 100 pJ and go at 3 TB/s, operations
/// take what a product of 8192³ at 600 W and 800 TFLOP/s leaves, and the card idles at 100 W.
struct Card {
    weights: f64,
    token_flops: f64,
    output_flops: f64,
    /// Of all layers: bytes of a token's key and value, operations of a pair.
    kv: f64,
    pair: f64,
}

impl Card {
    const TEACHER: Self =
        Self { weights: 15e9, token_flops: 14e9, output_flops: 1e9, kv: 32.0 * 4096.0, pair: 32.0 * 16384.0 };
    const STUDENT: Self =
        Self { weights: 2.5e9, token_flops: 2e9, output_flops: 5e8, kv: 16.0 * 2048.0, pair: 16.0 * 8192.0 };

    fn joules(bytes: f64, flops: f64) -> f64 {
        let product = 2.0 * 8192f64.powi(3);
        let per_flop = (500.0 * product / 8e14 - 2.0 * 3.0 * 8192.0 * 8192.0 * 1e-10) / product;
        bytes * 1e-10 + flops * per_flop + 100.0 * (bytes / 3e12).max(flops / 8e14)
    }

    fn batch(&self, prompts: &[usize], new_tokens: usize) -> f64 {
        let seen: usize = prompts.iter().map(|prompt| (1..=*prompt).sum::<usize>()).sum();
        let (rows, tokens) = (prompts.len() as f64, prompts.iter().sum::<usize>() as f64);
        let flops = tokens * self.token_flops + rows * self.output_flops + seen as f64 * self.pair;
        let prefill = Self::joules(self.weights + tokens * self.kv, flops);
        let step = |step: usize| {
            let seen: usize = prompts.iter().map(|prompt| prompt + step).sum();
            let flops = rows * (self.token_flops + self.output_flops) + seen as f64 * self.pair;
            Self::joules(self.weights + seen as f64 * self.kv, flops)
        };
        prefill + (1..new_tokens).map(step).sum::<f64>()
    }
}

#[test]
fn the_energy_floor_is_that_of_every_byte_and_operation_on_the_calibrated_card() {
    let folder = Folder::new();
    let out = folder.path("run");
    sweep(&experiment("simulated-floor.yaml"), &out);
    let rows = results(&out);
    assert_eq!(rows.len(), 8 * 3);
    for row in &rows {
        let card = if row["model"] == "teacher" { Card::TEACHER } else { Card::STUDENT };
        let (size, new_tokens) = (number(row, "batch_size") as usize, number(row, "max_new_tokens") as usize);
        let pass: f64 = [3, 7, 1, 2].chunks(size).map(|batch| card.batch(batch, new_tokens)).sum();
        let (floor, expected) = (number(row, "EPT_floor_J_per_tok"), pass / (4 * new_tokens) as f64);
        assert!((floor / expected - 1.0).abs() < 1e-5, "{}: {floor} instead of {expected}", row["cell"]);
        assert!(number(row, "EPT_floor_half_J_per_tok") < 1e-6 * floor, "the repeats are all alike");
        let multiple = number(row, "EPT_out_J_per_tok") / floor;
        assert!(close(number(row, "floor_multiple"), multiple) && multiple > 1.2, "{multiple}");
        let step = if row["model"] == "teacher" { 0.0066 } else { 0.0017 };
        assert!(close(number(row, "decode_step_s"), step));
        let share = number(row, "bandwidth_share") * step * 3e12 / card.weights;
        assert!((1.0..1.002).contains(&share), "the weights, and a few keys and values: {share}");
        assert_eq!(row["launches_per_step"], if row["model"] == "teacher" { "420" } else { "210" });
        assert_eq!(row["gpu_busy"], "");
    }
}

#[test]
fn a_saving_at_the_floor_is_beside_the_measured_one_in_report_and_diff() {
    let folder = Folder::new();
    let out = folder.path("run");
    sweep(&experiment("simulated-floor.yaml"), &out);
    let report = fs::read_to_string(out.join("report.md")).unwrap().replace('\u{a0}', " ");
    assert!(report.contains("student uses 79.39 % less energy per generated token than teacher"));
    assert!(report.contains(
        "; at the energy floor the saving is 83 % (the engine uses 1.30 times the floor for teacher and 1.61 times for \
         student)"
    ));
    assert!(
        report.contains("The energy floor of a cell is the least energy") && report.contains("What the engine costs")
    );
    let out = out.to_str().unwrap();
    let json = stdout(&run(["diff", out, "--base", "teacher", "--new", "student", "--format", "json"]));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    for compared in json["rows"].as_array().unwrap().iter().chain(json["overall"].as_array().unwrap()) {
        let at_floor = &compared["at_floor"];
        let multiple = |of: &str| at_floor[of].as_f64().unwrap();
        let measured = compared["ratio"]["value"].as_f64().unwrap();
        let ratio = measured / (multiple("new_multiple") / multiple("base_multiple"));
        assert!((at_floor["saving"].as_f64().unwrap() - (1.0 - ratio)).abs() < 1e-9, "{compared}");
    }
}

fn calibrations(out: &std::path::Path) -> Vec<serde_json::Value> {
    let run: serde_json::Value = serde_json::from_str(&fs::read_to_string(out.join("run.json")).unwrap()).unwrap();
    let parts = run["parts"].as_array().unwrap().iter();
    parts.flat_map(|part| part["calibrations"].as_array().cloned().unwrap_or_default()).collect()
}

#[test]
fn a_calibration_is_made_once_and_used_by_later_starts_and_other_runs() {
    let folder = Folder::new();
    let (first, second) = (folder.path("first"), folder.path("second"));
    let text = fs::read_to_string(experiment("simulated-floor.yaml")).unwrap();
    let start = |file: &std::path::Path, only: &str, out: &std::path::Path| {
        common::program().arg(file).args(["--only", only]).arg("--out").arg(out).output().unwrap()
    };
    let file = folder.write("measure.yaml", &text);
    assert!(start(&file, "teacher.*", &first).status.success());
    assert!(start(&file, "student.*", &first).status.success());
    let made = calibrations(&first);
    assert_eq!((made.len(), &made[0]), (2, &made[1]), "the second start took it over");

    let path = format!("calibration: {}", first.display());
    let other = folder.write("read.yaml", &text.replace("calibration: measure", &path));
    assert!(start(&other, "*", &second).status.success());
    assert_eq!(calibrations(&second), made[..1]);
    for (one, other) in results(&first).iter().zip(results(&second)) {
        assert!(close(number(one, "EPT_floor_J_per_tok"), number(&other, "EPT_floor_J_per_tok")), "{}", one["cell"]);
    }
}

#[test]
fn without_a_calibration_the_floor_is_unknown_and_nothing_speaks_of_it() {
    let folder = Folder::new();
    let text = fs::read_to_string(experiment("simulated-floor.yaml")).unwrap();
    for choice in ["off", "auto"] {
        let file = folder.write("sweep.yaml", &text.replace("calibration: measure", &format!("calibration: {choice}")));
        let out = folder.path(choice);
        sweep(&file, &out);
        assert!(
            results(&out).iter().all(|row| row["EPT_floor_J_per_tok"].is_empty() && row["bandwidth_share"].is_empty())
        );
        let report = fs::read_to_string(out.join("report.md")).unwrap();
        // what follows quotes the sweep file
        let report = report.split("## Provenance").next().unwrap();
        assert!(!report.contains("nergy floor"), "{choice}");
        assert!(calibrations(&out).is_empty());
    }
}

#[test]
fn a_calibration_that_is_missing_or_of_something_else_is_refused_before_anything_is_measured() {
    let folder = Folder::new();
    let text = fs::read_to_string(experiment("simulated-floor.yaml")).unwrap();
    let refused = |path: &str| {
        let file = folder.write("sweep.yaml", &text.replace("calibration: measure", &format!("calibration: {path}")));
        let output = common::program().arg(&file).arg("--out").arg(folder.path("run")).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        common::stderr(&output)
    };
    assert!(refused("./nowhere.json").contains("can't read the calibration"));
    folder.write("other.json", r#"{"format": 3, "calibrations": []}"#);
    let error = refused("./other.json");
    assert!(error.contains("names no calibration of simulated in f32"), "{error}");
}

fn close(left: f64, right: f64) -> bool {
    (left - right).abs() <= 1e-9 * right.abs()
}

fn number(row: &std::collections::BTreeMap<String, String>, column: &str) -> f64 {
    row[column].parse().unwrap_or_else(|_| panic!("{column} is `{}`", row[column]))
}

#[test]
fn three_hundred_watts_for_ten_milliseconds_a_token_are_three_joules_a_token() {
    let folder = Folder::new();
    let out = folder.path("run");
    sweep(&experiment("simulated.yaml"), &out);
    let rows = results(&out);
    assert_eq!(rows.len(), 8 * 3);
    for row in &rows {
        // a step takes as long for a batch as for one sequence: a batch of 4 costs a quarter for each token
        let (watts, step) = if row["model"] == "teacher" { (300.0, 0.010) } else { (120.0, 0.005) };
        let expected = watts * step / number(row, "batch_size");
        assert!(close(number(row, "EPT_out_J_per_tok"), expected), "{}: {}", row["cell"], row["EPT_out_J_per_tok"]);
        assert_eq!(row["energy_method"], "simulated");
    }
    let single = rows.iter().find(|row| row["cell"] == "teacher.b1.n8").unwrap();
    assert!(close(number(single, "EPT_out_J_per_tok"), 3.0));
    assert!(close(number(single, "idle_w"), 60.0));
}

#[test]
fn energies_tokens_and_their_quotients_are_those_of_the_simulated_device() {
    let folder = Folder::new();
    let out = folder.path("run");
    sweep(&experiment("simulated.yaml"), &out);
    for row in results(&out) {
        let (watts, step) = if row["model"] == "teacher" { (300.0, 0.010) } else { (120.0, 0.005) };
        let (length, passes) = (number(&row, "max_new_tokens"), number(&row, "passes"));
        // four prompts with 13 words in all, in batches that take a step for each token of a sequence
        let (input, output) = (13.0, 4.0 * length);
        let pass = watts * step * length * 4.0 / number(&row, "batch_size");
        assert_eq!((number(&row, "T_in"), number(&row, "T_out")), (input * passes, output * passes));
        assert!(close(number(&row, "E_run_J"), pass * passes), "{row:?}");
        assert!(close(number(&row, "EPT_in_J_per_tok"), pass / input));
        assert!(close(number(&row, "EPT_out_J_per_tok"), pass / output));
        assert!(close(number(&row, "EPT_total_J_per_tok"), pass / (input + output)));
    }
}

#[test]
fn the_saving_of_the_simulated_student_is_eighty_percent_everywhere() {
    let folder = Folder::new();
    let out = folder.path("run");
    sweep(&experiment("simulated.yaml"), &out);
    let out = out.to_str().unwrap();
    let output = run(["diff", out, "--base", "teacher", "--new", "student", "--format", "json"]);
    let diff: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(diff["rows"].as_array().unwrap().len(), 4);
    for row in diff["rows"].as_array().unwrap() {
        assert!(close(row["saving"]["value"].as_f64().unwrap(), 0.8), "{row}");
        assert_eq!(row["verdict"], "improved");
        let sides =
            ["base", "new"].map(|side| row["conditions"][side].as_object().unwrap().contains_key("temperature_c"));
        assert_eq!(sides, [true, true]);
    }
}

#[test]
fn a_run_leaves_everything_that_its_directory_promises() {
    let folder = Folder::new();
    let out = folder.path("run");
    let output = sweep(&experiment("simulated.yaml"), &out);
    assert_eq!(stdout(&output).trim(), out.join("report.html").to_str().unwrap());
    for name in ["run.json", "records.jsonl", "generations.jsonl", "results.parquet", "results.csv", "report.md"] {
        assert!(fs::metadata(out.join(name)).is_ok_and(|file| file.len() > 0), "{name}");
    }
    let samples = fs::read_dir(out.join("samples")).unwrap().count();
    assert_eq!(samples, 24, "a file of raw samples for each trial");
    let figures: Vec<_> = fs::read_dir(out.join("figures"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for name in ["savings", "ept_batch", "ept_length", "power"] {
        for kind in ["svg", "png"] {
            assert!(figures.contains(&format!("{name}.{kind}")), "{name}.{kind} of {figures:?}");
        }
    }
    let run: serde_json::Value = serde_json::from_str(&fs::read_to_string(out.join("run.json")).unwrap()).unwrap();
    assert_eq!(run["format"], ept_sweep::record::FORMAT);
    assert_eq!(run["parts"].as_array().unwrap().len(), 1);
    assert_eq!(run["sweep_sha256"].as_str().unwrap().len(), 64);
}

#[test]
fn what_the_models_wrote_is_kept_once_for_each_prompt_of_a_cell() {
    let folder = Folder::new();
    let out = folder.path("run");
    sweep(&experiment("simulated.yaml"), &out);
    let text = fs::read_to_string(out.join("generations.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 8 * 4);
    for line in &lines {
        let length = if line["cell"].as_str().unwrap().ends_with("n8") { 8 } else { 32 };
        assert_eq!(line["output_ids"].as_array().unwrap().len(), length);
        assert_eq!(line["finish"], "length");
        assert_eq!(line["tokens_in"], line["prompt"].as_str().unwrap().split_whitespace().count());
    }
}

#[test]
fn a_cell_that_fails_is_a_row_with_a_kind_and_the_sweep_goes_on() {
    let folder = Folder::new();
    let file = folder.write(
        "fail.yaml",
        "name: fail\nmodels:\n  - label: m\n    source: {synthetic: {power_w: 100, step_s: 0.01, fail: {kind: oom, from_batch_size: 8}}}\n\
         sweep: {batch_size: [1, 8], max_new_tokens: 4}\nprompts: {text: [a, b, c, d, e, f, g, h]}\n\
         measure: {repeats: 2}\n",
    );
    let out = folder.path("run");
    let output = common::program().arg(&file).arg("--out").arg(&out).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", common::stderr(&output));
    let rows = results(&out);
    let failed: Vec<_> = rows.iter().filter(|row| row["outcome"] == "failed").collect();
    assert_eq!(failed.len(), 2);
    assert!(failed.iter().all(|row| row["failure"] == "out_of_memory" && row["E_run_J"].is_empty()));
    assert_eq!(rows.iter().filter(|row| row["outcome"] == "measured").count(), 2);
    let report = fs::read_to_string(out.join("report.md")).unwrap();
    assert!(report.contains("m.b8.n4") && report.contains("memory"), "the report names the failed cell and why");
}

#[test]
fn explain_shows_the_trials_and_the_formula_behind_a_number() {
    let folder = Folder::new();
    let out = folder.path("run");
    sweep(&experiment("simulated.yaml"), &out);
    let output = run(["explain", "teacher.b1.n8", "--run", out.to_str().unwrap()]);
    let text = stdout(&output);
    for part in ["EPT_out   = E / T_out          = 3", "repeat 3", "3 planned, 3 valid", "simulated", ".parquet"] {
        assert!(text.contains(part), "`{part}` in:\n{text}");
    }
}

#[test]
fn a_natural_answer_counts_its_end_of_sequence_token() {
    let folder = Folder::new();
    let file = folder.write(
        "natural.yaml",
        "name: natural\nmodels:\n  - label: m\n    source: {synthetic: {power_w: 100, step_s: 0.01, eos_after: 5}}\n\
         sweep: {batch_size: 2, max_new_tokens: 16}\nprompts: {text: [a, b]}\nmeasure: {repeats: 1}\n",
    );
    let out = folder.path("run");
    sweep(&file, &out);
    let rows = results(&out);
    assert_eq!(number(&rows[0], "T_out") / number(&rows[0], "passes"), 10.0);
    assert!(close(number(&rows[0], "EPT_out_J_per_tok"), 0.5));
}

/// A simulated sweep whose energies never vary.
fn steady(folder: &Folder, measure: &str) -> std::path::PathBuf {
    folder.write(
        "steady.yaml",
        &format!(
            "name: steady\nmodels:\n  - label: a\n    source: {{synthetic: {{power_w: 100, step_s: 0.01}}}}\n  \
             - label: b\n    source: {{synthetic: {{power_w: 50, step_s: 0.02}}}}\n\
             sweep: {{batch_size: [1, 2], max_new_tokens: [8, 16]}}\nprompts: {{text: [a, b]}}\n\
             generation: {{length: fixed}}\nmeasure: {{{measure}}}\n"
        ),
    )
}

#[test]
fn publication_measures_five_blocks_of_cells_that_agree_and_a_second_start_nothing() {
    let folder = Folder::new();
    let (file, out) = (steady(&folder, "preset: publication"), folder.path("run"));
    sweep(&file, &out);
    let trials = common::trials(&out);
    let blocks: std::collections::BTreeSet<u64> = trials.iter().map(|trial| trial["block"].as_u64().unwrap()).collect();
    assert_eq!(blocks.into_iter().collect::<Vec<_>>(), [0, 1, 2, 3, 4], "of 15 that it may take");
    // 4 cells of each model, and 2 probes of one token: 8 tokens are a level already
    assert_eq!(trials.len(), 5 * 2 * (4 + 2));
    let probes = trials.iter().filter(|trial| trial["cell"]["probe"] == true);
    assert_eq!(probes.filter(|trial| trial["cell"]["max_new_tokens"] == 1).count(), 5 * 2 * 2);
    let before = fs::read(out.join("records.jsonl")).unwrap();
    let said = common::stderr(&sweep(&file, &out));
    assert!(said.contains("all 60 trials are measured already"), "{said}");
    assert_eq!(fs::read(out.join("records.jsonl")).unwrap(), before);
}

#[test]
fn each_block_of_a_model_has_an_idle_baseline_before_and_after_it() {
    let folder = Folder::new();
    let out = folder.path("run");
    sweep(&steady(&folder, "repeats: 3"), &out);
    let kinds: Vec<String> = common::records(&out)
        .iter()
        .map(|record| match record["kind"].as_str().unwrap() {
            "baseline" => record["time"].as_str().unwrap().to_owned(),
            kind => kind.to_owned(),
        })
        .collect();
    let session = ["before", "trial", "trial", "trial", "trial", "after"];
    assert_eq!(kinds, session.repeat(2 * 3));
    let records = common::records(&out);
    let baselines: Vec<_> = records.iter().filter(|record| record["kind"] == "baseline").collect();
    assert!(baselines.iter().all(|baseline| close(baseline["idle"]["power_w"].as_f64().unwrap(), 60.0)));
}

#[test]
fn by_model_loads_a_model_once_for_all_its_blocks() {
    let folder = Folder::new();
    let out = folder.path("run");
    sweep(&steady(&folder, "repeats: 3, order: by_model"), &out);
    let trials = common::trials(&out);
    let order: Vec<(String, u64)> = trials
        .iter()
        .map(|trial| (trial["cell"]["model"].as_str().unwrap().to_owned(), trial["block"].as_u64().unwrap()))
        .collect();
    let expected = ["a", "b"].into_iter().flat_map(|model| (0..12).map(move |n| (model.to_owned(), n / 4)));
    assert_eq!(order, expected.collect::<Vec<_>>());
    for rows in trials.chunks(12) {
        assert!(
            rows.iter().all(|trial| trial["outcome"]["load"] == rows[0]["outcome"]["load"]),
            "what the one load took stands with each"
        );
    }
}
