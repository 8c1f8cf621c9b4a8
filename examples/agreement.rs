//! What the engine answers to given token ids, for a comparison with another engine (scripts/gpu_agreement.py).
//!
//!     agreement FOLDER QUESTIONS.json ANSWERS.json [--device cuda] [--dtype bf16] [--dummy SEED]
//!         [--kernels plain]
//!
//! Questions: `{"prompts": [[id, …], …], "steps": 256, "continuations": [[id, …], …]}`. Answers: greedy tokens of the
//! left-padded batch in fixed length, and the log-probabilities of the continuations' tokens.

use std::error::Error;
use std::path::PathBuf;

use clap::Parser;
use ept_sweep::engine::load::{DeviceChoice, LoadOptions, load};
use ept_sweep::engine::{Continuation, GenerateOptions, Prompt};
use ept_sweep::record::{DummyDistribution, DummyWeights, KernelsChoice, OutputLength};
use serde::Deserialize;
use serde_json::json;

#[derive(Parser)]
struct Arguments {
    /// Folder of the model.
    folder: PathBuf,
    /// The questions.
    questions: PathBuf,
    /// Where the answers go.
    answers: PathBuf,
    /// `cpu` or `cuda`.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Data type to run in.
    #[arg(long)]
    dtype: Option<String>,
    /// `auto` for the fastest operations, `plain` for candle's.
    #[arg(long, default_value = "auto")]
    kernels: String,
    /// Seed of Gaussian dummy weights in place of those of the folder.
    #[arg(long)]
    dummy: Option<u64>,
}

#[derive(Deserialize)]
struct Questions {
    prompts: Vec<Vec<u32>>,
    steps: usize,
    #[serde(default)]
    continuations: Vec<Vec<u32>>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let questions: Questions = serde_json::from_str(&std::fs::read_to_string(&arguments.questions)?)?;
    let device = if arguments.device == "cuda" { DeviceChoice::Cuda(0) } else { DeviceChoice::Cpu };
    let gaussian = |seed| DummyWeights { seed, distribution: DummyDistribution::Gaussian };
    let dummy = arguments.dummy.map(gaussian);
    let kernels = KernelsChoice::from_code(&arguments.kernels).ok_or("--kernels takes `auto` or `plain`")?;
    let options = LoadOptions { dtype: arguments.dtype.as_deref(), dummy, kernels, ..LoadOptions::default() };
    let mut engine = load(&arguments.folder, &options, device)?;
    let prompts: Vec<Prompt> =
        questions.prompts.iter().map(|ids| Prompt { text: String::new(), ids: ids.clone() }).collect();
    let answers = engine.generate(&prompts, GenerateOptions::greedy(questions.steps, OutputLength::Fixed))?;
    let scores = match questions.continuations.is_empty() {
        true => Vec::new(),
        false => {
            let pairs = questions.prompts.into_iter().zip(questions.continuations);
            let batch: Vec<_> = pairs.map(|(context, continuation)| Continuation { context, continuation }).collect();
            engine.score(&batch)?
        }
    };
    let answers = json!({
        "model": engine.info(),
        "answers": answers.into_iter().map(|answer| answer.ids).collect::<Vec<_>>(),
        "log_probs": scores.into_iter().map(|score| score.log_probs).collect::<Vec<_>>(),
    });
    std::fs::write(&arguments.answers, answers.to_string())?;
    Ok(())
}
