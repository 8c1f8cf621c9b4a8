//! A simulated device that warms up: what ran before a window shows in its energy, unless the warm-up waits for the
//! steady state.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{Folder, results, sweep, trials};
use serde_json::Value;

/// A teacher at 300 W and a student at 120 W, each with two batch sizes, in five blocks of random order. From idle to a
/// steady load the teacher warms up by 12 °C and takes 5 % more.
fn run(measure: &str) -> (Folder, std::path::PathBuf) {
    let folder = Folder::new();
    let file = folder.write(
        "heat.yaml",
        &format!(
            "name: heat\n\
             models:\n\
             \x20 - {{label: teacher, role: teacher,\n\
             \x20    source: {{synthetic: {{power_w: 300, step_s: 0.01, heat: {{c_per_w: 0.05}}}}}}}}\n\
             \x20 - {{label: student, role: student, teacher: teacher,\n\
             \x20    source: {{synthetic: {{power_w: 120, step_s: 0.005}}}}}}\n\
             sweep: {{batch_size: [1, 4], max_new_tokens: 32}}\n\
             prompts: {{text: [one, two, three, four]}}\n\
             generation: {{length: fixed}}\n\
             measure: {{repeats: 5{measure}}}\n"
        ),
    );
    let out = folder.path("run");
    sweep(&file, &out);
    (folder, out)
}

/// Energies per token of each cell, one for each block.
fn energies(out: &Path) -> BTreeMap<String, Vec<f64>> {
    let mut cells: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for row in results(out) {
        cells.entry(row["cell"].clone()).or_default().push(row["EPT_out_J_per_tok"].parse().unwrap());
    }
    cells
}

/// Largest over least, less 1.
fn spread(energies: &[f64]) -> f64 {
    let most = energies.iter().copied().fold(f64::MIN, f64::max);
    let least = energies.iter().copied().fold(f64::MAX, f64::min);
    most / least - 1.0
}

fn warnings(trial: &Value) -> Vec<&str> {
    trial["outcome"]["validity"]["warnings"].as_array().unwrap().iter().map(|code| code.as_str().unwrap()).collect()
}

#[test]
fn after_a_short_warm_up_the_energy_of_a_token_depends_on_what_ran_before_and_the_record_says_so() {
    let (_folder, out) = run(", window_s: 5, warmup_s: 2.5, max_warmup_s: 7.5, idle_s: 0");
    let energies = energies(&out);
    // a step takes the same for four sequences as for one
    let steps = |cell: &str, batch: f64| energies[cell].iter().map(move |energy| energy * batch).collect::<Vec<_>>();
    let all = [steps("teacher.b1.n32", 1.0), steps("teacher.b4.n32", 4.0)].concat();
    assert!(spread(&all) > 0.01, "{all:?}");
    let trials = trials(&out);
    let unsteady = trials.iter().filter(|trial| warnings(trial).contains(&"not_steady")).count();
    assert!(unsteady > trials.len() / 2, "{unsteady} of {}", trials.len());
    for trial in &trials {
        // a warm-up that was cut off may still have found the steady state
        let heat = &trial["outcome"]["heat"];
        let share = |key: &str| heat[key].as_f64().map_or(1.0, f64::abs);
        let steady = share("remainder") <= 0.005 && share("remainder_at_most") <= 0.01;
        assert_eq!(!steady, warnings(trial).contains(&"not_steady"), "{heat}");
    }
}

#[test]
fn with_the_default_protocol_it_does_not() {
    let (_folder, out) = run("");
    for (cell, energies) in energies(&out) {
        assert!(energies.len() == 5 && spread(&energies) < 0.01, "{cell}: {energies:?}");
        // 300 W (1 + 0.004 (T - 40 °C)) with T = 40 °C + 0.05 °C/W · P, 10 ms a step
        let (watts, step) = if cell.starts_with("teacher") { (300.0, 0.010) } else { (120.0, 0.005) };
        let batch = if cell.contains(".b4.") { 4.0 } else { 1.0 };
        let steady = watts / (1.0 - 0.004 * 0.05 * watts) * step / batch;
        for energy in energies {
            assert!((energy / steady - 1.0).abs() < 0.006, "{cell}: {energy} of {steady}");
        }
    }
    assert!(trials(&out).iter().all(|trial| warnings(trial).is_empty()));
}

#[test]
fn a_record_holds_the_course_of_the_warm_up_and_the_temperatures_of_the_window() {
    let (_folder, out) = run("");
    let trials = trials(&out);
    let of = |trial: &Value, model: &str| trial["cell"]["model"] == model;
    let first = trials.iter().find(|trial| of(trial, "teacher")).unwrap();
    let cycles = first["outcome"]["heat"]["cycles"].as_array().unwrap();
    let number = |value: &Value, key: &str| value[key].as_f64().unwrap();
    assert!(cycles.len() > 10, "{}", cycles.len());
    let (begin, end) = (&cycles[0], &cycles[cycles.len() - 1]);
    let rise = number(end, "energy_j") / number(begin, "energy_j") - 1.0;
    let warmer = number(end, "temperature_c") - number(begin, "temperature_c");
    assert!(warmer >= 2.0 && rise > 0.0, "{warmer} °C, {rise}");
    // 0.4 % for each °C above 40 °C, a little less above a warm start; whole degrees
    assert!((rise - 0.0038 * warmer).abs() < 0.0045, "{rise} for {warmer} °C");
    for trial in trials.iter().filter(|trial| of(trial, "teacher")) {
        let heat = &trial["outcome"]["heat"];
        assert!(number(heat, "remainder").abs() <= number(heat, "remainder_at_most"));
        assert!(number(heat, "remainder_at_most") <= 2.0 * number(heat, "allowed"));
        let conditions = &trial["outcome"]["conditions"][0];
        assert_eq!(conditions["domain"], "sim0");
        let (start, end) = (number(conditions, "temperature_start_c"), number(conditions, "temperature_end_c"));
        assert!((53.0..=57.0).contains(&start) && (end - start).abs() <= 1.0, "{start} to {end} °C");
    }
}
