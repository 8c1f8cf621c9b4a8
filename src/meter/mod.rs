//! Measuring energy: a meter records a [`Trace`] while work runs; [`integrate`](integrate::window_energy) turns it
//! into an energy between two instants, and [`judge`](judge::judge) says what speaks against it. Knows nothing of models
//! or sweeps.

pub mod conditions;
pub mod integrate;
pub mod judge;
mod modelled;
mod nvml;
mod rapl;
pub mod recompute;
pub mod sampler;
pub mod span;
mod survey;
mod synthetic;

use std::path::Path;

use serde::Serialize;

use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::record::{Domain, EnergyMethod, GpuInfo, MeterChoice, MeterInfo, ModelCoefficients, SourceInfo, Trace};
use crate::units::Seconds;

pub use modelled::Modelled;
pub use nvml::NvmlMeter;
pub use rapl::{Rapl, beside};
pub use sampler::Edge;
pub use synthetic::Synthetic;

/// Something that records energy or power over time.
pub trait Meter {
    /// What it is and what it can do here.
    fn info(&self) -> &MeterInfo;

    /// Starts recording. A trace that was under way is dropped.
    ///
    /// Every source has been read once when this returns, so that a clock read after it lies inside the trace.
    ///
    /// # Errors
    /// The source can't be read.
    fn start(&mut self) -> Result<()>;

    /// Stops recording, after the source's next update where it ticks, and gives what was recorded.
    ///
    /// # Errors
    /// The source failed while recording.
    fn stop(&mut self) -> Result<Trace>;

    /// Tells that an edge of a window comes soon or was passed, for sources that are too costly to be read closely all
    /// the time.
    fn edge(&mut self, edge: Edge) {
        let _ = edge;
    }

    /// Temperature in °C of the hottest device that is charged, where it can be read.
    fn temperature(&self) -> Option<f64> {
        None
    }
}

/// What a meter has to know about the work that it measures.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MeterOptions {
    /// The GPUs that the engine runs on: `auto` takes NVML only then, since the energy of an idle GPU isn't the model's.
    /// Empty: the engine runs on the processor.
    pub engine_gpus: Vec<EngineGpu>,
    /// NVML indices of the GPUs to charge; `None`: those that the engine runs on.
    pub gpu_indices: Option<Vec<u32>>,
    /// What the modelled meter computes with.
    pub coefficients: ModelCoefficients,
    /// Leave out the processor's counters next to the GPUs.
    pub without_cpu: bool,
}

/// A GPU as CUDA names it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EngineGpu {
    /// CUDA's ordinal in this process.
    pub ordinal: usize,
    /// `GPU-…`, where CUDA tells it: the only name that NVML and CUDA share for certain.
    pub uuid: Option<String>,
}

/// Sources of other domains that are recorded next to a meter's own: the processor's next to the GPUs.
pub struct Beside {
    /// What they cover.
    pub domains: Vec<Domain>,
    /// What they can do, as measured now.
    pub infos: Vec<SourceInfo>,
    /// What is read.
    pub sources: Vec<sampler::Source>,
}

/// What one meter can do on this machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SourceReport {
    /// The meter.
    pub name: MeterChoice,
    /// It can be used here and now.
    pub available: bool,
    /// How its energies are labelled.
    pub method: EnergyMethod,
    /// What it covers, with descriptions.
    pub domains: Vec<Domain>,
    /// Time between two updates of its primary source.
    pub tick_s: Option<Seconds>,
    /// Every source that was looked for, with what was measured now; also where they can't be used.
    pub sources: Vec<SourceInfo>,
    /// The GPUs that it covers.
    pub gpus: Vec<GpuInfo>,
    /// What a reader has to know, or why it isn't available.
    pub detail: Vec<String>,
    /// What makes it available.
    pub how_to_get_it: Option<String>,
    /// The meter as a run would record it, where it is available.
    #[serde(skip)]
    pub info: Option<MeterInfo>,
}

/// Opens a meter.
///
/// # Errors
/// The meter that was asked for isn't available here; with `auto`, not even the modelled one.
pub fn open(choice: MeterChoice, options: &MeterOptions, clock: &Clock) -> Result<Box<dyn Meter>> {
    match (choice, clock) {
        (MeterChoice::Auto | MeterChoice::Synthetic, Clock::Simulated(device)) => {
            Ok(Box::new(Synthetic::new(device.clone())))
        }
        (_, Clock::Simulated(_)) => Err(Error::input(format!("meter `{choice}` can't measure a simulated device"))
            .hint("use `synthetic` or `auto` with the synthetic engine")),
        (MeterChoice::Synthetic, _) => Err(Error::input("meter `synthetic` measures only the synthetic engine")
            .hint("use `auto`, or give every model the synthetic engine")),
        (MeterChoice::Auto, _) => open_best(options, clock),
        (named, _) => {
            open_one(named, options, clock).map_err(|why| why.at(format!("meter `{named}` is not available")))
        }
    }
}

fn open_one(choice: MeterChoice, options: &MeterOptions, clock: &Clock) -> Result<Box<dyn Meter>> {
    Ok(match choice {
        MeterChoice::Nvml => {
            // the processor is measured where it can be; what is missing, `ept-sweep meter` says
            let beside = if options.without_cpu { None } else { rapl::beside(Path::new(rapl::POWERCAP)).ok() };
            let listed = options.gpu_indices.as_deref();
            Box::new(NvmlMeter::open(listed, &options.engine_gpus, beside, clock)?)
        }
        MeterChoice::Rapl => Box::new(Rapl::open(Path::new(rapl::POWERCAP), clock)?),
        _ => Box::new(Modelled::open(options.coefficients, clock)?),
    })
}

/// The first meter in order that opens; what had to be passed over is in its notes.
fn open_best(options: &MeterOptions, clock: &Clock) -> Result<Box<dyn Meter>> {
    let mut passed_over = Vec::new();
    for &choice in candidates(!options.engine_gpus.is_empty()) {
        match open_one(choice, options, clock) {
            Ok(meter) => return Ok(Box::new(Noted::new(meter, notes(options, passed_over)))),
            Err(why) => passed_over.push(format!("{choice} is not available: {}", why.message())),
        }
    }
    let message = format!("nothing here measures what the models run on: {}", passed_over.join("; "));
    Err(Error::input(message).hint("`ept-sweep meter` says what is missing; `--device cpu` runs on the processor"))
}

fn notes(options: &MeterOptions, mut passed_over: Vec<String>) -> Vec<String> {
    if options.engine_gpus.is_empty() && options.gpu_indices.is_some() {
        passed_over.push("`gpu_indices` has no effect: the model doesn't run on a GPU".into());
    }
    passed_over
}

/// Everything that measures real work, the best first.
const REAL: [MeterChoice; 3] = [MeterChoice::Nvml, MeterChoice::Rapl, MeterChoice::Modelled];

/// What `auto` tries, in order: only what covers the device that the models run on, since the energy of another device
/// would be a silent substitution.
fn candidates(engine_on_gpu: bool) -> &'static [MeterChoice] {
    if engine_on_gpu { &REAL[..1] } else { &REAL[1..] }
}

/// A meter with notes about how it was chosen.
struct Noted {
    meter: Box<dyn Meter>,
    info: MeterInfo,
}

impl Noted {
    fn new(meter: Box<dyn Meter>, notes: Vec<String>) -> Self {
        let mut info = meter.info().clone();
        info.notes.extend(notes);
        Self { meter, info }
    }
}

impl Meter for Noted {
    fn info(&self) -> &MeterInfo {
        &self.info
    }

    fn start(&mut self) -> Result<()> {
        self.meter.start()
    }

    fn stop(&mut self) -> Result<Trace> {
        self.meter.stop()
    }

    fn edge(&mut self, edge: Edge) {
        self.meter.edge(edge);
    }

    fn temperature(&self) -> Option<f64> {
        self.meter.temperature()
    }
}

/// What each meter can do on this machine, the best first. Opening each takes a second or two.
pub fn probe(options: &MeterOptions) -> Vec<SourceReport> {
    let clock = Clock::monotonic();
    REAL.iter().map(|&choice| report(choice, open_one(choice, options, &clock))).collect()
}

fn report(choice: MeterChoice, opened: Result<Box<dyn Meter>>) -> SourceReport {
    match opened {
        Ok(meter) => {
            let info = meter.info();
            SourceReport {
                name: choice,
                available: true,
                method: info.method,
                domains: info.domains.clone(),
                tick_s: info.tick_s,
                sources: info.sources.clone(),
                gpus: info.gpus.clone(),
                detail: info.notes.clone(),
                how_to_get_it: None,
                info: Some(info.clone()),
            }
        }
        Err(why) => SourceReport {
            name: choice,
            available: false,
            method: usual_method(choice),
            domains: Vec::new(),
            tick_s: None,
            sources: if choice == MeterChoice::Rapl { rapl::found(Path::new(rapl::POWERCAP)) } else { Vec::new() },
            gpus: Vec::new(),
            detail: vec![why.message().to_owned()],
            how_to_get_it: why.hint_text().map(str::to_owned),
            info: None,
        },
    }
}

fn usual_method(choice: MeterChoice) -> EnergyMethod {
    match choice {
        MeterChoice::Auto | MeterChoice::Nvml | MeterChoice::Rapl => EnergyMethod::Counter,
        MeterChoice::Modelled => EnergyMethod::Modelled,
        MeterChoice::Synthetic => EnergyMethod::Simulated,
    }
}

/// Records while `work` runs, so that no recording stays open when it fails; `work` may tell the meter of edges.
///
/// Where the source ticks, the work should do guard work of its own at both edges; without it the tick after the
/// window falls into whatever follows.
///
/// # Errors
/// The work's error, or else the meter's.
pub fn recording<T>(meter: &mut dyn Meter, work: impl FnOnce(&mut dyn Meter) -> Result<T>) -> Result<(T, Trace)> {
    let failed = |why: Error| why.kind(Kind::Meter);
    meter.start().map_err(failed)?;
    let result = work(meter);
    let trace = meter.stop().map_err(failed);
    Ok((result?, trace?))
}

/// Records while `work` runs: the work's result, the instants right before and after it, and readings from before the
/// one to after the other.
///
/// # Errors
/// The work's error, or else the meter's.
pub fn during<T>(
    meter: &mut dyn Meter,
    clock: &Clock,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, Seconds, Seconds, Trace)> {
    let ((value, t0, t1), trace) = recording(meter, |meter| {
        meter.edge(Edge::Soon);
        let t0 = clock.now();
        let value = work()?;
        let t1 = clock.now();
        meter.edge(Edge::Passed);
        Ok((value, t0, t1))
    })?;
    Ok((value, t0, t1, trace))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SimulatedDevice;
    use crate::units::Watts;

    fn simulated() -> Clock {
        Clock::Simulated(SimulatedDevice::new(Watts(60.0)))
    }

    #[test]
    fn auto_on_a_simulated_device_is_the_synthetic_meter() {
        let meter = open(MeterChoice::Auto, &MeterOptions::default(), &simulated()).unwrap();
        assert_eq!(meter.info().name, "synthetic");
    }

    #[test]
    fn a_real_meter_does_not_measure_a_simulated_device_nor_the_other_way_round() {
        for choice in [MeterChoice::Nvml, MeterChoice::Rapl, MeterChoice::Modelled] {
            assert!(open(choice, &MeterOptions::default(), &simulated()).is_err(), "{choice}");
        }
        assert!(open(MeterChoice::Synthetic, &MeterOptions::default(), &Clock::monotonic()).is_err());
    }

    #[test]
    fn auto_does_not_look_at_gpus_when_the_engine_runs_on_the_processor() {
        assert_eq!(candidates(false), [MeterChoice::Rapl, MeterChoice::Modelled]);
        assert_eq!(candidates(true), [MeterChoice::Nvml], "no other device's energy passes for the GPU's");
    }

    #[test]
    fn a_failure_of_the_work_closes_the_recording() {
        let clock = simulated();
        let mut meter = open(MeterChoice::Synthetic, &MeterOptions::default(), &clock).unwrap();
        let failed: Result<((), Seconds, Seconds, Trace)> =
            during(meter.as_mut(), &clock, || Err(Error::new("engine failed")));
        assert_eq!(failed.unwrap_err().message(), "engine failed");
        assert!(meter.stop().is_err(), "nothing is being recorded any more");
    }

    #[test]
    fn every_source_says_what_it_can_do_or_why_not() {
        let reports = probe(&MeterOptions::default());
        let names: Vec<MeterChoice> = reports.iter().map(|report| report.name).collect();
        assert_eq!(names, [MeterChoice::Nvml, MeterChoice::Rapl, MeterChoice::Modelled]);
        for report in reports {
            assert!(!report.detail.is_empty(), "{report:?}");
            assert_eq!(report.available, !report.domains.is_empty(), "{report:?}");
        }
    }

    #[test]
    fn choices_are_written_as_the_sweep_file_spells_them() {
        for choice in [MeterChoice::Auto, MeterChoice::Nvml, MeterChoice::Modelled] {
            assert_eq!(serde_json::to_value(choice).unwrap(), choice.to_string());
        }
    }
}
