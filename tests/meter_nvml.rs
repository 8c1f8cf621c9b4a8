//! The NVML meter through the real nvml-wrapper, on a library that plays GPUs of known power.
//!
//! Tests run side by side in one process: each that steers a GPU has one of its own.
#![cfg(target_os = "linux")]

mod common;

use std::ffi::{CString, c_void};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use common::{Folder, program, records, repository, stderr, stdout};
use ept_sweep::clock::Clock;
use ept_sweep::error::{Error, Kind, Result};
use ept_sweep::meter::findings::Findings;
use ept_sweep::meter::{Edge, EngineGpu, Meter, MeterOptions, NvmlMeter, open, probe, recording};
use ept_sweep::record::{
    ClockEvent, EnergyMethod, MeterChoice, Quantity, Reason, SourceInfo, SourceRole, SourceStatus, Trace,
};
use ept_sweep::units::Seconds;
use ept_sweep::validity::Work;
use serde_json::Value;

/// What the stand-in can be told; the numbers are those of its `what`.
#[derive(Clone, Copy)]
enum Set {
    Milliwatts = 0,
    Lost = 1,
    ResetCounter = 2,
    AddProcess = 3,
    RemoveProcess = 4,
    ClockEvents = 5,
    Temperature = 6,
    StopRing = 7,
    StopCounter = 8,
}

/// The stand-in, loaded under the real library's name: the loader then finds it already there.
struct Fake {
    set: extern "C" fn(u32, u32, u64),
    energy: extern "C" fn(u32, f64, f64) -> f64,
    now: extern "C" fn() -> f64,
    calls: extern "C" fn(u32, u32) -> u64,
    /// The library's file, for programs of their own.
    file: Vec<u8>,
}

fn fake() -> &'static Fake {
    static LOADED: OnceLock<Fake> = OnceLock::new();
    LOADED.get_or_init(|| {
        // one file for each process: test runners start several at once
        let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fake-nvml-{}.so", std::process::id()));
        build_fake(&library);
        let path = CString::new(library.to_str().unwrap()).unwrap();
        // SAFETY: the library has no initialisers
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        assert!(!handle.is_null(), "the stand-in doesn't load");
        let file = fs::read(&library).unwrap();
        fs::remove_file(library).unwrap();
        // SAFETY: these are the signatures of the stand-in's functions
        unsafe {
            Fake {
                set: std::mem::transmute::<*mut c_void, extern "C" fn(u32, u32, u64)>(symbol(handle, "fake_set")),
                energy: std::mem::transmute::<*mut c_void, extern "C" fn(u32, f64, f64) -> f64>(symbol(
                    handle,
                    "fake_energy",
                )),
                now: std::mem::transmute::<*mut c_void, extern "C" fn() -> f64>(symbol(handle, "fake_now")),
                calls: std::mem::transmute::<*mut c_void, extern "C" fn(u32, u32) -> u64>(symbol(handle, "fake_calls")),
                file,
            }
        }
    })
}

fn symbol(library: *mut c_void, name: &str) -> *mut c_void {
    let name = CString::new(name).unwrap();
    // SAFETY: the handle is that of a loaded library
    let found = unsafe { libc::dlsym(library, name.as_ptr()) };
    assert!(!found.is_null(), "the stand-in has no {name:?}");
    found
}

fn build_fake(library: &Path) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/meter_nvml/fake.rs");
    let status = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--edition=2024", "--crate-type=cdylib", "-Copt-level=1"])
        .args(["-Clink-arg=-Wl,-soname,libnvidia-ml.so.1", "-o"])
        .arg(library)
        .arg(&source)
        .status();
    assert!(status.is_ok_and(|status| status.success()), "the stand-in doesn't compile");
}

fn set(gpu: u32, what: Set, value: u64) {
    (fake().set)(gpu, what as u32, value);
}

/// GPUs that are being measured.
struct Bench {
    meter: NvmlMeter,
    clock: Clock,
}

/// A window, with everything that is known of it.
struct Seen {
    t0: Seconds,
    t1: Seconds,
    trace: Trace,
    found: Findings,
    /// What the clock of the stand-in is ahead of the test's.
    ahead: f64,
}

impl Bench {
    fn open(indices: &[u32]) -> Result<Self> {
        fake();
        let clock = Clock::monotonic();
        Ok(Self { meter: NvmlMeter::open(Some(indices), &[], None, &clock)?, clock })
    }

    /// A window around `work`, with guards and edges as a trial has them.
    fn window(&mut self, work: impl FnOnce()) -> Result<Seen> {
        let clock = self.clock.clone();
        let ((t0, t1), trace) = recording(&mut self.meter, |meter| {
            meter.edge(Edge::Soon);
            sleep(350);
            let t0 = clock.now();
            meter.edge(Edge::Passed);
            work();
            let t1 = clock.now();
            meter.edge(Edge::Passed);
            sleep(350);
            Ok((t0, t1))
        })?;
        let found = Findings::of(&trace, self.meter.info(), &Work { t0, t1, ..Work::default() }, None);
        let before = clock.now().0;
        let ahead = (fake().now)() - (before + clock.now().0) / 2.0;
        Ok(Seen { t0, t1, trace, found, ahead })
    }

    fn source(&self, gpu: u32, name: &str) -> &SourceInfo {
        let domain = format!("gpu{gpu}");
        let mut found = self.meter.info().sources.iter();
        found.find(|source| source.domain == domain && source.name.contains(name)).unwrap()
    }
}

impl Seen {
    fn seconds(&self) -> f64 {
        (self.t1 - self.t0).0
    }

    /// What a GPU really took in the window.
    fn truth(&self, gpu: u32) -> f64 {
        (fake().energy)(gpu, self.t0.0 + self.ahead, self.t1.0 + self.ahead)
    }

    /// How far the counter's energy may be off: at each edge half of the interval in which its closest tick came, as
    /// this recording knows it, and at least 10 ms; and 20 ms for readings that were stamped late.
    fn tolerance(&self, gpu: u32, watts: f64) -> f64 {
        let readings = &self.trace.find(&format!("gpu{gpu}"), Quantity::EnergyCounter).unwrap().samples;
        let known = |edge: Seconds| {
            let ticks = readings.windows(2).filter(|pair| pair[0].value != pair[1].value);
            let near = ticks.filter(|pair| (pair[1].t - edge).0.abs() < 0.2);
            near.map(|pair| (pair[1].t - pair[0].t).0).fold(0.1, f64::min).max(0.02)
        };
        watts * ((known(self.t0) + known(self.t1)) / 2.0 + 0.02)
    }

    fn reasons(&self) -> Vec<Reason> {
        let short = |reason: &Reason| *reason != Reason::WindowTooShort;
        self.found.validity.invalid_reasons.iter().copied().filter(short).collect()
    }
}

fn sleep(milliseconds: u64) {
    thread::sleep(Duration::from_millis(milliseconds));
}

#[track_caller]
fn near(actual: f64, expected: f64, tolerance: f64) {
    assert!((actual - expected).abs() <= tolerance, "{actual} is not {expected} ± {tolerance}");
}

// Energy.

#[test]
fn the_counter_and_the_ring_agree_with_known_power_that_jumps() {
    let mut bench = Bench::open(&[12]).unwrap();
    assert_eq!(bench.meter.info().method, EnergyMethod::Counter);
    let seen = bench
        .window(|| {
            // steady at both edges, as a guard makes it
            for (watts, time) in [(300, 300), (550, 400), (50, 400), (300, 400)] {
                set(12, Set::Milliwatts, watts * 1000);
                sleep(time);
            }
        })
        .unwrap();
    let (truth, energy) = (seen.truth(12), &seen.found.energy);
    // at its end the mean power since the last tick that was followed stands for the power of the last tick
    let mean = truth / seen.seconds();
    near(energy.total_j.unwrap().0, truth, seen.tolerance(12, 300.0) + (mean - 300.0).abs() * 0.1);
    // samples are at most 30 ms apart: half of that at each jump of power
    let jumps = 250.0 + 500.0 + 250.0;
    near(energy.integral_j.unwrap().0, truth, jumps * 0.015 + 0.5);
    assert!(energy.residual.is_some());
    assert!(energy.coverage.unwrap() > 0.99 && energy.max_gap_s.unwrap() < Seconds(0.05), "{energy:?}");
    assert!(seen.found.validity.invalid_reasons.contains(&Reason::WindowTooShort), "it needs 5 s");
}

#[test]
fn two_gpus_are_summed_and_kept_apart_each_with_its_own_residual() {
    let mut bench = Bench::open(&[14, 13]).unwrap();
    set(14, Set::Milliwatts, 600_000);
    sleep(300);
    let seen = bench.window(|| sleep(1200)).unwrap();
    let energy = &seen.found.energy;
    let domains: Vec<&str> = energy.domains.iter().map(|domain| domain.domain.as_str()).collect();
    assert_eq!(domains, ["gpu13", "gpu14"]);
    for (domain, gpu, watts) in [(&energy.domains[0], 13, 300.0), (&energy.domains[1], 14, 600.0)] {
        near(domain.energy_j.0, seen.truth(gpu), seen.tolerance(gpu, watts));
        let integral = domain.integral_j.unwrap().0;
        near(integral, seen.truth(gpu), 0.01);
        near(domain.residual.unwrap(), (domain.energy_j.0 - integral) / domain.energy_j.0, 1e-12);
    }
    near(energy.total_j.unwrap().0, energy.domains.iter().map(|domain| domain.energy_j.0).sum(), 1e-9);
    assert_eq!(seen.found.conditions.len(), 2);
}

#[test]
fn what_ept_bench_would_have_summed_is_recorded_beside_the_energy() {
    let mut bench = Bench::open(&[0]).unwrap();
    let seen = bench.window(|| sleep(730)).unwrap();
    let steps = (seen.seconds() / 0.1).floor();
    near(seen.found.energy.ept_bench_sum_j.unwrap().0, 30.0 * steps, 1e-6);
}

#[test]
fn a_counter_that_begins_anew_inside_a_window_gives_no_energy() {
    let mut bench = Bench::open(&[15]).unwrap();
    let seen = bench
        .window(|| {
            sleep(400);
            set(15, Set::ResetCounter, 0);
            sleep(400);
        })
        .unwrap();
    assert_eq!(seen.found.energy.total_j, None);
    assert_eq!(seen.reasons(), [Reason::CounterReset]);
    near(seen.found.energy.integral_j.unwrap().0, seen.truth(15), 0.01);
}

#[test]
fn a_counter_that_stops_inside_a_window_gives_no_energy() {
    let mut bench = Bench::open(&[16]).unwrap();
    let seen = bench
        .window(|| {
            set(16, Set::StopCounter, 0);
            sleep(1600);
        })
        .unwrap();
    assert_eq!(seen.found.energy.total_j, None);
    assert_eq!(seen.reasons(), [Reason::CounterStuck]);
}

#[test]
fn a_gpu_without_a_counter_or_with_one_that_stands_still_is_measured_by_the_ring_and_says_so() {
    for (gpu, status) in [(1, SourceStatus::Unsupported), (2, SourceStatus::StandsStill), (11, SourceStatus::Failed)] {
        let mut bench = Bench::open(&[gpu]).unwrap();
        let info = bench.meter.info();
        assert_eq!((info.method, info.min_window_s), (EnergyMethod::PowerIntegral, Seconds(1.0)));
        assert!(info.notes.iter().any(|note| note.contains("no energy counter")), "{:?}", info.notes);
        assert_eq!(bench.source(gpu, "counter").status, status);
        assert_eq!(bench.source(gpu, "counter").role, SourceRole::Unused);
        assert_eq!(bench.source(gpu, "ring").role, SourceRole::Primary);
        let seen = bench.window(|| sleep(1050)).unwrap();
        let energy = &seen.found.energy;
        assert_eq!((energy.method, energy.residual), (Some(EnergyMethod::PowerIntegral), None));
        near(energy.total_j.unwrap().0, seen.truth(gpu), 0.01);
        assert!(seen.found.validity.is_valid(), "{:?}", seen.found.validity);
    }
}

#[test]
fn a_ring_that_stops_leaves_a_warning_and_the_counters_energy() {
    let mut bench = Bench::open(&[17]).unwrap();
    let seen = bench
        .window(|| {
            sleep(200);
            set(17, Set::StopRing, 0);
            sleep(900);
        })
        .unwrap();
    near(seen.found.energy.total_j.unwrap().0, seen.truth(17), seen.tolerance(17, 300.0));
    assert!(seen.found.validity.warnings.contains(&Reason::CoverageTooLow), "{:?}", seen.found.validity);
}

#[test]
fn a_second_recording_has_no_sample_of_the_first_one() {
    let mut bench = Bench::open(&[23]).unwrap();
    let power = |seen: &Seen| seen.trace.find("gpu23", Quantity::Power).unwrap().samples.clone();
    let (first, second) = (bench.window(|| sleep(100)).unwrap(), bench.window(|| sleep(100)).unwrap());
    let (first, second) = (power(&first), power(&second));
    assert!(first.last().unwrap().t < second[0].t, "{:?} {:?}", first.last(), second[0]);
    for samples in [first, second] {
        assert!(samples.len() > 20 && samples.is_sorted_by(|a, b| a.t < b.t), "{samples:?}");
        assert!(samples.iter().all(|sample| sample.value == 300.0), "the upper half of the value is garbage");
    }
}

// Which source.

#[test]
fn without_a_usable_ring_instantaneous_power_confirms_the_counter() {
    for (gpu, detail) in [(5, ""), (8, " ms apart"), (9, "empty")] {
        let bench = Bench::open(&[gpu]).unwrap();
        let ring = bench.source(gpu, "ring");
        assert_eq!((ring.status, ring.role), (SourceStatus::Unsupported, SourceRole::Unused));
        assert!(ring.detail.as_deref().unwrap_or_default().contains(detail), "{ring:?}");
        assert_eq!(bench.source(gpu, "field 186").role, SourceRole::Second);
        assert_eq!(bench.source(gpu, "power usage").role, SourceRole::Recorded);
    }
    let mut bench = Bench::open(&[5]).unwrap();
    let seen = bench.window(|| sleep(600)).unwrap();
    near(seen.found.energy.integral_j.unwrap().0, seen.truth(5), 0.01);
    assert!(!seen.found.validity.warnings.contains(&Reason::AveragedPower));
}

#[test]
fn the_average_of_the_last_second_is_the_last_resort_and_marked() {
    let mut bench = Bench::open(&[6]).unwrap();
    assert_eq!(bench.source(6, "field 186").status, SourceStatus::Unsupported);
    assert_eq!(bench.source(6, "power usage").role, SourceRole::Second);
    assert_eq!(bench.meter.info().guard_s, Seconds(0.8), "it ends half a second late");
    let seen = bench.window(|| sleep(400)).unwrap();
    assert_eq!(seen.trace.find("gpu6", Quantity::PowerUsage).unwrap().lag, Seconds(0.5));
    assert!(seen.found.validity.warnings.contains(&Reason::AveragedPower));

    let ga100 = Bench::open(&[10]).unwrap();
    assert_eq!(ga100.meter.info().guard_s, Seconds(0.3), "an A100 shows power as it is");
}

#[test]
fn the_average_of_the_last_second_is_taken_for_what_was_half_a_second_before() {
    let mut bench = Bench::open(&[7]).unwrap();
    assert_eq!(bench.source(7, "power usage").role, SourceRole::Primary);
    let seen = bench
        .window(|| {
            sleep(1000);
            set(7, Set::Milliwatts, 700_000);
            sleep(600);
        })
        .unwrap();
    // unshifted it would be half a second of 400 W less
    near(seen.found.energy.total_j.unwrap().0, seen.truth(7), 400.0 * 0.3);
    assert_eq!(seen.found.energy.method, Some(EnergyMethod::PowerIntegral));
}

#[test]
fn a_gpu_that_tells_nothing_is_an_error_with_a_hint() {
    let error = Bench::open(&[3]).err().unwrap();
    assert_eq!(error.message(), "gpu3 shows neither energy nor power");
    assert!(error.hint().is_some());
}

#[test]
fn every_source_is_measured_when_the_meter_is_opened() {
    let bench = Bench::open(&[0]).unwrap();
    let counter = bench.source(0, "counter");
    assert_eq!((counter.status, counter.role), (SourceStatus::Supported, SourceRole::Primary));
    assert!(counter.call_s.unwrap() >= Seconds(0.003), "the stand-in takes 3 ms: {counter:?}");
    let (shortest, longest) = counter.tick_range_s.unwrap();
    let tick = counter.tick_s.unwrap();
    assert!(shortest <= tick && tick <= longest);
    let ring = bench.source(0, "ring");
    assert!((Seconds(0.01)..Seconds(0.03)).contains(&ring.tick_s.unwrap()), "{ring:?}");
    assert!(ring.call_s.is_some());
    assert_eq!(bench.source(0, "field 186").role, SourceRole::Unused, "it works, and the ring is better");

    let gpu = &bench.meter.info().gpus[0];
    let text = |value: &Option<String>| value.clone().unwrap();
    assert_eq!((gpu.domain.as_str(), text(&gpu.uuid)), ("gpu0", "GPU-fake-0".to_owned()));
    assert_eq!(text(&gpu.pci_bus_id), "00000000:00:00.0");
    assert_eq!((text(&gpu.driver), text(&gpu.vbios)), ("580.00-fake".to_owned(), "96.00.FA.KE.01".to_owned()));
    assert_eq!(
        gpu.power_limit_w.zip(gpu.default_power_limit_w).map(|(now, usual)| (now.0, usual.0)),
        Some((650.0, 700.0))
    );
    assert_eq!((gpu.max_sm_clock_mhz, gpu.max_memory_clock_mhz), (Some(1980), Some(2619)));
    assert_eq!((gpu.persistence, gpu.ecc, gpu.mig), (Some(true), Some(true), false));
    near(gpu.bandwidth.unwrap(), 5120.0 / 8.0 * 2.0 * 2619e6, 1.0);
}

// What happens while measuring.

#[test]
fn a_gpu_that_is_lost_while_recording_is_an_error_that_names_it_until_it_is_back() {
    let mut bench = Bench::open(&[18]).unwrap();
    let lost = |result: Result<Seen>| -> Error {
        let error = result.err().unwrap();
        assert_eq!(error.kind(), Kind::Meter);
        assert!(error.message().contains("gpu18"), "{error}");
        error
    };
    let error = lost(bench.window(|| set(18, Set::Lost, 1)));
    assert!(error.message().contains("fell off the bus"), "{error}");
    lost(bench.window(|| ()));
    set(18, Set::Lost, 0);
    assert!(bench.window(|| sleep(300)).unwrap().found.energy.total_j.is_some());
}

#[test]
fn another_process_on_the_gpu_makes_a_window_invalid_and_this_one_does_not() {
    set(19, Set::AddProcess, 999_999);
    let mut bench = Bench::open(&[19]).unwrap();
    assert_eq!(bench.meter.info().gpus[0].foreign_processes, [999_999]);
    let seen = bench.window(|| sleep(200)).unwrap();
    assert_eq!(seen.reasons(), [Reason::ForeignProcess]);
    assert_eq!(seen.found.conditions[0].foreign_processes, Some(1));

    set(19, Set::RemoveProcess, 999_999);
    set(19, Set::AddProcess, u64::from(std::process::id()));
    let seen = bench.window(|| sleep(200)).unwrap();
    assert_eq!((seen.reasons(), seen.found.conditions[0].foreign_processes), (vec![], Some(0)));

    let seen = bench
        .window(|| {
            set(19, Set::AddProcess, 999_998);
            sleep(1300);
        })
        .unwrap();
    assert_eq!(seen.reasons(), [Reason::ForeignProcess], "one that came later");
}

#[test]
fn slowdowns_make_a_window_invalid_and_the_power_cap_is_only_recorded() {
    let mut bench = Bench::open(&[20]).unwrap();
    let slowdowns = [
        (0x8, ClockEvent::HardwareSlowdown),
        (0x20, ClockEvent::SoftwareThermal),
        (0x40, ClockEvent::HardwareThermal),
        (0x80, ClockEvent::PowerBrake),
    ];
    for (bits, event) in slowdowns {
        set(20, Set::ClockEvents, bits | 0x4);
        let seen = bench.window(|| sleep(150)).unwrap();
        assert_eq!(seen.reasons(), [Reason::Throttled], "{bits:#x}");
        let events = &seen.found.conditions[0].clock_events;
        assert_eq!((events.get(&event), events.get(&ClockEvent::SoftwarePowerCap)), (Some(&1.0), Some(&1.0)));
    }
    set(20, Set::ClockEvents, 0x4);
    let seen = bench.window(|| sleep(150)).unwrap();
    assert_eq!(seen.reasons(), []);
    let conditions = &seen.found.conditions[0];
    assert_eq!(conditions.clock_events, [(ClockEvent::SoftwarePowerCap, 1.0)].into_iter().collect());
    assert_eq!((conditions.sm_clock_mhz, conditions.memory_clock_mhz), (Some(1755.0), Some(2619.0)));
    assert_eq!((conditions.performance_state, conditions.busy), (Some(0), Some(0.85)));
}

#[test]
fn the_memorys_part_of_the_energy_and_its_temperature_are_known_where_the_driver_gives_them() {
    let mut bench = Bench::open(&[24]).unwrap();
    let seen = bench.window(|| sleep(1000)).unwrap();
    let energy = &seen.found.energy;
    let memory = energy.memory.unwrap();
    let share = memory.energy_j.0 / energy.total_j.unwrap().0;
    assert!((share - 0.3).abs() < 0.005, "{share}");
    assert!(memory.coverage > 0.95, "{}", memory.coverage);
    let conditions = &seen.found.conditions[0];
    assert_eq!((conditions.memory_temperature_start_c, conditions.memory_temperature_end_c), (Some(59.0), Some(59.0)));
    let source = bench.meter.info().sources.iter().find(|source| source.name.contains("memory")).unwrap();
    assert_eq!((source.status, source.role), (SourceStatus::Supported, SourceRole::Recorded));
    let without = Bench::open(&[0]).unwrap().window(|| sleep(500)).unwrap();
    assert_eq!((without.found.energy.memory, without.found.conditions[0].memory_temperature_end_c), (None, None));
}

#[test]
fn a_gpu_that_warms_by_more_than_three_degrees_is_a_warning() {
    let mut bench = Bench::open(&[21]).unwrap();
    let seen = bench
        .window(|| {
            sleep(600);
            set(21, Set::Temperature, 52);
            sleep(600);
        })
        .unwrap();
    assert!(seen.found.validity.warnings.contains(&Reason::TemperatureDrift));
    let conditions = &seen.found.conditions[0];
    assert_eq!(conditions.temperature_start_c, Some(45.0));
    assert!(conditions.temperature_end_c.unwrap() > 48.0, "the mean of its second half");
}

#[test]
fn readings_cost_little_where_no_edge_is_near() {
    let mut bench = Bench::open(&[22]).unwrap();
    let calls = |which| (fake().calls)(22, which);
    let (mut counter, mut ring) = (0, 0);
    let seen = bench
        .window(|| {
            // the two ticks after the edge
            sleep(500);
            let before = (calls(0), calls(1));
            sleep(2000);
            (counter, ring) = (calls(0) - before.0, calls(1) - before.1);
        })
        .unwrap();
    // read all the time it would be every 5 ms, 400 times
    assert!(counter < 200, "{counter} readings of the counter in two seconds");
    assert!((1..=3).contains(&ring), "{ring} readings of the ring in two seconds");
    assert!(seen.found.energy.coverage.unwrap() > 0.99, "and still nothing is lost");
}

// Which GPU.

#[test]
fn a_gpu_split_by_mig_is_refused_unless_it_is_listed_and_then_it_is_marked() {
    let clock = Clock::monotonic();
    fake();
    let engine = [EngineGpu { ordinal: 0, uuid: Some("GPU-fake-4".into()) }];
    let error = NvmlMeter::open(None, &engine, None, &clock).err().unwrap();
    assert!(error.message().contains("gpu4 is split by MIG"), "{error}");
    assert!(error.hint().unwrap().contains("gpu_indices"));
    let mut bench = Bench::open(&[4]).unwrap();
    assert!(bench.meter.info().notes.iter().any(|note| note.contains("the energy is the whole GPU's")));
    let seen = bench.window(|| sleep(150)).unwrap();
    assert!(seen.found.validity.warnings.contains(&Reason::MigShared));
}

#[test]
fn the_engines_uuid_says_which_gpu_is_charged() {
    fake();
    let engine = [EngineGpu { ordinal: 0, uuid: Some("gpu-FAKE-5".into()) }];
    let meter = NvmlMeter::open(None, &engine, None, &Clock::monotonic()).unwrap();
    let domains: Vec<&str> = meter.info().domains.iter().map(|domain| domain.name.as_str()).collect();
    assert_eq!(domains, ["gpu5"]);
    assert_eq!(meter.info().domains[0].description, "Fake GPU, GPU-fake-5");
}

#[test]
fn auto_takes_the_gpu_only_where_the_model_runs_on_it() {
    fake();
    let clock = Clock::monotonic();
    let opened = |engine_gpus| {
        let options = MeterOptions { engine_gpus, gpu_indices: Some(vec![0]), ..MeterOptions::default() };
        open(MeterChoice::Auto, &options, &clock).unwrap().info().clone()
    };
    assert_eq!(opened(vec![EngineGpu::default()]).name, "nvml");
    let on_cpu = opened(vec![]);
    assert_ne!(on_cpu.name, "nvml");
    assert!(on_cpu.notes.iter().any(|note| note.contains("`gpu_indices` has no effect")), "{:?}", on_cpu.notes);
    let reports = probe(&MeterOptions { gpu_indices: Some(vec![0]), ..MeterOptions::default() });
    assert!(reports[0].available && reports[0].name == MeterChoice::Nvml);
}

// The program.

/// The program in a folder where the stand-in is found as the driver's library.
fn program_with_gpus(folder: &Folder) -> Command {
    fs::write(folder.path("libnvidia-ml.so.1"), &fake().file).unwrap();
    let mut program = program();
    program.env("LD_LIBRARY_PATH", &folder.0).env_remove("CUDA_VISIBLE_DEVICES").current_dir(&folder.0);
    program
}

fn well(output: Output) -> Output {
    assert!(output.status.success(), "{}", stderr(&output));
    output
}

#[test]
fn visible_devices_are_indices_or_uuids_and_parts_of_gpus_are_refused() {
    let folder = Folder::new();
    let nvml = |visible: &str| -> Value {
        let mut program = program_with_gpus(&folder);
        let output = program.args(["meter", "--format", "json"]).env("CUDA_VISIBLE_DEVICES", visible).output().unwrap();
        let meters: Value = serde_json::from_str(&stdout(&well(output))).unwrap();
        meters[0].clone()
    };
    assert_eq!(nvml("13,0")["gpus"][0]["uuid"], "GPU-fake-13");
    assert_eq!(nvml("GPU-fake-5,GPU-fake-0")["gpus"][0]["domain"], "gpu5");
    let refused = nvml("MIG-1234");
    assert_eq!(refused["available"], false);
    assert!(refused["detail"][0].as_str().unwrap().contains("MIG-1234"), "{refused}");
    assert!(refused["how_to_get_it"].as_str().unwrap().contains("gpu_indices"), "{refused}");
}

#[test]
fn the_meter_command_shows_sources_gpus_and_what_the_presets_mean() {
    let folder = Folder::new();
    let text = stdout(&well(program_with_gpus(&folder).arg("meter").output().unwrap())).replace('\u{a0}', " ");
    for part in [
        "nvml: available (energy counter)",
        "gpu0: Fake GPU, GPU-fake-0",
        "PCI 00000000:00:00.0, driver 580.00-fake, VBIOS 96.00.FA.KE.01",
        "power limit 650 W (default 700 W), SM up to 1980 MHz, memory up to 2619 MHz, 3352 GB/s",
        "persistence on, ECC on, MIG off, no other compute process",
        "updates every",
        "preset quick: 3 repeats, window 5 s, warm-up 2.5 s to 25 s, idle 5 s before and after; a repeat of a cell \
         takes 8.1 s or more",
        "preset standard: 5 repeats, window 10 s, warm-up 5 s to 45 s, idle 20 s before and after",
        "preset publication: 5 to 15 repeats, window 20 s, warm-up 10 s to 2 min, idle 20 s before and after",
        "modelled: available (modelled)",
        "processor time of this process",
    ] {
        assert!(text.contains(part), "`{part}` in:\n{text}");
    }
    let row = |name: &str| text.lines().find(|line| line.contains(name)).unwrap().to_owned();
    let words = |line: String| line.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words(row("gpu0    energy counter")).contains("supported primary"), "{text}");
    assert!(row("driver's ring").contains("second"), "{text}");

    let output = program_with_gpus(&folder).args(["meter", "--format", "json"]).output().unwrap();
    let meters: Value = serde_json::from_str(&stdout(&well(output))).unwrap();
    let nvml = &meters[0];
    assert_eq!((&nvml["name"], &nvml["available"], &nvml["method"]), (&"nvml".into(), &true.into(), &"counter".into()));
    let statuses: Vec<&str> =
        nvml["sources"].as_array().unwrap().iter().map(|source| source["status"].as_str().unwrap()).collect();
    assert_eq!(statuses[..4], ["supported"; 4]);
    assert_eq!(nvml["gpus"][0]["power_limit_w"], 650.0);
    assert_eq!((&nvml["presets"][0]["preset"], &nvml["presets"][0]["window_s"]), (&"quick".into(), &5.0.into()));
    assert_eq!(nvml["presets"][2]["max_repeats"], 15);
    let modelled = &meters[2];
    assert_eq!(modelled["sources"][0]["role"], "primary");
    assert!(modelled["sources"][0]["call_s"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_sweep_on_the_gpus_meter_records_gpus_sources_and_conditions() {
    let folder = Folder::new();
    let model = repository().join("tests/golden/gguf/llama_q8_0/model.gguf");
    let sweep = folder.write(
        "sweep.yaml",
        &format!(
            "name: fake\nmodels:\n  - {{label: tiny, source: {}}}\nsweep: {{batch_size: 2, max_new_tokens: 4}}\n\
             prompts: {{text: [\"one two\", \"three\"]}}\nmeasure: {{meter: nvml, gpu_indices: [0], repeats: 1, \
             window_s: 0.6, warmup_s: 0.1, idle_s: 0.4}}\n",
            model.display()
        ),
    );
    let out = folder.path("out");
    well(program_with_gpus(&folder).arg(&sweep).args(["--device", "cpu", "--out"]).arg(&out).output().unwrap());

    let run: Value = serde_json::from_str(&fs::read_to_string(out.join("run.json")).unwrap()).unwrap();
    let meter = &run["parts"][0]["meter"];
    assert_eq!((&meter["name"], &meter["gpus"][0]["uuid"]), (&"nvml".into(), &"GPU-fake-0".into()));
    let counter = &meter["sources"][0];
    assert_eq!((&counter["status"], &counter["role"]), (&"supported".into(), &"primary".into()));
    assert!(counter["call_s"].as_f64().unwrap() >= 0.003);

    // the others are the idle baselines around it
    let trials: Vec<Value> = records(&out).into_iter().filter(|line| find(line, "window").is_some()).collect();
    assert_eq!(trials.len(), 1);
    let trial = trials[0].to_string();
    let find = |key: &str| find(&trials[0], key).unwrap_or_else(|| panic!("`{key}` in {trial}")).clone();
    let conditions = find("conditions");
    assert_eq!((&conditions[0]["domain"], &conditions[0]["temperature_end_c"]), (&"gpu0".into(), &45.0.into()));
    assert_eq!(conditions[0]["foreign_processes"], 0);
    let energy = find("energy");
    let window = find("window");
    let seconds = window["t1_s"].as_f64().unwrap() - window["t0_s"].as_f64().unwrap();
    near(energy["integral_j"].as_f64().unwrap(), 300.0 * seconds, 0.01);
    assert!(energy["residual"].is_number() && energy["ept_bench_sum_j"].is_number(), "{energy}");
    let idle = find("idle");
    near(idle["segments_w"][4].as_f64().unwrap(), 300.0, 0.01);
    let invalid = find("validity")["invalid_reasons"].clone();
    assert!(invalid.as_array().unwrap().contains(&"window_too_short".into()), "{invalid}");
}

/// The value of a key, however deep it stands.
fn find<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    match value {
        Value::Object(map) => map.get(key).or_else(|| map.values().find_map(|value| find(value, key))),
        Value::Array(list) => list.iter().find_map(|value| find(value, key)),
        _ => None,
    }
}
