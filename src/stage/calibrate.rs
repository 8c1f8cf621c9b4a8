//! Measuring what reading memory and multiplying cost on a device.
//!
//! ```text
//! meter on │ warm-up │ { guard │ read │ guard │ guard │ multiply │ guard } × repeats │ meter off │ idle
//! ```

use std::sync::atomic::{AtomicBool, Ordering};

use super::steady::Warmth;
use crate::clock::Clock;
use crate::engine::{Amount, Yardstick};
use crate::error::{Error, Kind, Result};
use crate::meter::conditions::conditions;
use crate::meter::integrate::window_energy;
use crate::meter::span::{self, Rest};
use crate::meter::{self, Edge, Meter};
use crate::record::{CalibrationWindow, ClockEvent, IdleBaseline, Protocol, Trace};
use crate::units::Seconds;

/// Windows of each kind of work: enough for an interval, and over in a quarter of a minute on a GPU.
const REPEATS: usize = 4;
/// Length of a window as a share of the shortest one that the meter measures well by itself: four of them are as long.
const SHARE: f64 = 0.25;
/// Shortest window in seconds.
const SHORTEST: f64 = 0.2;
/// Seconds of each kind of work in a cycle of the warm-up.
const HALF_CYCLE: f64 = 0.5;
/// The warm-up lasts no longer, in seconds: reading and multiplying heat a device faster than decoding does.
const LONGEST_WARMUP: f64 = 20.0;
/// Seconds of the idle baseline at most.
const IDLE: f64 = 5.0;

/// A device about to be calibrated.
pub(crate) struct Calibrating<'a> {
    pub(crate) yardstick: &'a mut Yardstick,
    pub(crate) meter: &'a mut dyn Meter,
    /// The clock of yardstick and meter.
    pub(crate) clock: &'a Clock,
    pub(crate) protocol: &'a Protocol,
    /// Set when the user asks to stop.
    pub(crate) stop: &'a AtomicBool,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Costs {
    pub(crate) idle: IdleBaseline,
    pub(crate) reads: Vec<CalibrationWindow>,
    pub(crate) products: Vec<CalibrationWindow>,
}

/// A kind of work.
type Work = fn(&mut Yardstick) -> Result<Amount>;
const KINDS: [Work; 2] = [Yardstick::read, Yardstick::multiply];

/// Work that was done between two instants.
struct Done {
    amount: Amount,
    t0: Seconds,
    t1: Seconds,
}

impl Calibrating<'_> {
    /// Reads and multiplies, each several times, and then idles.
    ///
    /// # Errors
    /// The device or the meter fails, a window has no energy, or the user asked to stop.
    pub(crate) fn costs(mut self) -> Result<Costs> {
        let (done, trace) = self.record()?;
        let [reads, products] = done;
        let measured = |windows: &[Done]| windows.iter().map(|done| self.window(done, &trace)).collect::<Result<_>>();
        let (reads, products) = (measured(&reads)?, measured(&products)?);
        let idle = self.idle()?.ok_or_else(|| Error::new("no idle power was measured").with_kind(Kind::Meter))?;
        Ok(Costs { idle, reads, products })
    }

    fn record(&mut self) -> Result<([Vec<Done>; 2], Trace)> {
        let (yardstick, clock, protocol, stop) = (&mut *self.yardstick, self.clock, self.protocol, self.stop);
        let least = Seconds((self.meter.info().min_window_s.0 * SHARE).max(SHORTEST));
        let guard = protocol.guard_s;
        let mut working = Working { yardstick, clock, stop };
        meter::recording(self.meter, |meter| {
            working.warm_up(meter, protocol)?;
            let mut done = [Vec::with_capacity(REPEATS), Vec::with_capacity(REPEATS)];
            for _ in 0..REPEATS {
                for (windows, kind) in done.iter_mut().zip(KINDS) {
                    meter.edge(Edge::Soon);
                    working.for_at_least(guard, kind)?;
                    let t0 = clock.now();
                    meter.edge(Edge::Passed);
                    let amount = working.for_at_least(least, kind)?;
                    let t1 = clock.now();
                    meter.edge(Edge::Passed);
                    working.for_at_least(guard, kind)?;
                    windows.push(Done { amount, t0, t1 });
                }
            }
            Ok(done)
        })
    }

    fn window(&self, done: &Done, trace: &Trace) -> Result<CalibrationWindow> {
        let Done { amount, t0, t1 } = *done;
        let info = self.meter.info();
        let energy = window_energy(trace, info, t0, t1).total_j;
        let gpus = conditions(trace, info, t0, t1);
        let first = gpus.first();
        Ok(CalibrationWindow {
            bytes: amount.bytes,
            flops: amount.flops,
            duration_s: t1 - t0,
            energy_j: energy.ok_or_else(|| Error::new("a window has no energy").with_kind(Kind::Meter))?,
            temperature_c: gpus.iter().filter_map(|gpu| gpu.temperature_end_c).reduce(f64::max),
            sm_clock_mhz: first.and_then(|gpu| gpu.sm_clock_mhz),
            memory_clock_mhz: first.and_then(|gpu| gpu.memory_clock_mhz),
            power_cap: first.map(|gpu| gpu.clock_events.get(&ClockEvent::SoftwarePowerCap).copied().unwrap_or(0.0)),
        })
    }

    /// Right after the work, while the device is warm: idling takes more on a warm one, too.
    fn idle(&mut self) -> Result<Option<IdleBaseline>> {
        let needed = self.meter.info().idle_s;
        let rest = Rest {
            settle_s: self.protocol.settle_s,
            guard_s: self.protocol.guard_s,
            duration_s: Seconds(needed.0.min(IDLE)),
        };
        span::idle_baseline(self.meter, self.clock, rest, self.stop)
    }
}

/// A yardstick at work.
struct Working<'a> {
    yardstick: &'a mut Yardstick,
    clock: &'a Clock,
    stop: &'a AtomicBool,
}

impl Working<'_> {
    fn once(&mut self, kind: Work) -> Result<Amount> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(Error::interrupted()),
            false => kind(self.yardstick),
        }
    }

    /// Works for at least so long; all that was done.
    fn for_at_least(&mut self, least: Seconds, kind: Work) -> Result<Amount> {
        let start = self.clock.now();
        let mut sum = Amount { bytes: 0.0, flops: 0.0 };
        while (self.clock.now() - start).0 < least.0 {
            let amount = self.once(kind)?;
            sum = Amount { bytes: sum.bytes + amount.bytes, flops: sum.flops + amount.flops };
        }
        Ok(sum)
    }

    /// Until the same cycle of reading and multiplying always takes the same, if the meter can show that, within the
    /// protocol's limits and [`LONGEST_WARMUP`].
    fn warm_up(&mut self, meter: &mut dyn Meter, protocol: &Protocol) -> Result<()> {
        let start = self.clock.now();
        let times = [self.times(KINDS[0])?, self.times(KINDS[1])?];
        let longest = protocol.max_warmup_s.0.min(LONGEST_WARMUP);
        let allowed = protocol.steady.filter(|_| meter.so_far(start).is_some());
        let mut warmth = Warmth::default();
        loop {
            let passed = (self.clock.now() - start).0;
            let steady = allowed.is_none_or(|allowed| warmth.is_steady(allowed));
            if passed >= longest || (passed >= protocol.warmup_s.0 && steady) {
                return Ok(());
            }
            let began = self.clock.now();
            for (kind, times) in KINDS.into_iter().zip(times) {
                for _ in 0..times {
                    self.once(kind)?;
                }
            }
            let ended = self.clock.now();
            meter.edge(Edge::Passed);
            warmth.note(began, ended);
            warmth.look(meter);
        }
    }

    /// How often work fits into half a cycle; the first time, which loads kernels, doesn't count.
    fn times(&mut self, kind: Work) -> Result<usize> {
        self.once(kind)?;
        let began = self.clock.now();
        self.once(kind)?;
        Ok((HALF_CYCLE / (self.clock.now() - began).0.max(1e-6)).ceil() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SimulatedDevice;
    use crate::meter::{MeterOptions, open};
    use crate::record::{MeterChoice, SyntheticCard};
    use crate::sweep::measure::MeasureSpec;
    use crate::units::Watts;

    #[test]
    fn a_simulated_card_is_found_to_cost_what_it_costs() {
        let device = SimulatedDevice::new(Watts(100.0));
        let clock = Clock::Simulated(device.clone());
        let mut meter = open(MeterChoice::Auto, &MeterOptions::default(), &clock).unwrap();
        let card = SyntheticCard { read_bytes_per_s: 3e12, read_w: 400.0, flops_per_s: 8e14, product_w: 700.0 };
        let protocol = MeasureSpec::default().protocol(meter.info());
        let costs = Calibrating {
            yardstick: &mut Yardstick::simulated(card, device),
            meter: &mut *meter,
            clock: &clock,
            protocol: &protocol,
            stop: &AtomicBool::new(false),
        }
        .costs()
        .unwrap();
        assert!((costs.idle.power_w.0 - 100.0).abs() < 1e-9);
        assert_eq!((costs.reads.len(), costs.products.len()), (REPEATS, REPEATS));
        let close = |left: f64, right: f64| assert!((left / right - 1.0).abs() < 1e-9, "{left} is not {right}");
        for (read, product) in costs.reads.iter().zip(&costs.products) {
            assert!(read.duration_s.0 >= SHORTEST && read.flops == 0.0);
            close(read.bytes / read.duration_s.0, 3e12);
            close(read.energy_j.0 / read.duration_s.0, 400.0);
            close(product.flops / product.duration_s.0, 8e14);
            close(product.energy_j.0 / product.duration_s.0, 700.0);
        }
    }

    #[test]
    fn an_interruption_ends_a_calibration() {
        let device = SimulatedDevice::new(Watts(100.0));
        let clock = Clock::Simulated(device.clone());
        let mut meter = open(MeterChoice::Auto, &MeterOptions::default(), &clock).unwrap();
        let card = SyntheticCard { read_bytes_per_s: 3e12, read_w: 400.0, flops_per_s: 8e14, product_w: 700.0 };
        let protocol = MeasureSpec::default().protocol(meter.info());
        let calibrating = Calibrating {
            yardstick: &mut Yardstick::simulated(card, device),
            meter: &mut *meter,
            clock: &clock,
            protocol: &protocol,
            stop: &AtomicBool::new(true),
        };
        assert_eq!(calibrating.costs().unwrap_err().kind(), Kind::Interrupted);
    }
}
