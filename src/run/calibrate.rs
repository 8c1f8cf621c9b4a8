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

/// Records what the models of these sessions need, with the start under way: from an earlier start, from the file that the
/// sweep names, or measured now. A device that can't be calibrated is a warning, since all but the floor is known without.
///
/// # Errors
/// The file has nothing that fits, the user asked to stop, or the disk fails.
pub(super) fn calibrate(setup: Setup<'_>, meter: &mut dyn Meter, dir: &mut RunDir, sessions: &[Session]) -> Result<()> {
    let choice = &setup.prepared.spec.measure.calibration;
    let of_file = match choice {
        CalibrationChoice::File(path) => Some(read(&setup.prepared.loader.base.join(path))?),
        _ => None,
    };
    let mut calibrations = Vec::new();
    for wanted in wanted(setup, sessions) {
        let known: Vec<&Calibration> = dir.info().parts.iter().flat_map(|part| &part.calibrations).collect();
        if let Some(earlier) = known.into_iter().find_map(|known| wanted.taken_over(known, meter.info())) {
            calibrations.push(earlier);
        } else if let Some(of_file) = &of_file {
            calibrations.push(wanted.find(of_file, meter.info())?);
        } else if choice.measures(meter.info()) {
            setup.console.say(format!("calibrating {} in {}: reading and multiplying", wanted.device(), wanted.dtype));
            match wanted.measure(setup, meter, &dir.info().protocol) {
                Ok(measured) => calibrations.push(measured),
                Err(error) if error.kind() == Kind::Interrupted => return Err(error),
                Err(error) => {
                    let device = wanted.device();
                    setup.console.warn(format!("no energy floor: {device} can't be calibrated: {}", error.one_line()));
                }
            }
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
    fn device(&self) -> String {
        match self.place {
            Place::Device(device) => device.name(),
            Place::Simulated(_) => "simulated".to_owned(),
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

    fn measure(&self, setup: Setup<'_>, meter: &mut dyn Meter, protocol: &Protocol) -> Result<Calibration> {
        self.measured(meter, setup.clock, protocol, setup.stop)
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
