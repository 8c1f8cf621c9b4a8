//! The content of `run.json`, from the prepared sweep, the meter and the machine.

use std::collections::BTreeMap;
use std::path::Path;

use crate::calendar;
use crate::error::Result;
use crate::host;
use crate::prompts::PromptSet;
use crate::record::{FORMAT, MeterInfo, ModelMeta, Part, PromptInfo, Protocol, RunInfo};
use crate::run::prepare::Prepared;
use crate::run::training::training;
use crate::sweep::spec::ModelSpec;

/// The run as this start sees it, with this start as its only part. Its seed is drawn if the sweep file leaves it open;
/// a run that is continued keeps the recorded one.
///
/// # Errors
/// The operating system gives no random number, or a training record that the sweep file names is missing or malformed.
pub(crate) fn run_info(prepared: &Prepared, meter: &MeterInfo) -> Result<RunInfo> {
    let spec = &prepared.spec;
    let file_name = prepared.file.file_name().unwrap_or(prepared.file.as_os_str());
    Ok(RunInfo {
        format: FORMAT,
        name: spec.name.clone(),
        question: spec.question.clone(),
        notes: spec.notes.clone(),
        sweep_file: file_name.to_string_lossy().into_owned(),
        sweep_yaml: prepared.yaml.clone(),
        sweep_sha256: spec.fingerprint(),
        models: spec.models.iter().map(|model| meta(model, &prepared.loader.base)).collect::<Result<_>>()?,
        cells: prepared.plan.cells.clone(),
        blocks: prepared.plan.blocks,
        protocol: Protocol { seed: spec.measure.draw_seed()?, ..spec.measure.protocol(meter) },
        prompts: PromptInfo {
            source: prepared.prompts.source.clone(),
            count: prepared.prompts.items.len(),
            sha256: prepared.prompts.sha256(),
        },
        accuracy_sha256: prepared.accuracy.as_ref().map(PromptSet::sha256),
        floor: spec.report.floor,
        parts: vec![part(meter)],
    })
}

/// This start: the program, the machine and the meter.
fn part(meter: &MeterInfo) -> Part {
    Part {
        started_at: calendar::timestamp(),
        version: host::VERSION.to_owned(),
        git_revision: host::git_revision(),
        host: host::describe(),
        meter: meter.clone(),
        models: BTreeMap::new(),
        prompt_forms: BTreeMap::new(),
        calibrations: Vec::new(),
    }
}

fn meta(model: &ModelSpec, base: &Path) -> Result<ModelMeta> {
    Ok(ModelMeta {
        label: model.label.clone(),
        role: model.role,
        teacher: model.teacher.clone(),
        source: model.source.name().to_owned(),
        adapter: model.adapter.clone(),
        training: model.training.as_ref().map(|path| training(&base.join(path))).transpose()?,
    })
}
