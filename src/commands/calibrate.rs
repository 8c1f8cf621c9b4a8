//! `ept-sweep calibrate`: what reading memory and multiplying cost on a device, for the energy floor.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::analysis::{DeviceCosts, Estimate};
use crate::cli::CalibrateArgs;
use crate::cli::exit::Exit;
use crate::clock::Clock;
use crate::console::Console;
use crate::engine::load;
use crate::error::{Context as _, Error, Result};
use crate::file::write_atomic;
use crate::format::{self, Scale};
use crate::meter::{self, EngineGpu, MeterOptions};
use crate::record::{CalibrationFile, EnergyMethod, FORMAT};
use crate::run::calibrate::{Place, Wanted};
use crate::sweep::measure::MeasureSpec;
use crate::sweep::spec::Dtype;

/// Calibrates a device in each of the data types, and prints what it costs.
///
/// # Errors
/// A machine without an energy sensor, a device that can't be calibrated, or an interruption.
pub(super) fn calibrate(arguments: &CalibrateArgs, console: &Console, stop: &Arc<AtomicBool>) -> Result<Exit> {
    arguments.device.check()?;
    let gpu = arguments.device.gpu_index();
    let options = MeterOptions {
        engine_gpus: gpu.map(|ordinal| EngineGpu { ordinal, uuid: load::uuid(ordinal) }).into_iter().collect(),
        ..MeterOptions::default()
    };
    let clock = Clock::monotonic();
    let mut meter = meter::open(arguments.meter, &options, &clock)?;
    if meter.info().method == EnergyMethod::Modelled {
        return Err(Error::input("no energy sensor: a modelled energy shows nothing of the device")
            .with_hint("`ept-sweep meter` shows what is missing"));
    }
    let protocol = MeasureSpec::default().protocol(meter.info());
    let default = [if gpu.is_some() { Dtype::Bf16 } else { Dtype::F32 }];
    let dtypes = if arguments.dtype.is_empty() { default.as_slice() } else { &arguments.dtype };
    let mut calibrations = Vec::with_capacity(dtypes.len());
    for dtype in dtypes {
        let wanted = Wanted { place: Place::Device(arguments.device), dtype: dtype.name().to_owned() };
        console.say(format!("calibrating {} in {}: reading and multiplying", wanted.device(), wanted.dtype));
        let measured = wanted.measured(&mut *meter, &clock, &protocol, stop)?;
        match DeviceCosts::of(&measured) {
            Some(costs) => print(&costs),
            None => console.warn("no rates: the work cost no more than idling"),
        }
        calibrations.push(measured);
    }
    if let Some(path) = &arguments.out {
        let file = CalibrationFile { format: FORMAT, calibrations };
        let text = serde_json::to_string_pretty(&file).context(|| "can't write the calibration as JSON")?;
        write_atomic(path, format!("{text}\n").as_bytes())?;
    }
    Ok(Exit::Done)
}

fn print(costs: &DeviceCosts) {
    let shown = |of: &Estimate, factor: f64, unit: &'static str| {
        let scale = Scale { factor, unit };
        format!("{} {unit} {}", format::value(of, scale), format::interval(of, scale))
    };
    println!("{}, {}", costs.device, costs.dtype);
    println!("  read     {}", shown(&costs.bytes_per_s, 1e-9, "GB/s"));
    println!("           {} a byte", shown(&costs.joules_per_byte, 1e12, "pJ"));
    println!("  product  {}", shown(&costs.flops_per_s, 1e-12, "TFLOP/s"));
    println!("           {} a FLOP", shown(&costs.joules_per_flop, 1e12, "pJ"));
    println!("  idle     {}", format::watts(costs.idle_w));
}
