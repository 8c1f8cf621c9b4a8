//! A command under the meter, as one long piece of work.

use std::ffi::OsString;
use std::path::Path;

use super::record::Record;
use super::summary;
use crate::calendar;
use crate::child::{self, Ending, MarkFile, Marks, NotStarted, Signals};
use crate::cli::MeterArgs;
use crate::cli::exit::Exit;
use crate::clock::Clock;
use crate::console::Console;
use crate::error::{Context, Error, Kind, Result};
use crate::file::write_atomic;
use crate::format;
use crate::host;
use crate::meter::span::{self, Recorded, Rest, Span};
use crate::meter::stages::{Stages, net};
use crate::meter::{self, Edge, Meter, MeterOptions, ProcessTree};
use crate::record::{Host, IdleBaseline, MeterInfo, Trace};
use crate::table;
use crate::units::Seconds;

/// Who waits as long as this for a command to start wants to know why.
const WORTH_SAYING: Seconds = Seconds(1.0);

/// Runs the command and measures it; ends as the command ends.
///
/// # Errors
/// It can't be measured: then it isn't started.
pub(super) fn measure(arguments: &MeterArgs, console: &Console) -> Result<Exit> {
    if let Err(why) = child::find(&arguments.command[0]) {
        return Ok(not_started(&why, console));
    }
    let mut signals = Signals::catch()?;
    let run = match prepare(arguments, &signals, console) {
        Err(why) if why.kind() == Kind::Interrupted => return Ok(interrupted(&signals)),
        prepared => prepared?.run(&arguments.command, &mut signals)?,
    };
    match run {
        Ok(ran) => Ok(ran.end(arguments, console)),
        Err(why) => Ok(not_started(&why, console)),
    }
}

fn not_started(why: &NotStarted, console: &Console) -> Exit {
    console.error(&why.error);
    Exit::OfCommand(why.code)
}

/// A signal that came before the command was started ends this process.
fn interrupted(signals: &Signals) -> Exit {
    if let Some(signal) = signals.last() {
        child::end_by(signal);
    }
    Exit::Interrupted
}

/// Everything that is needed before the command is started.
struct Prepared {
    marks: MarkFile,
    clock: Clock,
    tree: ProcessTree,
    meter: Box<dyn Meter>,
    idle: Option<IdleBaseline>,
}

fn prepare(arguments: &MeterArgs, signals: &Signals, console: &Console) -> Result<Prepared> {
    for path in arguments.out.iter().chain(&arguments.samples) {
        writable(path)?;
    }
    let marks = arguments.marks.as_deref().map_or_else(MarkFile::temporary, MarkFile::open)?;
    let (clock, tree) = (Clock::monotonic(), ProcessTree::new());
    let options = MeterOptions {
        gpu_indices: arguments.gpu_indices.clone(),
        command: Some(tree.clone()),
        ..MeterOptions::default()
    };
    let mut meter = meter::open(arguments.meter, &options, &clock)?;
    let rest = Rest::of(meter.info());
    let rest = Rest { duration_s: arguments.idle.map_or(rest.duration_s, Seconds), ..rest };
    if rest.duration_s >= WORTH_SAYING {
        let time = format::duration(rest.duration_s);
        console.say(format!("measuring idle power for {time} before the command starts (`--idle 0`: not at all)"));
    }
    let idle = span::idle_baseline(&mut *meter, &clock, rest, signals.stop())?;
    // with `--idle 0` nothing else looks at it
    span::wait(&clock, Seconds(0.0), signals.stop())?;
    Ok(Prepared { marks, clock, tree, meter, idle })
}

/// Finds out before measuring whether a result can be written.
fn writable(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder.is_dir() && !path.is_dir() {
        return Ok(());
    }
    Err(Error::input(format!("can't write `{}`", path.display())).with_hint("name a file in a folder that exists"))
}

/// A command that has run.
struct Ran {
    ending: Ending,
    marks: Marks,
    started_at: String,
    /// Without readings if the meter failed, which `failure` says.
    recorded: Recorded,
    failure: Option<Error>,
    meter: Box<dyn Meter>,
    idle: Option<IdleBaseline>,
}

impl Prepared {
    /// Runs the command to its end, whatever happens to the meter.
    fn run(self, command: &[OsString], signals: &mut Signals) -> Result<Result<Ran, NotStarted>> {
        let Self { marks, clock, tree, mut meter, idle } = self;
        let started_at = calendar::timestamp();
        let mut started = None;
        let (mut t0, mut t1) = (clock.now(), clock.now());
        let recorded = span::record(&mut *meter, &clock, |meter| {
            t0 = clock.now();
            let child = child::start(command, marks, signals, &clock)?;
            if let Ok(child) = &child {
                tree.started(child.pid());
                child.wait(|| meter.edge(Edge::Passed));
            }
            t1 = clock.now();
            started = Some(child);
            Ok(())
        });
        let (recorded, failure) = match recorded {
            Ok(((), recorded)) => (recorded, None),
            Err(why) => (Recorded { t0, t1, trace: Trace::default() }, Some(why)),
        };
        let child = match (started, failure.clone()) {
            (Some(Ok(child)), _) => child,
            (Some(Err(why)), _) => return Ok(Err(why)),
            (None, why) => return Err(why.unwrap_or_else(|| Error::new("the command wasn't started"))),
        };
        let (ending, marks) = child.finish()?;
        Ok(Ok(Ran { ending, marks, started_at, recorded, failure, meter, idle }))
    }
}

impl Ran {
    /// Writes and shows what the command took, and ends as it ended.
    fn end(self, arguments: &MeterArgs, console: &Console) -> Exit {
        let ending = self.ending;
        let written = self.report(arguments, console);
        if let Err(why) = &written {
            console.error(why);
        }
        match ending {
            Ending::Exit(0) if written.is_err() => Exit::Failed,
            Ending::Exit(code) => Exit::OfCommand(code as u8),
            Ending::Signal(signal) => {
                child::end_by(signal);
                // a signal that doesn't end a process, as none ends this one: as shells say it
                Exit::OfCommand((128 + signal) as u8)
            }
        }
    }

    fn report(self, arguments: &MeterArgs, console: &Console) -> Result<()> {
        if let Some(why) = &self.failure {
            console.error(&why.clone().at("the meter failed, and the energy is unknown"));
        }
        if let Some(path) = &arguments.samples {
            table::write_samples(path, &self.recorded.trace)?;
        }
        let record = self.record(&arguments.command);
        if let Some(path) = &arguments.out {
            let text = serde_json::to_string_pretty(&record).context(|| "can't write the energy as JSON")?;
            write_atomic(path, format!("{text}\n").as_bytes())?;
        }
        summary::lines(&record, arguments.out.as_deref()).iter().for_each(|line| console.say(line));
        Ok(())
    }

    fn record(self, command: &[OsString]) -> Record {
        let info = self.meter.info();
        let span = Span::of(&self.recorded, info, self.idle);
        let stages = Stages::of(&self.recorded, info, &self.marks.marks, &span.energy, span.idle.as_ref());
        let host = host::describe();
        let (exit_code, signal) = match self.ending {
            Ending::Exit(code) => (Some(code), None),
            Ending::Signal(signal) => (None, Some(signal)),
        };
        Record {
            command: command.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
            exit_code,
            signal,
            started_at: self.started_at,
            duration_s: span.duration_s,
            energy_j: span.energy.total_j,
            energy_method: span.energy.method,
            net_energy_j: net(span.energy.total_j, span.duration_s, span.idle.as_ref()),
            device: device(info, &host),
            idle: span.idle,
            validity: span.validity,
            error: self.failure.map(|why| why.message().to_owned()),
            energy: span.energy,
            conditions: span.conditions,
            stages,
            ignored_marks: self.marks.ignored,
            meter: info.clone(),
            host,
            version: host::VERSION,
            git_revision: host::git_revision(),
        }
    }
}

/// What is charged, in a few words.
fn device(info: &MeterInfo, host: &Host) -> String {
    match info.gpus.as_slice() {
        [] => host.cpu.clone().unwrap_or_else(|| "CPU".to_owned()),
        [gpu] => gpu.name.clone(),
        [gpu, ..] => format!("{} and {} more", gpu.name, info.gpus.len() - 1),
    }
}
