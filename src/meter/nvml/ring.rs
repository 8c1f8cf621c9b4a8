//! The driver's ring of power samples.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nvml_wrapper::Device;
use nvml_wrapper::enums::device::SampleValue;
use nvml_wrapper::error::NvmlError;

use super::probe;
use crate::clock::Clock;
use crate::error::{Context, Result};
use crate::meter::sampler::Read;
use crate::meter::survey::{Findings, Refusal, spacing};
use crate::record::{Sample, SourceStatus};
use crate::units::Seconds;

/// Nominal spacing of the driver's power samples.
pub(super) const RING_TICK: Seconds = Seconds(0.02);
/// Samples that are farther apart are no better than sensor readings.
const RING_TICK_MOST: Seconds = Seconds(0.05);
/// The newest sample of a live ring is younger than this, in seconds.
const RING_AGE_MOST: f64 = 1.0;
/// The ring is fetched this often, and at least this many times while it fills: an H100's holds 2.4 s.
pub(super) const RING_PERIOD: Seconds = Seconds(1.0);
pub(super) const RING_FETCHES: f64 = 2.4;
/// A ring that began to fill only when it was asked for has some samples by then.
const RING_FILLS: Duration = Duration::from_millis(200);
/// At the start of a recording the ring holds what came before it: so much of that is enough.
const RING_BEFORE: f64 = 0.5;
/// A wall clock that jumps by more than this against the run's clock was set.
const CLOCK_STEP: f64 = 0.005;

/// The driver's ring of power samples: each call gives those that came since the one before.
pub(super) struct Ring {
    device: Arc<Device<'static>>,
    place: Placing,
}

/// Puts samples with stamps of the wall clock onto the run's clock.
#[derive(Debug, Default)]
struct Placing {
    /// The driver's stamp of the newest sample that was taken over, in microseconds since 1970.
    last: u64,
    /// The wall clock's lead over the run's clock, as last seen.
    lead: Option<f64>,
}

impl Placing {
    /// The driver stamps samples with the wall clock: its `lead` over the run's clock is measured again at each call.
    /// Where it was set in between, the new samples could belong to either side and are left out: a gap that the
    /// coverage shows.
    fn put(&mut self, fresh: &[(u64, f64)], now: Seconds, lead: f64, samples: &mut Vec<Sample>) {
        let stepped = self.lead.replace(lead).is_some_and(|before| (lead - before).abs() > CLOCK_STEP);
        if stepped {
            self.last = ((now.0 + lead) * 1e6) as u64;
            return;
        }
        let oldest = samples.last().map_or(now.0 - RING_BEFORE, |sample| sample.t.0);
        for &(stamp, watts) in fresh.iter().filter(|(stamp, _)| *stamp > self.last) {
            let t = stamp as f64 * 1e-6 - lead;
            if t > oldest {
                samples.push(Sample { t: Seconds(t), value: watts });
            }
        }
        self.last = fresh.iter().map(|(stamp, _)| *stamp).fold(self.last, u64::max);
    }
}

impl Ring {
    pub(super) fn new(device: Arc<Device<'static>>) -> Self {
        Self { device, place: Placing::default() }
    }

    pub(super) fn into_read(mut self) -> Read {
        Box::new(move |clock, samples| self.read(clock, samples))
    }

    fn read(&mut self, clock: &Clock, samples: &mut Vec<Sample>) -> Result<()> {
        let fresh = power_samples(&self.device, self.place.last).context(|| "can't read the power samples")?;
        self.place.put(&fresh, clock.now(), wall_clock_lead(clock), samples);
        Ok(())
    }
}

/// Seconds since 1970 minus seconds of the run's clock, from the closest of three pairs of readings.
fn wall_clock_lead(clock: &Clock) -> f64 {
    let pair = |_| {
        let before = clock.now().0;
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let after = clock.now().0;
        (after - before, wall - (before + after) / 2.0)
    };
    (0..3).map(pair).min_by(|a, b| a.0.total_cmp(&b.0)).map_or(0.0, |(_, lead)| lead)
}

/// Stamps in microseconds and watts, oldest first. No new samples is no error.
fn power_samples(device: &Device, since: u64) -> Result<Vec<(u64, f64)>, NvmlError> {
    use nvml_wrapper::enum_wrappers::device::Sampling;
    let samples = match device.samples(Sampling::Power, since) {
        Err(NvmlError::NotFound) => Vec::new(),
        other => other?,
    };
    let mut pairs: Vec<(u64, f64)> = samples
        .into_iter()
        .filter(|sample| sample.timestamp > since)
        .map(|sample| (sample.timestamp, number(&sample.value) / 1000.0))
        .collect();
    pairs.sort_by_key(|(stamp, _)| *stamp);
    pairs.dedup_by_key(|(stamp, _)| *stamp);
    Ok(pairs)
}

/// Whether the ring can be used, and how far back it reaches.
pub(super) fn ring_findings(device: &Device) -> (Findings, Seconds) {
    let mut samples = power_samples(device, 0);
    if samples.as_ref().is_ok_and(|samples| samples.len() < 3) {
        thread::sleep(RING_FILLS);
        samples = power_samples(device, 0);
    }
    let before = Instant::now();
    // its newer half a second time, for the cost alone, as it is paid while measuring
    let middle = samples.as_ref().ok().and_then(|samples| Some(samples.get(samples.len() / 2)?.0));
    let call = middle.and_then(|since| power_samples(device, since).ok()).map(|_| before.elapsed().as_secs_f64());
    let samples = match samples {
        Ok(samples) => samples,
        Err(why) => return (Findings::refused(probe::refusal(&why)), Seconds(0.0)),
    };
    let times: Vec<f64> = samples.iter().map(|(stamp, _)| *stamp as f64 * 1e-6).collect();
    let (tick, range) = spacing(&times);
    let extent = times.first().zip(times.last()).map_or(0.0, |(first, last)| last - first);
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let unusable = match (tick, times.last()) {
        (Some(tick), _) if tick > RING_TICK_MOST => Some(format!("samples are {} ms apart", (tick.0 * 1e3).round())),
        (Some(_), Some(newest)) if (wall - newest).abs() > RING_AGE_MOST => {
            Some("its newest sample isn't recent by this machine's clock".to_owned())
        }
        (Some(_), Some(_)) => None,
        _ => Some("it is empty".to_owned()),
    };
    let findings = match unusable {
        Some(detail) => Findings { tick, range, ..Findings::refused(unusable_ring(detail)) },
        None => Findings {
            status: SourceStatus::Supported,
            tick,
            range,
            call: call.map(Seconds),
            detail: Some(format!("{} samples kept", times.len())),
        },
    };
    (findings, Seconds(extent))
}

fn unusable_ring(detail: String) -> Refusal {
    Refusal { status: SourceStatus::Unsupported, detail }
}

/// Whatever type the driver gives it.
pub(super) fn number(value: &SampleValue) -> f64 {
    match *value {
        SampleValue::F64(value) => value,
        SampleValue::U32(value) => f64::from(value),
        SampleValue::U64(value) => value as f64,
        SampleValue::I64(value) => value as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placed(place: &mut Placing, stamps: &[u64], now: f64, lead: f64, samples: &mut Vec<Sample>) -> Vec<f64> {
        let fresh: Vec<(u64, f64)> = stamps.iter().map(|ms| (ms * 1000, 300.0)).collect();
        place.put(&fresh, Seconds(now), lead, samples);
        samples.iter().map(|sample| (sample.t.0 * 1e3).round()).collect()
    }

    #[test]
    fn samples_that_were_taken_over_come_once_and_half_a_second_of_the_past_is_kept() {
        let (mut place, mut samples) = (Placing::default(), Vec::new());
        // the run's clock is 1000 s behind
        let times = placed(&mut place, &[1_000_100, 1_000_600, 1_000_980], 1.0, 1000.0, &mut samples);
        assert_eq!(times, [600.0, 980.0], "what lies more than half a second back belongs to nobody");
        let times = placed(&mut place, &[1_000_600, 1_000_980, 1_001_000], 1.1, 1000.0, &mut samples);
        assert_eq!(times, [600.0, 980.0, 1000.0]);
        let times = placed(&mut place, &[1_001_000, 1_005_000], 5.1, 1000.0, &mut Vec::new());
        assert_eq!(times, [5000.0], "nor does another recording see them again");
    }

    #[test]
    fn a_wall_clock_that_was_set_leaves_a_gap_and_no_sample_at_a_wrong_time() {
        for (set_to, label) in [(4600.0, "forward"), (-2600.0, "back")] {
            let (mut place, mut samples) = (Placing { last: 0, lead: None }, Vec::new());
            placed(&mut place, &[5_000_900], 1.0, 5000.0, &mut samples);
            let lead = 5000.0 + set_to;
            let ms = |t: f64| ((t + lead) * 1e3) as u64;
            placed(&mut place, &[5_001_100, ms(1.5), ms(1.9)], 2.0, lead, &mut samples);
            let times = placed(&mut place, &[ms(1.9), ms(2.5)], 3.0, lead, &mut samples);
            assert_eq!(times, [900.0, 2500.0], "{label}");
        }
    }
}
