//! Which meter measures, and what each one can do on this machine.

use std::path::Path;

use serde::Serialize;

use super::nvml::NvmlMeter;
use super::options::MeterOptions;
use super::recording::Meter;
use super::synthetic::Synthetic;
use super::{modelled, rapl};
use crate::clock::Clock;
use crate::error::{Error, Result};
use crate::record::{Domain, EnergyMethod, GpuInfo, MeterChoice, MeterInfo, SourceInfo};
use crate::units::Seconds;

/// What one meter can do on this machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Capabilities {
    pub name: MeterChoice,
    /// It can be used here and now.
    pub available: bool,
    /// How its energies are labelled.
    pub(crate) method: EnergyMethod,
    /// What it covers.
    pub(crate) domains: Vec<Domain>,
    /// Time between two updates of its primary source.
    pub(crate) tick_s: Option<Seconds>,
    /// Every source that was looked for, with what was measured now; also if they can't be used.
    pub(crate) sources: Vec<SourceInfo>,
    pub(crate) gpus: Vec<GpuInfo>,
    /// Notes for the reader, or why it isn't available.
    pub(crate) detail: Vec<String>,
    /// What makes it available.
    pub(crate) how_to_get_it: Option<String>,
    /// The meter as a run would record it, if it is available.
    #[serde(skip)]
    pub(crate) info: Option<MeterInfo>,
}

/// Opens a meter.
///
/// # Errors
/// The meter that was asked for isn't available here; with `auto`, not even the modelled one.
pub fn open(choice: MeterChoice, options: &MeterOptions, clock: &Clock) -> Result<Box<dyn Meter>> {
    match (choice, clock) {
        (MeterChoice::Auto | MeterChoice::Synthetic, Clock::Simulated(device)) => {
            Ok(Box::new(Synthetic::new(device.clone())))
        }
        (_, Clock::Simulated(_)) => Err(Error::input(format!("meter `{choice}` can't measure a simulated device"))
            .with_hint("use `synthetic` or `auto` with the synthetic engine")),
        (MeterChoice::Synthetic, _) => Err(Error::input("meter `synthetic` measures only the synthetic engine")
            .with_hint("use `auto`, or give every model the synthetic engine")),
        (MeterChoice::Auto, _) => open_best(options, clock),
        (named, _) => open_one(named, options, clock, Vec::new())
            .map_err(|why| why.at(format!("meter `{named}` is not available"))),
    }
}

/// `notes` say how the meter was chosen.
fn open_one(choice: MeterChoice, options: &MeterOptions, clock: &Clock, notes: Vec<String>) -> Result<Box<dyn Meter>> {
    let powercap = Path::new(rapl::POWERCAP);
    Ok(match choice {
        MeterChoice::Nvml => {
            // the processor is measured if possible; `ept-sweep meter` says why it isn't
            let host = if options.without_cpu { None } else { rapl::host_sources(powercap).ok() };
            let listed = options.gpu_indices.as_deref();
            let nvml = match &options.command {
                Some(command) => NvmlMeter::open_for_command(listed, command, host, clock)?,
                None => NvmlMeter::open(listed, &options.engine_gpus, host, clock)?,
            };
            Box::new(nvml.noting(notes))
        }
        MeterChoice::Rapl => Box::new(rapl::open(powercap, clock)?.noting(notes)),
        _ => Box::new(modelled::open(options.coefficients, options.command.clone(), clock)?.noting(notes)),
    })
}

/// The first meter in order that opens; those that had to be passed over are in its notes.
fn open_best(options: &MeterOptions, clock: &Clock) -> Result<Box<dyn Meter>> {
    let mut passed_over = Vec::new();
    for &choice in candidates(options) {
        match open_one(choice, options, clock, notes(options, &passed_over)) {
            Ok(meter) => return Ok(meter),
            Err(why) => passed_over.push(format!("{choice} is not available: {}", why.message())),
        }
    }
    let (what, hint) = match options.command {
        Some(_) => ("the command", "`ept-sweep meter` says what is missing"),
        None => {
            ("what the models run on", "`ept-sweep meter` says what is missing; `--device cpu` runs on the processor")
        }
    };
    Err(Error::input(format!("nothing here measures {what}: {}", passed_over.join("; "))).with_hint(hint))
}

fn notes(options: &MeterOptions, passed_over: &[String]) -> Vec<String> {
    let ignored = candidates(options) == &REAL[1..] && options.gpu_indices.is_some();
    let ignored = ignored.then(|| "`gpu_indices` has no effect: the model doesn't run on a GPU".to_owned());
    passed_over.iter().cloned().chain(ignored).collect()
}

/// Everything that measures real work, the best first.
const REAL: [MeterChoice; 3] = [MeterChoice::Nvml, MeterChoice::Rapl, MeterChoice::Modelled];

/// What `auto` tries, in order: only what covers the device that the models run on, since the energy of another device
/// would be a silent substitution. Of a command that device isn't known, unless GPUs are listed.
fn candidates(options: &MeterOptions) -> &'static [MeterChoice] {
    let listed = options.gpu_indices.is_some();
    match (&options.command, options.engine_gpus.is_empty()) {
        (Some(_), _) => {
            if listed {
                &REAL[..1]
            } else {
                &REAL
            }
        }
        (None, false) => &REAL[..1],
        (None, true) => &REAL[1..],
    }
}

/// What each meter can do on this machine, the best first. Opening each takes a second or two.
pub fn probe(options: &MeterOptions) -> Vec<Capabilities> {
    let clock = Clock::monotonic();
    let opened = |choice| match open_one(choice, options, &clock, Vec::new()) {
        Ok(meter) => available(choice, meter.info()),
        Err(why) => unavailable(choice, &why),
    };
    REAL.map(opened).into()
}

fn available(name: MeterChoice, info: &MeterInfo) -> Capabilities {
    Capabilities {
        name,
        available: true,
        method: info.method,
        domains: info.domains.clone(),
        tick_s: info.tick_s,
        sources: info.sources.clone(),
        gpus: info.gpus.clone(),
        detail: info.notes.clone(),
        how_to_get_it: None,
        info: Some(info.clone()),
    }
}

fn unavailable(name: MeterChoice, why: &Error) -> Capabilities {
    Capabilities {
        name,
        available: false,
        method: usual_method(name),
        domains: Vec::new(),
        tick_s: None,
        sources: if name == MeterChoice::Rapl { rapl::found(Path::new(rapl::POWERCAP)) } else { Vec::new() },
        gpus: Vec::new(),
        detail: vec![why.message().to_owned()],
        how_to_get_it: why.hint().map(str::to_owned),
        info: None,
    }
}

fn usual_method(choice: MeterChoice) -> EnergyMethod {
    match choice {
        MeterChoice::Auto | MeterChoice::Nvml | MeterChoice::Rapl => EnergyMethod::Counter,
        MeterChoice::Modelled => EnergyMethod::Modelled,
        MeterChoice::Synthetic => EnergyMethod::Simulated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SimulatedDevice;
    use crate::meter::{EngineGpu, ProcessTree, during};
    use crate::record::Trace;
    use crate::units::Watts;

    fn simulated() -> Clock {
        Clock::Simulated(SimulatedDevice::new(Watts(60.0)))
    }

    #[test]
    fn auto_on_a_simulated_device_is_the_synthetic_meter() {
        let meter = open(MeterChoice::Auto, &MeterOptions::default(), &simulated()).unwrap();
        assert_eq!(meter.info().name, "synthetic");
    }

    #[test]
    fn a_real_meter_does_not_measure_a_simulated_device_nor_the_other_way_round() {
        for choice in [MeterChoice::Nvml, MeterChoice::Rapl, MeterChoice::Modelled] {
            assert!(open(choice, &MeterOptions::default(), &simulated()).is_err(), "{choice}");
        }
        assert!(open(MeterChoice::Synthetic, &MeterOptions::default(), &Clock::monotonic()).is_err());
    }

    #[test]
    fn auto_does_not_look_at_gpus_when_the_engine_runs_on_the_processor() {
        let on = |engine_gpus| MeterOptions { engine_gpus, ..MeterOptions::default() };
        assert_eq!(candidates(&on(vec![])), [MeterChoice::Rapl, MeterChoice::Modelled]);
        let gpu = on(vec![EngineGpu::default()]);
        assert_eq!(candidates(&gpu), [MeterChoice::Nvml], "no other device's energy passes for the GPU's");
    }

    #[test]
    fn auto_tries_everything_for_a_command_and_only_gpus_if_they_are_listed() {
        let mut options = MeterOptions { command: Some(ProcessTree::new()), ..MeterOptions::default() };
        assert_eq!(candidates(&options), REAL);
        options.gpu_indices = Some(vec![0]);
        assert_eq!(candidates(&options), [MeterChoice::Nvml]);
        assert_eq!(notes(&options, &[]), [""; 0], "the list has an effect");
    }

    #[test]
    fn a_failure_of_the_work_closes_the_recording() {
        let clock = simulated();
        let mut meter = open(MeterChoice::Synthetic, &MeterOptions::default(), &clock).unwrap();
        let failed: Result<((), Seconds, Seconds, Trace)> =
            during(meter.as_mut(), &clock, || Err(Error::new("engine failed")));
        assert_eq!(failed.unwrap_err().message(), "engine failed");
        assert!(meter.stop().is_err(), "nothing is being recorded any more");
    }

    #[test]
    fn a_meter_covers_something_here_or_says_why_not() {
        let meters = probe(&MeterOptions::default());
        let names: Vec<MeterChoice> = meters.iter().map(|meter| meter.name).collect();
        assert_eq!(names, [MeterChoice::Nvml, MeterChoice::Rapl, MeterChoice::Modelled]);
        for meter in meters {
            // which of them are available depends on the machine
            let explained = if meter.available { &meter.domains.len() } else { &meter.detail.len() };
            assert!(*explained > 0, "{meter:?}");
            assert_eq!(meter.available, meter.info.is_some(), "{meter:?}");
        }
    }

    #[test]
    fn an_unavailable_meter_has_the_reason_and_the_remedy_and_covers_nothing() {
        let why = Error::new("no driver").with_hint("install it");
        let found = unavailable(MeterChoice::Nvml, &why);
        assert_eq!((found.available, found.detail), (false, vec!["no driver".to_owned()]));
        assert_eq!(found.how_to_get_it.as_deref(), Some("install it"));
        assert_eq!((found.domains, found.info), (vec![], None));
    }

    #[test]
    fn a_meter_says_which_better_ones_were_passed_over() {
        let options = MeterOptions { gpu_indices: Some(vec![0]), ..MeterOptions::default() };
        let notes = notes(&options, &["rapl is not available: no zones".to_owned()]);
        assert_eq!(notes.len(), 2);
        let meter = open_one(MeterChoice::Modelled, &options, &Clock::monotonic(), notes.clone()).unwrap();
        assert!(meter.info().notes.ends_with(&notes), "{:?}", meter.info().notes);
    }

    #[test]
    fn choices_are_written_as_the_sweep_file_spells_them() {
        for choice in [MeterChoice::Auto, MeterChoice::Nvml, MeterChoice::Modelled] {
            assert_eq!(serde_json::to_value(choice).unwrap(), choice.to_string());
        }
    }
}
