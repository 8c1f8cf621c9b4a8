//! The published runs: their energies can be computed again from the samples that lie beside them.

mod common;

use std::fs;

use common::{repository, run, stderr, stdout};
use serde_json::Value;

#[test]
fn every_energy_of_a_published_run_is_confirmed_by_its_samples() {
    let root = repository().join("reports/published/h100-heat");
    let mut runs: Vec<_> = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).collect();
    runs.sort();
    assert!(runs.len() >= 4, "{runs:?}");
    for path in runs {
        let output = run(["recompute".as_ref(), path.as_os_str(), "--format".as_ref(), "json".as_ref()]);
        let found: Value =
            serde_json::from_str(&stdout(&output)).unwrap_or_else(|why| panic!("{why}: {}", stderr(&output)));
        let trials = found["trials"].as_array().unwrap();
        assert!(trials.len() >= 4, "{}", path.display());
        for trial in trials {
            assert_eq!(trial["stored_j"], trial["recomputed_j"], "{}: {trial}", path.display());
        }
    }
}
