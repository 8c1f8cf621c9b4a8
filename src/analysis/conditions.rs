//! Under which conditions the two sides of a comparison ran, and how much of their ratio that may explain.

use std::collections::BTreeSet;

use crate::frame::{CellSide, Energy};
use crate::record::{KernelsUsed, ModelInfo, RunInfo};
use crate::stats::mean;

/// The conditions of two compared cells.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PairConditions {
    /// Of the base.
    pub base: SideConditions,
    /// Of the new one.
    pub new: SideConditions,
    /// What the difference in core temperature may explain of ln(new / base): 0.01 is 1 % of the ratio. `None` if a
    /// temperature isn't known, or what a degree adds ([`super::HeatEffect`]) isn't shown: its interval holds 0.
    pub heat_share: Option<f64>,
}

/// Means over the valid windows of one side of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SideConditions {
    /// Temperature of the hottest GPU's core in °C, of start and end.
    pub temperature_c: Option<f64>,
    /// Temperature of its memory in °C.
    pub memory_temperature_c: Option<f64>,
    /// Clock of the multiprocessors in MHz.
    pub sm_clock_mhz: Option<f64>,
    /// Share of the time in which the power cap held the clocks down.
    pub power_cap: Option<f64>,
    /// Power limit in watts; `None` if it can't be read, or GPUs or starts differ in it.
    pub power_limit_w: Option<f64>,
}

/// What is known of the runs of the two sides, beyond their windows.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Surroundings {
    /// Power limit of the base in watts.
    pub(crate) base_limit_w: Option<f64>,
    /// Power limit of the new side in watts.
    pub(crate) new_limit_w: Option<f64>,
    /// Change of ln E for each °C of the core.
    pub(crate) share_per_c: Option<f64>,
}

impl PairConditions {
    pub(super) fn of(base: &CellSide, new: &CellSide, around: &Surroundings) -> Self {
        let base = SideConditions::of(base, around.base_limit_w);
        let new = SideConditions::of(new, around.new_limit_w);
        let warmer = new.temperature_c.zip(base.temperature_c).map(|(new, base)| new - base);
        let heat_share = warmer.zip(around.share_per_c).map(|(warmer, share)| warmer * share);
        Self { base, new, heat_share }
    }

    /// Something was read in the windows of both sides.
    pub(crate) fn is_known(&self) -> bool {
        let read = |side: &SideConditions| side.temperature_c.or(side.sm_clock_mhz).or(side.power_cap).is_some();
        read(&self.base) && read(&self.new)
    }
}

impl SideConditions {
    fn of(side: &CellSide, power_limit_w: Option<f64>) -> Self {
        let over = |get: fn(&Energy) -> Option<f64>| {
            let known: Vec<f64> = side.0.values().flatten().filter_map(get).collect();
            mean(&known).map(|estimate| estimate.value)
        };
        Self {
            temperature_c: over(|energy| energy.temperature_c),
            memory_temperature_c: over(|energy| energy.memory_temperature_c),
            sm_clock_mhz: over(|energy| energy.sm_clock_mhz),
            power_cap: over(|energy| energy.power_cap),
            power_limit_w,
        }
    }
}

/// The power limit in watts that all GPUs had in all starts of the runs.
pub(super) fn power_limit<'a>(runs: impl IntoIterator<Item = &'a RunInfo>) -> Option<f64> {
    let gpus = runs.into_iter().flat_map(|run| &run.parts).flat_map(|part| &part.meter.gpus);
    let mut limits = gpus.map(|gpu| gpu.power_limit_w.map(|limit| limit.0));
    let first = limits.next()??;
    limits.all(|limit| limit == Some(first)).then_some(first)
}

/// Whether of two models, each in runs of its own or in the same ones, one ran on plain operations and the other on
/// kernels for the same kind of device. What isn't recorded isn't held against them.
pub(super) fn unlike_kernels(base: (&[&RunInfo], &str), new: (&[&RunInfo], &str)) -> bool {
    let known: BTreeSet<_> = [base, new].into_iter().flat_map(|(runs, label)| operations(runs, label)).collect();
    known.iter().any(|(device, plain)| *plain && known.contains(&(device.clone(), false)))
}

/// On which kind of device a model ran, and whether on plain operations.
fn operations<'a>(runs: &'a [&RunInfo], label: &'a str) -> impl Iterator<Item = (BTreeSet<&'a str>, bool)> {
    let loaded = runs.iter().flat_map(|run| &run.parts).filter_map(move |part| part.models.get(label));
    loaded.filter_map(|info| Some((kinds(info), info.kernels? == KernelsUsed::Plain)))
}

/// The kinds of a model's devices: `cuda` for `cuda:0, cuda:1`.
fn kinds(info: &ModelInfo) -> BTreeSet<&str> {
    info.device.split(", ").map(|device| device.split(':').next().unwrap_or(device)).collect()
}
