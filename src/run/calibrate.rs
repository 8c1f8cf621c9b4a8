//! What reading and multiplying cost on the devices of a run: measured before its first block, or read from a file.

use std::collections::BTreeSet;
use std::path::Path;

use crate::calendar;
use crate::clock::Clock;
use crate::engine::Yardstick;
use crate::engine::load::{self, DeviceChoice, product_dtype};
use crate::error::{Context as _, Error, Kind, Result};
use crate::host;
use crate::meter::Meter;
use crate::record::{Calibration, CalibrationFile, EnergyMethod, FORMAT, MeterInfo, Protocol, SyntheticCard};
use crate::run::setup::Setup;
use crate::stage::{Calibrating, Costs};
use crate::store::{self, RunDir};
use crate::sweep::calibration::CalibrationChoice;
use crate::sweep::plan::Session;
use crate::sweep::spec::{ModelSource, ModelSpec};

/// A device in a data type, to be calibrated.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wanted {
    pub(crate) place: Place,
    /// Data type of the products.
    pub(crate) dtype: String,
}

/// What is calibrated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Place {
    Device(DeviceChoice),
    Simulated(SyntheticCard),
}

/// A device in a data type, with its calibration if an earlier start or the sweep's file has one.
pub(super) struct Needed {
    wanted: Wanted,
    known: Option<Calibration>,
}

/// What the models of these sessions need.
///
/// # Errors
/// The sweep names a file that can't be read, or that has nothing that fits.
pub(super) fn needed(setup: Setup<'_>, meter: &MeterInfo, dir: &RunDir, sessions: &[Session]) -> Result<Vec<Needed>> {
    let of_file = match &setup.prepared.spec.measure.calibration {
        CalibrationChoice::File(path) => Some(read(&setup.prepared.loader.base.join(path))?),
        _ => None,
    };
    let need = |wanted: Wanted| {
        let mut earlier = dir.info().parts.iter().flat_map(|part| &part.calibrations);
        let known = match (earlier.find_map(|known| wanted.taken_over(known, meter)), &of_file) {
            (None, Some(all)) => Some(wanted.find(all, meter)?),
            (earlier, _) => earlier,
        };
        Ok(Needed { wanted, known })
    };
    wanted(setup, sessions).into_iter().filter(|wanted| wanted.is_charged_by(meter)).map(need).collect()
}

/// Records what is needed with the start under way; what isn't known is measured, if the sweep and the meter allow it. A
/// device that can't be calibrated is a warning, since all but the floor is known without.
///
/// # Errors
/// The user asked to stop, or the disk fails.
pub(super) fn calibrate(setup: Setup<'_>, meter: &mut dyn Meter, dir: &mut RunDir, needed: Vec<Needed>) -> Result<()> {
    let measures = setup.prepared.spec.measure.calibration.measures(meter.info());
    let mut calibrations = Vec::with_capacity(needed.len());
    for Needed { wanted, known } in needed {
        match known {
            Some(known) => calibrations.push(known),
            None if measures => calibrations.extend(wanted.tried(setup, meter, &dir.info().protocol)?),
            None => {}
        }
    }
    dir.record_calibrations(calibrations)
}

/// The calibrations of a file that `ept-sweep calibrate` wrote, or of a run.
///
/// # Errors
/// There is none, or the file is damaged.
fn read(path: &Path) -> Result<Vec<Calibration>> {
    if path.is_dir() {
        let parts = store::read(path)?.info.parts;
        return Ok(parts.into_iter().flat_map(|part| part.calibrations).collect());
    }
    let what = || format!("can't read the calibration `{}`", path.display());
    let text = std::fs::read_to_string(path).input_context(what)?;
    let file: CalibrationFile = serde_json::from_str(&text).input_context(what)?;
    if file.format > FORMAT {
        let message = format!("`{}` has format {}, newer than this program's {FORMAT}", path.display(), file.format);
        return Err(Error::input(message));
    }
    Ok(file.calibrations)
}

/// What the models of these sessions need: a pair of device and data type each, once.
fn wanted(setup: Setup<'_>, sessions: &[Session]) -> Vec<Wanted> {
    let labels: BTreeSet<&str> = sessions.iter().map(|session| session.model.as_str()).collect();
    let models = setup.prepared.spec.models.iter().filter(|model| labels.contains(model.label.as_str()));
    let mut all: Vec<Wanted> = Vec::new();
    for wanted in models.filter_map(|model| of_model(setup, model)) {
        if !all.iter().any(|known| (known.device(), &known.dtype) == (wanted.device(), &wanted.dtype)) {
            all.push(wanted);
        }
    }
    all
}

/// `None` for a model whose work isn't known.
fn of_model(setup: Setup<'_>, model: &ModelSpec) -> Option<Wanted> {
    let prepared = setup.prepared;
    if let ModelSource::Synthetic(spec) = &model.source {
        let dtype = spec.workload.as_ref()?.products.clone();
        let cards = prepared.spec.models.iter().filter_map(|model| match &model.source {
            ModelSource::Synthetic(spec) => spec.card,
            ModelSource::Name(_) => None,
        });
        return Some(Wanted { place: Place::Simulated(cards.into_iter().next()?), dtype });
    }
    let summary = prepared.models.get(&model.label)?.as_ref().ok()?.as_ref()?;
    let device = prepared.loader.first_device(model);
    let dtype = prepared.loader.dtype(model, Some(summary));
    let dtype = product_dtype(summary.quantised, &dtype, device.is_gpu()).to_owned();
    summary.has_workload().then_some(Wanted { place: Place::Device(device), dtype })
}

impl Wanted {
    /// The device as models are recorded to run on it.
    pub(crate) fn device(&self) -> String {
        match self.place {
            Place::Device(device) => device.name(),
            Place::Simulated(_) => "simulated".to_owned(),
        }
    }

    /// Whether the meter measures the device at all: a GPU's shows nothing of the processor, nor the reverse.
    fn is_charged_by(&self, meter: &MeterInfo) -> bool {
        match self.place {
            Place::Device(device) => device.is_gpu() != meter.gpus.is_empty(),
            Place::Simulated(_) => true,
        }
    }

    fn uuid(&self) -> Option<String> {
        match self.place {
            Place::Device(device) => device.gpu_index().and_then(load::uuid),
            Place::Simulated(_) => None,
        }
    }

    /// The product name of the card or the processor.
    fn name(&self, meter: &MeterInfo) -> Option<String> {
        let uuid = self.uuid();
        let same = meter.gpus.iter().find(|gpu| gpu.uuid == uuid).or(meter.gpus.first());
        match self.place {
            Place::Device(device) if device.is_gpu() => same.map(|gpu| gpu.name.clone()),
            Place::Device(_) => host::describe().cpu,
            Place::Simulated(_) => None,
        }
    }

    /// A calibration of this device and data type as one of this run. A card is known by its UUID, whatever its number;
    /// anything else by its name.
    fn taken_over(&self, known: &Calibration, meter: &MeterInfo) -> Option<Calibration> {
        let measured = |method| matches!(method, EnergyMethod::Counter | EnergyMethod::PowerIntegral);
        let go_together = known.method == meter.method || (measured(known.method) && measured(meter.method));
        let same_device = match (self.uuid(), &known.uuid) {
            (Some(own), Some(other)) => own == *other,
            _ => known.device == self.device() && known.name == self.name(meter),
        };
        let fits = go_together && same_device && known.dtype == self.dtype;
        fits.then(|| Calibration { device: self.device(), ..known.clone() })
    }

    fn find(&self, all: &[Calibration], meter: &MeterInfo) -> Result<Calibration> {
        let found = all.iter().rev().find_map(|known| self.taken_over(known, meter));
        found.ok_or_else(|| {
            let card = self.uuid().map_or_else(|| self.device(), |uuid| format!("{} ({uuid})", self.device()));
            let message = format!("`measure.calibration` names no calibration of {card} in {}", self.dtype);
            Error::input(message).with_hint("`auto` measures one; cards differ, also those of one type")
        })
    }

    /// Calibrates the device, or warns that it can't be.
    fn tried(&self, setup: Setup<'_>, meter: &mut dyn Meter, protocol: &Protocol) -> Result<Option<Calibration>> {
        setup.console.say(format!("calibrating {} in {}: reading and multiplying", self.device(), self.dtype));
        match self.measured(meter, setup.clock, protocol, setup.stop) {
            Err(error) if error.kind() != Kind::Interrupted => {
                let device = self.device();
                setup.console.warn(format!("no energy floor: {device} can't be calibrated: {}", error.one_line()));
                Ok(None)
            }
            measured => measured.map(Some),
        }
    }

    /// Calibrates the device.
    ///
    /// # Errors
    /// The device or the meter fails, or the user asked to stop.
    pub(crate) fn measured(
        &self,
        meter: &mut dyn Meter,
        clock: &Clock,
        protocol: &Protocol,
        stop: &std::sync::atomic::AtomicBool,
    ) -> Result<Calibration> {
        let measured_at = calendar::timestamp();
        let mut yardstick = match (self.place, clock) {
            (Place::Device(device), _) => Yardstick::open(device, &self.dtype)?,
            (Place::Simulated(card), Clock::Simulated(device)) => Yardstick::simulated(card, device.clone()),
            (Place::Simulated(_), Clock::Monotonic(_)) => {
                return Err(Error::new("a simulated card needs the simulated clock"));
            }
        };
        let work = Calibrating { yardstick: &mut yardstick, meter: &mut *meter, clock, protocol, stop };
        let Costs { idle, reads, products } = work.costs()?;
        Ok(Calibration {
            device: self.device(),
            name: self.name(meter.info()),
            uuid: self.uuid(),
            dtype: self.dtype.clone(),
            measured_at,
            meter: meter.info().name.clone(),
            method: meter.info().method,
            idle,
            reads,
            products,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::fixtures;
    use crate::record::{GpuInfo, IdleBaseline};
    use crate::units::{Seconds, Watts};

    fn calibration(device: &str, uuid: Option<&str>, dtype: &str) -> Calibration {
        Calibration {
            device: device.into(),
            name: None,
            uuid: uuid.map(str::to_owned),
            dtype: dtype.into(),
            measured_at: String::new(),
            meter: "synthetic".into(),
            method: EnergyMethod::Counter,
            idle: IdleBaseline {
                power_w: Watts(1.0),
                duration_s: Seconds(1.0),
                segments_w: vec![],
                temperature_c: None,
            },
            reads: vec![],
            products: vec![],
        }
    }

    fn simulated() -> Wanted {
        let card = SyntheticCard { read_bytes_per_s: 1.0, read_w: 1.0, flops_per_s: 1.0, product_w: 1.0 };
        Wanted { place: Place::Simulated(card), dtype: "bf16".into() }
    }

    #[test]
    fn a_calibration_fits_its_own_device_and_data_type_and_energies_of_its_kind() {
        let meter = fixtures::info(&["gpu0"]);
        let fits = |known: &Calibration, meter: &MeterInfo| simulated().taken_over(known, meter).is_some();
        assert!(fits(&calibration("simulated", None, "bf16"), &meter));
        assert!(!fits(&calibration("simulated", None, "f32"), &meter));
        assert!(!fits(&calibration("cpu", None, "bf16"), &meter));
        let other = Calibration { name: Some("H100".into()), ..calibration("simulated", None, "bf16") };
        assert!(!fits(&other, &meter), "a device of another name");
        let modelled = MeterInfo { method: EnergyMethod::Modelled, ..meter };
        assert!(!fits(&calibration("simulated", None, "bf16"), &modelled));
    }

    #[test]
    fn a_gpus_meter_does_not_calibrate_the_processor() {
        let cpu = Wanted { place: Place::Device(DeviceChoice::Cpu), dtype: "f32".into() };
        let of_cpu = fixtures::info(&["package-0"]);
        let of_gpu = MeterInfo { gpus: vec![GpuInfo::default()], ..of_cpu.clone() };
        assert!(cpu.is_charged_by(&of_cpu) && !cpu.is_charged_by(&of_gpu));
    }
}
