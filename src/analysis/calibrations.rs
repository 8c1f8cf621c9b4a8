//! What the devices of a run cost by its calibrations.

use crate::energy_floor::Rates;
use crate::record::{Calibration, CalibrationWindow, RunInfo};
use crate::stats::{Estimate, mean};

/// What reading and multiplying cost on a device.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceCosts {
    /// `cuda:0` …
    pub device: String,
    /// Product name.
    pub name: Option<String>,
    /// `GPU-…`.
    pub uuid: Option<String>,
    /// Data type of the products.
    pub dtype: String,
    /// When it was measured, RFC 3339.
    pub measured_at: String,
    /// Power without work in watts.
    pub idle_w: f64,
    /// Bytes a second of a pure read.
    pub bytes_per_s: Estimate,
    /// Joules a byte of it.
    pub joules_per_byte: Estimate,
    /// Operations a second of a large product.
    pub flops_per_s: Estimate,
    /// Joules an operation of it.
    pub joules_per_flop: Estimate,
    /// Mean temperature in °C at the end of the windows.
    pub temperature_c: Option<f64>,
    /// Mean SM clock in MHz while multiplying.
    pub sm_clock_mhz: Option<f64>,
    /// Mean share of the products' time at the power cap.
    pub power_cap: Option<f64>,
}

/// Each calibration of a run once, in the order of its starts; those that give no rates are left out.
pub(super) fn device_costs(run: &RunInfo) -> Vec<DeviceCosts> {
    let mut known: Vec<&Calibration> = Vec::new();
    for calibration in run.parts.iter().flat_map(|part| &part.calibrations) {
        if !known.contains(&calibration) {
            known.push(calibration);
        }
    }
    known.into_iter().filter_map(DeviceCosts::of).collect()
}

impl DeviceCosts {
    /// `None` if the calibration gives no rates.
    pub(crate) fn of(calibration: &Calibration) -> Option<Self> {
        let rates = Rates::of(calibration);
        let over = |get: fn(&Rates) -> f64| mean(&rates.iter().map(get).collect::<Vec<_>>());
        let windows = |of: &[CalibrationWindow], get: fn(&CalibrationWindow) -> Option<f64>| {
            mean(&of.iter().filter_map(get).collect::<Vec<_>>()).map(|estimate| estimate.value)
        };
        let both = [calibration.reads.as_slice(), &calibration.products].concat();
        Some(Self {
            device: calibration.device.clone(),
            name: calibration.name.clone(),
            uuid: calibration.uuid.clone(),
            dtype: calibration.dtype.clone(),
            measured_at: calibration.measured_at.clone(),
            idle_w: calibration.idle.power_w.get(),
            bytes_per_s: over(|rates| rates.bytes_per_s)?,
            joules_per_byte: over(|rates| rates.joules_per_byte)?,
            flops_per_s: over(|rates| rates.flops_per_s)?,
            joules_per_flop: over(|rates| rates.joules_per_flop)?,
            temperature_c: windows(&both, |window| window.temperature_c),
            sm_clock_mhz: windows(&calibration.products, |window| window.sm_clock_mhz),
            power_cap: windows(&calibration.products, |window| window.power_cap),
        })
    }
}
