//! The study as a whole: data, then each model trained, measured, exported, scored and recorded.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use candle_core::Device;
use ept_sweep::error::{Error, Result};
use ept_sweep::prompts::PromptSet;
use ept_sweep::text::Tokenizer;
use serde_json::json;

use crate::arms::{self, Arm, STUDENT_BASE, STUDENT_KD, TEACHER};
use crate::cli::{Options, Processor};
use crate::energy::{Gauge, StageName};
use crate::files::{make_folder, write_json, write_lines, write_text};
use crate::model::{Batch, Model};
use crate::record::{self, Made};
use crate::tasks::{self, Item};
use crate::train::{Length, Plan, Training};
use crate::{export, scores, vocab};

const HELD_OUT_ITEMS: usize = 800;
const HELD_OUT: &str = "instructions/heldout.jsonl";

/// A device with the meter that measures it.
pub(crate) struct Place {
    device: Device,
    gauge: Gauge,
}

impl Place {
    /// # Errors
    /// The device can't be opened, or nothing here measures it.
    pub(crate) fn open(options: &Options) -> Result<Self> {
        // the device first, so that a GPU's idle power is that of a process which holds it
        let device = options.device.open()?;
        Ok(Self { device, gauge: Gauge::open(options.device.choice())? })
    }
}

/// Writes the held-out split, its description, the tokenizer and what making them took; on request also some rows of
/// the train split.
///
/// # Errors
/// A file can't be written, or the meter fails.
pub(crate) fn prepare(options: &Options, place: &mut Place, train_sample: u64) -> Result<()> {
    let instructions = options.out.join("instructions");
    make_folder(&instructions)?;
    let ((), stage) = place.gauge.stage(StageName::DataPreparation, || {
        write_lines(&options.out.join(HELD_OUT), &tasks::held_out(options.seed, HELD_OUT_ITEMS))?;
        vocab::train(options.seed, &folder(options, &TEACHER))
    })?;
    write_json(&instructions.join("preparation.json"), &place.gauge.record(None, vec![stage]))?;
    if train_sample > 0 {
        let rows: Vec<Item> = (0..train_sample).map(|index| tasks::train_item(options.seed, index)).collect();
        write_lines(&instructions.join("train-sample.jsonl"), &rows)?;
    }
    let description = include_str!("instructions.md").replace("{seed}", &options.seed.to_string());
    write_text(&instructions.join("README.md"), &description)
}

/// Scores the models that are there.
///
/// # Errors
/// The held-out split or a model can't be read.
pub(crate) fn score_all(options: &Options) -> Result<()> {
    let held_out = held_out(options)?;
    for arm in arms::ALL {
        let folder = folder(options, &arm);
        match folder.join("model.safetensors").exists() {
            true => scores::score(&folder, &held_out, options.device.choice())?.print(arm.name),
            false => eprintln!("{}: not there, skipped", arm.name),
        }
    }
    Ok(())
}

/// Prints the logits of the token after a prompt, by the model that is trained here.
///
/// # Errors
/// There is no such model.
pub(crate) fn logits(options: &Options, name: &str, prompt: &str) -> Result<()> {
    let named = arms::ALL.into_iter().find(|arm| arm.name == name);
    let arm = named.ok_or_else(|| Error::input(format!("no model `{name}` in the study")))?;
    let folder = folder(options, &arm);
    let model = Model::load(arm.shape, &folder, &options.device.open()?)?;
    let ids = vocab::load(&folder)?.encode(prompt)?;
    let last = ids.len() as u32 - 1;
    let batch = Batch { size: 1, length: ids.len(), ids, rows: vec![last] };
    let logits = model.logits(&batch)?.flatten_all()?.to_vec1::<f32>()?;
    println!("{}", json!({ "ids": batch.ids, "logits": logits }));
    Ok(())
}

fn folder(options: &Options, arm: &Arm) -> PathBuf {
    options.out.join("models").join(arm.name)
}

/// The held-out split as a sweep reads it.
fn held_out(options: &Options) -> Result<PromptSet> {
    let mut set = PromptSet::read(&options.out.join(HELD_OUT), HELD_OUT)?;
    set.items.truncate(options.eval_items.unwrap_or(HELD_OUT_ITEMS));
    Ok(set)
}

/// Everything that training works with.
pub(crate) struct Study<'a> {
    options: &'a Options,
    place: Place,
    tokenizer: Arc<Tokenizer>,
    held_out: PromptSet,
}

impl<'a> Study<'a> {
    /// Reads the data.
    ///
    /// # Errors
    /// It isn't there.
    pub(crate) fn open(options: &'a Options, place: Place) -> Result<Self> {
        let tokenizer = Arc::new(vocab::load(&folder(options, &TEACHER))?);
        let held_out = held_out(options)?;
        Ok(Self { options, place, tokenizer, held_out })
    }

    /// Makes the teacher.
    ///
    /// # Errors
    /// As for every model: training fails, or a file can't be written.
    pub(crate) fn teacher(&mut self) -> Result<()> {
        let plan = self.plan(TEACHER, self.options.steps_teacher);
        self.make(plan).map(drop)
    }

    /// Makes the distilled student, and the control with its seed, batches, steps and learning rates.
    ///
    /// # Errors
    /// As for every model, or there is no teacher.
    pub(crate) fn students(&mut self) -> Result<()> {
        let teacher = Model::load(TEACHER.shape, &folder(self.options, &TEACHER), &self.place.device)?;
        let steps = self.options.steps_student;
        let progress = self.make(Plan { teacher: Some(&teacher), ..self.plan(STUDENT_KD, steps) })?;
        let length = Length::Repeat { steps, progress: &progress };
        self.make(Plan { length, ..self.plan(STUDENT_BASE, steps) }).map(drop)
    }

    fn plan<'p>(&self, arm: Arm, steps: usize) -> Plan<'p> {
        let time_limit = self.options.time_limit_s.map(Duration::from_secs_f64);
        let length = Length::Steps { steps, time_limit };
        Plan { arm, length, batch: self.options.batch, seed: self.options.seed, teacher: None }
    }

    /// Trains, rounds, exports, scores and records one model; the schedule's progress at each step.
    fn make(&mut self, plan: Plan<'_>) -> Result<Vec<f64>> {
        let (arm, options) = (plan.arm, self.options);
        // models of one shape start from the same weights
        let model = Model::new(arm.shape, options.seed.wrapping_add(arm.shape.hidden as u64), &self.place.device)?;
        eprintln!("{}: {} parameters on {}", arm.name, model.parameter_count(), self.place.gauge.device_name());
        let training = Training::new(&model, self.tokenizer.clone(), plan)?;
        reduced_precision(true);
        let measured = self.place.gauge.stage(arm.stage, || training.run());
        reduced_precision(false);
        let (outcome, stage) = measured?;
        model.round_to_f16()?;
        let folder = folder(options, &arm);
        export::save(&model, &self::folder(options, &TEACHER), &folder)?;
        let scores = scores::score(&folder, &self.held_out, options.device.choice())?;
        scores.print(arm.name);
        let energy = self.place.gauge.record(Some(arm.objective.code()), vec![stage]);
        let command = command(options, &arm);
        let made = Made {
            arm,
            model: &model,
            outcome: &outcome,
            energy: &energy,
            scores: &scores,
            seed: options.seed,
            command: &command,
        };
        record::save(&made, &folder)?;
        Ok(outcome.progress)
    }
}

/// TF32 in the matrix products of a GPU while training; scores are made in full single precision.
fn reduced_precision(on: bool) {
    candle_core::cuda::set_gemm_reduced_precision_f32(on);
}

/// The command line that makes a model; how many steps fit into a time limit depends on the machine.
fn command(options: &Options, arm: &Arm) -> String {
    let (stage, steps) = match arm.name == TEACHER.name {
        true => ("teacher", format!("--steps-teacher {}", options.steps_teacher)),
        false => ("students", format!("--steps-student {}", options.steps_student)),
    };
    let (features, device) = match options.device {
        Processor::Cpu => ("", "cpu"),
        Processor::Cuda => (" --features cuda", "cuda"),
    };
    let limit = options.time_limit_s.map(|seconds| format!(" --time-limit-s {seconds}")).unwrap_or_default();
    format!(
        "cargo run --release -p bundled-study{features} -- {stage} --device {device} {steps} --batch {} \
         --seed {}{limit}",
        options.batch, options.seed
    )
}
