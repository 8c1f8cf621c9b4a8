//! The architectures outside the decoder against Hugging Face transformers: tests/golden/library/ holds what
//! transformers makes of tiny models in f32 on the CPU (scripts/make_library_goldens.py).

mod common;

use std::fs;

use common::Folder;
use common::generated::Golden;
use ept_sweep::engine::grouped::GroupedEngine;
use ept_sweep::engine::load::{DeviceChoice, LoadOptions, inspect, load, load_grouped};
use ept_sweep::engine::{Engine, GenerateOptions, Generation, Prompt};
use ept_sweep::error::{Error, Kind};
use ept_sweep::record::{Finish, OutputLength};
use serde_json::{Value, json};

const STEPS: usize = 32;

/// Largest relative difference of a logit that half precision makes in models as small and as wild as these.
const F16_NOISE: f32 = 0.05;

/// Which code runs each golden.
const SUPPORTED: [(&str, &str); 13] = [
    ("deepseek_v2", "latent-attention"),
    ("deepseek_v2_groups", "latent-attention"),
    ("deepseek_v2_yarn", "latent-attention"),
    ("deepseek_v3", "latent-attention"),
    ("falcon_mamba", "state-space"),
    ("granite_moe_hybrid", "candle-transformers"),
    ("lfm2", "candle-transformers"),
    ("mamba", "state-space"),
    ("mamba2", "state-space"),
    ("mamba2_groups", "state-space"),
    ("mamba_shaped", "state-space"),
    ("recurrent_gemma", "candle-transformers"),
    ("rwkv", "rwkv"),
];

fn goldens() -> Vec<Golden> {
    Golden::all("library")
}

fn engine(golden: &Golden, dtype: &str) -> GroupedEngine {
    let options = LoadOptions { dtype: Some(dtype), ..LoadOptions::default() };
    let loaded = load_grouped(&golden.model().0, &options, DeviceChoice::Cpu);
    loaded.unwrap_or_else(|error| panic!("{}: {error}", golden.name))
}

fn generate(engine: &mut GroupedEngine, batch: &[Prompt], length: OutputLength) -> Vec<Generation> {
    generate_steps(engine, batch, length, STEPS)
}

fn generate_steps(
    engine: &mut GroupedEngine,
    batch: &[Prompt],
    length: OutputLength,
    max_new_tokens: usize,
) -> Vec<Generation> {
    engine.generate(batch, GenerateOptions::greedy(max_new_tokens, length)).unwrap()
}

#[test]
fn each_architecture_runs_on_the_code_that_the_record_names() {
    let engines: Vec<(String, String)> =
        goldens().iter().map(|golden| (golden.name.clone(), engine(golden, "f32").info().engine.clone())).collect();
    let expected: Vec<(String, String)> = SUPPORTED.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    assert_eq!(engines, expected);
}

#[test]
fn prompt_logits_are_those_of_transformers() {
    for golden in goldens() {
        let logits = engine(&golden, "f32").prompt_logits(&golden.batch()).unwrap();
        for (row, ours) in logits.iter().enumerate() {
            let error = golden.logit_error(row, ours);
            assert!(error <= 1e-4, "{}, row {row}: off by {error}", golden.name);
        }
    }
}

#[test]
fn a_natural_answer_is_the_greedy_answer_of_transformers_up_to_its_end() {
    for golden in goldens() {
        let answers = generate(&mut engine(&golden, "f32"), &golden.batch(), OutputLength::Natural);
        for (row, answer) in answers.iter().enumerate() {
            assert_eq!(answer.ids, golden.natural(row), "{}, row {row}", golden.name);
            let finish = if golden.natural_length(row).is_some() { Finish::Eos } else { Finish::Length };
            assert_eq!((answer.finish, answer.natural_length), (finish, None), "{}, row {row}", golden.name);
        }
    }
}

#[test]
fn all_greedy_tokens_are_those_of_transformers_where_nothing_ends_a_sequence() {
    for golden in goldens() {
        let unending = Golden { eos_ids: vec![], ..golden };
        let answers = generate(&mut engine(&unending, "f32"), &unending.batch(), OutputLength::Natural);
        for (row, answer) in answers.iter().enumerate() {
            assert_eq!(answer.ids, unending.greedy[row], "{}, row {row}", unending.name);
        }
    }
}

#[test]
fn a_fixed_answer_goes_to_the_limit_and_records_where_it_would_have_ended() {
    for golden in goldens() {
        let answers = generate(&mut engine(&golden, "f32"), &golden.batch(), OutputLength::Fixed);
        for (row, answer) in answers.iter().enumerate() {
            assert_eq!((answer.ids.len(), answer.finish), (STEPS, Finish::Length), "{}, row {row}", golden.name);
            assert!(!answer.ids.iter().any(|id| golden.eos_ids.contains(id)), "{}, row {row}", golden.name);
            if let Some(end) = golden.natural_length(row) {
                assert_eq!(answer.natural_length, Some(end), "{}, row {row}", golden.name);
                assert_eq!(answer.ids[..end - 1], golden.greedy[row][..end - 1], "{}, row {row}", golden.name);
            } else {
                assert_eq!(answer.ids, golden.greedy[row], "{}, row {row}", golden.name);
            }
        }
    }
}

#[test]
fn a_batch_gives_the_same_answers_as_its_prompts_one_at_a_time_and_again() {
    for golden in goldens() {
        let mut engine = engine(&golden, "f32");
        let batch = golden.batch();
        let together = generate_steps(&mut engine, &batch, OutputLength::Fixed, 8);
        for (row, prompt) in batch.iter().enumerate() {
            let alone = generate_steps(&mut engine, std::slice::from_ref(prompt), OutputLength::Fixed, 8);
            assert_eq!(alone[0], together[row], "{}, row {row}", golden.name);
        }
        assert_eq!(generate_steps(&mut engine, &batch, OutputLength::Fixed, 8), together, "{}", golden.name);
    }
}

#[test]
fn half_precision_stays_near_transformers_or_is_refused() {
    for golden in goldens() {
        let folder = golden.model();
        let options = LoadOptions { dtype: Some("f16"), ..LoadOptions::default() };
        let only_f32 = inspect(&folder.0, &LoadOptions::default()).unwrap().only_dtype == Some("f32");
        match load_grouped(&folder.0, &options, DeviceChoice::Cpu) {
            Ok(mut engine) => {
                assert!(!only_f32, "{}", golden.name);
                for (row, ours) in engine.prompt_logits(&golden.batch()).unwrap().iter().enumerate() {
                    let error = golden.logit_error(row, ours);
                    assert!(error <= F16_NOISE, "{}, row {row}: off by {error}", golden.name);
                }
            }
            Err(error) => {
                assert!(only_f32, "{}: {error}", golden.name);
                assert!(error.message().contains("can't run in `f16`"), "{error}");
                assert_eq!(error.hint(), Some("set `dtype: f32`"));
            }
        }
    }
}

#[test]
fn a_model_says_what_it_is_before_and_after_loading() {
    for golden in goldens() {
        let folder = golden.model();
        let summary = inspect(&folder.0, &LoadOptions::default()).unwrap();
        let count: u64 = golden.tensors.iter().map(|rule| rule.1.iter().product::<usize>() as u64).sum();
        assert_eq!(summary.parameters, count, "{}", golden.name);
        let info = load(&folder.0, &LoadOptions::default(), DeviceChoice::Cpu).unwrap().info().clone();
        assert_eq!(info.parameters, Some(count), "{}", golden.name);
        assert_eq!(info.architecture, summary.architecture);
        assert!(info.is_grouped(), "{}: {:?}", golden.name, info.notes);
        assert_eq!(
            info.files.keys().collect::<Vec<_>>(),
            ["config.json", "generation_config.json", "model.safetensors"]
        );
        assert_eq!(info.weight_bytes.is_none(), golden.name.starts_with("deepseek"), "{}", golden.name);
    }
}

#[test]
fn the_cache_is_sized_by_what_is_kept_of_a_token() {
    let per_token = |name: &str| {
        inspect(&Golden::read(&format!("library/{name}.json")).model().0, &LoadOptions::default()).unwrap()
    };
    assert_eq!(per_token("mamba").kv_bytes(8, 100, "f32"), 0);
    assert_eq!(per_token("mamba").max_positions, usize::MAX);
    // one layer of attention with one head of 12
    assert_eq!(per_token("recurrent_gemma").kv_bytes(1, 1, "f32"), 4 * 2 * 12);
    // one layer of attention with two heads of 12
    assert_eq!(per_token("lfm2").kv_bytes(1, 1, "f32"), 4 * 2 * 2 * 12);
    // three layers with a latent of 20 and a rotated key of 8
    assert_eq!(per_token("deepseek_v3").kv_bytes(1, 1, "f32"), 4 * 3 * 28);
}

/// The error of loading a model with a changed `config.json`, after checking that inspecting gives the same.
fn refused(name: &str, changes: Value) -> Error {
    let golden = Golden::read(&format!("library/{name}.json"));
    let folder = golden.model();
    let mut config = golden.config;
    config.extend(changes.as_object().unwrap().clone());
    folder.write("config.json", &Value::Object(config).to_string());
    error_of(&folder)
}

fn error_of(folder: &Folder) -> Error {
    let error = load(&folder.0, &LoadOptions::default(), DeviceChoice::Cpu).err().expect("it loads");
    assert_eq!(inspect(&folder.0, &LoadOptions::default()).err().as_ref(), Some(&error));
    assert_eq!(error.kind(), Kind::Input, "{error}");
    error
}

#[test]
fn what_the_code_computes_otherwise_is_refused_by_field() {
    let cases = [
        (
            "granite_moe_hybrid",
            json!({"layer_types": ["mamba", "attention"]}),
            "`layer_types`: `mamba` isn't supported",
        ),
        ("granite_moe_hybrid", json!({"num_local_experts": 4}), "`num_local_experts`: `4` isn't supported; `0` is"),
        (
            "granite_moe_hybrid",
            json!({"position_embedding_type": null}),
            "`position_embedding_type`: `none` isn't supported",
        ),
        ("granite_moe_hybrid", json!({"num_hidden_layers": 3}), "`layer_types`: names 2 layers, not 3"),
        ("lfm2", json!({"conv_bias": true}), "`conv_bias`: `true` isn't supported"),
        ("mamba2", json!({"time_step_limit": [0.1, 1.0]}), "`time_step_limit`: from `0.1` to `1.0` isn't supported"),
        ("mamba2", json!({"n_groups": 3}), "`n_groups`: 3 doesn't divide 4"),
        ("recurrent_gemma", json!({"block_types": ["mamba"]}), "`block_types`: `\"mamba\"` isn't supported"),
        ("deepseek_v2", json!({"norm_topk_prob": true}), "`norm_topk_prob`: `true` isn't supported"),
        ("deepseek_v3", json!({"n_group": 3}), "`n_group`: 3 doesn't divide 8"),
        ("deepseek_v3", json!({"num_experts_per_tok": 5}), "`num_experts_per_tok`: 5 of 4 experts can't be chosen"),
        (
            "mamba",
            json!({"quantization_config": {"bits": 4}}),
            "`quantization_config`: quantised safetensors aren't supported",
        ),
        ("mamba", json!({"hidden_size": "wide"}), "`hidden_size`: `\"wide\"` isn't a positive whole number"),
        ("deepseek_v3", json!({"max_position_embeddings": 1 << 29}), "`max_position_embeddings`: more than 1048576"),
    ];
    for (name, changes, expected) in cases {
        let message = refused(name, changes).message().to_owned();
        assert!(message.contains("config.json: ") && message.contains(expected), "{name}: {message}");
    }
}

#[test]
fn weights_that_do_not_belong_to_the_config_are_named() {
    let wide = refused("mamba", json!({"state_size": 8})).message().to_owned();
    assert!(wide.contains("tensor `backbone.layers.0.mixer.x_proj.weight`: has shape [35, 96]"), "{wide}");
    let deep = refused("mamba", json!({"num_hidden_layers": 3})).message().to_owned();
    assert!(deep.contains("tensor `backbone.layers.2.") && deep.contains("is missing"), "{deep}");
    let shallow = refused("mamba", json!({"num_hidden_layers": 1})).message().to_owned();
    assert!(shallow.contains("tensor `backbone.layers.1.") && shallow.contains("isn't part of the model"), "{shallow}");
    let absurd = refused("mamba", json!({"num_hidden_layers": 1_000_000_000})).message().to_owned();
    assert!(absurd.contains("asks for 1000000000 layers or experts"), "{absurd}");
}

#[test]
fn a_stored_copy_of_the_embedding_table_is_no_tensor_too_many() {
    let golden = Golden::read("library/lfm2.json");
    let folder = golden.model();
    let file = folder.path("model.safetensors");
    let bytes = fs::read(&file).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let mut data = bytes[8 + length..].to_vec();
    let table = header["model.embed_tokens.weight"].clone();
    let range = [0, 1].map(|end| table["data_offsets"][end].as_u64().unwrap() as usize);
    let end = data.len() + range[1] - range[0];
    let copy = json!({"dtype": "F32", "shape": table["shape"], "data_offsets": [data.len(), end]});
    data.extend_from_within(range[0]..range[1]);
    header.insert("lm_head.weight".to_owned(), copy);
    let header = Value::Object(header).to_string();
    fs::write(&file, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()).unwrap();
    assert!(inspect(&folder.0, &LoadOptions::default()).is_ok());
    let last = data.len() - 1;
    data[last] ^= 1;
    fs::write(&file, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat()).unwrap();
    assert!(error_of(&folder).message().contains("tensor `lm_head.weight`: isn't part of the model"));
}

#[test]
fn mamba_as_its_authors_store_it_is_the_same_model() {
    let mut golden = Golden::read("library/mamba.json");
    let answers = generate(&mut engine(&golden, "f32"), &golden.batch(), OutputLength::Natural);
    let table = golden.tensors.iter_mut().find(|rule| rule.0 == "backbone.embeddings.weight").unwrap();
    table.0 = "backbone.embedding.weight".to_owned();
    assert_eq!(generate(&mut engine(&golden, "f32"), &golden.batch(), OutputLength::Natural), answers);
}

#[test]
fn prompts_that_the_model_cannot_take_are_errors() {
    let golden = Golden::read("library/granite_moe_hybrid.json");
    let mut engine = engine(&golden, "f32");
    let options = |max_new_tokens| GenerateOptions::greedy(max_new_tokens, OutputLength::Natural);
    let mut error = |ids: Vec<u32>, new| {
        let batch = [Prompt { text: String::new(), ids }];
        engine.generate(&batch, options(new)).unwrap_err().message().to_owned()
    };
    assert!(error(vec![160], 4).contains("token id 160 is outside of the model's vocabulary of 160"));
    assert!(error(vec![5; 100], 29).contains("don't fit the model's 128 positions"));
    assert_eq!(error(vec![5], 0), "`max_new_tokens` has to be at least 1");
}

#[test]
fn an_unknown_architecture_is_refused_with_a_list_of_the_supported_ones() {
    let message = refused("mamba", json!({"architectures": ["JambaForCausalLM"]})).message().to_owned();
    assert!(message.contains("`JambaForCausalLM` isn't supported; supported are `ArceeForCausalLM`"), "{message}");
    assert!(message.contains("`RecurrentGemmaForCausalLM`"), "{message}");
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
        let options = LoadOptions { dtype: Some("f32"), ..LoadOptions::default() };
        let mut engine = load_grouped(&folder.0, &options, DeviceChoice::Cuda(0)).unwrap();
        let answers = generate(&mut engine, &golden.batch(), OutputLength::Natural);
        for (row, answer) in answers.iter().enumerate() {
            assert_eq!(answer.ids, golden.natural(row), "{}, row {row}", golden.name);
        }
    }
}
