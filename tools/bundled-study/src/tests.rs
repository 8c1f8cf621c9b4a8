//! What the tests share, and tests over several modules: training learns, and what is exported is what was trained.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use candle_core::{D, Device};
use ept_sweep::engine::load::{DeviceChoice, LoadOptions, load};
use ept_sweep::engine::{Continuation, GenerateOptions, Prompt};
use ept_sweep::record::OutputLength;
use ept_sweep::text::Tokenizer;

use crate::arms::{Arm, STUDENT_BASE, STUDENT_KD};
use crate::model::{Batch, Model, Shape};
use crate::tasks::train_item;
use crate::train::{Length, Outcome, Plan, Training};
use crate::{export, vocab};

/// A folder that is removed with the value.
pub(crate) struct Folder(pub PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("bundled-study-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Something in the repository's `data`.
pub(crate) fn bundled(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data").join(name)
}

/// Small enough for a test, with grouped heads as the real ones have.
const TINY: Shape = Shape { hidden: 32, layers: 2, heads: 4, kv_heads: 2, head_dim: 8, intermediate: 64 };

fn tokenizer() -> Arc<Tokenizer> {
    Arc::new(vocab::load(&bundled("models/teacher")).unwrap())
}

fn trained(model: &Model, arm: Arm, steps: usize, teacher: Option<&Model>) -> Outcome {
    let arm = Arm { shape: TINY, rate: 1e-2, ..arm };
    let length = Length::Steps { steps, time_limit: None };
    let plan = Plan { arm, length, batch: 8, seed: 1, teacher };
    Training::new(model, tokenizer(), plan).unwrap().run().unwrap()
}

#[test]
fn a_few_steps_on_the_processor_reduce_the_loss() {
    let model = Model::new(TINY, 1, &Device::Cpu).unwrap();
    let outcome = trained(&model, STUDENT_BASE, 30, None);
    assert_eq!((outcome.steps, outcome.progress.len()), (30, 30));
    assert!(outcome.final_loss < 0.8 * outcome.first_loss, "{outcome:?}");
}

#[test]
fn a_distilled_model_comes_closer_to_its_teacher() {
    let teacher = Model::new(TINY, 2, &Device::Cpu).unwrap();
    trained(&teacher, STUDENT_BASE, 30, None);
    let student = Model::new(TINY, 1, &Device::Cpu).unwrap();
    let outcome = trained(&student, STUDENT_KD, 30, Some(&teacher));
    assert!(outcome.final_loss < 0.8 * outcome.first_loss, "{outcome:?}");
}

#[test]
fn the_same_seed_trains_the_same_model() {
    let outcome = || trained(&Model::new(TINY, 1, &Device::Cpu).unwrap(), STUDENT_BASE, 5, None);
    assert_eq!(outcome(), outcome());
}

#[test]
fn distilling_without_a_teacher_is_refused_before_training() {
    let model = Model::new(TINY, 1, &Device::Cpu).unwrap();
    let length = Length::Steps { steps: 1, time_limit: None };
    let plan = Plan { arm: STUDENT_KD, length, batch: 1, seed: 1, teacher: None };
    let refused = Training::new(&model, tokenizer(), plan).err().unwrap();
    assert!(refused.message().contains("without a teacher"), "{refused}");
}

/// Log-probabilities (rows, vocabulary) of the next token after each token of `ids` from `first` on.
fn log_probabilities(model: &Model, ids: &[u32], first: usize) -> Vec<Vec<f32>> {
    let rows = (first..ids.len()).map(|row| row as u32).collect();
    let batch = Batch { ids: ids.to_vec(), size: 1, length: ids.len(), rows };
    let logits = model.logits(&batch).unwrap();
    candle_nn::ops::log_softmax(&logits, D::Minus1).unwrap().to_vec2().unwrap()
}

fn largest(row: &[f32]) -> u32 {
    row.iter().enumerate().fold(0, |best, (i, value)| if *value > row[best] { i } else { best }) as u32
}

#[test]
fn an_exported_model_gives_the_same_tokens_and_probabilities_in_the_library() {
    let folder = Folder::new();
    let model = Model::new(TINY, 1, &Device::Cpu).unwrap();
    trained(&model, STUDENT_BASE, 20, None);
    model.round_to_f16().unwrap();
    export::save(&model, &bundled("models/teacher"), &folder.0).unwrap();

    let tokenizer = Tokenizer::load(&folder.0).unwrap();
    let options = LoadOptions { dtype: Some("f32"), ..LoadOptions::default() };
    let mut engine = load(&folder.0, &options, DeviceChoice::Cpu).unwrap();
    for index in 0..5 {
        let item = train_item(9, index);
        let ids = vocab::prompt_ids(&tokenizer, &item).unwrap();
        let prompt = Prompt { text: item.prompt(), ids: ids.clone() };
        let answer = engine.generate(&[prompt], GenerateOptions::greedy(12, OutputLength::Fixed)).unwrap();
        let tokens = answer[0].ids.clone();
        let continuation = Continuation { context: ids.clone(), continuation: tokens.clone() };
        let score = engine.score(&[continuation]).unwrap().remove(0);

        let ours = log_probabilities(&model, &[&ids[..], &tokens].concat(), ids.len() - 1);
        for (step, (row, token)) in ours.iter().zip(&tokens).enumerate() {
            let gap = row[*token as usize] - score.log_probs[step];
            assert!(gap.abs() < 1e-3, "item {index}, step {step}: log-probabilities differ by {gap}");
            // the end-of-text token is masked in fixed length
            let unmasked = largest(row) != vocab::EOS.1;
            assert!(!unmasked || largest(row) == *token, "item {index}, step {step}");
        }
    }
}

#[test]
fn the_description_of_the_bundled_instructions_is_the_one_that_the_program_writes() {
    let written = include_str!("instructions.md").replace("{seed}", "20260101");
    assert_eq!(fs::read_to_string(bundled("instructions/README.md")).unwrap(), written);
}

#[test]
fn a_loaded_folder_is_the_model_that_was_exported() {
    let folder = Folder::new();
    let model = Model::new(TINY, 3, &Device::Cpu).unwrap();
    model.round_to_f16().unwrap();
    export::save(&model, &bundled("models/teacher"), &folder.0).unwrap();
    let loaded = Model::load(TINY, &folder.0, &Device::Cpu).unwrap();
    let ids: Vec<u32> = (0..20).collect();
    assert_eq!(log_probabilities(&model, &ids, 0), log_probabilities(&loaded, &ids, 0));
    let wrong = Model::load(Shape { hidden: 16, ..TINY }, &folder.0, &Device::Cpu).err().unwrap();
    assert!(wrong.message().contains("model.embed_tokens.weight"), "{wrong}");
}
