//! The NVML meter through the real nvml-wrapper, on a library that plays six GPUs of known power.
#![cfg(target_os = "linux")]

use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use ept_sweep::clock::Clock;
use ept_sweep::error::Result;
use ept_sweep::meter::integrate::window_energy;
use ept_sweep::meter::{Meter, MeterChoice, MeterOptions, NvmlMeter, during, open, probe};
use ept_sweep::record::{EnergyMethod, Reason, Validity, WindowEnergy};

/// Loads the stand-in under the real library's name: the loader then finds it already there.
fn load_fake() {
    static LOADED: OnceLock<()> = OnceLock::new();
    LOADED.get_or_init(|| {
        let library = build_fake();
        let path = CString::new(library.to_str().unwrap()).unwrap();
        // SAFETY: the library has no initialisers
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
        assert!(!handle.is_null(), "the stand-in doesn't load");
        std::fs::remove_file(library).unwrap();
    });
}

/// One file for each process: test runners start several at once.
fn build_fake() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/meter_nvml/fake.rs");
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fake-nvml-{}.so", std::process::id()));
    let status = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args(["--edition=2024", "--crate-type=cdylib", "-Clink-arg=-Wl,-soname,libnvidia-ml.so.1", "-o"])
        .arg(&library)
        .arg(&source)
        .status();
    assert!(status.is_ok_and(|status| status.success()), "the stand-in doesn't compile");
    library
}

fn gpus(indices: &[u32]) -> Result<(NvmlMeter, Clock)> {
    load_fake();
    let clock = Clock::monotonic();
    Ok((NvmlMeter::open(Some(indices), &[], &clock)?, clock))
}

fn measure(meter: &mut NvmlMeter, clock: &Clock) -> (f64, WindowEnergy, Validity) {
    let ((t0, t1), _, _, trace) = during(meter, clock, || {
        thread::sleep(Duration::from_millis(300));
        let t0 = clock.now();
        thread::sleep(Duration::from_millis(1000));
        Ok((t0, clock.now()))
    })
    .unwrap();
    let (energy, validity) = window_energy(&trace, meter.info(), t0, t1);
    ((t1 - t0).0, energy, validity)
}

#[test]
fn counter_and_power_of_a_gpu_agree_on_300_watts() {
    let (mut meter, clock) = gpus(&[0]).unwrap();
    let info = meter.info().clone();
    assert_eq!(info.method, EnergyMethod::Counter);
    assert_eq!(info.domains[0].name, "gpu0");
    assert_eq!(info.domains[0].description, "Fake GPU, GPU-fake-0");
    assert!(info.notes.iter().any(|note| note == "driver 580.00-fake"));
    let (seconds, energy, validity) = measure(&mut meter, &clock);
    // a tick is known to half a poll of 50 ms at either edge; a busy machine polls late
    let total = energy.total_j.unwrap().0;
    assert!((total - 300.0 * seconds).abs() < 300.0 * 0.08, "{total} J in {seconds} s");
    let integral = energy.integral_j.unwrap().0;
    assert!((integral - 300.0 * seconds).abs() < 1e-6, "{integral} J in {seconds} s");
    assert!(energy.residual.is_some());
    assert!(validity.invalid_reasons.contains(&Reason::WindowTooShort), "one second is too short for this source");
}

#[test]
fn a_gpu_without_a_counter_falls_back_to_integrated_power_and_says_so() {
    for index in [1, 2] {
        let (mut meter, clock) = gpus(&[index]).unwrap();
        assert_eq!(meter.info().method, EnergyMethod::PowerIntegral);
        assert!(meter.info().notes.iter().any(|note| note.contains("no energy counter")), "{:?}", meter.info());
        let (seconds, energy, _) = measure(&mut meter, &clock);
        assert_eq!(energy.method, Some(EnergyMethod::PowerIntegral));
        assert_eq!(energy.residual, None);
        assert!((energy.total_j.unwrap().0 - 300.0 * seconds).abs() < 1e-6);
    }
}

#[test]
fn two_gpus_are_two_domains_and_one_sum() {
    let (mut meter, clock) = gpus(&[0, 5]).unwrap();
    let (seconds, energy, _) = measure(&mut meter, &clock);
    let domains: Vec<&str> = energy.domains.iter().map(|domain| domain.domain.as_str()).collect();
    assert_eq!(domains, ["gpu0", "gpu5"]);
    assert!((energy.total_j.unwrap().0 - 600.0 * seconds).abs() < 600.0 * 0.08);
    assert!(meter.info().notes.iter().any(|note| note.contains("gpu5: second source: power usage")));
}

#[test]
fn a_gpu_that_tells_nothing_is_an_error_with_a_hint() {
    let error = gpus(&[3]).err().unwrap();
    assert_eq!(error.message(), "gpu3 shows neither energy nor power");
    assert!(error.hint_text().is_some());
}

#[test]
fn a_split_gpu_has_to_be_listed_to_be_charged() {
    let (meter, _) = gpus(&[4]).unwrap();
    assert!(meter.info().notes.iter().any(|note| note.contains("the energy is the whole GPU's")));
}

#[test]
fn auto_takes_the_gpu_only_where_the_model_runs_on_it() {
    load_fake();
    let clock = Clock::monotonic();
    let name = |engine_gpus| {
        let options = MeterOptions { engine_gpus, gpu_indices: Some(vec![0]), ..MeterOptions::default() };
        open(MeterChoice::Auto, &options, &clock).unwrap().info().name.clone()
    };
    assert_eq!(name(vec![0]), "nvml");
    assert_ne!(name(vec![]), "nvml");
    let reports = probe(&MeterOptions { gpu_indices: Some(vec![0]), ..MeterOptions::default() });
    assert!(reports[0].available && reports[0].name == MeterChoice::Nvml);
}
