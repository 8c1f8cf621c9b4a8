//! Models in a GGUF file: the header, hardened; tensors under transformers' names, with what llama.cpp's converter
//! changed undone; the configuration as a `config.json` would say it; the tokenizer's data.
//!
//! Only the header is read when a file is opened. Tensors are taken from the mapped file when they are asked for, either
//! dequantised or as quantised blocks for candle's `QMatMul`.
//!
//! **How exact a quantised product is.** Dequantising is exact to f32 rounding. `QMatMul` is not the product with the
//! dequantised weights: it quantises the activations too, to 8 bits in blocks of 32 (of 256 for the K types), as
//! llama.cpp does. Measured in this module's tests, 12 outputs for each type of random blocks and normal activations:
//! the largest error of an output is 0.6 % (Q4_1) to 1.5 % (Q6_K) of ‖w‖·‖x‖/√n, the size that a product of random
//! vectors has, and 0 for F32, F16 and BF16. So greedy tokens of a quantised model agree with those of its dequantised
//! weights except where the two best logits are about as close as that.

mod config;
mod header;
mod names;
mod tokenizer;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;

use crate::error::{Context, Error, Result};
use header::{Header, Reader, Stored, Value};
use names::{FAMILIES, Family, Layout, Source, Undo};

pub use config::config_json;

/// More experts (or heads) stacked in a tensor than any model has: keeps a hostile file from naming millions.
const MOST_STACKED: usize = 1024;

/// Tensors that follow from the metadata or that are asked for on their own.
const ROPE_DIVISORS: &str = "rope_freqs.weight";
const ROPE_LONG: &str = "rope_factors_long.weight";
const ROPE_SHORT: &str = "rope_factors_short.weight";

/// An opened GGUF file.
pub struct Gguf {
    path: PathBuf,
    mapped: Mmap,
    header: Header,
    family: &'static Family,
    /// Tensors by transformers' names.
    tensors: BTreeMap<String, Source>,
}

impl Gguf {
    /// Maps the file, reads its header, and finds each tensor's name in transformers.
    ///
    /// # Errors
    /// A file that can't be read, isn't GGUF version 2 or 3, is damaged or one part of several; an architecture that
    /// isn't known; a tensor that isn't part of it.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).input_context(|| format!("can't read `{}`", path.display()))?;
        // SAFETY: the mapping is sound as long as nobody truncates the file while the model is loaded, which holds for
        // any program that maps model files.
        let mapped = unsafe { Mmap::map(&file) };
        let mapped = mapped.input_context(|| format!("can't map `{}`", path.display()))?;
        let header = Header::read(&mapped).map_err(|error| error.at(path.display()))?;
        let mut gguf = Self {
            path: path.to_owned(),
            mapped,
            header,
            // replaced below, where the getters can be used
            family: &FAMILIES[0],
            tensors: BTreeMap::new(),
        };
        gguf.refuse_parts()?;
        gguf.name_tensors()?;
        Ok(gguf)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes of all tensors.
    pub fn stored_bytes(&self) -> u64 {
        self.header.tensors.values().map(|stored| stored.bytes.len() as u64).sum()
    }

    /// The type that most of the bytes are of, as llama.cpp writes it: `Q4_K`, `Q8_0`, `F16` …
    pub fn stored_dtype(&self) -> &'static str {
        let mut bytes: BTreeMap<&'static str, usize> = BTreeMap::new();
        for stored in self.header.tensors.values() {
            *bytes.entry(dtype_name(stored.dtype)).or_default() += stored.bytes.len();
        }
        bytes.into_iter().max_by_key(|(_, bytes)| *bytes).map_or("F32", |(name, _)| name)
    }

    /// Transformers' names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether the file holds the tensor with this name in transformers.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Shape of a tensor in transformers.
    ///
    /// # Errors
    /// No such tensor.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        let (source, stored) = self.find(name)?;
        let mut shape = slice_shape(source, stored);
        match source.undo {
            Undo::Transpose => shape.reverse(),
            Undo::Row => shape.insert(0, 1),
            Undo::Nothing | Undo::MinusOne | Undo::Deinterleave { .. } | Undo::Regroup { .. } => {}
        }
        Ok(shape)
    }

    /// Type that a tensor is stored in. For F32, F16 and BF16 [`load`](Self::load) is as good as
    /// [`load_stacked_matmul`](Self::load_stacked_matmul), and needs less memory.
    ///
    /// # Errors
    /// No such tensor.
    pub fn dtype(&self, name: &str) -> Result<GgmlDType> {
        Ok(self.find(name)?.1.dtype)
    }

    /// Loads a tensor as transformers has it, dequantised in f32, and casts it.
    ///
    /// # Errors
    /// No such tensor, or a device that is full.
    pub fn load(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let (source, stored) = self.find(name)?;
        let load = || -> Result<Tensor> {
            let blocks = self.blocks(source, stored)?;
            let shape = slice_shape(source, stored);
            let tensor = match plain_dtype(stored.dtype) {
                Some(plain) => Tensor::from_raw_buffer(&blocks, plain, &shape, &Device::Cpu)?,
                None => {
                    let blocks = Aligned::new(&blocks);
                    let storage = QStorage::from_data(Cow::Borrowed(blocks.bytes()), &Device::Cpu, stored.dtype)?;
                    QTensor::new(storage, shape)?.dequantize(&Device::Cpu)?
                }
            };
            let tensor = match source.undo {
                // in f32, where the converter added it
                Undo::MinusOne => (tensor.to_dtype(DType::F32)? - 1.0)?,
                Undo::Transpose => tensor.t()?.contiguous()?,
                Undo::Row => tensor.unsqueeze(0)?,
                Undo::Nothing | Undo::Deinterleave { .. } | Undo::Regroup { .. } => tensor,
            };
            Ok(tensor.to_dtype(dtype)?.to_device(device)?)
        };
        load().map_err(|error| error.at(self.place(&source.tensor)))
    }

    /// Matrices of (out, in) features with the same number of columns in one, row over row, for products x·Wᵀ without
    /// dequantising where candle has a kernel for their type. That is also the form of GPT-2's matrices, which
    /// transformers itself has as (in, out). `None` where their types or columns differ.
    ///
    /// # Errors
    /// No such tensor, one that isn't a matrix, or a device that is full.
    pub fn load_stacked_matmul(&self, names: &[&str], device: &Device) -> Result<Option<QMatMul>> {
        let found = names.iter().map(|name| self.find(name)).collect::<Result<Vec<_>>>()?;
        let Some((_, first)) = found.first() else { return Ok(None) };
        let (dtype, columns) = (first.dtype, first.row_len());
        if found.iter().any(|(_, stored)| stored.dtype != dtype || stored.row_len() != columns) {
            return Ok(None);
        }
        let mut rows = 0;
        let mut parts = Vec::with_capacity(found.len());
        for (source, stored) in &found {
            let at = |error: Error| error.at(self.place(&source.tensor));
            match slice_shape(source, stored)[..] {
                [count, _] => rows += count,
                ref other => return Err(at(Error::input(format!("has shape {other:?}, which isn't a matrix")))),
            }
            parts.push(self.blocks(source, stored).map_err(at)?);
        }
        let blocks = match <[Cow<'_, [u8]>; 1]>::try_from(parts) {
            Ok([single]) => single,
            Err(parts) => Cow::Owned(parts.concat()),
        };
        let blocks = Aligned::new(&blocks);
        let storage = QStorage::from_data(Cow::Borrowed(blocks.bytes()), device, dtype);
        let tensor = storage.and_then(|storage| QTensor::new(storage, (rows, columns)));
        let matmul = tensor.and_then(|tensor| match dtype {
            // types of intermediate results in ggml, for whose products GPUs have no kernels
            GgmlDType::Q8_1 | GgmlDType::Q8K => Ok(QMatMul::Tensor(tensor.dequantize(device)?)),
            _ => QMatMul::from_qtensor(tensor),
        });
        matmul.map(Some).map_err(|cause| Error::from(cause).at(self.place(names.first().unwrap_or(&""))))
    }

    /// Divisors of the rotary frequencies, one for each pair of a head: how llama.cpp stores Llama 3's scaling.
    ///
    /// # Errors
    /// A tensor that isn't a vector of finite numbers above 0.
    pub fn rope_divisors(&self) -> Result<Option<Vec<f32>>> {
        self.vector(ROPE_DIVISORS)
    }

    fn refuse_parts(&self) -> Result<()> {
        match self.optional_size("split.count")? {
            None | Some(0 | 1) => Ok(()),
            Some(count) => Err(Error::input(format!("is one of {count} parts"))
                .at(self.path.display())
                .hint("put them together with `llama-gguf-split --merge` of llama.cpp")),
        }
    }

    fn name_tensors(&mut self) -> Result<()> {
        let arch = self.text("general.architecture")?;
        let experts = self.optional_size(&format!("{arch}.expert_count"))?.unwrap_or(0);
        let heads = self.optional_size(&format!("{arch}.attention.head_count"))?.unwrap_or(0);
        let kv_heads = self.optional_size(&format!("{arch}.attention.head_count_kv"))?.unwrap_or(heads);
        let two_norms = self.header.tensors.contains_key("blk.0.attn_norm_2.weight");
        let layout = Layout { heads, kv_heads, experts, two_norms };
        self.family = names::find(&arch, &layout).ok_or_else(|| self.unknown_family(&arch))?;
        let mut tensors: BTreeMap<String, Source> = BTreeMap::new();
        for (tensor, stored) in &self.header.tensors {
            if [ROPE_DIVISORS, ROPE_LONG, ROPE_SHORT].contains(&tensor.as_str()) {
                continue;
            }
            let place = || self.place(tensor);
            let stacked = stored.shape.first().copied().filter(|_| stored.shape.len() > 1).unwrap_or(0);
            if stored.shape.len() > 2 && stacked > MOST_STACKED {
                let message = format!("stacks {stacked} matrices; at most {MOST_STACKED} are served");
                return Err(Error::input(message).at(place()));
            }
            let sources = self.family.sources(tensor, stacked.min(MOST_STACKED), &layout).ok_or_else(|| {
                Error::input(format!("isn't part of `{}` as it is known here", self.family.class)).at(place())
            })?;
            for (name, source) in sources {
                if source.undo.reorders_rows() && source.undo.row_order(slice_shape(&source, stored)[0]).is_none() {
                    let message = format!("its {} rows don't divide into the heads", stored.shape[0]);
                    return Err(Error::input(message).at(place()));
                }
                if let Some(other) = tensors.insert(name, source) {
                    return Err(Error::input(format!("stands for the same weight as `{}`", other.tensor)).at(place()));
                }
            }
        }
        self.tensors = tensors;
        Ok(())
    }

    fn unknown_family(&self, arch: &str) -> Error {
        let known: BTreeSet<String> = FAMILIES.iter().map(|family| format!("`{}`", family.arch)).collect();
        let known: Vec<String> = known.into_iter().collect();
        self.error("general.architecture", format!("`{arch}` isn't known; known are {}", known.join(", ")))
    }

    fn find(&self, name: &str) -> Result<(&Source, &Stored)> {
        let source = self.tensors.get(name);
        let found = source.and_then(|source| Some((source, self.header.tensors.get(&source.tensor)?)));
        found.ok_or_else(|| Error::input(format!("tensor `{name}` is missing")).at(self.path.display()))
    }

    /// The blocks of a tensor, rows in transformers' order.
    fn blocks<'a>(&'a self, source: &Source, stored: &Stored) -> Result<Cow<'a, [u8]>> {
        let damaged = || Error::input("doesn't lie in the file");
        let all = self.mapped.get(stored.bytes.clone()).ok_or_else(damaged)?;
        let bytes = match source.part {
            None => all,
            Some(part) => {
                let len = all.len() / stored.shape.first().copied().unwrap_or(1).max(1);
                all.get(part * len..(part + 1) * len).ok_or_else(damaged)?
            }
        };
        let shape = slice_shape(source, stored);
        // of a bias, each number is a row
        let row_bytes = if shape.len() > 1 { stored.row_bytes() } else { stored.dtype.type_size() };
        let rows = shape.first().copied().unwrap_or(1);
        let Some(order) = source.undo.row_order(rows) else { return Ok(Cow::Borrowed(bytes)) };
        if shape.len() == 1 && stored.dtype.block_size() > 1 {
            return Err(Error::input("is a quantised vector whose numbers would have to change places"));
        }
        let mut ordered = Vec::with_capacity(bytes.len());
        for row in order {
            ordered.extend_from_slice(bytes.get(row * row_bytes..(row + 1) * row_bytes).ok_or_else(damaged)?);
        }
        Ok(Cow::Owned(ordered))
    }

    fn vector(&self, tensor: &str) -> Result<Option<Vec<f32>>> {
        let Some(stored) = self.header.tensors.get(tensor) else { return Ok(None) };
        let source = Source { tensor: tensor.to_owned(), part: None, undo: Undo::Nothing };
        let place = |error: Error| error.at(self.place(tensor));
        let Some(plain) = plain_dtype(stored.dtype).filter(|_| stored.shape.len() == 1) else {
            return Err(place(Error::input("isn't a vector of plain numbers")));
        };
        let blocks = self.blocks(&source, stored).map_err(place)?;
        let tensor = Tensor::from_raw_buffer(&blocks, plain, &stored.shape, &Device::Cpu)?;
        let values = tensor.to_dtype(DType::F32)?.to_vec1::<f32>()?;
        match values.iter().all(|value| value.is_finite() && *value > 0.0) {
            true => Ok(Some(values)),
            false => Err(place(Error::input("holds a number that isn't above 0"))),
        }
    }

    fn place(&self, tensor: &str) -> String {
        format!("{}: tensor `{tensor}`", self.path.display())
    }
}

/// Metadata.
impl Gguf {
    fn error(&self, key: &str, message: String) -> Error {
        Error::input(format!("`{key}`: {message}")).at(self.path.display())
    }

    fn wrong(&self, key: &str, value: &Value, expected: &str) -> Error {
        self.error(key, format!("is {}, not {expected}", value.kind()))
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.error(key, "is missing".to_owned()))
    }

    fn optional_text(&self, key: &str) -> Result<Option<String>> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.wrong(key, other, "a string")),
        }
    }

    fn text(&self, key: &str) -> Result<String> {
        self.required(key, self.optional_text(key)?)
    }

    fn optional_flag(&self, key: &str) -> Result<Option<bool>> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.wrong(key, other, "a boolean")),
        }
    }

    /// A whole number from 0. An array, as files with a size for each layer have it, counts where all are equal.
    fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::Array { .. }) => {
                let values = self.integers(key)?.unwrap_or_default();
                match values.first() {
                    Some(first) if values.iter().all(|value| value == first) => self.as_size(key, *first).map(Some),
                    _ => Err(self.error(key, "layers of different sizes aren't served".to_owned())),
                }
            }
            Some(Value::Unsigned(value)) => match usize::try_from(*value) {
                Ok(size) => Ok(Some(size)),
                Err(_) => Err(self.error(key, format!("{value} is too large"))),
            },
            Some(Value::Signed(value)) => self.as_size(key, *value).map(Some),
            Some(other) => Err(self.wrong(key, other, "a whole number")),
        }
    }

    fn optional_integer(&self, key: &str) -> Result<Option<i64>> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::Unsigned(value)) => match i64::try_from(*value) {
                Ok(value) => Ok(Some(value)),
                Err(_) => Err(self.error(key, format!("{value} is too large"))),
            },
            Some(Value::Signed(value)) => Ok(Some(*value)),
            Some(other) => Err(self.wrong(key, other, "a whole number")),
        }
    }

    fn as_size(&self, key: &str, value: i64) -> Result<usize> {
        usize::try_from(value).map_err(|_| self.error(key, format!("{value} isn't a size")))
    }

    fn size(&self, key: &str) -> Result<usize> {
        self.required(key, self.optional_size(key)?)
    }

    fn optional_number(&self, key: &str) -> Result<Option<f64>> {
        match self.header.metadata.get(key) {
            None => Ok(None),
            Some(Value::Float(value)) if value.is_finite() => Ok(Some(*value)),
            Some(Value::Float(_)) => Err(self.error(key, "isn't finite".to_owned())),
            Some(Value::Unsigned(value)) => Ok(Some(*value as f64)),
            Some(Value::Signed(value)) => Ok(Some(*value as f64)),
            Some(other) => Err(self.wrong(key, other, "a number")),
        }
    }

    /// An array of integers or booleans.
    fn integers(&self, key: &str) -> Result<Option<Vec<i64>>> {
        self.elements(key, "an array of integers", |value| match value {
            Value::Unsigned(value) => i64::try_from(value).ok(),
            Value::Signed(value) => Some(value),
            Value::Bool(flag) => Some(flag.into()),
            _ => None,
        })
    }

    /// An array of strings.
    fn texts(&self, key: &str) -> Result<Option<Vec<String>>> {
        self.elements(key, "an array of strings", |value| match value {
            Value::Text(text) => Some(text),
            _ => None,
        })
    }

    fn elements<T>(&self, key: &str, expected: &str, read: impl Fn(Value) -> Option<T>) -> Result<Option<Vec<T>>> {
        let (kind, count, bytes) = match self.header.metadata.get(key) {
            None => return Ok(None),
            Some(Value::Array { kind, count, bytes }) => (*kind, *count, bytes.clone()),
            Some(other) => return Err(self.wrong(key, other, expected)),
        };
        let mut reader = Reader::new(self.mapped.get(bytes).unwrap_or_default());
        let mut elements = Vec::new();
        for index in 0..count {
            let place = |error: Error| error.at(format!("{}: `{key}`, element {index}", self.path.display()));
            let value = reader.value(kind).map_err(place)?;
            elements.push(read(value).ok_or_else(|| self.error(key, format!("isn't {expected}")))?);
        }
        Ok(Some(elements))
    }
}

/// Bytes at an address that every type of block may stand at. candle refuses other addresses by panicking.
enum Aligned<'a> {
    AsIs(&'a [u8]),
    Moved { buffer: Vec<u8>, start: usize },
}

impl<'a> Aligned<'a> {
    /// Largest alignment of a block's fields: f32.
    const TO: usize = align_of::<f32>();

    fn new(bytes: &'a [u8]) -> Self {
        if bytes.as_ptr().align_offset(Self::TO) == 0 {
            return Aligned::AsIs(bytes);
        }
        let mut buffer = vec![0; bytes.len() + Self::TO];
        let start = buffer.as_ptr().align_offset(Self::TO).min(Self::TO);
        buffer[start..start + bytes.len()].copy_from_slice(bytes);
        buffer.truncate(start + bytes.len());
        Aligned::Moved { buffer, start }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Aligned::AsIs(bytes) => bytes,
            Aligned::Moved { buffer, start } => buffer.get(*start..).unwrap_or_default(),
        }
    }
}

/// Shape of what a source takes of a tensor.
fn slice_shape(source: &Source, stored: &Stored) -> Vec<usize> {
    stored.shape.iter().skip(usize::from(source.part.is_some())).copied().collect()
}

/// The types that aren't quantised.
fn plain_dtype(dtype: GgmlDType) -> Option<DType> {
    match dtype {
        GgmlDType::F32 => Some(DType::F32),
        GgmlDType::F16 => Some(DType::F16),
        GgmlDType::BF16 => Some(DType::BF16),
        _ => None,
    }
}

/// llama.cpp's spelling.
fn dtype_name(dtype: GgmlDType) -> &'static str {
    match dtype {
        GgmlDType::F32 => "F32",
        GgmlDType::F16 => "F16",
        GgmlDType::BF16 => "BF16",
        GgmlDType::Q4_0 => "Q4_0",
        GgmlDType::Q4_1 => "Q4_1",
        GgmlDType::Q5_0 => "Q5_0",
        GgmlDType::Q5_1 => "Q5_1",
        GgmlDType::Q8_0 => "Q8_0",
        GgmlDType::Q8_1 => "Q8_1",
        GgmlDType::Q2K => "Q2_K",
        GgmlDType::Q3K => "Q3_K",
        GgmlDType::Q4K => "Q4_K",
        GgmlDType::Q5K => "Q5_K",
        GgmlDType::Q6K => "Q6_K",
        GgmlDType::Q8K => "Q8_K",
    }
}

#[cfg(test)]
#[path = "gguf_tests.rs"]
mod tests;
