//! The whole forward pass of a model on an NVIDIA GPU, as launches of this crate's kernels and products of cuBLASLt over
//! buffers that are kept from one call to the next. A step of decoding is recorded once as a CUDA graph and replayed.

mod choose;
mod driver;
mod dummy;
mod embed;
mod gate;
mod library;
mod norm;
mod rope;
