//! NVIDIA's management library: the energy counter and the power sensor of GPUs. The one door to nvml-wrapper.

use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id::NVML_FI_DEV_POWER_INSTANT;
use nvml_wrapper::{Device, Nvml};

use super::Meter;
use super::sampler::{Read, Sampler, Source};
use crate::clock::Clock;
use crate::error::{Context, Error, Result};
use crate::record::{Domain, EnergyMethod, MeterInfo, Quantity, Trace};
use crate::units::Seconds;

/// Name of the meter.
pub const NAME: &str = "nvml";

/// Counter and sensor are updated ten times a second (69.9 to 103.1 ms were seen on an H100, driver 580).
const TICK: Seconds = Seconds(0.1);
/// Twice a tick: a tick is then known to ±25 ms. Each call costs about 5 ms of the sampler's thread on an H100.
const COUNTER_PERIOD: Seconds = Seconds(0.05);
/// Between two updates of the sensor a call costs microseconds.
const POWER_PERIOD: Seconds = Seconds(0.02);
/// 50 ticks: an edge that is off by a quarter of a tick costs 0.5 %.
const MIN_WINDOW: Seconds = Seconds(5.0);
/// Two ticks and their jitter inside the load at each edge.
const GUARD: Seconds = Seconds(0.3);
/// Clocks and the sensor's trailing average settle within seconds; the rest is averaging.
const IDLE: Seconds = Seconds(20.0);
/// A live counter ticks within this time.
const MOVES_WITHIN: Duration = Duration::from_millis(350);

/// The NVML meter.
pub struct NvmlMeter {
    info: MeterInfo,
    sampler: Sampler,
}

impl NvmlMeter {
    /// Opens the GPUs with these NVML indices; `None` takes the one that the engine runs on, by its CUDA ordinal among
    /// those that `CUDA_VISIBLE_DEVICES` names (by index, by `GPU-…` UUID or its beginning).
    ///
    /// NVML numbers GPUs by PCI bus; CUDA does so only with `CUDA_DEVICE_ORDER=PCI_BUS_ID`. UUIDs are never
    /// ambiguous.
    ///
    /// # Errors
    /// There is no driver, no such GPU, a GPU is split by MIG (unless it was listed), or a GPU shows neither energy
    /// nor power.
    pub fn open(gpu_indices: Option<&[u32]>, engine_gpus: &[usize], clock: &Clock) -> Result<Self> {
        let nvml = library()?;
        let visible = std::env::var("CUDA_VISIBLE_DEVICES").ok();
        let indices = choose(gpu_indices, visible.as_deref(), engine_gpus, &uuids(nvml)?)?;
        let gpus =
            indices.iter().map(|&index| Gpu::open(nvml, index, gpu_indices.is_some())).collect::<Result<Vec<_>>>()?;
        let info = info(nvml, &gpus);
        let sources = gpus.into_iter().flat_map(Gpu::sources).collect();
        Ok(Self { info, sampler: Sampler::new(sources, clock.clone()) })
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
                .hint("it comes with the NVIDIA driver; in a container, start it with access to the GPUs")
        }
        NvmlError::DriverNotLoaded => Error::new("the NVIDIA driver is not loaded").hint("try `nvidia-smi`"),
        other => Error::new(format!("the NVIDIA management library doesn't start: {other}")).hint("try `nvidia-smi`"),
    }
}

/// The UUID of each GPU by index; empty where a GPU may not be asked.
fn uuids(nvml: &Nvml) -> Result<Vec<String>> {
    let count = nvml.device_count().context(|| "can't count the GPUs")?;
    let uuid = |index| nvml.device_by_index(index).and_then(|device| device.uuid());
    Ok((0..count).map(|index| uuid(index).unwrap_or_default()).collect())
}

/// Which GPUs to charge, of those with `uuids`.
fn choose(listed: Option<&[u32]>, visible: Option<&str>, engine: &[usize], uuids: &[String]) -> Result<Vec<u32>> {
    if uuids.is_empty() {
        return Err(Error::new("there is no GPU"));
    }
    let engine = if engine.is_empty() { &[0] } else { engine };
    let mut chosen = match (listed, visible) {
        (Some(indices), _) => indices.to_vec(),
        (None, Some(names)) => {
            let visible = visible_gpus(names, uuids)?;
            engine.iter().map(|index| engines_gpu(&visible, *index)).collect::<Result<_>>()?
        }
        (None, None) => engine.iter().map(|index| *index as u32).collect(),
    };
    if let Some(missing) = chosen.iter().find(|&&index| index as usize >= uuids.len()) {
        return Err(Error::input(format!("there is no GPU {missing}; this machine has {}", uuids.len())));
    }
    if chosen.is_empty() {
        return Err(Error::input("no GPU is chosen: `gpu_indices` or `CUDA_VISIBLE_DEVICES` is empty"));
    }
    chosen.sort_unstable();
    chosen.dedup();
    Ok(chosen)
}

/// The engine's GPU among the visible ones: an idle neighbour isn't charged.
fn engines_gpu(visible: &[u32], engine: usize) -> Result<u32> {
    visible.get(engine).copied().ok_or_else(|| {
        let message =
            format!("`CUDA_VISIBLE_DEVICES` makes {} GPUs visible, and `cuda:{engine}` isn't one", visible.len());
        Error::input(message).hint("choose another device, or list `gpu_indices`")
    })
}

/// `CUDA_VISIBLE_DEVICES` as CUDA reads it: everything from the first invalid entry on is ignored.
fn visible_gpus(names: &str, uuids: &[String]) -> Result<Vec<u32>> {
    let mut chosen = Vec::new();
    for name in names.split(',').map(str::trim) {
        if name.starts_with("MIG-") {
            return Err(Error::input(format!("`CUDA_VISIBLE_DEVICES` names `{name}`, a part of a GPU"))
                .hint("energy is known for whole GPUs only; list `gpu_indices` to charge the whole one"));
        }
        match gpu_by_name(name, uuids) {
            Some(index) => chosen.push(index),
            None => break,
        }
    }
    Ok(chosen)
}

fn gpu_by_name(name: &str, uuids: &[String]) -> Option<u32> {
    if !name.starts_with("GPU-") {
        return name.parse().ok().filter(|&index: &u32| (index as usize) < uuids.len());
    }
    let mut matching = (0..).zip(uuids).filter(|(_, uuid)| uuid.starts_with(name)).map(|(index, _)| index);
    // a beginning that fits two GPUs names none
    matching.next().filter(|_| matching.next().is_none())
}

/// One GPU and what it can tell.
struct Gpu {
    device: Arc<Device<'static>>,
    domain: Domain,
    has_counter: bool,
    power: Option<PowerQuery>,
    notes: Vec<String>,
}

/// How to ask for power, the better first.
#[derive(Debug, Clone, Copy, PartialEq)]
enum PowerQuery {
    /// Field 186: power now.
    Instant,
    /// `nvmlDeviceGetPowerUsage`: on Ampere (but GA100) and newer the average of the last second.
    Usage,
}

impl Gpu {
    fn open(nvml: &'static Nvml, index: u32, listed: bool) -> Result<Self> {
        let name = format!("gpu{index}");
        let device = nvml.device_by_index(index).context(|| format!("can't open {name}"))?;
        let mut notes = mig_note(&device, &name, listed)?;
        let has_counter = moves(&device).unwrap_or_else(|why| {
            notes.push(format!("{name}: no energy counter ({why}); its energy is integrated power"));
            false
        });
        let power = [PowerQuery::Instant, PowerQuery::Usage].into_iter().find(|query| query.watts(&device).is_ok());
        if !has_counter && power.is_none() {
            return Err(Error::new(format!("{name} shows neither energy nor power"))
                .hint("`nvidia-smi -q -d POWER` says what the driver can read"));
        }
        notes.push(format!("{name}: {}", second_source(power)));
        let domain = Domain { description: description(&device), name };
        Ok(Self { device: Arc::new(device), domain, has_counter, power, notes })
    }

    fn sources(self) -> Vec<Source> {
        let source = |quantity, method, period, read: Read| Source {
            domain: self.domain.name.clone(),
            quantity,
            method,
            tick: Some(TICK),
            period,
            read,
        };
        let mut sources = Vec::new();
        if self.has_counter {
            let device = Arc::clone(&self.device);
            let read = Box::new(move || energy(&device).context(|| "can't read the energy counter"));
            sources.push(source(Quantity::EnergyCounter, EnergyMethod::Counter, COUNTER_PERIOD, read));
        }
        if let Some(query) = self.power {
            let device = Arc::clone(&self.device);
            let read = Box::new(move || query.watts(&device).context(|| "can't read the power"));
            sources.push(source(Quantity::Power, EnergyMethod::PowerIntegral, POWER_PERIOD, read));
        }
        sources
    }
}

impl PowerQuery {
    fn watts(self, device: &Device) -> Result<f64, NvmlError> {
        let milliwatts = match self {
            PowerQuery::Usage => f64::from(device.power_usage()?),
            PowerQuery::Instant => {
                let fields = device.field_values_for(&[FieldId(NVML_FI_DEV_POWER_INSTANT)])?;
                number(&fields.into_iter().next().ok_or(NvmlError::NotFound)??.value?)
            }
        };
        Ok(milliwatts / 1000.0)
    }
}

fn number(value: &SampleValue) -> f64 {
    match *value {
        SampleValue::F64(value) => value,
        SampleValue::U32(value) => f64::from(value),
        SampleValue::U64(value) => value as f64,
        SampleValue::I64(value) => value as f64,
    }
}

/// Joules since the driver was loaded.
fn energy(device: &Device) -> Result<f64, NvmlError> {
    Ok(device.total_energy_consumption()? as f64 / 1000.0)
}

/// Whether the counter counts: some drivers show one that stands still.
fn moves(device: &Device) -> Result<bool, String> {
    let before = energy(device).map_err(|why| why.to_string())?;
    let end = Instant::now() + MOVES_WITHIN;
    while Instant::now() < end {
        thread::sleep(Duration::from_millis(10));
        if energy(device).map_err(|why| why.to_string())? != before {
            return Ok(true);
        }
    }
    Err("it stands still".into())
}

fn mig_note(device: &Device, name: &str, listed: bool) -> Result<Vec<String>> {
    let split = device.mig_mode().is_ok_and(|mode| mode.current != 0);
    match (split, listed) {
        (false, _) => Ok(Vec::new()),
        (true, true) => Ok(vec![format!("{name} is split by MIG: the energy is the whole GPU's")]),
        (true, false) => Err(Error::new(format!("{name} is split by MIG, and energy is known for the whole GPU only"))
            .hint("list it in `gpu_indices` to charge the whole GPU all the same")),
    }
}

fn second_source(power: Option<PowerQuery>) -> &'static str {
    match power {
        Some(PowerQuery::Instant) => "second source: instantaneous power (field 186)",
        Some(PowerQuery::Usage) => "second source: power usage, which may be the average of the last second",
        None => "no power reading: the energy counter stands alone",
    }
}

fn description(device: &Device) -> String {
    let name = device.name().unwrap_or_else(|_| "unnamed GPU".into());
    match device.uuid() {
        Ok(uuid) => format!("{name}, {uuid}"),
        Err(_) => name,
    }
}

fn info(nvml: &Nvml, gpus: &[Gpu]) -> MeterInfo {
    let mut notes: Vec<String> = gpus.iter().flat_map(|gpu| gpu.notes.clone()).collect();
    if let Ok(driver) = nvml.sys_driver_version() {
        notes.insert(0, format!("driver {driver}"));
    }
    let has_counters = gpus.iter().all(|gpu| gpu.has_counter);
    MeterInfo {
        name: NAME.into(),
        method: if has_counters { EnergyMethod::Counter } else { EnergyMethod::PowerIntegral },
        domains: gpus.iter().map(|gpu| gpu.domain.clone()).collect(),
        tick_s: Some(TICK),
        min_window_s: MIN_WINDOW,
        guard_s: GUARD,
        idle_s: IDLE,
        notes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uuids() -> Vec<String> {
        ["GPU-aaaa-1", "GPU-aabb-2", "GPU-cccc-3"].map(String::from).to_vec()
    }

    /// What the engine's GPU is when it runs on the first of these visible ones.
    fn visible(names: &str) -> Result<Vec<u32>> {
        choose(None, Some(names), &[0], &uuids())
    }

    #[test]
    fn listed_gpus_win_over_the_environment_and_are_charged_once() {
        assert_eq!(choose(Some(&[2, 0, 2]), Some("1"), &[0], &uuids()).unwrap(), [0, 2]);
    }

    #[test]
    fn without_any_choice_only_the_engines_gpu_is_charged() {
        assert_eq!(choose(None, None, &[], &uuids()).unwrap(), [0]);
        assert_eq!(choose(None, None, &[1], &uuids()).unwrap(), [1]);
        assert_eq!(choose(None, Some("2,0,1"), &[0], &uuids()).unwrap(), [2], "idle neighbours aren't charged");
        assert_eq!(choose(None, Some("2,0,1"), &[2], &uuids()).unwrap(), [1]);
        assert_eq!(choose(None, Some("2,0,1"), &[0, 1], &uuids()).unwrap(), [0, 2], "a model on two GPUs");
        assert!(choose(None, Some("2"), &[1], &uuids()).is_err());
    }

    #[test]
    fn visible_devices_may_be_indices_or_uuids_or_their_beginnings() {
        assert_eq!(visible_gpus("2, 1", &uuids()).unwrap(), [2, 1]);
        assert_eq!(visible("GPU-aabb-2").unwrap(), [1]);
        assert_eq!(visible_gpus("GPU-cc,0", &uuids()).unwrap(), [2, 0]);
    }

    #[test]
    fn as_in_cuda_everything_from_the_first_invalid_entry_on_is_invisible() {
        assert_eq!(visible_gpus("1,-1,2", &uuids()).unwrap(), [1]);
        assert_eq!(visible_gpus("0,GPU-aa,2", &uuids()).unwrap(), [0], "an ambiguous beginning");
        assert!(visible("").is_err());
        assert!(visible("-1").is_err());
    }

    #[test]
    fn a_part_of_a_gpu_is_refused_with_the_way_out() {
        assert!(visible("MIG-1234").unwrap_err().hint_text().unwrap().contains("gpu_indices"));
    }

    #[test]
    fn a_gpu_that_does_not_exist_is_named() {
        let error = choose(Some(&[7]), None, &[0], &uuids()).unwrap_err();
        assert_eq!(error.message(), "there is no GPU 7; this machine has 3");
        assert!(choose(Some(&[]), None, &[0], &uuids()).is_err());
        assert!(choose(None, None, &[0], &[]).is_err());
    }
}
