//! Attention over the KV cache: of one new token a row in decode, and of many in prefill.

use candle_core::DType;

use super::driver::{Buffer, Driver, Grid, NULL, Params, Pointer, suffix};
use super::matrix::Gpu;
use crate::engine::heads::Heads;
use crate::error::Result;

/// Memory in which the blocks that share a row's columns leave their parts.
pub(crate) struct Scratch {
    splits: usize,
    /// Columns that a block takes at least.
    least: usize,
    /// Warps of a block.
    warps: usize,
    partial: Buffer,
    counters: Buffer,
}

/// The buffers and settings of a layer's attention.
#[derive(Clone, Copy)]
pub(crate) struct Attend<'a> {
    pub(crate) heads: Heads,
    /// Rotated; the first h · d values of each row of `query_stride` `(b · t, …)`.
    pub(crate) queries: Pointer,
    pub(crate) query_stride: usize,
    /// `(b, kv, capacity, d)`, the new columns included.
    pub(crate) keys: Pointer,
    /// As `keys`.
    pub(crate) values: Pointer,
    /// `(b · t, h · d)`.
    pub(crate) output: Pointer,
    /// First column of each row `(b)`.
    pub(crate) starts: Pointer,
    /// Columns in the cache before the new ones: one number.
    pub(crate) length: Pointer,
    /// Linear biases `(h, capacity)`.
    pub(crate) alibi: Option<Pointer>,
    pub(crate) rows: usize,
    /// New tokens of a row.
    pub(crate) tokens: usize,
    pub(crate) capacity: usize,
    /// Columns that a query sees; without a window all before it.
    pub(crate) window: Option<usize>,
    pub(crate) scale: f32,
    /// Scores s become c · tanh(s / c); 0 for none.
    pub(crate) softcap: f32,
    pub(crate) scratch: &'a Scratch,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct DecodeParams {
    queries: Pointer,
    keys: Pointer,
    values: Pointer,
    output: Pointer,
    starts: Pointer,
    length: Pointer,
    alibi: Pointer,
    partial: Pointer,
    counters: Pointer,
    heads: i32,
    kv_heads: i32,
    width: i32,
    capacity: i32,
    query_stride: i32,
    alibi_stride: i32,
    window: i32,
    least: i32,
    scale: f32,
    softcap: f32,
}

// SAFETY: the fields are those of `AttentionDecodeParams` in attention_decode.cu.
unsafe impl Params for DecodeParams {}
const _: () = assert!(size_of::<DecodeParams>() == 112);

#[repr(C)]
#[derive(Clone, Copy)]
struct PrefillParams {
    queries: Pointer,
    keys: Pointer,
    values: Pointer,
    output: Pointer,
    starts: Pointer,
    length: Pointer,
    alibi: Pointer,
    heads: i32,
    kv_heads: i32,
    width: i32,
    capacity: i32,
    query_stride: i32,
    alibi_stride: i32,
    window: i32,
    tokens: i32,
    scale: f32,
    softcap: f32,
}

// SAFETY: the fields are those of `AttentionPrefillParams` in attention_prefill.cu.
unsafe impl Params for PrefillParams {}
const _: () = assert!(size_of::<PrefillParams>() == 96);

/// How a decode kernel divides the heads.
struct Decode {
    /// The width that its registers are for.
    padded: usize,
    /// Queries of a block, in eights.
    eights: usize,
    /// Blocks that share a key head.
    chunks: usize,
}

impl Decode {
    fn of(heads: Heads, dtype: DType) -> Self {
        let padded = [64, 128].into_iter().find(|width| heads.width <= *width).unwrap_or(256);
        let eights = if dtype != DType::F32 && padded < 256 && heads.shared() > 8 { 2 } else { 1 };
        Self { padded, eights, chunks: heads.shared().div_ceil(8 * eights) }
    }

    fn name(&self, heads: Heads, dtype: DType) -> Result<String> {
        let exact = if dtype != DType::F32 && heads.width == self.padded { "d" } else { "w" };
        let many = if self.eights == 2 { "_q16" } else { "" };
        Ok(format!("attention_decode_{}_{exact}{}{many}", suffix(dtype)?, self.padded))
    }

    /// Values that a block leaves for the others, or a warp.
    fn state(&self) -> usize {
        8 * self.eights * (self.padded + 2)
    }
}

impl Scratch {
    /// For batches of `rows` rows of up to `capacity` columns.
    ///
    /// # Errors
    /// The device is full.
    pub(crate) fn new(driver: &Driver, heads: Heads, dtype: DType, rows: usize, capacity: usize) -> Result<Self> {
        let decode = Decode::of(heads, dtype);
        let together = rows * heads.keys * decode.chunks;
        // two blocks run on a multiprocessor, and a block more than that costs more than it gains
        let wanted = 2 * driver.multiprocessors() as usize / together;
        // with few blocks a row has to be shared early; with half of the multiprocessors at work, joining costs more
        let least = if 2 * together < driver.multiprocessors() as usize { 64 } else { 512 };
        let splits = wanted.clamp(1, capacity.div_ceil(least));
        let enough = together >= 2 * driver.multiprocessors() as usize;
        Ok(Self {
            splits,
            least,
            // narrow heads leave little to do for the warps of many blocks
            warps: if decode.padded == 64 && enough { 2 } else { 4 },
            partial: driver.zeros(together * splits * decode.state(), DType::F32)?,
            counters: driver.zeros(together, DType::U32)?,
        })
    }
}

/// Attends for the new tokens of each row.
///
/// # Errors
/// A failure of the device.
pub(crate) fn launch(gpu: &Gpu, attend: &Attend<'_>) -> Result<()> {
    match attend.tokens {
        1 => decode(gpu, attend),
        _ => prefill(gpu, attend),
    }
}

fn decode(gpu: &Gpu, attend: &Attend<'_>) -> Result<()> {
    let Attend { heads, scratch, .. } = *attend;
    let decode = Decode::of(heads, gpu.dtype);
    let params = DecodeParams {
        queries: attend.queries,
        keys: attend.keys,
        values: attend.values,
        output: attend.output,
        starts: attend.starts,
        length: attend.length,
        alibi: attend.alibi.unwrap_or(NULL),
        partial: scratch.partial.pointer(),
        counters: scratch.counters.pointer(),
        heads: heads.queries as i32,
        kv_heads: heads.keys as i32,
        width: heads.width as i32,
        capacity: attend.capacity as i32,
        query_stride: attend.query_stride as i32,
        alibi_stride: attend.capacity as i32,
        window: attend.window.unwrap_or(0).min(i32::MAX as usize) as i32,
        least: scratch.least as i32,
        scale: attend.scale,
        softcap: attend.softcap,
    };
    let shared = scratch.warps * decode.state() * size_of::<f32>();
    let grid = Grid {
        blocks: (scratch.splits as u32, (heads.keys * decode.chunks) as u32, attend.rows as u32),
        threads: 32 * scratch.warps as u32,
        shared: shared as u32,
    };
    gpu.driver.launch(&decode.name(heads, gpu.dtype)?, grid, &params)
}

fn prefill(gpu: &Gpu, attend: &Attend<'_>) -> Result<()> {
    let Attend { heads, rows, tokens, .. } = *attend;
    let params = PrefillParams {
        queries: attend.queries,
        keys: attend.keys,
        values: attend.values,
        output: attend.output,
        starts: attend.starts,
        length: attend.length,
        alibi: attend.alibi.unwrap_or(NULL),
        heads: heads.queries as i32,
        kv_heads: heads.keys as i32,
        width: heads.width as i32,
        capacity: attend.capacity as i32,
        query_stride: attend.query_stride as i32,
        alibi_stride: attend.capacity as i32,
        window: attend.window.unwrap_or(0).min(i32::MAX as usize) as i32,
        tokens: tokens as i32,
        scale: attend.scale,
        softcap: attend.softcap,
    };
    let blocks_of = |tokens_of_block: usize| tokens.div_ceil(tokens_of_block) * heads.queries * rows;
    let (name, padded, warps, of_block, columns) = match (gpu.dtype, heads.width) {
        (DType::F32, width) => {
            let padded = [64, 128].into_iter().find(|padded| width <= *padded).unwrap_or(256);
            (format!("w{padded}"), 0, 4, 16, 0)
        }
        (_, width) => {
            let padded = [64, 96, 128].into_iter().find(|padded| width <= *padded).unwrap_or(256);
            // twice the tokens a block, unless too few blocks remain for the multiprocessors
            let small = blocks_of(128) < 2 * gpu.driver.multiprocessors() as usize;
            let warps = if padded == 256 && !small { 8 } else { 4 };
            let ending = if small { "_small" } else { "" };
            let columns = if padded == 256 { 32 } else { 64 };
            (format!("w{padded}{ending}"), padded, warps, if small { 64 } else { 128 }, columns)
        }
    };
    let shared = (of_block + 2 * columns) * padded.next_multiple_of(64) * size_of::<u16>();
    let grid = Grid {
        blocks: (heads.queries as u32, rows as u32, tokens.div_ceil(of_block) as u32),
        threads: 32 * warps,
        shared: shared as u32,
    };
    gpu.driver.launch(&format!("attention_prefill_{}_{name}", suffix(gpu.dtype)?), grid, &params)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};
    use candle_nn::ops::softmax_last_dim;

    use super::*;

    /// A batch whose row r begins at column 5 · r.
    #[derive(Clone, Copy)]
    struct Case {
        heads: Heads,
        rows: usize,
        past: usize,
        tokens: usize,
        window: Option<usize>,
        softcap: f32,
        alibi: bool,
    }

    impl Case {
        fn new(queries: usize, keys: usize, width: usize, past: usize, tokens: usize) -> Self {
            let heads = Heads { queries, keys, width };
            Self { heads, rows: 3, past, tokens, window: None, softcap: 0.0, alibi: false }
        }

        fn columns(&self) -> usize {
            self.past + self.tokens
        }

        fn capacity(&self) -> usize {
            self.columns() + 9
        }

        fn start(row: usize) -> usize {
            5 * row
        }

        /// Biases by position, as linear biases are.
        fn bias(head: usize, position: usize) -> f32 {
            0.01 * (head + 1) as f32 * position as f32
        }

        /// What is added to scores `(b, h, t, columns)`: biases, and a mask of what a token doesn't see.
        fn added(&self, device: &Device) -> Result<Tensor> {
            let mut added = Vec::new();
            for row in 0..self.rows {
                for head in 0..self.heads.queries {
                    for own in self.past..self.columns() {
                        let from = Self::start(row).max((own + 1).saturating_sub(self.window.unwrap_or(own + 1)));
                        added.extend((0..self.columns()).map(|column| match (from..=own).contains(&column) {
                            true if self.alibi => Self::bias(head, column - Self::start(row)),
                            true => 0.0,
                            false => -1e30,
                        }));
                    }
                }
            }
            Ok(Tensor::from_vec(added, (self.rows, self.heads.queries, self.tokens, self.columns()), device)?)
        }

        /// Distance of the kernels' output from that of plain operations, over the tokens that aren't padding.
        fn distance(&self, gpu: &Gpu) -> Result<f32> {
            let Self { heads, rows, tokens, .. } = *self;
            let device = gpu.driver.device();
            let random = |shape: &[usize]| Tensor::randn(0f32, 1f32, shape, device)?.to_dtype(gpu.dtype);
            let queries = random(&[rows * tokens, heads.qkv()])?;
            let cache = [rows, heads.keys, self.capacity(), heads.width];
            let (keys, values) = (random(&cache)?, random(&cache)?);
            let output = gpu.driver.zeros(rows * tokens * heads.queries * heads.width, gpu.dtype)?;
            let starts: Vec<u32> = (0..rows).map(|row| Self::start(row) as u32).collect();
            let biases = (0..heads.queries).flat_map(|head| (0..self.capacity()).map(move |i| Self::bias(head, i)));
            let biases = gpu.driver.upload(&biases.collect::<Vec<_>>())?;
            let (starts, length) = (gpu.driver.upload(&starts)?, gpu.driver.upload(&[self.past as u32])?);
            let scale = 1.0 / (heads.width as f32).sqrt();
            let buffers = [queries.clone(), keys.clone(), values.clone()].map(Buffer::of);
            let [query_buffer, key_buffer, value_buffer] = &buffers;
            let at = |buffer: &Result<Buffer>| buffer.as_ref().map_or(NULL, Buffer::pointer);
            let attend = Attend {
                heads,
                queries: at(query_buffer),
                query_stride: heads.qkv(),
                keys: at(key_buffer),
                values: at(value_buffer),
                output: output.pointer(),
                starts: starts.pointer(),
                length: length.pointer(),
                alibi: self.alibi.then(|| biases.pointer()),
                rows,
                tokens,
                capacity: self.capacity(),
                window: self.window,
                scale,
                softcap: self.softcap,
                scratch: &Scratch::new(&gpu.driver, heads, gpu.dtype, rows, self.capacity())?,
            };
            launch(gpu, &attend)?;

            let first = queries.narrow(1, 0, heads.queries * heads.width)?;
            let first = first.reshape((rows, tokens, heads.queries, heads.width))?.transpose(1, 2)?;
            let repeated = |cache: &Tensor| -> Result<Tensor> {
                let seen = cache.narrow(2, 0, self.columns())?.unsqueeze(2)?;
                let seen = seen.repeat((1, 1, heads.shared(), 1, 1))?.to_dtype(DType::F32)?;
                Ok(seen.reshape((rows, heads.queries, self.columns(), heads.width))?)
            };
            let rounded = |x: Tensor| -> Result<Tensor> { Ok(x.to_dtype(gpu.dtype)?.to_dtype(DType::F32)?) };
            let products = first.to_dtype(DType::F32)?.contiguous()?.matmul(&repeated(&keys)?.transpose(2, 3)?)?;
            let mut scores = (rounded(products)? * f64::from(scale))?;
            if !self.alibi {
                scores = rounded(scores)?;
            }
            if self.softcap > 0.0 {
                let cap = f64::from(self.softcap);
                scores = rounded((rounded(rounded((scores / cap)?)?.tanh()?)? * cap)?)?;
            }
            let weights = softmax_last_dim(&(scores + self.added(device)?)?)?;
            let expected = weights.matmul(&repeated(&values)?)?.transpose(1, 2)?.contiguous()?;
            let found = output.tensor().to_dtype(DType::F32)?.reshape(expected.shape())?;
            let size = |x: Tensor| -> Result<f32> {
                let mut sum = 0.0;
                for row in 0..rows {
                    let padding = Self::start(row).saturating_sub(self.past).min(tokens);
                    let x = x.get(row)?.narrow(0, padding, tokens - padding)?;
                    sum += x.sqr()?.sum_all()?.to_scalar::<f32>()?;
                }
                Ok(sum.sqrt())
            };
            Ok(size((found - &expected)?)? / size(expected)?)
        }
    }

    #[test]
    fn a_gpu_attends_as_plain_operations_do() {
        let Ok(device) = Device::new_cuda(0) else { return };
        let widths = [8, 64, 80, 96, 128, 256];
        let mut cases: Vec<Case> = widths.into_iter().map(|width| Case::new(8, 2, width, 300, 1)).collect();
        cases.extend(widths.into_iter().map(|width| Case::new(8, 2, width, 20, 130)));
        cases.extend([Case::new(32, 1, 64, 700, 1), Case::new(32, 1, 64, 0, 200), Case::new(4, 4, 128, 2000, 1)]);
        for window in [None, Some(40)] {
            for tokens in [1, 70] {
                let case = Case { window, ..Case::new(4, 2, 64, 90, tokens) };
                cases.extend([case, Case { softcap: 3.0, ..case }, Case { alibi: true, ..case }]);
            }
        }
        for (dtype, limit) in [(DType::F32, 1e-5), (DType::F16, 1e-3), (DType::BF16, 5e-3)] {
            let driver = Driver::new(&device).unwrap();
            let gpu = Gpu::new(driver, dtype).unwrap();
            for case in &cases {
                let distance = case.distance(&gpu).unwrap();
                let Case { heads, past, tokens, window, softcap, alibi, .. } = case;
                assert!(
                    distance < limit,
                    "{distance} in {dtype:?}: {heads:?}, {tokens} tokens after {past} columns, window {window:?}, \
                     cap {softcap}, biases {alibi}"
                );
            }
        }
    }
}
