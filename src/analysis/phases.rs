//! Energy of prefill and of decode, by three methods that can be held against each other.
//!
//! (a) by difference: windows of the longest answers less those of one new token, which are prefill alone;
//! (b) by a weighted straight line through the energy of a pass against its decoding steps, over all lengths;
//!
//! both within each block, where all lengths ran on one load at about one temperature: over blocks, the differences and
//! the coefficients of the lines are independent values (Student's t);
//!
//! (c) from power samples inside windows whose prefill lasts long enough for them.

use std::collections::{BTreeMap, BTreeSet};

use super::per::per;
use crate::frame::{CellTrials, WindowRow};
use crate::record::{EnergyMethod, OutputLength, Role};
use crate::stats::{Contrast, Estimate, WeightedPoint, mean, weighted_polynomial};

/// Energy of prefill and decode of one model at one batch size, by up to three methods.
///
/// Prefill back to back (windows of one new token) runs at another clock and power state than prefill inside a generate
/// call: the methods may disagree for that reason.
#[derive(Debug, Clone, PartialEq)]
pub struct Phases {
    /// Label of the model.
    pub model: String,
    /// What the model is.
    pub role: Role,
    /// Sequences decoded together.
    pub batch_size: usize,
    /// Data type while running.
    pub dtype: String,
    /// By difference: the longest windows less those of one new token.
    pub difference: Option<PhaseEnergy>,
    /// By a weighted straight line through all lengths.
    pub regression: Option<PhaseEnergy>,
    /// What a parabola adds to the line in joules a step², where its interval excludes 0: the line isn't one.
    pub curvature: Option<Estimate>,
    /// From power samples inside the windows.
    pub inside: Option<PhaseEnergy>,
    /// (largest − smallest) / mean of the methods, for prefill; `None` below two methods.
    pub prefill_disagreement: Option<f64>,
    /// The same for decode.
    pub decode_disagreement: Option<f64>,
}

impl Phases {
    /// The energies by the first method of difference, regression and samples inside windows that gave any.
    pub(crate) fn preferred(&self) -> Option<PhaseEnergy> {
        self.difference.or(self.regression).or(self.inside)
    }
}

/// Energy of prefill and decode by one method, in joules.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PhaseEnergy {
    /// Prefill of one prompt.
    pub prefill_j_per_prompt: Estimate,
    /// One decoding step of a whole batch.
    pub decode_j_per_step: Estimate,
    /// Decoding of one token.
    pub decode_j_per_token: Estimate,
    /// Output lengths that it rests on.
    pub lengths: usize,
    /// The longest of them.
    pub longest: usize,
}

/// A line through fewer lengths than this shows nothing of how well it fits.
const LENGTHS_NEEDED: usize = 3;
/// A block that lacks lengths is left out where that makes its line more than twice as uncertain as the best: as one of
/// five it would then widen the interval. Depends on which lengths there are, never on the deviations of their energies.
const MOST_VARIANCE: f64 = 4.0;
/// What rounding makes of an exact line isn't curvature: relative to the largest energy.
const ROUNDING: f64 = 1e-9;

/// One entry for each model and batch size of which something is known, in the order of the plan. (a) and (b) need
/// `fixed` length, where the number of decoding steps is known beforehand.
pub(super) fn phases<'a>(cells: impl Iterator<Item = &'a CellTrials<'a>>) -> Vec<Phases> {
    let mut groups: Vec<Vec<&CellTrials<'_>>> = Vec::new();
    for cell in cells {
        match groups.iter_mut().find(|group| differs_in_length_alone(group[0], cell)) {
            Some(group) => group.push(cell),
            None => groups.push(vec![cell]),
        }
    }
    groups.iter().filter_map(|group| of_group(group)).collect()
}

fn differs_in_length_alone(a: &CellTrials<'_>, b: &CellTrials<'_>) -> bool {
    let (a, b) = (a.spec, b.spec);
    (&a.model, a.batch_size, &a.dtype, a.output_length, a.decoding)
        == (&b.model, b.batch_size, &b.dtype, b.output_length, b.decoding)
}

fn of_group(cells: &[&CellTrials<'_>]) -> Option<Phases> {
    let (spec, model) = (cells[0].spec, cells[0].model);
    let lengths = if spec.output_length == OutputLength::Fixed { lengths(cells) } else { Vec::new() };
    let difference = by_difference(&lengths);
    let (regression, curvature) = match by_regression(&lengths) {
        Some((line, curvature)) => (Some(line), curvature),
        None => (None, None),
    };
    let inside = inside_windows(cells);
    let methods = [&difference, &regression, &inside];
    let spread = |get: fn(&PhaseEnergy) -> f64| {
        disagreement(&methods.iter().filter_map(|method| method.as_ref().map(get)).collect::<Vec<f64>>())
    };
    methods.iter().any(|method| method.is_some()).then(|| Phases {
        model: spec.model.clone(),
        role: model.map_or_else(Default::default, |model| model.role),
        batch_size: spec.batch_size,
        dtype: spec.dtype.clone(),
        prefill_disagreement: spread(|energy| energy.prefill_j_per_prompt.value),
        decode_disagreement: spread(|energy| energy.decode_j_per_step.value),
        difference,
        regression,
        curvature,
        inside,
    })
}

/// (largest − smallest) / mean.
fn disagreement(values: &[f64]) -> Option<f64> {
    let (low, high) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(*v), b.max(*v)));
    let middle = values.iter().sum::<f64>() / values.len() as f64;
    (values.len() > 1 && middle > 0.0).then(|| (high - low) / middle)
}

/// The valid windows of one output length.
struct Length {
    new_tokens: usize,
    /// Joules a pass of the window in each block.
    energies: BTreeMap<u32, f64>,
    /// Batches a pass.
    batches: f64,
    /// Prompts a pass.
    prompts: f64,
}

impl Length {
    fn of(cell: &CellTrials<'_>) -> Option<Self> {
        let (_, first) = cell.valid().next()?;
        let energy = |(block, window): (u32, &WindowRow)| Some((block, per(window.energy, window.passes.into())?));
        let per_pass = |count: u32| (first.passes > 0).then(|| f64::from(count) / f64::from(first.passes));
        Some(Self {
            new_tokens: cell.spec.max_new_tokens,
            batches: per_pass(first.batches)?,
            prompts: per_pass(first.prompts).filter(|prompts| *prompts > 0.0)?,
            energies: cell.valid().filter_map(energy).collect(),
        })
        .filter(|length| !length.energies.is_empty() && length.batches > 0.0)
    }

    fn joules(&self) -> Vec<f64> {
        self.energies.values().copied().collect()
    }

    /// Decoding steps of a pass: the first token comes from prefill.
    fn steps(&self) -> f64 {
        self.batches * (self.new_tokens as f64 - 1.0)
    }

    /// Decoded tokens of one step, on average over the batches of a pass.
    fn tokens_per_step(&self) -> f64 {
        self.prompts / self.batches
    }
}

/// Lengths with an energy, from short to long; only those by the energy method of the longest.
fn lengths(cells: &[&CellTrials<'_>]) -> Vec<Length> {
    let known = cells.iter().filter_map(|cell| Some((cell.method()?, Length::of(cell)?)));
    let mut known: Vec<(EnergyMethod, Length)> = known.collect();
    known.sort_by_key(|(_, length)| length.new_tokens);
    let Some(method) = known.last().map(|(method, _)| *method) else { return Vec::new() };
    known.into_iter().filter(|(own, _)| *own == method).map(|(_, length)| length).collect()
}

/// E(n) − E(1) of the same block over the n − 1 steps of each batch; prefill is E(1). Where fewer than two blocks have
/// both, as independent samples (Welch).
fn by_difference(lengths: &[Length]) -> Option<PhaseEnergy> {
    let first = lengths.first().filter(|length| length.new_tokens == 1)?;
    let longest = lengths.last().filter(|length| length.new_tokens > 1)?;
    let both = first.energies.iter().filter_map(|(block, short)| Some((*short, *longest.energies.get(block)?)));
    let (short, long): (Vec<f64>, Vec<f64>) = both.unzip();
    let decode = match short.len() {
        0 | 1 => Contrast::welch(&first.joules(), &longest.joules())?,
        _ => Contrast::paired(&short, &long)?,
    };
    let prefill = Contrast::of_mean(&first.joules())?;
    let per_step = decode.scaled(1.0 / longest.steps());
    Some(PhaseEnergy {
        prefill_j_per_prompt: prefill.scaled(1.0 / first.prompts).estimate(),
        decode_j_per_step: per_step.estimate(),
        decode_j_per_token: per_step.scaled(1.0 / longest.tokens_per_step()).estimate(),
        lengths: 2,
        longest: longest.new_tokens,
    })
}

/// The line E = prefill + steps · decode in each block, and what a parabola adds to it.
fn by_regression(lengths: &[Length]) -> Option<(PhaseEnergy, Option<Estimate>)> {
    let longest = lengths.last().filter(|_| lengths.len() >= LENGTHS_NEEDED)?;
    let lines = certain(blocks(lengths).values().filter_map(|points| Line::through(points)).collect());
    let over_blocks = |get: fn(&Line) -> f64| Contrast::of_mean(&lines.iter().map(get).collect::<Vec<_>>());
    let (intercept, slope) = (over_blocks(|line| line.intercept)?, over_blocks(|line| line.slope)?);
    let energy = PhaseEnergy {
        prefill_j_per_prompt: intercept.scaled(1.0 / longest.prompts).estimate(),
        decode_j_per_step: slope.estimate(),
        decode_j_per_token: slope.scaled(1.0 / longest.tokens_per_step()).estimate(),
        lengths: lengths.len(),
        longest: longest.new_tokens,
    };
    Some((energy, curvature(lengths, longest)))
}

/// The quadratic term of the parabola in each block that has all lengths, over blocks; `None` where its interval
/// contains 0.
fn curvature(lengths: &[Length], longest: &Length) -> Option<Estimate> {
    let blocks = blocks(lengths);
    let whole = blocks.values().filter(|points| points.len() == lengths.len());
    let terms: Vec<f64> = whole.filter_map(|points| Some(weighted_polynomial(points, 2)?.get(2)?.value)).collect();
    let largest = longest.energies.values().copied().fold(0.0, f64::max);
    let is_seen = |curvature: &Estimate| {
        let excludes_zero = curvature.interval.is_some_and(|ends| ends.low > 0.0 || ends.high < 0.0);
        excludes_zero && curvature.value.abs() * longest.steps().powi(2) > ROUNDING * largest
    };
    mean(&terms).filter(is_seen)
}

/// Energies of a pass against its decoding steps, by block. The weight of a length is 1 / variance, where the spread of
/// an energy is taken to be proportional to it: a variance from a few repeats of one cell would be too uncertain for a
/// weight.
fn blocks(lengths: &[Length]) -> BTreeMap<u32, Vec<WeightedPoint>> {
    let mut blocks: BTreeMap<u32, Vec<WeightedPoint>> = BTreeMap::new();
    for length in lengths {
        let weight = mean(&length.joules()).map_or(0.0, |energy| energy.value.powi(-2));
        for (&block, &y) in &length.energies {
            blocks.entry(block).or_default().push(WeightedPoint { x: length.steps(), y, weight });
        }
    }
    blocks
}

/// The straight line through the lengths of one block.
struct Line {
    intercept: f64,
    slope: f64,
    /// Variances of both as they follow from the lengths and weights alone, up to a factor that all blocks share.
    variances: [f64; 2],
}

impl Line {
    /// `None` at fewer than two lengths.
    fn through(points: &[WeightedPoint]) -> Option<Self> {
        let different: BTreeSet<u64> = points.iter().map(|point| point.x.to_bits()).collect();
        if different.len() < 2 {
            return None;
        }
        let fitted = weighted_polynomial(points, 1)?;
        let sum = |power: i32| points.iter().map(|point| point.weight * point.x.powi(power)).sum::<f64>();
        let (s, sx, sxx) = (sum(0), sum(1), sum(2));
        let determinant = s * sxx - sx * sx;
        Some(Self {
            intercept: fitted.first()?.value,
            slope: fitted.get(1)?.value,
            variances: [sxx / determinant, s / determinant],
        })
    }
}

/// The lines that lack so few lengths that they are about as certain as the best one. All of them count alike: with
/// equal lengths the mean is that of least squares with block effects, and Student's t of it holds whatever the size of
/// those.
fn certain(lines: Vec<Line>) -> Vec<Line> {
    let best = |index: usize| lines.iter().map(|line| line.variances[index]).fold(f64::INFINITY, f64::min);
    let best = [best(0), best(1)];
    let is_certain = |line: &Line| line.variances.iter().zip(best).all(|(own, best)| *own <= MOST_VARIANCE * best);
    lines.into_iter().filter(is_certain).collect()
}

/// The longest answers of which windows have their phases apart, averaged over repeats.
fn inside_windows(cells: &[&CellTrials<'_>]) -> Option<PhaseEnergy> {
    let of_cell = |cell: &&CellTrials<'_>| {
        let split = cell.valid().filter_map(|(_, window)| Some((window, window.phases?)));
        let split: Vec<_> = split.filter(|(_, phases)| phases.decode_steps > 0).collect();
        let over = |values: Vec<Option<f64>>| mean(&values.into_iter().flatten().collect::<Vec<_>>());
        Some(PhaseEnergy {
            prefill_j_per_prompt: over(split.iter().map(|(w, p)| per(Some(p.prefill), w.prompts.into())).collect())?,
            decode_j_per_step: over(split.iter().map(|(_, p)| per(Some(p.decode), p.decode_steps as f64)).collect())?,
            decode_j_per_token: over(
                split
                    .iter()
                    .map(|(w, p)| per(Some(p.decode), w.tokens_out.get() as f64 - f64::from(w.prompts)))
                    .collect(),
            )?,
            lengths: 1,
            longest: cell.spec.max_new_tokens,
        })
    };
    cells.iter().filter_map(of_cell).max_by_key(|energy| energy.longest)
}

#[cfg(test)]
mod tests {
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::frame::{PhaseRow, TrialOutcome, TrialRow};
    use crate::record::{CellId, CellSpec, Decoding};
    use crate::stats::Interval;
    use crate::units::{Joules, Tokens};

    fn spec(new_tokens: usize, output_length: OutputLength) -> CellSpec {
        CellSpec {
            id: CellId(format!("m.b4.n{new_tokens}")),
            model: "m".to_owned(),
            batch_size: 4,
            max_new_tokens: new_tokens,
            dtype: "f16".to_owned(),
            output_length,
            decoding: Decoding::Greedy,
            dummy_weights: false,
            probe: new_tokens < 16,
        }
    }

    /// Windows of two passes over 20 prompts in 5 batches of 4, with these joules a pass.
    fn windows(joules: &[f64]) -> Vec<TrialRow> {
        let window = |energy: f64| WindowRow {
            method: Some(EnergyMethod::Counter),
            energy: Some(Joules(2.0 * energy)),
            passes: 2,
            batches: 10,
            prompts: 40,
            ..WindowRow::default()
        };
        let row = |(block, energy): (u32, &f64)| TrialRow {
            block,
            outcome: TrialOutcome::Measured(Box::new(window(*energy)), true),
            invalid_reasons: Vec::new(),
            warnings: Vec::new(),
        };
        (0..).zip(joules).map(row).collect()
    }

    fn of(lengths: &[(usize, &[f64])], output_length: OutputLength) -> Vec<Phases> {
        let specs: Vec<CellSpec> = lengths.iter().map(|(n, _)| spec(*n, output_length)).collect();
        let cells = specs.iter().zip(lengths).map(|(spec, (_, joules))| CellTrials {
            spec,
            model: None,
            trials: windows(joules),
        });
        phases(cells.collect::<Vec<_>>().iter())
    }

    fn close(actual: f64, expected: f64) {
        assert!((actual - expected).abs() <= 1e-8 * expected.abs().max(1e-3), "{actual} is not {expected}");
    }

    fn half_width(estimate: Estimate) -> f64 {
        let Interval { low, high } = estimate.interval.unwrap();
        (high - low) / 2.0
    }

    #[test]
    fn exact_lines_give_the_exact_energies_of_both_phases_by_both_methods() {
        // a pass is 5 batches: 100 J of prefill for 20 prompts, 5 · (n − 1) steps of 2 J
        let energy = |n: f64| [100.0 + 10.0 * (n - 1.0); 3];
        let lengths = [1, 8, 32, 128].map(|n| (n, energy(n as f64)));
        let all = of(&lengths.each_ref().map(|(n, e)| (*n, &e[..])), OutputLength::Fixed);
        let [found] = &all[..] else { panic!("{all:?}") };
        for method in [found.difference.unwrap(), found.regression.unwrap()] {
            close(method.prefill_j_per_prompt.value, 5.0);
            close(method.decode_j_per_step.value, 2.0);
            close(method.decode_j_per_token.value, 0.5);
            assert_eq!(method.longest, 128);
        }
        assert_eq!(found.curvature, None);
        close(found.decode_disagreement.unwrap(), 0.0);
    }

    /// t with two degrees of freedom.
    const T2: f64 = 4.302_652_729_911_275;

    #[test]
    fn a_difference_is_paired_within_each_block() {
        // differences of 148, 150 and 152 J: SE = 2/√3 J over 5 · 15 steps
        let all = of(&[(1, &[98.0, 100.0, 102.0]), (16, &[246.0, 250.0, 254.0])], OutputLength::Fixed);
        let found = all[0].difference.unwrap();
        close(found.decode_j_per_step.value, 2.0);
        close(half_width(found.decode_j_per_step), T2 * 2.0 / 3.0f64.sqrt() / 75.0);
        close(half_width(found.decode_j_per_token), T2 * 2.0 / 3.0f64.sqrt() / 300.0);
        // prefill: 100 ± t(2) · 2/√3 over 20 prompts
        close(half_width(found.prefill_j_per_prompt), T2 * 2.0 / 3.0f64.sqrt() / 20.0);
        assert_eq!((all[0].regression, all[0].decode_disagreement), (None, None), "two lengths make no line");
    }

    #[test]
    fn a_difference_of_windows_that_share_no_block_carries_both_variances() {
        // variances 4 and 16 of three windows each: SE = √(20/3) J over 5 · 15 steps
        let later = |blocks: u32, joules: [f64; 3]| (blocks..).zip(joules).collect::<BTreeMap<_, _>>();
        let length = |new_tokens, energies| Length { new_tokens, energies, batches: 5.0, prompts: 20.0 };
        let lengths = [length(1, later(0, [98.0, 100.0, 102.0])), length(16, later(3, [246.0, 250.0, 254.0]))];
        let found = by_difference(&lengths).unwrap();
        let (a, b) = (4.0f64 / 3.0, 16.0f64 / 3.0);
        let t = crate::stats::t_quantile(0.975, (a + b).powi(2) / (a * a / 2.0 + b * b / 2.0));
        close(half_width(found.decode_j_per_step), t * (20.0f64 / 3.0).sqrt() / 75.0);
    }

    #[test]
    fn the_line_has_the_interval_of_its_blocks() {
        // blocks of −1 %, 0 and + 1 % around 100, 200 and 400 J at 0, 50 and 150 steps (n = 1, 11, 31)
        let all = of(
            &[(1, &[99.0, 100.0, 101.0]), (11, &[198.0, 200.0, 202.0]), (31, &[396.0, 400.0, 404.0])],
            OutputLength::Fixed,
        );
        let found = all[0].regression.unwrap();
        close(found.decode_j_per_step.value, 2.0);
        close(found.prefill_j_per_prompt.value, 5.0);
        close(half_width(found.decode_j_per_step), T2 * 0.02 / 3.0f64.sqrt());
        close(half_width(found.prefill_j_per_prompt), T2 * 1.0 / 3.0f64.sqrt() / 20.0);
        assert_eq!((found.decode_j_per_step.n, all[0].curvature), (3, None), "the line fits");
    }

    #[test]
    fn a_block_without_the_short_lengths_does_not_decide_about_prefill() {
        let energy = |n: f64| [100.0 + 10.0 * (n - 1.0); 3];
        let length = |new_tokens: usize| Length {
            new_tokens,
            energies: (0..).zip(energy(new_tokens as f64)).collect(),
            batches: 5.0,
            prompts: 20.0,
        };
        let mut lengths = [1, 8, 32, 64, 128].map(length);
        lengths[0].energies.remove(&2);
        lengths[1].energies.remove(&2);
        // extrapolated from 32 tokens on, 1 % at 128 tokens would be worth 15 % of prefill
        *lengths[4].energies.get_mut(&2).unwrap() *= 1.01;
        let (found, _) = by_regression(&lengths).unwrap();
        close(found.prefill_j_per_prompt.value, 5.0);
        assert_eq!(found.prefill_j_per_prompt.n, 2);
        lengths[0].energies.insert(2, energy(1.0)[2]);
        assert_eq!(by_regression(&lengths).unwrap().0.prefill_j_per_prompt.n, 3, "with one token it is known well");
    }

    /// A pass of 100 J of prefill and 2 J a step, in five blocks with effects of their own.
    fn study(random: &mut ChaCha8Rng, block_effect: f64, noise: f64) -> Vec<Length> {
        let mut normal = || {
            let (u, v): (f64, f64) = (1.0 - random.random::<f64>(), random.random());
            (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
        };
        let effects = [(); 5].map(|()| (block_effect * normal()).exp());
        let mut length = |new_tokens: usize| {
            let energy = 100.0 + 2.0 * 5.0 * (new_tokens as f64 - 1.0);
            let energies =
                (0..).zip(effects).map(|(block, effect)| (block, energy * effect * (noise * normal()).exp()));
            Length { new_tokens, energies: energies.collect(), batches: 5.0, prompts: 20.0 }
        };
        [1, 8, 32, 64, 128].map(&mut length).into()
    }

    #[test]
    fn intervals_of_prefill_and_decode_hold_the_truth_whatever_the_block_effect() {
        const STUDIES: usize = 3000;
        for (block_effect, noise) in [(0.0, 0.005), (0.003, 0.005), (0.005, 0.003), (0.01, 0.003)] {
            let mut random = ChaCha8Rng::seed_from_u64(11);
            let mut hits = [0usize; 4];
            for _ in 0..STUDIES {
                let lengths = study(&mut random, block_effect, noise);
                let (line, difference) = (by_regression(&lengths).unwrap().0, by_difference(&lengths).unwrap());
                let holds = |estimate: Estimate, truth: f64| {
                    estimate.interval.is_some_and(|ends| ends.low <= truth && truth <= ends.high)
                };
                for (hits, held) in hits.iter_mut().zip([
                    holds(line.prefill_j_per_prompt, 5.0),
                    holds(line.decode_j_per_step, 2.0),
                    holds(difference.prefill_j_per_prompt, 5.0),
                    holds(difference.decode_j_per_step, 2.0),
                ]) {
                    *hits += usize::from(held);
                }
            }
            let coverage = hits.map(|hits| hits as f64 / STUDIES as f64);
            let good = coverage.iter().all(|coverage| (0.93..=0.97).contains(coverage));
            assert!(good, "block effect {block_effect}, noise {noise}: {coverage:?}");
        }
    }

    #[test]
    fn curvature_is_told_where_its_interval_excludes_zero() {
        let energy = |n: f64, spread: f64| {
            let steps = 5.0 * (n - 1.0);
            let joules = 100.0 + 2.0 * steps + 0.01 * steps * steps;
            [joules * (1.0 - spread), joules, joules * (1.0 + spread)]
        };
        let curved = |spread: f64| {
            let lengths = [1, 8, 32, 64].map(|n| (n, energy(n as f64, spread)));
            of(&lengths.each_ref().map(|(n, e)| (*n, &e[..])), OutputLength::Fixed)[0].curvature
        };
        close(curved(0.001).unwrap().value, 0.01);
        assert_eq!(curved(0.5), None, "hidden by the spread of the repeats");
    }

    #[test]
    fn natural_length_knows_no_steps_beforehand() {
        assert_eq!(of(&[(1, &[100.0; 2]), (16, &[250.0; 2]), (32, &[400.0; 2])], OutputLength::Natural), []);
    }

    #[test]
    fn energies_of_another_method_are_left_out() {
        let specs = [1, 16].map(|n| spec(n, OutputLength::Fixed));
        let mut short = CellTrials { spec: &specs[0], model: None, trials: windows(&[100.0; 2]) };
        for row in &mut short.trials {
            let TrialOutcome::Measured(window, _) = &mut row.outcome else { unreachable!() };
            window.method = Some(EnergyMethod::Modelled);
        }
        let long = CellTrials { spec: &specs[1], model: None, trials: windows(&[250.0; 2]) };
        assert_eq!(phases([long, short].iter()), []);
    }

    #[test]
    fn phases_inside_windows_are_averaged_over_repeats_and_held_against_the_others() {
        let spec = spec(16, OutputLength::Natural);
        let mut cell = CellTrials { spec: &spec, model: None, trials: windows(&[250.0; 2]) };
        for (row, factor) in cell.trials.iter_mut().zip([0.9, 1.1]) {
            let TrialOutcome::Measured(window, _) = &mut row.outcome else { unreachable!() };
            window.tokens_out = Tokens(640);
            window.phases =
                Some(PhaseRow { prefill: Joules(200.0 * factor), decode: Joules(300.0 * factor), decode_steps: 150 });
        }
        let found = phases([cell].iter());
        let inside = found[0].inside.unwrap();
        close(inside.prefill_j_per_prompt.value, 5.0);
        close(inside.decode_j_per_step.value, 2.0);
        close(inside.decode_j_per_token.value, 0.5);
        assert_eq!(inside.prefill_j_per_prompt.n, 2);
        close(disagreement(&[1.9, 2.0, 2.1]).unwrap(), 0.1);
        assert_eq!(disagreement(&[2.0]), None);
    }
}
