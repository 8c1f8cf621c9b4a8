//! The reader against the `gguf` package and transformers (scripts/make_gguf_goldens.py), and what is refused.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Module, Tensor};
use serde_json::Value as Json;

use super::*;
use crate::engine::weights::gguf::config_json::config_json;
use crate::gguf::fixture::{Builder, text};
use crate::text::GgufTokenizer;

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf")
}

fn read_json(path: &Path) -> Json {
    serde_json::from_str(&fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
        .unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1().unwrap()
}

/// Types of `types.gguf` in the order of its layers.
const TYPES: [&str; 15] = [
    "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
    "Q8_K",
];

fn matrix_of_type(index: usize) -> String {
    format!("model.layers.{index}.mlp.down_proj.weight")
}

#[test]
fn every_type_dequantises_to_the_values_of_the_gguf_package() {
    let gguf = Gguf::open(&goldens().join("types.gguf")).unwrap();
    let expected = candle_core::safetensors::load(goldens().join("types.safetensors"), &Device::Cpu).unwrap();
    for (index, kind) in TYPES.iter().enumerate() {
        let name = matrix_of_type(index);
        assert_eq!(gguf.dtype(&name).unwrap().name(), *kind);
        assert_eq!(gguf.shape(&name).unwrap(), [4, 256]);
        let found = values(&gguf.load(&name, DType::F32, &Device::Cpu).unwrap());
        let wanted = values(&expected[*kind]);
        assert_eq!(found.len(), wanted.len());
        let scale = wanted.iter().fold(0f32, |most, value| most.max(value.abs()));
        for (at, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            // a product and a difference, each rounded once, in either order
            assert!((found - wanted).abs() <= 2.0 * f32::EPSILON * scale, "{kind}: {at}: {found} for {wanted}");
        }
    }
}

#[test]
fn a_quantised_product_differs_by_the_rounding_of_the_activations_alone() {
    let gguf = Gguf::open(&goldens().join("types.gguf")).unwrap();
    let expected = candle_core::safetensors::load(goldens().join("types.safetensors"), &Device::Cpu).unwrap();
    let activations = &expected["activations"];
    let mut worst = BTreeMap::new();
    for (index, kind) in TYPES.iter().enumerate() {
        let exact = activations.matmul(&expected[*kind].t().unwrap()).unwrap();
        let product = gguf
            .load_stacked_matmul(&[&matrix_of_type(index)], &Device::Cpu)
            .unwrap()
            .unwrap()
            .forward(activations)
            .unwrap();
        let lengths = |tensor: &Tensor| values(&tensor.sqr().unwrap().sum(1).unwrap().sqrt().unwrap());
        let (rows, columns) = (lengths(activations), lengths(&expected[*kind]));
        let (exact, product) = (values(&exact), values(&product));
        for (at, (exact, product)) in exact.iter().zip(&product).enumerate() {
            let typical = rows[at / 4] * columns[at % 4] / 16.0;
            let error = (exact - product).abs() / typical;
            let most: &mut f32 = worst.entry(*kind).or_default();
            *most = most.max(error);
        }
    }
    for (kind, error) in worst {
        let plain = ["F32", "F16", "BF16", "Q8_1", "Q8_K"].contains(&kind);
        assert!(error < if plain { 1e-5 } else { 0.03 }, "{kind}: {error}");
    }
}

#[test]
fn stacked_matrices_give_the_products_of_each() {
    let gguf = Gguf::open(&goldens().join("llama_q8_0/model.gguf")).unwrap();
    let names = ["q", "k", "v"].map(|part| format!("model.layers.0.self_attn.{part}_proj.weight"));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let x = Tensor::rand(-1f32, 1f32, (3, 32), &Device::Cpu).unwrap();
    let together = gguf.load_stacked_matmul(&names, &Device::Cpu).unwrap().unwrap().forward(&x).unwrap();
    let each =
        names.iter().map(|name| gguf.load_stacked_matmul(&[name], &Device::Cpu).unwrap().unwrap().forward(&x).unwrap());
    let each = Tensor::cat(&each.collect::<Vec<_>>(), 1).unwrap();
    assert_eq!(together.dims(), [3, 32 + 16 + 16]);
    assert_eq!(values(&together), values(&each));
    let types = Gguf::open(&goldens().join("types.gguf")).unwrap();
    let (first, second) = (matrix_of_type(3), matrix_of_type(4));
    assert!(types.load_stacked_matmul(&[&first, &second], &Device::Cpu).unwrap().is_none());
}

#[test]
fn every_familys_tensors_have_the_names_that_transformers_saves() {
    let families = read_json(&goldens().join("names.json"));
    let families = families.as_array().unwrap();
    assert_eq!(families.len(), FAMILIES.len());
    for golden in families {
        let arch = golden["arch"].as_str().unwrap();
        let pairs: Vec<(&str, &str)> = golden["pairs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pair| (pair[0].as_str().unwrap(), pair[1].as_str().unwrap()))
            .collect();
        let layout = Layout {
            heads: 4,
            kv_heads: 2,
            experts: golden["experts"].as_u64().unwrap() as usize,
            two_norms: pairs.iter().any(|(name, _)| name.contains("attn_norm_2")),
        };
        let family = names::find(arch, &layout).unwrap();
        assert_eq!(family.class, golden["class"].as_str().unwrap());
        assert_eq!(family.model_type, golden["model_type"].as_str().unwrap());
        let mut expected: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        for (gguf, hf) in pairs {
            expected.entry(gguf).or_default().insert(hf.to_owned());
        }
        for (gguf, hf) in expected {
            let sources = family.sources(gguf, hf.len(), &layout).unwrap_or_else(|| panic!("{arch}: `{gguf}`"));
            let found: BTreeSet<String> = sources.into_iter().map(|(name, _)| name).collect();
            assert_eq!(found, hf, "{arch}: `{gguf}`");
        }
    }
}

/// Folders with a model.
fn models() -> Vec<(String, Gguf, Json)> {
    let entries = fs::read_dir(goldens()).unwrap().map(|entry| entry.unwrap().path());
    let mut models: Vec<_> = entries
        .filter(|folder| folder.join("golden.json").is_file())
        .map(|folder| {
            let name = folder.file_name().unwrap().to_string_lossy().into_owned();
            let gguf = Gguf::open(&folder.join("model.gguf")).unwrap_or_else(|error| panic!("{error}"));
            (name, gguf, read_json(&folder.join("golden.json")))
        })
        .collect();
    models.sort_by(|left, right| left.0.cmp(&right.0));
    assert!(models.len() >= 13, "only {} models", models.len());
    models
}

#[test]
fn weights_are_those_that_transformers_has() {
    for (model, gguf, golden) in models() {
        let tensors = golden["tensors"].as_object().unwrap();
        let found: BTreeSet<&str> = gguf.names().collect();
        let expected: BTreeSet<&str> = tensors.keys().map(String::as_str).collect();
        assert_eq!(found, expected, "{model}");
        for (name, checks) in tensors {
            let tensor = gguf.load(name, DType::F32, &Device::Cpu).unwrap();
            let shape: Vec<usize> = serde_json::from_value(checks["shape"].clone()).unwrap();
            assert_eq!(tensor.dims(), shape, "{model}: {name}");
            assert_eq!(gguf.shape(name).unwrap(), shape, "{model}: {name}");
            let values = values(&tensor);
            let magnitude: f64 = values.iter().map(|value| f64::from(*value).abs()).sum();
            let typical = magnitude / values.len() as f64;
            let sum: f64 = values.iter().map(|value| f64::from(*value)).sum();
            let near = |found: f64, wanted: f64, scale: f64| (found - wanted).abs() <= 1e-6 * (scale + wanted.abs());
            assert!(near(sum, checks["sum"].as_f64().unwrap(), magnitude), "{model}: {name}: sum {sum}");
            assert!(near(magnitude, checks["abs_sum"].as_f64().unwrap(), 0.0), "{model}: {name}: {magnitude}");
            for (at, wanted) in checks["at"].as_array().unwrap().iter().zip(checks["values"].as_array().unwrap()) {
                let at = at.as_u64().unwrap() as usize;
                let wanted = wanted.as_f64().unwrap();
                assert!(near(values[at].into(), wanted, typical), "{model}: {name}: {at}: {} for {wanted}", values[at]);
            }
        }
    }
}

#[test]
fn the_config_says_what_transformers_config_says() {
    // what a decoder reads; where transformers leaves a default away, the value that it uses
    let keys = [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "moe_intermediate_size",
        "shared_expert_intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "rms_norm_eps",
        "layer_norm_eps",
        "layer_norm_epsilon",
        "norm_epsilon",
        "tie_word_embeddings",
        "bos_token_id",
        "num_local_experts",
        "num_experts",
        "num_experts_per_tok",
        "norm_topk_prob",
        "query_pre_attn_scalar",
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "sliding_window",
        "hidden_activation",
        "attention_bias",
        "mlp_bias",
        "new_decoder_architecture",
        "num_kv_heads",
        "multi_query",
        "num_ln_in_parallel_attn",
        "parallel_attn",
        "use_parallel_residual",
        "n_embd",
        "n_layer",
        "n_head",
        "n_positions",
        "activation_function",
    ];
    for (model, gguf, golden) in models() {
        let config = config_json(&gguf).unwrap();
        assert_eq!(config["architectures"][0], golden["architecture"], "{model}");
        let expected = golden["config"].as_object().unwrap();
        assert_eq!(config["model_type"], expected["model_type"], "{model}");
        for key in keys {
            // these two classes keep an `intermediate_size` that they don't use
            if key == "intermediate_size" && ["falcon", "gpt2"].iter().any(|family| model.starts_with(family)) {
                continue;
            }
            let (Some(found), Some(wanted)) = (config.get(key), expected.get(key)) else { continue };
            let same = match (found.as_f64(), wanted.as_f64()) {
                (Some(found), Some(wanted)) => (found - wanted).abs() <= 1e-12 * wanted.abs(),
                _ => found == wanted,
            };
            assert!(same, "{model}: `{key}`: {found} for {wanted}");
        }
        let ends: Vec<u64> = serde_json::from_value(config["eos_token_id"].clone()).unwrap();
        let expected: Vec<u64> = serde_json::from_value(golden["eos_ids"].clone()).unwrap();
        assert_eq!(ends, expected, "{model}");
        assert_eq!(config.contains_key("rope_theta"), !model.starts_with("gpt2"), "{model}");
    }
}

#[test]
fn llama3_scaling_is_in_the_divisors() {
    let gguf = Gguf::open(&goldens().join("llama3_f16/model.gguf")).unwrap();
    let divisors = gguf.rope_divisors().unwrap().unwrap();
    // head width 8, theta 10000, factor 8 over 32 positions: the shortest wave stays, the longest two are stretched
    assert_eq!(divisors.len(), 4);
    assert_eq!((divisors[0], divisors[2], divisors[3]), (1.0, 8.0, 8.0));
    assert!(divisors[1] > 1.0 && divisors[1] <= 8.0);
    assert!(config_json(&gguf).unwrap().get("rope_scaling").is_none());
    let plain = Gguf::open(&goldens().join("qwen2_q8_0/model.gguf")).unwrap();
    assert_eq!(plain.rope_divisors().unwrap(), None);
}

/// Writes a file and opens it.
fn opened(name: &str, bytes: &[u8]) -> Result<Gguf> {
    let path = std::env::temp_dir().join(format!("ept-sweep-gguf-{}-{name}.gguf", std::process::id()));
    fs::write(&path, bytes).unwrap();
    let gguf = Gguf::open(&path);
    fs::remove_file(path).unwrap();
    gguf
}

#[test]
fn what_isnt_a_known_model_is_named() {
    let unknown = |name: &str, change: &dyn Fn(&mut Builder)| {
        let mut builder = Builder::new();
        change(&mut builder);
        opened(name, &builder.bytes()).err().unwrap_or_else(|| panic!("{name} is accepted"))
    };
    let arch = unknown("arch", &|builder| {
        builder.metadata.clear();
        builder.entry("general.architecture", 8, &text("rwkv7"));
    });
    assert!(arch.message().contains("`rwkv7` isn't known") && arch.message().contains("`qwen2`"), "{arch}");
    let extra = unknown("extra", &|builder| {
        builder.tensor("blk.0.ssm_a.weight", &[8], 0, 0);
    });
    assert!(extra.message().contains("`blk.0.ssm_a.weight`"), "{extra}");
    let part = unknown("part", &|builder| {
        builder.entry("split.count", 2, &3u16.to_le_bytes());
    });
    assert!(part.message().contains("one of 3 parts") && part.hint().unwrap().contains("merge"), "{part}");
    let rows = unknown("rows", &|builder| {
        builder.entry("llama.attention.head_count", 4, &3u32.to_le_bytes());
        builder.tensor("blk.0.attn_q.weight", &[8, 8], 0, 0);
    });
    assert!(rows.message().contains("don't divide into the heads"), "{rows}");
    let stacked = unknown("stacked", &|builder| {
        builder.data = 1 << 15;
        builder.entry("llama.expert_count", 4, &2u32.to_le_bytes());
        builder.tensor("blk.0.ffn_up_exps.weight", &[1, 1, 4096], 1, 0);
    });
    assert!(stacked.message().contains("stacks 4096"), "{stacked}");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn damaged_files_never_panic(
        flips in proptest::collection::vec((0usize..14_000, proptest::prelude::any::<u8>()), 0..12),
        end in proptest::option::weighted(0.3, 0usize..60_000),
    ) {
        let mut bytes = fs::read(goldens().join("llama_q4_0/model.gguf")).unwrap();
        for (at, byte) in flips {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        bytes.truncate(end.unwrap_or(bytes.len()));
        if let Ok(gguf) = opened("damaged", &bytes) {
            drop((config_json(&gguf), GgufTokenizer::read(&gguf.file), gguf.rope_divisors()));
            for name in gguf.names() {
                drop((gguf.load(name, DType::F32, &Device::Cpu), gguf.load_stacked_matmul(&[name], &Device::Cpu)));
            }
        }
    }
}
