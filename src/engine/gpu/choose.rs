//! The end of a step: scaling and capping of logits, and the choice of the largest one of each row.

use candle_core::DType;

use super::driver::{Buffer, Driver, Grid, Params, Pointer, suffix};
use crate::error::Result;

const THREADS: usize = 256;

/// The most ids that a block looks at, and the fewest that are worth one.
const CHUNKS: [usize; 2] = [16 << 10, 2 << 10];

/// Scratch memory and settings of the choice for a batch.
pub(crate) struct Chooser {
    rows: usize,
    vocabulary: usize,
    /// Ids that a block looks at.
    chunk: usize,
    /// Blocks of a row.
    splits: usize,
    best: Buffer,
    counters: Buffer,
    ends: Buffer,
    end_count: usize,
    fixed_length: bool,
}

/// The buffers of a choice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Choice {
    /// `(b, pitch)`, of which each row begins with the vocabulary.
    pub(crate) logits: Pointer,
    /// A multiple of 16 bytes makes it faster.
    pub(crate) pitch: usize,
    /// `(steps, b, 2)` u32: the first index of the largest logit of all, and of all but the ends. The vocabulary's size
    /// if no logit is a number.
    pub(crate) chosen: Pointer,
    /// The next tokens `(b)`, u32: those that end nothing if the length is fixed.
    pub(crate) next: Pointer,
    /// Columns in the cache: one number, which grows by `advance`.
    pub(crate) length: Pointer,
    /// Steps chosen so far: one number, which grows by 1.
    pub(crate) step: Pointer,
    /// Columns that this pass has added to the cache.
    pub(crate) advance: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct ChooseParams {
    logits: Pointer,
    ends: Pointer,
    best: Pointer,
    counters: Pointer,
    chosen: Pointer,
    next: Pointer,
    length: Pointer,
    step: Pointer,
    vocabulary: i32,
    pitch: i32,
    chunk: i32,
    end_count: i32,
    fixed_length: i32,
    advance: i32,
}

// SAFETY: the fields are those of `ChooseParams` in choose.cu.
unsafe impl Params for ChooseParams {}
const _: () = assert!(size_of::<ChooseParams>() == 88);

#[repr(C)]
#[derive(Clone, Copy)]
struct CapParams {
    logits: Pointer,
    count: i64,
    scale: f32,
    cap: f32,
}

// SAFETY: the fields are those of `CapParams` in choose.cu.
unsafe impl Params for CapParams {}
const _: () = assert!(size_of::<CapParams>() == 24);

impl Chooser {
    /// For batches of `rows` rows; `ends` are the ids that end a sequence.
    ///
    /// # Errors
    /// The device is full.
    pub(crate) fn new(
        driver: &Driver,
        rows: usize,
        vocabulary: usize,
        ends: &[u32],
        fixed_length: bool,
    ) -> Result<Self> {
        let [most, fewest] = CHUNKS;
        let wanted = (8 * driver.multiprocessors() as usize).div_ceil(rows);
        let chunk = vocabulary.div_ceil(wanted).clamp(fewest, most).next_multiple_of(8);
        let splits = vocabulary.div_ceil(chunk);
        let padded = if ends.is_empty() { &[0] } else { ends };
        Ok(Self {
            rows,
            vocabulary,
            chunk,
            splits,
            // two numbers of 8 bytes for each block
            best: driver.zeros(rows * splits * 4, DType::U32)?,
            counters: driver.zeros(rows + 1, DType::U32)?,
            ends: driver.upload(padded)?,
            end_count: ends.len(),
            fixed_length,
        })
    }

    /// Chooses the next token of each row.
    ///
    /// # Errors
    /// A failure of the device.
    pub(crate) fn run(&self, driver: &Driver, dtype: DType, choice: &Choice) -> Result<()> {
        let params = ChooseParams {
            logits: choice.logits,
            ends: self.ends.pointer(),
            best: self.best.pointer(),
            counters: self.counters.pointer(),
            chosen: choice.chosen,
            next: choice.next,
            length: choice.length,
            step: choice.step,
            vocabulary: self.vocabulary as i32,
            pitch: choice.pitch as i32,
            chunk: self.chunk as i32,
            end_count: self.end_count as i32,
            fixed_length: i32::from(self.fixed_length),
            advance: choice.advance as i32,
        };
        let grid = Grid { blocks: (self.splits as u32, self.rows as u32, 1), threads: THREADS as u32, shared: 0 };
        driver.launch(&format!("choose_{}", suffix(dtype)?), grid, &params)
    }
}

/// Multiplies `count` logits by `scale`, then makes c · tanh(l / c) of each, in place.
///
/// # Errors
/// A failure of the device.
pub(crate) fn cap(
    driver: &Driver,
    dtype: DType,
    logits: Pointer,
    count: usize,
    scale: f32,
    cap: Option<f32>,
) -> Result<()> {
    let params = CapParams { logits, count: count as i64, scale, cap: cap.unwrap_or(0.0) };
    let blocks = (count * dtype.size_in_bytes()).div_ceil(16 * THREADS);
    let grid = Grid { blocks: (blocks as u32, 1, 1), threads: THREADS as u32, shared: 0 };
    driver.launch(&format!("cap_{}", suffix(dtype)?), grid, &params)
}
