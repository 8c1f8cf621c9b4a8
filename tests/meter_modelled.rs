//! The modelled meter against the processor time of this very process: the only test in its binary, since others
//! next to it would be charged as well.

use std::thread;
use std::time::{Duration, Instant};

use ept_sweep::clock::Clock;
use ept_sweep::error::Result;
use ept_sweep::meter::findings::Findings;
use ept_sweep::meter::{Meter, MeterOptions, during, open};
use ept_sweep::record::{EnergyMethod, MeterChoice, ModelCoefficients, Quantity, Reason};
use ept_sweep::validity::Work;

fn watts(meter: &mut dyn Meter, clock: &Clock, work: impl FnOnce()) -> f64 {
    let recorded = during(meter, clock, || -> Result<()> {
        work();
        Ok(())
    });
    let ((), t0, t1, trace) = recorded.unwrap();
    let work = Work { t0, t1, ..Work::default() };
    let Findings { energy, validity, .. } = Findings::of(&trace, meter.info(), &work, None);
    assert_eq!(validity.invalid_reasons, []);
    assert_eq!(validity.warnings, [Reason::Modelled]);
    assert_eq!(energy.method, Some(EnergyMethod::Modelled));
    assert_eq!((energy.residual, energy.integral_j), (None, None), "there is no second source");
    assert!(trace.sources.iter().any(|source| source.quantity == Quantity::Power && source.samples.len() > 5));
    (energy.total_j.unwrap() / (t1 - t0)).0
}

#[test]
fn sleeping_costs_the_idle_share_and_a_busy_thread_costs_its_core() {
    let clock = Clock::monotonic();
    // 1000 W a core, so that the sampler's own time would show
    let coefficients = ModelCoefficients { watts_per_core: 1000.0, idle_w: 100.0 };
    let options = MeterOptions { coefficients, ..MeterOptions::default() };
    let mut meter = open(MeterChoice::Modelled, &options, &clock).unwrap();

    let asleep = watts(meter.as_mut(), &clock, || thread::sleep(Duration::from_millis(800)));
    assert!((100.0..200.0).contains(&asleep), "{asleep} W asleep");

    let busy = watts(meter.as_mut(), &clock, || {
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(800) {}
    });
    // a loaded machine may give this thread less than its core, never more
    assert!(busy > asleep + 100.0 && busy < 1200.0, "{busy} W busy");
}
