//! The bundled models through the real binary: what a newcomer sees first.

mod common;

use std::fs;
use std::path::Path;

use common::{Folder, program, repository, results, stderr, sweep};
use ept_sweep::text::ModelText;

fn small_study(folder: &Folder) -> std::path::PathBuf {
    let data = repository().join("data");
    folder.write(
        "small.yaml",
        &format!(
            "name: small\nmodels:\n  - {{label: teacher, source: {0}/models/teacher, role: teacher, dtype: f32}}\n  \
             - {{label: kd, source: {0}/models/student-kd, role: student, teacher: teacher, dtype: f32}}\n\
             sweep: {{batch_size: 4, max_new_tokens: 8}}\n\
             prompts: {{file: {0}/instructions/heldout.jsonl, count: 8}}\n\
             generation: {{length: fixed}}\nmeasure: {{meter: modelled, repeats: 2, window_s: 0.5}}\n\
             accuracy: {{file: {0}/instructions/heldout.jsonl, count: 32}}\n",
            data.display()
        ),
    )
}

#[test]
fn a_small_study_on_the_modelled_meter_is_measured_scored_and_marked_as_modelled() {
    let folder = Folder::new();
    let out = folder.path("run");
    sweep(&small_study(&folder), &out);
    let rows = results(&out);
    assert_eq!(rows.len(), 4);
    for row in &rows {
        assert_eq!((row["energy_method"].as_str(), row["valid"].as_str()), ("modelled", "true"), "{row:?}");
        assert!(row["warnings"].contains("modelled"));
        assert!(row["E_run_J"].parse::<f64>().unwrap() > 0.0);
        assert_eq!(row["T_out"].parse::<u64>().unwrap(), 64 * row["passes"].parse::<u64>().unwrap());
        // from a run of the bundled models: with 8 tokens longer answers are cut off, and over all 800 prompts in
        // full length the same engine gives the 777 and 612 of the models' training.json
        let right = if row["model"] == "teacher" { 25.0 } else { 17.0 };
        assert_eq!(row["exact_match"].parse::<f64>().unwrap(), right / 32.0, "{row:?}");
    }
    for name in ["report.html", "report.md"] {
        let text = fs::read_to_string(out.join(name)).unwrap();
        assert!(text.to_lowercase().contains("modelled"), "{name} says that the energy is modelled");
    }
}

/// A sweep of one bundled model at two lengths with accuracy, on the modelled meter.
fn decoded(folder: &Folder, decoding: &str) -> std::path::PathBuf {
    let data = repository().join("data");
    folder.write(
        "decoded.yaml",
        &format!(
            "name: decoded\nmodels:\n  - {{label: kd, source: {0}/models/student-kd, dtype: f32}}\n\
             sweep: {{batch_size: 4, max_new_tokens: [3, 8]}}\n\
             prompts: {{file: {0}/instructions/heldout.jsonl, count: 4}}\n\
             generation: {{decoding: {decoding}}}\nmeasure: {{meter: modelled, repeats: 1, window_s: 0.2}}\n\
             accuracy: {{file: {0}/instructions/heldout.jsonl, count: 4}}\n",
            data.display()
        ),
    )
}

#[test]
fn another_decoding_is_measured_scored_recorded_and_reported() {
    for (decoding, name) in [
        ("{beam: {num_beams: 2}}", "beam (num_beams 2, length_penalty 1, early_stopping false)"),
        ("{sample: {top_p: 0.9, seed: 3}}", "sample (temperature 1, top_k 50, top_p 0.9, seed 3)"),
    ] {
        let folder = Folder::new();
        let out = folder.path("run");
        sweep(&decoded(&folder, decoding), &out);
        let rows = results(&out);
        assert_eq!(rows.len(), 2);
        for row in &rows {
            assert_eq!(row["decoding"], name);
            assert!(!row["warnings"].contains("nondeterministic_output"), "{row:?}");
            // student-kd writes ` 1783`, ` 97`, ` 219` and a list longer than 8 tokens, with either decoding: ` 219` is
            // right and takes five tokens, the other numbers are wrong
            let right = if row["max_new_tokens"] == "3" { 0.0 } else { 1.0 };
            assert_eq!(row["exact_match"].parse::<f64>().unwrap(), right / 4.0, "{row:?}");
            let most = 4 * row["max_new_tokens"].parse::<u64>().unwrap() * row["passes"].parse::<u64>().unwrap();
            assert!((1..=most).contains(&row["T_out"].parse::<u64>().unwrap()), "{row:?}");
        }
        let report = fs::read_to_string(out.join("report.md")).unwrap();
        assert!(report.contains(&format!("Decoding is {name}: ")), "{report}");
    }
}

#[test]
fn bench_writes_the_six_keys_of_ept_bench_and_their_tokens_and_energy_are_possible() {
    let folder = Folder::new();
    let prompts = folder.write("prompts.txt", "Instruction: Add 2 and 3.\n\nInstruction: Sort: c a b\n");
    let out = folder.path("bench.json");
    let model = repository().join("data/models/student-kd");
    let output = program()
        .args(["bench", "--batch-size", "2", "--max-new-tokens", "8", "--model"])
        .arg(&model)
        .arg("--prompts")
        .arg(&prompts)
        .arg("--out")
        .arg(&out)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let record: serde_json::Value = serde_json::from_str(&fs::read_to_string(&out).unwrap()).unwrap();
    let keys: Vec<&String> = record.as_object().unwrap().keys().take(7).collect();
    let expected =
        ["E_run_J", "T_in", "T_out", "EPT_in_J_per_tok", "EPT_out_J_per_tok", "EPT_total_J_per_tok", "energy_method"];
    assert_eq!(keys, expected);
    let get = |key: &str| record[key].as_f64().unwrap();
    // the modelled meter: 5 W throughout, and 8 W for each processor that is busy
    let (elapsed, processors) = (get("measured_elapsed_s"), std::thread::available_parallelism().unwrap().get());
    let (least, most) = (5.0 * elapsed, (5.0 + 8.0 * processors as f64) * elapsed);
    if record["energy_method"] == "modelled" {
        assert!((least..=1.1 * most).contains(&get("E_run_J")), "{} J in {elapsed} s", get("E_run_J"));
    }
    let tokens_in = tokens(&model, "Instruction: Add 2 and 3.") + tokens(&model, "Instruction: Sort: c a b");
    assert_eq!(get("T_in"), tokens_in as f64 * get("passes"));
    assert!(get("T_out") <= 2.0 * 8.0 * get("passes") && get("T_out") >= 2.0 * get("passes"));
    for (key, tokens) in [
        ("EPT_in_J_per_tok", get("T_in")),
        ("EPT_out_J_per_tok", get("T_out")),
        ("EPT_total_J_per_tok", get("T_in") + get("T_out")),
    ] {
        assert!((get(key) * tokens - get("E_run_J")).abs() < 1e-9 * get("E_run_J"), "{key}");
    }
}

/// Tokens of a text, by the model's own tokenizer.
fn tokens(model: &Path, text: &str) -> usize {
    ModelText::load(model).unwrap().tokenizer.encode(text).unwrap().len()
}

#[test]
fn bench_on_a_folder_without_a_model_names_the_file_that_is_missing() {
    let folder = Folder::new();
    let prompts = folder.write("prompts.txt", "hello\n");
    let output = program()
        .args(["bench", "--model"])
        .arg(&folder.0)
        .arg("--prompts")
        .arg(&prompts)
        .arg("--out")
        .arg(folder.path("o.json"))
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(stderr(&output).contains("config.json"), "{}", stderr(&output));
    assert!(!Path::new(&folder.path("o.json")).exists());
}

#[test]
fn the_bundled_models_stay_under_twenty_mebibytes() {
    let mut bytes = 0;
    for model in fs::read_dir(repository().join("data/models")).unwrap() {
        for file in fs::read_dir(model.unwrap().path()).unwrap() {
            bytes += file.unwrap().metadata().unwrap().len();
        }
    }
    assert!(bytes < 20 << 20, "{bytes} bytes");
}
