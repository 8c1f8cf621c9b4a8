//! The meter of a simulated device: exact readings of a history that is known. Reads no hardware.

use super::recording::Meter;
use crate::clock::{SimulatedDevice, Step};
use crate::error::{Error, Result};
use crate::record::{Domain, EnergyMethod, GpuInfo, MeterInfo, Quantity, Sample, SourceTrace, Trace};
use crate::units::{Joules, Seconds};

const NAME: &str = "synthetic";
/// The only domain of this meter.
const DOMAIN: &str = "sim0";

/// Simulated time costs nothing; one second is easy to check by hand.
const IDLE: Seconds = Seconds(1.0);

/// A device with heat is measured for as long as a GPU: its windows and rests are part of what it shows.
const WITH_HEAT: (Seconds, Seconds) = (Seconds(5.0), Seconds(20.0));

/// Time between two readings of the thermometer, as NVML's is read.
const LOOK: f64 = 0.25;

pub(super) struct Synthetic {
    info: MeterInfo,
    device: SimulatedDevice,
    /// When the recording began, and the energy by then.
    started: Option<(Seconds, Joules)>,
}

impl Synthetic {
    pub(super) fn new(device: SimulatedDevice) -> Self {
        Self { info: info(device.temperature().is_some()), device, started: None }
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
        Ok(trace(t, energy, &self.device.steps_since(t)))
    }

    fn so_far(&mut self, from: Seconds) -> Option<Trace> {
        // without heat the same work always takes the same
        self.device.temperature()?;
        let from = self.started.map_or(from, |(began, _)| Seconds(began.0.max(from.0)));
        let steps = self.device.steps_since(from);
        let energy = steps.first().map_or(self.device.energy(), |step| step.energy - step.power * (step.end - from));
        Some(trace(from, energy, &steps))
    }
}

/// What the meter reads from `t` on, when the device had spent `energy`.
fn trace(t: Seconds, energy: Joules, steps: &[Step]) -> Trace {
    let sources = [counter(t, energy, steps), power(t, steps)];
    Trace { sources: sources.into_iter().chain(thermometer(t, steps)).collect() }
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

/// Whole degrees, read now and then from `t` on; `None` for a device without heat.
fn thermometer(t: Seconds, steps: &[Step]) -> Option<SourceTrace> {
    let mut due = t;
    let mut began = t;
    let mut samples = Vec::new();
    for step in steps {
        let [before, after] = step.temperatures?;
        let took = (step.end - began).0.max(f64::MIN_POSITIVE);
        while due <= step.end {
            let share = ((due - began).0 / took).clamp(0.0, 1.0);
            samples.push(Sample { t: due, value: (before + (after - before) * share).round() });
            due += Seconds(LOOK);
        }
        began = step.end;
    }
    (!samples.is_empty()).then(|| source(Quantity::Temperature, samples))
}

fn info(with_heat: bool) -> MeterInfo {
    let (min_window_s, idle_s) = if with_heat { WITH_HEAT } else { (Seconds(0.0), IDLE) };
    // conditions are those of a GPU, and so is the protocol that waits for a steady state
    let gpu = || GpuInfo { domain: DOMAIN.into(), name: "simulated device".into(), ..GpuInfo::default() };
    MeterInfo {
        name: NAME.into(),
        method: EnergyMethod::Simulated,
        domains: vec![Domain { name: DOMAIN.into(), description: "simulated device with known power".into() }],
        tick_s: None,
        min_window_s,
        guard_s: Seconds(0.0),
        idle_s,
        notes: vec!["simulated: for tests of the tool itself".into()],
        host_domains: Vec::new(),
        sensing_period_s: None,
        sources: Vec::new(),
        gpus: with_heat.then(gpu).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, Heating};
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
    fn a_device_with_heat_has_a_thermometer_of_whole_degrees_and_the_same_exact_energy() {
        let heating = Heating { share_per_c: 0.004, time_constant: Seconds(25.0), c_per_w: 0.1, ambient_c: 30.0 };
        let device = SimulatedDevice::with_heat(Watts(50.0), heating);
        let mut meter = Synthetic::new(device.clone());
        let before = device.energy();
        meter.start().unwrap();
        (0..60).for_each(|_| device.spend(Seconds(0.5), Watts(300.0)));
        let halfway = meter.so_far(Seconds(15.0)).unwrap();
        device.idle(Seconds(2.0));
        let trace = meter.stop().unwrap();
        let spent = (device.energy() - before).0;
        let energy = window_energy(&trace, meter.info(), Seconds(0.0), Seconds(32.0));
        assert!((energy.total_j.unwrap().0 / spent - 1.0).abs() < 1e-12, "{energy:?}");
        assert!(energy.residual.unwrap().abs() < 1e-12);

        let looks = &trace.find(DOMAIN, Quantity::Temperature).unwrap().samples;
        assert_eq!((looks.len(), looks[0].value), (129, 35.0), "four a second and one at the start");
        assert!(looks.iter().all(|look| look.value.fract() == 0.0));
        let warmest = looks.iter().map(|look| look.value).fold(0.0, f64::max);
        assert_eq!((warmest, looks[128].value), (54.0, 53.0), "towards 64 °C, and cooler after the rest");

        let part = |trace: &Trace| window_energy(trace, meter.info(), Seconds(20.0), Seconds(30.0)).total_j.unwrap().0;
        assert!((part(&halfway) / part(&trace) - 1.0).abs() < 1e-12);
        assert_eq!(halfway.find(DOMAIN, Quantity::EnergyCounter).unwrap().samples[0].t, Seconds(15.0));
    }

    #[test]
    fn without_heat_nothing_shows_whether_work_is_steady() {
        let device = SimulatedDevice::new(Watts(60.0));
        let mut meter = Synthetic::new(device.clone());
        meter.start().unwrap();
        device.spend(Seconds(9.0), Watts(300.0));
        assert!(meter.so_far(Seconds(0.0)).is_none());
        assert!(meter.stop().unwrap().find(DOMAIN, Quantity::Temperature).is_none() && meter.info().gpus.is_empty());
    }

    #[test]
    fn stopping_without_starting_is_an_error() {
        assert!(Synthetic::new(SimulatedDevice::new(Watts(60.0))).stop().is_err());
    }
}
