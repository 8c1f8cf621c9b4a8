//! The decoder against Hugging Face transformers: tests/golden/ holds tiny random models and what transformers makes of
//! them in f32 on the CPU (scripts/make_goldens.py).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ept_sweep::engine::generate::DecoderEngine;
use ept_sweep::engine::load::{DeviceChoice, LoadOptions, inspect, load_decoder};
use ept_sweep::engine::{Engine, GenerateOptions, Generation, Kernels, Prompt};
use ept_sweep::record::{Finish, OutputLength};
use ept_sweep::text::Tokenizer;
use serde::Deserialize;

#[path = "golden/malformed.rs"]
mod malformed;

const MODELS: [&str; 11] = [
    "biases",
    "gqa_tied",
    "mha_untied",
    "mistral",
    "rope_linear",
    "rope_llama3",
    "several_eos",
    "sharded",
    "stored_bf16",
    "stored_f16",
    "wide_heads",
];
const STEPS: usize = 32;
const BOTH_KERNELS: [Kernels; 2] = [Kernels::Cpu, Kernels::Stock];

/// The fastest operations that there are, and the plain ones.
#[cfg(feature = "cuda")]
const ON_A_GPU: [Option<Kernels>; 2] = [None, Some(Kernels::Stock)];

/// Logit differences that two orders of summing can make in f16.
const F16_NOISE: f32 = 0.1;

#[derive(Deserialize)]
struct Golden {
    prompts: Vec<Vec<u32>>,
    eos_ids: Vec<u32>,
    greedy: Vec<Vec<u32>>,
    margins: Vec<Vec<f32>>,
    prompt_logits: Vec<Vec<f32>>,
    fixed: Vec<Vec<u32>>,
    natural_lengths: Vec<Option<usize>>,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn golden(name: &str) -> Golden {
    let text = std::fs::read_to_string(folder(name).join("golden.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn engine(name: &str, dtype: &str, kernels: Kernels) -> DecoderEngine {
    let options = LoadOptions { dtype: Some(dtype), ..LoadOptions::default() };
    load_decoder(&folder(name), &options, DeviceChoice::Cpu, Some(kernels)).unwrap()
}

fn prompts(ids: &[Vec<u32>]) -> Vec<Prompt> {
    ids.iter().map(|ids| Prompt { text: String::new(), ids: ids.clone() }).collect()
}

fn generate(engine: &mut DecoderEngine, batch: &[Prompt], length: OutputLength) -> Vec<Generation> {
    engine.generate(batch, GenerateOptions::greedy(STEPS, length)).unwrap()
}

/// A row of the reference up to and with its first end-of-sequence token.
fn until_eos(row: &[u32], eos: &[u32]) -> Vec<u32> {
    let end = row.iter().position(|id| eos.contains(id)).map_or(row.len(), |at| at + 1);
    row[..end].to_vec()
}

#[test]
fn every_golden_model_is_tested() {
    let folders = std::fs::read_dir(folder("")).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<String> = folders
        .filter(|path| path.join("golden.json").is_file() && path.join("config.json").is_file())
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, MODELS);
}

#[test]
fn prompt_logits_of_a_padded_batch_are_those_of_transformers() {
    for name in MODELS {
        let golden = golden(name);
        for kernels in BOTH_KERNELS {
            let logits = engine(name, "f32", kernels).prompt_logits(&prompts(&golden.prompts)).unwrap();
            for (row, (ours, theirs)) in logits.iter().zip(&golden.prompt_logits).enumerate() {
                let scale = theirs.iter().fold(0f32, |largest, logit| largest.max(logit.abs()));
                let error = ours.iter().zip(theirs).fold(0f32, |largest, (a, b)| largest.max((a - b).abs()));
                assert!(error <= 1e-4 * scale, "{name}, {kernels:?}, row {row}: off by {error} of {scale}");
            }
        }
    }
}

#[test]
fn a_natural_answer_is_the_greedy_answer_of_transformers_up_to_any_end_of_sequence() {
    for name in MODELS {
        let golden = golden(name);
        for kernels in BOTH_KERNELS {
            let batch = prompts(&golden.prompts);
            let answers = generate(&mut engine(name, "f32", kernels), &batch, OutputLength::Natural);
            for (row, (answer, greedy)) in answers.iter().zip(&golden.greedy).enumerate() {
                let expected = until_eos(greedy, &golden.eos_ids);
                assert_eq!(answer.ids, expected, "{name}, {kernels:?}, row {row}");
                let ended = golden.eos_ids.contains(expected.last().unwrap());
                assert_eq!(answer.finish, if ended { Finish::Eos } else { Finish::Length }, "{name}, row {row}");
                assert_eq!(answer.natural_length, None);
            }
        }
    }
}

#[test]
fn a_fixed_answer_goes_to_the_limit_and_records_where_it_would_have_ended() {
    for name in MODELS {
        let golden = golden(name);
        assert!(golden.natural_lengths.iter().any(Option::is_some), "{name} never ends by itself");
        for kernels in BOTH_KERNELS {
            let batch = prompts(&golden.prompts);
            let answers = generate(&mut engine(name, "f32", kernels), &batch, OutputLength::Fixed);
            for (row, answer) in answers.iter().enumerate() {
                assert_eq!(answer.ids, golden.fixed[row], "{name}, {kernels:?}, row {row}");
                assert_eq!(answer.natural_length, golden.natural_lengths[row], "{name}, {kernels:?}, row {row}");
                assert_eq!(answer.finish, Finish::Length);
            }
        }
    }
}

#[test]
fn a_batch_gives_the_same_answers_as_its_prompts_one_at_a_time() {
    for name in MODELS {
        for kernels in BOTH_KERNELS {
            let mut engine = engine(name, "f32", kernels);
            let batch = prompts(&golden(name).prompts);
            let together = generate(&mut engine, &batch, OutputLength::Fixed);
            for (row, prompt) in batch.iter().enumerate() {
                let alone = generate(&mut engine, std::slice::from_ref(prompt), OutputLength::Fixed);
                assert_eq!(alone[0], together[row], "{name}, {kernels:?}, row {row}");
            }
        }
    }
}

#[test]
fn a_row_has_the_same_logits_bit_for_bit_in_any_batch() {
    for name in MODELS {
        let mut engine = engine(name, "f32", Kernels::Cpu);
        let batch = prompts(&golden(name).prompts);
        let together = engine.prompt_logits(&batch).unwrap();
        for (row, prompt) in batch.iter().enumerate() {
            let alone = engine.prompt_logits(std::slice::from_ref(prompt)).unwrap();
            assert!(alone[0] == together[row], "{name}, row {row}");
        }
    }
}

/// Runs where this build can use a GPU and there is one.
#[cfg(feature = "cuda")]
#[test]
fn a_gpu_gives_the_answers_of_transformers() {
    if DeviceChoice::Auto.gpu_index().is_none() {
        return;
    }
    for name in MODELS {
        let golden = golden(name);
        for kernels in ON_A_GPU {
            let options = LoadOptions { dtype: Some("f32"), ..LoadOptions::default() };
            let mut engine = load_decoder(&folder(name), &options, DeviceChoice::Cuda(0), kernels).unwrap();
            let batch = prompts(&golden.prompts);
            for (row, answer) in generate(&mut engine, &batch, OutputLength::Natural).iter().enumerate() {
                let expected = until_eos(&golden.greedy[row], &golden.eos_ids);
                assert_eq!(answer.ids, expected, "{name}, {kernels:?}, row {row}");
            }
            for (row, answer) in generate(&mut engine, &batch, OutputLength::Fixed).iter().enumerate() {
                assert_eq!(answer.ids, golden.fixed[row], "{name}, {kernels:?}, row {row}");
                assert_eq!(answer.natural_length, golden.natural_lengths[row], "{name}, {kernels:?}, row {row}");
            }
        }
    }
}

/// Runs where this build can use a GPU and there is one.
#[cfg(feature = "cuda")]
#[test]
fn a_gpu_gives_a_row_the_same_answer_in_a_batch_and_alone_on_both_paths() {
    if DeviceChoice::Auto.gpu_index().is_none() {
        return;
    }
    for name in MODELS {
        for kernels in ON_A_GPU {
            let options = LoadOptions { dtype: Some("f32"), ..LoadOptions::default() };
            let mut engine = load_decoder(&folder(name), &options, DeviceChoice::Cuda(0), kernels).unwrap();
            let batch = prompts(&golden(name).prompts);
            let together = generate(&mut engine, &batch, OutputLength::Fixed);
            for (row, prompt) in batch.iter().enumerate() {
                let alone = generate(&mut engine, std::slice::from_ref(prompt), OutputLength::Fixed);
                assert_eq!(alone[0], together[row], "{name}, {kernels:?}, row {row}");
            }
        }
    }
}

#[test]
fn f16_agrees_with_transformers_until_a_margin_is_within_its_noise() {
    for name in MODELS {
        let golden = golden(name);
        let answers =
            generate(&mut engine(name, "f16", Kernels::Stock), &prompts(&golden.prompts), OutputLength::Natural);
        let mut compared = 0;
        for (row, answer) in answers.iter().enumerate() {
            let margins = &golden.margins[row];
            let clear = margins.iter().position(|margin| *margin < F16_NOISE).unwrap_or(STEPS).min(answer.ids.len());
            assert_eq!(answer.ids[..clear], golden.greedy[row][..clear], "{name}, row {row}");
            compared += clear;
        }
        assert!(compared > 0, "{name} has no step with a clear margin");
    }
}

#[test]
fn a_model_says_what_it_is_before_and_after_loading() {
    let summary = inspect(&folder("mha_untied"), &LoadOptions::default()).unwrap();
    let layer = 4 * 32 * 32 + 3 * 32 * 48 + 2 * 32;
    assert_eq!(summary.parameters, 2 * layer + 2 * 300 * 32 + 32);
    assert_eq!((summary.max_positions, summary.vocab_size, summary.layers), (256, 300, 2));
    assert_eq!(summary.weight_bytes("bf16"), 2 * summary.parameters);
    assert_eq!(summary.kv_bytes(8, 10, "f32"), 8 * 10 * 2 * 2 * 32 * 4);

    let untied = engine("mha_untied", "f32", Kernels::Cpu).info().clone();
    assert_eq!(untied.parameters, Some(summary.parameters));
    assert_eq!(untied.weight_bytes, Some(4 * (summary.parameters - 300 * 32)), "the embedding table is only looked up");
    assert_eq!((untied.device.as_str(), untied.engine.as_str()), ("cpu", "decoder"));
    assert_eq!(untied.files.keys().collect::<Vec<_>>(), ["config.json", "generation_config.json", "model.safetensors"]);

    let tied = engine("gqa_tied", "f16", Kernels::Stock).info().clone();
    assert_eq!(tied.weight_bytes, Some(2 * tied.parameters.unwrap()));
}

#[test]
fn bf16_is_upcast_on_the_cpu_and_that_is_noted() {
    let options = LoadOptions::default();
    let engine = load_decoder(&folder("stored_bf16"), &options, DeviceChoice::Cpu, None).unwrap();
    assert_eq!((engine.info().dtype.as_str(), engine.info().stored_dtype.as_deref()), ("f32", Some("bf16")));
    assert!(engine.info().notes[0].starts_with("bf16 upcast to f32 on the CPU"), "{:?}", engine.info().notes);
}

#[test]
fn weights_stored_in_f16_run_in_f32_on_the_cpu_unless_f16_is_asked_for() {
    let noted = |dtype| {
        let options = LoadOptions { dtype, ..LoadOptions::default() };
        let info = load_decoder(&folder("stored_f16"), &options, DeviceChoice::Cpu, None).unwrap().info().clone();
        (info.dtype, info.notes.join("; "))
    };
    let (stored, asked) = (noted(None), noted(Some("f16")));
    assert!(stored.0 == "f32" && stored.1.contains("f16 upcast to f32 on the CPU"), "{stored:?}");
    assert!(asked.0 == "f16" && asked.1.contains("many times slower"), "{asked:?}");
}

/// What transformers makes of the bundled models.
#[derive(Deserialize)]
struct Bundled {
    folder: String,
    texts: Vec<String>,
    models: BTreeMap<String, BundledModel>,
}

#[derive(Deserialize)]
struct BundledModel {
    prompts: Vec<Vec<u32>>,
    greedy: Vec<Vec<u32>>,
    margins: Vec<Vec<f32>>,
    answers: Vec<String>,
}

/// Margins below this may fall either way in f32: other orders of summing.
const F32_NOISE: f32 = 1e-3;

#[test]
fn the_bundled_models_answer_as_in_transformers() {
    let text = std::fs::read_to_string(folder("bundled.json")).unwrap();
    let bundled: Bundled = serde_json::from_str(&text).unwrap();
    for (name, model) in &bundled.models {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(&bundled.folder).join(name);
        let tokenizer = Tokenizer::load(&path).unwrap();
        let ids: Vec<Vec<u32>> = bundled.texts.iter().map(|text| tokenizer.encode(text).unwrap()).collect();
        assert_eq!(ids, model.prompts, "{name}: token ids of the prompts");

        let options = LoadOptions { dtype: Some("f32"), ..LoadOptions::default() };
        let mut engine = load_decoder(&path, &options, DeviceChoice::Cpu, None).unwrap();
        let answers = generate(&mut engine, &prompts(&ids), OutputLength::Natural);
        for (row, answer) in answers.iter().enumerate() {
            let unclear = model.margins[row].iter().position(|margin| *margin < F32_NOISE);
            match unclear {
                Some(step) => assert_eq!(answer.ids[..step], model.greedy[row][..step], "{name}, row {row}"),
                None => {
                    assert_eq!(answer.ids, model.greedy[row], "{name}, row {row}");
                    assert_eq!(tokenizer.decode(&answer.ids).unwrap(), model.answers[row], "{name}, row {row}");
                }
            }
        }
    }
}
