//! Every family of architectures that the decoder runs, against Hugging Face transformers in f32 on the CPU:
//! tests/golden/families/ holds configs of tiny random models and what transformers makes of them
//! (scripts/make_family_goldens.py). Weights follow from a rule on both sides.

mod common;

use std::collections::BTreeSet;

use common::Folder;
use common::generated::Golden;
use ept_sweep::engine::generate::DecoderEngine;
use ept_sweep::engine::load::{DeviceChoice, LoadOptions, load_decoder};
use ept_sweep::engine::{Engine, GenerateOptions, Kernels, Prompt};
#[cfg(feature = "cuda")]
use ept_sweep::record::KernelsUsed;
use ept_sweep::record::{Decoding, OutputLength};
use serde_json::Value;

const STEPS: usize = 32;
const BOTH_KERNELS: [Kernels; 2] = [Kernels::Cpu, Kernels::Stock];

/// The fastest operations that there are, and the plain ones.
#[cfg(feature = "cuda")]
const ON_A_GPU: [Option<Kernels>; 2] = [None, Some(Kernels::Stock)];

/// Largest difference of a logit, relative to the largest of its row.
const TOLERANCE: f32 = 1e-4;

/// Families with at least two goldens each.
const FAMILIES: [&str; 27] = [
    "cohere",
    "cohere2",
    "falcon",
    "gemma",
    "gemma2",
    "gemma3_text",
    "glm",
    "glm4",
    "gpt2",
    "gpt_neox",
    "granite",
    "llama",
    "mistral",
    "mixtral",
    "olmo",
    "olmo2",
    "olmoe",
    "opt",
    "phi",
    "phi3",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "smollm3",
    "stablelm",
    "starcoder2",
];

fn goldens() -> Vec<Golden> {
    Golden::all("families")
}

fn engine(folder: &Folder, kernels: Kernels) -> DecoderEngine {
    let options = LoadOptions { dtype: Some("f32"), ..LoadOptions::default() };
    load_decoder(&folder.0, &options, DeviceChoice::Cpu, Some(kernels)).unwrap_or_else(|error| panic!("{error}"))
}

/// The prompts as the reference ran them: side by side, or one at a time where its batches depend on their longest row.
fn batches(golden: &Golden) -> Vec<(usize, Vec<Prompt>)> {
    match golden.rows.as_deref() {
        Some("alone") => golden.batch().into_iter().map(|prompt| vec![prompt]).enumerate().collect(),
        _ => vec![(0, golden.batch())],
    }
}

fn check_logits(golden: &Golden, engine: &mut DecoderEngine, what: &str) {
    for (first, batch) in batches(golden) {
        for (row, logits) in engine.prompt_logits(&batch).unwrap().iter().enumerate() {
            let error = golden.logit_error(first + row, logits);
            assert!(error <= TOLERANCE, "{}, {what}, row {}: off by {error}", golden.name, first + row);
        }
    }
}

fn check_answers(golden: &Golden, engine: &mut DecoderEngine, what: &str) {
    for length in [OutputLength::Natural, OutputLength::Fixed] {
        for (first, batch) in batches(golden) {
            let options = GenerateOptions { max_new_tokens: STEPS, length, decoding: Decoding::Greedy };
            for (row, answer) in engine.generate(&batch, options).unwrap().iter().enumerate() {
                let row = first + row;
                let place = format!("{}, {what}, row {row}", golden.name);
                match length {
                    OutputLength::Natural => assert_eq!(answer.ids, golden.natural(row), "{place}"),
                    OutputLength::Fixed => {
                        assert_eq!(answer.ids, golden.fixed[row], "{place}");
                        assert_eq!(answer.natural_length, golden.natural_lengths[row], "{place}");
                    }
                }
            }
        }
    }
}

#[test]
fn every_family_has_at_least_two_goldens() {
    let goldens = goldens();
    for family in FAMILIES {
        let of = |golden: &&Golden| golden.config["model_type"] == family;
        assert!(goldens.iter().filter(of).count() >= 2, "{family}");
    }
}

#[test]
fn logits_of_a_padded_batch_are_those_of_transformers() {
    for golden in goldens() {
        let folder = golden.model();
        for kernels in BOTH_KERNELS {
            check_logits(&golden, &mut engine(&folder, kernels), &format!("{kernels:?}"));
        }
    }
}

#[test]
fn greedy_tokens_of_a_padded_batch_are_those_of_transformers() {
    for golden in goldens() {
        let folder = golden.model();
        for kernels in BOTH_KERNELS {
            check_answers(&golden, &mut engine(&folder, kernels), &format!("{kernels:?}"));
        }
    }
}

#[test]
fn a_config_in_the_spelling_of_transformers_4_means_the_same() {
    let mut families = BTreeSet::new();
    for golden in goldens() {
        let Some(config) = &golden.spelling4 else { continue };
        families.insert(golden.config["model_type"].to_string());
        let folder = golden.model();
        folder.write("config.json", &serde_json::to_string(config).unwrap());
        let mut engine = engine(&folder, Kernels::Cpu);
        check_logits(&golden, &mut engine, "spelling 4");
        check_answers(&golden, &mut engine, "spelling 4");
    }
    assert!(families.len() >= 20, "{families:?}");
}

#[test]
fn a_checkpoint_of_the_inner_model_alone_is_read_without_the_prefix_of_its_names() {
    let mut seen = 0;
    for mut golden in goldens() {
        let Some(prefix) = golden.alternative.get("without_prefix").and_then(Value::as_str) else { continue };
        let prefix = prefix.to_owned();
        seen += 1;
        for rule in &mut golden.tensors {
            rule.0 = rule.0.strip_prefix(&prefix).unwrap_or(&rule.0).to_owned();
        }
        let folder = golden.model();
        check_logits(&golden, &mut engine(&folder, Kernels::Cpu), "without prefix");
    }
    assert!(seen >= 2);
}

#[test]
fn layers_spread_over_several_devices_give_the_same_answers() {
    let spread = ["falcon_alibi", "gemma2", "gpt2", "mixtral", "opt_norm_after", "phi3_longrope", "smollm3"];
    for golden in goldens().iter().filter(|golden| spread.iter().any(|name| golden.name.starts_with(name))) {
        let folder = golden.model();
        for kernels in BOTH_KERNELS {
            let more =
                golden.config.get("num_hidden_layers").and_then(Value::as_u64).map_or(1, |layers| layers as usize - 1);
            let more_devices = vec![DeviceChoice::Cpu; more];
            let options = LoadOptions { dtype: Some("f32"), more_devices, ..LoadOptions::default() };
            let mut engine = load_decoder(&folder.0, &options, DeviceChoice::Cpu, Some(kernels)).unwrap();
            assert_eq!(engine.info().device, vec!["cpu"; more + 1].join(", "));
            check_logits(golden, &mut engine, "spread");
            check_answers(golden, &mut engine, "spread");
        }
    }
}

#[test]
fn long_prompts_in_blocks_of_queries_give_the_same_answers() {
    for golden in goldens() {
        let mut engine = engine(&golden.model(), Kernels::Stock);
        // four queries at a time of the longest row of four heads, and later one at a time
        engine.limit_scores(4 * 4 * 4 * 12);
        check_logits(&golden, &mut engine, "in blocks");
    }
    for name in ["gemma2_caps_windows", "falcon_alibi_six_heads", "phi3_longrope_crossing_while_generating"] {
        let golden = Golden::read(&format!("families/{name}.json"));
        let mut engine = engine(&golden.model(), Kernels::Stock);
        engine.limit_scores(1);
        check_answers(&golden, &mut engine, "one query at a time");
    }
}

#[test]
fn a_stored_attention_mask_as_in_pythia_is_passed_over() {
    let golden = Golden::read("families/gpt_neox_parallel.json");
    let folder = golden.model();
    let file = folder.path("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let mut data = bytes[8 + length..].to_vec();
    let offsets = [data.len(), data.len() + 4];
    data.extend([1; 4]);
    let mask = serde_json::json!({"dtype": "BOOL", "shape": [1, 1, 2, 2], "data_offsets": offsets});
    header.insert("gpt_neox.layers.0.attention.bias".to_owned(), mask);
    let header = Value::Object(header).to_string();
    std::fs::write(&file, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()).unwrap();
    check_logits(&golden, &mut engine(&folder, Kernels::Cpu), "with a mask");
}

#[test]
fn more_devices_than_layers_are_refused() {
    let golden = &goldens()[0];
    let more_devices = vec![DeviceChoice::Cpu; golden.config["num_hidden_layers"].as_u64().unwrap() as usize];
    let options = LoadOptions { more_devices, ..LoadOptions::default() };
    let error = load_decoder(&golden.model().0, &options, DeviceChoice::Cpu, None).err().unwrap();
    assert!(error.message().contains("layers can't be spread over"), "{error}");
}

/// Runs where this build can use a GPU and there is one.
#[cfg(feature = "cuda")]
#[test]
fn a_gpu_gives_the_answers_of_transformers() {
    if DeviceChoice::Auto.gpu_index().is_none() {
        return;
    }
    for golden in goldens() {
        let folder = golden.model();
        for kernels in ON_A_GPU {
            let mut engine = on_a_gpu(&folder, "f32", kernels);
            let what = format!("cuda, {kernels:?}");
            check_logits(&golden, &mut engine, &what);
            check_answers(&golden, &mut engine, &what);
        }
    }
}

#[cfg(feature = "cuda")]
fn on_a_gpu(folder: &Folder, dtype: &str, kernels: Option<Kernels>) -> DecoderEngine {
    let options = LoadOptions { dtype: Some(dtype), ..LoadOptions::default() };
    load_decoder(&folder.0, &options, DeviceChoice::Cuda(0), kernels).unwrap_or_else(|error| panic!("{error}"))
}

/// The largest error of a logit in a batch of the golden's prompts, relative to the largest logit of its row.
#[cfg(feature = "cuda")]
fn worst_logit(golden: &Golden, engine: &mut DecoderEngine) -> f32 {
    let errors = batches(golden).into_iter().flat_map(|(first, batch)| {
        let logits = engine.prompt_logits(&batch).unwrap();
        logits.into_iter().enumerate().map(move |(row, logits)| golden.logit_error(first + row, &logits))
    });
    errors.fold(0.0, f32::max)
}

/// Steps of a natural answer before the first whose two best tokens are closer than the noise of the type.
#[cfg(feature = "cuda")]
fn clear_steps(golden: &Golden, row: usize, noise: f32) -> usize {
    let scale = golden.prompt_logits[row].iter().fold(0f32, |largest, logit| largest.max(logit.abs()));
    let clear = golden.margins[row].iter().position(|margin| *margin < noise * scale).unwrap_or(STEPS);
    clear.min(golden.natural(row).len())
}

/// How far transformers itself is off in half precision on the CPU, by golden and type; null for a golden that it can't run
/// so (scripts/make_half_precision_goldens.py).
#[cfg(feature = "cuda")]
fn half_precision() -> Value {
    let file = common::repository().join("tests/golden/half_precision.json");
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

/// Runs where this build can use a GPU and there is one.
#[cfg(feature = "cuda")]
#[test]
fn a_gpu_agrees_in_half_precision_on_both_paths_until_a_margin_is_within_the_noise_of_the_type() {
    if DeviceChoice::Auto.gpu_index().is_none() {
        return;
    }
    let half_precision = half_precision();
    for dtype in ["bf16", "f16"] {
        let (mut compared, mut off, mut ratios) = (0, Vec::new(), Vec::new());
        for golden in goldens() {
            let folder = golden.model();
            let [mut auto, mut plain] = ON_A_GPU.map(|kernels| on_a_gpu(&folder, dtype, kernels));
            let (ours, theirs) = (worst_logit(&golden, &mut auto), worst_logit(&golden, &mut plain));
            // Both round as the type does, at other places, and a tiny random model can make much of it: transformers
            // itself is off by a third of the largest logit on one of these in bf16.
            ratios.push(ours / theirs.max(TOLERANCE));
            let reference = half_precision[&golden.name][dtype].as_f64().map_or(0.0, |error| error as f32);
            if ours > 2.0 * theirs.max(reference) + TOLERANCE {
                off.push(format!(
                    "{}, {dtype}: off by {ours}, plain by {theirs}, transformers by {reference}",
                    golden.name
                ));
            }
            // either of the two logits of a margin may be off by as much, at later steps perhaps by more
            let noise = 4.0 * ours.max(theirs);
            for (first, batch) in batches(&golden) {
                let options = GenerateOptions::greedy(STEPS, OutputLength::Natural);
                let [auto, plain] = [&mut auto, &mut plain].map(|engine| engine.generate(&batch, options).unwrap());
                for (row, (auto, plain)) in auto.iter().zip(&plain).enumerate() {
                    let clear = clear_steps(&golden, first + row, noise);
                    let place = format!("{}, {dtype}, row {}", golden.name, first + row);
                    assert_eq!(auto.ids[..clear], plain.ids[..clear], "{place}");
                    assert_eq!(auto.ids[..clear], golden.natural(first + row)[..clear], "{place}, transformers");
                    compared += clear;
                }
            }
        }
        assert!(off.is_empty(), "{}", off.join("\n"));
        ratios.sort_by(f32::total_cmp);
        let median = ratios[ratios.len() / 2];
        assert!(median < 1.25, "{dtype}: the errors are {median} times those of the plain operations");
        assert!(compared > 1000, "{dtype}: only {compared} steps have a clear margin");
    }
}

/// Runs where this build can use a GPU and there is one.
#[cfg(feature = "cuda")]
#[test]
fn a_gpu_runs_these_families_whole_on_its_kernels_and_says_of_any_other_why_not() {
    const WHOLE: [&str; 9] =
        ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "qwen3_moe", "smollm3"];
    if DeviceChoice::Auto.gpu_index().is_none() {
        return;
    }
    for golden in goldens() {
        let folder = golden.model();
        let family = golden.config["model_type"].as_str().unwrap();
        for dtype in ["f32", "bf16", "f16"] {
            let auto = on_a_gpu(&folder, dtype, None).info().clone();
            let place = format!("{}, {dtype}: {:?}", golden.name, auto.fallback);
            match auto.kernels {
                Some(KernelsUsed::Gpu) => assert!(auto.fallback.is_empty(), "{place}"),
                other => {
                    assert_eq!(other, Some(KernelsUsed::Plain), "{place}");
                    // the heads of real models of these families are multiples of 8 wide
                    let real = golden.config.get("head_dim").and_then(Value::as_u64).is_none_or(|width| width % 8 == 0);
                    assert!(!auto.fallback.is_empty() && !(real && WHOLE.contains(&family)), "{place}");
                }
            }
            let plain = on_a_gpu(&folder, dtype, Some(Kernels::Stock)).info().clone();
            assert_eq!((plain.kernels, plain.fallback.len()), (Some(KernelsUsed::Plain), 0), "{place}");
        }
    }
}
