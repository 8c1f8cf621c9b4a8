//! The operations that models run on, through the real binary: chosen by the sweep file, recorded, reported, and never
//! mixed in a comparison.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use common::{Folder, program, repository, results, run, stderr, stdout};
use serde_json::Value;

/// Two bundled models on the modelled meter; `student` and `engine` are added to the student and to the file.
fn study(folder: &Folder, name: &str, student: &str, engine: &str) -> PathBuf {
    let data = repository().join("data");
    folder.write(
        name,
        &format!(
            "name: small\nmodels:\n  - {{label: teacher, source: {0}/models/teacher, role: teacher, dtype: f32}}\n  \
             - {{label: kd, source: {0}/models/student-kd, role: student, teacher: teacher, {student}}}\n\
             sweep: {{batch_size: 2, max_new_tokens: 4}}\nprompts: {{text: [a plain prompt, another one]}}\n\
             generation: {{length: fixed}}\nmeasure: {{meter: modelled, repeats: 2, window_s: 0.5}}\n{engine}",
            data.display()
        ),
    )
}

fn start(file: &Path, out: &Path) -> Output {
    program().arg(file).args(["--device", "cpu", "--out"]).arg(out).output().unwrap()
}

fn sweep(file: &Path, out: &Path) -> Output {
    let output = start(file, out);
    assert!(output.status.success(), "{}", stderr(&output));
    output
}

fn run_info(out: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(out.join("run.json")).unwrap()).unwrap()
}

fn write_run_info(out: &Path, info: &Value) {
    fs::write(out.join("run.json"), info.to_string()).unwrap();
}

fn kernels(out: &Path) -> Vec<(String, Value)> {
    let models = run_info(out)["parts"][0]["models"].as_object().unwrap().clone();
    models.into_iter().map(|(label, info)| (label, info["kernels"].clone())).collect()
}

fn report(out: &Path) -> String {
    let text = fs::read_to_string(out.join("report.md")).unwrap();
    text.replace(['\u{a0}', '\u{202f}'], " ").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn diff(arguments: &[&str]) -> Value {
    let output = run(["diff", "--format", "json"].iter().chain(arguments));
    assert!(output.status.success(), "{}", stderr(&output));
    serde_json::from_str(&stdout(&output)).unwrap()
}

fn refused(file: &Path, out: &Path) -> String {
    let output = start(file, out);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    stderr(&output)
}

#[test]
fn a_sweep_file_chooses_the_operations_and_record_results_and_report_name_them() {
    let folder = Folder::new();
    let f32 = "dtype: f32";
    for (engine, code, words) in
        [("", "cpu", "CPU kernels"), ("engine: {kernels: plain}\n", "plain", "plain operations")]
    {
        let out = folder.path(code);
        let output = sweep(&study(&folder, "small.yaml", f32, engine), &out);
        assert_eq!(kernels(&out), [("kd".to_owned(), code.into()), ("teacher".to_owned(), code.into())]);
        assert!(results(&out).iter().all(|row| row["kernels"] == code));
        assert!(report(&out).contains(&format!("All models ran on {words}: ")), "{}", report(&out));
        assert!(!stderr(&output).contains("plain operations"), "what was asked for is no reason to warn");
        let saving = diff(&[out.to_str().unwrap(), "--base", "teacher", "--new", "kd"]);
        assert!(saving["rows"][0]["saving"]["value"].is_f64(), "models on the same operations are compared: {saving}");
    }
}

#[test]
fn a_fallback_is_announced_recorded_and_explained_and_its_model_is_not_compared_with_others() {
    let folder = Folder::new();
    let out = folder.path("run");
    let output = sweep(&study(&folder, "small.yaml", "dtype: f16", ""), &out);
    let why = "the CPU kernels run in f32, not in f16";
    let warning = format!("model `kd` runs on plain operations, which are slower: {why}");
    assert_eq!(stderr(&output).matches(&warning).count(), 1, "once for all blocks:\n{}", stderr(&output));
    assert_eq!(run_info(&out)["parts"][0]["models"]["kd"]["fallback"], Value::from(vec![why]));
    assert_eq!(run_info(&out)["parts"][0]["models"]["teacher"].get("fallback"), None);
    let report = report(&out);
    for sentence in [
        "The energies of kd and teacher are not compared: one of the two ran on plain operations",
        "kd ran on plain operations: ",
        "teacher ran on CPU kernels: ",
        &format!("On plain operations instead, and the reason: kd ({why})."),
        &format!("plain operations, since {why}"),
        "plain operations on one side only",
    ] {
        assert!(report.contains(sentence), "{sentence}\n\n{report}");
    }
    let saving = diff(&[out.to_str().unwrap(), "--base", "teacher", "--new", "kd"]);
    for judged in [&saving["rows"][0], &saving["overall"][0]] {
        assert_eq!((&judged["verdict"], &judged["saving"]), (&"inconclusive".into(), &Value::Null));
        assert_eq!(judged["undecided"], "unlike_kernels");
    }
    assert!(saving["rows"][0]["new_ept_out_j"]["value"].is_f64(), "each side is known by itself");
}

#[test]
fn runs_on_plain_operations_and_on_kernels_are_not_compared_unless_their_devices_differ_or_the_record_is_older() {
    let folder = Folder::new();
    let (plain, auto) = (folder.path("plain"), folder.path("auto"));
    sweep(&study(&folder, "plain.yaml", "dtype: f32", "engine: {kernels: plain}\n"), &plain);
    sweep(&study(&folder, "auto.yaml", "dtype: f32", ""), &auto);
    let undecided = || diff(&[plain.to_str().unwrap(), auto.to_str().unwrap()])["rows"][0]["undecided"].clone();
    assert_eq!(undecided(), "unlike_kernels");
    let text = stdout(&run(["diff", plain.to_str().unwrap(), auto.to_str().unwrap()]));
    assert!(text.contains("inconclusive (plain operations on one side only)"), "{text}");

    let recorded = run_info(&auto);
    let with = |key: &str, value: Value| {
        let mut info = recorded.clone();
        for model in info["parts"][0]["models"].as_object_mut().unwrap().values_mut() {
            model[key] = value.clone();
        }
        write_run_info(&auto, &info);
    };
    with("device", "cuda:0".into());
    assert_eq!(undecided(), "one_run_a_side", "a GPU against a CPU is a comparison of devices");
    with("kernels", Value::Null);
    assert_eq!(undecided(), "one_run_a_side", "an older record doesn't say");
}

#[test]
fn a_run_goes_on_only_on_the_operations_that_it_began_on() {
    let folder = Folder::new();
    let out = folder.path("run");
    let auto = study(&folder, "auto.yaml", "dtype: f32", "");
    sweep(&auto, &out);
    let plain = study(&folder, "plain.yaml", "dtype: f32", "engine: {kernels: plain}\n");
    assert!(refused(&plain, &out).contains("another version of this sweep"));
    let stated = study(&folder, "stated.yaml", "dtype: f32", "engine: {kernels: auto}\n");
    assert!(stderr(&sweep(&stated, &out)).contains("measured already"), "the default may be stated");

    let records = fs::read_to_string(out.join("records.jsonl")).unwrap();
    let begun: String = records.lines().take(3).map(|line| format!("{line}\n")).collect();
    fs::write(out.join("records.jsonl"), begun).unwrap();
    let mut info = run_info(&out);
    info["parts"][0]["models"]["kd"]["kernels"] = "plain".into();
    info["parts"][0]["models"]["teacher"]["kernels"] = "plain".into();
    write_run_info(&out, &info);
    assert!(refused(&auto, &out).contains("its files, dtype, device or kernels differ"));
}

#[test]
fn a_wrong_choice_of_operations_is_shown_in_the_file() {
    let folder = Folder::new();
    let f32 = "dtype: f32";
    for (engine, words) in [
        ("engine: {kernel: plain}\n", ["unknown key `kernel` in `engine`", "did you mean `kernels`?"]),
        ("engine: {kernels: plane}\n", ["unknown value `plane` in `engine.kernels`", "did you mean `plain`?"]),
        ("engine: {kernels: gpu}\n", ["unknown value `gpu` in `engine.kernels`", "known here: auto, plain"]),
        ("engines: {kernels: plain}\n", ["unknown key `engines`", "did you mean `engine`?"]),
    ] {
        let message = refused(&study(&folder, "wrong.yaml", f32, engine), &folder.path("run"));
        for word in words.iter().chain(&["wrong.yaml:9:"]) {
            assert!(message.contains(word), "{message}\nlacks {word}");
        }
    }
    let simulated = folder.write(
        "simulated.yaml",
        "name: s\nmodels:\n  - label: m\n    source: {synthetic: {power_w: 100, step_s: 0.01}}\n\
         sweep: {batch_size: 1, max_new_tokens: 2}\nprompts: {text: [a]}\nengine: {kernels: plain}\n",
    );
    let message = refused(&simulated, &folder.path("run"));
    assert!(message.contains("simulated.yaml:7:19: `kernels: plain` with the simulated model `m`"), "{message}");
    assert!(message.contains("hint: remove it: a simulated model runs on no kernels"), "{message}");
}
