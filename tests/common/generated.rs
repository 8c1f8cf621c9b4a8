//! Goldens whose weights follow from a rule, so that only the reference's answers are stored.
//!
//! A golden is one JSON file. Its `tensors` list holds `[name, shape, offset, scale]`; element i of tensor number n is
//! `offset + scale · (u / 2²³ − 1)` in f32, where u is the upper 24 bits of SplitMix64's finaliser (Steele, Lea and
//! Flood 2014) at `seed · 0x9E3779B97F4A7C15 + (n << 32) + i`. The scripts that make goldens use the same rule.

use std::fs;
use std::path::{Path, PathBuf};

use ept_sweep::engine::Prompt;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Folder, repository};

/// A tiny model, and what the reference makes of it in f32 on the CPU.
#[derive(Deserialize)]
pub(crate) struct Golden {
    /// The file's name without its ending.
    #[serde(skip)]
    pub name: String,
    /// `config.json`, as the reference writes it.
    pub config: Map<String, Value>,
    pub seed: u64,
    pub tensors: Vec<TensorRule>,
    pub prompts: Vec<Vec<u32>>,
    /// Logits that follow each prompt.
    pub prompt_logits: Vec<Vec<f32>>,
    /// Greedy tokens of each prompt, going on past the end of the sequence.
    pub greedy: Vec<Vec<u32>>,
    /// Difference of the two largest logits at each step.
    pub margins: Vec<Vec<f32>>,
    pub eos_ids: Vec<u32>,
    /// The same with every end of the sequence masked.
    #[serde(default)]
    pub fixed: Vec<Vec<u32>>,
    /// Tokens of each natural answer that ends by itself.
    #[serde(default)]
    pub natural_lengths: Vec<Option<usize>>,
    /// The config as transformers 4 spelled it.
    #[serde(default)]
    pub spelling4: Option<Map<String, Value>>,
    /// How other checkpoints of the family name or arrange the same tensors.
    #[serde(default)]
    pub alternative: Map<String, Value>,
    /// `alone` where the reference ran each prompt by itself.
    #[serde(default)]
    pub rows: Option<String>,
}

/// Name, shape, offset and scale of a tensor.
#[derive(Deserialize)]
pub(crate) struct TensorRule(pub String, pub Vec<usize>, pub f32, pub f32);

impl Golden {
    /// `tests/golden/<file>`.
    pub(crate) fn read(file: &str) -> Self {
        let path = goldens().join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let golden = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { name: path.file_stem().unwrap().to_string_lossy().into_owned(), ..golden }
    }

    /// Every golden of `tests/golden/<folder>/`, in the order of their names.
    pub(crate) fn all(folder: &str) -> Vec<Self> {
        let entries = fs::read_dir(goldens().join(folder)).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
        files.sort();
        assert!(!files.is_empty(), "tests/golden/{folder} holds no golden");
        files.iter().map(|path| Self::read(&format!("{folder}/{}", path.file_name().unwrap().display()))).collect()
    }

    /// Writes the model folder: `config.json`, `generation_config.json` with the end-of-sequence ids, and the weights.
    pub(crate) fn model(&self) -> Folder {
        let folder = Folder::new();
        folder.write("config.json", &serde_json::to_string_pretty(&self.config).unwrap());
        folder.write("generation_config.json", &json!({ "eos_token_id": self.eos_ids }).to_string());
        self.write_weights(&folder.path("model.safetensors"));
        folder
    }

    /// Writes the weights, f32, as a safetensors file.
    pub(crate) fn write_weights(&self, path: &Path) {
        let mut header = Map::new();
        let mut data: Vec<u8> = vec![];
        for (number, rule) in (0..).zip(&self.tensors) {
            let start = data.len();
            data.extend(rule.values(self.seed, number).flat_map(f32::to_le_bytes));
            let entry = json!({ "dtype": "F32", "shape": rule.1, "data_offsets": [start, data.len()] });
            assert!(header.insert(rule.0.clone(), entry).is_none(), "{}: `{}` is listed twice", self.name, rule.0);
        }
        let mut header = Value::Object(header).to_string();
        header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
        let length = (header.len() as u64).to_le_bytes();
        fs::write(path, [&length, header.as_bytes(), &data].concat()).unwrap();
    }

    /// The prompts as an engine takes them.
    pub(crate) fn batch(&self) -> Vec<Prompt> {
        self.prompts.iter().map(|ids| Prompt { text: String::new(), ids: ids.clone() }).collect()
    }

    /// The natural answer to a prompt: its greedy tokens up to and with the first end of the sequence.
    pub(crate) fn natural(&self, row: usize) -> &[u32] {
        let greedy = &self.greedy[row];
        let end = self.natural_length(row).unwrap_or(greedy.len());
        &greedy[..end]
    }

    /// Tokens of the natural answer, its end-of-sequence token included; `None` where it doesn't end by itself.
    pub(crate) fn natural_length(&self, row: usize) -> Option<usize> {
        self.greedy[row].iter().position(|id| self.eos_ids.contains(id)).map(|at| at + 1)
    }

    /// Largest difference to the reference's logits of a row, relative to its largest logit.
    pub(crate) fn logit_error(&self, row: usize, logits: &[f32]) -> f32 {
        let reference = &self.prompt_logits[row];
        assert_eq!(logits.len(), reference.len(), "{}, row {row}: size of the vocabulary", self.name);
        let scale = reference.iter().fold(0f32, |largest, logit| largest.max(logit.abs()));
        // not `f32::max`, which passes over values that aren't numbers
        let largest = |largest: f32, error: f32| if error <= largest { largest } else { error };
        logits.iter().zip(reference).map(|(ours, theirs)| (ours - theirs).abs()).fold(0.0, largest) / scale
    }
}

impl TensorRule {
    /// The elements of tensor number `number`.
    fn values(&self, seed: u64, number: u64) -> impl Iterator<Item = f32> {
        let TensorRule(_, shape, offset, scale) = self;
        let first = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(number << 32);
        let count: usize = shape.iter().product();
        (0..count as u64).map(move |element| {
            let u = finalise(first.wrapping_add(element)) >> 40;
            offset + scale * (u as f32 / 8_388_608.0 - 1.0)
        })
    }
}

/// SplitMix64's finaliser.
fn finalise(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

fn goldens() -> PathBuf {
    repository().join("tests/golden")
}

#[test]
fn generated_weights_follow_the_rule() {
    // Computed with NumPy: seed 7, tensor 3, offset 1, scale 0.5.
    let rule = TensorRule("w".to_owned(), vec![2, 2], 1.0, 0.5);
    let expected = [1.315_375_3, 0.561_670_5, 0.919_207, 0.653_317_9];
    assert_eq!(rule.values(7, 3).collect::<Vec<_>>(), expected);
}
