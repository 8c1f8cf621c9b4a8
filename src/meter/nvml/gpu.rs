//! One GPU: its sources of energy, power and telemetry.

use std::sync::Arc;

use nvml_wrapper::enum_wrappers::device::{Clock as ClockType, TemperatureSensor};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::FieldId;
use nvml_wrapper::sys_exports::field_id::NVML_FI_DEV_POWER_INSTANT;
use nvml_wrapper::{Device, Nvml};

use super::memory::{memory_temperature, memory_watts};
use super::neighbours::Neighbours;
use super::probe;
use super::ring::{RING_FETCHES, RING_PERIOD, RING_TICK, Ring, number, ring_findings};
use crate::error::{Context, Error, Result};
use crate::meter::process_tree::ProcessTree;
use crate::meter::sampler::{Pace, Read, Source, scalar};
use crate::meter::survey::Findings;
use crate::record::{Domain, EnergyMethod, GpuInfo, Quantity, Sample, SourceInfo, SourceRole};
use crate::units::{Seconds, Watts};

/// The counter's nominal tick (69.9 to 108 ms were seen on an H100, driver 580).
const COUNTER_TICK: Seconds = Seconds(0.1);
/// How often a tick is followed while no edge is near: three or four readings of 3 to 5 ms each time.
const COUNTER_REST: Seconds = Seconds(6.0);
/// Sensor values change ten times a second.
const SENSOR_TICK: Seconds = Seconds(0.1);
/// Between two refreshes a reading of instantaneous power costs microseconds.
const INSTANT_PERIOD: Seconds = Seconds(0.02);
/// EPT-Bench's own interval; the driver has a new value about as often.
const USAGE_PERIOD: Seconds = Seconds(0.1);
/// The memory's power is renewed as often.
const MEMORY_PERIOD: Seconds = Seconds(0.1);
/// Half of the second that `power_usage` averages over, on Ampere (but GA100) and newer.
const USAGE_LAG: Seconds = Seconds(0.5);
/// Temperature, clocks and their limits, in this rhythm.
const TELEMETRY_PERIOD: Seconds = Seconds(0.25);
/// Listing processes takes 0.3 ms.
const PROCESSES_PERIOD: Seconds = Seconds(1.0);
/// One GPU and its sources.
pub(super) struct Gpu {
    device: Arc<Device<'static>>,
    domain: Domain,
    info: GpuInfo,
    counter: Findings,
    power: Option<PowerSource>,
    usage: Findings,
    memory: Findings,
    /// How far back the ring reaches.
    ring_extent: Seconds,
    /// The engine runs on it.
    used: bool,
    /// The command that is measured in place of an engine.
    command: Option<ProcessTree>,
    sources: Vec<SourceInfo>,
    notes: Vec<String>,
}

/// Where power samples come from, the better first.
#[derive(Debug, Clone, Copy, PartialEq)]
enum PowerSource {
    /// The driver's own ring of instantaneous samples, 20 ms apart.
    Ring,
    /// Field 186: power now.
    Instant,
    /// `nvmlDeviceGetPowerUsage`: on Ampere (but GA100) and newer the average of the last second.
    Usage,
}

impl Gpu {
    pub(super) fn open(nvml: &'static Nvml, index: u32, listed: bool, used: bool) -> Result<Self> {
        let name = format!("gpu{index}");
        let device = nvml.device_by_index(index).context(|| format!("can't open {name}"))?;
        let info = describe(nvml, &device, &name);
        let mut notes = mig_note(&info, listed)?;
        let counter = probe::counter(|| energy(&device));
        let (ring, ring_extent) = ring_findings(&device);
        let instant = probe::power(|| instant_watts(&device));
        let usage = probe::power(|| usage_watts(&device));
        let memory = probe::power(|| memory_watts(&device));
        let found = [(PowerSource::Ring, &ring), (PowerSource::Instant, &instant), (PowerSource::Usage, &usage)];
        let power = found.into_iter().find(|(_, findings)| findings.works()).map(|(source, _)| source);
        if !counter.works() && power.is_none() {
            return Err(Error::new(format!("{name} shows neither energy nor power"))
                .with_hint("`nvidia-smi -q -d POWER` says what the driver can read"));
        }
        if !counter.works() {
            let why = counter.detail.as_deref().unwrap_or("unknown");
            notes.push(format!("{name}: no energy counter ({why}); its energy is integrated power"));
        }
        notes.push(format!("{name}: {}", second_source(power)));
        let role = |source, works: bool| match (power == Some(source), counter.works()) {
            (true, true) => SourceRole::Second,
            (true, false) => SourceRole::Primary,
            (false, _) if source == PowerSource::Usage && works => SourceRole::Recorded,
            (false, _) => SourceRole::Unused,
        };
        let recorded = |source: &Findings| if source.works() { SourceRole::Recorded } else { SourceRole::Unused };
        let counter_role = if counter.works() { SourceRole::Primary } else { SourceRole::Unused };
        let sources = vec![
            counter.info(&name, "energy counter", counter_role),
            ring.info(&name, "power samples of the driver's ring", role(PowerSource::Ring, ring.works())),
            instant.info(&name, "instantaneous power (field 186)", role(PowerSource::Instant, instant.works())),
            usage.info(&name, "power usage", role(PowerSource::Usage, usage.works())),
            memory.info(&name, "average power of the memory (field 185, scope 2)", recorded(&memory)),
        ];
        let description = match &info.uuid {
            Some(uuid) => format!("{}, {uuid}", info.name),
            None => info.name.clone(),
        };
        let domain = Domain { description, name };
        let (device, command) = (Arc::new(device), None);
        Ok(Self { device, domain, info, counter, power, usage, memory, ring_extent, used, command, sources, notes })
    }

    /// The same, with a command's processes as its own.
    pub(super) fn used_by(self, command: ProcessTree) -> Self {
        Self { command: Some(command), ..self }
    }

    pub(super) fn domain(&self) -> &Domain {
        &self.domain
    }

    pub(super) fn info(&self) -> &GpuInfo {
        &self.info
    }

    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    pub(super) fn source_infos(&self) -> &[SourceInfo] {
        &self.sources
    }

    pub(super) fn has_counter(&self) -> bool {
        self.counter.works()
    }

    /// The only power is the average of the last second.
    pub(super) fn is_averaged(&self) -> bool {
        self.power == Some(PowerSource::Usage) && self.usage_lag() > Seconds(0.0)
    }

    /// Its energies rest on looks at the power every 20 ms, and not on a value that is renewed every 100 ms.
    pub(super) fn looks_often(&self) -> bool {
        self.has_counter() || self.power == Some(PowerSource::Ring)
    }

    /// Nominal time between two updates of what energies come from.
    pub(super) fn primary_tick(&self) -> Seconds {
        match self.power {
            _ if self.has_counter() => COUNTER_TICK,
            Some(PowerSource::Ring) => RING_TICK,
            _ => SENSOR_TICK,
        }
    }

    pub(super) fn sources(self) -> Vec<Source> {
        let mut sources = Vec::new();
        if self.has_counter() {
            let device = Arc::clone(&self.device);
            let read = scalar(move || energy(&device).context(|| "can't read the energy counter"));
            let source = self.source(Quantity::EnergyCounter, Pace::Ticks(COUNTER_REST), read);
            sources.push(Source { method: EnergyMethod::Counter, tick: Some(COUNTER_TICK), ..source });
        }
        match self.power {
            Some(PowerSource::Ring) => {
                let ring = Ring::new(Arc::clone(&self.device));
                let period = (self.ring_extent.0 / RING_FETCHES).clamp(RING_TICK.0, RING_PERIOD.0);
                let source = self.source(Quantity::Power, Pace::Drain(Seconds(period)), ring.into_read());
                sources.push(Source { tick: Some(RING_TICK), ..source });
            }
            Some(PowerSource::Instant) => {
                let device = Arc::clone(&self.device);
                let read = scalar(move || instant_watts(&device).context(|| "can't read the power"));
                let source = self.source(Quantity::Power, Pace::Every(INSTANT_PERIOD), read);
                sources.push(Source { tick: Some(SENSOR_TICK), ..source });
            }
            Some(PowerSource::Usage) | None => {}
        }
        if self.usage.works() {
            let device = Arc::clone(&self.device);
            let read = match self.power {
                Some(PowerSource::Usage) => scalar(move || usage_watts(&device).context(|| "can't read the power")),
                // recorded for comparison: no energy rests on it
                _ => lenient(move || usage_watts(&device).ok()),
            };
            let source = self.source(Quantity::PowerUsage, Pace::Every(USAGE_PERIOD), read);
            sources.push(Source { tick: Some(SENSOR_TICK), lag: self.usage_lag(), ..source });
        }
        if self.memory.works() {
            let device = Arc::clone(&self.device);
            let source = self.source(
                Quantity::MemoryPower,
                Pace::Every(MEMORY_PERIOD),
                lenient(move || memory_watts(&device).ok()),
            );
            sources.push(Source { tick: Some(SENSOR_TICK), lag: USAGE_LAG, ..source });
        }
        sources.extend(self.telemetry());
        sources
    }

    fn source(&self, quantity: Quantity, pace: Pace, read: Read) -> Source {
        Source {
            domain: self.domain.name.clone(),
            quantity,
            method: EnergyMethod::PowerIntegral,
            tick: None,
            lag: Seconds(0.0),
            pace,
            read,
        }
    }

    /// Pascal, Volta, Turing and GA100 show power as it is; newer ones its average over the last second.
    fn usage_lag(&self) -> Seconds {
        use nvml_wrapper::enums::device::DeviceArchitecture as Generation;
        let ga100 = is_ga100(&self.info.name);
        match self.device.architecture() {
            Ok(Generation::Kepler | Generation::Maxwell | Generation::Pascal | Generation::Volta) => Seconds(0.0),
            Ok(Generation::Turing) => Seconds(0.0),
            Ok(Generation::Ampere) if ga100 => Seconds(0.0),
            _ => USAGE_LAG,
        }
    }

    /// What can be read now; a quantity that fails later leaves a gap and no error, since no energy rests on it.
    fn telemetry(&self) -> Vec<Source> {
        type Reading = fn(&Device) -> Result<f64, NvmlError>;
        let readings: [(Quantity, Reading); 7] = [
            (Quantity::Temperature, |device| device.temperature(TemperatureSensor::Gpu).map(f64::from)),
            (Quantity::MemoryTemperature, memory_temperature),
            (Quantity::SmClock, |device| device.clock_info(ClockType::SM).map(f64::from)),
            (Quantity::MemoryClock, |device| device.clock_info(ClockType::Memory).map(f64::from)),
            (Quantity::ClockEvents, |device| device.current_throttle_reasons().map(|events| events.bits() as f64)),
            (Quantity::Utilisation, |device| device.utilization_rates().map(|rates| f64::from(rates.gpu) / 100.0)),
            (Quantity::PerformanceState, |device| device.performance_state().map(|state| f64::from(state.as_c()))),
        ];
        let known = readings.into_iter().filter(|(_, read)| read(&self.device).is_ok());
        let mut sources: Vec<Source> = known
            .map(|(quantity, read)| {
                let device = Arc::clone(&self.device);
                self.source(quantity, Pace::Every(TELEMETRY_PERIOD), lenient(move || read(&device).ok()))
            })
            .collect();
        if self.device.running_compute_processes().is_ok() {
            let mut neighbours = match &self.command {
                Some(command) => Neighbours::of_command(&self.info.foreign_processes, command.clone()),
                None => Neighbours::new(&self.info.foreign_processes, self.used),
            };
            let device = Arc::clone(&self.device);
            let read = move || Some(f64::from(neighbours.count(&processes(&device)?)));
            sources.push(self.source(Quantity::ForeignProcesses, Pace::Every(PROCESSES_PERIOD), lenient(read)));
        }
        sources
    }
}

/// A reading that may be missing.
fn lenient(mut read: impl FnMut() -> Option<f64> + Send + 'static) -> Read {
    Box::new(move |clock, samples| {
        samples.extend(read().map(|value| Sample { t: clock.now(), value }));
        Ok(())
    })
}

/// GA100, the one chip of its generation that shows power as it is.
fn is_ga100(name: &str) -> bool {
    let mut words = name.split(|c: char| !c.is_ascii_alphanumeric());
    words.any(|word| matches!(word.to_ascii_uppercase().as_str(), "A100" | "A100X" | "A800" | "A30" | "A30X"))
}

fn processes(device: &Device) -> Option<Vec<u32>> {
    Some(device.running_compute_processes().ok()?.into_iter().map(|process| process.pid).collect())
}

fn usage_watts(device: &Device) -> Result<f64, NvmlError> {
    Ok(f64::from(device.power_usage()?) / 1000.0)
}

fn instant_watts(device: &Device) -> Result<f64, NvmlError> {
    let fields = device.field_values_for(&[FieldId(NVML_FI_DEV_POWER_INSTANT)])?;
    Ok(number(&fields.into_iter().next().ok_or(NvmlError::NotFound)??.value?) / 1000.0)
}

/// Joules since the driver was loaded.
fn energy(device: &Device) -> Result<f64, NvmlError> {
    Ok(device.total_energy_consumption()? as f64 / 1000.0)
}

fn describe(nvml: &Nvml, device: &Device, domain: &str) -> GpuInfo {
    let watts = |limit: Result<u32, NvmlError>| limit.ok().map(|milliwatts| Watts(f64::from(milliwatts) / 1000.0));
    let own = std::process::id();
    let memory_clock = device.max_clock_info(ClockType::Memory).ok();
    // double data rate: two transfers of the bus width a cycle
    let bandwidth = device.memory_bus_width().ok().zip(memory_clock);
    GpuInfo {
        domain: domain.to_owned(),
        name: device.name().unwrap_or_else(|_| "unnamed GPU".into()),
        uuid: device.uuid().ok(),
        pci_bus_id: device.pci_info().ok().map(|pci| pci.bus_id),
        driver: nvml.sys_driver_version().ok(),
        vbios: device.vbios_version().ok(),
        power_limit_w: watts(device.enforced_power_limit()),
        default_power_limit_w: watts(device.power_management_limit_default()),
        max_sm_clock_mhz: device.max_clock_info(ClockType::SM).ok(),
        max_memory_clock_mhz: memory_clock,
        persistence: device.is_in_persistent_mode().ok(),
        ecc: device.is_ecc_enabled().ok().map(|state| state.currently_enabled),
        mig: device.mig_mode().is_ok_and(|mode| mode.current != 0),
        bandwidth: bandwidth.map(|(bits, mhz)| f64::from(bits) / 8.0 * f64::from(mhz) * 1e6 * 2.0),
        foreign_processes: processes(device).unwrap_or_default().into_iter().filter(|pid| *pid != own).collect(),
    }
}

fn mig_note(info: &GpuInfo, listed: bool) -> Result<Vec<String>> {
    let name = &info.domain;
    match (info.mig, listed) {
        (false, _) => Ok(Vec::new()),
        (true, true) => Ok(vec![format!("{name} is split by MIG: the energy is the whole GPU's")]),
        (true, false) => Err(Error::new(format!("{name} is split by MIG, and energy is known for the whole GPU only"))
            .with_hint("list it in `gpu_indices` to charge the whole GPU all the same")),
    }
}

fn second_source(power: Option<PowerSource>) -> &'static str {
    match power {
        Some(PowerSource::Ring) => "second source: the driver's ring of power samples",
        Some(PowerSource::Instant) => "second source: instantaneous power (field 186)",
        Some(PowerSource::Usage) => "second source: power usage, which may be the average of the last second",
        None => "no power reading: the energy counter stands alone",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ga100_is_distinguished_from_chips_with_similar_names() {
        for name in ["NVIDIA A100-SXM4-80GB", "NVIDIA A30", "NVIDIA A800 80GB PCIe", "A100X"] {
            assert!(is_ga100(name), "{name}");
        }
        for name in ["NVIDIA RTX A3000 Laptop GPU", "NVIDIA A10", "NVIDIA H100 80GB HBM3", "NVIDIA A1000"] {
            assert!(!is_ga100(name), "{name}");
        }
    }
}
