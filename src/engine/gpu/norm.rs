//! Residual additions and norms of the residual stream.

use candle_core::DType;

use super::driver::{Driver, Grid, NULL, Params, Pointer, suffix};
use crate::engine::config::NormKind;
use crate::error::{Error, Result};

/// The widest row that a block holds.
pub(crate) const WIDEST_ROW: usize = 16 << 10;

/// Values of a row that a thread holds, in the kernel for few rows and in the one for many or wide ones.
const VALUES: [usize; 2] = [8, 16];

/// The most threads of a block.
const THREADS: usize = 1024;

/// A norm with its weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Norm {
    pub(crate) kind: NormKind,
    pub(crate) eps: f32,
    /// The weights are added to 1, in f32.
    pub(crate) one_plus: bool,
    /// `(width)`, or [`NULL`].
    pub(crate) weight: Pointer,
    /// As `weight`.
    pub(crate) bias: Pointer,
}

/// x' = x + s · part, where part is `parts[0]` normalised by `part_norm`, or the sum of both parts; then y = norm(x').
///
/// Buffers hold `(rows, width)`; any output may be an input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Join {
    pub(crate) x: Pointer,
    /// What is added to x: nothing, one or two buffers, the first of them first; the others are [`NULL`].
    pub(crate) parts: [Pointer; 2],
    /// Of the first part, before it is added.
    pub(crate) part_norm: Option<Norm>,
    /// The factor s of the parts' sum.
    pub(crate) residual_scale: f32,
    /// Without one, y is x'.
    pub(crate) norm: Option<Norm>,
    /// x', or [`NULL`].
    pub(crate) x_out: Pointer,
    pub(crate) y_out: Pointer,
    /// x' normalised with other weights, and where to: of the same kind as `norm`.
    pub(crate) second: Option<(Norm, Pointer)>,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct NormParams {
    x: Pointer,
    parts: [Pointer; 2],
    part_weight: Pointer,
    part_bias: Pointer,
    weight: Pointer,
    bias: Pointer,
    weight2: Pointer,
    bias2: Pointer,
    x_out: Pointer,
    y_out: Pointer,
    y2_out: Pointer,
    width: i32,
    part_norm: i32,
    norm: i32,
    part_eps: f32,
    eps: f32,
    residual_scale: f32,
}

// SAFETY: the fields are those of `NormParams` in norm.cu.
unsafe impl Params for NormParams {}
const _: () = assert!(size_of::<NormParams>() == 120);

impl Norm {
    /// Kind and variant as the kernels take them. An RMSNorm rounds what it has normalised before it multiplies by the
    /// weights, as transformers does, unless 1 is added to them.
    pub(super) fn flags(&self) -> i32 {
        const ONE_PLUS: i32 = 4;
        const ROUND_FIRST: i32 = 8;
        match (self.kind, self.one_plus) {
            (NormKind::Rms, false) => 1 | ROUND_FIRST,
            (NormKind::Rms, true) => 1 | ONE_PLUS,
            (NormKind::Layer, false) => 2,
            (NormKind::Layer, true) => 2 | ONE_PLUS,
        }
    }
}

/// Adds to and normalises `rows` rows of `width` values.
///
/// # Errors
/// Rows wider than [`WIDEST_ROW`], a second norm of another kind, or a failure of the device.
pub(crate) fn run(driver: &Driver, dtype: DType, rows: usize, width: usize, join: &Join) -> Result<()> {
    if width > WIDEST_ROW {
        return Err(Error::new(format!("no kernel normalises rows of {width} values")));
    }
    let kind = |norm: Option<Norm>| norm.map_or(0, |norm| norm.flags());
    if join.second.is_some_and(|(second, _)| kind(Some(second)) != kind(join.norm)) {
        return Err(Error::new("two norms of a row are of the same kind"));
    }
    let pointers = |norm: Option<Norm>| norm.map_or((NULL, NULL), |norm| (norm.weight, norm.bias));
    let eps = |norm: Option<Norm>| norm.map_or(0.0, |norm| norm.eps);
    let (part_weight, part_bias) = pointers(join.part_norm);
    let (weight, bias) = pointers(join.norm);
    let (weight2, bias2) = pointers(join.second.map(|(norm, _)| norm));
    let params = NormParams {
        x: join.x,
        parts: join.parts,
        part_weight,
        part_bias,
        weight,
        bias,
        weight2,
        bias2,
        x_out: join.x_out,
        y_out: join.y_out,
        y2_out: join.second.map_or(NULL, |(_, y)| y),
        width: width as i32,
        part_norm: kind(join.part_norm),
        norm: kind(join.norm),
        part_eps: eps(join.part_norm),
        eps: eps(join.norm),
        residual_scale: join.residual_scale,
    };
    // few rows: many threads for the shortest way; many rows: small blocks, of which several run on a multiprocessor
    let many = rows > 2 * driver.multiprocessors() as usize || width > VALUES[0] * THREADS;
    let name = if many { "norm_wide" } else { "norm" };
    let threads = width.div_ceil(VALUES[usize::from(many)]).next_multiple_of(32);
    let grid = Grid { blocks: (rows as u32, 1, 1), threads: threads as u32, shared: 0 };
    driver.launch(&format!("{name}_{}", suffix(dtype)?), grid, &params)
}
