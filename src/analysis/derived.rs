//! Numbers that follow from others of a study, so that no view computes them.

use super::{CellSummary, Comparison, Domains, Estimate, PhaseEnergy, Phases, Stopping, Study, TrialCounts};

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
    pub fn thriftiest(&self) -> Option<(&CellSummary, Estimate)> {
        let known = self.cells.iter().filter_map(|cell| Some((cell, cell.ept_out_j?)));
        known.filter(|(_, ept)| ept.value.is_finite()).min_by(|(_, a), (_, b)| a.value.total_cmp(&b.value))
    }

    /// The largest change of idle power around any window in watts, after − before.
    pub fn largest_idle_drift_w(&self) -> Option<f64> {
        let drifts = self.cells.iter().chain(&self.probes).filter_map(|cell| cell.windows.idle_drift_w);
        drifts.max_by(|a, b| a.abs().total_cmp(&b.abs()))
    }
}

impl Comparison {
    /// new / base − 1: the saving with its sign turned.
    pub fn increase(&self) -> Option<Estimate> {
        self.saving.map(|saving| saving.map_decreasing(|share| -share))
    }
}

impl Domains {
    /// The GPUs' share of all that was measured.
    pub fn gpu_share(&self) -> Option<f64> {
        Some(self.gpu_j?.value / self.total_j?.value)
    }
}

impl Phases {
    /// The energies by the first method of difference, regression and samples inside windows that gave any.
    pub fn preferred(&self) -> Option<PhaseEnergy> {
        self.difference.or(self.regression).or(self.inside)
    }
}

impl Stopping {
    /// All cells, of any width.
    pub fn cells(&self) -> usize {
        self.narrow + self.wide.len() + self.unknown.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::{Interval, Verdict};

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

    #[test]
    fn the_gpus_share_is_unknown_where_either_energy_is() {
        let of = |value| Some(Estimate { value, interval: None, n: 1 });
        assert_eq!(Domains { gpu_j: of(8.0), total_j: of(10.0), ..Domains::default() }.gpu_share(), Some(0.8));
        assert_eq!(Domains { gpu_j: of(8.0), ..Domains::default() }.gpu_share(), None);
    }
}
