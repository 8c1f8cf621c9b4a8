//! Model folders of damaged and of made-up bytes: inspecting one gives a model or an error, never a panic, and never
//! allocates more than a small multiple of what is on the disk.
//!
//! The random cases are the same in each run. `PROPTEST_CASES` sets how many there are.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fs;
use std::path::PathBuf;

use common::{Folder, repository};
use ept_sweep::engine::load::{LoadOptions, ModelSummary, inspect};
use ept_sweep::error::Result;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};

/// Counts what a thread holds.
struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What inspecting may hold: so many bytes for each byte on the disk, and so many whatever the files are.
const PER_BYTE: usize = 48;
const FIXED: usize = 1 << 20;

fn golden(name: &str) -> PathBuf {
    repository().join("tests/golden").join(name)
}

/// A model whose files are written again and again.
struct Hostile {
    folder: Folder,
    /// What is inspected: the folder, or a GGUF file in it.
    model: PathBuf,
}

impl Hostile {
    fn folder(files: &[(&str, &[u8])]) -> Self {
        let folder = Folder::new();
        let hostile = Self { model: folder.0.clone(), folder };
        files.iter().for_each(|(name, bytes)| hostile.write(name, bytes));
        hostile
    }

    fn gguf() -> Self {
        let folder = Folder::new();
        Self { model: folder.path("model.gguf"), folder }
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.folder.path(name), bytes).unwrap();
    }

    fn bytes(&self) -> usize {
        fs::read_dir(&self.folder.0).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len() as usize).sum()
    }

    /// Inspects the folder and holds what that costs against what lies in it.
    fn inspect(&self) -> Result<ModelSummary> {
        let before = LIVE.get();
        PEAK.set(before);
        let summary = inspect(&self.model, &LoadOptions::default());
        let held = (PEAK.get() - before).max(0) as usize;
        let allowed = PER_BYTE * self.bytes() + FIXED;
        assert!(held <= allowed, "held {held} bytes, more than {allowed}, and gave {summary:?}");
        summary
    }

    /// Expects that the folder is refused with a message that names the file.
    fn is_refused_for(&self, file: &str) {
        let error = self.inspect().expect_err(file);
        assert!(error.message().contains(file), "`{file}` in: {error}");
    }
}

/// Runs the cases with the same random numbers each time.
fn for_all<S: Strategy>(strategy: S, test: impl Fn(S::Value)) {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let outcome = runner.run(&strategy, |value| {
        test(value);
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

/// Changes to a file: bytes at places (as parts of 2¹⁶ of its first `within` bytes), and where it ends.
type Damage = (Vec<(u16, u8)>, Option<u16>);

fn damage() -> impl Strategy<Value = Damage> {
    (prop::collection::vec((any::<u16>(), any::<u8>()), 0..12), prop::option::weighted(0.3, any::<u16>()))
}

fn damaged(bytes: &[u8], within: usize, (flips, end): &Damage) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let place = |at: u16, of: usize| (usize::from(at) * of) >> 16;
    for (at, byte) in flips {
        let at = place(*at, within.min(bytes.len()));
        bytes[at] = *byte;
    }
    if let Some(end) = end {
        bytes.truncate(place(*end, bytes.len()));
    }
    bytes
}

fn header_len(safetensors: &[u8]) -> usize {
    8 + u64::from_le_bytes(safetensors[..8].try_into().unwrap()) as usize
}

#[test]
fn damaged_safetensors_never_panic_nor_fill_the_memory() {
    let model = golden("gqa_tied");
    let config = fs::read(model.join("config.json")).unwrap();
    let weights = fs::read(model.join("model.safetensors")).unwrap();
    let folder = Hostile::folder(&[("config.json", &config), ("model.safetensors", &weights)]);
    folder.inspect().unwrap();
    for_all(damage(), |damage| {
        folder.write("model.safetensors", &damaged(&weights, header_len(&weights), &damage));
        drop(folder.inspect());
    });
}

#[test]
fn random_bytes_are_refused_as_safetensors_by_name() {
    let config = fs::read(golden("gqa_tied").join("config.json")).unwrap();
    let folder = Hostile::folder(&[("config.json", &config)]);
    for_all(prop::collection::vec(any::<u8>(), 0..512), |bytes| {
        folder.write("model.safetensors", &bytes);
        folder.is_refused_for("model.safetensors");
    });
    for length in [0, 1, 100_000_000, 1 << 40, u64::MAX - 7, u64::MAX] {
        folder.write("model.safetensors", &[&length.to_le_bytes()[..], b"{\"a\":{}}"].concat());
        folder.is_refused_for("model.safetensors");
    }
}

#[test]
fn a_safetensors_header_that_lies_about_its_data_is_refused() {
    let config = fs::read(golden("gqa_tied").join("config.json")).unwrap();
    let folder = Hostile::folder(&[("config.json", &config)]);
    for entry in [
        json!({"dtype": "F32", "shape": [u64::MAX, u64::MAX], "data_offsets": [0, 4]}),
        json!({"dtype": "F32", "shape": [1u64 << 62], "data_offsets": [0, u64::MAX]}),
        json!({"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}),
        json!({"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}),
        json!({"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}),
        json!({"dtype": "F32", "shape": vec![1; 10_000], "data_offsets": [0, 4]}),
        json!({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}),
    ] {
        let header = json!({"model.embed_tokens.weight": entry}).to_string();
        let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 8]].concat();
        folder.write("model.safetensors", &bytes);
        assert!(folder.inspect().is_err(), "{entry}");
    }
}

#[test]
fn damaged_configs_never_panic_nor_fill_the_memory() {
    let model = golden("gqa_tied");
    let config = fs::read(model.join("config.json")).unwrap();
    let weights = fs::read(model.join("model.safetensors")).unwrap();
    let folder = Hostile::folder(&[("config.json", &config), ("model.safetensors", &weights)]);
    folder.inspect().unwrap();
    for_all(damage(), |damage| {
        folder.write("config.json", &damaged(&config, config.len(), &damage));
        drop(folder.inspect());
    });
}

/// A value of every kind, and of each the ones that arithmetic stumbles over.
fn awkward_values() -> Vec<Value> {
    let deep = (0..200).fold(json!(1), |inside, _| json!([inside]));
    vec![
        json!(null),
        json!(0),
        json!(1),
        json!(-1),
        json!(0.5),
        json!(1e308),
        json!(u64::MAX),
        json!(i64::MIN),
        json!(1u64 << 30),
        json!(true),
        json!(""),
        json!("llama"),
        json!([]),
        json!({}),
        json!([0, -1, u64::MAX, "a"]),
        json!({"rope_type": "llama3", "factor": 0}),
        deep,
    ]
}

/// How many of the awkward values of a config's key are accepted.
fn accepted(folder: &Hostile, config: &Value, key: &str) -> usize {
    let values = awkward_values().into_iter();
    let accepts = |value: &Value| {
        let mut config = config.clone();
        config[key] = value.clone();
        folder.write("config.json", config.to_string().as_bytes());
        folder.inspect().is_ok()
    };
    values.filter(accepts).count()
}

/// Keys of a Llama's config that say nothing about its decoder.
const IGNORED: [&str; 11] = [
    "attention_dropout",
    "bos_token_id",
    "dtype",
    "initializer_range",
    "layer_types",
    "model_type",
    "pad_token_id",
    "pretraining_tp",
    "sliding_window",
    "transformers_version",
    "use_cache",
];

/// Keys whose every other value contradicts the shapes of the weights.
const SHAPES: [&str; 7] = [
    "architectures",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "vocab_size",
];

#[test]
fn a_config_may_say_anything_under_keys_that_do_not_matter_and_little_under_the_others() {
    let model = golden("rope_llama3");
    let config: Value = serde_json::from_slice(&fs::read(model.join("config.json")).unwrap()).unwrap();
    let weights = fs::read(model.join("model.safetensors")).unwrap();
    let folder = Hostile::folder(&[("model.safetensors", &weights)]);
    let mut keys: Vec<&str> = config.as_object().unwrap().keys().map(String::as_str).collect();
    keys.extend(["sliding_window", "layer_types", "quantization_config", "rope_scaling"]);
    // all but the deepest, which no JSON file may be
    let all = awkward_values().len() - 1;
    for key in keys {
        let expected = match key {
            _ if IGNORED.contains(&key) => all..=all,
            _ if SHAPES.contains(&key) => 0..=0,
            _ => 1..=6,
        };
        let accepted = accepted(&folder, &config, key);
        assert!(expected.contains(&accepted), "`{key}`: {accepted} values accepted, not {expected:?}");
    }
}

#[test]
fn damaged_gguf_files_never_panic_nor_fill_the_memory() {
    let model = fs::read(golden("gguf/llama_q4_0/model.gguf")).unwrap();
    let folder = Hostile::gguf();
    folder.write("model.gguf", &model);
    folder.inspect().unwrap();
    for_all(damage(), |damage| {
        folder.write("model.gguf", &damaged(&model, 14_000, &damage));
        drop(folder.inspect());
    });
}

#[test]
fn random_bytes_are_refused_as_gguf_by_name() {
    let folder = Hostile::gguf();
    for_all(prop::collection::vec(any::<u8>(), 0..512), |bytes| {
        folder.write("model.gguf", &[b"GGUF\x03\0\0\0", &bytes[..]].concat());
        folder.is_refused_for("model.gguf");
    });
}
