//! The meter of a simulated device: exact readings of a history that is known. Reads no hardware.

use super::recording::Meter;
use crate::clock::{SimulatedDevice, Step};
use crate::error::{Error, Result};
use crate::record::{Domain, EnergyMethod, MeterInfo, Quantity, Sample, SourceTrace, Trace};
use crate::units::{Joules, Seconds};

const NAME: &str = "synthetic";
/// The only domain of this meter.
const DOMAIN: &str = "sim0";

/// Simulated time costs nothing; one second is easy to check by hand.
const IDLE: Seconds = Seconds(1.0);

pub(super) struct Synthetic {
    info: MeterInfo,
    device: SimulatedDevice,
    /// When the recording began, and the energy by then.
    started: Option<(Seconds, Joules)>,
}

impl Synthetic {
    pub(super) fn new(device: SimulatedDevice) -> Self {
        Self { info: info(), device, started: None }
    }
}

impl Meter for Synthetic {
    fn info(&self) -> &MeterInfo {
        &self.info
    }

    fn start(&mut self) -> Result<()> {
        self.started = Some((self.device.now(), self.device.energy()));
        Ok(())
    }

    fn stop(&mut self) -> Result<Trace> {
        let (t, energy) =
            self.started.take().ok_or_else(|| Error::new("the meter was stopped without having been started"))?;
        let steps = self.device.steps_since(t);
        Ok(Trace { sources: vec![counter(t, energy, &steps), power(t, &steps)] })
    }
}

fn source(quantity: Quantity, samples: Vec<Sample>) -> SourceTrace {
    SourceTrace {
        domain: DOMAIN.into(),
        quantity,
        method: EnergyMethod::Simulated,
        tick: None,
        lag: Seconds(0.0),
        samples,
    }
}

/// One reading at the end of each step: power is constant between them, so interpolation is exact.
fn counter(t: Seconds, energy: Joules, steps: &[Step]) -> SourceTrace {
    let first = Sample { t, value: energy.0 };
    let ends = steps.iter().map(|step| Sample { t: step.end, value: step.energy.0 });
    source(Quantity::EnergyCounter, std::iter::once(first).chain(ends).collect())
}

/// Two samples at each change, so that the trapezoid rule is exact as well.
fn power(t: Seconds, steps: &[Step]) -> SourceTrace {
    let starts = std::iter::once(t).chain(steps.iter().map(|step| step.end));
    let pair = |(start, step): (Seconds, &Step)| {
        [Sample { t: start, value: step.power.0 }, Sample { t: step.end, value: step.power.0 }]
    };
    source(Quantity::Power, starts.zip(steps).flat_map(pair).collect())
}

fn info() -> MeterInfo {
    MeterInfo {
        name: NAME.into(),
        method: EnergyMethod::Simulated,
        domains: vec![Domain { name: DOMAIN.into(), description: "simulated device with known power".into() }],
        tick_s: None,
        min_window_s: Seconds(0.0),
        guard_s: Seconds(0.0),
        idle_s: IDLE,
        notes: vec!["simulated: for tests of the tool itself".into()],
        host_domains: Vec::new(),
        sensing_period_s: None,
        sources: Vec::new(),
        gpus: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::meter::during;
    use crate::meter::findings::Findings;
    use crate::meter::integrate::window_energy;
    use crate::record::Validity;
    use crate::units::Watts;
    use crate::validity::Work;

    #[test]
    fn both_sources_give_the_exact_energy_of_steps_of_different_power() {
        let device = SimulatedDevice::new(Watts(60.0));
        let clock = Clock::Simulated(device.clone());
        device.spend(Seconds(7.0), Watts(500.0));
        let mut meter = Synthetic::new(device.clone());
        let ((), t0, t1, trace) = during(&mut meter, &clock, || {
            device.spend(Seconds(2.0), Watts(300.0));
            device.idle(Seconds(1.0));
            Ok(())
        })
        .unwrap();
        let work = Work { t0, t1, ..Work::default() };
        let Findings { energy, validity, .. } = Findings::of(&trace, meter.info(), &work, None);
        assert_eq!((t0, t1), (Seconds(7.0), Seconds(10.0)));
        assert_eq!(energy.total_j, Some(Joules(660.0)));
        assert_eq!(energy.integral_j, Some(Joules(660.0)));
        assert_eq!(energy.residual, Some(0.0));
        assert_eq!(energy.coverage, Some(1.0));
        assert_eq!(energy.method, Some(EnergyMethod::Simulated));
        assert_eq!(validity, Validity::default());
    }

    #[test]
    fn a_window_inside_the_recording_leaves_out_what_lies_around_it() {
        let device = SimulatedDevice::new(Watts(60.0));
        let mut meter = Synthetic::new(device.clone());
        meter.start().unwrap();
        device.spend(Seconds(1.0), Watts(300.0));
        device.spend(Seconds(1.0), Watts(100.0));
        device.spend(Seconds(1.0), Watts(300.0));
        let trace = meter.stop().unwrap();
        let energy = window_energy(&trace, meter.info(), Seconds(0.5), Seconds(2.0));
        assert_eq!(energy.total_j, Some(Joules(250.0)));
    }

    #[test]
    fn stopping_without_starting_is_an_error() {
        assert!(Synthetic::new(SimulatedDevice::new(Watts(60.0))).stop().is_err());
    }
}
