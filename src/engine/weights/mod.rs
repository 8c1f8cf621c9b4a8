//! The weights of a model folder: finding the safetensors files, checking every tensor against the config before
//! anything is loaded, and loading tensors in the data type that the model runs in.

#[allow(dead_code)]
mod adapter;
#[allow(dead_code)]
mod gguf;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device, Tensor};

use super::config::{Config, read_object};
use crate::error::{Context, Error, Result};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Name of the embedding table.
pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";
/// Name of the output layer, where it isn't the embedding table.
pub(super) const OUTPUT: &str = "lm_head.weight";
/// Name of the norm before the output layer.
pub(super) const FINAL_NORM: &str = "model.norm.weight";

/// The safetensors files of a model, mapped into memory, and what is in them.
pub(super) struct Weights {
    files: Vec<File>,
    tensors: BTreeMap<String, Stored>,
}

struct File {
    path: PathBuf,
    mapped: MmapedSafetensors,
}

/// Where a tensor lies and what it is.
struct Stored {
    file: usize,
    shape: Vec<usize>,
    dtype: DType,
    bytes: u64,
}

impl Weights {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// No such file (with what to do about other formats), or a file that is damaged.
    pub fn open(folder: &Path) -> Result<Self> {
        let mut weights = Self { files: Vec::new(), tensors: BTreeMap::new() };
        if folder.join(SINGLE).is_file() {
            weights.add_file(folder.join(SINGLE))?;
        } else if folder.join(INDEX).is_file() {
            weights.add_shards(folder)?;
        } else {
            return Err(no_weights(folder));
        }
        Ok(weights)
    }

    /// The files, in the order of reading.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// Bytes of all tensors on disk.
    pub fn stored_bytes(&self) -> u64 {
        self.tensors.values().map(|tensor| tensor.bytes).sum()
    }

    /// The data type that most of the weights are stored in.
    pub fn stored_dtype(&self) -> DType {
        let bytes_in = |dtype| -> u64 {
            let matching = self.tensors.values().filter(|tensor| tensor.dtype == dtype);
            matching.map(|tensor| tensor.bytes).sum()
        };
        [DType::F32, DType::BF16, DType::F16].into_iter().max_by_key(|dtype| bytes_in(*dtype)).unwrap_or(DType::F32)
    }

    /// Whether the output layer has weights of its own. A stored copy of the embedding table doesn't count where the
    /// config ties the two, as in transformers 5.
    pub fn has_own_output(&self, config: &Config) -> Result<bool> {
        if !self.tensors.contains_key(OUTPUT) {
            return Ok(false);
        }
        Ok(!config.tied || self.data(OUTPUT)? != self.data(EMBEDDING)?)
    }

    /// Checks that exactly the tensors of the config are there, in the right shapes.
    ///
    /// # Errors
    /// A missing, an unexpected or a wrongly shaped tensor, or one of a type that isn't served; the message names the
    /// file and the tensor.
    pub fn check(&self, config: &Config) -> Result<()> {
        let mut expected = BTreeSet::new();
        for (name, shape) in shapes(config) {
            self.check_tensor(&name, &shape)?;
            expected.insert(name);
        }
        if self.tensors.contains_key(OUTPUT) {
            self.check_tensor(OUTPUT, &[config.vocab_size, config.hidden_size])?;
            expected.insert(OUTPUT.to_owned());
        }
        match self.tensors.keys().find(|name| !expected.contains(*name) && !is_recomputed(name)) {
            None => Ok(()),
            Some(name) => Err(self
                .error(name, format!("isn't part of `{}` as `config.json` describes it", config.architecture))
                .hint("an adapter has to be merged first; a bias has to be stated in `config.json`")),
        }
    }

    /// Parameters that the config asks for; the output layer counts where it has weights of its own.
    pub fn parameters(&self, config: &Config) -> Result<u64> {
        let count = |shape: &[usize]| shape.iter().map(|size| *size as u64).product::<u64>();
        let body: u64 = shapes(config).map(|(_, shape)| count(&shape)).sum();
        let output = match self.has_own_output(config)? {
            true => count(&[config.vocab_size, config.hidden_size]),
            false => 0,
        };
        Ok(body + output)
    }

    /// Loads a tensor and casts it.
    pub fn load(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let stored = self.find(name)?;
        let tensor = self.files[stored.file].mapped.load(name, device).and_then(|tensor| tensor.to_dtype(dtype));
        tensor.map_err(|cause| Error::from(cause).at(self.place(name, stored)))
    }

    /// Loads several matrices with the same number of columns, stacked row over row.
    pub fn load_stacked(&self, names: &[String], dtype: DType, device: &Device) -> Result<Tensor> {
        let parts = names.iter().map(|name| self.load(name, dtype, device)).collect::<Result<Vec<_>>>()?;
        Ok(Tensor::cat(&parts, 0)?)
    }

    fn add_shards(&mut self, folder: &Path) -> Result<()> {
        let index = folder.join(INDEX);
        let json = read_object(&index)?;
        let map = json.get("weight_map").and_then(|map| map.as_object());
        let map = map.ok_or_else(|| Error::input("`weight_map`: is missing").at(index.display()))?;
        let named: BTreeSet<&str> = map.values().filter_map(|file| file.as_str()).collect();
        for shard in named {
            let path = folder.join(shard);
            if Path::new(shard).components().count() != 1 || !path.is_file() {
                return Err(Error::input(format!("`weight_map`: `{shard}` isn't in the folder")).at(index.display()));
            }
            self.add_file(path)?;
        }
        match map.keys().find(|name| !self.tensors.contains_key(*name)) {
            None => Ok(()),
            Some(name) => {
                let message = format!("`weight_map`: tensor `{name}` isn't in the shard that it names");
                Err(Error::input(message).at(index.display()))
            }
        }
    }

    fn add_file(&mut self, path: PathBuf) -> Result<()> {
        // SAFETY: the mapping is sound as long as nobody truncates the file while the model is loaded, which holds for
        // any program that maps model files.
        let mapped = unsafe { MmapedSafetensors::new(&path) };
        let mapped = mapped.map_err(|cause| {
            let message = Error::from(cause).message().to_owned();
            Error::input(format!("isn't a whole safetensors file: {message}"))
                .at(path.display())
                .hint("download or copy the file again")
        })?;
        for (name, view) in mapped.tensors() {
            let place = || format!("{}: tensor `{name}`", path.display());
            let dtype = DType::try_from(view.dtype()).map_err(|_| unserved_dtype(&format!("{:?}", view.dtype())));
            let dtype = dtype.and_then(served_dtype).map_err(|error| error.at(place()))?;
            let bytes = view.data().len() as u64;
            let stored = Stored { file: self.files.len(), shape: view.shape().to_vec(), dtype, bytes };
            if self.tensors.insert(name.clone(), stored).is_some() {
                return Err(Error::input("is in another file too").at(place()));
            }
        }
        self.files.push(File { path, mapped });
        Ok(())
    }

    fn check_tensor(&self, name: &str, shape: &[usize]) -> Result<()> {
        let stored = self.find(name)?;
        match stored.shape == shape {
            true => Ok(()),
            false => Err(self.error(name, format!("has shape {:?}, `config.json` asks for {shape:?}", stored.shape))),
        }
    }

    fn find(&self, name: &str) -> Result<&Stored> {
        self.tensors.get(name).ok_or_else(|| {
            let places = self.paths().map(|path| path.display().to_string()).collect::<Vec<_>>();
            Error::input(format!("tensor `{name}` is missing")).at(places.join(", "))
        })
    }

    fn data(&self, name: &str) -> Result<&[u8]> {
        let stored = self.find(name)?;
        Ok(self.files[stored.file].mapped.get(name)?.data())
    }

    fn place(&self, name: &str, stored: &Stored) -> String {
        format!("{}: tensor `{name}`", self.files[stored.file].path.display())
    }

    fn error(&self, name: &str, message: String) -> Error {
        match self.find(name) {
            Ok(stored) => Error::input(message).at(self.place(name, stored)),
            Err(missing) => missing,
        }
    }
}

/// Names of the tensors of one layer.
pub(super) struct LayerNames {
    prefix: String,
}

impl LayerNames {
    /// The layer with this index.
    pub fn new(layer: usize) -> Self {
        Self { prefix: format!("model.layers.{layer}") }
    }

    /// `weight` or `bias` of a part of the layer, such as `mlp.up_proj`.
    pub fn of(&self, part: &str, kind: &str) -> String {
        format!("{}.{part}.{kind}", self.prefix)
    }
}

/// Every tensor that the config asks for, with its shape, the output layer left out.
fn shapes(config: &Config) -> impl Iterator<Item = (String, Vec<usize>)> {
    let ends = [
        (EMBEDDING.to_owned(), vec![config.vocab_size, config.hidden_size]),
        (FINAL_NORM.to_owned(), vec![config.hidden_size]),
    ];
    ends.into_iter().chain((0..config.layers).flat_map(|layer| layer_shapes(config, layer)))
}

fn layer_shapes(config: &Config, layer: usize) -> Vec<(String, Vec<usize>)> {
    let names = LayerNames::new(layer);
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let mut shapes = vec![
        (names.of("input_layernorm", "weight"), vec![hidden]),
        (names.of("post_attention_layernorm", "weight"), vec![hidden]),
    ];
    let linear = [
        ("self_attn.q_proj", queries, hidden, config.biases.qkv),
        ("self_attn.k_proj", keys, hidden, config.biases.qkv),
        ("self_attn.v_proj", keys, hidden, config.biases.qkv),
        ("self_attn.o_proj", hidden, queries, config.biases.attention_output),
        ("mlp.gate_proj", inner, hidden, config.biases.mlp),
        ("mlp.up_proj", inner, hidden, config.biases.mlp),
        ("mlp.down_proj", hidden, inner, config.biases.mlp),
    ];
    for (part, rows, columns, bias) in linear {
        shapes.push((names.of(part, "weight"), vec![rows, columns]));
        if bias {
            shapes.push((names.of(part, "bias"), vec![rows]));
        }
    }
    shapes
}

/// Buffers that older versions of transformers stored and that follow from the config.
fn is_recomputed(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq")
}

fn served_dtype(dtype: DType) -> Result<DType> {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => Ok(dtype),
        other => Err(unserved_dtype(other.as_str())),
    }
}

fn unserved_dtype(name: &str) -> Error {
    Error::input(format!("is stored as `{name}`; served are `f32`, `f16` and `bf16`"))
}

fn no_weights(folder: &Path) -> Error {
    let names: Vec<String> = match fs::read_dir(folder).context(|| format!("can't read `{}`", folder.display())) {
        Ok(entries) => entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect(),
        Err(error) => return error.kind(crate::error::Kind::Input),
    };
    let has = |endings: &[&str]| names.iter().any(|name| endings.iter().any(|ending| name.ends_with(ending)));
    let error = Error::input(format!("has no `{SINGLE}` and no `{INDEX}`")).at(folder.display());
    if has(&[".bin", ".pt", ".pth", ".ckpt"]) {
        error.hint(
            "pickled PyTorch weights can run code while they are read and aren't served; convert them: \
             `AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)` in transformers writes safetensors",
        )
    } else if has(&[".gguf"]) {
        error.hint("GGUF files aren't served; take the safetensors of the same model")
    } else {
        error.hint("name a folder as `save_pretrained` writes it")
    }
}
