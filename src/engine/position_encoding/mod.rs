//! How positions enter attention: rotations of queries and keys, and biases of the scores. The tables are computed
//! once, on the host; candle's operations upload them, and the kernels of the CPU read them as they are.

mod alibi;
mod rope_table;

pub(super) use alibi::AlibiTable;
pub(super) use rope_table::{RopeKey, RopeTable};
