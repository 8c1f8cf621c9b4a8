//! Model folders with something wrong: an error that names the file and the field or tensor, never a panic.

use std::fs;
use std::path::{Path, PathBuf};

use ept_sweep::engine::load::{DeviceChoice, LoadOptions, inspect, load};
use ept_sweep::engine::{Engine, GenerateOptions, Kernels, Prompt};
use ept_sweep::error::{Error, Kind};
use ept_sweep::record::OutputLength;
use serde_json::{Map, Value, json};

use super::{engine, folder};

/// A copy of a golden model that may be damaged.
struct Copy(PathBuf);

impl Copy {
    fn of(model: &str, test: &str) -> Self {
        let copy = std::env::temp_dir().join(format!("ept-sweep-golden-{}-{test}", std::process::id()));
        let _ = fs::remove_dir_all(&copy);
        fs::create_dir_all(&copy).unwrap();
        for entry in fs::read_dir(folder(model)).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
        }
        Self(copy)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    fn set(&self, field: &str, value: Value) -> &Self {
        let mut config: Map<String, Value> =
            serde_json::from_slice(&fs::read(self.path("config.json")).unwrap()).unwrap();
        config.insert(field.to_owned(), value);
        fs::write(self.path("config.json"), serde_json::to_string(&config).unwrap()).unwrap();
        self
    }

    /// Changes the header of the weights, leaving their data alone.
    fn edit_header(&self, edit: impl FnOnce(&mut Map<String, Value>)) -> &Self {
        let path = self.path("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        edit(&mut header);
        let header = serde_json::to_vec(&header).unwrap();
        let length = (header.len() as u64).to_le_bytes();
        fs::write(
            &path,
            [&length[..], &header, &bytes[8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize..]].concat(),
        )
        .unwrap();
        self
    }

    /// The error of loading, after checking that inspecting gives the same.
    fn error(&self) -> Error {
        let loaded = load(&self.0, &LoadOptions::default(), DeviceChoice::Cpu).err().expect("it loads");
        assert_eq!(inspect(&self.0, &LoadOptions::default()).err().as_ref(), Some(&loaded));
        assert_eq!(loaded.kind(), Kind::Input, "{loaded}");
        loaded
    }

    /// The message, with the folder cut off.
    fn message(&self) -> String {
        self.error().message().replace(&format!("{}/", self.0.display()), "")
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_folder_without_config_or_weights_says_which_file_is_missing() {
    let copy = Copy::of("gqa_tied", "no-weights");
    fs::remove_file(copy.path("model.safetensors")).unwrap();
    assert!(copy.message().ends_with("has no `model.safetensors` and no `model.safetensors.index.json`"));
    fs::remove_file(copy.path("config.json")).unwrap();
    assert!(copy.message().starts_with("can't read `config.json`: "), "{}", copy.message());
}

#[test]
fn pickled_weights_are_refused_with_how_to_convert_them() {
    let copy = Copy::of("gqa_tied", "pickle");
    fs::rename(copy.path("model.safetensors"), copy.path("pytorch_model.bin")).unwrap();
    assert!(copy.error().hint().unwrap().contains("save_pretrained"), "{}", copy.error());
}

#[test]
fn truncated_weights_name_the_file() {
    for (test, keep) in [("short", 100), ("tiny", 4), ("empty", 0), ("almost", 165_000)] {
        let copy = Copy::of("gqa_tied", test);
        let bytes = fs::read(copy.path("model.safetensors")).unwrap();
        fs::write(copy.path("model.safetensors"), &bytes[..keep]).unwrap();
        let message = copy.message();
        assert!(message.starts_with("model.safetensors: isn't a whole safetensors file: "), "{message}");
    }
}

#[test]
fn a_missing_tensor_is_named_with_the_files_that_were_read() {
    let copy = Copy::of("gqa_tied", "missing");
    copy.edit_header(|header| {
        let tensor = header.remove("model.layers.1.mlp.up_proj.weight").unwrap();
        header.insert("model.layers.1.mlp.op_proj.weight".to_owned(), tensor);
    });
    assert_eq!(copy.message(), "model.safetensors: tensor `model.layers.1.mlp.up_proj.weight` is missing");
}

#[test]
fn a_tensor_that_the_config_does_not_ask_for_is_named() {
    let copy = Copy::of("biases", "unexpected");
    copy.set("mlp_bias", json!(false));
    let message = copy.message();
    let expected = "model.safetensors: tensor `model.layers.0.mlp.down_proj.bias`: isn't part of `LlamaForCausalLM`";
    assert!(message.starts_with(expected), "{message}");
}

#[test]
fn a_tensor_of_the_wrong_shape_is_named_with_both_shapes() {
    let copy = Copy::of("gqa_tied", "shape");
    copy.set("intermediate_size", json!(64));
    assert_eq!(
        copy.message(),
        "model.safetensors: tensor `model.layers.0.mlp.gate_proj.weight`: has shape [48, 48], `config.json` asks for \
         [64, 48]"
    );
}

#[test]
fn a_tensor_of_an_unsupported_type_is_named() {
    let copy = Copy::of("gqa_tied", "dtype");
    copy.edit_header(|header| header["model.norm.weight"]["dtype"] = json!("I32"));
    assert_eq!(
        copy.message(),
        "model.safetensors: tensor `model.norm.weight`: is stored as `i32`; supported are `f32`, `f16` and `bf16`"
    );
}

#[test]
fn a_config_with_more_layers_than_the_weights_fails_at_the_first_missing_one() {
    let copy = Copy::of("gqa_tied", "layers");
    copy.set("num_hidden_layers", json!(4000));
    assert!(copy.message().contains("`model.layers.2.input_layernorm.weight` is missing"), "{}", copy.message());
}

#[test]
fn config_fields_are_checked_by_name() {
    let copy = Copy::of("gqa_tied", "fields");
    copy.set("architectures", json!(["T5ForConditionalGeneration"]));
    assert!(copy.message().starts_with("config.json: `architectures`: `T5ForConditionalGeneration` isn't supported"));
    copy.set("architectures", json!(["LlamaForCausalLM"])).set("rms_norm_eps", json!("small"));
    assert_eq!(copy.message(), "config.json: `rms_norm_eps`: `\"small\"` isn't a positive number");
    fs::write(copy.path("config.json"), "{\"architectures\": ").unwrap();
    assert!(copy.message().starts_with("config.json: "), "{}", copy.message());
    fs::write(copy.path("config.json"), "[]").unwrap();
    assert_eq!(copy.message(), "config.json: isn't a JSON object");
}

#[test]
fn a_damaged_generation_config_is_named() {
    let copy = Copy::of("gqa_tied", "generation");
    fs::write(copy.path("generation_config.json"), r#"{"eos_token_id": ["</s>"]}"#).unwrap();
    let message = copy.message();
    assert!(message.starts_with("generation_config.json: `eos_token_id`: "), "{message}");
}

#[test]
fn an_index_that_names_what_is_not_there_is_refused() {
    let copy = Copy::of("sharded", "index");
    let index = copy.path("model.safetensors.index.json");
    let original = fs::read_to_string(&index).unwrap();
    let shard = "model-00002-of-00003.safetensors";
    fs::write(&index, original.replace(shard, "../elsewhere.safetensors")).unwrap();
    let elsewhere = copy.message();
    assert!(elsewhere.starts_with("model.safetensors.index.json: `weight_map`: `../elsewhere.safetensors` isn't in"));
    fs::write(&index, original.replace("model.norm.weight", "model.norm.wait")).unwrap();
    let message = copy.message();
    assert!(message.contains("tensor `model.norm.wait` isn't in the shard that it names"), "{message}");
    fs::write(&index, "{}").unwrap();
    assert_eq!(copy.message(), "model.safetensors.index.json: `weight_map`: is missing");
}

fn generate(ids: &[&[u32]], max_new_tokens: usize) -> Error {
    let batch: Vec<Prompt> = ids.iter().map(|ids| Prompt { text: String::new(), ids: ids.to_vec() }).collect();
    let options = GenerateOptions::greedy(max_new_tokens, OutputLength::Natural);
    engine("gqa_tied", "f32", Kernels::Cpu).generate(&batch, options).unwrap_err()
}

#[test]
fn prompts_that_the_model_cannot_take_are_errors() {
    assert_eq!(generate(&[], 4).message(), "the batch is empty");
    assert_eq!(generate(&[&[1], &[]], 4).message(), "prompt 1 of the batch: it has no tokens");
    assert_eq!(
        generate(&[&[1], &[300]], 4).message(),
        "prompt 1 of the batch: token id 300 is outside of the model's vocabulary of 300"
    );
    assert_eq!(
        generate(&[&[1, 2]], 255).message(),
        "prompt 0 of the batch: 2 tokens and 255 new ones don't fit the model's 256 positions"
    );
    assert!(generate(&[&[1]], usize::MAX).message().contains("don't fit"));
    assert_eq!(generate(&[&[1]], 0).message(), "`max_new_tokens` has to be at least 1");
}

#[test]
fn the_last_position_of_a_model_can_be_used() {
    let prompt = Prompt { text: String::new(), ids: vec![5; 250] };
    let options = GenerateOptions::greedy(6, OutputLength::Fixed);
    for kernels in [Kernels::Cpu, Kernels::Stock] {
        let answers = engine("gqa_tied", "f32", kernels).generate(std::slice::from_ref(&prompt), options).unwrap();
        assert_eq!(answers[0].ids.len(), 6);
    }
}

#[test]
fn an_unknown_data_type_is_an_error() {
    let options = LoadOptions { dtype: Some("int8"), ..LoadOptions::default() };
    let error = load(Path::new(&folder("gqa_tied")), &options, DeviceChoice::Cpu).err().unwrap();
    assert_eq!(error.message(), "`int8` is no data type; supported are `f32`, `f16` and `bf16`");
}
