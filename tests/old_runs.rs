//! A run directory that an earlier version wrote is read, and gives the numbers that it gave then.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Folder, repository, results, run, stderr, stdout};
use ept_sweep::store;
use serde_json::Value;

/// Columns of `results.csv` that are called otherwise since then.
const RENAMED: [(&str, &str); 2] = [("phase_s", "offset_s"), ("throttle", "clock_events")];

/// The cell whose raw samples are kept, in two blocks.
const WITH_SAMPLES: &str = "teacher.b1.n8";

fn stored() -> PathBuf {
    repository().join("tests/golden/run_format_2")
}

/// A copy of the run, since a report is written into it, without the results of then.
fn copied() -> Folder {
    let folder = Folder::new();
    copy(&stored(), &folder.0);
    fs::remove_file(folder.path("results.csv")).unwrap();
    folder
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for path in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        let copied = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &copied);
        } else {
            fs::copy(&path, &copied).unwrap();
        }
    }
}

#[test]
fn a_run_of_format_2_is_read_with_all_its_trials_and_baselines() {
    let run = store::read(&stored()).unwrap();
    assert_eq!(run.info.format, 2);
    assert_eq!((run.trials.len(), run.baselines.len()), (24, 12));
    assert!(run.trials.iter().all(|trial| trial.measurement().is_some_and(|measured| measured.validity.is_valid())));
    assert_eq!(store::read_generations(&stored()).unwrap().len(), 32);
}

#[test]
fn a_report_of_a_run_of_format_2_writes_the_results_of_then_under_the_names_of_now() {
    let folder = copied();
    let output = run(["report".as_ref(), folder.0.as_os_str()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let (then, now) = (results(&stored()), results(&folder.0));
    assert_eq!(then.len(), now.len());
    for (then, now) in then.iter().zip(&now) {
        for (column, value) in then {
            let name = RENAMED.iter().find(|(old, _)| old == column).map_or(column.as_str(), |(_, new)| new);
            assert_eq!(now.get(name), Some(value), "{} block {}: `{name}`", then["cell"], then["block"]);
        }
    }
}

#[test]
fn recomputing_a_run_of_format_2_confirms_every_energy_whose_samples_are_kept() {
    let folder = copied();
    let out = folder.0.to_str().unwrap();
    let output = run(["recompute", out, "--only", WITH_SAMPLES, "--format", "json"]);
    // the other blocks of the cell have no samples here, which is no difference
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let found: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!((&found["same_energy"], &found["different"]), (&2.into(), &0.into()));
    for row in found["trials"].as_array().unwrap() {
        assert_eq!((&row["recomputed_j"], &row["stored_j"]), (&96.0.into(), &96.0.into()), "{row}");
    }
}
