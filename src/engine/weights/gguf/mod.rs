//! Models in a GGUF file: tensors under transformers' names, with what llama.cpp's converter changed undone, and the
//! configuration as a `config.json` would state it.
//!
//! Tensors are read from the mapped file when they are asked for, either dequantised or as quantised blocks for
//! candle's `QMatMul`.
//!
//! **How exact a quantised product is.** Dequantising is exact to f32 rounding. `QMatMul` is not the product with the
//! dequantised weights: it quantises the activations too, to 8 bits in blocks of 32 (of 256 for the K types), as
//! llama.cpp does. Measured in this module's tests, 12 outputs for each type of random blocks and normal activations:
//! the largest error of an output is 0.6 % (Q4_1) to 1.5 % (Q6_K) of ‖w‖·‖x‖/√n, the size that a product of random
//! vectors has, and 0 for F32, F16 and BF16. So greedy tokens of a quantised model agree with those of its dequantised
//! weights unless the two best logits are about as close as that.

mod aligned;
mod config_json;
mod names;
mod tensors;
mod types;

pub(crate) use config_json::config_json;
pub(crate) use tensors::Gguf;
