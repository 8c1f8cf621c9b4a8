//! Comparing two models of one run, or models across runs.

use super::accuracy::{Evaluations, exact_match_difference, of_compared_cells, rouge_l_difference};
use super::compare::{Basis, CellComparison, Comparing, ModelComparison};
use super::conditions::{Surroundings, power_limit};
use super::heat::effects;
use crate::error::{Error, Result};
use crate::frame::{Frame, Side};
use crate::record::{Decoding, Evaluation, RunInfo};
use crate::stats::{Estimate, mean};

/// What is known of one run.
#[derive(Debug, Clone, Copy)]
pub struct Measured<'a> {
    /// The plan and provenance, from `run.json`.
    pub run: &'a RunInfo,
    /// Cells and trials of this run as tables.
    pub frame: &'a Frame,
    /// From `records.jsonl`; empty if the run has no accuracy.
    pub evaluations: &'a [Evaluation],
}

/// Which models of two sides are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Labels {
    /// One model of each side.
    Pair {
        /// Label in the base runs.
        base: String,
        /// Label in the new runs.
        new: String,
    },
    /// Every model that all runs have, with itself.
    Common,
}

/// New against base.
#[derive(Debug, Clone, PartialEq)]
pub struct Diff {
    /// One entry for each cell that both sides planned.
    pub rows: Vec<CellComparison>,
    /// One entry for each pair of models: over all cells in which both have a valid energy.
    pub overall: Vec<ModelComparison>,
    /// One entry for each pair of models and output length at which both were evaluated.
    pub accuracy: Vec<DiffAccuracy>,
    /// Cells that only one side planned.
    pub unmatched: Vec<String>,
    /// What the unit of replication is.
    pub basis: Basis,
    /// How the tokens of the base were chosen, where that is known.
    pub(crate) base_decoding: Option<Decoding>,
    /// How the tokens of the new side were chosen, where that is known.
    pub(crate) new_decoding: Option<Decoding>,
}

/// Difference of accuracy at one output length, paired over prompts: how far it holds for other prompts.
#[derive(Debug, Clone, PartialEq)]
pub struct DiffAccuracy {
    /// Label of the base model.
    pub(crate) base: String,
    /// Label of the new model.
    pub(crate) new: String,
    /// Output length of both.
    pub(crate) max_new_tokens: usize,
    /// Exact match, new − base; `None` where the prompts aren't the same.
    pub exact_match: Option<Estimate>,
    /// Mean ROUGE-L, new − base; `None` where the prompts aren't the same.
    pub rouge_l: Option<Estimate>,
}

/// Compares two models of one run, cell by cell.
///
/// # Errors
/// The run has no such model, or its frame lacks a column.
pub fn within_run(measured: &Measured<'_>, base: &str, new: &str, floor: f64) -> Result<Diff> {
    let runs = Runs::new(std::slice::from_ref(measured))?;
    let labels = Labels::Pair { base: base.to_owned(), new: new.to_owned() };
    diff(&runs, &runs, &labels, Basis::WithinRun(measured.run.protocol.order), floor)
}

/// Compares models of `base` runs with models of `new` runs, cell by cell.
///
/// With two or more runs on each side, a run's mean of log energies is one unit (Welch). With one run a side the
/// interval is that within the runs, and the verdict stays inconclusive.
///
/// # Errors
/// A side has no run, a run lacks the model, no model is common, or a frame lacks a column.
pub fn across_runs(base: &[Measured<'_>], new: &[Measured<'_>], labels: &Labels, floor: f64) -> Result<Diff> {
    if base.is_empty() || new.is_empty() {
        return Err(Error::input("a comparison needs at least one run on each side"));
    }
    let basis = Basis::AcrossRuns { base_runs: base.len(), new_runs: new.len() };
    diff(&Runs::new(base)?, &Runs::new(new)?, labels, basis, floor)
}

fn diff(base_runs: &Runs<'_>, new_runs: &Runs<'_>, labels: &Labels, basis: Basis, floor: f64) -> Result<Diff> {
    let mut diff = Diff {
        rows: Vec::new(),
        overall: Vec::new(),
        accuracy: Vec::new(),
        unmatched: Vec::new(),
        basis,
        base_decoding: base_runs.decoding()?,
        new_decoding: new_runs.decoding()?,
    };
    let around = Surroundings {
        base_limit_w: power_limit(base_runs.infos.iter().copied()),
        new_limit_w: power_limit(new_runs.infos.iter().copied()),
        share_per_c: share_per_c(base_runs, new_runs),
    };
    let comparing = Comparing {
        base: &base_runs.side,
        new: &new_runs.side,
        base_runs: &base_runs.infos,
        new_runs: &new_runs.infos,
        basis,
        floor,
        around,
    };
    for (base, new) in label_pairs(base_runs, new_runs, labels)? {
        let compared = comparing.models(&base, &new)?;
        diff.rows.extend(compared.cells);
        diff.overall.push(compared.overall);
        diff.accuracy.extend(accuracy(base_runs, &base, new_runs, &new));
        diff.unmatched.extend(compared.alone);
    }
    Ok(diff)
}

/// What a degree adds: the mean over the runs that show it.
fn share_per_c(base_runs: &Runs<'_>, new_runs: &Runs<'_>) -> Option<f64> {
    let known: Vec<f64> = base_runs.shares_per_c.iter().chain(&new_runs.shares_per_c).copied().collect();
    mean(&known).map(|estimate| estimate.value)
}

/// The runs of one side.
struct Runs<'a> {
    infos: Vec<&'a RunInfo>,
    side: Side,
    evaluations: Evaluations<'a>,
    /// Change of ln E for each °C of the core, of the runs that show it.
    shares_per_c: Vec<f64>,
}

impl<'a> Runs<'a> {
    fn new(runs: &[Measured<'a>]) -> Result<Self> {
        let compared = |measured: &Measured<'a>| of_compared_cells(measured.run, measured.evaluations);
        Ok(Self {
            infos: runs.iter().map(|measured| measured.run).collect(),
            side: Side::new(&runs.iter().map(|measured| measured.frame).collect::<Vec<_>>())?,
            shares_per_c: runs.iter().filter_map(|run| effects(run.frame.courses()).core.shown()).collect(),
            evaluations: Evaluations::of(runs.iter().flat_map(compared)),
        })
    }

    /// The one decoding of the side's runs, which is that of all their cells.
    fn decoding(&self) -> Result<Option<Decoding>> {
        let mut decodings = self.infos.iter().flat_map(|run| &run.cells).map(|cell| cell.decoding);
        let first = decodings.next();
        match decodings.find(|decoding| Some(*decoding) != first) {
            None => Ok(first),
            Some(other) => {
                let first = first.unwrap_or_default();
                let message = format!("the runs of one side decode differently: {first}, and {other}");
                Err(Error::input(message).with_hint("pool only runs of the same decoding"))
            }
        }
    }

    fn require(&self, label: &str) -> Result<()> {
        for run in &self.infos {
            if !run.models.iter().any(|model| model.label == label) {
                let known = run.models.iter().map(|model| format!("`{}`", model.label)).collect::<Vec<_>>().join(", ");
                let message = format!("run `{}` has no model `{label}`", run.name);
                return Err(Error::input(message).with_hint(format!("its models are {known}")));
            }
        }
        Ok(())
    }
}

fn label_pairs(base_runs: &Runs<'_>, new_runs: &Runs<'_>, labels: &Labels) -> Result<Vec<(String, String)>> {
    match labels {
        Labels::Pair { base, new } => {
            base_runs.require(base)?;
            new_runs.require(new)?;
            Ok(vec![(base.clone(), new.clone())])
        }
        Labels::Common => common_labels(base_runs, new_runs),
    }
}

fn common_labels(base_runs: &Runs<'_>, new_runs: &Runs<'_>) -> Result<Vec<(String, String)>> {
    let in_all = |label: &&String| base_runs.require(label).is_ok() && new_runs.require(label).is_ok();
    let first = base_runs.infos.iter().take(1).flat_map(|run| run.models.iter().map(|model| &model.label));
    let common: Vec<_> = first.filter(in_all).map(|label| (label.clone(), label.clone())).collect();
    if common.is_empty() {
        return Err(Error::input("the runs have no model in common").with_hint("name one model of each side"));
    }
    Ok(common)
}

fn accuracy(base_runs: &Runs<'_>, base: &str, new_runs: &Runs<'_>, new: &str) -> Vec<DiffAccuracy> {
    let lengths = &base_runs.evaluations.lengths(base) & &new_runs.evaluations.lengths(new);
    let difference = |max_new_tokens: usize| {
        let of_base = base_runs.evaluations.at_length(base, max_new_tokens)?;
        let of_new = new_runs.evaluations.at_length(new, max_new_tokens)?;
        Some(DiffAccuracy {
            base: base.to_owned(),
            new: new.to_owned(),
            max_new_tokens,
            exact_match: exact_match_difference(of_base, of_new),
            rouge_l: rouge_l_difference(of_base, of_new),
        })
    };
    lengths.into_iter().filter_map(difference).collect()
}
