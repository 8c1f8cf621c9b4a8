//! Comparing the energy of two sides: ratio, saving, factor and verdict. Knows nothing of runs or models.
//!
//! Ratios are estimated on the log scale, so that exchanging the sides gives the reciprocal, end for end.
//!
//! A verdict tests against a floor, not against zero: a difference that is real but below the floor is no news, and
//! a wide interval is no proof of equality. With m = ln(1 + floor) and δ the log ratio:
//!
//! - improved: H₀ δ ≥ −m rejected; regressed: H₀ δ ≤ m rejected; both at 2.5 % one-sided, which for a single cell
//!   is the 95 % interval lying wholly beyond the floor;
//! - equivalent: both H₀ δ ≤ −m and H₀ δ ≥ m rejected at 5 % (two one-sided tests, Schuirmann 1987);
//! - inconclusive: none of these.
//!
//! The p values of each test are adjusted over the cells of a family after Holm (1979).

use std::collections::BTreeMap;

use crate::stats::{Contrast, Estimate, holm_known, ln};
use crate::vocabulary::vocabulary;

/// Two cells of equal batch size and output length, new against base.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// new / base, estimated on the log scale; `None` where one side is unknown.
    pub ratio: Option<Estimate>,
    /// 1 − new / base.
    pub saving: Option<Estimate>,
    /// base − new, in joules per output token.
    pub saved_j_per_token: Option<Estimate>,
    /// base / new: how many times less energy.
    pub factor: Option<Estimate>,
    /// p value of "the ratio is 1", adjusted over the cells of the comparison (Holm).
    pub p_adjusted: Option<f64>,
    /// What may be said.
    pub verdict: Verdict,
}

impl Comparison {
    /// new / base − 1: the saving with its sign turned.
    pub(crate) fn increase(&self) -> Option<Estimate> {
        self.saving.map(|saving| saving.map_decreasing(|share| -share))
    }
}

vocabulary! {
    /// What may be said of a comparison.
    pub enum Verdict {
        /// The new one uses less energy, beyond the floor.
        Improved = "improved", "less energy";
        /// The new one uses more energy, beyond the floor.
        Regressed = "regressed", "more energy";
        /// The two are the same within the floor (two one-sided tests).
        Equivalent = "equivalent", "equal";
        /// The data don't show which.
        Inconclusive = "inconclusive", "inconclusive";
    }
}

/// Level of the tests behind a verdict.
const LEVEL: f64 = 0.05;

/// Energy per output token of one unit of replication.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Unit {
    /// Its natural logarithm; over several cells the mean of theirs.
    pub(crate) log: f64,
    /// Joules per output token; over several cells their mean.
    pub(crate) joules: f64,
}

/// Units of replication by number: the blocks of a run, or the runs of a side.
pub(crate) type Units = BTreeMap<u32, Unit>;

/// How two sides are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Design {
    /// Unit by unit: only units that both sides have.
    Paired,
    /// Unit by unit where both sides share two or more, else as independent samples.
    PairedOrIndependent,
    /// As independent samples (Welch).
    Independent,
}

/// The difference of two sides on both scales.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Effect {
    /// ln(new / base).
    pub(crate) log_ratio: Contrast,
    /// new − base in joules per output token.
    pub(crate) difference_j: Contrast,
}

impl Unit {
    /// A unit with one energy; `None` where it isn't positive.
    pub(super) fn of(joules: f64) -> Option<Self> {
        ln(joules).map(|log| Self { log, joules })
    }

    /// Mean over several cells or repeats, on each scale.
    pub(crate) fn mean(units: &[Unit]) -> Option<Self> {
        let over = |get: fn(&Unit) -> f64| Some(Contrast::of_mean(&values(units, get))?.value);
        Some(Self { log: over(|unit| unit.log)?, joules: over(|unit| unit.joules)? })
    }
}

/// One unit for each number that all of `cells` have: the mean over the cells.
pub(crate) fn over_cells(cells: &[Units]) -> Units {
    let Some((first, others)) = cells.split_first() else { return Units::new() };
    let mean = |(number, unit): (&u32, &Unit)| {
        let mut units = vec![*unit];
        for other in others {
            units.push(*other.get(number)?);
        }
        Some((*number, Unit::mean(&units)?))
    };
    first.iter().filter_map(mean).collect()
}

/// Compares `new` with `base`; `None` where one of them has no unit (paired: where they share none).
pub(crate) fn effect(base: &Units, new: &Units, design: Design) -> Option<Effect> {
    let shared: Vec<(Unit, Unit)> = base.iter().filter_map(|(number, unit)| Some((*unit, *new.get(number)?))).collect();
    let paired = match design {
        Design::Paired => true,
        Design::PairedOrIndependent => shared.len() >= 2,
        Design::Independent => false,
    };
    if paired {
        let (base, new): (Vec<Unit>, Vec<Unit>) = shared.into_iter().unzip();
        contrasts(&base, &new, Contrast::paired)
    } else {
        contrasts(&units(base), &units(new), Contrast::welch)
    }
}

/// The comparisons of one family: their p values are adjusted together.
pub(crate) fn compare_family(effects: &[Option<Effect>], floor: f64) -> Vec<Comparison> {
    let judged = judge(effects, floor);
    let comparison = |(effect, (p_adjusted, verdict)): (&Option<Effect>, (Option<f64>, Verdict))| match effect {
        Some(effect) => comparison(effect, p_adjusted, verdict),
        None => unknown(),
    };
    effects.iter().zip(judged).map(comparison).collect()
}

/// The adjusted p value of "the ratio is 1" and the verdict of each effect.
fn judge(effects: &[Option<Effect>], floor: f64) -> Vec<(Option<f64>, Verdict)> {
    let adjusted = |p: fn(&Contrast, f64) -> Option<f64>| {
        let values = effects.iter().map(|effect| p(&effect.as_ref()?.log_ratio, floor.ln_1p()));
        holm_known(&values.collect::<Vec<_>>())
    };
    let (differs, improved) = (adjusted(|log, _| log.p_differs()), adjusted(p_improved));
    let (regressed, equivalent) = (adjusted(p_regressed), adjusted(p_equivalent));
    let judged = |index: usize| (differs[index], verdict(improved[index], regressed[index], equivalent[index]));
    (0..effects.len()).map(judged).collect()
}

/// A single comparison, in a family of its own.
pub(crate) fn compare_one(effect: Option<Effect>, floor: f64) -> Comparison {
    compare_family(&[effect], floor).pop().unwrap_or_else(unknown)
}

/// A comparison of which nothing is known.
pub(super) fn unknown() -> Comparison {
    Comparison {
        ratio: None,
        saving: None,
        saved_j_per_token: None,
        factor: None,
        p_adjusted: None,
        verdict: Verdict::Inconclusive,
    }
}

fn comparison(effect: &Effect, p_adjusted: Option<f64>, verdict: Verdict) -> Comparison {
    let ratio = effect.log_ratio.estimate().map_increasing(f64::exp);
    Comparison {
        ratio: Some(ratio),
        saving: Some(ratio.map_decreasing(|ratio| 1.0 - ratio)),
        saved_j_per_token: Some(saved(effect)),
        factor: Some(ratio.map_decreasing(f64::recip)),
        p_adjusted,
        verdict,
    }
}

fn saved(effect: &Effect) -> Estimate {
    effect.difference_j.estimate().map_decreasing(|difference| 0.0 - difference)
}

fn verdict(improved: Option<f64>, regressed: Option<f64>, equivalent: Option<f64>) -> Verdict {
    let holds = |p: Option<f64>| p.is_some_and(|p| p < LEVEL);
    match () {
        () if holds(improved) => Verdict::Improved,
        () if holds(regressed) => Verdict::Regressed,
        () if holds(equivalent) => Verdict::Equivalent,
        () => Verdict::Inconclusive,
    }
}

/// Twice the one-sided p value, so that one level serves both directions.
fn p_improved(log: &Contrast, margin: f64) -> Option<f64> {
    Some((2.0 * log.p_below(-margin)?).min(1.0))
}

fn p_regressed(log: &Contrast, margin: f64) -> Option<f64> {
    Some((2.0 * log.p_above(margin)?).min(1.0))
}

fn p_equivalent(log: &Contrast, margin: f64) -> Option<f64> {
    Some(log.p_above(-margin)?.max(log.p_below(margin)?))
}

type Compare = fn(&[f64], &[f64]) -> Option<Contrast>;

fn contrasts(base: &[Unit], new: &[Unit], compare: Compare) -> Option<Effect> {
    let on = |get: fn(&Unit) -> f64| compare(&values(base, get), &values(new, get));
    Some(Effect { log_ratio: on(|unit| unit.log)?, difference_j: on(|unit| unit.joules)? })
}

fn values(units: &[Unit], get: fn(&Unit) -> f64) -> Vec<f64> {
    units.iter().map(get).collect()
}

fn units(units: &Units) -> Vec<Unit> {
    units.values().copied().collect()
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::stats::Interval;

    const FLOOR: f64 = 0.01;

    fn units_of(joules: &[f64]) -> Units {
        (0..).zip(joules).filter_map(|(number, &joules)| Some((number, Unit::of(joules)?))).collect()
    }

    /// Energies of five blocks around `centre` with 0.5 % of spread (Box and Muller 1958).
    fn noisy(centre: f64, rng: &mut ChaCha8Rng) -> Units {
        let mut normal = || {
            let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
            (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
        };
        units_of(&[(); 5].map(|()| centre * (0.005 * normal()).exp()))
    }

    /// How often, in studies of `cells` cells whose true ratio is `ratio`, some cell gets the verdict.
    fn share_with(verdict: Verdict, ratio: f64, cells: usize) -> f64 {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let studies = 10_000;
        let mut study = || {
            let effects: Vec<_> = (0..cells)
                .map(|_| effect(&noisy(1.0, &mut rng), &noisy(ratio, &mut rng), Design::PairedOrIndependent))
                .collect();
            judge(&effects, FLOOR).iter().any(|(_, judged)| *judged == verdict)
        };
        (0..studies).filter(|_| study()).count() as f64 / f64::from(studies)
    }

    #[test]
    fn a_difference_of_exactly_the_floor_is_rarely_called_an_improvement() {
        // 2.5 % one-sided, over all cells of the family; three standard errors of the simulation are 0.5 %
        assert!((share_with(Verdict::Improved, 1.0 / 1.01, 1) - 0.025).abs() < 0.005);
        assert!(share_with(Verdict::Improved, 1.0 / 1.01, 4) < 0.030);
        assert!(share_with(Verdict::Regressed, 1.01, 4) < 0.030);
    }

    #[test]
    fn a_difference_of_exactly_the_floor_is_rarely_called_equivalent() {
        assert!(share_with(Verdict::Equivalent, 1.01, 1) < 0.057);
        assert!(share_with(Verdict::Equivalent, 1.01, 4) < 0.057);
    }

    #[test]
    fn a_saving_of_five_percent_is_found_and_no_difference_is_called_equivalent() {
        assert!(share_with(Verdict::Improved, 0.95, 1) > 0.99);
        assert!(share_with(Verdict::Equivalent, 1.0, 1) > 0.6);
    }

    #[test]
    fn exchanging_the_sides_gives_the_reciprocal_and_the_opposite_verdict() {
        let (a, b) = (units_of(&[3.0, 3.1, 2.9]), units_of(&[1.0, 1.05, 0.97]));
        let there = compare_one(effect(&a, &b, Design::Paired), FLOOR);
        let back = compare_one(effect(&b, &a, Design::Paired), FLOOR);
        let (factor, ratio) = (there.factor.unwrap(), back.ratio.unwrap());
        assert!((factor.value - ratio.value).abs() < 1e-12);
        assert!((factor.interval.unwrap().high - ratio.interval.unwrap().high).abs() < 1e-12);
        assert_eq!((there.verdict, back.verdict), (Verdict::Improved, Verdict::Regressed));
        assert_eq!(there.p_adjusted, back.p_adjusted);
    }

    #[test]
    fn equal_energies_without_spread_are_equivalent_and_not_different() {
        let same = units_of(&[2.0; 3]);
        let comparison = compare_one(effect(&same, &same, Design::Paired), FLOOR);
        assert_eq!((comparison.p_adjusted, comparison.verdict), (Some(1.0), Verdict::Equivalent));
        assert_eq!(comparison.saved_j_per_token.unwrap().value.to_bits(), 0.0f64.to_bits());
    }

    #[test]
    fn only_units_that_every_cell_has_are_averaged() {
        let mut short = units_of(&[4.0, 4.0, 4.0]);
        short.remove(&1);
        let over = over_cells(&[units_of(&[1.0, 1.0, 1.0]), short]);
        assert_eq!(over.keys().copied().collect::<Vec<_>>(), [0, 2]);
        assert!((over[&0].log - 2.0f64.ln()).abs() < 1e-15);
        assert_eq!(over[&0].joules, 2.5);
        assert!(over_cells(&[]).is_empty());
    }

    #[test]
    fn energies_that_are_not_positive_are_no_units() {
        assert!(units_of(&[0.0, -1.0, f64::NAN, f64::INFINITY]).is_empty());
    }

    #[test]
    fn an_increase_is_the_saving_with_its_interval_turned_round() {
        let saving = Estimate { value: -0.2, interval: Some(Interval { low: -0.25, high: -0.15 }), n: 5 };
        let comparison = Comparison {
            ratio: None,
            saving: Some(saving),
            saved_j_per_token: None,
            factor: None,
            p_adjusted: None,
            verdict: Verdict::Regressed,
        };
        let expected = Estimate { value: 0.2, interval: Some(Interval { low: 0.15, high: 0.25 }), n: 5 };
        assert_eq!(comparison.increase(), Some(expected));
    }
}
