//! What each stage of making the study took, by the library's meter: NVML on a GPU that is named by its UUID, RAPL or
//! else the modelled meter on the processor, as in a sweep.
//!
//! A record adds up its stages under the keys that a sweep file's `training:` reads (`seconds`, `energy_j`,
//! `energy_method`), and lists each stage with both sources, residual, idle power, conditions and validity.

use std::sync::atomic::AtomicBool;

use ept_sweep::calendar;
use ept_sweep::clock::Clock;
use ept_sweep::engine::load::{self, DeviceChoice};
use ept_sweep::error::Result;
use ept_sweep::host;
use ept_sweep::meter::span::{self, Rest, Span};
use ept_sweep::meter::{self, EngineGpu, Meter, MeterOptions};
use ept_sweep::record::{EnergyMethod, Host, IdleBaseline, MeterChoice, MeterInfo, TrainingCost};
use ept_sweep::units::{Joules, Seconds};
use serde::Serialize;

/// A stage of making a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StageName {
    /// Writing the held-out split and training the tokenizer.
    DataPreparation,
    TeacherTraining,
    /// With the teacher's forward pass in each step.
    StudentTraining,
    ControlTraining,
}

/// A stage as it was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Stage {
    pub name: StageName,
    #[serde(flatten)]
    pub span: Span,
}

/// What one product of the study took, and what measured it.
#[derive(Debug, Serialize)]
pub(crate) struct EnergyRecord {
    /// The sum of the stages.
    #[serde(flatten)]
    pub cost: TrainingCost,
    /// Nothing makes any of the stages unusable.
    pub valid: bool,
    pub stages: Vec<Stage>,
    pub meter: MeterInfo,
    pub host: Host,
    pub version: &'static str,
    pub git_revision: Option<String>,
    pub finished_at: String,
}

/// The meter of this machine, with the idle power that was found at the start.
pub(crate) struct Gauge {
    meter: Box<dyn Meter>,
    clock: Clock,
    idle: Option<IdleBaseline>,
}

impl Gauge {
    /// Opens the meter of a device and measures idle power, which takes up to half a minute on a GPU.
    ///
    /// # Errors
    /// Nothing here measures the device.
    pub(crate) fn open(device: DeviceChoice) -> Result<Self> {
        let gpu = device.gpu_index();
        let options = MeterOptions {
            engine_gpus: gpu.map(|ordinal| EngineGpu { ordinal, uuid: load::uuid(ordinal) }).into_iter().collect(),
            ..MeterOptions::default()
        };
        let clock = Clock::monotonic();
        let mut meter = meter::open(MeterChoice::Auto, &options, &clock)?;
        let rest = Rest::of(meter.info());
        let idle = span::idle_baseline(&mut *meter, &clock, rest, &AtomicBool::new(false))?;
        Ok(Self { meter, clock, idle })
    }

    /// Runs a stage and measures all of it.
    ///
    /// # Errors
    /// The work's error, or else the meter's.
    pub(crate) fn stage<T>(&mut self, name: StageName, work: impl FnOnce() -> Result<T>) -> Result<(T, Stage)> {
        let (value, span) = span::measure(&mut *self.meter, &self.clock, self.idle.clone(), work)?;
        Ok((value, Stage { name, span }))
    }

    /// The device that is measured, as records name it.
    pub(crate) fn device_name(&self) -> String {
        let gpu = self.meter.info().gpus.first().map(|gpu| gpu.name.clone());
        gpu.or_else(|| host::describe().cpu).unwrap_or_else(|| "CPU".to_owned())
    }

    /// The record of something that took these stages.
    pub(crate) fn record(&self, recipe: Option<&str>, stages: Vec<Stage>) -> EnergyRecord {
        EnergyRecord {
            cost: TrainingCost {
                recipe: recipe.map(str::to_owned),
                duration_s: Some(stages.iter().map(|stage| stage.span.duration_s).sum::<Seconds>()),
                energy_j: stages.iter().map(|stage| stage.span.energy.total_j).sum::<Option<Joules>>(),
                energy_method: weakest(&stages),
                device: Some(self.device_name()),
                ..TrainingCost::default()
            },
            valid: stages.iter().all(|stage| stage.span.validity.is_valid()),
            stages,
            meter: self.meter.info().clone(),
            host: host::describe(),
            version: host::VERSION,
            git_revision: host::git_revision(),
            finished_at: calendar::timestamp(),
        }
    }
}

/// A sum is no better than its weakest part; `None` where the energy of a part is unknown.
fn weakest(stages: &[Stage]) -> Option<EnergyMethod> {
    let methods: Option<Vec<EnergyMethod>> = stages.iter().map(|stage| stage.span.energy.method).collect();
    methods?.into_iter().max()
}
