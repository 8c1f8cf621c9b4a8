//! The RAPL meter on a powercap tree made of ordinary files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ept_sweep::clock::Clock;
use ept_sweep::meter::findings::Findings;
use ept_sweep::meter::rapl::{self, host_sources};
use ept_sweep::meter::sampler::{Pace, Sampler, Source, scalar};
use ept_sweep::meter::{HostSources, Meter, Sampled, during};
use ept_sweep::record::{
    Domain, EnergyMethod, MeterInfo, Quantity, SourceRole, SourceStatus, Trace, Validity, WindowEnergy,
};
use ept_sweep::units::Seconds;
use ept_sweep::validity::Work;

const RANGE: u64 = 262_143_328_850;

struct Tree(PathBuf);

impl Tree {
    fn new(name: &str) -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("powercap-{name}"));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(root.join("intel-rapl")).unwrap();
        Self(root)
    }

    fn zone(&self, folder: &str, name: &str, microjoules: u64) -> &Self {
        let path = self.0.join(folder);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("name"), format!("{name}\n")).unwrap();
        fs::write(path.join("max_energy_range_uj"), format!("{RANGE}\n")).unwrap();
        write(&path, microjoules);
        self
    }

    /// Lets the zones count from `start`, each at its power in watts, until the result is dropped.
    fn count(&self, start: u64, zones: &[(&str, f64)]) -> Counting {
        let zones: Vec<_> = zones.iter().map(|(folder, watts)| (self.0.join(folder), *watts)).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let began = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                for (path, watts) in &zones {
                    let counted = (began.elapsed().as_secs_f64() * watts * 1e6) as u64;
                    write(path, (start + counted) % RANGE);
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        Counting { stop, thread: Some(thread) }
    }
}

struct Counting {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

/// By renaming, so that a reader never sees a half-written file.
fn write(zone: &Path, microjoules: u64) {
    fs::write(zone.join("next"), format!("{microjoules}\n")).unwrap();
    fs::rename(zone.join("next"), zone.join("energy_uj")).unwrap();
}

fn names(meter: &Sampled) -> Vec<&str> {
    meter.info().domains.iter().map(|domain| domain.name.as_str()).collect()
}

#[test]
fn packages_and_their_memory_are_counted_once_and_parts_of_them_never() {
    let tree = Tree::new("zones");
    tree.zone("intel-rapl:0", "package-0", 5)
        .zone("intel-rapl:0:0", "core", 5)
        .zone("intel-rapl:0:1", "dram", 5)
        .zone("intel-rapl:1", "package-1", 5)
        .zone("intel-rapl:1:0", "uncore", 5)
        .zone("intel-rapl:1:1", "dram", 5)
        .zone("intel-rapl:2", "psys", 5)
        .zone("intel-rapl-mmio:0", "package-0", 5);
    let all = ["intel-rapl:0", "intel-rapl:0:1", "intel-rapl:1", "intel-rapl:1:1"].map(|zone| (zone, 50.0));
    let _counting = tree.count(5, &all);
    let meter = rapl::open(&tree.0, &Clock::monotonic()).unwrap();
    assert_eq!(names(&meter), ["package-0", "dram-0", "package-1", "dram-1"]);
    assert!(meter.info().notes.iter().any(|note| note.contains("whole sockets")));
}

#[test]
fn the_energy_of_a_window_is_right_across_a_wrap() {
    let tree = Tree::new("wrap");
    tree.zone("intel-rapl:0", "package-0", 0).zone("intel-rapl:0:0", "dram", 0);
    // 100 W and 10 W, which wrap 50 J and thus about half a second after the start
    let _counting = tree.count(RANGE - 50_000_000, &[("intel-rapl:0", 100.0), ("intel-rapl:0:0", 10.0)]);
    let clock = Clock::monotonic();
    let mut meter = rapl::open(&tree.0, &clock).unwrap();
    let ((), t0, t1, trace) = during(&mut meter, &clock, || {
        clock.idle(Seconds(1.2));
        Ok(())
    })
    .unwrap();
    let work = Work { t0, t1, ..Work::default() };
    let Findings { energy, validity, .. } = Findings::of(&trace, meter.info(), &work, None);
    let expected = 110.0 * (t1 - t0).0;
    let total = energy.total_j.unwrap().0;
    // either edge may be off by a few milliseconds of the writing thread
    assert!((total - expected).abs() < 110.0 * 0.05, "{total} J instead of {expected} J");
    assert_eq!(energy.method, Some(EnergyMethod::Counter));
    assert_eq!(validity.invalid_reasons, []);
    assert_eq!((energy.residual, energy.integral_j), (None, None), "derived power confirms nothing");
    assert!(trace.sources.iter().any(|source| source.quantity == Quantity::Power));
}

/// A meter of one GPU of 300 W, with the processor's domains next to it.
fn gpu_and_host(host_domains: Vec<Domain>) -> MeterInfo {
    MeterInfo {
        name: "nvml".into(),
        method: EnergyMethod::Counter,
        domains: vec![Domain { name: "gpu0".into(), description: String::new() }],
        tick_s: None,
        min_window_s: Seconds(0.0),
        guard_s: Seconds(0.0),
        idle_s: Seconds(1.0),
        notes: vec![],
        host_domains,
        sensing_period_s: None,
        sources: vec![],
        gpus: vec![],
    }
}

/// A window of 0.6 s of such a GPU, with the sources of the processor next to it.
fn next_to_a_gpu(host_sources: Vec<Source>, info: &MeterInfo) -> (WindowEnergy, Validity, f64) {
    let clock = Clock::monotonic();
    let gpu_clock = clock.clone();
    let gpu = Source {
        domain: "gpu0".into(),
        quantity: Quantity::EnergyCounter,
        method: EnergyMethod::Counter,
        tick: None,
        lag: Seconds(0.0),
        pace: Pace::Every(Seconds(0.01)),
        read: scalar(move || Ok(300.0 * gpu_clock.now().0)),
    };
    let mut sampler = Sampler::new(std::iter::once(gpu).chain(host_sources).collect(), clock.clone());
    sampler.start().unwrap();
    clock.idle(Seconds(0.1));
    let t0 = clock.now();
    clock.idle(Seconds(0.6));
    let t1 = clock.now();
    clock.idle(Seconds(0.1));
    let trace: Trace = sampler.stop().unwrap();
    let work = Work { t0, t1, ..Work::default() };
    let Findings { energy, validity, .. } = Findings::of(&trace, info, &work, None);
    (energy, validity, (t1 - t0).0)
}

#[test]
fn the_processor_next_to_a_gpu_is_recorded_and_not_charged() {
    let tree = Tree::new("beside");
    tree.zone("intel-rapl:0", "package-0", 0).zone("intel-rapl:0:0", "dram", 0);
    let _counting = tree.count(0, &[("intel-rapl:0", 100.0), ("intel-rapl:0:0", 10.0)]);
    let HostSources { domains, infos, sources } = host_sources(&tree.0).unwrap();
    assert!(infos.iter().all(|info| info.role == SourceRole::Recorded), "{infos:?}");
    let (energy, validity, duration) = next_to_a_gpu(sources, &gpu_and_host(domains));
    let host: Vec<(&str, f64)> = energy.host.iter().map(|host| (host.domain.as_str(), host.energy_j.0)).collect();
    let [("package-0", package), ("dram-0", dram)] = host[..] else { panic!("{host:?}") };
    // an edge is known to the time between two readings, 50 ms
    assert!((package - 100.0 * duration).abs() < 100.0 * 0.1, "{package} J");
    assert!((dram - 10.0 * duration).abs() < 10.0 * 0.1, "{dram} J");
    let total = energy.total_j.unwrap().0;
    assert!((total - 300.0 * duration).abs() < 300.0 * 0.02, "{total} J: the GPU's alone");
    assert_eq!(energy.domains.len(), 1);
    assert_eq!(validity, Validity::default());
}

#[test]
fn a_processor_that_says_nothing_makes_no_window_invalid() {
    let tree = Tree::new("beside-missing");
    tree.zone("intel-rapl:0", "package-0", 0);
    let counting = tree.count(0, &[("intel-rapl:0", 100.0)]);
    let HostSources { domains, .. } = host_sources(&tree.0).unwrap();
    drop(counting);
    let (energy, validity, _) = next_to_a_gpu(vec![], &gpu_and_host(domains));
    assert!(energy.host.is_empty(), "unknown, not zero");
    assert!(energy.total_j.is_some());
    assert_eq!(validity, Validity::default());

    let empty = host_sources(&Tree::new("beside-none").0);
    assert!(empty.is_err_and(|why| why.message().contains("no RAPL zones")));
}

#[test]
fn memory_that_stands_still_is_left_out_with_a_note() {
    let tree = Tree::new("still-dram");
    tree.zone("intel-rapl:0", "package-0", 0).zone("intel-rapl:0:0", "dram", 0);
    let _counting = tree.count(0, &[("intel-rapl:0", 100.0)]);
    let meter = rapl::open(&tree.0, &Clock::monotonic()).unwrap();
    assert_eq!(names(&meter), ["package-0"]);
    assert!(meter.info().notes.iter().any(|note| note.contains("dram-0 stands still")));
    let sources = &meter.info().sources;
    let states: Vec<_> = sources.iter().map(|source| (source.domain.as_str(), source.status, source.role)).collect();
    let expected = [
        ("package-0", SourceStatus::Supported, SourceRole::Primary),
        ("dram-0", SourceStatus::StandsStill, SourceRole::Unused),
    ];
    assert_eq!(states, expected);
    // the writing thread is no faster than once a millisecond
    assert!(sources[0].tick_s.is_none_or(|tick| tick >= Seconds(0.0005)), "{:?}", sources[0]);
    assert!(sources[0].call_s.unwrap() > Seconds(0.0));
}

#[test]
fn a_package_that_stands_still_is_not_available() {
    let tree = Tree::new("still-package");
    tree.zone("intel-rapl:0", "package-0", 7);
    let error = rapl::open(&tree.0, &Clock::monotonic()).err().unwrap();
    assert!(error.message().contains("stands still"), "{error}");
}

#[test]
fn no_zones_say_where_they_would_be_and_how_to_get_them() {
    for root in [Tree::new("empty").0, PathBuf::from("/nonexistent/powercap")] {
        let error = rapl::open(&root, &Clock::monotonic()).err().unwrap();
        assert!(error.message().contains(root.to_str().unwrap()), "{error}");
        assert!(error.hint().unwrap().contains("intel_rapl_msr"), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn a_counter_that_only_root_may_read_says_how_to_open_it() {
    use std::os::unix::fs::PermissionsExt;
    let tree = Tree::new("denied");
    tree.zone("intel-rapl:0", "package-0", 7);
    let file = tree.0.join("intel-rapl:0/energy_uj");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(&file).is_ok() {
        // root reads it all the same; the message has a test of its own in the module
        return;
    }
    let error = rapl::open(&tree.0, &Clock::monotonic()).err().unwrap();
    assert!(error.hint().unwrap().contains("chmod"), "{error}");
}
