//! The real program makes a tiny study, and a sweep reads what it writes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ept_sweep::cli::Cli;
use ept_sweep::cli::exit::Exit;
use ept_sweep::commands::dispatch;
use ept_sweep::console::Console;
use serde_json::Value;

/// A folder that is removed with the value.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// A study of a few steps a model; the students' last longer than the half second that the modelled meter needs, since a
/// sweep refuses a training whose energy isn't valid.
fn study() -> Folder {
    let folder = Folder(std::env::temp_dir().join(format!("bundled-study-program-{}", std::process::id())));
    let arguments = "all --steps-teacher 2 --steps-student 40 --batch 2 --eval-items 4 --out";
    let output =
        Command::new(env!("CARGO_BIN_EXE_bundled-study")).args(arguments.split(' ')).arg(&folder.0).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder
}

/// Runs a sweep over the two students, with the energies of their training; `run.json`.
fn sweep(study: &Path) -> Value {
    let model = |name: &str| {
        format!("  - {{label: {name}, source: ./models/{name}, training: ./models/{name}/training.json}}\n")
    };
    let yaml = format!(
        "name: tiny\nmodels:\n{}{}sweep: {{batch_size: 2, max_new_tokens: 2}}\n\
         prompts: {{file: ./instructions/heldout.jsonl, count: 2}}\n\
         measure: {{meter: modelled, repeats: 1, window_s: 0.2}}\n",
        model("student-kd"),
        model("student-base")
    );
    let (file, out) = (study.join("tiny.yaml"), study.join("run"));
    fs::write(&file, yaml).unwrap();
    let words = ["ept-sweep".into(), file.into(), "--out".into(), out.clone().into(), "--quiet".into()];
    let stop = Arc::new(AtomicBool::new(false));
    let exit = dispatch(Cli::read(words).unwrap(), &Console::new(true), &stop).unwrap();
    assert_eq!(exit, Exit::Done);
    json(&out.join("run.json"))
}

#[test]
fn a_sweep_reads_the_training_energy_that_the_program_writes() {
    let study = study();
    let run = sweep(&study.0);
    for (index, name, stage) in [(0, "student-kd", "student_training"), (1, "student-base", "control_training")] {
        let written = json(&study.0.join(format!("models/{name}/training.json")));
        let read = &run["models"][index]["training"];
        for key in ["recipe", "seconds", "energy_j", "energy_method", "device"] {
            assert!(!written[key].is_null(), "{key}");
            assert_eq!(read[key], written[key], "{key}");
        }
        assert!(written["energy_j"].as_f64().unwrap() > 0.0);
        let stages = written["stages"].as_array().unwrap();
        assert_eq!((stages.len(), stages[0]["name"].as_str()), (1, Some(stage)));
        assert_eq!(stages[0]["energy"]["total_j"], written["energy_j"], "the sum of one stage");
        assert!(stages[0]["idle"]["power_w"].as_f64().unwrap() > 0.0);
        assert!(stages[0]["validity"]["invalid_reasons"].is_array());
        assert_eq!(written["meter"]["method"], written["energy_method"]);
        assert_eq!(written["heldout_n"], 4);
    }
    let control = json(&study.0.join("models/student-base/training.json"));
    assert_eq!((control["recipe"].as_str(), control["steps"].as_u64()), (Some("ce"), Some(40)));
    let preparation = json(&study.0.join("instructions/preparation.json"));
    assert_eq!(preparation["stages"][0]["name"], "data_preparation");
    assert!(preparation["energy_j"].as_f64().unwrap() > 0.0);
}
