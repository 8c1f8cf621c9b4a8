//! NVIDIA's management library: the energy counter, the power samples and the telemetry of GPUs. The sole user
//! of nvml-wrapper.
//!
//! How often each is read depends on what a reading costs. On an H100 (driver 580) the counter takes 3 to 5 ms of
//! processor time, so it is read closely at a window's edges only; one call a second fetches all power samples from the
//! driver's own ring; the rest takes tens of microseconds.

mod gpu;
mod memory;
mod neighbours;
mod probe;
mod ring;
mod which;

use std::sync::OnceLock;

use nvml_wrapper::Nvml;
use nvml_wrapper::error::NvmlError;

use self::gpu::Gpu;
use super::options::EngineGpu;
use super::process_tree::ProcessTree;
use super::recording::Meter;
use super::sampled::HostSources;
use super::sampler::{Edge, Sampler, Source};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::record::{EnergyMethod, MeterInfo, SourceInfo, Trace};
use crate::units::Seconds;

const NAME: &str = "nvml";

/// 50 ticks of the counter: an edge that is off by a quarter of a tick costs 0.5 %.
const MIN_WINDOW_TICKS: f64 = 50.0;
/// Two ticks of the counter and their jitter inside the load at each edge.
const GUARD: Seconds = Seconds(0.3);
/// The same if power is the average of the last second, which ends half a second late.
const GUARD_AVERAGED: Seconds = Seconds(0.8);
/// 200 ticks of the counter.
const IDLE: Seconds = Seconds(20.0);
/// Counter and ring rest on looks at the power that come every 20 ms or so: a square wave of 20.2 ms beats in both, and one
/// of 101 ms in neither (H100, driver 580).
const SENSING_PERIOD: Seconds = Seconds(0.02);
/// The power fields show one instant of every 100 ms: work of that period beats in them.
const SENSING_PERIOD_OF_FIELDS: Seconds = Seconds(0.1);

/// A meter of GPUs.
pub struct NvmlMeter {
    info: MeterInfo,
    sampler: Sampler,
}

impl NvmlMeter {
    /// Opens the GPUs with these NVML indices; `None` takes those that the engine runs on: by the UUIDs that CUDA gives
    /// them, else by their ordinals among those that `CUDA_VISIBLE_DEVICES` names (by index, by `GPU-…` UUID or its
    /// beginning).
    ///
    /// Every source is tried once: how often it updates and what a reading costs are measured, which takes about a
    /// second for each GPU. The processor's sources in `host` are recorded as well.
    ///
    /// # Errors
    /// There is no driver, no such GPU, a GPU is split by MIG (unless it was listed), or a GPU shows neither energy
    /// nor power.
    pub fn open(
        gpu_indices: Option<&[u32]>,
        engine_gpus: &[EngineGpu],
        host: Option<HostSources>,
        clock: &Clock,
    ) -> Result<Self> {
        let nvml = library()?;
        let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
        let uuids = which::uuids(nvml)?;
        let indices = which::choose(gpu_indices, visible.as_deref(), engine_gpus, &uuids)?;
        let used = which::used(visible.as_deref(), engine_gpus, &uuids);
        let open = |&index| Gpu::open(nvml, index, gpu_indices.is_some(), used.contains(&index));
        let gpus = indices.iter().map(open).collect::<Result<Vec<_>>>()?;
        Ok(Self::of(gpus, host, clock))
    }

    /// The same for a command, which may use any GPU: without a list, those that `CUDA_VISIBLE_DEVICES` names, or all.
    /// Processes of the command aren't foreign.
    ///
    /// # Errors
    /// As [`NvmlMeter::open`].
    pub fn open_for_command(
        gpu_indices: Option<&[u32]>,
        command: &ProcessTree,
        host: Option<HostSources>,
        clock: &Clock,
    ) -> Result<Self> {
        let nvml = library()?;
        let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
        let indices = which::visible(gpu_indices, visible.as_deref(), &which::uuids(nvml)?)?;
        let open = |&index| Ok(Gpu::open(nvml, index, gpu_indices.is_some(), false)?.used_by(command.clone()));
        let gpus = indices.iter().map(open).collect::<Result<Vec<_>>>()?;
        Ok(Self::of(gpus, host, clock))
    }

    fn of(gpus: Vec<Gpu>, host: Option<HostSources>, clock: &Clock) -> Self {
        let mut info = info(&gpus);
        let mut sources: Vec<Source> = gpus.into_iter().flat_map(Gpu::sources).collect();
        if let Some(host) = host {
            info.host_domains = host.domains;
            info.sources.extend(host.infos);
            sources.extend(host.sources);
        }
        Self { info, sampler: Sampler::new(sources, clock.clone()) }
    }

    /// With further notes for the reader.
    pub(super) fn noting(mut self, notes: Vec<String>) -> Self {
        self.info.notes.extend(notes);
        self
    }
}

impl Meter for NvmlMeter {
    fn info(&self) -> &MeterInfo {
        &self.info
    }

    fn start(&mut self) -> Result<()> {
        self.sampler.start()
    }

    fn stop(&mut self) -> Result<Trace> {
        self.sampler.stop()
    }

    fn edge(&mut self, edge: Edge) {
        self.sampler.edge(edge);
    }

    fn so_far(&mut self, from: Seconds) -> Option<Trace> {
        self.sampler.so_far(from)
    }
}

/// The library, loaded once for the life of the process.
fn library() -> Result<&'static Nvml> {
    static LIBRARY: OnceLock<Result<Nvml>> = OnceLock::new();
    LIBRARY.get_or_init(|| Nvml::init().map_err(|why| unavailable(&why))).as_ref().map_err(Error::clone)
}

fn unavailable(why: &NvmlError) -> Error {
    match why {
        NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound => {
            Error::new("the NVIDIA management library (`libnvidia-ml.so.1`) is not installed")
                .with_hint("it comes with the NVIDIA driver; in a container, start it with access to the GPUs")
        }
        NvmlError::DriverNotLoaded => Error::new("the NVIDIA driver is not loaded").with_hint("try `nvidia-smi`"),
        other => {
            Error::new(format!("the NVIDIA management library doesn't start: {other}")).with_hint("try `nvidia-smi`")
        }
    }
}

fn info(gpus: &[Gpu]) -> MeterInfo {
    let has_counters = gpus.iter().all(Gpu::has_counter);
    let tick = gpus.iter().map(Gpu::primary_tick).map(Seconds::get).fold(0.0, f64::max);
    let averaged = gpus.iter().any(Gpu::is_averaged);
    let sources: Vec<SourceInfo> = gpus.iter().flat_map(|gpu| gpu.source_infos().to_vec()).collect();
    MeterInfo {
        name: NAME.into(),
        method: if has_counters { EnergyMethod::Counter } else { EnergyMethod::PowerIntegral },
        domains: gpus.iter().map(|gpu| gpu.domain().clone()).collect(),
        tick_s: Some(Seconds(tick)),
        // the nominal 100 ms of the counter, not what was measured: presets must not change from start to start
        min_window_s: Seconds(if tick < 0.05 { 1.0 } else { 0.1 * MIN_WINDOW_TICKS }),
        guard_s: if averaged { GUARD_AVERAGED } else { GUARD },
        idle_s: IDLE,
        notes: gpus.iter().flat_map(|gpu| gpu.notes().to_vec()).collect(),
        host_domains: Vec::new(),
        sensing_period_s: Some(if gpus.iter().all(Gpu::looks_often) {
            SENSING_PERIOD
        } else {
            SENSING_PERIOD_OF_FIELDS
        }),
        sources,
        gpus: gpus.iter().map(|gpu| gpu.info().clone()).collect(),
    }
}
