//! `recompute`: the energies of a run again, from its raw samples.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::{Folder, experiment, run, stderr, stdout, sweep};
use ept_sweep::meter::findings::Findings;
use ept_sweep::record::TrialKey;
use ept_sweep::record::{
    CellId, CellSpec, Cost, Decoding, Domain, EnergyMethod, FORMAT, GpuInfo, Host, Measurement, MeterInfo, ModelInfo,
    Outcome, OutputLength, Padding, Part, PromptInfo, Quantity, RunInfo, Sample, SourceTrace, Trace, Trial, Window,
};
use ept_sweep::store::{Existing, RunDir, samples_path};
use ept_sweep::sweep::measure::MeasureSpec;
use ept_sweep::units::{Joules, Seconds, Tokens};
use ept_sweep::validity::Work;
use serde_json::Value;

fn recompute(out: &Path, further: &[&str]) -> std::process::Output {
    let mut arguments = vec!["recompute", out.to_str().unwrap()];
    arguments.extend(further);
    run(arguments)
}

fn json(out: &Path, further: &[&str]) -> Value {
    let output = recompute(out, &[further, &["--format", "json"]].concat());
    serde_json::from_str(&stdout(&output)).unwrap_or_else(|error| panic!("{error}: {}", stderr(&output)))
}

/// The names and bytes of everything in a folder.
fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.insert(path.display().to_string(), fs::read(&path).unwrap());
        }
    }
    found
}

fn simulated() -> (Folder, std::path::PathBuf) {
    let folder = Folder::new();
    let out = folder.path("run");
    sweep(&experiment("simulated.yaml"), &out);
    (folder, out)
}

fn close(left: &Value, right: f64) -> bool {
    (left.as_f64().unwrap() - right).abs() <= 1e-9 * right.abs()
}

#[test]
fn a_run_gives_the_same_energies_again_and_is_left_as_it_was() {
    let (_folder, out) = simulated();
    let before = contents(&out);
    let output = recompute(&out, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output).trim(), "24 of 24 windows give the same energy");
    assert!(contents(&out) == before, "the run's directory is as it was");
    let only = recompute(&out, &["--only", "teacher.b1.*"]);
    assert_eq!(stdout(&only).trim(), "6 of 6 windows give the same energy");
}

#[test]
fn a_record_that_was_changed_is_named_and_the_command_fails() {
    let (_folder, out) = simulated();
    let path = out.join("records.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let lines = text.lines().map(|line| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        if record["kind"] == "trial" && record["cell"]["id"] == "teacher.b1.n8" && record["block"] == 1 {
            record["outcome"]["energy"]["total_j"] = 12.0.into();
            record["outcome"]["validity"]["warnings"] = serde_json::json!(["modelled", "not_steady"]);
        }
        format!("{record}\n")
    });
    let changed: String = lines.collect();
    fs::write(&path, changed).unwrap();
    let output = recompute(&out, &[]);
    assert_eq!(output.status.code(), Some(1));
    let said = stdout(&output);
    assert!(said.starts_with("23 of 24 windows give the same energy"), "{said}");
    assert!(said.contains("`teacher.b1.n8` block 2: stored 12.000 J, now 96.000 J"), "{said}");
    assert!(said.contains("energy.total_j, validity.warnings"), "what the work said is no difference: {said}");
}

#[test]
fn a_trimmed_window_has_the_same_power_and_gives_no_energy_per_token() {
    let (_folder, out) = simulated();
    // teacher.b1: 300 W throughout, 0.08 s a sequence
    let found = json(&out, &["--trim", "0.1", "--only", "teacher.b1.n8"]);
    for row in found["trials"].as_array().unwrap() {
        assert!(close(&row["stored_w"], 300.0) && close(&row["recomputed_w"], 300.0), "{row}");
        assert!(close(&row["recomputed_j"], row["stored_j"].as_f64().unwrap() - 0.2 * 300.0), "{row}");
    }
    assert_eq!((&found["part_of_window"], &found["cells_unit"]), (&true.into(), &"W".into()));
    assert_eq!(found["cells"].as_array().unwrap().len(), 1);
    let output = recompute(&out, &["--from", "0.08", "--to", "0.24", "--only", "teacher.b1.n8"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = stdout(&output);
    assert!(said.contains("energy per token isn't given"), "{said}");
    assert!(said.contains("48.000") && said.contains("300.00"), "0.16 s at 300 W: {said}");
}

#[test]
fn a_cut_that_leaves_nothing_names_the_trials() {
    let (_folder, out) = simulated();
    let output = recompute(&out, &["--trim", "1000"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stdout(&output).contains("24\u{a0}windows can't be recomputed"), "{}", stdout(&output));
    assert!(stderr(&output).contains("`teacher.b1.n8` block 1 left out: nothing is left"), "{}", stderr(&output));
}

#[test]
fn damaged_and_missing_samples_are_named_and_counted() {
    let (_folder, out) = simulated();
    let path = |block| samples_path(&out, &TrialKey { cell: CellId("student.b4.n32".into()), block });
    fs::write(path(0), "torn").unwrap();
    fs::remove_file(path(2)).unwrap();
    let output = recompute(&out, &[]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stdout(&output).starts_with("22 of 22 windows give the same energy\n2\u{a0}windows can't be recomputed"));
    let said = stderr(&output);
    for block in [1, 3] {
        assert!(said.contains(&format!("`student.b4.n32` block {block} left out: can't read")), "{said}");
    }
    let found = json(&out, &[]);
    assert_eq!((found["trials"].as_array().unwrap().len(), found["missing"].as_array().unwrap().len()), (22, 2));
}

#[test]
fn the_table_is_written_elsewhere_and_never_into_the_run() {
    let (folder, out) = simulated();
    let file = folder.path("again.csv");
    let output = recompute(&out, &["--method", "power", "--out", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.starts_with("cell,block,method,duration_s,stored_J,recomputed_J,difference,"), "{text}");
    assert_eq!(text.lines().count(), 25);
    for inside in ["again.csv", "samples/again.csv", "../run/again.csv"] {
        let refused = recompute(&out, &["--out", out.join(inside).to_str().unwrap()]);
        assert_eq!(refused.status.code(), Some(2), "{inside}");
        assert!(stderr(&refused).contains("lies in the run's directory"), "{}", stderr(&refused));
    }
    assert!(!out.join("again.csv").exists());
}

#[test]
fn a_method_without_its_source_and_a_glob_without_a_match_are_bad_input() {
    let (folder, out) = simulated();
    let sum = recompute(&out, &["--method", "ept-bench"]);
    assert_eq!(sum.status.code(), Some(2));
    assert!(stderr(&sum).contains("needs `power_usage` readings"), "{}", stderr(&sum));
    assert_eq!(recompute(&out, &["--only", "nobody.*"]).status.code(), Some(2));
    assert_eq!(recompute(&folder.0, &[]).status.code(), Some(2));
    assert_eq!(recompute(&out, &["--trim", "1", "--from", "2"]).status.code(), Some(2));
    assert_eq!(recompute(&out, &["--trim=-1"]).status.code(), Some(2));
}

/// A GPU whose counter runs at 310 W, whose power samples say 300 W and whose `power_usage` says 290 W, for 12 s.
fn gpu_trace() -> Trace {
    let source = |quantity, method, every: f64, value: fn(f64) -> f64| SourceTrace {
        domain: "gpu0".into(),
        quantity,
        method,
        tick: None,
        lag: Seconds(0.0),
        samples: (0..=(12.0 / every) as u32)
            .map(|index| f64::from(index) * every)
            .map(|t| Sample { t: Seconds(t), value: value(t) })
            .collect(),
    };
    Trace {
        sources: vec![
            source(Quantity::EnergyCounter, EnergyMethod::Counter, 0.1, |t| 1000.0 + 310.0 * t),
            source(Quantity::Power, EnergyMethod::PowerIntegral, 0.02, |_| 308.5),
            source(Quantity::PowerUsage, EnergyMethod::PowerIntegral, 0.1, |_| 290.0),
            source(Quantity::Temperature, EnergyMethod::Counter, 1.0, |t| 50.0 + t / 10.0),
        ],
    }
}

fn gpu_meter() -> MeterInfo {
    MeterInfo {
        name: "nvml".into(),
        method: EnergyMethod::Counter,
        domains: vec![Domain { name: "gpu0".into(), description: "a GPU".into() }],
        tick_s: None,
        min_window_s: Seconds(5.0),
        guard_s: Seconds(0.5),
        idle_s: Seconds(20.0),
        notes: vec![],
        host_domains: vec![],
        sensing_period_s: Some(Seconds(0.1)),
        sources: vec![],
        gpus: vec![GpuInfo { domain: "gpu0".into(), bandwidth: Some(3e12), ..GpuInfo::default() }],
    }
}

fn part(meter: &MeterInfo) -> Part {
    Part {
        started_at: "2026-01-01T00:00:00Z".into(),
        version: "0.1.0".into(),
        git_revision: None,
        host: Host::default(),
        meter: meter.clone(),
        models: BTreeMap::new(),
        prompt_forms: BTreeMap::new(),
        calibrations: Vec::new(),
    }
}

/// A run of one cell and two blocks, committed as a measurement would be.
fn gpu_run(root: &Path) {
    let (meter, trace) = (gpu_meter(), gpu_trace());
    let cell = CellSpec {
        id: CellId("m.b2.n8".into()),
        model: "m".into(),
        batch_size: 2,
        max_new_tokens: 8,
        dtype: "bf16".into(),
        output_length: OutputLength::Fixed,
        decoding: Decoding::Greedy,
        dummy_weights: false,
        probe: false,
    };
    let info = RunInfo {
        format: FORMAT,
        name: "hand".into(),
        question: None,
        notes: None,
        sweep_file: "hand.yaml".into(),
        sweep_yaml: String::new(),
        sweep_sha256: String::new(),
        models: vec![],
        cells: vec![cell.clone()],
        blocks: 2,
        protocol: MeasureSpec::default().protocol(&meter),
        prompts: PromptInfo { source: "none".into(), count: 2, sha256: String::new() },
        accuracy_sha256: None,
        floor: 0.01,
        parts: vec![part(&meter)],
    };
    let mut dir = RunDir::open(root, &info, Existing::Resume).unwrap().dir;
    dir.begin_part(&info).unwrap();
    let model = ModelInfo {
        architecture: "a".into(),
        engine: "decoder".into(),
        parameters: None,
        weight_bytes: Some(2_000_000_000),
        dtype: "bf16".into(),
        stored_dtype: None,
        device: "cuda:0".into(),
        revision: None,
        files: BTreeMap::new(),
        padding: Padding::Left,
        dummy: None,
        kernels: None,
        fallback: Vec::new(),
        workload: None,
        launches_per_step: None,
        notes: vec![],
    };
    dir.record_model("m", &model).unwrap();
    for block in 0..2 {
        let (t0, t1) = (Seconds(1.1), Seconds(11.1 - f64::from(block) / 3.0));
        let work = Work {
            t0,
            t1,
            batches: 7,
            decode_steps: 49,
            tokens_out: Tokens(112),
            batch_size: 2,
            weight_bytes: model.weight_bytes,
            ..Work::default()
        };
        let Findings { energy, conditions, phases, validity } = Findings::of(&trace, &meter, &work, None);
        let measurement = Measurement {
            window: Window {
                t0_s: t0,
                t1_s: t1,
                passes: 7,
                batches: 7,
                prompts: 14,
                decode_steps: None,
                decode_s: None,
                offset_s: Seconds(0.0),
            },
            tokens_in: Tokens(50),
            tokens_out: Tokens(112),
            tokens_pad: Tokens(0),
            output_bytes: None,
            energy,
            idle: None,
            load: Cost::default(),
            warmup: Cost::default(),
            validity,
            conditions,
            phases,
            heat: None,
        };
        let outcome = Outcome::Measured(Box::new(measurement));
        let (cell, started_at) = (cell.clone(), "2026-01-01T00:00:00Z".into());
        let trial = Trial { format: FORMAT, cell, block, part: 0, started_at, outcome };
        dir.commit(trial, &[], Some(&trace)).unwrap();
    }
}

fn stored(root: &Path, key: &str) -> Vec<f64> {
    common::records(root).iter().map(|record| record["outcome"]["energy"][key].as_f64().unwrap()).collect()
}

#[test]
fn each_method_gives_the_figure_that_the_record_keeps_of_it() {
    let folder = Folder::new();
    let root = folder.path("run");
    gpu_run(&root);
    let same = recompute(&root, &[]);
    assert_eq!(same.status.code(), Some(0), "{}{}", stdout(&same), stderr(&same));
    assert_eq!(stdout(&same).trim(), "2 of 2 windows give the same energy");
    for (method, key, watts) in
        [("counter", "total_j", 310.0), ("power", "integral_j", 308.5), ("ept-bench", "ept_bench_sum_j", 290.0)]
    {
        let found = json(&root, &["--method", method]);
        let recomputed: Vec<f64> =
            found["trials"].as_array().unwrap().iter().map(|row| row["recomputed_j"].as_f64().unwrap()).collect();
        assert_eq!(recomputed, stored(&root, key), "{method}");
        assert!((recomputed[0] - 10.0 * watts).abs() < 1e-6, "{method}: {recomputed:?}");
        for row in found["trials"].as_array().unwrap() {
            assert!(close(&row["residual"], 1.5 / 310.0), "{row}");
            assert_eq!(row["warnings"], serde_json::json!(["residual_noticeable"]));
        }
    }
    let found = json(&root, &["--method", "ept-bench"]);
    let difference = &found["trials"][0]["difference"];
    assert!(close(difference, (2900.0 - 3100.0) / 3100.0), "{difference}");
    // block 2 lasts 9.667 s, of which the sum drops the last 0.067 s
    assert!((found["trials"][1]["recomputed_j"].as_f64().unwrap() - 9.6 * 290.0).abs() < 1e-6);
}

#[test]
fn the_old_name_of_a_method_is_refused_with_the_new_one() {
    let output = run(["recompute", "anywhere", "--method", "seed"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("EPT-Bench's estimator is `ept-bench`"), "{}", stderr(&output));
}

#[test]
fn a_part_below_the_meters_shortest_window_is_not_valid() {
    let folder = Folder::new();
    let root = folder.path("run");
    gpu_run(&root);
    let found = json(&root, &["--trim", "3"]);
    let row = &found["trials"][0];
    assert!((row["recomputed_j"].as_f64().unwrap() - 4.0 * 310.0).abs() < 1e-6, "{row}");
    assert_eq!((&row["valid"], &row["invalid_reasons"]), (&false.into(), &serde_json::json!(["window_too_short"])));
    let output = recompute(&root, &["--method", "power"]);
    let said = stdout(&output);
    for part in ["m.b2.n8", "−0.48\u{a0}%", "3100.0", "3085.0", "residual_noticeable", "mean ± standard deviation"] {
        assert!(said.contains(part), "`{part}` in:\n{said}");
    }
    assert_eq!(stored(&root, "total_j").len(), 2);
    assert!(Joules(stored(&root, "total_j")[0]) > Joules(3099.0));
}
