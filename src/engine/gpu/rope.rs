//! From the product of queries, keys and values to attention: norms of heads, clipping, rotation, and the KV cache.

use candle_core::DType;

use super::driver::{Driver, Grid, NULL, Params, Pointer, suffix};
use super::norm::Norm;
use crate::engine::config::{QkSpan, RopeStyle};
use crate::engine::heads::Heads;
use crate::error::Result;

/// A rotation by tables of f32 `(positions, pairs)`; dimensions of a head beyond the pairs stay as they are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rotation {
    pub(crate) cos: Pointer,
    pub(crate) sin: Pointer,
    pub(crate) pairs: usize,
    pub(crate) style: RopeStyle,
}

/// The norms of queries and keys, which differ in their weights only: `(d)` if heads share them, else `(heads · d)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct HeadNorms {
    pub(crate) query: Norm,
    pub(crate) key: Norm,
    pub(crate) span: QkSpan,
}

/// What is done to the heads of new tokens, and where they go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rope {
    /// `(b · t, (h + 2 kv) · d)`.
    pub(crate) qkv: Pointer,
    /// `(b · t, h · d)`, or `qkv`, whose rows then begin with the queries.
    pub(crate) q: Pointer,
    /// `(b, kv, capacity, d)`.
    pub(crate) keys: Pointer,
    /// As `keys`.
    pub(crate) values: Pointer,
    /// First column of each row `(b)`.
    pub(crate) starts: Pointer,
    /// Columns in the cache: one number.
    pub(crate) length: Pointer,
    pub(crate) heads: Heads,
    pub(crate) capacity: usize,
    pub(crate) norms: Option<HeadNorms>,
    /// Queries, keys and values are clamped to ± this.
    pub(crate) clip: Option<f32>,
    pub(crate) rotation: Option<Rotation>,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RopeParams {
    qkv: Pointer,
    cos: Pointer,
    sin: Pointer,
    query_weight: Pointer,
    query_bias: Pointer,
    key_weight: Pointer,
    key_bias: Pointer,
    starts: Pointer,
    length: Pointer,
    q: Pointer,
    keys: Pointer,
    values: Pointer,
    tokens: i32,
    heads: i32,
    kv_heads: i32,
    width: i32,
    pairs: i32,
    capacity: i32,
    q_pitch: i32,
    norm: i32,
    span: i32,
    neighbours: i32,
    eps: f32,
    clip: f32,
}

// SAFETY: the fields are those of `RopeParams` in rope.cu.
unsafe impl Params for RopeParams {}
const _: () = assert!(size_of::<RopeParams>() == 144);

/// Runs `rope` for `batch` rows of `tokens` new tokens.
///
/// # Errors
/// A failure of the device.
pub(crate) fn run(driver: &Driver, dtype: DType, batch: usize, tokens: usize, rope: &Rope) -> Result<()> {
    let Heads { queries, keys, width } = rope.heads;
    let norm = |norm: fn(&HeadNorms) -> Norm| rope.norms.as_ref().map(norm);
    let (query, key) = (norm(|norms| norms.query), norm(|norms| norms.key));
    let all_heads = rope.norms.is_some_and(|norms| norms.span == QkSpan::AllHeads);
    let params = RopeParams {
        qkv: rope.qkv,
        cos: rope.rotation.map_or(NULL, |rotation| rotation.cos),
        sin: rope.rotation.map_or(NULL, |rotation| rotation.sin),
        query_weight: query.map_or(NULL, |norm| norm.weight),
        query_bias: query.map_or(NULL, |norm| norm.bias),
        key_weight: key.map_or(NULL, |norm| norm.weight),
        key_bias: key.map_or(NULL, |norm| norm.bias),
        starts: rope.starts,
        length: rope.length,
        q: rope.q,
        keys: rope.keys,
        values: rope.values,
        tokens: tokens as i32,
        heads: queries as i32,
        kv_heads: keys as i32,
        width: width as i32,
        pairs: rope.rotation.map_or(0, |rotation| rotation.pairs) as i32,
        capacity: rope.capacity as i32,
        q_pitch: if rope.q == rope.qkv { rope.heads.qkv() } else { queries * width } as i32,
        norm: query.map_or(0, |norm| norm.flags()),
        span: rope.norms.map_or(0, |norms| match norms.span {
            QkSpan::SharedByHeads => 0,
            QkSpan::EachHead | QkSpan::EachHeadApart => 1,
            QkSpan::AllHeads => 2,
        }),
        neighbours: i32::from(rope.rotation.is_some_and(|rotation| rotation.style == RopeStyle::Neighbours)),
        eps: query.map_or(0.0, |norm| norm.eps),
        clip: rope.clip.unwrap_or(0.0),
    };
    let grid = grid(dtype, batch * tokens, rope.heads, all_heads, driver.multiprocessors());
    driver.launch(&format!("rope_{}", suffix(dtype)?), grid, &params)
}

/// A block for all heads of a token, or several if there are few tokens and heads are independent.
fn grid(dtype: DType, tokens: usize, heads: Heads, together: bool, multiprocessors: u32) -> Grid {
    const WARP: usize = 32;
    let threads = if together { 512 } else { 128 };
    // as the kernel divides a block
    let lanes = (heads.width * dtype.size_in_bytes()).div_ceil(16).next_power_of_two().min(WARP);
    let rounds = (heads.queries + 2 * heads.keys).div_ceil(threads / lanes);
    // measured on an H100: a block for each round is faster up to more than a hundred tokens, one for all in prefill
    let splits = if together || tokens > 4 * multiprocessors as usize { 1 } else { rounds };
    Grid { blocks: (tokens as u32, splits as u32, 1), threads: threads as u32, shared: 0 }
}
