//! How long a sweep takes by its protocol, and which design fits a given time. Pure: opens no meter and no model.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::error::{Context, Result};
use crate::record::{CellId, CellSpec, MeterInfo, Order, Preset, Protocol};
use crate::sweep::axis::{Axis, ModelAxes, default_max_cells};
use crate::sweep::default::Auto;
use crate::sweep::measure::MeasureSpec;
use crate::sweep::plan::Plan;
use crate::sweep::spec::SweepSpec;
use crate::units::Seconds;

/// Times that an earlier run of the sweep took; without one, both are empty.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Known {
    /// Loading a model, by its label.
    pub(crate) load_s: BTreeMap<String, Seconds>,
    /// One pass over the prompts, by cell: a window is made of whole passes.
    pub(crate) pass_s: BTreeMap<CellId, Seconds>,
}

/// How long a sweep takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Times {
    /// With warm-ups of middle length and the repeats that are measured in any case.
    pub(crate) typical: Seconds,
    /// With the longest warm-ups, and as many repeats as may be added.
    pub(crate) longest: Seconds,
}

/// A sweep with everything that its time depends on.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Design {
    pub(crate) spec: SweepSpec,
    /// The protocol on the meter.
    pub(crate) protocol: Protocol,
    /// How many cells it has, probes included.
    pub(crate) cells: usize,
    /// How often each is measured in any case.
    pub(crate) repeats: u32,
    /// How long it takes.
    pub(crate) times: Times,
}

/// No design with fewer repeats is proposed: two say next to nothing about the spread.
pub(crate) const FEWEST_REPEATS: u32 = 3;
/// Levels of an axis are given up for this many repeats: an interval from fewer is hardly worth having.
pub(crate) const ENOUGH_REPEATS: u32 = 5;
/// More repeats hardly narrow an interval.
const MOST_REPEATS: u32 = 15;
/// Windows that are proposed, in shortest valid windows of the meter, the best first.
const WINDOWS: [f64; 3] = [4.0, 2.0, 1.0];

impl Design {
    /// A sweep as it is written.
    ///
    /// # Errors
    /// The cells of the sweep contradict one another.
    pub(crate) fn of(spec: &SweepSpec, meter: &MeterInfo, known: &Known) -> Result<Self> {
        let cells = cells(spec)?;
        Ok(Self::with(spec.clone(), &cells, meter, known))
    }

    fn with(spec: SweepSpec, cells: &[CellSpec], meter: &MeterInfo, known: &Known) -> Self {
        let (protocol, repeats) = (spec.measure.protocol(meter), spec.measure.repeats());
        let labels: Vec<&str> = spec.models.iter().map(|model| model.label.as_str()).collect();
        // a meter that shows no heat never prolongs a warm-up; on a GPU work becomes steady somewhere in between
        let longest_warmup = if meter.gpus.is_empty() { protocol.warmup_s } else { protocol.max_warmup_s };
        let most = protocol.adaptive.map_or(repeats, |adaptive| adaptive.max_repeats);
        let (warmup, wait) = (protocol.warmup_s, protocol.random_offset_s);
        let work = Work { protocol: &protocol, cells, models: &labels, known };
        let times = Times {
            typical: work.total(repeats, wait * 0.5 + (warmup + longest_warmup) * 0.5),
            longest: work.total(most, wait + longest_warmup),
        };
        Self { protocol, cells: cells.len(), repeats, times, spec }
    }

    /// The lines of the sweep file for this design, `sweep:` and `measure:`, to replace those of `written`.
    ///
    /// # Errors
    /// Never in practice: numbers and lists can be written.
    pub(crate) fn yaml(&self, written: &SweepSpec) -> Result<String> {
        let list = |axis: &Axis| axis.0.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        let (batch, length) = (list(&self.spec.sweep.batch_size), list(&self.spec.sweep.max_new_tokens));
        let mut text = format!("sweep:\n  batch_size: [{batch}]\n  max_new_tokens: [{length}]\n");
        if self.spec.sweep.max_cells != default_max_cells() {
            text += &format!("  max_cells: {}\n", self.spec.sweep.max_cells);
        }
        text += "measure:\n";
        let what = || "can't write `measure`";
        let measure = serde_json::to_value(&self.spec.measure).context(what)?;
        let default = serde_json::to_value(MeasureSpec::default()).context(what)?;
        for (key, value) in measure.as_object().into_iter().flatten() {
            if default.get(key) != Some(value) {
                // JSON is YAML; a code needs no quotes
                let value = value.as_str().map_or_else(|| compact(value), str::to_owned);
                text += &format!("  {key}: {value}\n");
            }
        }
        for (model, before) in self.spec.models.iter().zip(&written.models) {
            if let Some(own) = model.sweep.as_ref().filter(|_| model.sweep != before.sweep) {
                let axes = [("batch_size", &own.batch_size), ("max_new_tokens", &own.max_new_tokens)];
                let axes = axes.map(|(key, axis)| axis.as_ref().map(|axis| format!("{key}: [{}]", list(axis))));
                let axes: Vec<String> = axes.into_iter().flatten().collect();
                text += &format!("# and in the model `{}`:\n#   sweep: {{{}}}\n", model.label, axes.join(", "));
            }
        }
        Ok(text)
    }
}

/// A whole number of seconds is written without a point.
fn compact(value: &Value) -> String {
    let text = value.to_string();
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// The sweep as written, under each preset: keys that it sets itself stay as they are.
///
/// # Errors
/// As [`Design::of`].
pub(crate) fn by_preset(spec: &SweepSpec, meter: &MeterInfo, known: &Known) -> Result<Vec<Design>> {
    let presets = [Preset::Quick, Preset::Standard, Preset::Publication].into_iter();
    let with = |preset| {
        let measure = MeasureSpec { preset, ..spec.measure.clone() };
        Design::of(&SweepSpec { measure, ..spec.clone() }, meter, known)
    };
    presets.map(with).collect()
}

/// The best design that typically takes no longer than `budget`; `None` if not even the smallest one fits.
///
/// It keeps, in this order: five repeats, all levels of the axes, long windows, more repeats. If five repeats of the
/// ends of the axes don't fit, three are tried, again with as many levels as possible. No model is ever dropped,
/// and axes keep their ends.
///
/// # Errors
/// As [`Design::of`].
pub(crate) fn best(spec: &SweepSpec, meter: &MeterInfo, known: &Known, budget: Seconds) -> Result<Option<Design>> {
    let thinned: Vec<SweepSpec> = thinnings(spec);
    for (fewest, most) in [(ENOUGH_REPEATS, MOST_REPEATS), (FEWEST_REPEATS, ENOUGH_REPEATS - 1)] {
        for spec in &thinned {
            let cells = cells(spec)?;
            for window in windows(meter) {
                let designs = (fewest..=most)
                    .rev()
                    .map(|repeats| Design::with(with_measure(spec, repeats, window), &cells, meter, known));
                if let Some(design) = designs.into_iter().find(|design| design.times.typical <= budget) {
                    return Ok(Some(design));
                }
            }
        }
    }
    Ok(None)
}

/// The smallest design: the ends of the axes, three repeats, the shortest valid windows.
///
/// # Errors
/// As [`Design::of`].
pub(crate) fn least(spec: &SweepSpec, meter: &MeterInfo, known: &Known) -> Result<Design> {
    let ends = thinnings(spec).pop().unwrap_or_else(|| spec.clone());
    let shortest = windows(meter).pop().flatten();
    Design::of(&with_measure(&ends, FEWEST_REPEATS, shortest), meter, known)
}

fn windows(meter: &MeterInfo) -> Vec<Option<f64>> {
    match meter.min_window_s.0 {
        // any window will do: the one that is written stays
        least if least <= 0.0 => vec![None],
        least => WINDOWS.iter().map(|times| Some(times * least)).collect(),
    }
}

fn with_measure(spec: &SweepSpec, repeats: u32, window: Option<f64>) -> SweepSpec {
    let mut spec = spec.clone();
    let measure = &mut spec.measure;
    if measure.adaptive().is_some() || measure.max_repeats != Auto::Auto {
        // the number of adaptive repeats isn't known in advance
        measure.max_repeats = Auto::Value(repeats);
        measure.half_width = Auto::Auto;
    }
    measure.repeats = Auto::Value(repeats);
    measure.window_s = window.map_or(measure.window_s, Auto::Value);
    spec
}

/// All cells, even more than `max_cells`.
fn cells(spec: &SweepSpec) -> Result<Vec<CellSpec>> {
    let mut spec = spec.clone();
    spec.sweep.max_cells = usize::MAX;
    (spec.measure.repeats, spec.measure.max_repeats) = (Auto::Value(1), Auto::Value(1));
    Ok(Plan::new(&spec, &BTreeMap::new())?.cells)
}

/// The sweep with fewer and fewer levels, from all of them to the ends of the axes: each step takes one level off the
/// longer axis.
fn thinnings(spec: &SweepSpec) -> Vec<SweepSpec> {
    let own = |get: fn(&ModelAxes) -> &Option<Axis>| {
        spec.models.iter().filter_map(move |model| get(model.sweep.as_ref()?).as_ref()).map(|axis| axis.0.len()).max()
    };
    let most = |common: &Axis, own: Option<usize>| common.0.len().max(own.unwrap_or(0));
    let mut batch = most(&spec.sweep.batch_size, own(|axes| &axes.batch_size));
    let mut length = most(&spec.sweep.max_new_tokens, own(|axes| &axes.max_new_tokens));
    let mut all = vec![spec.clone()];
    while batch > 2 || length > 2 {
        if length >= batch {
            length -= 1;
        } else {
            batch -= 1;
        }
        all.push(thinned(spec, batch, length));
    }
    all
}

fn thinned(spec: &SweepSpec, batch: usize, length: usize) -> SweepSpec {
    let mut spec = spec.clone();
    spec.sweep.batch_size = thin(&spec.sweep.batch_size, batch);
    spec.sweep.max_new_tokens = thin(&spec.sweep.max_new_tokens, length);
    for own in spec.models.iter_mut().filter_map(|model| model.sweep.as_mut()) {
        own.batch_size = own.batch_size.as_ref().map(|axis| thin(axis, batch));
        own.max_new_tokens = own.max_new_tokens.as_ref().map(|axis| thin(axis, length));
    }
    spec
}

/// At most `levels` (2 or more) of an axis, as evenly spread as possible: the smallest and the largest stay. Keeps the
/// order of the axis.
fn thin(axis: &Axis, levels: usize) -> Axis {
    if axis.0.len() <= levels {
        return axis.clone();
    }
    let mut sorted = axis.0.clone();
    sorted.sort_unstable();
    let (last, steps) = (sorted.len() - 1, levels - 1);
    // the place nearest to k·last/steps, halves downwards
    let kept: Vec<usize> = (0..levels).map(|k| sorted[(2 * k * last + steps - 1) / (2 * steps)]).collect();
    Axis(axis.0.iter().copied().filter(|level| kept.contains(level)).collect())
}

/// Everything that takes time, apart from how often it is done.
struct Work<'a> {
    protocol: &'a Protocol,
    cells: &'a [CellSpec],
    models: &'a [&'a str],
    known: &'a Known,
}

impl Work<'_> {
    /// Time of all trials, baselines and loads, with `ahead` (wait and warm-up) before each trial's guarded window.
    fn total(&self, repeats: u32, ahead: Seconds) -> Seconds {
        let Self { protocol, cells, models, known } = self;
        let guards = protocol.guard_s * 2.0;
        let window = |cell: &CellSpec| window(protocol, known.pass_s.get(&cell.id).copied());
        let trials: Seconds = cells.iter().map(|cell| ahead + guards + window(cell)).sum();
        let baseline = match protocol.idle_s {
            none if none.0 <= 0.0 => Seconds(0.0),
            idle => protocol.settle_s + guards + idle,
        };
        let block = trials + baseline * (2.0 * models.len() as f64);
        let loads = match protocol.order {
            Order::Blocks => f64::from(repeats),
            Order::ByModel => 1.0,
        };
        let load: Seconds = models.iter().filter_map(|label| known.load_s.get(*label).copied()).sum();
        block * f64::from(repeats) + load * loads
    }
}

/// A window is whole passes: as many as reach its shortest length.
fn window(protocol: &Protocol, pass: Option<Seconds>) -> Seconds {
    match pass.filter(|pass| pass.0 > 0.0) {
        Some(pass) => pass * (protocol.min_window_s.0 / pass.0 - 1e-9).ceil().max(1.0),
        None => protocol.min_window_s,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::meter::fixtures;
    use crate::record::GpuInfo;

    fn spec(sweep: &str, measure: &str) -> SweepSpec {
        let text = format!(
            "name: s\nmodels:\n  - {{label: a, source: ./a}}\n  - {{label: b, source: ./b}}\n{sweep}\
             prompts: {{text: [x]}}\n{measure}"
        );
        SweepSpec::parse(Path::new("s.yaml"), &text).unwrap()
    }

    fn grid() -> SweepSpec {
        spec("sweep: {batch_size: [1, 2, 4, 8, 16], max_new_tokens: [16, 64, 256]}\n", "")
    }

    /// A GPU whose shortest window is 5 s, with 1 s of guard, 20 s of idle and a sensor of 100 ms.
    fn gpu() -> MeterInfo {
        MeterInfo {
            min_window_s: Seconds(5.0),
            guard_s: Seconds(1.0),
            idle_s: Seconds(20.0),
            sensing_period_s: Some(Seconds(0.1)),
            gpus: vec![GpuInfo::default()],
            ..fixtures::info(&["gpu0"])
        }
    }

    /// No guard, no thermometer: 0.5 s windows, 0.25 s of warm-up.
    fn modelled() -> MeterInfo {
        MeterInfo { min_window_s: Seconds(0.5), idle_s: Seconds(2.0), ..fixtures::info(&["cpu"]) }
    }

    fn close(left: Seconds, right: f64) {
        assert!((left.0 - right).abs() < 1e-9 * right, "{} isn't {right}", left.0);
    }

    #[test]
    fn the_time_of_a_sweep_is_that_of_its_trials_and_baselines() {
        // standard on a GPU: windows of 10 s, 5 to 45 s of warm-up, 3 s of rest before 20 s of idle
        let design = Design::of(&grid(), &gpu(), &Known::default()).unwrap();
        assert_eq!((design.cells, design.repeats), (30, 5));
        let block = |wait: f64, warmup: f64| 30.0 * (wait + warmup + 2.0 + 10.0) + 2.0 * 2.0 * (3.0 + 2.0 + 20.0);
        close(design.times.typical, 5.0 * block(0.05, 25.0));
        close(design.times.longest, 5.0 * block(0.1, 45.0));
    }

    #[test]
    fn a_meter_without_a_thermometer_never_warms_up_longer() {
        let design = Design::of(&grid(), &modelled(), &Known::default()).unwrap();
        close(design.times.typical, 5.0 * (30.0 * 0.75 + 4.0 * 2.0));
        assert_eq!(design.times.longest, design.times.typical);
    }

    #[test]
    fn without_idle_there_is_no_rest_either() {
        let none = spec("sweep: {batch_size: 1, max_new_tokens: 4}\n", "measure: {idle_s: 0, repeats: 1}\n");
        close(Design::of(&none, &gpu(), &Known::default()).unwrap().times.typical, 2.0 * (0.05 + 25.0 + 2.0 + 10.0));
    }

    #[test]
    fn publication_is_longest_with_all_the_repeats_that_may_be_added() {
        let spec = spec("sweep: {batch_size: 1, max_new_tokens: 4}\n", "measure: {preset: publication}\n");
        let design = Design::of(&spec, &gpu(), &Known::default()).unwrap();
        // windows of 20 s; warm-up 10 to 120 s
        close(design.times.typical, 5.0 * (2.0 * (0.05 + 65.0 + 2.0 + 20.0) + 4.0 * 25.0));
        close(design.times.longest, 15.0 * (2.0 * (0.1 + 120.0 + 2.0 + 20.0) + 4.0 * 25.0));
    }

    #[test]
    fn loads_count_once_a_block_or_once_a_model() {
        let known = Known {
            load_s: [("a".to_owned(), Seconds(30.0)), ("b".to_owned(), Seconds(10.0))].into(),
            ..Known::default()
        };
        for (order, loads) in [("blocks", 5.0), ("by_model", 1.0)] {
            let spec = spec("sweep: {batch_size: 1, max_new_tokens: 4}\n", &format!("measure: {{order: {order}}}\n"));
            let without = Design::of(&spec, &modelled(), &Known::default()).unwrap().times.typical;
            let with = Design::of(&spec, &modelled(), &known).unwrap().times.typical;
            close(with - without, 40.0 * loads);
        }
    }

    #[test]
    fn a_window_is_as_many_whole_passes_as_reach_its_length() {
        let protocol = grid().measure.protocol(&gpu());
        for (pass, expected) in [(4.0, 12.0), (5.0, 10.0), (10.0, 10.0), (12.5, 12.5), (0.0, 10.0)] {
            close(window(&protocol, Some(Seconds(pass))), expected);
        }
    }

    #[test]
    fn thinning_takes_from_the_middle_and_keeps_the_ends() {
        let thin = |levels: &[usize], to| thin(&Axis(levels.to_vec()), to).0;
        assert_eq!(thin(&[1, 2, 4, 8, 16], 4), [1, 2, 8, 16]);
        assert_eq!(thin(&[1, 2, 4, 8, 16], 3), [1, 4, 16]);
        assert_eq!(thin(&[1, 2, 4, 8, 16], 2), [1, 16]);
        assert_eq!(thin(&[16, 1, 4], 2), [16, 1], "in the axis's own order");
        assert_eq!(thin(&[8], 2), [8]);
        for length in 2..20 {
            let axis: Vec<usize> = (1..=length).collect();
            for levels in 2..=length {
                let kept = thin(&axis, levels);
                assert_eq!((kept.len(), kept[0], kept[levels - 1]), (levels, 1, length));
            }
        }
    }

    #[test]
    fn each_preset_keeps_the_keys_that_the_sweep_sets_itself() {
        let spec = spec("sweep: {batch_size: 1, max_new_tokens: 4}\n", "measure: {warmup_s: 1}\n");
        let designs = by_preset(&spec, &gpu(), &Known::default()).unwrap();
        let seen: Vec<_> = designs
            .iter()
            .map(|d| (d.repeats, d.protocol.min_window_s.0, d.protocol.warmup_s.0, d.protocol.max_warmup_s.0))
            .collect();
        assert_eq!(seen, [(3, 5.0, 1.0, 25.0), (5, 10.0, 1.0, 45.0), (5, 20.0, 1.0, 120.0)]);
    }

    fn fitting(budget: f64) -> Option<(usize, u32, f64)> {
        let design = best(&grid(), &modelled(), &Known::default(), Seconds(budget)).unwrap()?;
        assert!(design.times.typical.0 <= budget);
        Some((design.cells, design.repeats, design.protocol.min_window_s.0))
    }

    #[test]
    fn the_best_design_keeps_all_cells_then_long_windows_then_adds_repeats() {
        // a block of 30 cells takes 30·1.5·w + 8 s: 98 s at windows of 2 s, 53 s at 1 s, 30.5 s at 0.5 s
        assert_eq!(fitting(10_000.0), Some((30, 15, 2.0)));
        assert_eq!(fitting(5.0 * 98.0), Some((30, 5, 2.0)));
        assert_eq!(fitting(5.0 * 98.0 - 1.0), Some((30, 9, 1.0)));
        assert_eq!(fitting(5.0 * 53.0 - 1.0), Some((30, 8, 0.5)));
        assert_eq!(fitting(5.0 * 30.5), Some((30, 5, 0.5)));
    }

    #[test]
    fn levels_go_before_the_fifth_repeat_and_the_fifth_repeat_before_the_ends() {
        // 4 × 3 levels of both models: 24 cells, 26 s a block; only the ends: 8 cells, 14 s
        assert_eq!(fitting(5.0 * 26.0), Some((24, 5, 0.5)));
        assert_eq!(fitting(5.0 * 14.0), Some((8, 5, 0.5)));
        // 69 s are enough for three repeats of 18 cells, at 21.5 s a block
        assert_eq!(fitting(69.0), Some((18, 3, 0.5)));
        assert_eq!(fitting(3.0 * 14.0), Some((8, 3, 0.5)));
        assert_eq!(fitting(3.0 * 14.0 - 0.1), None);
        close(least(&grid(), &modelled(), &Known::default()).unwrap().times.typical, 3.0 * 14.0);
    }

    #[test]
    fn the_axes_of_a_single_model_are_thinned_as_well() {
        let mut spec = grid();
        spec.models[1].sweep = Some(ModelAxes { batch_size: Some(Axis(vec![1, 2, 3, 4, 5, 6])), max_new_tokens: None });
        let ends = thinnings(&spec).pop().unwrap();
        assert_eq!(ends.sweep.batch_size.0, [1, 16]);
        assert_eq!(ends.models[1].sweep.as_ref().unwrap().batch_size.as_ref().unwrap().0, [1, 6]);
        let text = Design::of(&ends, &modelled(), &Known::default()).unwrap().yaml(&spec).unwrap();
        assert!(text.contains("# and in the model `b`:\n#   sweep: {batch_size: [1, 6]}"), "{text}");
    }

    #[test]
    fn the_lines_to_paste_read_as_the_design_that_they_stand_for() {
        let written = spec(
            "sweep: {batch_size: [1, 2, 4], max_new_tokens: [16, 64], max_cells: 40}\n",
            "measure: {preset: publication, half_width: 0.01, meter: modelled, seed: 7, cpu_energy: false, \
             modelled: {watts_per_core: 3.5, idle_w: 2}}\ngeneration: {length: fixed}\n",
        );
        let design = best(&written, &modelled(), &Known::default(), Seconds(600.0)).unwrap().unwrap();
        let lines = design.yaml(&written).unwrap();
        let (sweep, measure) = lines.split_at(lines.find("measure:").unwrap());
        let read = spec(sweep, &format!("{measure}generation: {{length: fixed}}\n"));
        assert_eq!((&read.sweep, &read.measure), (&design.spec.sweep, &design.spec.measure), "{lines}");
        assert_eq!(read.measure.adaptive(), None, "its time is known beforehand");
    }

    #[test]
    fn a_meter_that_measures_any_window_keeps_the_written_one() {
        let simulated = MeterInfo { min_window_s: Seconds(0.0), ..modelled() };
        let design = best(&grid(), &simulated, &Known::default(), Seconds(1e6)).unwrap().unwrap();
        assert_eq!((design.spec.measure.window_s, design.repeats), (Auto::Auto, 15));
    }
}
