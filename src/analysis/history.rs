//! What the trials of an earlier run say about a further one: times, and how far repeats agree.

use std::collections::BTreeMap;

use crate::analysis::detectable::pooled_spread;
use crate::record::{CellId, CellSpec, Outcome, Trial};
use crate::units::{JoulesPerToken, Seconds};

/// Mean times of a run's measured trials.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Times {
    /// Loading a model, by its label.
    pub(crate) load_s: BTreeMap<String, Seconds>,
    /// One pass over the prompts, by cell.
    pub(crate) pass_s: BTreeMap<CellId, Seconds>,
}

/// Energy per output token of a trial that counts in its cell's estimate: one that is measured and valid, of a cell
/// that isn't a probe.
pub(crate) fn counted(cell: &CellSpec, outcome: &Outcome) -> Option<JoulesPerToken> {
    match outcome {
        Outcome::Measured(measurement) if measurement.validity.is_valid() && !cell.probe => measurement.ept_out(),
        _ => None,
    }
}

/// Means of the times of loading and of passes.
pub(crate) fn times(trials: &[Trial]) -> Times {
    let (mut loads, mut passes): (BTreeMap<String, Vec<Seconds>>, BTreeMap<CellId, Vec<Seconds>>) = Default::default();
    for trial in trials {
        let Outcome::Measured(measurement) = &trial.outcome else { continue };
        let window = &measurement.window;
        let pass = window.duration().get() / f64::from(window.passes.max(1));
        loads.entry(trial.cell.model.clone()).or_default().push(measurement.load.duration_s);
        passes.entry(trial.cell.id.clone()).or_default().push(Seconds(pass));
    }
    let mean = |times: Vec<Seconds>| Seconds(times.iter().copied().sum::<Seconds>().get() / times.len() as f64);
    Times {
        load_s: loads.into_iter().map(|(label, times)| (label, mean(times))).collect(),
        pass_s: passes.into_iter().map(|(cell, times)| (cell, mean(times))).collect(),
    }
}

/// Relative standard deviation between the repeats of a cell, pooled over the cells ([`pooled_spread`]).
///
/// `None` without repeats, and without any variation: only a simulated device doesn't vary, which says nothing about
/// real ones.
pub(crate) fn spread(trials: &[Trial]) -> Option<f64> {
    const NO_VARIATION: f64 = 1e-6;
    let mut cells: BTreeMap<&CellId, Vec<f64>> = BTreeMap::new();
    for trial in trials {
        if let Some(ept) = counted(&trial.cell, &trial.outcome) {
            cells.entry(&trial.cell.id).or_default().push(ept.get());
        }
    }
    pooled_spread(&cells.into_values().collect::<Vec<_>>()).filter(|spread| *spread > NO_VARIATION)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use crate::record::{Cost, FORMAT, Measurement, Reason, Validity, Window, WindowEnergy};
    use crate::units::{Joules, Tokens};

    /// A trial of 100 output tokens in a window of `passes` passes and 10 s.
    fn trial(cell: &str, energy_j: f64, passes: u32, load_s: f64) -> Trial {
        let cell = CellSpec { id: CellId(cell.into()), ..fixtures::cell("m", 1, 8) };
        let measurement = Measurement {
            window: Window {
                t0_s: Seconds(5.0),
                t1_s: Seconds(15.0),
                passes,
                batches: passes,
                prompts: passes,
                decode_steps: None,
                decode_s: None,
                offset_s: Seconds(0.0),
            },
            tokens_in: Tokens(10),
            tokens_out: Tokens(100),
            tokens_pad: Tokens(0),
            output_bytes: None,
            energy: WindowEnergy { total_j: Some(Joules(energy_j)), ..WindowEnergy::default() },
            idle: None,
            load: Cost { duration_s: Seconds(load_s), ..Cost::default() },
            warmup: Cost::default(),
            validity: Validity::default(),
            conditions: vec![],
            phases: None,
            heat: None,
        };
        let outcome = Outcome::Measured(Box::new(measurement));
        Trial { format: FORMAT, cell, block: 0, part: 0, started_at: String::new(), outcome }
    }

    fn invalid(mut trial: Trial) -> Trial {
        if let Outcome::Measured(measurement) = &mut trial.outcome {
            measurement.validity.invalid_reasons.push(Reason::WindowTooShort);
        }
        trial
    }

    #[test]
    fn loads_and_passes_are_means_over_all_measured_trials() {
        let failed = Outcome::Skipped { message: "doesn't fit".into() };
        let failed = Trial { outcome: failed, ..trial("a", 1.0, 1, 99.0) };
        let found =
            times(&[trial("a", 1.0, 2, 3.0), invalid(trial("a", 1.0, 5, 4.0)), trial("b", 1.0, 1, 8.0), failed]);
        assert_eq!(found.load_s, [("m".to_owned(), Seconds(5.0))].into());
        let pass = |cell: &str, seconds| (CellId(cell.into()), Seconds(seconds));
        assert_eq!(found.pass_s, [pass("a", 3.5), pass("b", 10.0)].into());
    }

    #[test]
    fn only_valid_trials_of_cells_that_are_no_probes_count() {
        let counts = |trial: &Trial| counted(&trial.cell, &trial.outcome);
        let mut probe = trial("a", 50.0, 1, 0.0);
        probe.cell.probe = true;
        assert_eq!(counts(&trial("a", 50.0, 1, 0.0)), Some(JoulesPerToken(0.5)));
        assert_eq!((counts(&invalid(trial("a", 50.0, 1, 0.0))), counts(&probe)), (None, None));
    }

    #[test]
    fn a_device_that_never_varies_says_nothing_about_the_spread() {
        let run = |energies: [f64; 3]| energies.map(|energy| trial("a", energy, 1, 0.0));
        assert_eq!(spread(&run([50.0, 50.0, 50.0])), None);
        // logarithms of ± 1 %
        let found = spread(&run([49.5, 50.0, 50.5])).unwrap();
        assert!((found - 0.01).abs() < 1e-4, "{found}");
    }
}
