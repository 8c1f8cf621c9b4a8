//! A window's energy split into prefill and decode, at the first token of each batch.
//!
//! The marks are the host's: when a batch was handed over, and when its first tokens were chosen, which is when the device
//! had finished with the prompts. The power samples show a change of power later than the host sees it: on an H100 by 17 ms
//! (4 ms of delay, and a low-pass of 13 ms). Over whole passes with the same work around them that cancels; at the first
//! tokens it doesn't, since in every batch the difference of the two powers times the lag would go from prefill to decode.
//! So the lag is found before anything is split, where the recording has a fall of power that is nothing else: at the end
//! of the trial's work. At a change from one load to another the power itself takes its time, when the clocks recover
//! from the power limit, and the same method errs there by 10 to 40 ms.

use super::integrate::power_energy;
use crate::record::{DECODE, MeterInfo, NEITHER, PREFILL, PhaseSplit, Quantity, Sample, SourceTrace, Trace, WORK};
use crate::units::{Joules, Seconds};

/// Prefill has to last this long, on average, for samples of 20 ms to show its energy.
pub(crate) const SHORTEST_PREFILL: Seconds = Seconds(0.5);
/// Power samples have to be this close together for the same purpose.
const FINE: Seconds = Seconds(0.025);

/// The power before an edge is averaged over so many seconds, and the power after it as well …
const LEVEL: f64 = 0.15;
/// … until so long before the edge: the line between the two samples around it begins to leave the old power by then …
const STILL: f64 = 0.05;
/// … and from so long after it on: by then every sensor shows the new power.
const SETTLED: f64 = 0.1;
/// Power has to fall by this share for the fall to show in noisy samples.
const FALL_NEEDED: f64 = 0.2;
/// Around a change of power an H100's samples mix the old with the new one from so long before the lagging edge (the low-pass
/// of 13 ms begins to follow 4 ms after the change, and samples are 20 ms apart) …
const MIXED_BEFORE: Seconds = Seconds(0.033);
/// … until so long after it, when the low-pass has come within 5 % of the new power and one more sample has come.
const MIXED_AFTER: Seconds = Seconds(0.045);
/// The power next to a mixed stretch is that of so many seconds beside it.
const ENDS: Seconds = Seconds(0.06);
/// A lag outside this range isn't one: power falls for another reason.
const PLAUSIBLE: std::ops::RangeInclusive<f64> = -0.02..=0.08;

/// Prefill and decode of the batches between `t0` and `t1`, from power samples; `decode_steps` counts the steps after
/// each batch's first tokens.
///
/// `None` if the samples are too coarse, a domain has none, or prefill is too short for them.
pub(crate) fn phase_split(
    trace: &Trace,
    info: &MeterInfo,
    t0: Seconds,
    t1: Seconds,
    decode_steps: u64,
) -> Option<PhaseSplit> {
    let marks = &trace.find(WORK, Quantity::Phase)?.samples;
    let (prefill, decode) = (spans(marks, PREFILL, t0, t1), spans(marks, DECODE, t0, t1));
    if prefill.is_empty() || time(&prefill).0 / (prefill.len() as f64) < SHORTEST_PREFILL.0 {
        return None;
    }
    let shown = |name: &str| Some((name.to_owned(), lag(trace, name, marks)?));
    let lags: Vec<(String, Seconds)> = info.domains.iter().filter_map(|domain| shown(&domain.name)).collect();
    let of_domain = |name: &str| lags.iter().find(|(own, _)| own == name).map_or(Seconds(0.0), |(_, lag)| *lag);
    Some(PhaseSplit {
        prefill_j: energy_of(trace, info, &prefill, of_domain)?,
        decode_j: energy_of(trace, info, &decode, of_domain)?,
        prefill_s: time(&prefill),
        decode_s: time(&decode),
        decode_steps,
        lag_s: lags.iter().map(|(_, lag)| *lag).reduce(|a, b| if a < b { b } else { a }),
    })
}

/// Mean duration of a decode step between `t0` and `t1`; `None` if nothing was decoded, or the engine doesn't say when.
pub(crate) fn decode_step(trace: &Trace, t0: Seconds, t1: Seconds, decode_steps: u64) -> Option<Seconds> {
    Some(decode_time(trace, t0, t1).filter(|_| decode_steps > 0)? * (1.0 / decode_steps as f64))
}

/// Time of decoding between `t0` and `t1`, by the engine's marks; `None` if nothing was decoded, or it doesn't say when.
pub(crate) fn decode_time(trace: &Trace, t0: Seconds, t1: Seconds) -> Option<Seconds> {
    let decode = spans(&trace.find(WORK, Quantity::Phase)?.samples, DECODE, t0, t1);
    (!decode.is_empty()).then(|| time(&decode))
}

/// When an activity of the engine began and ended, of those that lie between `t0` and `t1`.
fn spans(marks: &[Sample], phase: f64, t0: Seconds, t1: Seconds) -> Vec<(Seconds, Seconds)> {
    let starts = |pair: &&[Sample]| pair[0].value == phase && pair[0].t >= t0 && pair[1].t <= t1;
    marks.windows(2).filter(starts).map(|pair| (pair[0].t, pair[1].t)).collect()
}

fn time(spans: &[(Seconds, Seconds)]) -> Seconds {
    Seconds(spans.iter().map(|(from, to)| (*to - *from).0).sum())
}

/// Energy of all domains over some spans, from power samples that show them so much later.
fn energy_of(
    trace: &Trace,
    info: &MeterInfo,
    spans: &[(Seconds, Seconds)],
    lag: impl Fn(&str) -> Seconds,
) -> Option<Joules> {
    let of_domain = |name: &str| -> Option<Joules> {
        let (source, lag) = (trace.find(name, Quantity::Power)?, lag(name));
        let of_span = |(from, to): &(Seconds, Seconds)| energy_of_span(source, *from + lag, *to + lag);
        if is_fine(source) { spans.iter().map(of_span).sum() } else { None }
    };
    info.domains.iter().map(|domain| of_domain(&domain.name)).sum()
}

/// Energy of an activity between two instants as the samples show them, its power at either end taken from inside of where
/// the sensor still mixes it with that of the activity before or after: a straight line across the change would give part
/// of the larger power to the wrong side, 1 to 2 % of decode.
fn energy_of_span(source: &SourceTrace, from: Seconds, to: Seconds) -> Option<Joules> {
    let energy = |from: Seconds, to: Seconds| Some(power_energy(source, from, to)?.energy);
    let (first, last) = (from + MIXED_AFTER, to - MIXED_BEFORE);
    if last - first < ENDS * 2.0 {
        return energy(from, to);
    }
    let at_start = energy(first, first + ENDS)? / ENDS;
    let at_end = energy(last - ENDS, last)? / ENDS;
    Some(energy(first, last)? + at_start * MIXED_AFTER + at_end * MIXED_BEFORE)
}

fn is_fine(source: &SourceTrace) -> bool {
    source.tick.is_none_or(|tick| tick <= FINE)
}

/// How much later than the host's mark the power samples of a domain show the end of the trial's work.
///
/// What flows around the mark beyond the old power before it and the new power after it is the fall of power times the
/// lag: lag = (∫P dt − P₁·t₁ − P₂·t₂) / (P₁ − P₂). `None` if the recording has no such fall.
fn lag(trace: &Trace, domain: &str, marks: &[Sample]) -> Option<Seconds> {
    let source = trace.find(domain, Quantity::Power).filter(|source| is_fine(source))?;
    let [.., began, end] = marks else { return None };
    if end.value != NEITHER || (end.t - began.t).0 < LEVEL + STILL {
        return None;
    }
    let energy = |from: f64, to: f64| {
        let (from, to) = (end.t + Seconds(from), end.t + Seconds(to));
        let inside = source.samples.first()?.t <= from && source.samples.last()?.t >= to;
        if inside { Some(power_energy(source, from, to)?.energy.0) } else { None }
    };
    let before = energy(-STILL - LEVEL, -STILL)? / LEVEL;
    let after = energy(SETTLED, SETTLED + LEVEL)? / LEVEL;
    let lag = (energy(-STILL, SETTLED)? - before * STILL - after * SETTLED) / (before - after);
    (before - after > FALL_NEEDED * before && PLAUSIBLE.contains(&lag)).then_some(Seconds(lag))
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::meter::fixtures::source;

    #[test]
    fn prefill_and_decode_are_split_at_the_first_token() {
        // two batches of 1 s prefill at 600 W and 2 s decode at 300 W, 100 W between them
        let marks = [(1.0, 1.0), (2.0, 2.0), (4.0, 0.0), (5.0, 1.0), (6.0, 2.0), (8.0, 0.0), (9.0, 0.0)];
        let watts = [(0.0, 100.0), (1.0, 100.0), (1.0, 600.0), (2.0, 600.0), (2.0, 300.0), (4.0, 300.0), (4.0, 100.0)];
        let again = watts.iter().skip(1).map(|(t, value)| (t + 4.0, *value));
        let power: Vec<_> = watts.iter().copied().chain(again).chain([(9.0, 100.0)]).collect();
        let trace =
            Trace { sources: vec![source(WORK, Quantity::Phase, &marks), source("gpu0", Quantity::Power, &power)] };
        let info = crate::meter::fixtures::info(&["gpu0"]);
        let split = phase_split(&trace, &info, Seconds(0.5), Seconds(9.0), 20).unwrap();
        assert!((split.prefill_j.0 - 1200.0).abs() < 1e-9 && (split.decode_j.0 - 1200.0).abs() < 1e-9, "{split:?}");
        assert_eq!((split.prefill_s, split.decode_s), (Seconds(2.0), Seconds(4.0)));
        let first = phase_split(&trace, &info, Seconds(0.5), Seconds(4.5), 10).unwrap();
        assert!((first.prefill_j.0 - 600.0).abs() < 1e-9, "only batches inside the window");
    }

    /// Duration of a batch: no multiple of 20 ms, as in life.
    const BATCH: f64 = 1.2137;
    const BATCHES: f64 = 33.0;

    /// Batches of 0.6 s of prefill at 680 W and decode at 370 W, and idling at 130 W after them, seen so much later by
    /// samples some 20 ms apart.
    fn lagging(lag: f64, seed: u64, idle: f64) -> Trace {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let power = |t: f64| match t.rem_euclid(BATCH) {
            _ if t >= BATCHES * BATCH => idle,
            within if within < 0.6 => 680.0,
            _ => 370.0,
        };
        let times = (0..2030).map(|i| 0.02 * f64::from(i) + random.random_range(0.0..0.015));
        let samples: Vec<_> = times.map(|t| (t, power(t - lag))).collect();
        let batch = |i: f64| [(0.0, PREFILL), (0.6, DECODE), (BATCH, NEITHER)].map(|(t, phase)| (i * BATCH + t, phase));
        let marks: Vec<_> = (0..BATCHES as u32).flat_map(|i| batch(f64::from(i))).collect();
        Trace { sources: vec![source(WORK, Quantity::Phase, &marks), source("gpu0", Quantity::Power, &samples)] }
    }

    fn split(trace: &Trace) -> PhaseSplit {
        let info = crate::meter::fixtures::info(&["gpu0"]);
        phase_split(trace, &info, Seconds(2.0 * BATCH), Seconds(32.0 * BATCH + 1e-6), 100).unwrap()
    }

    #[test]
    fn samples_that_lag_behind_the_host_move_no_energy_from_prefill_to_decode() {
        for lag in [0.0, 0.017, 0.03] {
            let splits: Vec<PhaseSplit> = (0..40).map(|seed| split(&lagging(lag, seed, 130.0))).collect();
            let mean = |get: fn(&PhaseSplit) -> f64| splits.iter().map(get).sum::<f64>() / splits.len() as f64;
            let found = mean(|split| split.lag_s.unwrap().0);
            assert!((found - lag).abs() < 0.003, "{found} is not {lag}");
            // uncorrected, 17 ms would be 5.3 J of a prefill of 408 J and of a decode of 227 J: −1.3 % and +2.3 %
            let prefill = mean(|split| split.prefill_j.0) / 30.0 / 408.0 - 1.0;
            let decode = mean(|split| split.decode_j.0) / 30.0 / (370.0 * (BATCH - 0.6)) - 1.0;
            assert!(prefill.abs() < 0.001 && decode.abs() < 0.001, "{prefill} {decode}");
        }
    }

    #[test]
    fn without_a_fall_of_power_at_the_end_no_lag_is_claimed() {
        assert_eq!(split(&lagging(0.017, 0, 360.0)).lag_s, None, "something else goes on");
        let mut ends_early = lagging(0.017, 0, 130.0);
        ends_early.sources[1].samples.retain(|sample| sample.t.0 < BATCHES * BATCH + 0.1);
        assert_eq!(split(&ends_early).lag_s, None, "the new power isn't known");
    }
}
