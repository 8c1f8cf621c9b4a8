//! PEFT adapters merged at load, against PEFT's own merged models: tests/golden/adapters/ holds adapters and the greedy
//! tokens of what `merge_and_unload` makes of them (scripts/make_adapter_goldens.py).

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::Folder;
use ept_sweep::engine::generate::DecoderEngine;
use ept_sweep::engine::load::{DeviceChoice, LoadOptions, inspect, load_decoder};
use ept_sweep::engine::{Engine, GenerateOptions, Prompt};
use ept_sweep::error::Result;
use ept_sweep::record::OutputLength;
use serde::Deserialize;

const STEPS: usize = 32;

#[derive(Deserialize)]
struct Golden {
    base: String,
    prompts: Vec<Vec<u32>>,
    eos_ids: Vec<u32>,
    greedy: Vec<Vec<u32>>,
    prompt_logits: Vec<Vec<f32>>,
}

fn folder() -> PathBuf {
    common::repository().join("tests/golden/adapters")
}

fn adapters() -> Vec<PathBuf> {
    let entries = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut adapters: Vec<PathBuf> = entries.filter(|path| path.join("golden.json").is_file()).collect();
    adapters.sort();
    adapters
}

fn golden(adapter: &Path) -> Golden {
    serde_json::from_str(&fs::read_to_string(adapter.join("golden.json")).unwrap()).unwrap()
}

fn engine(base: &Path, adapter: Option<&Path>) -> Result<DecoderEngine> {
    let options = LoadOptions { dtype: Some("f32"), adapter, ..LoadOptions::default() };
    load_decoder(base, &options, DeviceChoice::Cpu, None)
}

fn batch(golden: &Golden) -> Vec<Prompt> {
    golden.prompts.iter().map(|ids| Prompt { text: String::new(), ids: ids.clone() }).collect()
}

#[test]
fn a_merged_model_answers_as_pefts_merged_model() {
    let adapters = adapters();
    assert!(adapters.len() >= 19, "{}", adapters.len());
    for adapter in adapters {
        let golden = golden(&adapter);
        let name = adapter.file_name().unwrap().display();
        let mut engine = engine(&adapter.join(&golden.base), Some(&adapter)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let logits = engine.prompt_logits(&batch(&golden)).unwrap();
        for (row, (ours, theirs)) in logits.iter().zip(&golden.prompt_logits).enumerate() {
            let scale = theirs.iter().fold(0f32, |largest, logit| largest.max(logit.abs()));
            let error = ours.iter().zip(theirs).fold(0f32, |largest, (a, b)| largest.max((a - b).abs()));
            assert!(error <= 1e-4 * scale, "{name}, row {row}: off by {error} of {scale}");
        }
        let options = GenerateOptions::greedy(STEPS, OutputLength::Natural);
        for (row, answer) in engine.generate(&batch(&golden), options).unwrap().iter().enumerate() {
            let greedy = &golden.greedy[row];
            let end = greedy.iter().position(|id| golden.eos_ids.contains(id)).map_or(greedy.len(), |at| at + 1);
            assert_eq!(answer.ids, greedy[..end], "{name}, row {row}");
        }
    }
}

#[test]
fn an_adapter_fits_a_checkpoint_whose_names_lack_the_prefix() {
    let adapter = folder().join("lora_gpt2");
    let golden = golden(&adapter);
    let (base, bare) = (adapter.join(&golden.base), Folder::new());
    for name in ["config.json", "generation_config.json"] {
        fs::copy(base.join(name), bare.path(name)).unwrap();
    }
    let bytes = fs::read(base.join("model.safetensors")).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap().replace("\"transformer.", "\"");
    let header = format!("{:1$}", header.trim_end(), header.trim_end().len().next_multiple_of(8));
    let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &bytes[8 + length..]].concat();
    fs::write(bare.path("model.safetensors"), file).unwrap();
    let mut engine = engine(&bare.0, Some(&adapter)).unwrap();
    let answers = engine.generate(&batch(&golden), GenerateOptions::greedy(STEPS, OutputLength::Fixed)).unwrap();
    assert_eq!(answers[0].ids[0], golden.greedy[0][0]);
    let logits = engine.prompt_logits(&batch(&golden)).unwrap();
    let close = |(ours, theirs): (&f32, &f32)| (ours - theirs).abs() < 1e-3;
    assert!(logits[0].iter().zip(&golden.prompt_logits[0]).all(close));
}

#[test]
fn the_record_says_what_was_merged() {
    let adapter = folder().join("rslora");
    let base = adapter.join(golden(&adapter).base);
    let info = engine(&base, Some(&adapter)).unwrap().info().clone();
    assert!(info.notes.iter().any(|note| note.starts_with("rsLoRA adapter merged in f32: rank")), "{:?}", info.notes);
    assert!(info.files.contains_key("adapter_model.safetensors") && info.files.contains_key("adapter_config.json"));
    let plain = engine(&base, None).unwrap();
    assert_eq!(info.parameters, plain.info().parameters, "a merged adapter adds nothing");
}

#[test]
fn an_adapter_that_unties_the_output_layer_adds_its_parameters() {
    let adapter = folder().join("saved_head_tied");
    let base = adapter.join(golden(&adapter).base);
    let options = LoadOptions { adapter: Some(&adapter), ..LoadOptions::default() };
    let (plain, merged) = (inspect(&base, &LoadOptions::default()).unwrap(), inspect(&base, &options).unwrap());
    assert_eq!(merged.parameters - plain.parameters, 300 * 48);
}

#[test]
fn an_adapter_of_another_model_is_an_error_that_names_its_base() {
    let adapter = folder().join("lora_gpt2");
    let error = engine(&common::repository().join("tests/golden/mha_untied"), Some(&adapter)).err().unwrap();
    assert!(error.message().contains("belongs to nothing in the base model"), "{error}");
    let options = LoadOptions { adapter: Some(&adapter), ..LoadOptions::default() };
    let inspected = inspect(&common::repository().join("tests/golden/mha_untied"), &options).err().unwrap();
    assert_eq!(inspected.message(), error.message(), "it is known before anything is loaded");
}

#[test]
fn a_folder_without_an_adapter_says_what_is_expected() {
    let empty = Folder::new();
    let error = engine(&common::repository().join("tests/golden/mha_untied"), Some(&empty.0)).err().unwrap();
    assert!(error.message().contains("has no `adapter_config.json`"), "{error}");
    assert!(error.hint().is_some());
}
