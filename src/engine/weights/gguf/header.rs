//! The header of a GGUF file: metadata and the list of tensors. Trusts nothing: every count and length is compared with
//! what is left of the file before anything is allocated for it, so that reading costs a small multiple of the file.
//!
//! The format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3.

use std::collections::BTreeMap;
use std::ops::Range;

use candle_core::quantized::GgmlDType;

use crate::error::{Error, Result};

const MAGIC: &[u8; 4] = b"GGUF";
/// Where `general.alignment` says nothing.
const DEFAULT_ALIGNMENT: u64 = 32;
/// The most dimensions of a tensor in ggml.
const MOST_DIMENSIONS: u32 = 4;
/// Arrays of arrays are allowed by the format and used by nobody; this keeps them from exhausting the stack.
const DEEPEST_ARRAY: u32 = 4;
/// Least bytes that an entry takes: its length, a name of one byte, its type, and the least of the rest.
const LEAST_ENTRY: u64 = 8 + 1 + 4 + 1;
const LEAST_TENSOR: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// Value types, as the format numbers them.
const UINT8: u32 = 0;
const INT8: u32 = 1;
const UINT16: u32 = 2;
const INT16: u32 = 3;
const UINT32: u32 = 4;
const INT32: u32 = 5;
const FLOAT32: u32 = 6;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const UINT64: u32 = 10;
const INT64: u32 = 11;
const FLOAT64: u32 = 12;

/// Types of tensors that are served, by ggml's numbers.
const SERVED: [(u32, GgmlDType); 15] = [
    (0, GgmlDType::F32),
    (1, GgmlDType::F16),
    (2, GgmlDType::Q4_0),
    (3, GgmlDType::Q4_1),
    (6, GgmlDType::Q5_0),
    (7, GgmlDType::Q5_1),
    (8, GgmlDType::Q8_0),
    (9, GgmlDType::Q8_1),
    (10, GgmlDType::Q2K),
    (11, GgmlDType::Q3K),
    (12, GgmlDType::Q4K),
    (13, GgmlDType::Q5K),
    (14, GgmlDType::Q6K),
    (15, GgmlDType::Q8K),
    (30, GgmlDType::BF16),
];

/// Names of the types that aren't served, for the message.
const UNSERVED: [(u32, &str); 18] = [
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];

/// A metadata value. Arrays stay in the file until they are asked for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// Of any unsigned width.
    Unsigned(u64),
    /// Of any signed width.
    Signed(i64),
    /// Of either width.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// UTF-8.
    Text(String),
    /// Elements of one type, where they lie in the file, and how many.
    Array { kind: u32, count: u64, bytes: Range<usize> },
}

impl Value {
    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Unsigned(_) | Value::Signed(_) => "an integer",
            Value::Float(_) => "a number",
            Value::Bool(_) => "a boolean",
            Value::Text(_) => "a string",
            Value::Array { .. } => "an array",
        }
    }
}

/// A tensor's entry.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stored {
    /// Slowest dimension first, as candle has it (the file lists the fastest first).
    pub shape: Vec<usize>,
    /// Type of the blocks.
    pub dtype: GgmlDType,
    /// Where the data lies in the file.
    pub bytes: Range<usize>,
}

impl Stored {
    /// Length of a row, the last dimension, in elements.
    pub fn row_len(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.row_len() / self.dtype.block_size() * self.dtype.type_size()
    }
}

/// Everything before the tensors' data.
#[derive(Debug)]
pub(super) struct Header {
    pub metadata: BTreeMap<String, Value>,
    pub tensors: BTreeMap<String, Stored>,
}

impl Header {
    /// Reads the header of a file's bytes.
    ///
    /// # Errors
    /// Another format or version, or anything that doesn't fit the file; the message names the entry.
    pub fn read(file: &[u8]) -> Result<Self> {
        let mut reader = Reader { file, at: 0 };
        if reader.take(4).ok() != Some(MAGIC) {
            return Err(Error::input("isn't a GGUF file").hint("a GGUF file begins with the letters GGUF"));
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
        1 => Err(Error::input("is GGUF version 1, which isn't served; versions 2 and 3 are")
            .hint("convert the model again with a current llama.cpp")),
        // a small number in the other byte order
        version if version.swap_bytes() <= 0xFFFF => Err(Error::input("is a big-endian GGUF file, which isn't served")
            .hint("convert it with `gguf_convert_endian.py` of llama.cpp")),
        other => Err(Error::input(format!("is GGUF version {other}; served are 2 and 3"))),
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
type Entry = (String, Vec<usize>, GgmlDType, u64);

fn read_entries(reader: &mut Reader<'_>, count: u64) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for index in 0..count {
        let name = reader.text().map_err(|error| error.at(format!("tensor {index}")))?;
        let (shape, dtype, offset) = read_entry(reader).map_err(|error| error.at(format!("tensor `{name}`")))?;
        entries.push((name, shape, dtype, offset));
    }
    Ok(entries)
}

fn read_entry(reader: &mut Reader<'_>) -> Result<(Vec<usize>, GgmlDType, u64)> {
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
    Ok((shape, served_dtype(reader.u32()?)?, reader.u64()?))
}

fn served_dtype(number: u32) -> Result<GgmlDType> {
    if let Some((_, dtype)) = SERVED.iter().find(|(served, _)| *served == number) {
        return Ok(*dtype);
    }
    let name = UNSERVED.iter().find(|(unserved, _)| *unserved == number);
    let name = name.map_or_else(|| format!("number {number}"), |(_, name)| (*name).to_owned());
    Err(Error::input(format!(
        "is of type {name}; served are F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q8_1, Q2_K, Q3_K, Q4_K, Q5_K, \
         Q6_K and Q8_K"
    ))
    .hint("take a file of the same model that is quantised to one of these, such as Q4_K_M or Q8_0"))
}

/// Checks where the data of the tensors lies: aligned, inside the file, apart from each other.
fn place(entries: Vec<Entry>, data: u64, alignment: u64, file_len: u64) -> Result<BTreeMap<String, Stored>> {
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
            return Err(at(Error::input(message).hint("download or copy the file again")));
        };
        // both are at most the file's length, which is in memory
        let bytes = start as usize..end as usize;
        spans.push(bytes.clone());
        if tensors.contains_key(&name) {
            return Err(at(Error::input("is there twice")));
        }
        tensors.insert(name, Stored { shape, dtype, bytes });
    }
    spans.sort_by_key(|span| span.start);
    match spans.windows(2).all(|pair| pair[0].end <= pair[1].start) {
        true => Ok(tensors),
        false => Err(Error::input("two tensors lie over each other")),
    }
}

fn data_len(shape: &[usize], dtype: GgmlDType) -> Result<u64> {
    let row = shape.last().copied().unwrap_or(1);
    if !row.is_multiple_of(dtype.block_size()) {
        let block = dtype.block_size();
        return Err(Error::input(format!("has rows of {row}, which isn't a multiple of {dtype:?}'s block of {block}")));
    }
    let elements = shape.iter().try_fold(1u64, |product, size| product.checked_mul(*size as u64));
    let bytes =
        elements.and_then(|elements| (elements / dtype.block_size() as u64).checked_mul(dtype.type_size() as u64));
    bytes.ok_or_else(|| Error::input(format!("has shape {shape:?}, which is too large")))
}

/// Reads little-endian values in order, and never past the end.
pub(super) struct Reader<'a> {
    file: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the beginning of `file`.
    pub fn new(file: &'a [u8]) -> Self {
        Self { file, at: 0 }
    }

    fn left(&self) -> u64 {
        (self.file.len() - self.at) as u64
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8]> {
        let end = usize::try_from(len).ok().and_then(|len| self.at.checked_add(len));
        match end.and_then(|end| Some((end, self.file.get(self.at..end)?))) {
            Some((end, bytes)) => {
                self.at = end;
                Ok(bytes)
            }
            None => Err(Error::input(format!("asks for {len} bytes where {} are left in the file", self.left()))
                .hint("download or copy the file again")),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N as u64)?);
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// How many of something follow, each of at least `least` bytes.
    fn count(&mut self, what: &str, least: u64) -> Result<u64> {
        let count = self.u64()?;
        match count.checked_mul(least).is_some_and(|bytes| bytes <= self.left()) {
            true => Ok(count),
            false => Err(Error::input(format!("announces {count} {what}, more than the file has room for"))
                .hint("download or copy the file again")),
        }
    }

    /// A length and as many bytes of UTF-8.
    pub fn text(&mut self) -> Result<String> {
        let len = self.u64()?;
        let bytes = self.take(len)?;
        let text = std::str::from_utf8(bytes).map_err(|_| Error::input("isn't UTF-8"))?;
        Ok(text.to_owned())
    }

    fn skip_text(&mut self) -> Result<()> {
        let len = self.u64()?;
        self.take(len).map(drop)
    }

    /// A value of the type with this number. Arrays are walked through and left where they are.
    pub fn value(&mut self, kind: u32) -> Result<Value> {
        Ok(match kind {
            UINT8 => Value::Unsigned(u8::from_le_bytes(self.array()?).into()),
            INT8 => Value::Signed(i8::from_le_bytes(self.array()?).into()),
            UINT16 => Value::Unsigned(u16::from_le_bytes(self.array()?).into()),
            INT16 => Value::Signed(i16::from_le_bytes(self.array()?).into()),
            UINT32 => Value::Unsigned(self.u32()?.into()),
            INT32 => Value::Signed(i32::from_le_bytes(self.array()?).into()),
            UINT64 => Value::Unsigned(self.u64()?),
            INT64 => Value::Signed(i64::from_le_bytes(self.array()?)),
            FLOAT32 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            FLOAT64 => Value::Float(f64::from_le_bytes(self.array()?)),
            BOOL => match self.array()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(Error::input(format!("{other} isn't a boolean, 0 or 1"))),
            },
            STRING => Value::Text(self.text()?),
            ARRAY => self.array_value(DEEPEST_ARRAY)?,
            other => return Err(Error::input(format!("has a value of unknown type {other}"))),
        })
    }

    fn array_value(&mut self, depth: u32) -> Result<Value> {
        let kind = self.u32()?;
        let count = self.u64()?;
        let start = self.at;
        match fixed_size(kind) {
            Some(size) => {
                let bytes = count.checked_mul(size);
                let bytes = bytes.ok_or_else(|| Error::input(format!("announces {count} elements")))?;
                self.take(bytes)?;
            }
            None if kind == STRING => (0..count).try_for_each(|_| self.skip_text())?,
            None if kind == ARRAY && depth > 0 => (0..count).try_for_each(|_| self.array_value(depth - 1).map(drop))?,
            None if kind == ARRAY => return Err(Error::input("has arrays inside arrays, too deep to be served")),
            None => return Err(Error::input(format!("has elements of unknown type {kind}"))),
        }
        Ok(Value::Array { kind, count, bytes: start..self.at })
    }
}

fn fixed_size(kind: u32) -> Option<u64> {
    match kind {
        UINT8 | INT8 | BOOL => Some(1),
        UINT16 | INT16 => Some(2),
        UINT32 | INT32 | FLOAT32 => Some(4),
        UINT64 | INT64 | FLOAT64 => Some(8),
        _ => None,
    }
}
