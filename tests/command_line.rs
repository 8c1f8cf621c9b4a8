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
fn a_wrong_type_is_shown_where_it_stands() {
    let said = complaint("  repeats: 3", "  repeats: three");
    has_all(&said, &["broken.yaml:34:12", "measure.repeats", "invalid type: string \"three\""]);
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

/// A reader that goes away ends the program, without a word about it.
#[cfg(unix)]
#[test]
fn a_plan_whose_reader_goes_away_ends_quietly() {
    let mut child = program()
        .arg("plan")
        .arg(experiment("simulated.yaml"))
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(!stderr(&output).contains("panicked"), "{}", stderr(&output));
}

#[test]
fn an_empty_axis_is_refused() {
    has_all(&complaint("batch_size: [1, 4]", "batch_size: []"), &["broken.yaml:19:15", "empty axis"]);
}

#[test]
fn a_zero_and_a_repeated_value_on_an_axis_are_refused() {
    has_all(&complaint("batch_size: [1, 4]", "batch_size: [0, 4]"), &["0 on an axis"]);
    has_all(&complaint("batch_size: [1, 4]", "batch_size: [4, 4]"), &["stands twice"]);
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
