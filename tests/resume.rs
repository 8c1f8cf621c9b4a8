//! A run that is killed and started again: nothing is lost and nothing is measured twice.

mod common;

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::{Folder, experiment, program, run, stderr, sweep, trials};

const TRIALS: usize = 400;

/// A sweep of many short trials.
fn long_sweep(folder: &Folder) -> PathBuf {
    folder.write(
        "long.yaml",
        "name: long\nmodels:\n  - label: m\n    source: {synthetic: {power_w: 100, step_s: 0.01}}\n\
         sweep: {batch_size: [1, 2], max_new_tokens: [2, 3]}\nprompts: {text: [a, b, c]}\n\
         measure: {repeats: 100}\n",
    )
}

fn start(file: &Path, out: &Path) -> Child {
    program().arg(file).arg("--out").arg(out).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn wait_for_records(out: &Path, least: usize) {
    let limit = Instant::now() + Duration::from_secs(60);
    while trials(out).len() < least {
        assert!(Instant::now() < limit, "no records within a minute");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn keys(out: &Path) -> Vec<(String, u64)> {
    let trials = trials(out);
    let key = |record: &serde_json::Value| {
        (record["cell"]["id"].as_str().unwrap().to_owned(), record["block"].as_u64().unwrap())
    };
    trials.iter().map(key).collect()
}

#[test]
fn a_killed_run_goes_on_where_it_stopped_without_measuring_a_trial_twice() {
    let folder = Folder::new();
    let (file, out) = (long_sweep(&folder), folder.path("run"));
    for least in [20, 60, 120] {
        let mut child = start(&file, &out);
        wait_for_records(&out, least);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let before = fs::read_to_string(out.join("records.jsonl")).unwrap();
    let whole = &before[..before.rfind('\n').unwrap() + 1];
    let output = sweep(&file, &out);
    assert!(stderr(&output).contains("resuming"), "{}", stderr(&output));
    let after = fs::read_to_string(out.join("records.jsonl")).unwrap();
    assert!(after.starts_with(whole), "what was committed stays as it was");
    let keys = keys(&out);
    assert_eq!(keys.len(), TRIALS);
    assert_eq!(keys.iter().collect::<HashSet<_>>().len(), TRIALS, "no trial twice");
    assert_eq!(fs::read_dir(out.join("samples")).unwrap().count(), TRIALS, "no orphaned and no missing samples");
    let generations = fs::read_to_string(out.join("generations.jsonl")).unwrap();
    assert_eq!(generations.lines().count(), 4 * 3, "each prompt of each cell once");
}

#[test]
fn a_torn_last_record_is_dropped_and_measured_again() {
    let folder = Folder::new();
    let (file, out) = (experiment("simulated.yaml"), folder.path("run"));
    sweep(&file, &out);
    let path = out.join("records.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text[..text.len() - 40]).unwrap();
    sweep(&file, &out);
    let keys = keys(&out);
    assert_eq!((keys.len(), keys.iter().collect::<HashSet<_>>().len()), (24, 24));
}

#[test]
fn a_continued_run_keeps_its_seed_and_its_order_and_a_new_run_draws_another_seed() {
    let folder = Folder::new();
    let (file, out) = (experiment("simulated.yaml"), folder.path("run"));
    let seed = |out: &Path| {
        let run: serde_json::Value = serde_json::from_str(&fs::read_to_string(out.join("run.json")).unwrap()).unwrap();
        run["protocol"]["seed"].as_u64().unwrap()
    };
    sweep(&file, &out);
    let (drawn, order) = (seed(&out), keys(&out));
    let path = out.join("records.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let begun: String = text.lines().take(8).map(|line| format!("{line}\n")).collect();
    fs::write(&path, begun).unwrap();
    sweep(&file, &out);
    assert_eq!((seed(&out), keys(&out)), (drawn, order));
    assert!(fs::read_to_string(out.join("report.md")).unwrap().contains(&format!("seed {drawn}")));
    let other = folder.path("other");
    sweep(&file, &other);
    assert_ne!(seed(&other), drawn);
}

#[test]
fn a_finished_run_measures_nothing_again_and_says_so() {
    let folder = Folder::new();
    let out = folder.path("run");
    sweep(&experiment("simulated.yaml"), &out);
    let before = fs::read(out.join("records.jsonl")).unwrap();
    let output = sweep(&experiment("simulated.yaml"), &out);
    assert!(stderr(&output).contains("all 24 trials are measured already"), "{}", stderr(&output));
    assert_eq!(fs::read(out.join("records.jsonl")).unwrap(), before);
}

#[test]
fn another_sweep_never_overwrites_a_run() {
    let folder = Folder::new();
    let out = folder.path("run");
    sweep(&experiment("simulated.yaml"), &out);
    let output = program().arg(long_sweep(&folder)).arg("--out").arg(&out).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("another version of this sweep"), "{}", stderr(&output));
    assert!(stderr(&output).contains("--fresh"));
}

#[test]
fn comments_and_layout_do_not_make_another_sweep() {
    let folder = Folder::new();
    let out = folder.path("run");
    let file = folder.path("same.yaml");
    let text = fs::read_to_string(experiment("simulated.yaml")).unwrap();
    fs::write(&file, &text).unwrap();
    sweep(&file, &out);
    fs::write(&file, format!("# a new comment\n\n{text}")).unwrap();
    assert!(stderr(&sweep(&file, &out)).contains("measured already"));
}

#[test]
fn fresh_moves_the_old_run_aside_and_keeps_it() {
    let folder = Folder::new();
    let out = folder.path("run");
    sweep(&experiment("simulated.yaml"), &out);
    let old = fs::read(out.join("records.jsonl")).unwrap();
    let output = program().arg(experiment("simulated.yaml")).arg("--fresh").arg("--out").arg(&out).output().unwrap();
    assert!(output.status.success());
    assert_eq!(fs::read(folder.path("run.1").join("records.jsonl")).unwrap(), old);
    assert_eq!(trials(&out).len(), 24);
}

#[test]
fn a_folder_of_somebody_else_is_left_alone() {
    let folder = Folder::new();
    folder.write("thesis.tex", "important");
    let output = run([experiment("simulated.yaml").as_os_str(), "--out".as_ref(), folder.0.as_os_str()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("thesis.tex"), "{}", stderr(&output));
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1);
}

#[test]
fn fresh_never_moves_a_folder_that_holds_no_run() {
    let folder = Folder::new();
    folder.write("thesis.tex", "important");
    let mut command = program();
    let output = command.arg(experiment("simulated.yaml")).arg("--fresh").arg("--out").arg(&folder.0).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(folder.path("thesis.tex").exists(), "{}", stderr(&output));
}

#[test]
fn files_of_others_beside_the_samples_are_kept() {
    let folder = Folder::new();
    let out = folder.path("run");
    sweep(&experiment("simulated.yaml"), &out);
    fs::write(out.join("samples/notes.txt"), "mine").unwrap();
    fs::create_dir(out.join("samples/plots")).unwrap();
    fs::write(out.join("samples/0123456789abcdef.parquet"), "an orphan of a killed start").unwrap();
    sweep(&experiment("simulated.yaml"), &out);
    assert!(out.join("samples/notes.txt").exists() && out.join("samples/plots").exists());
    assert!(!out.join("samples/0123456789abcdef.parquet").exists());
}

#[test]
fn changed_prompts_are_not_pooled_with_the_old_ones() {
    let folder = Folder::new();
    let out = folder.path("run");
    folder.write("prompts.txt", "one two\nthree\n");
    let file = folder.write(
        "s.yaml",
        "name: s\nmodels:\n  - label: m\n    source: {synthetic: {power_w: 100, step_s: 0.01}}\n\
         sweep: {batch_size: 1, max_new_tokens: 2}\nprompts: {file: prompts.txt}\nmeasure: {repeats: 2}\n",
    );
    sweep(&file, &out);
    folder.write("prompts.txt", "one two\nthree four\n");
    let output = program().arg(&file).arg("--out").arg(&out).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("the prompts have changed"), "{}", stderr(&output));
}

#[test]
fn a_damaged_samples_file_costs_one_line_of_a_figure_not_the_report() {
    let folder = Folder::new();
    let out = folder.path("run");
    sweep(&experiment("simulated.yaml"), &out);
    for entry in fs::read_dir(out.join("samples")).unwrap() {
        fs::write(entry.unwrap().path(), "torn").unwrap();
    }
    let output = run(["report".as_ref(), out.as_os_str()]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("left out of the power figure"), "{}", stderr(&output));
}

#[test]
fn only_runs_the_cells_that_match_and_a_second_start_runs_the_rest() {
    let folder = Folder::new();
    let out = folder.path("run");
    let arguments = |only: &str| {
        let mut command = program();
        command.arg(experiment("simulated.yaml")).arg("--out").arg(&out);
        if !only.is_empty() {
            command.args(["--only", only]);
        }
        command.output().unwrap()
    };
    assert!(arguments("student.*").status.success());
    assert_eq!(trials(&out).len(), 12);
    assert!(arguments("").status.success());
    assert_eq!(trials(&out).len(), 24);
    assert_eq!(arguments("nothing.*").status.code(), Some(2));
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_the_run_cleanly_with_a_report_of_what_is_done() {
    let folder = Folder::new();
    let (file, out) = (long_sweep(&folder), folder.path("run"));
    let mut child = start(&file, &out);
    wait_for_records(&out, 10);
    // SAFETY: the child is ours and not yet waited for, so its id is its own
    assert_eq!(unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) }, 0);
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert!(out.join("report.html").exists());
    let done = trials(&out).len();
    assert!((10..TRIALS).contains(&done), "{done} trials were done");
    sweep(&file, &out);
    assert_eq!(keys(&out).iter().collect::<HashSet<_>>().len(), TRIALS);
}

#[test]
fn repeats_go_on_while_intervals_are_wide_up_to_the_most_that_are_allowed() {
    let folder = Folder::new();
    let (out, model) = (folder.path("run"), common::repository().join("data/models/student-kd"));
    // processor time never agrees to a hundred-thousandth of a percent
    let file = folder.write(
        "wide.yaml",
        &format!(
            "name: wide\nmodels: [{{label: m, source: {}}}]\nsweep: {{batch_size: [1, 2], max_new_tokens: 4}}\n\
             prompts: {{text: [one, two]}}\ngeneration: {{length: fixed}}\nmeasure: {{meter: modelled, repeats: 2, \
             max_repeats: 4, half_width: 0.0000001, window_s: 0.5, warmup_s: 0, idle_s: 0}}\n",
            model.display()
        ),
    );
    sweep(&file, &out);
    let blocks: Vec<u64> = trials(&out).iter().map(|trial| trial["block"].as_u64().unwrap()).collect();
    assert_eq!(blocks, [0, 0, 1, 1, 2, 2, 3, 3]);
    assert!(stderr(&sweep(&file, &out)).contains("all 8 trials are measured already"));
}
