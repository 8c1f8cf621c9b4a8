//! Every rule and threshold that makes a trial's number unusable or doubtful. Pure: takes facts, gives reasons.
//!
//! A trial's line is written before the baseline after it is measured, so the reason that needs both
//! ([`Reason::IdleDrift`]) is added when records are read.

use crate::record::{
    Around, ClockEvent, Conditions, EnergyMethod, IdleBaseline, Measurement, MeterInfo, Reason, Validity, WindowEnergy,
};
use crate::units::{Seconds, Tokens};

/// A |residual| above so many of the standard deviations that the two sources' resolution explains is a warning: 1 in 370
/// windows by chance.
pub(crate) const RESIDUAL_NOTICEABLE: f64 = 3.0;
/// A |residual| above so many makes a window invalid: resolution doesn't explain it, one of the sources is wrong.
pub const RESIDUAL_TOO_LARGE: f64 = 8.0;
/// The edges of a window leave this share of its energy open: half of what a comparison calls no difference.
const EDGES_UNCERTAIN: f64 = 0.005;
/// Power samples have to cover this share of a window: what a hole of 5 % can hide is as large as the residual that
/// makes a window invalid.
pub(crate) const COVERAGE_NEEDED: f64 = 0.95;

/// A GPU that warms by more °C over a window leaks noticeably more at its end than at its start.
const TEMPERATURE_DRIFT: f64 = 3.0;

/// Fewer repetitions than this can't lock on to anything.
const LOCK_AT_LEAST: u64 = 10;
/// Work whose phase goes around so many times over a window is seen at all of its phases, more or less evenly.
const ROUNDS_NEEDED: f64 = 3.0;
/// Work that repeats faster than this share of the sensor's period is smoothed by the board before the sensor sees it.
const FASTEST_LOCKED: f64 = 0.25;
/// Work that takes more than so many of the sensor's periods is covered by many looks each time.
const LONGEST_LOCKED: f64 = 10.0;
/// Bytes of weights that may stay in a GPU's cache from one step to the next: more than any GPU has.
const CACHE: f64 = 128e6;

/// Idle power before and after a model's load may differ by this share of the net power, from which their mean is
/// subtracted.
const IDLE_DRIFT: f64 = 0.02;

/// Reasons that come from the work: no reading shows them.
const FROM_THE_WORK: [Reason; 2] = [Reason::NondeterministicOutput, Reason::NotSteady];
/// Reasons that need the tokens or batches of the window: those of a part of it aren't known.
const FROM_THE_WHOLE: [Reason; 2] = [Reason::PhysicallyImpossible, Reason::PhaseLocked];

/// Why a counter gives no energy for a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CounterFault {
    /// It went backwards inside the window.
    Reset,
    /// It stood still although it should tick.
    Stuck,
    /// Its readings don't reach from one edge to the other.
    NotCovered,
}

/// What the sources of one charged domain showed of a window.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Evidence {
    /// Whether the energy counter gave an energy; `None` if there is no counter.
    pub(crate) counter: Option<Result<(), CounterFault>>,
    /// `None` if there are no power samples.
    pub(crate) power: Option<PowerEvidence>,
    /// How closely the counter's ticks at both edges are known: ± so many seconds.
    pub(crate) edges: Option<(Seconds, Seconds)>,
    /// (counter − integral) / counter.
    pub(crate) residual: Option<f64>,
    /// What the resolution of both sources explains of it: one standard deviation, as a share.
    pub(crate) residual_sd: Option<f64>,
}

/// What the power samples of a domain showed of a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct PowerEvidence {
    /// Share of the window that lies close enough to a sample.
    pub(crate) coverage: f64,
    /// The samples are averages of the last second.
    pub(crate) averaged: bool,
}

/// The work in a window, and when it was done.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Work {
    /// Start of the window.
    pub t0: Seconds,
    /// End of the window.
    pub t1: Seconds,
    /// Batches that ran inside the window, over all passes; 0 for work without batches.
    pub batches: u32,
    /// Decode steps after the first token of each batch, over all batches.
    pub decode_steps: u64,
    /// Mean duration of a decode step; `None` if the engine doesn't report its first tokens.
    pub step: Option<Seconds>,
    /// Generated inside the window: end-of-sequence tokens count, padding doesn't.
    pub tokens_out: Tokens,
    /// Sequences decoded together, at most.
    pub batch_size: usize,
    /// Bytes of the weights that a decode step reads.
    pub weight_bytes: Option<u64>,
    /// Temperature or speed still changed when the longest warm-up ended.
    pub unsteady: bool,
    /// Two passes over the same prompts gave different tokens.
    pub outputs_differ: bool,
}

/// The facts of a window that decide whether its energy may be used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts<'a> {
    pub(crate) energy: &'a WindowEnergy,
    /// One entry for each charged domain; empty if nothing could be measured.
    pub(crate) evidence: &'a [Evidence],
    /// One entry for each GPU.
    pub(crate) conditions: &'a [Conditions],
    pub(crate) meter: &'a MeterInfo,
    pub(crate) idle: Option<&'a IdleBaseline>,
    pub(crate) work: &'a Work,
}

/// All reasons of a window but [`Reason::IdleDrift`], which needs the baseline after it.
pub(crate) fn of_window(facts: &Facts<'_>) -> Validity {
    let mut validity = Validity::default();
    of_energy(facts, &mut validity);
    of_conditions(facts.conditions, &mut validity);
    let Validity { invalid_reasons, warnings } = &mut validity;
    let Facts { energy, meter, work, idle, .. } = facts;
    push_if(invalid_reasons, is_impossible(energy, meter, work, *idle), Reason::PhysicallyImpossible);
    push_if(warnings, is_phase_locked(meter.sensing_period_s, work), Reason::PhaseLocked);
    push_if(warnings, meter.gpus.iter().any(|gpu| gpu.mig), Reason::MigShared);
    push_if(warnings, work.outputs_differ, Reason::NondeterministicOutput);
    push_if(warnings, work.unsteady, Reason::NotSteady);
    validity
}

/// The reasons of one long piece of work, such as training. A short window represents a steady state, which warming
/// spoils; here warming up is part of the work. So is slowing down because of heat: it took what it took, but the same
/// work takes something else on a cooler machine.
pub(crate) fn of_single_work(mut validity: Validity) -> Validity {
    validity.warnings.retain(|reason| *reason != Reason::TemperatureDrift);
    let throttled = validity.invalid_reasons.contains(&Reason::Throttled);
    validity.invalid_reasons.retain(|reason| *reason != Reason::Throttled);
    push_if(&mut validity.warnings, throttled, Reason::Throttled);
    validity
}

/// The reasons of a window that was recomputed from its readings, with those of its record that the readings can't
/// show; of a part of a window, also with those that only the whole of it can show.
pub(crate) fn with_record(mut recomputed: Validity, stored: &Validity, whole: bool) -> Validity {
    let kept = |reason: &&Reason| FROM_THE_WORK.contains(reason) || (!whole && FROM_THE_WHOLE.contains(reason));
    recomputed.invalid_reasons.extend(stored.invalid_reasons.iter().filter(kept));
    recomputed.warnings.extend(stored.warnings.iter().filter(kept));
    recomputed
}

/// The reasons of a trial with the baselines around it: those that it was stored with, and [`Reason::IdleDrift`].
pub(crate) fn with_baselines(measurement: &Measurement, around: &Around<'_>) -> Validity {
    let mut validity = measurement.validity.clone();
    let new = !validity.warnings.contains(&Reason::IdleDrift);
    push_if(&mut validity.warnings, new && idle_drifted(measurement, around), Reason::IdleDrift);
    validity
}

fn push_if(reasons: &mut Vec<Reason>, holds: bool, reason: Reason) {
    if holds {
        reasons.push(reason);
    }
}

fn of_energy(facts: &Facts<'_>, validity: &mut Validity) {
    let Facts { energy, evidence, meter, work, .. } = facts;
    let Validity { invalid_reasons, warnings } = validity;
    let duration = work.t1 - work.t0;
    let too_short = duration < meter.min_window_s || duration <= Seconds(0.0);
    push_if(invalid_reasons, too_short, Reason::WindowTooShort);
    if evidence.is_empty() {
        invalid_reasons.push(Reason::NoEnergySource);
        return;
    }
    invalid_reasons.extend(evidence.iter().filter_map(Evidence::fault));
    of_residual(energy, evidence, invalid_reasons, warnings);
    push_if(warnings, evidence.iter().any(|domain| domain.has_uncertain_edges(duration)), Reason::EdgesUncertain);
    push_if(warnings, evidence.iter().any(Evidence::is_thinly_confirmed), Reason::CoverageTooLow);
    push_if(warnings, evidence.iter().any(Evidence::is_averaged), Reason::AveragedPower);
    let modelled = energy.domains.iter().any(|domain| domain.method == EnergyMethod::Modelled);
    push_if(warnings, modelled, Reason::Modelled);
    // several domains may have the same fault
    invalid_reasons.sort();
    invalid_reasons.dedup();
}

fn of_residual(
    energy: &WindowEnergy,
    evidence: &[Evidence],
    invalid_reasons: &mut Vec<Reason>,
    warnings: &mut Vec<Reason>,
) {
    // domain by domain, too: in the sum, errors of two GPUs in opposite directions cancel out
    let domains = evidence.iter().map(|domain| (domain.residual, domain.residual_sd));
    let all = domains.chain([(energy.residual, energy.residual_sd)]);
    let deviations = all.filter_map(|(residual, sd)| Some(residual?.abs() / sd.filter(|sd| *sd > 0.0)?));
    match deviations.reduce(f64::max) {
        Some(times) if times > RESIDUAL_TOO_LARGE => invalid_reasons.push(Reason::ResidualTooLarge),
        Some(times) if times > RESIDUAL_NOTICEABLE => warnings.push(Reason::ResidualNoticeable),
        _ => {}
    }
}

impl Evidence {
    /// Why the domain has no usable energy.
    fn fault(&self) -> Option<Reason> {
        match (self.counter, self.power) {
            (Some(Ok(())), _) => None,
            (Some(Err(CounterFault::Reset)), _) => Some(Reason::CounterReset),
            (Some(Err(CounterFault::Stuck)), _) => Some(Reason::CounterStuck),
            (Some(Err(CounterFault::NotCovered)), _) => Some(Reason::CoverageTooLow),
            (None, Some(power)) => (power.coverage < COVERAGE_NEEDED).then_some(Reason::CoverageTooLow),
            (None, None) => Some(Reason::NoEnergySource),
        }
    }

    /// The counter's energy is usable, but the power that should confirm it has holes.
    fn is_thinly_confirmed(&self) -> bool {
        self.counter.is_some() && self.power.is_some_and(|power| power.coverage < COVERAGE_NEEDED)
    }

    fn is_averaged(&self) -> bool {
        self.power.is_some_and(|power| power.averaged)
    }

    fn has_uncertain_edges(&self, duration: Seconds) -> bool {
        self.edges.is_some_and(|edges| are_uncertain(edges, duration))
    }
}

/// Whether ticks at the edges of a window that are known only so closely leave too much of its energy open.
pub(crate) fn are_uncertain((start, end): (Seconds, Seconds), duration: Seconds) -> bool {
    (start + end).0 > EDGES_UNCERTAIN * duration.0
}

fn of_conditions(conditions: &[Conditions], validity: &mut Validity) {
    let Validity { invalid_reasons, warnings } = validity;
    let foreign = |gpu: &Conditions| gpu.foreign_processes.is_some_and(|others| others > 0);
    let throttled = |gpu: &Conditions| gpu.clock_events.keys().any(|event| is_slowdown(*event));
    let warmed = |gpu: &Conditions| {
        let ends = gpu.temperature_start_c.zip(gpu.temperature_end_c);
        ends.is_some_and(|(start, end)| (end - start).abs() > TEMPERATURE_DRIFT)
    };
    push_if(invalid_reasons, conditions.iter().any(foreign), Reason::ForeignProcess);
    push_if(invalid_reasons, conditions.iter().any(throttled), Reason::Throttled);
    push_if(warnings, conditions.iter().any(warmed), Reason::TemperatureDrift);
}

/// Heat and hardware protection aren't a GPU's normal state. The power cap is, at full load.
fn is_slowdown(event: ClockEvent) -> bool {
    match event {
        ClockEvent::HardwareSlowdown
        | ClockEvent::SoftwareThermal
        | ClockEvent::HardwareThermal
        | ClockEvent::PowerBrake => true,
        ClockEvent::Idle | ClockEvent::ApplicationClocks | ClockEvent::SoftwarePowerCap | ClockEvent::SyncBoost => {
            false
        }
    }
}

/// Whether batches or decode steps repeat so nearly in step with the sensor (or with twice or half its rhythm) that their
/// phase goes around fewer than [`ROUNDS_NEEDED`] times over the whole window.
fn is_phase_locked(sensing: Option<Seconds>, work: &Work) -> bool {
    let Some(sensing) = sensing.filter(|period| period.0 > 0.0) else { return false };
    let duration = work.t1 - work.t0;
    let steps = work.step.filter(|step| step.0 > 0.0).map(|step| ((duration.0 / step.0).round() as u64, step));
    let batches = (work.batches > 0).then(|| (u64::from(work.batches), duration * (1.0 / f64::from(work.batches))));
    steps.into_iter().chain(batches).any(|(times, period)| locks(period.0 / sensing.0, times))
}

/// Whether work that repeats `times` times with a period of so many periods of a sensor is seen at few of its phases.
fn locks(period: f64, times: u64) -> bool {
    let shifts_little = |multiple: u64| {
        let (beats, times) = (period * multiple as f64, times / multiple);
        (beats - beats.round()).abs() * (times as f64) < ROUNDS_NEEDED && beats.round() >= 1.0 && times >= LOCK_AT_LEAST
    };
    (FASTEST_LOCKED..=LONGEST_LOCKED).contains(&period) && (1..=2).any(shifts_little)
}

/// Whether a token took less energy than it takes to read the weights once, even at idle power: one step reads every
/// weight and makes at most one token for each sequence of the batch.
fn is_impossible(energy: &WindowEnergy, meter: &MeterInfo, work: &Work, idle: Option<&IdleBaseline>) -> bool {
    let bandwidth: Option<f64> = meter.gpus.iter().map(|gpu| gpu.bandwidth).sum();
    let bound = bandwidth.filter(|bytes| *bytes > 0.0).zip(work.weight_bytes).zip(idle);
    let (Some(((bandwidth, weights), idle)), Some(total)) = (bound, energy.total_j) else { return false };
    let step_s = (weights as f64 - CACHE).max(0.0) / bandwidth;
    let steps = work.tokens_out.get() as f64 / work.batch_size.max(1) as f64;
    total < idle.power_w * Seconds(step_s * steps)
}

/// Whether idle power changed by too much for the net energy to be known.
fn idle_drifted(measurement: &Measurement, around: &Around<'_>) -> bool {
    let net = || {
        let power = measurement.energy.total_j? / measurement.window.duration();
        Some((power - around.power()?).get().max(0.0))
    };
    around.drift().zip(net()).is_some_and(|(drift, net)| drift.get().abs() > IDLE_DRIFT * net)
}
