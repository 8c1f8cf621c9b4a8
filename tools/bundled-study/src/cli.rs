//! The command line.

use std::path::PathBuf;

use candle_core::Device;
use clap::{Args, Parser, Subcommand, ValueEnum};
use ept_sweep::engine::load::DeviceChoice;
use ept_sweep::error::Result;

/// Makes the bundled study: instruction set, tokenizer, teacher, distilled student and control.
#[derive(Parser)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub options: Options,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Everything (the default)
    All,
    /// The held-out split and the tokenizer
    Data {
        /// Also write this many rows of the train split, to look at
        #[arg(long, default_value_t = 0)]
        train_sample: u64,
    },
    /// The data and the teacher
    Teacher,
    /// The distilled student and its control; needs the teacher
    Students,
    /// Held-out scores of the models that are there
    Eval,
    /// The next token's logits after a prompt, as JSON, to compare with another implementation
    Logits { model: String, prompt: String },
}

#[derive(Args, Clone)]
pub(crate) struct Options {
    /// Folder for the instruction set and the models
    #[arg(long, global = true, default_value = "data")]
    pub out: PathBuf,
    #[arg(long, global = true, value_enum, default_value = "cpu")]
    pub device: Processor,
    #[arg(long, global = true, default_value_t = 16_000)]
    pub steps_teacher: usize,
    #[arg(long, global = true, default_value_t = 16_000)]
    pub steps_student: usize,
    /// Sequences per step
    #[arg(long, global = true, default_value_t = 256, value_parser = at_least_one)]
    pub batch: usize,
    #[arg(long, global = true, default_value_t = 20_260_101)]
    pub seed: u64,
    /// Seconds of training per model: a schedule that would take longer is annealed to its end in time
    ///
    /// The control repeats the distilled student's steps, however long they take.
    #[arg(long, global = true)]
    pub time_limit_s: Option<f64>,
    /// Score on this many held-out items only
    #[arg(long, global = true, value_parser = at_least_one)]
    pub eval_items: Option<usize>,
}

fn at_least_one(text: &str) -> std::result::Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "must be 1 or more".to_owned())
}

/// Where models are trained and scored.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(crate) enum Processor {
    Cpu,
    /// The first CUDA device
    Cuda,
}

impl Processor {
    /// The same as the library names it.
    pub(crate) fn choice(self) -> DeviceChoice {
        match self {
            Processor::Cpu => DeviceChoice::Cpu,
            Processor::Cuda => DeviceChoice::Cuda(0),
        }
    }

    /// # Errors
    /// CUDA isn't built in, or the device can't be opened.
    pub(crate) fn open(self) -> Result<Device> {
        self.choice().check()?;
        match self {
            Processor::Cpu => Ok(Device::Cpu),
            Processor::Cuda => open_cuda(),
        }
    }
}

#[cfg(feature = "cuda")]
fn open_cuda() -> Result<Device> {
    let device = Device::new_cuda(0)?;
    // SAFETY: everything here runs on this device's one stream, so no event has to order the accesses.
    unsafe { device.as_cuda_device()?.disable_event_tracking() };
    Ok(device)
}

#[cfg(not(feature = "cuda"))]
fn open_cuda() -> Result<Device> {
    // `DeviceChoice::check` has refused it, unless the library alone was built with CUDA
    Err(ept_sweep::error::Error::input("this build of bundled-study has no CUDA").with_hint("add `--features cuda`"))
}
