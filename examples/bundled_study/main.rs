//! Makes the bundled study from a seed: an instruction set, a tokenizer, a teacher, a distilled student and its undistilled control.

mod batches;
mod evaluate;
mod export;
mod facts;
mod fused;
mod lists;
mod model;
mod tasks;
mod train;
mod vocab;
mod words;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use candle_core::Device;
use clap::{Args, Parser, Subcommand, ValueEnum};
use tokenizers::Tokenizer;

use export::Made;
use model::{Batch, Model, STUDENT, Shape, TEACHER};
use tasks::Item;
use train::Plan;

pub type Failure = Box<dyn std::error::Error + Send + Sync>;
pub type Res<T> = Result<T, Failure>;

const HELD_OUT_ITEMS: usize = 800;
const TEACHER_RATE: f64 = 1e-3;
const STUDENT_RATE: f64 = 2e-3;

#[derive(Parser)]
#[command(about = "Makes the bundled study: instruction set, tokenizer, teacher, distilled student and control")]
struct Cli {
    #[command(subcommand)]
    stage: Option<Stage>,
    #[command(flatten)]
    options: Options,
}

#[derive(Args, Clone)]
struct Options {
    /// Folder for the instruction set and the models.
    #[arg(long, global = true, default_value = "data")]
    out: PathBuf,
    #[arg(long, global = true, value_enum, default_value = "cpu")]
    device: Processor,
    #[arg(long, global = true, default_value_t = 16_000)]
    steps_teacher: usize,
    #[arg(long, global = true, default_value_t = 16_000)]
    steps_student: usize,
    /// Sequences per step.
    #[arg(long, global = true, default_value_t = 256)]
    batch: usize,
    #[arg(long, global = true, default_value_t = 20_260_101)]
    seed: u64,
    /// Seconds of training per model; a schedule that would take longer is annealed to its end in time.
    /// The undistilled student repeats the distilled one's steps whatever they take.
    #[arg(long, global = true)]
    time_limit_s: Option<f64>,
    /// Evaluate on the first so many held-out items only.
    #[arg(long, global = true)]
    eval_items: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Processor {
    Cpu,
    Cuda,
}

#[derive(Subcommand, Clone)]
enum Stage {
    /// Everything (the default).
    All,
    /// The held-out split and the tokenizer.
    Data {
        /// Also write so many rows of the train split, to look at.
        #[arg(long, default_value_t = 0)]
        train_sample: u64,
    },
    /// The teacher.
    Teacher,
    /// The distilled student and its undistilled control; needs the teacher.
    Students,
    /// Exact match of the models that are there.
    Eval,
    /// The next token's logits after a prompt, as JSON, to compare with another implementation.
    Logits { model: String, prompt: String },
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Res<()> {
    let stage = cli.stage.clone().unwrap_or(Stage::All);
    let study = Study::new(&cli.options, &stage)?;
    match stage {
        Stage::Data { .. } => Ok(()),
        Stage::Teacher => study.teacher(),
        Stage::Students => study.students(),
        Stage::Eval => study.evaluate_all(),
        Stage::Logits { model, prompt } => study.logits(&model, &prompt),
        Stage::All => {
            study.teacher()?;
            study.students()
        }
    }
}

struct Study<'a> {
    options: &'a Options,
    device: Device,
    device_name: String,
    tokenizer: Arc<Tokenizer>,
    held_out: Vec<Item>,
}

impl<'a> Study<'a> {
    /// Opens the device and the data, making the data anew and, where no teacher is needed, the tokenizer.
    fn new(options: &'a Options, stage: &Stage) -> Res<Self> {
        if options.batch == 0 {
            return Err("--batch must be at least 1".into());
        }
        let sample = if let Stage::Data { train_sample } = stage { *train_sample } else { 0 };
        write_data(options, sample)?;
        let teacher = options.out.join("models/teacher");
        let tokenizer = match stage {
            Stage::Students | Stage::Eval | Stage::Logits { .. } => vocab::load(&teacher.join("tokenizer.json"))?,
            _ => {
                let tokenizer = vocab::train(options.seed)?;
                vocab::save(&tokenizer, &teacher)?;
                tokenizer
            }
        };
        let tokenizer = Arc::new(tokenizer);
        let mut held_out = tasks::held_out(options.seed, HELD_OUT_ITEMS);
        held_out.truncate(options.eval_items.unwrap_or(HELD_OUT_ITEMS));
        let device = open_device(options.device)?;
        let device_name = device_name(options.device);
        Ok(Self { options, device, device_name, tokenizer, held_out })
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.options.out.join("models").join(name)
    }

    fn plan(&self, name: &'a str) -> Plan<'a> {
        Plan {
            name,
            steps: if name == "teacher" { self.options.steps_teacher } else { self.options.steps_student },
            batch: self.options.batch,
            seed: self.options.seed,
            rate: if name == "teacher" { TEACHER_RATE } else { STUDENT_RATE },
            time_limit: self.options.time_limit_s.map(Duration::from_secs_f64),
            teacher: None,
            repeat: None,
        }
    }

    fn teacher(&self) -> Res<()> {
        self.make(TEACHER, &self.plan("teacher")).map(drop)
    }

    /// The control gets the distilled student's seed, batches, steps and learning rates.
    fn students(&self) -> Res<()> {
        let teacher = Model::load(TEACHER, &self.folder("teacher"), &self.device)?;
        let distilled = self.make(STUDENT, &Plan { teacher: Some(&teacher), ..self.plan("student-kd") })?;
        self.make(STUDENT, &Plan { repeat: Some(&distilled), ..self.plan("student-base") }).map(drop)
    }

    /// Trains, rounds, saves and scores one model; gives the schedule's progress per step.
    fn make(&self, shape: Shape, plan: &Plan) -> Res<Vec<f64>> {
        let model = Model::new(shape, self.options.seed.wrapping_add(shape.hidden as u64), &self.device)?;
        eprintln!("{}: {} parameters on {}", plan.name, model.parameter_count(), self.device_name);
        reduced_precision(true);
        let outcome = train::train(&model, &self.tokenizer, plan)?;
        reduced_precision(false);
        export::round_to_f16(&model)?;
        let folder = self.folder(plan.name);
        export::save_model(&model, &self.tokenizer, &folder)?;
        let scores = evaluate::evaluate(&model, &self.tokenizer, &self.held_out)?;
        scores.print(plan.name);
        let recipe = if plan.teacher.is_some() { "kd" } else { "ce" };
        let command = self.command(plan.name);
        let made = Made {
            name: plan.name,
            recipe,
            device: &self.device_name,
            seed: self.options.seed,
            command: &command,
            outcome: &outcome,
        };
        export::save_record(&model, &made, &scores, &folder)?;
        Ok(outcome.progress)
    }

    /// The command line that makes this model, without the time limit's effect.
    fn command(&self, name: &str) -> String {
        let o = self.options;
        let (stage, steps) = match name {
            "teacher" => ("teacher", format!("--steps-teacher {}", o.steps_teacher)),
            _ => ("students", format!("--steps-student {}", o.steps_student)),
        };
        let (features, device) = if o.device == Processor::Cuda { (" --features cuda", "cuda") } else { ("", "cpu") };
        let limit = o.time_limit_s.map(|s| format!(" --time-limit-s {s}")).unwrap_or_default();
        format!(
            "cargo run --release{features} --example bundled_study -- {stage} --device {device} {steps} --batch {} --seed {}{limit}",
            o.batch, o.seed
        )
    }

    fn logits(&self, name: &str, prompt: &str) -> Res<()> {
        let shape = if name == "teacher" { TEACHER } else { STUDENT };
        let model = Model::load(shape, &self.folder(name), &self.device)?;
        let ids = self.tokenizer.encode_fast(prompt, true).map_err(|e| format!("tokenizer: {e}"))?;
        let ids = ids.get_ids().to_vec();
        let last = ids.len() as u32 - 1;
        let batch = Batch { size: 1, length: ids.len(), ids, rows: vec![last] };
        let logits = model.logits(&batch)?.flatten_all()?.to_vec1::<f32>()?;
        println!("{}", serde_json::json!({ "ids": batch.ids, "logits": logits }));
        Ok(())
    }

    fn evaluate_all(&self) -> Res<()> {
        for (name, shape) in [("teacher", TEACHER), ("student-kd", STUDENT), ("student-base", STUDENT)] {
            let folder = self.folder(name);
            if folder.join("model.safetensors").exists() {
                let model = Model::load(shape, &folder, &self.device)?;
                evaluate::evaluate(&model, &self.tokenizer, &self.held_out)?.print(name);
            } else {
                eprintln!("{name}: not there, skipped");
            }
        }
        Ok(())
    }
}

/// Writes the held-out split and its description.
fn write_data(options: &Options, train_sample: u64) -> Res<()> {
    let folder = options.out.join("instructions");
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let rows = tasks::held_out(options.seed, HELD_OUT_ITEMS);
    write_rows(&folder.join("heldout.jsonl"), &rows)?;
    if train_sample > 0 {
        let rows: Vec<Item> = (0..train_sample).map(|i| tasks::train_item(options.seed, i)).collect();
        write_rows(&folder.join("train-sample.jsonl"), &rows)?;
    }
    write_text(&folder.join("README.md"), &include_str!("instructions.md").replace("{seed}", &options.seed.to_string()))
}

fn write_rows(path: &Path, rows: &[Item]) -> Res<()> {
    let mut text = String::new();
    for row in rows {
        text += &serde_json::to_string(row)?;
        text.push('\n');
    }
    write_text(path, &text)
}

pub fn write_text(path: &Path, text: &str) -> Res<()> {
    Ok(std::fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()))?)
}

pub fn write_json(path: &Path, value: &serde_json::Value) -> Res<()> {
    write_text(path, &(serde_json::to_string_pretty(value)? + "\n"))
}

#[cfg(feature = "cuda")]
fn open_device(processor: Processor) -> Res<Device> {
    if processor == Processor::Cpu {
        return Ok(Device::Cpu);
    }
    let device = Device::new_cuda(0)?;
    if let Device::Cuda(cuda) = &device {
        // SAFETY: everything here runs on this device's one stream, so no event has to order the accesses.
        unsafe { cuda.disable_event_tracking() };
    }
    Ok(device)
}

#[cfg(not(feature = "cuda"))]
fn open_device(processor: Processor) -> Res<Device> {
    match processor {
        Processor::Cpu => Ok(Device::Cpu),
        Processor::Cuda => Err("this build has no CUDA: add --features cuda".into()),
    }
}

/// TF32 in the matrix products while training; the evaluation runs in full single precision.
fn reduced_precision(on: bool) {
    candle_core::cuda::set_gemm_reduced_precision_f32(on);
}

fn device_name(processor: Processor) -> String {
    let gpu = || {
        let nvml = nvml_wrapper::Nvml::init().ok()?;
        nvml.device_by_index(0).ok()?.name().ok()
    };
    match processor {
        Processor::Cuda => gpu().unwrap_or_else(|| "CUDA device".to_string()),
        Processor::Cpu => std::fs::read_to_string("/proc/cpuinfo")
            .ok()
            .and_then(|text| Some(text.lines().find(|l| l.starts_with("model name"))?.split_once(": ")?.1.to_string()))
            .unwrap_or_else(|| "CPU".to_string()),
    }
}
