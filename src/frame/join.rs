//! What belongs to a trial, joined once: its model, the start that measured it, accuracy, baselines, and all reasons.

use std::collections::{BTreeMap, HashMap};

use super::scores::Scores;
use crate::energy_floor::Limits;
use crate::record::{
    Around, Baseline, CellSpec, ClockEvent, Conditions, DomainEnergy, Evaluation, Measurement, ModelInfo, ModelMeta,
    Part, RunInfo, Trial, Validity,
};
use crate::units::{Joules, JoulesPerToken, Watts};
use crate::validity::{self, COVERAGE_NEEDED};

/// A trial with what is joined to it: a row of the table.
pub(super) struct Row<'a> {
    pub(crate) trial: &'a Trial,
    pub(crate) model: Option<&'a ModelMeta>,
    /// The start that measured it.
    pub(crate) part: Option<&'a Part>,
    /// Those of the same model, data type and output length.
    pub(crate) scores: Option<Scores>,
    pub(crate) around: Around<'a>,
    /// `None` if the model's work or its device's costs aren't known.
    pub(crate) limits: Option<Limits>,
    /// `None` if nothing was measured.
    pub(crate) validity: Option<Validity>,
}

/// The trials in the order of the plan, then of the blocks.
pub(super) fn rows<'a>(
    run: &'a RunInfo,
    trials: &'a [Trial],
    evaluations: &[Evaluation],
    baselines: &'a [Baseline],
) -> Vec<Row<'a>> {
    let position: HashMap<_, _> = run.cells.iter().enumerate().map(|(index, cell)| (&cell.id, index)).collect();
    let mut trials: Vec<&Trial> = trials.iter().collect();
    trials.sort_by_key(|trial| (position.get(&trial.cell.id).copied().unwrap_or(usize::MAX), trial.block));
    let row = |trial: &'a Trial| {
        let around = Around::of(trial, baselines);
        Row {
            trial,
            model: run.models.iter().find(|model| model.label == trial.cell.model),
            part: run.parts.get(trial.part),
            limits: limits(run, trial),
            scores: evaluations.iter().filter(|scored| belongs(scored, &trial.cell)).find_map(Scores::of),
            validity: trial.measurement().map(|measurement| validity::with_baselines(measurement, &around)),
            around,
        }
    };
    trials.into_iter().map(row).collect()
}

fn limits(run: &RunInfo, trial: &Trial) -> Option<Limits> {
    let (part, measurement) = (run.parts.get(trial.part)?, trial.measurement()?);
    Limits::of(measurement, trial.cell.decoding, part.models.get(&trial.cell.model)?, &part.calibrations)
}

fn belongs(evaluation: &Evaluation, cell: &CellSpec) -> bool {
    evaluation.model == cell.model && evaluation.dtype == cell.dtype && evaluation.max_new_tokens == cell.max_new_tokens
}

/// Names of domains before their number.
pub(super) const GPU: &str = "gpu";
pub(super) const PACKAGE: &str = "package-";
pub(super) const DRAM: &str = "dram-";

impl<'a> Row<'a> {
    pub(crate) fn measurement(&self) -> Option<&'a Measurement> {
        self.trial.measurement()
    }

    /// The model as it was loaded for the trial.
    pub(crate) fn loaded(&self) -> Option<&'a ModelInfo> {
        self.part?.models.get(&self.trial.cell.model)
    }

    /// The energy floor per output token.
    pub(crate) fn floor(&self) -> Option<JoulesPerToken> {
        Joules(self.limits?.energy.value).per_token(self.measurement()?.tokens_out)
    }

    /// Half the width of its interval.
    pub(crate) fn floor_half_width(&self) -> Option<JoulesPerToken> {
        let limits = self.limits?;
        let half = limits.energy.value * limits.energy.relative_half_width()?;
        Joules(half).per_token(self.measurement()?.tokens_out)
    }

    /// Mean power of the window.
    pub(super) fn power(&self) -> Option<Watts> {
        let measurement = self.measurement()?;
        Some(measurement.energy.total_j? / measurement.window.duration())
    }

    /// Energy of the window above the idle baseline.
    pub(crate) fn net(&self) -> Option<Joules> {
        let measurement = self.measurement()?;
        Some(measurement.energy.total_j? - self.around.power()? * measurement.window.duration())
    }

    /// Energy of all domains of one kind, charged or only recorded; unknown unless every one that the meter had was
    /// measured.
    pub(crate) fn energy_of(&self, kind: &str) -> Option<Joules> {
        let energy = &self.measurement()?.energy;
        let own: Vec<&DomainEnergy> =
            energy.domains.iter().chain(&energy.host).filter(|domain| is_a(kind, &domain.domain)).collect();
        let of_meter = self.part.map_or(0, |part| {
            let all = part.meter.domains.iter().chain(&part.meter.host_domains);
            all.filter(|domain| is_a(kind, &domain.name)).count()
        });
        (!own.is_empty() && own.len() >= of_meter).then(|| own.iter().map(|domain| domain.energy_j).sum())
    }

    /// GPUs, processor packages and their memory; unknown if one of the first two is.
    pub(crate) fn energy_of_all(&self) -> Option<Joules> {
        Some(self.energy_of(GPU)? + self.energy_of(PACKAGE)? + self.energy_of(DRAM).unwrap_or_default())
    }

    /// The residual that is furthest from 0, of any domain: two that are off in opposite ways don't make each other
    /// good.
    pub(crate) fn worst_residual(&self) -> Option<f64> {
        let energy = &self.measurement()?.energy;
        let residuals = energy.domains.iter().filter_map(|domain| domain.residual).chain(energy.residual);
        residuals.max_by(|a, b| a.abs().total_cmp(&b.abs()))
    }

    /// Energy of the GPUs' memory, if samples of its power cover enough of the window.
    pub(crate) fn memory(&self) -> Option<Joules> {
        let memory = self.measurement()?.energy.memory?;
        (memory.coverage >= COVERAGE_NEEDED).then_some(memory.energy_j)
    }

    /// Conditions of the GPU that ends hottest.
    pub(crate) fn hottest(&self) -> Option<&'a Conditions> {
        let known = self.measurement()?.conditions.iter().filter_map(|gpu| Some((gpu, gpu.temperature_end_c?)));
        known.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(gpu, _)| gpu)
    }

    /// A number of each GPU.
    pub(crate) fn over_gpus(&self, get: fn(&Conditions) -> Option<f64>) -> impl Iterator<Item = f64> {
        self.measurement().map(|m| m.conditions.as_slice()).unwrap_or_default().iter().filter_map(get)
    }

    /// Share of the window in which each clock event was active, on the GPU where it was active longest; `None` without
    /// telemetry.
    pub(super) fn clock_events(&self) -> Option<BTreeMap<ClockEvent, f64>> {
        let conditions = &self.measurement()?.conditions;
        let mut shares: BTreeMap<ClockEvent, f64> = BTreeMap::new();
        for (event, share) in conditions.iter().flat_map(|gpu| &gpu.clock_events) {
            let largest = shares.entry(*event).or_default();
            *largest = largest.max(*share);
        }
        (!conditions.is_empty()).then_some(shares)
    }
}

/// Whether a domain's name is that kind and a number: `gpu0`, `package-1`.
fn is_a(kind: &str, domain: &str) -> bool {
    let number = domain.strip_prefix(kind).unwrap_or_default();
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}
