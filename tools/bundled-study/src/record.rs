//! How a model came about: `training.json`, which a sweep file's `training:` reads, and a model card.

use std::path::Path;

use ept_sweep::error::Result;
use ept_sweep::record::EnergyMethod;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::arms::Arm;
use crate::energy::EnergyRecord;
use crate::files::{write_json, write_text};
use crate::model::Model;
use crate::scores::Scores;
use crate::train::Outcome;

/// What is to be told of a model.
pub(crate) struct Made<'a> {
    pub arm: Arm,
    pub model: &'a Model,
    pub outcome: &'a Outcome,
    pub energy: &'a EnergyRecord,
    pub scores: &'a Scores,
    pub seed: u64,
    /// The command line that makes it again.
    pub command: &'a str,
}

#[derive(Serialize)]
struct TrainingRecord<'a> {
    model: &'a str,
    steps: usize,
    tokens: u64,
    seed: u64,
    parameters: usize,
    heldout_exact_match: f64,
    heldout_n: usize,
    stderr: f64,
    by_category: Map<String, Value>,
    heldout_rouge_l: Option<f64>,
    first_loss: f64,
    final_loss: f64,
    command: &'a str,
    #[serde(flatten)]
    energy: &'a EnergyRecord,
}

/// Writes the training record and the model card next to the model.
///
/// # Errors
/// A file can't be written.
pub(crate) fn save(made: &Made<'_>, folder: &Path) -> Result<()> {
    write_json(&folder.join("training.json"), &record(made))?;
    write_text(&folder.join("README.md"), &card(made))
}

fn record<'a>(made: &Made<'a>) -> TrainingRecord<'a> {
    let (outcome, all) = (made.outcome, made.scores.all());
    let by_category = made.scores.by_category().into_iter();
    TrainingRecord {
        model: made.arm.name,
        steps: outcome.steps,
        tokens: outcome.tokens,
        seed: made.seed,
        parameters: made.model.parameter_count(),
        heldout_exact_match: all.share(),
        heldout_n: all.n,
        stderr: all.standard_error(),
        by_category: by_category.map(|(category, tally)| (category.to_owned(), json!(tally.share()))).collect(),
        heldout_rouge_l: made.scores.rouge_l(),
        first_loss: outcome.first_loss,
        final_loss: outcome.final_loss,
        command: made.command,
        energy: made.energy,
    }
}

fn card(made: &Made<'_>) -> String {
    let (outcome, all, shape) = (made.outcome, made.scores.all(), made.model.shape);
    let cost = &made.energy.cost;
    format!(
        "---\nlicense: cc0-1.0\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n\n\
         # {name}\n\n\
         A Llama-architecture model of {parameters} parameters ({layers} layers, hidden size {hidden}) for the \
         project's generated instruction set; it knows nothing else.\n\n\
         - Training: {how}; {steps} steps, {tokens} tokens, {seconds:.0} s on {device}.\n\
         - Training energy: {energy}.\n\
         - Held-out exact match: {exact:.3} ± {stderr:.3} (n = {n}, greedy, standard error).\n\
         - Prompt form: `Instruction: …`, an optional `Context: …` paragraph, `Answer:`.\n\
         - Made by: `{command}`\n\
         - Licence: CC0 1.0.\n",
        name = made.arm.name,
        parameters = made.model.parameter_count(),
        layers = shape.layers,
        hidden = shape.hidden,
        how = made.arm.objective.sentence(),
        steps = outcome.steps,
        tokens = outcome.tokens,
        seconds = cost.duration_s.map_or(f64::NAN, ept_sweep::units::Seconds::get),
        device = cost.device.as_deref().unwrap_or("an unknown device"),
        energy = energy(made.energy),
        exact = all.share(),
        stderr = all.standard_error(),
        n = all.n,
        command = made.command,
    )
}

fn energy(record: &EnergyRecord) -> String {
    let Some(joules) = record.cost.energy_j else { return "unknown".to_owned() };
    let how = match record.cost.energy_method {
        Some(EnergyMethod::Counter) => "energy counter",
        Some(EnergyMethod::PowerIntegral) => "integrated power",
        Some(EnergyMethod::Modelled) => "modelled, not measured",
        Some(EnergyMethod::Simulated) => "simulated",
        None => "unknown method",
    };
    let residuals = record.stages.iter().filter_map(|stage| stage.span.energy.residual).map(f64::abs);
    let second =
        residuals.reduce(f64::max).map_or(String::new(), |r| format!(", second source within {:.1} %", r * 100.0));
    let validity = if record.valid { "" } else { "; not valid, see `training.json`" };
    format!("{:.1} kJ ({}, {how}{second}){validity}", joules.get() / 1000.0, record.meter.name)
}
