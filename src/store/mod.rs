//! The run directory: create, lock, commit a trial, read back, resume. The only place that touches run data on disk.
//!
//! ```text
//! run.json           what was asked for, and the machines and meters that measured it
//! records.jsonl      one line per trial, evaluation or idle baseline; the line is the commit
//! generations.jsonl  the text that the models wrote, one line per prompt of a cell
//! samples/           raw readings of the meter, one Parquet file per trial
//! ```

mod journal;
mod names;
mod read;

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::digest::sha256_hex;
use crate::error::{Context, Error, Result};
use crate::file::write_atomic;
use crate::record::{
    Baseline, Calibration, CellId, Evaluation, GenerationLine, Line, ModelInfo, Outcome, Part, PromptForm, RunInfo,
    Trace, Trial, TrialKey,
};
use crate::table;

pub(crate) use read::Stored;
pub use read::{read, read_generations};

use names::{GENERATIONS, LOCK, RECORDS, RUN, SAMPLES};

/// The hint of every error about results that don't go together.
const START_OVER: &str = "`--fresh` moves the old results aside and starts over";

/// A run directory that this process may write to, until the value is dropped.
#[derive(Debug)]
pub struct RunDir {
    root: PathBuf,
    info: RunInfo,
    records: File,
    generations: File,
    generated: HashSet<CellId>,
    _lock: File,
}

/// What to do with a run directory that is already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Continue it.
    Resume,
    /// Move it aside and start over.
    Rotate,
}

/// An opened run directory with its content.
#[derive(Debug)]
pub struct Opened {
    /// Keeps other processes out of the directory until it is dropped.
    pub dir: RunDir,
    /// Finished trials, failed ones included.
    pub(crate) trials: Vec<Trial>,
    pub(crate) evaluations: Vec<Evaluation>,
    /// New name of an older run that was moved aside.
    pub(crate) rotated_to: Option<PathBuf>,
}

impl RunDir {
    /// Creates a run directory, or opens an existing one to continue it.
    ///
    /// `info.parts` holds one entry: this start. It is appended when there is anything left to measure
    /// ([`RunDir::begin_part`]).
    ///
    /// # Errors
    /// Another process holds the directory; it contains something other than a run, or a run of another sweep; its
    /// records are damaged; the disk fails.
    pub fn open(root: &Path, info: &RunInfo, existing: Existing) -> Result<Opened> {
        refuse_foreign(root)?;
        let rotated_to = match existing {
            Existing::Rotate if root.join(RUN).exists() => Some(rotate(root)?),
            _ => None,
        };
        fs::create_dir_all(root.join(SAMPLES)).context(|| format!("can't create `{}`", root.display()))?;
        let lock = lock(root)?;
        let info = match root.join(RUN).exists() {
            true => resume_info(root, info)?,
            false => RunInfo { parts: Vec::new(), ..info.clone() },
        };
        let (records, lines) = journal::open::<Line>(&root.join(RECORDS))?;
        let read::Lines { trials, evaluations, .. } = read::split(lines);
        let generations = drop_orphans(root, &trials)?;
        let generated = measured_cells(&trials).cloned().collect();
        let dir = Self { root: root.to_owned(), info, records, generations, generated, _lock: lock };
        Ok(Opened { dir, trials, evaluations, rotated_to })
    }

    /// The content of `run.json`.
    pub(crate) fn info(&self) -> &RunInfo {
        &self.info
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Stores `run.json` with one more part; the trials that follow belong to it.
    ///
    /// # Errors
    /// The models, the meter or the program differ from those of the earlier parts, so that results can't be pooled;
    /// or the disk fails.
    pub fn begin_part(&mut self, info: &RunInfo) -> Result<()> {
        let Some(part) = info.parts.first() else { return Ok(()) };
        let difference = self.info.parts.last().and_then(|earlier| read::difference(earlier, part));
        if let Some(difference) = difference {
            let message = format!("can't continue `{}`: {difference}", self.root.display());
            let hint = "results of different setups aren't pooled: use `--fresh`, or another `--out`";
            return Err(Error::input(message).with_hint(hint));
        }
        // the fingerprint says that these are the same cells; a dtype or a training record may be known better by now
        self.info.cells.clone_from(&info.cells);
        self.info.models.clone_from(&info.models);
        self.info.parts.push(part.clone());
        write_json(&self.root.join(RUN), &self.info)
    }

    /// Stores the facts about a model, once it is loaded, with the part under way.
    ///
    /// # Errors
    /// The model's files, its data type, its device or its kernels differ from those of an earlier part, or the disk
    /// fails.
    pub fn record_model(&mut self, label: &str, model: &ModelInfo) -> Result<()> {
        if let Some(part) = self.info.parts.iter().find(|part| read::model_differs(part, label, model)) {
            let message = format!(
                "model `{label}` isn't the one measured at {}: its files, dtype, device or kernels differ",
                part.started_at
            );
            return Err(Error::input(message).with_hint(START_OVER));
        }
        let Some(part) = self.info.parts.last_mut() else { return Ok(()) };
        if part.models.insert(label.to_owned(), model.clone()).is_some() {
            return Ok(());
        }
        write_json(&self.root.join(RUN), &self.info)
    }

    /// Stores what reading and multiplying cost on the devices of the part under way.
    ///
    /// # Errors
    /// The disk fails.
    pub(crate) fn record_calibrations(&mut self, calibrations: Vec<Calibration>) -> Result<()> {
        let Some(part) = self.info.parts.last_mut().filter(|_| !calibrations.is_empty()) else { return Ok(()) };
        part.calibrations = calibrations;
        write_json(&self.root.join(RUN), &self.info)
    }

    /// Stores how prompts are put to a model, with the part under way; earlier facts about the form are kept.
    ///
    /// # Errors
    /// The template or the truncation differs from an earlier part, or the disk fails.
    pub(crate) fn record_prompt_form(&mut self, label: &str, form: &PromptForm) -> Result<()> {
        let earlier = |part: &&Part| part.prompt_forms.get(label).is_some_and(|earlier| !earlier.agrees(form));
        if let Some(part) = self.info.parts.iter().find(earlier) {
            let message = format!(
                "model `{label}` doesn't read the prompts as it did at {}: its chat template or truncation differs",
                part.started_at
            );
            return Err(Error::input(message).with_hint(START_OVER));
        }
        let Some(part) = self.info.parts.last_mut() else { return Ok(()) };
        let known = part.prompt_forms.entry(label.to_owned()).or_default();
        let merged = PromptForm {
            energy: form.energy.or(known.energy),
            accuracy: form.accuracy.or(known.accuracy),
            ..form.clone()
        };
        if *known == merged {
            return Ok(());
        }
        *known = merged;
        write_json(&self.root.join(RUN), &self.info)
    }

    /// Stores a trial: samples, then generations, then the record's line, which is the commit.
    ///
    /// `generations` are kept for the first measured trial of a cell only: decoding, even sampling, writes the same
    /// each time.
    ///
    /// # Errors
    /// The disk fails; the trial then isn't committed.
    pub fn commit(&mut self, trial: Trial, generations: &[GenerationLine], trace: Option<&Trace>) -> Result<()> {
        let key = trial.key();
        if let Some(trace) = trace {
            let path = samples_path(&self.root, &key);
            table::write_samples(&path, trace)?;
        }
        if !generations.is_empty() && !self.generated.contains(&key.cell) {
            journal::append(&mut self.generations, generations)
                .context(|| format!("can't write `{}`", self.root.join(GENERATIONS).display()))?;
            self.generated.insert(key.cell);
        }
        self.append(&Line::Trial(Box::new(trial)))
    }

    /// Stores an evaluation.
    ///
    /// # Errors
    /// The disk fails.
    pub(crate) fn commit_evaluation(&mut self, evaluation: Evaluation) -> Result<()> {
        self.append(&Line::Evaluation(Box::new(evaluation)))
    }

    /// Stores an idle baseline.
    ///
    /// # Errors
    /// The disk fails.
    pub(crate) fn commit_baseline(&mut self, baseline: Baseline) -> Result<()> {
        self.append(&Line::Baseline(Box::new(baseline)))
    }

    /// A line that could not be read back (a number that isn't finite, say) would make the run unreadable for good.
    fn append(&mut self, line: &Line) -> Result<()> {
        let bytes = journal::to_bytes(std::slice::from_ref(line)).context(|| "a record can't be stored")?;
        serde_json::from_slice::<Line>(&bytes).context(|| "a record can't be stored")?;
        journal::append(&mut self.records, std::slice::from_ref(line))
            .context(|| format!("can't write `{}`", self.root.join(RECORDS).display()))
    }
}

/// The file of a trial's raw readings. The name is a hash, since a label can contain any character.
pub fn samples_path(root: &Path, key: &TrialKey) -> PathBuf {
    let digest = sha256_hex(format!("{}\u{0}{}", key.cell, key.block).as_bytes());
    root.join(SAMPLES).join(format!("{}.parquet", &digest[..16]))
}

/// Writes a JSON file such that a reader sees the old one or the new one, never half of one.
fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(value).context(|| format!("can't write `{}`", path.display()))?;
    write_atomic(path, text.as_bytes())
}

fn lock(root: &Path) -> Result<File> {
    let path = root.join(LOCK);
    let file = File::create(&path).context(|| format!("can't create `{}`", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::input(format!("another run is writing to `{}`", root.display()))
            .with_hint("wait for it, or choose another directory with `--out`")),
        Err(TryLockError::Error(error)) => Err(Error::new(format!("can't lock `{}`: {error}", path.display()))),
    }
}

/// Moves `kd` to the first free of `kd.1`, `kd.2` …
fn rotate(root: &Path) -> Result<PathBuf> {
    let _lock = lock(root)?;
    let free = (1..).map(|n| root.with_added_extension(n.to_string())).find(|path| !path.exists());
    // the iterator has no end: there is always a free name
    let target = free.unwrap_or_else(|| root.with_added_extension("old"));
    let what = || format!("can't move `{}` to `{}`", root.display(), target.display());
    fs::rename(root, &target).context(what)?;
    Ok(target)
}

/// Refuses a folder with files but without `run.json`: it isn't ours to change.
fn refuse_foreign(root: &Path) -> Result<()> {
    if root.is_file() {
        let message = format!("`{}` is a file", root.display());
        return Err(Error::input(message).with_hint("choose a directory with `--out`"));
    }
    if !root.exists() || root.join(RUN).exists() {
        return Ok(());
    }
    let entries = fs::read_dir(root).context(|| format!("can't read `{}`", root.display()))?;
    let ours = [LOCK, SAMPLES, RECORDS, GENERATIONS, "run.json.tmp"];
    let mut names = entries.filter_map(|entry| entry.ok()).map(|entry| entry.file_name());
    match names.find(|name| !ours.iter().any(|own| name == own)) {
        None => Ok(()),
        Some(name) => {
            let message = format!("`{}` contains `{}` and no run", root.display(), name.display());
            Err(Error::input(message).with_hint("choose an empty or new directory with `--out`"))
        }
    }
}

fn resume_info(root: &Path, info: &RunInfo) -> Result<RunInfo> {
    let stored = read::read_info(root)?;
    if stored.sweep_sha256 != info.sweep_sha256 {
        let message = format!("`{}` holds results of another version of this sweep", root.display());
        return Err(
            Error::input(message).with_hint("`--fresh` moves it aside and starts over; `--out DIR` writes elsewhere")
        );
    }
    if stored.prompts.sha256 != info.prompts.sha256 {
        let message = format!("the prompts have changed since `{}` was measured", root.display());
        return Err(Error::input(message).with_hint(START_OVER));
    }
    if stored.accuracy_sha256 != info.accuracy_sha256 {
        let message = format!("the accuracy data set has changed since `{}` was scored", root.display());
        return Err(Error::input(message).with_hint(START_OVER));
    }
    Ok(stored)
}

fn measured_cells(trials: &[Trial]) -> impl Iterator<Item = &CellId> {
    trials.iter().filter(|trial| matches!(trial.outcome, Outcome::Measured(_))).map(|trial| &trial.cell.id)
}

/// Whether a file has a name that [`samples_path`] gives, finished or not: no other file is ever removed.
fn is_samples_file(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let stem = name.strip_suffix(".tmp").unwrap_or(name).strip_suffix(".parquet").unwrap_or_default();
    path.is_file() && stem.len() == 16 && stem.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Removes samples and generations that an interrupted start wrote for trials that it never committed.
fn drop_orphans(root: &Path, trials: &[Trial]) -> Result<File> {
    let committed: HashSet<PathBuf> = trials.iter().map(|trial| samples_path(root, &trial.key())).collect();
    let samples = root.join(SAMPLES);
    let entries = fs::read_dir(&samples).context(|| format!("can't read `{}`", samples.display()))?;
    for path in entries.filter_map(|entry| entry.ok()).map(|entry| entry.path()) {
        if is_samples_file(&path) && !committed.contains(&path) {
            fs::remove_file(&path).context(|| format!("can't remove `{}`", path.display()))?;
        }
    }
    let path = root.join(GENERATIONS);
    let (file, lines) = journal::open::<GenerationLine>(&path)?;
    let cells: HashSet<&CellId> = measured_cells(trials).collect();
    if lines.iter().all(|line| cells.contains(&line.cell)) {
        return Ok(file);
    }
    let kept: Vec<_> = lines.into_iter().filter(|line| cells.contains(&line.cell)).collect();
    write_atomic(&path, &journal::to_bytes(&kept).context(|| format!("can't write `{}`", path.display()))?)?;
    Ok(journal::open::<GenerationLine>(&path)?.0)
}
