//! Merging against PEFT's own merged models (scripts/make_adapter_goldens.py), and what is refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use super::files::{Adapter, CONFIG, PICKLED, WEIGHTS};
use super::names::{Factor, Part, classify};
use super::settings::Settings;
use crate::engine::weights::Safetensors;

const EMBEDDING: &str = "model.embed_tokens.weight";
const OUTPUT: &str = "lm_head.weight";

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/adapters")
}

/// A folder of a test's own.
fn scratch(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("ept-sweep-adapter-{}-{name}", std::process::id()));
    fs::remove_dir_all(&folder).ok();
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Every tensor of the base, merged. A tied output becomes one of its own where the adapter unties it.
fn merge_all(adapter: &Adapter, base: &Path) -> BTreeMap<String, Tensor> {
    let weights = Safetensors::open(base).unwrap();
    let load = |name: &str| weights.load(name, DType::F32, &Device::Cpu).unwrap();
    let names: Vec<String> = weights.tensors().map(|(name, _)| name.to_owned()).collect();
    let mut merged: BTreeMap<String, Tensor> =
        names.iter().map(|name| (name.clone(), adapter.merge(name, load(name)).unwrap())).collect();
    if !names.iter().any(|name| name == OUTPUT) && adapter.unties(EMBEDDING, OUTPUT) {
        merged.insert(OUTPUT.to_owned(), adapter.merge(OUTPUT, load(EMBEDDING)).unwrap());
    }
    merged
}

fn close(left: f64, right: f64, scale: f64) -> bool {
    (left - right).abs() <= 2e-6 * (scale + left.abs())
}

/// Compares with the sums and the samples that the script wrote.
fn assert_agrees(place: &str, tensor: &Tensor, checks: &Value) {
    let shape: Vec<usize> = checks["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
    assert_eq!(tensor.dims(), shape, "{place}");
    let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let total: f64 = values.iter().map(|value| f64::from(*value)).sum();
    let magnitude: f64 = values.iter().map(|value| f64::from(*value).abs()).sum();
    let typical = magnitude / values.len() as f64;
    let expected = checks["abs_sum"].as_f64().unwrap();
    assert!(close(magnitude, expected, 0.0), "{place}: magnitudes sum to {magnitude}, PEFT's to {expected}");
    let expected = checks["sum"].as_f64().unwrap();
    assert!(close(total, expected, magnitude), "{place}: sums to {total}, PEFT's to {expected}");
    for (at, expected) in checks["at"].as_array().unwrap().iter().zip(checks["values"].as_array().unwrap()) {
        let (at, expected) = (at.as_u64().unwrap() as usize, expected.as_f64().unwrap());
        let value = f64::from(values[at]);
        assert!(close(value, expected, typical), "{place}: number {at} is {value}, PEFT's is {expected}");
    }
}

#[test]
fn merged_weights_are_pefts() {
    let mut cases = 0;
    for entry in fs::read_dir(goldens()).unwrap() {
        let folder = entry.unwrap().path();
        let Ok(text) = fs::read_to_string(folder.join("golden.json")) else { continue };
        let case = folder.file_name().unwrap().to_string_lossy().into_owned();
        let golden: Value = serde_json::from_str(&text).unwrap();
        let base = folder.join(golden["base"].as_str().unwrap());
        let adapter = Adapter::open(&folder).unwrap_or_else(|error| panic!("{case}: {error}"));
        let merged = merge_all(&adapter, &base);
        assert_eq!(adapter.unused(), Vec::<String>::new(), "{case}");
        adapter.check_all_used().unwrap();
        let expected = golden["merged"].as_object().unwrap();
        for (name, checks) in expected {
            let tensor = merged.get(name).unwrap_or_else(|| panic!("{case}: no `{name}`"));
            assert_agrees(&format!("{case}: {name}"), tensor, checks);
        }
        // and nothing else changes
        let weights = Safetensors::open(&base).unwrap();
        for (name, tensor) in &merged {
            if expected.contains_key(name) || name == OUTPUT && !weights.has(OUTPUT) {
                continue;
            }
            let before = weights.load(name, DType::F32, &Device::Cpu).unwrap().flatten_all().unwrap();
            let after = tensor.flatten_all().unwrap();
            assert_eq!(before.to_vec1::<f32>().unwrap(), after.to_vec1::<f32>().unwrap(), "{case}: `{name}`");
        }
        cases += 1;
    }
    assert!(cases >= 19, "only {cases} adapters");
}

#[test]
fn a_tied_output_gets_weights_of_its_own_where_pefts_does() {
    for (name, unties) in [
        ("lora", false),
        ("saved_head_tied", true),
        ("saved_embedding_tied", true),
        ("embedding_tied", true),
        ("saved_norms", false),
    ] {
        let adapter = Adapter::open(&goldens().join(name)).unwrap();
        assert_eq!(adapter.unties(EMBEDDING, OUTPUT), unties, "{name}");
    }
}

/// A copy of a golden adapter with another configuration.
fn with_config(case: &str, name: &str, change: impl Fn(&mut serde_json::Map<String, Value>)) -> PathBuf {
    let folder = scratch(name);
    fs::copy(goldens().join(case).join(WEIGHTS), folder.join(WEIGHTS)).unwrap();
    let mut config: Value =
        serde_json::from_str(&fs::read_to_string(goldens().join(case).join(CONFIG)).unwrap()).unwrap();
    change(config.as_object_mut().unwrap());
    fs::write(folder.join(CONFIG), config.to_string()).unwrap();
    folder
}

#[test]
fn what_would_merge_differently_is_refused_with_the_key_named() {
    for (key, value) in [
        ("peft_type", json!("LOHA")),
        ("lora_bias", json!(true)),
        ("use_qalora", json!(true)),
        ("layer_replication", json!([[0, 2], [1, 2]])),
        ("target_parameters", json!(["mlp.experts.gate_up_proj"])),
        ("trainable_token_indices", json!([1, 2])),
        ("megatron_config", json!({"tensor_model_parallel_size": 2})),
        ("alora_invocation_tokens", json!([5])),
        ("arrow_config", json!({"top_k": 3})),
        ("use_bdlora", json!({"nblocks": 2})),
        ("kasa_config", json!({"beta": 1e-4})),
        ("monteclora_config", json!({"num_samples": 8})),
        ("velora_config", json!({"num_groups": 64})),
        ("init_lora_weights", json!("pissa_niter_4")),
        ("init_lora_weights", json!("olora")),
        ("init_lora_weights", json!("corda")),
        ("init_lora_weights", json!("loftq")),
        ("init_lora_weights", json!("lora_ga")),
        ("something_of_tomorrow", json!({"on": true})),
        ("bias", json!("some")),
        ("r", json!(0)),
        ("r", json!(2.5)),
        ("r", json!("4")),
        ("rank_pattern", json!({"q_proj": "2"})),
        ("rank_pattern", json!({"(": 2})),
        ("alpha_pattern", json!([1])),
    ] {
        let folder = with_config("lora", "refused", |config| {
            config.insert(key.to_owned(), value.clone());
        });
        let error = Adapter::open(&folder).err().unwrap_or_else(|| panic!("`{key}`: {value} is accepted"));
        assert!(error.message().contains(&format!("`{key}`")), "{error}");
        assert!(error.message().contains(CONFIG), "{error}");
        fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn what_only_began_the_training_is_passed_over() {
    for (key, value) in [
        ("init_lora_weights", json!("gaussian")),
        ("init_lora_weights", json!("eva")),
        ("init_lora_weights", json!(false)),
        ("eva_config", json!({"rho": 2.0})),
        ("lora_dropout", json!(0.1)),
        ("something_of_tomorrow", json!(null)),
        ("another", json!({})),
    ] {
        let folder = with_config("lora", "passed", |config| {
            config.insert(key.to_owned(), value.clone());
        });
        Adapter::open(&folder).unwrap_or_else(|error| panic!("{error}"));
        fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn a_rank_that_the_factors_dont_have_is_an_error() {
    let folder = with_config("lora", "rank", |config| {
        config.insert("r".to_owned(), json!(3));
    });
    let adapter = Adapter::open(&folder).unwrap();
    let base = Tensor::zeros((48, 48), DType::F32, &Device::Cpu).unwrap();
    let error = adapter.merge("model.layers.0.self_attn.q_proj.weight", base).unwrap_err();
    assert!(error.message().contains("rank 3"), "{error}");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn tensors_that_belong_to_nothing_in_the_base_are_named() {
    let adapter = Adapter::open(&goldens().join("lora")).unwrap();
    assert_eq!(adapter.unused().len(), 12);
    let error = adapter.check_all_used().unwrap_err();
    assert!(error.message().contains("lora_A.weight") && error.message().contains("and 11 more"), "{error}");
    assert!(error.hint().unwrap().contains("gqa_tied"), "{error}");
}

#[test]
fn a_base_of_another_size_is_an_error() {
    let adapter = Adapter::open(&goldens().join("lora")).unwrap();
    let base = Tensor::zeros((48, 32), DType::F32, &Device::Cpu).unwrap();
    let error = adapter.merge("model.layers.0.self_attn.q_proj.weight", base).unwrap_err();
    assert!(error.message().contains("[48, 32]"), "{error}");
    let adapter = Adapter::open(&goldens().join("saved_head")).unwrap();
    let base = Tensor::zeros((301, 32), DType::F32, &Device::Cpu).unwrap();
    assert!(adapter.merge(OUTPUT, base).unwrap_err().hint().unwrap().contains("resize"));
}

#[test]
fn pickled_weights_are_refused_with_how_to_convert_them() {
    let folder = scratch("pickle");
    fs::copy(goldens().join("lora").join(CONFIG), folder.join(CONFIG)).unwrap();
    fs::write(folder.join(PICKLED), b"\x80\x02}q\x00.").unwrap();
    let error = Adapter::open(&folder).err().unwrap();
    assert!(error.hint().unwrap().contains("save_pretrained"), "{error}");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn names_are_read_with_and_without_prefix_and_adapter_name() {
    let update = |module: &str, which, embedding| Part::OfUpdate { module: module.to_owned(), which, embedding };
    let q = "model.layers.0.self_attn.q_proj";
    for (name, part) in [
        (format!("base_model.model.{q}.lora_A.weight"), update(q, Factor::Down, false)),
        (format!("base_model.model.{q}.lora_B.default.weight"), update(q, Factor::Up, false)),
        (format!("{q}.lora_A.student.weight"), update(q, Factor::Down, false)),
        (format!("base_model.model.{q}.lora_magnitude_vector"), update(q, Factor::Magnitude, false)),
        (format!("base_model.model.{q}.lora_magnitude_vector.default.weight"), update(q, Factor::Magnitude, false)),
        ("base_model.model.wte.lora_embedding_A".to_owned(), update("wte", Factor::Down, true)),
        ("base_model.model.wte.lora_embedding_B.default".to_owned(), update("wte", Factor::Up, true)),
        ("base_model.model.lm_head.weight".to_owned(), Part::Whole("lm_head.weight".to_owned())),
        (
            "base_model.model.lm_head.modules_to_save.default.weight".to_owned(),
            Part::Whole("lm_head.weight".to_owned()),
        ),
        ("base_model.model.wte.base_layer.weight".to_owned(), Part::Whole("wte.weight".to_owned())),
        (format!("base_model.model.{q}.base_layer.bias"), Part::Whole(format!("{q}.bias"))),
    ] {
        assert_eq!(classify(&name).unwrap(), part, "{name}");
    }
    assert!(classify("base_model.model.lm_head.lora_B.bias").is_err());
    assert!(classify("base_model.model.lm_head.lora_diag.default").is_err());
}

#[test]
fn patterns_match_the_end_of_a_module_as_pythons_do() {
    // expected values are those of peft.utils.other.get_pattern_key
    let config = json!({
        "peft_type": "LORA", "r": 8, "lora_alpha": 16,
        "rank_pattern": {
            "q_proj": 1, "layers.1.mlp.up_proj": 2, r"^model\.layers\.0\.mlp\.up_proj": 3, r"layers\.[2-9]\..*": 4,
            "(?!x)down_proj": 5, "proj": 6,
        },
    });
    let folder = scratch("patterns");
    fs::write(folder.join(CONFIG), config.to_string()).unwrap();
    let settings = Settings::read(&folder.join(CONFIG)).unwrap();
    for (module, rank) in [
        ("model.layers.0.self_attn.q_proj", 1),
        ("q_proj", 1),
        ("model.layers.0.self_attn.not_q_proj", 8),
        ("model.layers.1.mlp.up_proj", 2),
        ("model.layers.0.mlp.up_proj", 3),
        ("other.model.layers.0.mlp.up_proj", 8),
        ("model.layers.3.mlp.gate_proj", 4),
        ("model.layers.1.mlp.down_proj", 5),
        ("model.layers.1.mlp.proj", 6),
        ("model.layers.1.mlp.proj.extra", 8),
    ] {
        assert_eq!(settings.rank_of(module).unwrap(), rank, "{module}");
    }
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn the_record_says_what_was_merged() {
    let describe = |name: &str| Adapter::open(&goldens().join(name)).unwrap().describe();
    assert_eq!(describe("lora"), "LoRA adapter merged in f32: rank 4, alpha 8");
    assert_eq!(describe("dora"), "DoRA adapter merged in f32: rank 4, alpha 8");
    assert_eq!(describe("patterns_rslora"), "rsLoRA adapter merged in f32: rank 4, alpha 8, with patterns");
}

/// Merges whatever an adapter has into bases of a shape that may or may not fit.
fn use_all(adapter: &Adapter) {
    let base = Tensor::zeros((48, 48), DType::F32, &Device::Cpu).unwrap();
    for module in adapter.updates.keys() {
        drop(adapter.merge(&format!("{module}.weight"), base.clone()));
    }
    for name in adapter.replacements.keys() {
        drop(adapter.merge(name, base.clone()));
    }
    drop((adapter.unused(), adapter.describe()));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn damaged_adapters_merge_or_give_an_error(
        case in proptest::sample::select(vec!["dora", "patterns", "saved_norms", "embedding_tied"]),
        file in proptest::sample::select(vec![CONFIG, WEIGHTS]),
        flips in proptest::collection::vec((0usize..4_000, proptest::prelude::any::<u8>()), 0..8),
        end in proptest::option::weighted(0.2, 0usize..20_000),
    ) {
        let folder = scratch("damaged");
        for name in [CONFIG, WEIGHTS] {
            let mut bytes = fs::read(goldens().join(case).join(name)).unwrap();
            if name == file {
                for (at, byte) in &flips {
                    let at = at % bytes.len();
                    bytes[at] = *byte;
                }
                bytes.truncate(end.unwrap_or(bytes.len()));
            }
            fs::write(folder.join(name), bytes).unwrap();
        }
        if let Ok(adapter) = Adapter::open(&folder) {
            use_all(&adapter);
        }
        fs::remove_dir_all(folder).unwrap();
    }
}
