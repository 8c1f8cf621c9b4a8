//! Reading a run directory back: for a report, on any machine, without locking it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};
use crate::record::{Baseline, Evaluation, FORMAT, GenerationLine, Line, ModelInfo, Part, RunInfo, Trial, TrialKey};
use crate::store::journal;
use crate::store::names::{GENERATIONS, RECORDS, RUN};

/// The content of a run directory, apart from generations and raw samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// The directory.
    pub(crate) root: PathBuf,
    /// Content of `run.json`.
    pub info: RunInfo,
    /// The trials, in the order in which they were measured.
    pub trials: Vec<Trial>,
    pub(crate) evaluations: Vec<Evaluation>,
    /// Idle power around each model's trials of a block.
    pub baselines: Vec<Baseline>,
}

/// The lines of a run, by kind.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(crate) trials: Vec<Trial>,
    pub(crate) evaluations: Vec<Evaluation>,
    pub(crate) baselines: Vec<Baseline>,
}

/// Reads a run directory.
///
/// # Errors
/// There is no run in it, it comes from a newer version, or it is damaged.
pub fn read(root: &Path) -> Result<Stored> {
    let info = read_info(root)?;
    let records = root.join(RECORDS);
    let lines = if records.exists() { journal::read::<Line>(&records)? } else { Vec::new() };
    let Lines { trials, evaluations, baselines } = split(lines);
    Ok(Stored { root: root.to_owned(), info, trials, evaluations, baselines })
}

/// Reads the text that the models wrote.
///
/// # Errors
/// The file exists and is damaged.
pub fn read_generations(root: &Path) -> Result<Vec<GenerationLine>> {
    let path = root.join(GENERATIONS);
    if path.exists() { journal::read(&path) } else { Ok(Vec::new()) }
}

pub(super) fn read_info(root: &Path) -> Result<RunInfo> {
    let path = root.join(RUN);
    if !path.exists() {
        let message = format!("no run in `{}`: it has no {RUN}", root.display());
        return Err(Error::input(message).with_hint("name the directory that a sweep wrote, such as `reports/kd`"));
    }
    let what = || format!("can't read `{}`", path.display());
    let text = std::fs::read_to_string(&path).input_context(what)?;
    let format: Format = serde_json::from_str(&text).input_context(what)?;
    if format.format > FORMAT {
        let message = format!("`{}` has format {}, newer than this program's {FORMAT}", path.display(), format.format);
        return Err(Error::input(message).with_hint("use the version of ept-sweep that wrote it, or a newer one"));
    }
    serde_json::from_str(&text).input_context(what)
}

#[derive(serde::Deserialize)]
struct Format {
    format: u32,
}

/// Separates lines by kind. If a trial or a baseline was measured again, its last line counts.
pub(super) fn split(lines: Vec<Line>) -> Lines {
    let mut trials: BTreeMap<TrialKey, (usize, Trial)> = BTreeMap::new();
    let mut baselines = BTreeMap::new();
    let mut evaluations = Vec::new();
    for (order, line) in lines.into_iter().enumerate() {
        match line {
            Line::Trial(trial) => {
                let key = trial.key();
                trials.insert(key, (order, *trial));
            }
            Line::Evaluation(evaluation) => evaluations.push(*evaluation),
            Line::Baseline(line) => {
                baselines.insert((line.block, line.model.clone(), line.part, line.time), *line);
            }
        }
    }
    let mut ordered: Vec<_> = trials.into_values().collect();
    ordered.sort_by_key(|(order, _)| *order);
    Lines {
        trials: ordered.into_iter().map(|(_, trial)| trial).collect(),
        evaluations,
        baselines: baselines.into_values().collect(),
    }
}

/// Why the trials of two starts can't be pooled.
pub(super) fn difference(earlier: &Part, now: &Part) -> Option<String> {
    let program = |part: &Part| format!("{} ({})", part.version, part.git_revision.as_deref().unwrap_or("no revision"));
    if program(earlier) != program(now) {
        return Some(format!("it was measured by version {}, this is {}", program(earlier), program(now)));
    }
    if (&earlier.meter.name, &earlier.meter.domains) != (&now.meter.name, &now.meter.domains) {
        return Some(format!(
            "it was measured by `{}`, now by `{}`, or another device",
            earlier.meter.name, now.meter.name
        ));
    }
    let machine = |part: &Part| (part.host.cpu.clone(), part.host.hostname.clone(), part.host.cores);
    if machine(earlier) != machine(now) {
        return Some("it was measured on another machine, or with another number of cores".to_owned());
    }
    None
}

/// Whether a part ran a model of that label that isn't this one.
pub(super) fn model_differs(part: &Part, label: &str, model: &ModelInfo) -> bool {
    let differs = |before: &ModelInfo| {
        before.files != model.files
            || before.dtype != model.dtype
            || before.device != model.device
            || before.engine != model.engine
            || before.kernels != model.kernels
    };
    part.models.get(label).is_some_and(differs)
}
