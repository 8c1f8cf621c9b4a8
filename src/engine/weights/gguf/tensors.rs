//! The tensors of a GGUF file under transformers' names, with what llama.cpp's converter changed undone.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use candle_core::quantized::{QMatMul, QStorage, QTensor};
use candle_core::{DType, Device, Tensor};

use super::aligned::Aligned;
use super::names::{self, FAMILIES, Family, Layout, Source, Undo};
use super::types::{ggml_dtype, plain_dtype};
use crate::error::{Error, Result};
use crate::gguf::{BlockType, GgufFile, StoredTensor};

/// More experts (or heads) stacked in a tensor than any model has: keeps a hostile file from naming millions.
pub(super) const MOST_STACKED: usize = 1024;

/// Tensors that follow from the metadata or that are asked for on their own.
pub(super) const ROPE_DIVISORS: &str = "rope_freqs.weight";
pub(super) const ROPE_LONG: &str = "rope_factors_long.weight";
pub(super) const ROPE_SHORT: &str = "rope_factors_short.weight";

/// The weights of an opened GGUF file.
pub(crate) struct Gguf {
    pub(super) file: GgufFile,
    pub(super) family: &'static Family,
    /// Tensors by transformers' names.
    tensors: BTreeMap<String, Source>,
}

impl Gguf {
    /// Opens the file and finds each tensor's name in transformers.
    ///
    /// # Errors
    /// A file that can't be read, isn't GGUF version 2 or 3, is damaged or one part of several; an architecture that
    /// isn't known; a tensor that isn't part of it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = GgufFile::open(path)?;
        refuse_parts(&file)?;
        let (family, layout) = family_of(&file)?;
        let tensors = named_tensors(&file, family, &layout)?;
        Ok(Self { file, family, tensors })
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Bytes of all tensors.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.file.tensors().values().map(|stored| stored.bytes.len() as u64).sum()
    }

    /// The type that most of the bytes are of, as llama.cpp writes it: `Q4_K`, `Q8_0`, `F16` …
    pub(crate) fn stored_dtype(&self) -> &'static str {
        let mut bytes: BTreeMap<&'static str, usize> = BTreeMap::new();
        for stored in self.file.tensors().values() {
            *bytes.entry(stored.dtype.name()).or_default() += stored.bytes.len();
        }
        bytes.into_iter().max_by_key(|(_, bytes)| *bytes).map_or("F32", |(name, _)| name)
    }

    /// Transformers' names of all tensors.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether the file holds the tensor with this name in transformers.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Shape of a tensor in transformers.
    ///
    /// # Errors
    /// No such tensor.
    pub(crate) fn shape(&self, name: &str) -> Result<Vec<usize>> {
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
    pub(crate) fn dtype(&self, name: &str) -> Result<BlockType> {
        Ok(self.find(name)?.1.dtype)
    }

    /// Loads a tensor as transformers has it, dequantised in f32, and casts it.
    ///
    /// # Errors
    /// No such tensor, or a device that is full.
    pub(crate) fn load(&self, name: &str, dtype: DType, device: &Device) -> Result<Tensor> {
        let (source, stored) = self.find(name)?;
        let load = || -> Result<Tensor> {
            let blocks = self.blocks(source, stored)?;
            let shape = slice_shape(source, stored);
            let tensor = match plain_dtype(stored.dtype) {
                Some(plain) => Tensor::from_raw_buffer(&blocks, plain, &shape, &Device::Cpu)?,
                None => {
                    let blocks = Aligned::new(&blocks);
                    let storage =
                        QStorage::from_data(Cow::Borrowed(blocks.bytes()), &Device::Cpu, ggml_dtype(stored.dtype))?;
                    QTensor::new(storage, shape)?.dequantize(&Device::Cpu)?
                }
            };
            let tensor = match source.undo {
                // in f32, since the converter added it in f32
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
    /// dequantising, if candle has a kernel for their type. That is also the form of GPT-2's matrices, which
    /// transformers itself has as (in, out). `None` if their types or columns differ.
    ///
    /// # Errors
    /// No such tensor, one that isn't a matrix, or a device that is full.
    pub(crate) fn load_stacked_matmul(&self, names: &[&str], device: &Device) -> Result<Option<QMatMul>> {
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
        let storage = QStorage::from_data(Cow::Borrowed(blocks.bytes()), device, ggml_dtype(dtype));
        let tensor = storage.and_then(|storage| QTensor::new(storage, (rows, columns)));
        let matmul = tensor.and_then(|tensor| match dtype {
            // types of intermediate results in ggml, for whose products GPUs have no kernels
            BlockType::Q8_1 | BlockType::Q8K => Ok(QMatMul::Tensor(tensor.dequantize(device)?)),
            _ => QMatMul::from_qtensor(tensor),
        });
        matmul.map(Some).map_err(|cause| Error::from(cause).at(self.place(names.first().unwrap_or(&""))))
    }

    /// Divisors of the rotary frequencies, one for each pair of a head: how llama.cpp stores Llama 3's scaling.
    ///
    /// # Errors
    /// A tensor that isn't a vector of finite numbers above 0.
    pub(crate) fn rope_divisors(&self) -> Result<Option<Vec<f32>>> {
        self.vector(ROPE_DIVISORS)
    }

    fn find(&self, name: &str) -> Result<(&Source, &StoredTensor)> {
        let source = self.tensors.get(name);
        let found = source.and_then(|source| Some((source, self.file.tensors().get(&source.tensor)?)));
        found.ok_or_else(|| Error::input(format!("tensor `{name}` is missing")).at(self.path().display()))
    }

    /// The blocks of a tensor, rows in transformers' order.
    fn blocks<'a>(&'a self, source: &Source, stored: &StoredTensor) -> Result<Cow<'a, [u8]>> {
        let damaged = || Error::input("doesn't lie in the file");
        let all = self.file.bytes(stored.bytes.clone()).ok_or_else(damaged)?;
        let bytes = match source.part {
            None => all,
            Some(part) => {
                let len = all.len() / stored.shape.first().copied().unwrap_or(1).max(1);
                all.get(part * len..(part + 1) * len).ok_or_else(damaged)?
            }
        };
        let shape = slice_shape(source, stored);
        // of a bias, each number is a row
        let row_bytes = if shape.len() > 1 { stored.row_bytes() } else { stored.dtype.bytes() };
        let rows = shape.first().copied().unwrap_or(1);
        let Some(order) = source.undo.row_order(rows) else { return Ok(Cow::Borrowed(bytes)) };
        if shape.len() == 1 && !stored.dtype.is_plain() {
            return Err(Error::input("is a quantised vector whose numbers would have to change places"));
        }
        let mut ordered = Vec::with_capacity(bytes.len());
        for row in order {
            ordered.extend_from_slice(bytes.get(row * row_bytes..(row + 1) * row_bytes).ok_or_else(damaged)?);
        }
        Ok(Cow::Owned(ordered))
    }

    /// A vector of numbers above 0, by its name in the file.
    pub(super) fn vector(&self, tensor: &str) -> Result<Option<Vec<f32>>> {
        let Some(stored) = self.file.tensors().get(tensor) else { return Ok(None) };
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
        place(&self.file, tensor)
    }
}

/// Shape of what a source takes of a tensor.
fn slice_shape(source: &Source, stored: &StoredTensor) -> Vec<usize> {
    stored.shape.iter().skip(usize::from(source.part.is_some())).copied().collect()
}

fn place(file: &GgufFile, tensor: &str) -> String {
    format!("{}: tensor `{tensor}`", file.path().display())
}

fn refuse_parts(file: &GgufFile) -> Result<()> {
    match file.optional_size("split.count")? {
        None | Some(0 | 1) => Ok(()),
        Some(count) => Err(Error::input(format!("is one of {count} parts"))
            .at(file.path().display())
            .with_hint("put them together with `llama-gguf-split --merge` of llama.cpp")),
    }
}

/// The family of the file's architecture, and what its names and orders depend on.
fn family_of(file: &GgufFile) -> Result<(&'static Family, Layout)> {
    let arch = file.text("general.architecture")?;
    let experts = file.optional_size(&format!("{arch}.expert_count"))?.unwrap_or(0);
    let heads = file.optional_size(&format!("{arch}.attention.head_count"))?.unwrap_or(0);
    let kv_heads = file.optional_size(&format!("{arch}.attention.head_count_kv"))?.unwrap_or(heads);
    let two_norms = file.tensors().contains_key("blk.0.attn_norm_2.weight");
    let layout = Layout { heads, kv_heads, experts, two_norms };
    let family = names::find(&arch, &layout).ok_or_else(|| {
        let known: BTreeSet<String> = FAMILIES.iter().map(|family| format!("`{}`", family.arch)).collect();
        let known: Vec<String> = known.into_iter().collect();
        file.error("general.architecture", format!("`{arch}` isn't known; known are {}", known.join(", ")))
    })?;
    Ok((family, layout))
}

/// Where each tensor of transformers comes from.
fn named_tensors(file: &GgufFile, family: &Family, layout: &Layout) -> Result<BTreeMap<String, Source>> {
    let mut tensors: BTreeMap<String, Source> = BTreeMap::new();
    for (tensor, stored) in file.tensors() {
        if [ROPE_DIVISORS, ROPE_LONG, ROPE_SHORT].contains(&tensor.as_str()) {
            continue;
        }
        let at = |error: Error| error.at(place(file, tensor));
        for (name, source) in sources(tensor, stored, family, layout).map_err(at)? {
            if let Some(other) = tensors.insert(name, source) {
                return Err(at(Error::input(format!("is the same weight as `{}`", other.tensor))));
            }
        }
    }
    Ok(tensors)
}

/// The tensors of transformers that a tensor of the file holds.
fn sources(tensor: &str, stored: &StoredTensor, family: &Family, layout: &Layout) -> Result<Vec<(String, Source)>> {
    let stacked = stored.shape.first().copied().filter(|_| stored.shape.len() > 1).unwrap_or(0);
    if stored.shape.len() > 2 && stacked > MOST_STACKED {
        return Err(Error::input(format!("stacks {stacked} matrices; at most {MOST_STACKED} are supported")));
    }
    let sources = family
        .sources(tensor, stacked.min(MOST_STACKED), layout)
        .ok_or_else(|| Error::input(format!("isn't part of `{}` as it is known here", family.class)))?;
    let divides = |source: &Source| {
        !source.undo.reorders_rows() || source.undo.row_order(slice_shape(source, stored)[0]).is_some()
    };
    match sources.iter().all(|(_, source)| divides(source)) {
        true => Ok(sources),
        false => Err(Error::input(format!("its {} rows don't divide into the heads", stored.shape[0]))),
    }
}

#[cfg(test)]
#[path = "gguf_tests.rs"]
mod tests;
