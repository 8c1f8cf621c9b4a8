//! Sensors with known power, and the energies that they must give.

use super::counter::counter_energy;
use super::counter::renewed;
use super::power::PowerIntegral;
use super::*;
use crate::meter::findings::Findings;
use crate::meter::fixtures;
use crate::record::{EnergyMethod, MeterInfo, Quantity, Reason, Sample, SourceTrace, Trace, Validity, WindowEnergy};
use crate::units::{Joules, Seconds, Watts};
use crate::validity::{CounterFault, Work};

fn trace_of(quantity: Quantity, method: EnergyMethod, tick: Option<f64>, samples: Vec<(f64, f64)>) -> SourceTrace {
    SourceTrace {
        domain: "gpu0".into(),
        quantity,
        method,
        tick: tick.map(Seconds),
        lag: Seconds(0.0),
        samples: samples.into_iter().map(|(t, value)| Sample { t: Seconds(t), value }).collect(),
    }
}

fn counter(tick: Option<f64>, samples: Vec<(f64, f64)>) -> SourceTrace {
    trace_of(Quantity::EnergyCounter, EnergyMethod::Counter, tick, samples)
}

fn power(samples: Vec<(f64, f64)>) -> SourceTrace {
    trace_of(Quantity::Power, EnergyMethod::PowerIntegral, None, samples)
}

/// Readings every `every` seconds of `value` from 0 to `end`.
fn every(every: f64, end: f64, value: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
    let count = (end / every).round() as usize;
    (0..=count).map(|i| i as f64 * every).map(|t| (t, value(t))).collect()
}

/// A counter that shows the energy of its last tick.
fn ticking(tick: f64, offset: f64, energy: impl Fn(f64) -> f64) -> impl Fn(f64) -> f64 {
    // the small shift keeps readings that coincide with a tick on one side of it
    move |t| energy(((t - offset + 1e-9) / tick).floor() * tick + offset)
}

fn info(domains: &[&str], min_window: f64) -> MeterInfo {
    MeterInfo { min_window_s: Seconds(min_window), ..fixtures::info(domains) }
}

fn named(domain: &str, source: SourceTrace) -> SourceTrace {
    SourceTrace { domain: domain.into(), ..source }
}

fn window(sources: Vec<SourceTrace>, domains: &[&str], t0: f64, t1: f64) -> (WindowEnergy, Validity) {
    judged(&Trace { sources }, &info(domains, 0.0), t0, t1)
}

fn judged(trace: &Trace, info: &MeterInfo, t0: f64, t1: f64) -> (WindowEnergy, Validity) {
    let work = Work { t0: Seconds(t0), t1: Seconds(t1), ..Work::default() };
    let found = Findings::of(trace, info, &work, None);
    (found.energy, found.validity)
}

/// Without power samples.
fn straight(source: &SourceTrace, t0: f64, t1: f64) -> Result<Joules, CounterFault> {
    counter_energy(source, None, Seconds(t0), Seconds(t1)).map(|counted| counted.energy)
}

#[track_caller]
fn near(actual: f64, expected: f64, tolerance: f64) {
    assert!((actual - expected).abs() <= tolerance, "{actual} is not {expected} ± {tolerance}");
}

fn energy(source: &SourceTrace, t0: f64, t1: f64) -> f64 {
    straight(source, t0, t1).unwrap().0
}

fn integral(source: &SourceTrace, t0: f64, t1: f64) -> PowerIntegral {
    power_energy(source, Seconds(t0), Seconds(t1)).unwrap()
}

#[test]
fn constant_power_is_exact_at_edges_between_readings() {
    let source = counter(None, every(0.1, 10.0, |t| 1000.0 + 300.0 * t));
    near(energy(&source, 1.234, 6.789), 300.0 * 5.555, 1e-9);
    near(integral(&power(every(0.02, 10.0, |_| 300.0)), 1.234, 6.789).energy.0, 300.0 * 5.555, 1e-9);
}

#[test]
fn a_counter_edge_inside_a_step_is_interpolated_between_its_readings() {
    // 60 W until 2.0 s, 300 W after; the reading interval 1.9 … 2.1 averages to 180 W
    let truth = |t: f64| 60.0 * t.min(2.0) + 300.0 * (t - 2.0).max(0.0);
    let source = counter(None, vec![(0.0, 0.0), (1.9, truth(1.9)), (2.1, truth(2.1)), (5.0, truth(5.0))]);
    near(energy(&source, 2.1, 5.0), 870.0, 1e-9);
    near(energy(&source, 2.0, 5.0), 870.0 + 18.0, 1e-9);
}

#[test]
fn a_ramp_of_power_has_the_area_of_its_trapezoid() {
    // P = 100 t: E(1 … 3) = 50 (9 − 1) = 400 J, also where the edges lie between samples
    let source = power(every(0.02, 4.0, |t| 100.0 * t));
    near(integral(&source, 1.0, 3.0).energy.0, 400.0, 1e-9);
    near(integral(&source, 1.007, 2.993).energy.0, 50.0 * (2.993f64.powi(2) - 1.007f64.powi(2)), 1e-9);
}

#[test]
fn a_step_with_two_samples_at_the_change_is_exact_from_either_side() {
    let source = power(vec![(0.0, 60.0), (1.0, 60.0), (1.0, 300.0), (2.0, 300.0)]);
    near(integral(&source, 0.0, 1.0).energy.0, 60.0, 1e-12);
    near(integral(&source, 1.0, 2.0).energy.0, 300.0, 1e-12);
    near(integral(&source, 0.5, 1.5).energy.0, 180.0, 1e-12);
}

#[test]
fn a_burst_between_samples_costs_at_most_one_sampling_interval() {
    // 900 W for 0.5 s on top of 75 W: 75·3 + 825·0.5 = 637.5 J
    let burst = |t: f64| if (1.0..1.5).contains(&t) { 900.0 } else { 75.0 };
    let source = power(every(0.02, 3.0, burst));
    near(integral(&source, 0.0, 3.0).energy.0, 637.5, 825.0 * 0.02);
}

#[test]
fn repeated_power_samples_keep_their_weight() {
    // 300 W for 5 s, 60 W for 1 s; without the repeats the trapezoid would say about 960 J
    let source = power(every(0.01, 6.0, |t| if t < 5.0 { 300.0 } else { 60.0 }));
    near(integral(&source, 0.0, 6.0).energy.0, 1560.0, 240.0 * 0.01);
}

#[test]
fn missing_power_samples_are_bridged_and_lower_the_coverage() {
    let mut samples = every(0.01, 10.0, |_| 200.0);
    samples.retain(|&(t, _)| !(3.005..3.995).contains(&t));
    let result = integral(&power(samples), 0.0, 10.0);
    near(result.energy.0, 2000.0, 1e-9);
    near(result.max_gap.0, 1.0, 1e-9);
    // the gap of 1 s counts as covered within 50 ms of either end: 0.9 of 10 s are missing
    near(result.coverage, 0.91, 1e-9);
}

#[test]
fn an_edge_without_power_samples_is_a_gap() {
    let result = integral(&power(every(0.01, 5.0, |_| 200.0)), 0.0, 6.0);
    near(result.energy.0, 1200.0, 1e-9);
    near(result.max_gap.0, 1.0, 1e-9);
    near(result.coverage, 1.0 - 0.95 / 6.0, 1e-9);
}

#[test]
fn no_power_samples_give_no_energy_rather_than_zero() {
    assert_eq!(power_energy(&power(vec![]), Seconds(0.0), Seconds(1.0)), None);
}

#[test]
fn ticks_of_100_ms_are_interpolated_whatever_their_offset() {
    // evenly polled, every tick is seen equally late, and that cancels between the edges
    for offset in [0.0, 0.013, 0.05, 0.077, 0.099] {
        let source = counter(Some(0.1), every(0.05, 8.0, ticking(0.1, offset, |t| 400.0 * t)));
        near(energy(&source, 1.21, 6.21), 2000.0, 1e-4);
        near(energy(&source, 1.21, 6.263), 2021.2, 1e-4);
    }
}

#[test]
fn uneven_polling_of_100_ms_ticks_costs_at_most_half_a_poll_at_each_edge() {
    let staircase = ticking(0.1, 0.03, |t| 400.0 * t);
    let polls = (0..160).map(|i: i32| 0.05 * f64::from(i) + 0.019 * f64::from((i * 37) % 11) / 11.0);
    let source = counter(Some(0.1), polls.map(|t| (t, staircase(t))).collect());
    for start in 0..20 {
        let t0 = 1.0 + 0.017 * f64::from(start);
        near(energy(&source, t0, t0 + 5.0), 2000.0, 400.0 * 0.05);
    }
}

#[test]
fn repeated_readings_of_a_ticking_counter_are_not_flat_power() {
    // polled at 10 ms the staircase has flat treads; an edge in the middle of one must not lose half a tick
    let readings = every(0.01, 3.0, ticking(0.1, 0.0, |t| 1000.0 * t));
    let source = counter(Some(0.1), readings);
    near(energy(&source, 1.0, 1.55), 550.0, 1e-4);
}

#[test]
fn polling_slower_than_the_tick_shifts_both_edges_alike() {
    let readings = every(0.01, 3.0, ticking(0.001, 0.0, |t| 150.0 * t));
    let source = counter(Some(0.001), readings);
    near(energy(&source, 0.5, 2.5), 300.0, 1e-6);
}

#[test]
fn a_counter_that_goes_backwards_inside_the_window_is_a_reset() {
    let readings = every(0.1, 6.0, |t| if t < 3.05 { 100.0 + 300.0 * t } else { 300.0 * (t - 3.0) });
    let source = counter(Some(0.1), readings);
    assert_eq!(straight(&source, 1.0, 5.0), Err(CounterFault::Reset));
    near(energy(&source, 3.5, 5.0), 450.0, 1e-6);
}

#[test]
fn a_counter_that_stands_still_is_stuck_even_where_it_moved_before() {
    let still = counter(Some(0.1), every(0.05, 6.0, |_| 5.0));
    assert_eq!(straight(&still, 1.0, 5.0), Err(CounterFault::Stuck));
    let stops = counter(Some(0.1), every(0.05, 6.0, |t| 300.0 * t.min(2.0)));
    assert_eq!(straight(&stops, 1.0, 5.0), Err(CounterFault::Stuck));
    near(energy(&stops, 0.5, 1.5), 300.0, 1e-6);
}

#[test]
fn a_short_window_between_two_ticks_is_not_stuck() {
    let source = counter(Some(0.1), every(0.01, 2.0, ticking(0.1, 0.0, |t| 300.0 * t)));
    near(energy(&source, 1.03, 1.08), 15.0, 1e-6);
}

#[test]
fn a_simulated_counter_may_stand_still_where_there_is_no_power() {
    let source = trace_of(Quantity::EnergyCounter, EnergyMethod::Simulated, None, vec![(0.0, 5.0), (10.0, 5.0)]);
    near(energy(&source, 1.0, 9.0), 0.0, 0.0);
}

#[test]
fn readings_that_do_not_reach_an_edge_give_no_energy() {
    let source = counter(None, every(0.1, 5.0, |t| 300.0 * t));
    assert_eq!(straight(&source, 1.0, 5.5), Err(CounterFault::NotCovered));
    assert_eq!(straight(&source, -1.0, 4.0), Err(CounterFault::NotCovered));
    assert_eq!(straight(&counter(None, vec![]), 0.0, 1.0), Err(CounterFault::NotCovered));
    assert_eq!(straight(&counter(None, vec![(0.5, 1.0)]), 0.0, 1.0), Err(CounterFault::NotCovered));
}

#[test]
fn an_edge_within_one_tick_of_the_readings_follows_their_slope() {
    let source = counter(Some(0.1), every(0.1, 5.0, |t| 300.0 * t));
    near(energy(&source, 1.0, 5.0), 1200.0, 1e-6);
    assert_eq!(straight(&source, 1.0, 5.2), Err(CounterFault::NotCovered));
}

#[test]
fn two_sources_that_agree_give_a_valid_window_with_a_small_residual() {
    let sources = vec![counter(None, every(0.1, 10.0, |t| 300.0 * t)), power(every(0.02, 10.0, |_| 299.4))];
    let (energy, Validity { invalid_reasons, warnings }) = window(sources, &["gpu0"], 2.0, 8.0);
    near(energy.total_j.unwrap().0, 1800.0, 1e-9);
    near(energy.integral_j.unwrap().0, 1796.4, 1e-9);
    near(energy.residual.unwrap(), 0.002, 1e-12);
    near(energy.coverage.unwrap(), 1.0, 1e-12);
    near(energy.max_gap_s.unwrap().0, 0.02, 1e-9);
    assert_eq!(energy.method, Some(EnergyMethod::Counter));
    assert_eq!((invalid_reasons, warnings), (vec![], vec![]));
}

#[test]
fn the_residual_warns_above_three_standard_deviations_of_the_resolution_and_invalidates_above_eight() {
    // two exact sources agree within 0.1 % (one standard deviation)
    let judged = |watts: f64| {
        let sources = vec![counter(None, every(0.1, 10.0, |t| 100.0 * t)), power(every(0.02, 10.0, move |_| watts))];
        let (_, Validity { invalid_reasons, warnings }) = window(sources, &["gpu0"], 2.0, 8.0);
        (invalid_reasons, warnings)
    };
    assert_eq!(judged(99.75), (vec![], vec![]));
    assert_eq!(judged(99.5), (vec![], vec![Reason::ResidualNoticeable]));
    assert_eq!(judged(100.7), (vec![], vec![Reason::ResidualNoticeable]));
    assert_eq!(judged(99.0), (vec![Reason::ResidualTooLarge], vec![]));
    assert_eq!(judged(101.0), (vec![Reason::ResidualTooLarge], vec![]));
}

#[test]
fn power_that_jumps_from_sample_to_sample_explains_a_larger_residual() {
    // 70 or 130 W in turn: σ = √(60²/2) W, 0.4243 of the mean; 301 samples leave 0.4243 · √303 / 301 of the energy open
    let jumping = power(every(0.02, 10.0, |t| if (t / 0.02).round() as i64 % 2 == 0 { 130.0 } else { 70.0 }));
    let (energy, validity) = window(vec![counter(None, every(0.1, 10.0, |t| 102.0 * t)), jumping], &["gpu0"], 2.0, 8.0);
    near(energy.residual.unwrap(), 0.0196, 1e-3);
    near(energy.residual_sd.unwrap(), (0.4243f64 * 303.0f64.sqrt() / 301.0).hypot(0.001), 2e-4);
    assert_eq!(validity, Validity::default());
}

#[test]
fn how_closely_the_ticks_at_the_edges_are_known_is_in_the_record_and_a_warning_if_it_matters() {
    // readings every 5 ms know a tick to ± 2.5 ms, readings every 60 ms not at all
    let of = |poll: f64| {
        window(vec![counter(Some(0.1), every(poll, 9.0, ticking(0.1, 0.013, |t| 300.0 * t)))], &["gpu0"], 2.0, 7.0)
    };
    let (energy, validity) = of(0.005);
    let (start, end) = energy.edges_s.unwrap();
    near(start.0, 0.0025, 1e-9);
    near(end.0, 0.0025, 1e-9);
    assert_eq!(validity, Validity::default());
    let (energy, validity) = of(0.06);
    let (start, end) = energy.edges_s.unwrap();
    assert!(start.0 > 0.025 && end.0 > 0.025, "{start:?} {end:?}");
    assert_eq!(validity.warnings, [Reason::EdgesUncertain]);
}

#[test]
fn ticks_that_are_known_no_better_than_half_a_tick_are_not_taken_for_known_ones() {
    // a busy machine reads 26 ms apart near the edges: four times that would be a whole tick, so that a reading after a
    // long rest, which says of its tick only that it came within the last 100 ms, would count as one that is known. It
    // isn't right on average either, since the rest ends in step with the ticks: here 10 ms after one.
    let staircase = ticking(0.1, 0.0, |t| 300.0 * t);
    let close = |from: f64| (0..20).map(move |i| from + 0.026 * f64::from(i));
    let times: Vec<f64> = close(1.7).chain([4.91]).chain(close(6.9)).collect();
    let source = counter(Some(0.1), times.iter().map(|t| (*t, staircase(*t))).collect());
    for shift in [0.0, 0.03, 0.06, 0.09] {
        near(energy(&source, 2.0 + shift, 4.9 + shift), 870.0, 5.0);
    }
}

#[test]
fn domains_are_summed_and_kept_apart() {
    let sources = vec![
        named("package-0", counter(None, every(0.01, 3.0, |t| 100.0 * t))),
        named("dram-0", counter(None, every(0.01, 3.0, |t| 10.0 * t))),
    ];
    let (energy, Validity { invalid_reasons, .. }) = window(sources, &["package-0", "dram-0"], 1.0, 3.0);
    near(energy.total_j.unwrap().0, 220.0, 1e-9);
    near(energy.domains[0].energy_j.0, 200.0, 1e-9);
    near(energy.domains[1].energy_j.0, 20.0, 1e-9);
    assert_eq!((energy.residual, energy.coverage, energy.integral_j), (None, None, None));
    assert_eq!(invalid_reasons, []);
}

#[test]
fn without_a_counter_the_power_integral_is_the_figure_and_has_no_residual() {
    let (energy, Validity { invalid_reasons, .. }) =
        window(vec![power(every(0.02, 4.0, |_| 250.0))], &["gpu0"], 1.0, 3.0);
    near(energy.total_j.unwrap().0, 500.0, 1e-9);
    assert_eq!(energy.method, Some(EnergyMethod::PowerIntegral));
    assert_eq!(energy.residual, None);
    assert_eq!(invalid_reasons, []);
}

#[test]
fn a_power_integral_with_holes_is_invalid_but_a_counter_beside_holes_only_warned_of() {
    let holes = || power(every(0.02, 4.0, |_| 250.0).into_iter().filter(|&(t, _)| !(1.5..2.5).contains(&t)).collect());
    assert_eq!(window(vec![holes()], &["gpu0"], 1.0, 3.0).1.invalid_reasons, [Reason::CoverageTooLow]);
    let beside = vec![counter(None, every(0.1, 4.0, |t| 250.0 * t)), holes()];
    let (_, Validity { invalid_reasons, warnings }) = window(beside, &["gpu0"], 1.0, 3.0);
    assert_eq!(invalid_reasons, []);
    assert_eq!(warnings, [Reason::CoverageTooLow]);
}

#[test]
fn nothing_measured_is_unknown_never_zero() {
    let (energy, Validity { invalid_reasons, .. }) = window(vec![], &["gpu0"], 1.0, 3.0);
    assert_eq!(energy, WindowEnergy::default());
    assert_eq!(invalid_reasons, [Reason::NoEnergySource]);
    assert_eq!(window(vec![], &[], 1.0, 3.0).1.invalid_reasons, [Reason::NoEnergySource]);
}

#[test]
fn a_domain_without_a_source_makes_the_total_unknown() {
    let sources = vec![counter(None, every(0.1, 4.0, |t| 250.0 * t))];
    let (energy, Validity { invalid_reasons, .. }) = window(sources, &["gpu0", "gpu1"], 1.0, 3.0);
    assert_eq!((energy.total_j, energy.method), (None, None));
    assert_eq!(energy.domains.len(), 1);
    assert_eq!(invalid_reasons, [Reason::NoEnergySource]);
}

#[test]
fn a_counter_fault_is_named_and_the_total_stays_unknown() {
    let reset = counter(None, every(0.1, 4.0, |t| if t < 2.0 { 250.0 * t } else { 250.0 * (t - 2.0) }));
    let (energy, Validity { invalid_reasons, .. }) =
        window(vec![reset, power(every(0.02, 4.0, |_| 250.0))], &["gpu0"], 1.0, 3.0);
    assert_eq!((energy.total_j, energy.residual), (None, None));
    near(energy.integral_j.unwrap().0, 500.0, 1e-9);
    assert_eq!(invalid_reasons, [Reason::CounterReset]);
}

#[test]
fn modelled_energy_is_marked_and_its_own_power_is_no_second_source() {
    let modelled = SourceTrace { method: EnergyMethod::Modelled, ..counter(None, every(0.01, 2.0, |t| 13.0 * t)) };
    let figure = derived_power(&modelled, Seconds(0.05));
    assert!(figure.samples.iter().all(|sample| (sample.value - 13.0).abs() < 1e-9));
    near(figure.samples[0].t.0, 0.025, 1e-9);
    let (energy, Validity { invalid_reasons, warnings }) = window(vec![modelled, figure], &["gpu0"], 0.5, 1.5);
    near(energy.total_j.unwrap().0, 13.0, 1e-9);
    assert_eq!(energy.method, Some(EnergyMethod::Modelled));
    assert_eq!((energy.residual, energy.integral_j), (None, None));
    assert_eq!(warnings, [Reason::Modelled]);
    assert_eq!(invalid_reasons, []);
}

#[test]
fn a_window_shorter_than_the_source_needs_is_invalid_but_keeps_its_figure() {
    let trace = Trace { sources: vec![counter(None, every(0.1, 10.0, |t| 300.0 * t))] };
    let (energy, Validity { invalid_reasons, .. }) = judged(&trace, &info(&["gpu0"], 5.0), 1.0, 5.9);
    near(energy.total_j.unwrap().0, 1470.0, 1e-9);
    assert_eq!(invalid_reasons, [Reason::WindowTooShort]);
    assert!(judged(&trace, &info(&["gpu0"], 5.0), 1.0, 6.0).1.invalid_reasons.is_empty());
}

#[test]
fn an_empty_window_has_no_energy() {
    let (energy, Validity { invalid_reasons, .. }) =
        window(vec![counter(None, every(0.1, 4.0, |t| t))], &["gpu0"], 2.0, 2.0);
    assert_eq!(energy.total_j, None);
    assert_ne!(invalid_reasons, []);
}

#[test]
fn the_trailing_average_of_power_is_seen_by_the_residual() {
    // 1 s trailing average of a step at t = 2: the integral from the step on lacks half a second of the rise
    let average = |t: f64| 100.0 + 400.0 * (t - 2.0).clamp(0.0, 1.0);
    let truth = |t: f64| 100.0 * t + 400.0 * (t - 2.0).max(0.0);
    let sources = vec![counter(None, every(0.1, 10.0, truth)), power(every(0.02, 10.0, average))];
    let (energy, Validity { invalid_reasons, .. }) = window(sources, &["gpu0"], 2.0, 7.0);
    near(energy.total_j.unwrap().0, 2500.0, 1e-6);
    near(energy.residual.unwrap(), (Watts(400.0) * Seconds(0.5)).0 / 2500.0, 1e-6);
    assert_eq!(invalid_reasons, [Reason::ResidualTooLarge]);
}

/// 200 W until `at`, 600 W after.
fn step(at: f64) -> (impl Fn(f64) -> f64, impl Fn(f64) -> f64) {
    (move |t| if t < at { 200.0 } else { 600.0 }, move |t: f64| 200.0 * t.min(at) + 600.0 * (t - at).max(0.0))
}

/// A counter whose ticks are known at these instants only.
fn known_at(instants: &[f64], energy: impl Fn(f64) -> f64) -> SourceTrace {
    let readings = instants.iter().flat_map(|t| [(t - 0.001, energy(t - 0.1)), (t + 0.001, energy(*t))]);
    counter(Some(0.1), readings.collect())
}

fn fine(tick: f64, samples: Vec<(f64, f64)>) -> SourceTrace {
    trace_of(Quantity::Power, EnergyMethod::PowerIntegral, Some(tick), samples)
}

fn shaped(source: &SourceTrace, power: &SourceTrace, t0: f64, t1: f64) -> f64 {
    counter_energy(source, Some(power), Seconds(t0), Seconds(t1)).unwrap().energy.0
}

#[test]
fn between_ticks_that_are_far_apart_a_counter_follows_the_course_of_power_and_not_its_height() {
    let (watts, joules) = step(6.0);
    let source = known_at(&[0.95, 1.05, 6.05, 6.15], &joules);
    let truth = joules(6.0) - joules(1.0);
    let straight = energy(&source, 1.0, 6.0);
    assert!(straight > truth + 15.0, "a straight line over 5 s misses the step: {straight}");
    // the step lies somewhere between two samples: 5 ms of 400 W
    let ring = |factor: f64| fine(0.01, every(0.01, 8.0, |t| watts(t) * factor));
    near(shaped(&source, &ring(1.0), 1.0, 6.0), truth, 2.5);
    near(shaped(&source, &ring(1.5), 1.0, 6.0), shaped(&source, &ring(1.0), 1.0, 6.0), 1e-6);
}

#[test]
fn power_that_is_coarse_or_averaged_or_missing_leaves_the_line_between_ticks_straight() {
    let (watts, joules) = step(1.05);
    let source = known_at(&[0.95, 1.05, 1.95, 2.05, 2.15], &joules);
    let straight = energy(&source, 1.0, 2.0);
    let unchanged = |power: SourceTrace| near(shaped(&source, &power, 1.0, 2.0), straight, 1e-9);
    unchanged(fine(0.1, every(0.1, 4.0, &watts)));
    unchanged(SourceTrace { lag: Seconds(0.5), ..fine(0.02, every(0.02, 4.0, &watts)) });
    unchanged(fine(0.02, vec![(0.0, 200.0), (4.0, 600.0)]));
    unchanged(fine(0.02, every(0.02, 4.0, |_| 0.0)));
}

#[test]
fn a_sample_that_repeats_for_a_moment_is_bridged_and_constant_power_is_not() {
    let held = fine(0.02, vec![(0.0, 100.0), (0.02, 300.0), (0.04, 300.0), (0.06, 500.0)]);
    let times: Vec<f64> = renewed(&held).samples.iter().map(|sample| sample.t.0).collect();
    assert_eq!(times, [0.0, 0.02, 0.06]);
    let constant = fine(0.02, every(0.02, 5.0, |_| 300.0));
    assert_eq!(renewed(&constant), constant);
}

#[test]
fn a_counter_that_does_not_go_on_after_the_end_of_a_window_was_stuck() {
    // read closely at the edges only: it stopped at 2 s and shows that from 6 s on
    let joules = |t: f64| 300.0 * t.min(2.0);
    let mut readings = vec![(0.9, joules(0.8)), (0.905, joules(0.9)), (1.0, joules(0.9)), (1.005, joules(1.0))];
    readings.extend((0..80).map(|i| (6.0 + 0.005 * f64::from(i), joules(9.0))));
    let source = counter(Some(0.1), readings);
    assert_eq!(straight(&source, 1.0, 6.0), Err(CounterFault::Stuck));
}
