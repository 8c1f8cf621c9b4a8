//! Models in GGUF files, against the same weights in transformers: tests/golden/gguf/ holds files that the `gguf` package
//! wrote and the greedy tokens of their dequantised weights (scripts/make_gguf_goldens.py).

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::Folder;
#[cfg(feature = "cuda")]
use ept_sweep::engine::Kernels;
use ept_sweep::engine::generate::DecoderEngine;
use ept_sweep::engine::load::{DeviceChoice, LoadOptions, inspect, load_decoder};
use ept_sweep::engine::{Engine, GenerateOptions, Prompt};
use ept_sweep::record::OutputLength;
use serde::Deserialize;

const STEPS: usize = 32;

#[derive(Deserialize)]
struct Golden {
    architecture: String,
    stored: String,
    prompts: Vec<Vec<u32>>,
    eos_ids: Vec<u32>,
    greedy: Vec<Vec<u32>>,
    margins: Vec<Vec<f32>>,
    prompt_logits: Vec<Vec<f32>>,
}

impl Golden {
    fn is_quantised(&self) -> bool {
        !matches!(self.stored.as_str(), "F16" | "BF16" | "F32")
    }
}

fn models() -> Vec<(PathBuf, Golden)> {
    let entries = fs::read_dir(common::repository().join("tests/golden/gguf")).unwrap();
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    let read = |folder: PathBuf| {
        let golden = serde_json::from_str(&fs::read_to_string(folder.join("golden.json")).unwrap()).unwrap();
        (folder.join("model.gguf"), golden)
    };
    folders.into_iter().map(read).collect()
}

fn engine(file: &Path) -> DecoderEngine {
    let options = LoadOptions { dtype: Some("f32"), ..LoadOptions::default() };
    load_decoder(file, &options, DeviceChoice::Cpu, None).unwrap_or_else(|error| panic!("{error}"))
}

fn batch(golden: &Golden) -> Vec<Prompt> {
    golden.prompts.iter().map(|ids| Prompt { text: String::new(), ids: ids.clone() }).collect()
}

/// Relative size of the largest difference of a row's logits: f32 sums, or products with activations in 8 bits, whose
/// single outputs are off by up to 1.5 % of a typical one (see `engine::weights::gguf`), through all layers.
fn tolerance(golden: &Golden) -> f32 {
    if golden.is_quantised() { 0.1 } else { 1e-4 }
}

#[test]
fn prompt_logits_are_those_of_the_dequantised_weights() {
    let models = models();
    assert!(models.len() >= 13);
    for (file, golden) in models {
        let logits = engine(&file).prompt_logits(&batch(&golden)).unwrap();
        for (row, (ours, theirs)) in logits.iter().zip(&golden.prompt_logits).enumerate() {
            let scale = theirs.iter().fold(0f32, |largest, logit| largest.max(logit.abs()));
            let error = ours.iter().zip(theirs).fold(0f32, |largest, (a, b)| largest.max((a - b).abs()));
            let allowed = tolerance(&golden) * scale;
            assert!(error <= allowed, "{}, row {row}: off by {error} of {scale}", file.display());
        }
    }
}

#[test]
fn greedy_tokens_agree_until_a_margin_is_within_the_noise_of_the_quantised_product() {
    for (file, golden) in models() {
        let options = GenerateOptions::greedy(STEPS, OutputLength::Natural);
        let answers = engine(&file).generate(&batch(&golden), options).unwrap();
        let mut compared = 0;
        for (row, answer) in answers.iter().enumerate() {
            let greedy = &golden.greedy[row];
            let end = greedy.iter().position(|id| golden.eos_ids.contains(id)).map_or(greedy.len(), |at| at + 1);
            let scale = golden.prompt_logits[row].iter().fold(0f32, |largest, logit| largest.max(logit.abs()));
            let noise = if golden.is_quantised() { 2.0 * tolerance(&golden) * scale } else { 0.0 };
            let clear = golden.margins[row].iter().position(|margin| *margin < noise).unwrap_or(STEPS).min(end);
            assert_eq!(answer.ids[..clear], greedy[..clear], "{}, row {row}", file.display());
            compared += clear;
        }
        assert!(compared > 0 || golden.is_quantised(), "{}: no step with a clear margin", file.display());
    }
}

#[test]
fn a_file_says_what_it_is_before_and_after_loading() {
    for (file, golden) in models() {
        let summary = inspect(&file, &LoadOptions::default()).unwrap();
        assert_eq!(summary.architecture, golden.architecture);
        assert_eq!(summary.quantised, golden.is_quantised(), "{}", file.display());
        let info = engine(&file).info().clone();
        assert_eq!(info.stored_dtype.as_deref(), Some(golden.stored.to_lowercase().as_str()));
        assert_eq!(info.parameters, Some(summary.parameters));
        assert_eq!(info.files.keys().collect::<Vec<_>>(), ["model.gguf"]);
        if golden.is_quantised() {
            assert!(summary.weight_bytes("f32") < 4 * summary.parameters, "{}", file.display());
            assert!(info.notes.iter().any(|note| note.contains("quantise activations to 8 bits")), "{:?}", info.notes);
        }
    }
}

/// Runs where this build can use a GPU and there is one.
#[cfg(feature = "cuda")]
#[test]
fn a_gpu_gives_the_logits_of_the_dequantised_weights() {
    if DeviceChoice::Auto.gpu_index().is_none() {
        return;
    }
    for (file, golden) in models() {
        for kernels in [None, Some(Kernels::Stock)] {
            let options = LoadOptions { dtype: Some("f32"), ..LoadOptions::default() };
            let mut engine = load_decoder(&file, &options, DeviceChoice::Cuda(0), kernels).unwrap();
            let logits = engine.prompt_logits(&batch(&golden)).unwrap();
            for (row, (ours, theirs)) in logits.iter().zip(&golden.prompt_logits).enumerate() {
                let scale = theirs.iter().fold(0f32, |largest, logit| largest.max(logit.abs()));
                let error = ours.iter().zip(theirs).fold(0f32, |largest, (a, b)| largest.max((a - b).abs()));
                let allowed = tolerance(&golden) * scale;
                println!("{}, {kernels:?}: {error} of {scale}", file.display());
                assert!(error <= allowed, "{}, {kernels:?}, row {row}: off by {error} of {scale}", file.display());
            }
        }
    }
}

#[test]
fn quantised_weights_run_in_f32_alone() {
    let (file, _) = models().into_iter().find(|(_, golden)| golden.is_quantised()).unwrap();
    let options = LoadOptions { dtype: Some("bf16"), ..LoadOptions::default() };
    let error = load_decoder(&file, &options, DeviceChoice::Cpu, None).err().unwrap();
    assert!(error.message().contains("can't run in `bf16`"), "{error}");
    assert_eq!(inspect(&file, &options).err().unwrap(), error, "a plan says so, too");
}

#[test]
fn a_sweep_runs_a_gguf_file_with_the_tokenizer_of_its_metadata() {
    let folder = Folder::new();
    let file = common::repository().join("tests/golden/gguf/llama_q8_0/model.gguf");
    let sweep = folder.write(
        "sweep.yaml",
        &format!(
            "name: gguf\nmodels:\n  - {{label: q8, source: {}}}\nsweep: {{batch_size: 2, max_new_tokens: 4}}\n\
             prompts: {{text: [\"one two\", \"three\"]}}\nmeasure: {{meter: modelled, repeats: 1, window_s: 0.05, \
             warmup_s: 0.01, idle_s: 0}}\n",
            file.display()
        ),
    );
    let out = folder.path("out");
    common::sweep(&sweep, &out);
    let run: serde_json::Value = serde_json::from_str(&fs::read_to_string(out.join("run.json")).unwrap()).unwrap();
    let model = &run["parts"][0]["models"]["q8"];
    assert_eq!((model["stored_dtype"].as_str(), model["dtype"].as_str()), (Some("q8_0"), Some("f32")));
    let generations = fs::read_to_string(out.join("generations.jsonl")).unwrap();
    assert_eq!(generations.lines().count(), 2);
}
