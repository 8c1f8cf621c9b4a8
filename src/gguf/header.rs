//! The header of a GGUF file: metadata and the list of tensors. Trusts nothing: every count and length is compared with
//! what is left of the file before anything is allocated for it, so that reading costs a small multiple of the file.
//!
//! The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3.

use std::collections::BTreeMap;
use std::ops::Range;

use super::block::BlockType;
use super::value::{Reader, Value};
use crate::error::{Error, Result};

const MAGIC: &[u8; 4] = b"GGUF";
/// The alignment if `general.alignment` doesn't set one.
const DEFAULT_ALIGNMENT: u64 = 32;
/// The most dimensions of a tensor in ggml.
const MOST_DIMENSIONS: u32 = 4;
/// Least bytes that an entry takes: its length, a name of one byte, its type, and the least of the rest.
const LEAST_ENTRY: u64 = 8 + 1 + 4 + 1;
const LEAST_TENSOR: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// A tensor's entry.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredTensor {
    /// Slowest dimension first, as candle has it (the file lists the fastest first).
    pub(crate) shape: Vec<usize>,
    /// Type of the blocks.
    pub(crate) dtype: BlockType,
    /// Where the data lies in the file.
    pub(crate) bytes: Range<usize>,
}

impl StoredTensor {
    /// Length of a row, the last dimension, in elements.
    pub(crate) fn row_len(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Bytes of a row.
    pub(crate) fn row_bytes(&self) -> usize {
        self.row_len() / self.dtype.elements() * self.dtype.bytes()
    }
}

/// Everything before the tensors' data.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) metadata: BTreeMap<String, Value>,
    pub(crate) tensors: BTreeMap<String, StoredTensor>,
}

impl Header {
    /// Reads the header of a file's bytes.
    ///
    /// # Errors
    /// Another format or version, or anything that doesn't fit the file; the message names the entry.
    pub(crate) fn read(file: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(file);
        if reader.take(4).ok() != Some(MAGIC) {
            return Err(Error::input("isn't a GGUF file").with_hint("a GGUF file begins with the letters GGUF"));
        }
        check_version(reader.u32()?)?;
        let tensor_count = reader.count("tensors", LEAST_TENSOR)?;
        let entry_count = reader.count("metadata entries", LEAST_ENTRY)?;
        let metadata = read_metadata(&mut reader, entry_count)?;
        let alignment = alignment(&metadata)?;
        let entries = read_entries(&mut reader, tensor_count)?;
        let data = (reader.at as u64).next_multiple_of(alignment);
        Ok(Self { metadata, tensors: place(entries, data, alignment, file.len() as u64)? })
    }
}

fn check_version(version: u32) -> Result<()> {
    match version {
        2 | 3 => Ok(()),
        1 => Err(Error::input("is GGUF version 1, which isn't supported; versions 2 and 3 are")
            .with_hint("convert the model again with a current llama.cpp")),
        // a small number in the other byte order
        version if version.swap_bytes() <= 0xFFFF => {
            Err(Error::input("is a big-endian GGUF file, which isn't supported")
                .with_hint("convert it with `gguf_convert_endian.py` of llama.cpp"))
        }
        other => Err(Error::input(format!("is GGUF version {other}; supported are 2 and 3"))),
    }
}

fn read_metadata(reader: &mut Reader<'_>, count: u64) -> Result<BTreeMap<String, Value>> {
    let mut metadata = BTreeMap::new();
    for index in 0..count {
        let key = reader.text().map_err(|error| error.at(format!("metadata entry {index}")))?;
        let value = reader.u32().and_then(|kind| reader.value(kind)).map_err(|error| error.at(format!("`{key}`")))?;
        if metadata.contains_key(&key) {
            return Err(Error::input("is there twice").at(format!("`{key}`")));
        }
        metadata.insert(key, value);
    }
    Ok(metadata)
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<u64> {
    match metadata.get("general.alignment") {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(Value::Unsigned(value)) if value.is_power_of_two() && (8..=1 << 20).contains(value) => Ok(*value),
        Some(value) => {
            let message = format!("`general.alignment`: {value:?} isn't a power of two from 8 to 1048576");
            Err(Error::input(message))
        }
    }
}

/// A tensor's entry with its offset from the start of the data.
type Entry = (String, Vec<usize>, BlockType, u64);

fn read_entries(reader: &mut Reader<'_>, count: u64) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for index in 0..count {
        let name = reader.text().map_err(|error| error.at(format!("tensor {index}")))?;
        let (shape, dtype, offset) = read_entry(reader).map_err(|error| error.at(format!("tensor `{name}`")))?;
        entries.push((name, shape, dtype, offset));
    }
    Ok(entries)
}

fn read_entry(reader: &mut Reader<'_>) -> Result<(Vec<usize>, BlockType, u64)> {
    let dimensions = reader.u32()?;
    if !(1..=MOST_DIMENSIONS).contains(&dimensions) {
        return Err(Error::input(format!("has {dimensions} dimensions; 1 to {MOST_DIMENSIONS} are possible")));
    }
    let mut shape = Vec::with_capacity(dimensions as usize);
    for _ in 0..dimensions {
        let size = reader.u64()?;
        match usize::try_from(size) {
            Ok(size) if size > 0 => shape.push(size),
            _ => return Err(Error::input(format!("has a dimension of {size}"))),
        }
    }
    shape.reverse();
    Ok((shape, BlockType::numbered(reader.u32()?)?, reader.u64()?))
}

/// Checks where the data of the tensors lies: aligned, inside the file, apart from each other.
fn place(entries: Vec<Entry>, data: u64, alignment: u64, file_len: u64) -> Result<BTreeMap<String, StoredTensor>> {
    let mut tensors = BTreeMap::new();
    let mut spans = Vec::with_capacity(entries.len());
    for (name, shape, dtype, offset) in entries {
        let at = |error: Error| error.at(format!("tensor `{name}`"));
        let len = data_len(&shape, dtype).map_err(at)?;
        if !offset.is_multiple_of(alignment) {
            return Err(at(Error::input(format!("begins at {offset}, which isn't a multiple of {alignment}"))));
        }
        let start = data.checked_add(offset);
        let end = start.and_then(|start| start.checked_add(len)).filter(|end| *end <= file_len);
        let (Some(start), Some(end)) = (start, end) else {
            let message = format!("its {len} bytes at offset {offset} reach past the end of the file");
            return Err(at(Error::input(message).with_hint("download or copy the file again")));
        };
        // both are at most the file's length, which is in memory
        let bytes = start as usize..end as usize;
        spans.push(bytes.clone());
        if tensors.contains_key(&name) {
            return Err(at(Error::input("is there twice")));
        }
        tensors.insert(name, StoredTensor { shape, dtype, bytes });
    }
    spans.sort_by_key(|span| span.start);
    match spans.windows(2).all(|pair| pair[0].end <= pair[1].start) {
        true => Ok(tensors),
        false => Err(Error::input("two tensors lie over each other")),
    }
}

fn data_len(shape: &[usize], dtype: BlockType) -> Result<u64> {
    let row = shape.last().copied().unwrap_or(1);
    if !row.is_multiple_of(dtype.elements()) {
        let block = dtype.elements();
        return Err(Error::input(format!(
            "has rows of {row}, which isn't a multiple of {}'s block of {block}",
            dtype.name()
        )));
    }
    let elements = shape.iter().try_fold(1u64, |product, size| product.checked_mul(*size as u64));
    let bytes = elements.and_then(|elements| (elements / dtype.elements() as u64).checked_mul(dtype.bytes() as u64));
    bytes.ok_or_else(|| Error::input(format!("has shape {shape:?}, which is too large")))
}
