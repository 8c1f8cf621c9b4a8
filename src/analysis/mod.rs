//! Every number that a reader sees: estimates with intervals, savings, the Pareto front, verdicts.
//!
//! Takes the frame and plain structs; gives plain structs. No strings for people are made here.

mod accuracy;
mod at_floor;
mod break_even;
mod calibrations;
mod cells;
mod compare;
mod comparison;
mod conditions;
pub(crate) mod detectable;
pub mod diff;
mod heat;
pub(crate) mod history;
mod pareto;
mod per;
mod phases;
mod power;
pub(crate) mod recomputed;
mod savings;
mod stopping;
pub(crate) mod window;

use crate::error::Result;
use crate::frame::{CellTrials, Frame};
use crate::record::{EnergyMethod, Evaluation, Reason, RunInfo};

pub use self::accuracy::Accuracy;
pub use self::at_floor::AtFloor;
pub use self::break_even::{BreakEven, BreakEvenUnknown};
pub use self::calibrations::DeviceCosts;
pub use self::cells::{
    CellSummary, Domains, EngineCost, EptBenchSum, MemoryPart, PassTokens, TrialCounts, WindowFacts,
};
pub use self::compare::{Basis, Undecided};
pub(crate) use self::compare::{CellComparison, ModelComparison};
pub use self::comparison::{Comparison, Verdict};
pub use self::conditions::{PairConditions, SideConditions};
pub use self::heat::{HeatEffect, HeatEffects, HeatUnknown, PerDegree};
pub use self::pareto::Point;
pub use self::phases::{PhaseEnergy, Phases};
pub use self::power::PowerTrace;
pub(crate) use self::power::{power_trace, shown_trial};
pub use self::savings::{OverallSaving, Saving};
pub use self::stopping::Stopping;
pub use crate::stats::{Estimate, Interval};

/// Everything that the figures and the report show.
#[derive(Debug, Clone, PartialEq)]
pub struct Study {
    /// One entry for each cell of the plan, measured or not, in the plan's order; without those in `probes`.
    pub cells: Vec<CellSummary>,
    /// The cells that were added to tell prefill and decode apart: in no comparison, no figure and no headline.
    pub probes: Vec<CellSummary>,
    /// Energy of prefill and decode, one entry for each model and batch size of which something is known.
    pub phases: Vec<Phases>,
    /// What a degree adds to the energy of the same work, by this run's own warm-ups.
    pub heat: HeatEffects,
    /// What reading and multiplying cost on the devices, by the run's calibrations.
    pub device_costs: Vec<DeviceCosts>,
    /// How repeats ended, where they were adaptive.
    pub stopping: Option<Stopping>,
    /// Accuracy of each model at each output length.
    pub accuracies: Vec<Accuracy>,
    /// One entry for each student or control, batch size and output length: against its teacher in the same cell.
    pub savings: Vec<Saving>,
    /// One entry for each student or control: over all cells that it shares with its teacher.
    pub overall: Vec<OverallSaving>,
    /// The energy–accuracy points, one for each cell with both, with the Pareto front marked.
    pub points: Vec<Point>,
    /// Energy method of the valid trials; more than one is a mixture that is never pooled in one comparison.
    pub methods: Vec<EnergyMethod>,
    /// How often each reason occurred, over all trials.
    pub reasons: Vec<ReasonCount>,
}

impl Study {
    /// The trials of all compared cells.
    pub fn counts(&self) -> TrialCounts {
        self.cells.iter().fold(TrialCounts::default(), |sum, cell| TrialCounts {
            planned: sum.planned + cell.counts.planned,
            valid: sum.valid + cell.counts.valid,
            invalid: sum.invalid + cell.counts.invalid,
            failed: sum.failed + cell.counts.failed,
            skipped: sum.skipped + cell.counts.skipped,
        })
    }

    /// The cell with the least energy per output token, with that energy.
    pub(crate) fn thriftiest(&self) -> Option<(&CellSummary, Estimate)> {
        let known = self.cells.iter().filter_map(|cell| Some((cell, cell.ept_out_j?)));
        known.filter(|(_, ept)| ept.value.is_finite()).min_by(|(_, a), (_, b)| a.value.total_cmp(&b.value))
    }

    /// The largest change of idle power around any window in watts, after − before.
    pub(crate) fn largest_idle_drift_w(&self) -> Option<f64> {
        let drifts = self.cells.iter().chain(&self.probes).filter_map(|cell| cell.windows.idle_drift_w);
        drifts.max_by(|a, b| a.abs().total_cmp(&b.abs()))
    }
}

/// How often a reason occurred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReasonCount {
    /// The reason.
    pub reason: Reason,
    /// Trials that it makes unusable.
    pub invalid: usize,
    /// Trials that it warns of.
    pub warned: usize,
}

/// Everything about a run, from its frame and its evaluations. Verdicts use the run's floor.
///
/// Cells that were added to separate prefill and decode are in `probes` and `phases` alone.
///
/// # Errors
/// The frame lacks a column.
pub fn analyse(run: &RunInfo, frame: &Frame, evaluations: &[Evaluation]) -> Result<Study> {
    let (probes, compared): (Vec<_>, Vec<_>) = frame.cells(run)?.into_iter().partition(|cell| cell.spec.probe);
    let scored = accuracy::Evaluations::of(accuracy::of_compared_cells(run, evaluations));
    let summaries = |cells: &[CellTrials<'_>]| -> Vec<CellSummary> {
        cells.iter().map(|cell| cells::summarise(cell, run.blocks)).collect()
    };
    let cells = summaries(&compared);
    let heat = heat::effects(frame.courses());
    let (savings, overall) = savings::savings(run, frame, &heat, &cells, &scored)?;
    let reasons = frame.reasons()?.into_iter();
    Ok(Study {
        heat,
        device_costs: calibrations::device_costs(run),
        stopping: stopping::stopping(run, &compared),
        phases: phases::phases(compared.iter().chain(&probes)),
        probes: summaries(&probes),
        accuracies: accuracy::accuracies(run, &scored),
        savings,
        overall,
        points: pareto::points(&cells, &scored),
        methods: frame.methods()?.into_iter().collect(),
        reasons: reasons.map(|(reason, (invalid, warned))| ReasonCount { reason, invalid, warned }).collect(),
        cells,
    })
}
