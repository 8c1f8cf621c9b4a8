//! After how many output tokens a distillation has paid for itself.
//!
//! N = E_training / s, with s the energy saved per output token. The training energy is one number without a spread,
//! so Fieller's interval (Fieller 1954) of the ratio, {N: |E/N − s| ≤ t·SE(s)}, is the reciprocal of the interval
//! [a, b] of s:
//!
//! | s | a | result |
//! |---|---|---|
//! | > 0 | > 0 | E/s in [E/b, E/a] |
//! | > 0 | ≤ 0 | E/s in [E/b, ∞): it may never pay |
//! | > 0 | unknown (n = 1) | E/s without an interval |
//! | ≤ 0 | any | never |

use crate::record::{EnergyMethod, TrainingCost};
use crate::stats::{Estimate, Interval};
use crate::vocabulary::vocabulary;

/// After how many output tokens a distillation has paid for itself.
#[derive(Debug, Clone, PartialEq)]
pub enum BreakEven {
    /// So many tokens, with a Fieller interval whose upper end may be infinite.
    Tokens(Estimate),
    /// The saving may be zero or negative: never.
    Never,
    /// It can't be said, and why: `no_training_energy`, `mixed_methods`, `unknown_saving`.
    Unknown(BreakEvenUnknown),
}

vocabulary! {
    /// Why a break-even isn't known.
    pub enum BreakEvenUnknown {
        /// The student wasn't trained for the purpose, or the energy of its training isn't recorded.
        NoTrainingEnergy = "no_training_energy", "no training energy";
        /// Training energy and saving come from methods that must not be mixed (measured and modelled).
        MixedMethods = "mixed_methods", "mixed methods";
        /// Energies of student and teacher can't be compared, or they aren't all by one method.
        UnknownSaving = "unknown_saving", "saving unknown";
    }
}

/// Output tokens until `training` is paid back by `saved` (joules per output token, obtained by `method`).
pub(super) fn break_even(
    training: Option<&TrainingCost>,
    saved: Option<Estimate>,
    method: Option<EnergyMethod>,
) -> BreakEven {
    let Some((energy_j, training_method)) = training.and_then(energy_of) else {
        return BreakEven::Unknown(BreakEvenUnknown::NoTrainingEnergy);
    };
    let (Some(saved), Some(method)) = (saved, method) else {
        return BreakEven::Unknown(BreakEvenUnknown::UnknownSaving);
    };
    if !training_method.is_some_and(|training| may_mix(training, method)) {
        return BreakEven::Unknown(BreakEvenUnknown::MixedMethods);
    }
    if saved.value <= 0.0 { BreakEven::Never } else { BreakEven::Tokens(tokens(energy_j, saved)) }
}

fn energy_of(training: &TrainingCost) -> Option<(f64, Option<EnergyMethod>)> {
    let energy_j = training.energy_j?.get();
    (energy_j >= 0.0 && energy_j.is_finite()).then_some((energy_j, training.energy_method))
}

/// Measured with measured, modelled with modelled, simulated with simulated.
fn may_mix(a: EnergyMethod, b: EnergyMethod) -> bool {
    a == b || (is_measured(a) && is_measured(b))
}

/// The method measures: it is neither modelled nor simulated.
pub(crate) fn is_measured(method: EnergyMethod) -> bool {
    matches!(method, EnergyMethod::Counter | EnergyMethod::PowerIntegral)
}

fn tokens(energy_j: f64, saved: Estimate) -> Estimate {
    let interval = saved.interval.map(|ends| Interval {
        low: energy_j / ends.high,
        high: if ends.low > 0.0 { energy_j / ends.low } else { f64::INFINITY },
    });
    Estimate { value: energy_j / saved.value, interval, n: saved.n }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::mean;
    use crate::units::Joules;

    fn training(energy_j: Option<f64>, energy_method: Option<EnergyMethod>) -> TrainingCost {
        TrainingCost { energy_j: energy_j.map(Joules), energy_method, ..TrainingCost::default() }
    }

    fn measured(saved: Option<Estimate>) -> BreakEven {
        let training = training(Some(1000.0), Some(EnergyMethod::Counter));
        break_even(Some(&training), saved, Some(EnergyMethod::PowerIntegral))
    }

    fn estimate(value: f64, low: f64, high: f64) -> Option<Estimate> {
        Some(Estimate { value, interval: Some(Interval { low, high }), n: 5 })
    }

    #[test]
    fn a_clear_saving_has_the_reciprocal_interval() {
        assert_eq!(measured(estimate(2.0, 1.0, 4.0)), BreakEven::Tokens(estimate(500.0, 250.0, 1000.0).unwrap()));
    }

    #[test]
    fn the_interval_is_the_solution_of_fiellers_quadratic() {
        let saved = mean(&[1.0, 2.0, 3.0]).unwrap();
        let BreakEven::Tokens(tokens) = measured(Some(Estimate { value: 6.0, ..saved.map_increasing(|s| s + 4.0) }))
        else {
            panic!("the saving is positive");
        };
        // (s² − t²v)·N² − 2·E·s·N + E² = 0 with s = 6, v = s²/n = 1/3, t = 4.30265, E = 1000
        let (a, b, c) = (36.0 - 4.302_652_73f64.powi(2) / 3.0, -12_000.0, 1e6);
        let root = (b * b - 4.0 * a * c).sqrt();
        let ends = tokens.interval.unwrap();
        assert!((ends.low - (-b - root) / (2.0 * a)).abs() < 1e-3, "{ends:?}");
        assert!((ends.high - (-b + root) / (2.0 * a)).abs() < 1e-3, "{ends:?}");
    }

    #[test]
    fn a_saving_that_may_be_zero_may_never_pay() {
        let expected = Estimate { value: 500.0, interval: Some(Interval { low: 250.0, high: f64::INFINITY }), n: 5 };
        assert_eq!(measured(estimate(2.0, 0.0, 4.0)), BreakEven::Tokens(expected));
        assert_eq!(measured(estimate(2.0, -1.0, 4.0)), BreakEven::Tokens(expected));
    }

    #[test]
    fn no_saving_never_pays() {
        assert_eq!(measured(estimate(0.0, -1.0, 1.0)), BreakEven::Never);
        assert_eq!(measured(estimate(-2.0, -3.0, -1.0)), BreakEven::Never);
    }

    #[test]
    fn one_repeat_gives_a_number_without_an_interval() {
        let saved = mean(&[4.0]);
        assert_eq!(measured(saved), BreakEven::Tokens(Estimate { value: 250.0, interval: None, n: 1 }));
    }

    #[test]
    fn measured_and_modelled_energies_are_never_mixed() {
        use EnergyMethod::{Counter, Modelled, PowerIntegral, Simulated};
        let saved = estimate(2.0, 1.0, 4.0);
        let known = |from, with| {
            let result = break_even(Some(&training(Some(1.0), from)), saved, Some(with));
            match result {
                BreakEven::Tokens(_) => true,
                BreakEven::Unknown(BreakEvenUnknown::MixedMethods) => false,
                other => panic!("{other:?}"),
            }
        };
        assert!(known(Some(Counter), PowerIntegral) && known(Some(PowerIntegral), Counter));
        assert!(known(Some(Modelled), Modelled) && known(Some(Simulated), Simulated));
        assert!(!known(Some(Modelled), Counter) && !known(Some(Counter), Modelled));
        assert!(!known(Some(Simulated), Counter) && !known(Some(Modelled), Simulated) && !known(None, Counter));
    }

    #[test]
    fn without_training_energy_or_saving_nothing_is_said() {
        let saved = estimate(2.0, 1.0, 4.0);
        let unknown = |why| BreakEven::Unknown(why);
        let counter = Some(EnergyMethod::Counter);
        assert_eq!(break_even(None, saved, counter), unknown(BreakEvenUnknown::NoTrainingEnergy));
        let no_energy = training(None, counter);
        assert_eq!(break_even(Some(&no_energy), saved, counter), unknown(BreakEvenUnknown::NoTrainingEnergy));
        assert_eq!(measured(None), unknown(BreakEvenUnknown::UnknownSaving));
    }
}
