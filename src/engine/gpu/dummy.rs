//! Dummy weights made on the device: the numbers of [`Dummy`](crate::engine::weights::Dummy), bit for bit.

use candle_core::DType;

use super::driver::{Driver, Grid, Params, Pointer, suffix};
use crate::error::Result;

const THREADS: u32 = 256;

#[repr(C)]
#[derive(Clone, Copy)]
struct DummyParams {
    values: Pointer,
    stream: u64,
    count: u64,
    uniform: i32,
}

// SAFETY: the fields are those of `DummyParams` in dummy.cu.
unsafe impl Params for DummyParams {}
const _: () = assert!(size_of::<DummyParams>() == 32);

/// Fills memory with the `count` numbers whose hashes begin at `stream`, Gaussian or `uniform`.
///
/// # Errors
/// A failure of the device.
pub(crate) fn fill(
    driver: &Driver,
    dtype: DType,
    values: Pointer,
    count: usize,
    stream: u64,
    uniform: bool,
) -> Result<()> {
    let params = DummyParams { values, stream, count: count as u64, uniform: i32::from(uniform) };
    let needed = (count * dtype.size_in_bytes()).div_ceil(16 * THREADS as usize);
    let blocks = needed.clamp(1, 16 * driver.multiprocessors() as usize);
    let grid = Grid { blocks: (blocks as u32, 1, 1), threads: THREADS, shared: 0 };
    driver.launch(&format!("dummy_{}", suffix(dtype)?), grid, &params)
}
