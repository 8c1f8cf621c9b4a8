//! The GGUF file format: header, metadata and the list of tensors, hardened against damaged and hostile files. Knows no
//! model: what a key or a tensor means is a matter of `engine` (the weights) and `text` (the tokenizer).

mod block;
mod file;
mod header;
mod metadata;
mod value;

pub(crate) use block::BlockType;
pub(crate) use file::GgufFile;
pub(crate) use header::StoredTensor;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
