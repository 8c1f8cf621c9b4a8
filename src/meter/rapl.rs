//! The processor's energy counters through Linux powercap: packages and DRAM. Reads files below one folder only.
//!
//! Format: the kernel's `Documentation/power/powercap/powercap.rst`; `energy_uj` counts microjoules and starts again
//! at 0 after `max_energy_range_uj`.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::sampled::{HostSources, Sampled};
use super::sampler::{Pace, Source, scalar};
use super::survey::{Findings, Refusal, Watch, watch};
use crate::clock::Clock;
use crate::error::{Context, Error, Result};
use crate::record::{Domain, EnergyMethod, MeterInfo, Quantity, SourceInfo, SourceRole, SourceStatus};
use crate::units::Seconds;

/// Name of the meter.
const NAME: &str = "rapl";
/// Where Linux shows the zones.
pub(crate) const POWERCAP: &str = "/sys/class/powercap";

/// The registers are updated about every millisecond (Intel SDM vol. 3B, RAPL interfaces; Hähnel et al. 2012).
const TICK: Seconds = Seconds(0.001);
/// A reading costs a system call and wakes a core: often enough for edges, too seldom to show in the energy.
const PERIOD: Seconds = Seconds(0.01);
/// The same next to another meter.
const PERIOD_ON_HOST: Seconds = Seconds(0.05);
/// 100 readings: an edge that is off by a whole period costs 1 %.
const MIN_WINDOW: Seconds = Seconds(1.0);
/// Two readings inside the load at each edge.
const GUARD: Seconds = Seconds(0.02);
/// A socket's power without load wanders over seconds with what else the machine does.
const IDLE: Seconds = Seconds(5.0);
/// How each counter is watched at the start: for some twenty ticks. A live one moves within the time, even when idle.
const WATCH: Watch = Watch {
    length: Duration::from_millis(20),
    moves_within: Some(Duration::from_millis(30)),
    rest: Duration::from_micros(200),
};
const SOURCE: &str = "energy counter";

/// A meter of every package and DRAM zone below `root` (`POWERCAP` except in tests).
///
/// # Errors
/// There are no zones, they can't be read (usually a permission), or a package's counter stands still.
pub fn open(root: &Path, clock: &Clock) -> Result<Sampled> {
    let Survey { moving, still, sources } = survey(zones(root)?, SourceRole::Primary)?;
    let info = info(&moving, &still, sources);
    let sources = moving.into_iter().map(|zone| zone.source(PERIOD)).collect();
    Ok(Sampled::new(info, sources, clock))
}

/// The counters below `root` as sources to record next to another meter's, read less often than on their own: at 50 ms
/// an edge of a window of seconds is known well enough, and the reading doesn't show in what is measured.
///
/// # Errors
/// As [`open`].
pub fn host_sources(root: &Path) -> Result<HostSources> {
    let Survey { moving, sources: infos, .. } = survey(zones(root)?, SourceRole::Recorded)?;
    let domains = moving.iter().map(Zone::describe).collect();
    Ok(HostSources { domains, infos, sources: moving.into_iter().map(|zone| zone.source(PERIOD_ON_HOST)).collect() })
}

/// What the counters below `root` can do, also if they can't be used as a meter; empty if there are none.
pub(super) fn found(root: &Path) -> Vec<SourceInfo> {
    let info = |zone: &Zone| zone.watch().info(&zone.domain, SOURCE, SourceRole::Unused);
    zones(root).unwrap_or_default().iter().map(info).collect()
}

/// One energy counter.
#[derive(Debug, Clone, PartialEq)]
struct Zone {
    domain: String,
    path: PathBuf,
    /// Microjoules after which the counter starts again at 0.
    range: Option<f64>,
}

impl Zone {
    fn microjoules(&self) -> Result<f64> {
        let path = self.path.join("energy_uj");
        fs::read_to_string(&path)
            .map_err(|cause| unreadable(&path, &cause))?
            .trim()
            .parse()
            .context(|| format!("`{}` is not a number", path.display()))
    }

    fn watch(&self) -> Findings {
        let refusal = |why: Error| Refusal { status: SourceStatus::Failed, detail: why.message().to_owned() };
        watch(|| self.microjoules().map_err(refusal), WATCH)
    }

    fn describe(&self) -> Domain {
        Domain { name: self.domain.clone(), description: self.path.display().to_string() }
    }

    fn is_package(&self) -> bool {
        self.domain.starts_with("package")
    }

    fn source(self, period: Seconds) -> Source {
        let mut counter = Unwrapped { range: self.range, last: None, base: 0.0 };
        Source {
            domain: self.domain.clone(),
            quantity: Quantity::EnergyCounter,
            method: EnergyMethod::Counter,
            tick: Some(TICK),
            lag: Seconds(0.0),
            pace: Pace::Every(period),
            read: scalar(move || Ok(counter.next(self.microjoules()?) * 1e-6)),
        }
    }
}

/// Turns a counter that starts again at 0 into one that only grows.
struct Unwrapped {
    range: Option<f64>,
    last: Option<f64>,
    base: f64,
}

impl Unwrapped {
    /// A fall by less than half of the range is no wrap (at 10 ms a period that would take megawatts): it stays
    /// visible, as the reset that it is.
    fn next(&mut self, raw: f64) -> f64 {
        if let (Some(last), Some(range)) = (self.last, self.range)
            && last - raw > range / 2.0
        {
            self.base += range;
        }
        self.last = Some(raw);
        self.base + raw
    }
}

/// The package and DRAM zones of the MSR or TPMI interface, in order.
///
/// `core` and `uncore` are parts of their package, `psys` contains it, and `intel-rapl-mmio` shows the same package
/// again: counting any of them would count energy twice.
fn zones(root: &Path) -> Result<Vec<Zone>> {
    let mut folders = control_zones(root)?;
    folders.sort_by_key(|folder| zone_numbers(folder));
    let mut seen = BTreeSet::new();
    let zones: Vec<Zone> = folders
        .iter()
        .filter_map(|folder| Some((folder, domain(root, folder)?)))
        .filter(|(_, domain)| seen.insert(domain.clone()))
        .map(|(folder, domain)| zone(root.join(folder), domain))
        .collect();
    if zones.iter().any(Zone::is_package) { Ok(zones) } else { Err(no_zones(root)) }
}

fn control_zones(root: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(root).map_err(|_| no_zones(root))?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| name.starts_with("intel-rapl:")).collect())
}

/// `intel-rapl:0:1` → `[0, 1]`.
fn zone_numbers(folder: &str) -> Vec<u32> {
    folder.split(':').skip(1).filter_map(|part| part.parse().ok()).collect()
}

fn zone(path: PathBuf, domain: String) -> Zone {
    let range = fs::read_to_string(path.join("max_energy_range_uj")).ok().and_then(|text| text.trim().parse().ok());
    Zone { domain, path, range: range.filter(|&range| range > 0.0) }
}

/// `package-0` for a package, `dram-0` for its memory, nothing for any other zone.
fn domain(root: &Path, folder: &str) -> Option<String> {
    let name = zone_name(root, folder)?;
    if name.starts_with("package") {
        return Some(name);
    }
    let (parent, _) = folder.rsplit_once(':')?;
    (name == "dram").then(|| match zone_name(root, parent) {
        Some(package) => package.replacen("package", "dram", 1),
        None => name,
    })
}

fn zone_name(root: &Path, folder: &str) -> Option<String> {
    Some(fs::read_to_string(root.join(folder).join("name")).ok()?.trim().to_owned())
}

/// The zones, as found at the start.
struct Survey {
    moving: Vec<Zone>,
    /// DRAM zones that stand still, as they do on platforms without such a sensor.
    still: Vec<String>,
    sources: Vec<SourceInfo>,
}

/// Separates the zones that count, which play `role`, from DRAM zones that stand still.
fn survey(zones: Vec<Zone>, role: SourceRole) -> Result<Survey> {
    let mut survey = Survey { moving: Vec::new(), still: Vec::new(), sources: Vec::new() };
    for zone in zones {
        // read here as well, since the survey's findings would lose the hint of a failure
        zone.microjoules()?;
        let findings = zone.watch();
        let role = if findings.works() { role } else { SourceRole::Unused };
        survey.sources.push(findings.info(&zone.domain, SOURCE, role));
        if findings.works() {
            survey.moving.push(zone);
        } else if zone.is_package() {
            let message = format!("the energy counter of {} (`{}`) stands still", zone.domain, zone.path.display());
            return Err(Error::new(message).with_hint("virtual machines often show a counter that isn't connected"));
        } else {
            survey.still.push(zone.domain);
        }
    }
    Ok(survey)
}

fn no_zones(root: &Path) -> Error {
    Error::new(format!("no RAPL zones in `{}`", root.display())).with_hint(
        "they exist on Linux with an Intel or AMD processor: try `modprobe intel_rapl_msr`; virtual machines and \
         containers usually hide them",
    )
}

fn unreadable(path: &Path, cause: &io::Error) -> Error {
    let error = Error::new(format!("can't read `{}`: {cause}", path.display()));
    if cause.kind() != io::ErrorKind::PermissionDenied {
        return error;
    }
    error.with_hint(format!(
        "only root may read it by default: `sudo chmod a+r {POWERCAP}/*/energy_uj` until the next start, or for \
         good a udev rule: SUBSYSTEM==\"powercap\", RUN+=\"/bin/chmod a+r {POWERCAP}/%k/energy_uj\""
    ))
}

fn info(zones: &[Zone], still: &[String], sources: Vec<SourceInfo>) -> MeterInfo {
    let mut notes = vec!["covers whole sockets, with everything else that runs on them, not this process".to_owned()];
    if !zones.iter().any(|zone| !zone.is_package()) {
        notes.push("no DRAM counter: the memory's energy is not included".into());
    }
    notes.extend(still.iter().map(|domain| format!("{domain} stands still and is left out")));
    MeterInfo {
        name: NAME.into(),
        method: EnergyMethod::Counter,
        domains: zones.iter().map(Zone::describe).collect(),
        tick_s: Some(TICK),
        min_window_s: MIN_WINDOW,
        guard_s: GUARD,
        idle_s: IDLE,
        notes,
        host_domains: Vec::new(),
        sensing_period_s: None,
        sources,
        gpus: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_wraps_goes_on_growing() {
        let mut counter = Unwrapped { range: Some(1000.0), last: None, base: 0.0 };
        let values = [900.0, 990.0, 20.0, 500.0, 995.0, 5.0].map(|raw| counter.next(raw));
        assert_eq!(values, [900.0, 990.0, 1020.0, 1500.0, 1995.0, 2005.0]);
    }

    #[test]
    fn a_small_fall_is_no_wrap_and_stays_visible_as_a_reset() {
        let mut counter = Unwrapped { range: Some(1000.0), last: None, base: 0.0 };
        assert_eq!([400.0, 10.0].map(|raw| counter.next(raw)), [400.0, 10.0]);
        let mut unknown = Unwrapped { range: None, last: None, base: 0.0 };
        assert_eq!([900.0, 10.0].map(|raw| unknown.next(raw)), [900.0, 10.0]);
    }

    #[test]
    fn a_denied_permission_says_how_to_get_it() {
        let denied = unreadable(Path::new("/x/energy_uj"), &io::ErrorKind::PermissionDenied.into());
        let hint = denied.hint().unwrap();
        assert!(hint.contains("chmod") && hint.contains("udev") && hint.contains("root"), "{hint}");
        assert_eq!(unreadable(Path::new("/x"), &io::ErrorKind::NotFound.into()).hint(), None);
    }
}
