//! What training a model took, as a JSON file says: one that `ept-sweep meter` wrote, one of the bundled study, or one
//! written by hand.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Context, Error, Result};
use crate::record::{Reason, TrainingCost, TrainingStage};
use crate::units::{Joules, Seconds};

/// Reads a training record.
///
/// # Errors
/// The file can't be read or says nothing of a cost; or the training failed, or its energy isn't valid, and the file
/// has no `accepted` that says why it is used all the same.
pub(crate) fn training(path: &Path) -> Result<TrainingCost> {
    let what = || format!("can't read the training record `{}`", path.display());
    let text = fs::read_to_string(path).input_context(what)?;
    let mut record: Map<String, Value> = serde_json::from_str(&text).input_context(what)?;
    let fault = fault(&record);
    let stages = stages(&mut record);
    let cost: TrainingCost = serde_json::from_value(Value::Object(record)).input_context(what)?;
    let usable = |value: f64| value.is_finite() && value >= 0.0;
    let (time, energy) = (cost.duration_s.map(Seconds::get), cost.energy_j.map(Joules::get));
    let known: Vec<f64> = [time, energy].into_iter().flatten().collect();
    if known.is_empty() || !known.into_iter().all(usable) {
        return Err(Error::input(format!("{}: not a training record", path.display()))
            .with_hint("it needs `seconds`, or `energy_j` and `energy_method` if the energy was measured"));
    }
    let accepted = cost.accepted.filter(|why| !why.trim().is_empty());
    match fault {
        Some(fault) if accepted.is_none() => Err(Error::input(format!("{}: {fault}", path.display())).with_hint(
            "measure the training again; or, if the numbers are right all the same, say why in the file: \
             `\"accepted\": \"…\"`, which the report repeats",
        )),
        _ => Ok(TrainingCost { stages, accepted, ..cost }),
    }
}

/// Why the numbers aren't the cost of the training, if the file says so.
fn fault(record: &Map<String, Value>) -> Option<String> {
    let number = |key| record.get(key).and_then(Value::as_i64);
    if let Some(signal) = number("signal") {
        return Some(format!("the training was ended by signal {signal}"));
    }
    if let Some(code) = number("exit_code").filter(|code| *code != 0) {
        return Some(format!("the training failed with exit code {code}"));
    }
    let reasons = record.get("validity").and_then(|validity| validity.get("invalid_reasons")?.as_array());
    let words = |code: &Value| {
        let code = code.as_str().unwrap_or_default();
        Reason::from_code(code).map_or(code, |reason| reason.words()).to_owned()
    };
    let reasons: Vec<String> = reasons.into_iter().flatten().map(words).collect();
    let invalid = !reasons.is_empty() || record.get("valid") == Some(&Value::Bool(false));
    let why = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
    invalid.then(|| format!("the energy of the training isn't valid{why}"))
}

/// The stages, by name if the record adds them up so; those that a record of another kind calls stages are left out.
fn stages(record: &mut Map<String, Value>) -> Vec<TrainingStage> {
    let listed = record.remove("stages");
    let stages = record.remove("by_stage").or(listed);
    let stages = stages.as_ref().and_then(Value::as_array);
    let mut found: Vec<TrainingStage> = Vec::new();
    for stage in stages.into_iter().flatten().filter_map(stage) {
        match found.iter_mut().find(|known| known.name == stage.name) {
            Some(known) => {
                known.duration_s = known.duration_s.zip(stage.duration_s).map(|(a, b)| a + b);
                known.energy_j = known.energy_j.zip(stage.energy_j).map(|(a, b)| a + b);
            }
            None => found.push(stage),
        }
    }
    found
}

/// A stage as `ept-sweep meter` writes it, or as the bundled study does.
fn stage(value: &Value) -> Option<TrainingStage> {
    let usable = |value: &Value| value.as_f64().filter(|value| value.is_finite() && *value >= 0.0);
    let number = |keys: [&str; 2]| keys.into_iter().find_map(|key| usable(value.pointer(key)?));
    Some(TrainingStage {
        name: value.get("name")?.as_str()?.to_owned(),
        duration_s: number(["/seconds", "/duration_s"]).map(Seconds),
        energy_j: number(["/energy_j", "/energy/total_j"]).map(Joules),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::EnergyMethod;

    fn read(name: &str, text: &str) -> Result<TrainingCost> {
        let path = std::env::temp_dir().join(format!("ept-sweep-training-{name}-{}.json", std::process::id()));
        fs::write(&path, text).unwrap();
        let cost = training(&path);
        fs::remove_file(path).unwrap();
        cost
    }

    fn stage(name: &str, seconds: Option<f64>, joules: Option<f64>) -> TrainingStage {
        TrainingStage { name: name.into(), duration_s: seconds.map(Seconds), energy_j: joules.map(Joules) }
    }

    #[test]
    fn a_record_of_a_metered_command_is_read_with_its_stages_by_name() {
        let text = r#"{"command": ["train"], "exit_code": 0, "signal": null, "seconds": 12, "energy_j": 900,
            "energy_method": "counter", "device": "a GPU", "validity": {"invalid_reasons": [], "warnings": []},
            "stages": [{"name": "epoch", "seconds": 3, "energy_j": 200}],
            "by_stage": [{"name": "epoch", "times": 2, "seconds": 6, "energy_j": 450, "net_energy_j": 1},
            {"name": "save", "times": 1, "seconds": 0.5, "energy_j": null}]}"#;
        let cost = read("metered", text).unwrap();
        let expected = [stage("epoch", Some(6.0), Some(450.0)), stage("save", Some(0.5), None)];
        assert_eq!(cost.stages, expected);
        assert_eq!((cost.energy_j, cost.energy_method), (Some(Joules(900.0)), Some(EnergyMethod::Counter)));
        let again: TrainingCost = serde_json::from_str(&serde_json::to_string(&cost).unwrap()).unwrap();
        assert_eq!(again, cost, "it comes back from run.json");
    }

    #[test]
    fn records_of_other_kinds_stay_readable_whatever_else_they_hold() {
        let text = r#"{"seconds": 1.5, "command": "cargo run", "stages": "three", "valid": true, "stderr": 0.01}"#;
        let cost = read("old", text).unwrap();
        assert_eq!((cost.duration_s, cost.stages), (Some(Seconds(1.5)), vec![]));
        let study = r#"{"seconds": 7, "energy_j": 30, "stages": [
            {"name": "a", "duration_s": 2, "energy": {"total_j": 10}}, {"odd": 1},
            {"name": "b", "duration_s": 3, "energy": {"total_j": 15}},
            {"name": "a", "duration_s": 2, "energy": {"total_j": null}}]}"#;
        let expected = [stage("a", Some(4.0), None), stage("b", Some(3.0), Some(15.0))];
        assert_eq!(read("study", study).unwrap().stages, expected);
        assert!(!serde_json::to_string(&cost_of(7.0)).unwrap().contains("stages"), "as before, if there are none");
    }

    fn cost_of(seconds: f64) -> TrainingCost {
        TrainingCost { duration_s: Some(Seconds(seconds)), ..TrainingCost::default() }
    }

    #[test]
    fn a_training_that_failed_or_was_measured_badly_is_refused_until_its_author_says_why_it_counts() {
        for (name, keys, words) in [
            ("failed", r#""exit_code": 3"#, "the training failed with exit code 3"),
            ("killed", r#""exit_code": null, "signal": 9"#, "the training was ended by signal 9"),
            (
                "invalid",
                r#""validity": {"invalid_reasons": ["throttled", "new_code"], "warnings": []}"#,
                "the energy of the training isn't valid (throttled, new_code)",
            ),
            ("study", r#""valid": false"#, "the energy of the training isn't valid"),
        ] {
            let text = format!(r#"{{"seconds": 5, "energy_j": 10, {keys}}}"#);
            let error = read(name, &text).unwrap_err();
            assert!(error.message().ends_with(words), "{}", error.message());
            assert!(error.hint().unwrap().contains("accepted"));
            let accepted = text.replacen('{', r#"{"accepted": "the GPU was alone","#, 1);
            assert_eq!(read(name, &accepted).unwrap().accepted.as_deref(), Some("the GPU was alone"));
            let silent = text.replacen('{', r#"{"accepted": " ","#, 1);
            assert!(read(name, &silent).is_err(), "an empty reason is none");
        }
    }

    #[test]
    fn a_file_without_a_cost_is_no_training_record() {
        for text in ["{}", "[]", r#"{"seconds": -1}"#, r#"{"energy_j": "many"}"#, "{"] {
            assert!(read("none", text).is_err(), "{text}");
        }
    }
}
