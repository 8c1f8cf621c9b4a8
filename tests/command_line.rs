//! What the command line says to right and to wrong input.

mod common;

use std::fs;

use common::{Folder, experiment, program, repository, run, stderr, stdout};

/// A small valid sweep, with one line replaced.
fn broken(folder: &Folder, from: &str, to: &str) -> std::path::PathBuf {
    let text = fs::read_to_string(experiment("simulated.yaml")).unwrap();
    assert!(text.contains(from), "the sweep has `{from}`");
    folder.write("broken.yaml", &text.replacen(from, to, 1))
}

/// Runs `plan` on a broken sweep; gives what it said.
fn complaint(from: &str, to: &str) -> String {
    let folder = Folder::new();
    let file = broken(&folder, from, to);
    let output = program().arg("plan").arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(!folder.path("reports").exists());
    stderr(&output)
}

fn has_all(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` in:\n{text}");
    }
}

#[test]
fn a_misspelt_key_is_shown_with_its_line_a_caret_and_the_right_name() {
    let said = complaint("  batch_size: [1, 4]", "  batch_sizes: [1, 4]");
    has_all(
        &said,
        &["broken.yaml:19:3: unknown key `batch_sizes` in `sweep`", "^^^^^^^^^^^", "hint: did you mean `batch_size`?"],
    );
}

#[test]
fn a_wrong_type_is_pointed_at() {
    let said = complaint("  repeats: 3", "  repeats: three");
    has_all(&said, &["broken.yaml:34:12", "measure.repeats", "string \"three\", expected a whole number or `auto`"]);
}

#[test]
fn two_models_of_one_label_are_refused_at_the_second() {
    has_all(
        &complaint("  - label: student", "  - label: teacher"),
        &["broken.yaml:12:12", "two models have the label `teacher`"],
    );
}

#[test]
fn an_unknown_teacher_is_refused_with_the_one_that_was_meant() {
    has_all(
        &complaint("    teacher: teacher", "    teacher: techer"),
        &["no model has the label `techer`", "did you mean `teacher`?"],
    );
}

#[test]
fn a_student_without_a_teacher_is_refused() {
    has_all(
        &complaint("    teacher: teacher\n", ""),
        &["`student` is a student or control, but names no teacher", "add `teacher:"],
    );
}

#[test]
fn what_belongs_to_weights_is_refused_for_a_simulated_model_rather_than_left_out() {
    for (key, line) in [("adapter", "adapter: ./lora"), ("weights", "weights: dummy"), ("devices", "devices: [0, 1]")] {
        let said = complaint("    teacher: teacher\n", &format!("    teacher: teacher\n    {line}\n"));
        has_all(&said, &["broken.yaml:15:", &format!("`{key}` of the simulated model `student`")]);
    }
}

/// A reader that goes away ends the program as it ends other filters: by the signal, without a word about it.
#[cfg(unix)]
#[test]
fn a_plan_whose_reader_goes_away_ends_quietly() {
    use std::os::unix::process::ExitStatusExt as _;
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = program()
        .arg("plan")
        .arg(experiment("simulated.yaml"))
        .stdout(writer)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    assert_eq!((output.status.signal(), stderr(&output).as_str()), (Some(libc::SIGPIPE), ""));
}

#[test]
fn a_contradiction_in_measure_is_pointed_at_with_a_way_out() {
    for (line, parts) in [
        ("repeats: 0", ["broken.yaml:34:12", "0 repeats", "hint: 1 at least"]),
        ("max_repeats: 2", ["broken.yaml:34:16", "less than the 5 repeats", "raise it, or lower `repeats`"]),
        ("max_repeats: 2000", ["broken.yaml:34:16", "2000 repeats", "1000 at most"]),
        ("half_width: 0.01", ["broken.yaml:34:15", "without repeats to add", "set `max_repeats` above `repeats`"]),
        ("half_width: 2", ["broken.yaml:34:15", "`half_width: 2` isn't a small share", "0.02 for ± 2 %"]),
        ("repeats: 1\n  max_repeats: 9", ["broken.yaml:34:12", "go on from a single one", "set `repeats: 5`"]),
        (
            "max_repeats: 9\n  order: by_model",
            ["broken.yaml:35:10", "blocks in which all models", "use `order: blocks`"],
        ),
        ("preset: thorough", ["broken.yaml:34:11", "thorough", "publication"]),
        ("prefill: 3", ["broken.yaml:34:12", "invalid type: integer `3`", "expected a boolean"]),
        ("repeats: true", ["broken.yaml:34:12", "invalid type: boolean `true`", "expected u32"]),
        ("order: random", ["broken.yaml:34:10", "random", "by_model"]),
        ("window_s: 0", ["broken.yaml:34:13", "isn't a valid waiting time", "seconds, or `auto`"]),
        ("max_warmup_s: -1", ["broken.yaml:34:17", "`max_warmup_s: -1", "seconds, or `auto`"]),
        ("guard_s: .inf", ["broken.yaml:34:12", "isn't a valid waiting time", "seconds, or `auto`"]),
    ] {
        has_all(&complaint("repeats: 3", line), &parts);
    }
    let natural = complaint("  length: fixed\n\nmeasure:", "  length: natural\n\nmeasure:\n  prefill: true");
    has_all(
        &natural,
        &["broken.yaml:33:12", "every length produces the same tokens", "set `generation.length: fixed`"],
    );
}

/// A sweep of local models on the modelled meter, whose shortest window is half a second.
fn modelled(folder: &Folder, measure: &str) -> std::path::PathBuf {
    let text = fs::read_to_string(experiment("kd.yaml")).unwrap();
    let (before, after) = text.split_at(text.find("\nmeasure:").unwrap());
    let after = &after[after.find("\naccuracy:").unwrap()..];
    let data = repository().join("data").display().to_string();
    let text = format!("{before}\nmeasure: {{meter: modelled, {measure}}}\n{after}").replace("../data", &data);
    folder.write("kd.yaml", &text)
}

#[test]
fn a_window_below_what_the_meter_needs_is_reported_before_anything_is_measured() {
    let folder = Folder::new();
    let file = modelled(&folder, "window_s: 0.2");
    let output = program().arg("plan").arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    has_all(&stderr(&output), &["`measure.window_s: 0.2` is below the 0.5 s", "`modelled`", "window_too_short"]);
    let fine = program().arg("plan").arg(modelled(&folder, "window_s: 0.5")).output().unwrap();
    assert!(!stderr(&fine).contains("window_s"), "{}", stderr(&fine));
}

#[test]
fn a_budget_is_answered_with_the_presets_and_lines_to_paste() {
    let folder = Folder::new();
    let file = modelled(&folder, "repeats: auto");
    let output = program().arg("plan").arg(&file).args(["--budget", "25m"]).current_dir(&folder.0).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let said = stdout(&output);
    let parts = ["quick", "standard (written)", "publication", "no earlier run in `reports/kd`", "an assumption"];
    has_all(&said, &parts);
    has_all(
        &said,
        &["The best that fits: 12 of 12 cells, 15 repeats, windows of 2\u{a0}s", "measure:\n  meter: modelled\n"],
    );
    assert!(said.lines().all(|line| line.chars().count() <= 100), "a hundred columns are enough:\n{said}");
    let pasted = &said[said.find("measure:").unwrap() + "measure:\n".len()..];
    let keys = pasted.lines().map(str::trim).collect::<Vec<_>>().join(", ");
    let again = program().arg("plan").arg(modelled(&folder, &keys.replace("meter: modelled, ", ""))).output().unwrap();
    has_all(&stdout(&again), &["12 cells × 15 repeats"]);
}

#[test]
fn a_budget_that_nothing_fits_is_answered_with_the_least_that_would() {
    let folder = Folder::new();
    let file = modelled(&folder, "repeats: auto");
    let output = program().arg("plan").arg(&file).args(["--budget", "5s"]).current_dir(&folder.0).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    has_all(&stderr(&output), &["nothing fits 5\u{a0}s", "× 3 repeats", "raise `--budget`"]);
    let bare = program().arg("plan").arg(&file).args(["--budget", "25"]).output().unwrap();
    assert_eq!(bare.status.code(), Some(2));
    has_all(&stderr(&bare), &["expected a duration such as `90s`, `25m` or `1h30m`"]);
}

#[test]
fn a_budget_takes_the_times_of_loads_and_passes_from_an_earlier_run() {
    let folder = Folder::new();
    let file = experiment("simulated.yaml");
    let run = |arguments: &[&str]| program().args(arguments).arg(&file).current_dir(&folder.0).output().unwrap();
    let budget = || stdout(&run(&["plan", "--budget", "10m"]));
    has_all(&budget(), &["no earlier run in `reports/simulated`"]);
    assert!(run(&["run"]).status.success());
    // a simulated device doesn't vary: its spread says nothing
    has_all(&budget(), &["as in the run in `reports/simulated`", "spread of 1\u{a0}% between repeats (an assumption)"]);
}

/// Raises idle power after the teacher's trials of the first block by 6 W: more than 2 % of its 240 W above idle.
fn let_idle_drift(out: &std::path::Path) {
    let changed: String = common::records(out)
        .into_iter()
        .map(|mut record| {
            let place = (&record["kind"], &record["model"], &record["block"], &record["time"]);
            if place == (&"baseline".into(), &"teacher".into(), &0.into(), &"after".into()) {
                record["idle"]["power_w"] = 66.0.into();
            }
            format!("{record}\n")
        })
        .collect();
    fs::write(out.join("records.jsonl"), changed).unwrap();
}

#[test]
fn explain_gives_the_same_reasons_as_report_and_table() {
    let folder = Folder::new();
    let out = folder.path("run");
    common::sweep(&experiment("simulated.yaml"), &out);
    let_idle_drift(&out);
    let again = run(["report".as_ref(), out.as_os_str()]);
    assert!(again.status.success(), "{}", stderr(&again));
    let rows = common::results(&out);
    let drifted: Vec<_> = rows.iter().filter(|row| row["warnings"].contains("idle_drift")).collect();
    assert_eq!(drifted.len(), 4, "the teacher's cells in the first block");
    assert!(fs::read_to_string(out.join("report.html")).unwrap().contains("idle_drift"));
    let explain = |cell: &str| stdout(&run(["explain", cell, "--run", out.to_str().unwrap()]));
    let teacher = explain("teacher.b1.n8");
    assert_eq!(teacher.matches("warning: idle_drift").count(), 1, "{teacher}");
    has_all(&teacher.replace('\u{a0}', " "), &["idle before  60.0 W", "idle after   66.0 W", "idle drift   +6.00 W"]);
    assert!(!explain("student.b1.n8").contains("idle_drift"));
}

#[test]
fn an_empty_axis_is_refused() {
    has_all(&complaint("batch_size: [1, 4]", "batch_size: []"), &["broken.yaml:19:15", "empty axis"]);
}

#[test]
fn a_zero_and_a_repeated_value_on_an_axis_are_refused() {
    has_all(&complaint("batch_size: [1, 4]", "batch_size: [0, 4]"), &["0 on an axis"]);
    has_all(
        &complaint("batch_size: [1, 4]", "batch_size: [4, 4]"),
        &["broken.yaml:19:15", "an axis has the same value twice", "once is enough"],
    );
}

#[test]
fn a_value_that_nobody_means_is_refused_before_it_fills_the_memory() {
    has_all(
        &complaint("max_new_tokens: [8, 32]", "max_new_tokens: [8, 18446744073709551615]"),
        &["on an axis", "1048576"],
    );
    has_all(&complaint("  repeats: 3", "  repeats: 4294967295"), &["4294967295 repeats", "1000 at most"]);
    let output = run(["bench", "--model", "m", "--use-dolly", "--num-prompts", "0", "--out", "o.json"]);
    assert_eq!(output.status.code(), Some(2));
    has_all(&stderr(&output), &["above 0"]);
}

#[test]
fn a_batch_that_the_prompts_cannot_fill_is_refused() {
    has_all(
        &complaint("batch_size: [1, 4]", "batch_size: [1, 64]"),
        &["teacher.b64.n8", "a batch of 64 needs as many prompts, and there are 4"],
    );
}

#[test]
fn a_model_of_the_hub_that_is_not_in_the_cache_can_be_planned_with_what_is_not_known() {
    let folder = Folder::new();
    let file = folder.write(
        "s.yaml",
        "name: s\nmodels: [{label: m, source: some-owner/some-model}]\nsweep: {batch_size: 1, max_new_tokens: 4}\n\
         prompts: {text: [a]}\n",
    );
    let output = program().arg("plan").arg(&file).env("HF_HOME", &folder.0).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    has_all(&stdout(&output), &["m.b1.n4", "–"]);
    has_all(&stderr(&output), &["not known yet", "isn't in the local cache"]);
}

#[test]
fn a_gpu_is_refused_by_a_build_that_cannot_use_one() {
    if cfg!(feature = "cuda") {
        return;
    }
    let output = run([experiment("simulated.yaml").as_os_str(), "--device".as_ref(), "cuda".as_ref()]);
    assert_eq!(output.status.code(), Some(2));
    has_all(&stderr(&output), &["--features cuda"]);
}

#[test]
fn a_plan_of_too_many_cells_is_refused_with_the_number() {
    let said = complaint("max_new_tokens: [8, 32]", "max_new_tokens: [8, 32]\n  max_cells: 7");
    has_all(&said, &["8 cells", "max_cells: 7"]);
}

#[test]
fn broken_yaml_names_the_line() {
    has_all(&complaint("  repeats: 3", "  repeats: [3"), &["broken.yaml:"]);
}

#[test]
fn a_missing_sweep_file_is_an_input_error() {
    let output = run(["no-such-sweep.yaml"]);
    assert_eq!(output.status.code(), Some(2));
    has_all(&stderr(&output), &["no-such-sweep.yaml"]);
}

#[test]
fn a_missing_model_folder_is_found_by_plan_with_the_path() {
    let folder = Folder::new();
    let file = folder.write(
        "s.yaml",
        "name: s\nmodels: [{label: m, source: ./nowhere}]\nsweep: {batch_size: 1, max_new_tokens: 4}\nprompts: {text: [a]}\n",
    );
    let output = program().arg("plan").arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    has_all(&stderr(&output), &["model `m`: no folder", "nowhere", "hint:"]);
    has_all(&stdout(&output), &["m.b1.n4", "–"]);
}

#[test]
fn every_experiment_can_be_planned_offline() {
    let mut planned = 0;
    for entry in fs::read_dir(repository().join("experiments")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let output = program().arg("plan").arg(&path).env("HF_HUB_OFFLINE", "1").output().unwrap();
            assert!(output.status.success(), "{}: {}", path.display(), stderr(&output));
            planned += 1;
        }
    }
    assert!(planned >= 2);
}

#[test]
fn the_plan_of_the_bundled_study_shows_tokens_memory_and_time() {
    let output = program().arg("plan").arg(experiment("kd.yaml")).output().unwrap();
    let text = stdout(&output);
    has_all(&text, &["teacher.b1.n16", "student-kd.b8.n32", "12 cells × 5 repeats = 60 trials", "MiB"]);
    assert!(!text.contains('–'), "everything is known of local models:\n{text}");
}

#[test]
fn quiet_says_nothing_but_the_path_of_the_report() {
    let folder = Folder::new();
    let out = folder.path("run");
    let output = program().arg("-q").arg(experiment("simulated.yaml")).arg("--out").arg(&out).output().unwrap();
    assert!(output.status.success());
    assert_eq!(stderr(&output), "");
    assert_eq!(stdout(&output).trim(), out.join("report.html").to_str().unwrap());
}

#[test]
fn the_meters_of_this_machine_are_listed_for_people_and_for_programs() {
    let text = stdout(&run(["meter"])).replace('\u{a0}', " ");
    has_all(&text, &["nvml:", "rapl:", "modelled: available", "`meter: auto` takes"]);
    has_all(&text, &["a reading takes", "processor time of this process", "preset quick: 3 repeats, window 500 ms"]);
    let sources: serde_json::Value = serde_json::from_str(&stdout(&run(["meter", "--format", "json"]))).unwrap();
    let modelled = sources.as_array().unwrap().iter().find(|source| source["name"] == "modelled").unwrap();
    assert_eq!((&modelled["available"], &modelled["method"]), (&true.into(), &"modelled".into()));
    let keys: Vec<&str> = modelled.as_object().unwrap().keys().map(String::as_str).collect();
    for key in ["domains", "tick_s", "sources", "gpus", "detail", "how_to_get_it", "presets"] {
        assert!(keys.contains(&key), "{key} in {keys:?}");
    }
    assert_eq!(modelled["presets"].as_array().unwrap().len(), 3);
}

#[test]
fn completions_are_made_for_the_shells() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(stdout(&run(["completions", shell])).contains("ept-sweep"), "{shell}");
    }
}

#[test]
fn a_report_of_a_folder_without_a_run_says_what_is_missing() {
    let folder = Folder::new();
    let output = run(["report".as_ref(), folder.0.as_os_str()]);
    assert_eq!(output.status.code(), Some(2));
    has_all(&stderr(&output), &["no run in", "run.json"]);
}
