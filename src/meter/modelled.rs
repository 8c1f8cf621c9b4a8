//! Energy computed from the processor time of this process, or of a command: for trying the tool on a machine that
//! can't measure.
//!
//! It is an assumption in numbers, marked as modelled wherever it appears; never a measurement.

use std::time::Duration;

use super::process_tree::ProcessTree;
use super::sampled::Sampled;
use super::sampler::{Pace, Source, scalar};
use super::survey::{Refusal, Watch, watch};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::record::{
    Domain, EnergyMethod, MeterInfo, ModelCoefficients, Quantity, SourceInfo, SourceRole, SourceStatus,
};
use crate::units::Seconds;

const NAME: &str = "modelled";
/// The only domain of this meter.
const DOMAIN: &str = "cpu";

/// Bounds what interpolation can get wrong at an edge; `start` and `stop` read the counter as well.
const PERIOD: Seconds = Seconds(0.01);
/// 50 readings: the error at both edges together stays below 4 %, in steady load far below.
const MIN_WINDOW: Seconds = Seconds(0.5);
/// The time of other processes is known in steps of 10 ms, and costs several readings of files.
const PERIOD_OF_COMMAND: Seconds = Seconds(0.05);
/// Twenty of those: the error at both edges of a stage stays below 10 %, in steady load far below.
const MIN_WINDOW_OF_COMMAND: Seconds = Seconds(1.0);
/// Without work only the stated idle share remains, so a longer baseline would show nothing more.
const IDLE: Seconds = Seconds(0.25);

/// A meter of this process or, if it is given, of a command.
///
/// # Errors
/// The coefficients make no sense, or this system doesn't report a process's processor time.
pub(super) fn open(coefficients: ModelCoefficients, command: Option<ProcessTree>, clock: &Clock) -> Result<Sampled> {
    coefficients.check()?;
    let whose = Whose(command);
    whose.check()?;
    Ok(Sampled::new(info(coefficients, &whose), vec![counter(coefficients, whose, clock.clone())], clock))
}

/// Whose time is charged: this process's, or a command's with everything that it starts.
#[derive(Debug, Clone)]
struct Whose(Option<ProcessTree>);

impl Whose {
    fn check(&self) -> Result<()> {
        if self.0.is_some() { ProcessTree::check() } else { process_time().map(drop) }
    }

    fn time(&self) -> Result<Seconds> {
        self.0.as_ref().map_or_else(process_time, ProcessTree::processor_time)
    }

    fn name(&self) -> &'static str {
        if self.0.is_some() { "processor time of the command" } else { "processor time of this process" }
    }

    fn description(&self) -> String {
        let parts = if self.0.is_some() { "with everything that it starts" } else { "all threads" };
        format!("{}, {parts}", self.name())
    }
}

fn counter(coefficients: ModelCoefficients, whose: Whose, clock: Clock) -> Source {
    let period = if whose.0.is_some() { PERIOD_OF_COMMAND } else { PERIOD };
    Source {
        domain: DOMAIN.into(),
        quantity: Quantity::EnergyCounter,
        method: EnergyMethod::Modelled,
        tick: None,
        lag: Seconds(0.0),
        pace: Pace::Every(period),
        read: scalar(move || Ok(coefficients.energy(whose.time()?, clock.now()).0)),
    }
}

/// What a reading costs, watched for a moment: processor time has no tick of its own.
fn source(whose: &Whose) -> SourceInfo {
    let how = Watch { length: Duration::from_millis(1), moves_within: None, rest: Duration::ZERO };
    let refusal = |why: Error| Refusal { status: SourceStatus::Failed, detail: why.message().to_owned() };
    let mut findings = watch(|| whose.time().map(Seconds::get).map_err(refusal), how);
    (findings.tick, findings.range) = (None, None);
    findings.info(DOMAIN, whose.name(), SourceRole::Primary)
}

fn info(coefficients: ModelCoefficients, whose: &Whose) -> MeterInfo {
    let ModelCoefficients { watts_per_core, idle_w } = coefficients;
    MeterInfo {
        name: NAME.into(),
        method: EnergyMethod::Modelled,
        domains: vec![Domain { name: DOMAIN.into(), description: whose.description() }],
        tick_s: None,
        min_window_s: if whose.0.is_some() { MIN_WINDOW_OF_COMMAND } else { MIN_WINDOW },
        guard_s: Seconds(0.0),
        idle_s: IDLE,
        notes: vec![
            format!("modelled, not measured: {watts_per_core} W for each busy core plus {idle_w} W throughout"),
            "memory traffic, clock frequency, vector width and other processes are not in the model".into(),
        ],
        host_domains: Vec::new(),
        sensing_period_s: None,
        sources: vec![source(whose)],
        gpus: Vec::new(),
    }
}

/// Processor time of all threads of this process so far (POSIX `CLOCK_PROCESS_CPUTIME_ID`).
#[cfg(unix)]
fn process_time() -> Result<Seconds> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid timespec that the call fills in
    let status = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    if status != 0 {
        let cause = std::io::Error::last_os_error();
        return Err(Error::new(format!("can't read the processor time of this process: {cause}")));
    }
    Ok(Seconds(time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9))
}

#[cfg(not(unix))]
fn process_time() -> Result<Seconds> {
    Err(Error::new("the modelled meter reads the processor time of a process, which needs a Unix system"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Joules;

    #[test]
    fn two_busy_cores_for_three_seconds_cost_their_watts_and_the_idle_share() {
        let coefficients = ModelCoefficients { watts_per_core: 8.0, idle_w: 5.0 };
        assert_eq!(coefficients.energy(Seconds(6.0), Seconds(3.0)), Joules(63.0));
    }

    #[test]
    fn coefficients_that_make_no_sense_are_refused() {
        let check = |watts_per_core, idle_w| ModelCoefficients { watts_per_core, idle_w }.check();
        assert!(check(-1.0, 5.0).is_err());
        assert!(check(f64::NAN, 5.0).is_err());
        assert!(check(0.0, 0.0).is_err());
        assert!(check(0.0, 5.0).is_ok());
    }
}
