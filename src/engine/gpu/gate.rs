//! The activation of the feed-forward.

use candle_core::DType;

use super::driver::{Driver, Grid, Params, Pointer, suffix};
use crate::engine::config::Activation;
use crate::error::Result;

const THREADS: usize = 256;

#[repr(C)]
#[derive(Clone, Copy)]
struct GateParams {
    x: Pointer,
    y: Pointer,
    count: i64,
    inner: i32,
    activation: i32,
    gated: i32,
}

// SAFETY: the fields are those of `GateParams` in gate.cu.
unsafe impl Params for GateParams {}
const _: () = assert!(size_of::<GateParams>() == 40);

/// A feed-forward between its projections.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Gate {
    /// `(rows, 2 inner)`, gate and up side by side, if it is gated; `(rows, inner)` if not.
    pub(crate) x: Pointer,
    /// `(rows, inner)`: act(gate) · up, or act(x).
    pub(crate) y: Pointer,
    pub(crate) inner: usize,
    pub(crate) activation: Activation,
    pub(crate) gated: bool,
}

/// An activation as the kernels take it.
pub(super) fn code(activation: Activation) -> i32 {
    match activation {
        Activation::Silu => 0,
        Activation::Gelu => 1,
        Activation::GeluTanh => 2,
        Activation::Relu => 3,
        Activation::ReluSquared => 4,
    }
}

/// Runs `gate` for `rows` rows.
///
/// # Errors
/// A failure of the device.
pub(crate) fn run(driver: &Driver, dtype: DType, rows: usize, gate: &Gate) -> Result<()> {
    let count = rows * gate.inner;
    let params = GateParams {
        x: gate.x,
        y: gate.y,
        count: count as i64,
        inner: gate.inner as i32,
        activation: code(gate.activation),
        gated: i32::from(gate.gated),
    };
    let blocks = (count * dtype.size_in_bytes()).div_ceil(16 * THREADS);
    let grid = Grid { blocks: (blocks as u32, 1, 1), threads: THREADS as u32, shared: 0 };
    driver.launch(&format!("gate_{}", suffix(dtype)?), grid, &params)
}
