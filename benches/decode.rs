//! Decoding speed on the CPU: `cargo bench --bench decode`, or `cargo bench --bench decode -- student`.
//!
//! Random models of the shapes of the bundled ones (and a larger one), in f32: this crate's decoder on its own kernels
//! and on candle's operations, at batch 1 and 8, and candle-transformers' Llama at batch 1 on the same weights.
//!
//! candle reads files to count the cores in every matrix product unless `RAYON_NUM_THREADS` is set: compare with both.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::{DType, Device, IndexOp, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{self, Llama};
use ept_sweep::engine::load::{DeviceChoice, LoadOptions, load_decoder};
use ept_sweep::engine::{Engine, GenerateOptions, Kernels, Prompt};
use ept_sweep::record::OutputLength;
use serde_json::json;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const PROMPT: usize = 64;
const NEW: usize = 64;
const MEASURE_FOR: Duration = Duration::from_secs(3);

struct Shape {
    name: &'static str,
    hidden: usize,
    inner: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    vocabulary: usize,
}

const SHAPES: [Shape; 3] = [
    Shape { name: "student", hidden: 128, inner: 352, layers: 4, heads: 4, kv_heads: 2, vocabulary: 1024 },
    Shape { name: "teacher", hidden: 320, inner: 864, layers: 5, heads: 10, kv_heads: 5, vocabulary: 1024 },
    Shape { name: "30M", hidden: 576, inner: 1536, layers: 8, heads: 9, kv_heads: 3, vocabulary: 8192 },
];

fn main() -> Outcome<()> {
    println!("prompt {PROMPT}, {NEW} new tokens, f32 on the CPU, {} threads", rayon::current_num_threads());
    println!(
        "{:10} {:>5} {:>12} {:>12} {:>22} {:>8}",
        "model", "batch", "own, tok/s", "stock, tok/s", "candle-transformers", "ratio"
    );
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    for shape in SHAPES.into_iter().filter(|shape| wanted.is_empty() || wanted.iter().any(|name| name == shape.name)) {
        let folder = std::env::temp_dir().join(format!("ept-sweep-bench-{}-{}", std::process::id(), shape.name));
        let weights = shape.write(&folder)?;
        let theirs = tokens_per_second(|| candle_transformers(&shape, &weights))?;
        for batch in [1, 8] {
            let own = ours(&folder, batch, Kernels::Cpu)?;
            let stock = ours(&folder, batch, Kernels::Stock)?;
            let (theirs, ratio) = match batch {
                1 => (format!("{theirs:.0}"), format!("{:.2}", own / theirs)),
                _ => (String::new(), String::new()),
            };
            println!("{:10} {batch:5} {own:12.0} {stock:12.0} {theirs:>22} {ratio:>8}", shape.name);
        }
        std::fs::remove_dir_all(&folder)?;
    }
    Ok(())
}

impl Shape {
    fn tensors(&self) -> candle_core::Result<HashMap<String, Tensor>> {
        let (h, i, kv) = (self.hidden, self.inner, self.hidden / self.heads * self.kv_heads);
        let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocabulary, h])];
        for layer in 0..self.layers {
            let parts = [
                ("self_attn.q_proj", vec![h, h]),
                ("self_attn.k_proj", vec![kv, h]),
                ("self_attn.v_proj", vec![kv, h]),
                ("self_attn.o_proj", vec![h, h]),
                ("mlp.gate_proj", vec![i, h]),
                ("mlp.up_proj", vec![i, h]),
                ("mlp.down_proj", vec![h, i]),
                ("input_layernorm", vec![h]),
                ("post_attention_layernorm", vec![h]),
            ];
            shapes.extend(parts.map(|(part, shape)| (format!("model.layers.{layer}.{part}.weight"), shape)));
        }
        shapes.push(("model.norm.weight".to_owned(), vec![h]));
        let random = |(name, shape): (String, Vec<usize>)| {
            let scale = 1.0 / (*shape.last().unwrap_or(&1) as f32).sqrt();
            Ok((name, Tensor::randn(0f32, scale, shape, &Device::Cpu)?))
        };
        shapes.into_iter().map(random).collect()
    }

    fn write(&self, folder: &Path) -> Outcome<PathBuf> {
        std::fs::create_dir_all(folder)?;
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "vocab_size": self.vocabulary, "hidden_size": self.hidden,
            "intermediate_size": self.inner, "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads, "max_position_embeddings": 1024, "tie_word_embeddings": true,
        });
        std::fs::write(folder.join("config.json"), config.to_string())?;
        let weights = folder.join("model.safetensors");
        candle_core::safetensors::save(&self.tensors()?, &weights)?;
        Ok(weights)
    }

    fn candle_config(&self) -> llama::Config {
        llama::Config {
            hidden_size: self.hidden,
            intermediate_size: self.inner,
            vocab_size: self.vocabulary,
            num_hidden_layers: self.layers,
            num_attention_heads: self.heads,
            num_key_value_heads: self.kv_heads,
            use_flash_attn: false,
            rms_norm_eps: 1e-6,
            rope_theta: 10_000.0,
            bos_token_id: None,
            eos_token_id: None,
            rope_scaling: None,
            max_position_embeddings: 1024,
            tie_word_embeddings: true,
        }
    }
}

/// New tokens per second, prefill included: the fastest of the repeats that fit the time.
fn tokens_per_second<F: FnMut() -> Outcome<usize>>(prepare: impl FnOnce() -> Outcome<F>) -> Outcome<f64> {
    let mut generate = prepare()?;
    generate()?;
    let (mut best, began) = (0f64, Instant::now());
    while began.elapsed() < MEASURE_FOR {
        let start = Instant::now();
        let tokens = generate()?;
        best = best.max(tokens as f64 / start.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn prompt_ids(row: usize, vocabulary: usize) -> Vec<u32> {
    (0..PROMPT).map(|i| ((i * 31 + row * 17) % vocabulary) as u32).collect()
}

fn ours(folder: &Path, batch: usize, kernels: Kernels) -> Outcome<f64> {
    tokens_per_second(|| {
        let mut engine = load_decoder(folder, &LoadOptions::default(), DeviceChoice::Cpu, Some(kernels))?;
        let prompts: Vec<Prompt> =
            (0..batch).map(|row| Prompt { text: String::new(), ids: prompt_ids(row, 1024) }).collect();
        let options = GenerateOptions::greedy(NEW, OutputLength::Fixed);
        Ok(move || Ok(engine.generate(&prompts, options)?.iter().map(|answer| answer.ids.len()).sum()))
    })
}

fn candle_transformers(shape: &Shape, weights: &Path) -> Outcome<impl FnMut() -> Outcome<usize> + use<>> {
    let (device, config) = (Device::Cpu, shape.candle_config());
    let tensors = candle_core::safetensors::load(weights, &device)?;
    let model = Llama::load(VarBuilder::from_tensors(tensors, DType::F32, &device), &config)?;
    let ids = prompt_ids(0, 1024);
    Ok(move || {
        let mut cache = llama::Cache::new(true, DType::F32, &config, &device)?;
        let mut input = Tensor::new(&ids[..], &device)?.unsqueeze(0)?;
        let mut position = 0;
        for _ in 0..NEW {
            let logits = model.forward(&input, position, &mut cache)?;
            position += input.dim(1)?;
            let next = logits.i(0)?.argmax(0)?.to_scalar::<u32>()?;
            input = Tensor::new(&[[next]], &device)?;
        }
        Ok(NEW)
    })
}
