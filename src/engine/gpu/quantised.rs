//! Products with matrices that stay in the block formats of GGUF, y = x·Wᵀ, with activations in f32.
//!
//! Up to 16 rows of x are multiplied by kernels that read the blocks as they are stored. They are as exact as a product
//! in f32 but for rounding near 10⁻⁵ of the result: unlike candle's products they don't quantise activations to 8 bits.
//! More rows go through in groups of 16 up to [`FEW_ROWS`]; beyond, the matrix is dequantised to half precision
//! once a product.

use candle_core::DType;
use candle_core::quantized::GgmlDType;

use super::driver::{Buffer, Driver, Grid, NULL, Params, Pointer};
use crate::error::{Error, Result};

/// Rows that one launch multiplies.
const GROUP: usize = 16;

/// Rows up to which groups of [`GROUP`] are quicker than dequantising the matrix.
pub(crate) const FEW_ROWS: usize = 64;

const THREADS: usize = 256;

/// Warps of a block.
const WARPS: usize = 8;

#[repr(C)]
#[derive(Clone, Copy)]
struct QuantisedParams {
    inputs: Pointer,
    weights: Pointer,
    operands: Pointer,
    unit_sums: Pointer,
    bias: Pointer,
    outputs: Pointer,
    m: i32,
    n: i32,
    k: i32,
    width: i32,
    groups: i32,
    splits: i32,
}

// SAFETY: the fields are those of `QuantisedParams` in quantised.cu.
unsafe impl Params for QuantisedParams {}
const _: () = assert!(size_of::<QuantisedParams>() == 72);

#[repr(C)]
#[derive(Clone, Copy)]
struct DequantiseParams {
    weights: Pointer,
    values: Pointer,
    n: i32,
    k: i32,
}

// SAFETY: the fields are those of `DequantiseParams` in quantised.cu.
unsafe impl Params for DequantiseParams {}
const _: () = assert!(size_of::<DequantiseParams>() == 24);

/// A block format that kernels read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Format {
    /// In the names of kernels.
    name: &'static str,
    /// Values of a block.
    columns: usize,
    /// Bytes of a block.
    bytes: usize,
    /// Columns of a stage of the kernels.
    chunk: usize,
    /// What divides the address of a block in a matrix whose first address 16 divides.
    alignment: usize,
}

impl Format {
    const ALL: [(GgmlDType, Self); 10] = [
        (GgmlDType::Q8_0, Self::new("q8_0", 32, 34, 128, 2)),
        (GgmlDType::Q4_0, Self::new("q4_0", 32, 18, 256, 2)),
        (GgmlDType::Q4_1, Self::new("q4_1", 32, 20, 256, 4)),
        (GgmlDType::Q5_0, Self::new("q5_0", 32, 22, 256, 2)),
        (GgmlDType::Q5_1, Self::new("q5_1", 32, 24, 256, 4)),
        (GgmlDType::Q2K, Self::new("q2_k", 256, 84, 256, 4)),
        (GgmlDType::Q3K, Self::new("q3_k", 256, 110, 256, 2)),
        (GgmlDType::Q4K, Self::new("q4_k", 256, 144, 256, 16)),
        (GgmlDType::Q5K, Self::new("q5_k", 256, 176, 256, 16)),
        (GgmlDType::Q6K, Self::new("q6_k", 256, 210, 256, 2)),
    ];

    const fn new(name: &'static str, columns: usize, bytes: usize, chunk: usize, alignment: usize) -> Self {
        Self { name, columns, bytes, chunk, alignment }
    }

    /// The format of a type of candle's, if there are kernels for it.
    pub(crate) fn of(dtype: GgmlDType) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| *known == dtype).map(|(_, format)| format)
    }

    /// Dynamic shared memory of a block whose warps have `rows` rows each: the rings of stages, as in quantised.cu.
    fn shared(&self, rows: usize) -> usize {
        let row = self.chunk / self.columns * self.bytes + if self.alignment == 16 { 0 } else { 16 - self.alignment };
        // an odd number of 16-byte pieces
        let stage = rows * (row.div_ceil(16) | 1) * 16;
        let stages = match stage {
            4001.. => 2,
            2901.. => 3,
            _ => 4,
        };
        WARPS * stages * stage
    }
}

/// A quantised matrix on the device.
pub(crate) struct QuantisedMatrix {
    pub(crate) format: Format,
    /// The blocks, row over row, and 16 bytes more.
    pub(crate) blocks: Buffer,
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
}

/// Buffers for activations as the kernels take them.
pub(crate) struct Scratch {
    operands: Buffer,
    unit_sums: Buffer,
}

impl Scratch {
    /// Buffers for products with matrices of up to `inputs` columns.
    ///
    /// # Errors
    /// The device is full.
    pub(crate) fn new(driver: &Driver, inputs: usize) -> Result<Self> {
        // 16 rows take 4 groups of 8 columns of 16 bytes a lane: for 32 and for 256 inputs
        let operands = driver.zeros(inputs.div_ceil(32) * 4 * 32 * 16, DType::U8)?;
        Ok(Self { operands, unit_sums: driver.zeros(inputs.div_ceil(256) * 4 * 32 * 16, DType::U8)? })
    }
}

/// What a product reads and writes besides its matrix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Product {
    /// `(rows, inputs)` in f32.
    pub(crate) x: Pointer,
    pub(crate) rows: usize,
    /// `(outputs)` in f32, or [`NULL`].
    pub(crate) bias: Pointer,
    /// `(rows, width)` in f32, of which the first `outputs` of a row are written.
    pub(crate) y: Pointer,
    /// Values from one row of y to the next.
    pub(crate) width: usize,
}

impl QuantisedMatrix {
    /// A matrix `(outputs, inputs)` from its blocks.
    ///
    /// # Errors
    /// A number of bytes that isn't that of the blocks, or a device that is full.
    pub(crate) fn new(driver: &Driver, format: Format, blocks: &[u8], [outputs, inputs]: [usize; 2]) -> Result<Self> {
        if !inputs.is_multiple_of(format.columns) || blocks.len() != outputs * inputs / format.columns * format.bytes {
            return Err(Error::new(format!("{} bytes aren't a matrix in {}", blocks.len(), format.name)));
        }
        // copies of 16 bytes may read past the last block
        let buffer = driver.zeros(blocks.len() + 16, DType::U8)?;
        driver.write(blocks, &buffer)?;
        Ok(Self { format, blocks: buffer, outputs, inputs })
    }

    /// Multiplies rows, some at a time.
    ///
    /// # Errors
    /// A failure of the device.
    pub(crate) fn multiply(&self, driver: &Driver, product: &Product, scratch: &Scratch) -> Result<()> {
        for first in (0..product.rows).step_by(GROUP) {
            let at = |pointer: Pointer, width: usize| pointer + (first * width * size_of::<f32>()) as u64;
            let part = Product {
                x: at(product.x, self.inputs),
                y: at(product.y, product.width),
                rows: GROUP.min(product.rows - first),
                ..*product
            };
            self.multiply_few(driver, &part, scratch)?;
        }
        Ok(())
    }

    fn multiply_few(&self, driver: &Driver, product: &Product, scratch: &Scratch) -> Result<()> {
        // columns of activations in eights, two for each row; rows of W of a warp
        let (most, groups, rows) = match product.rows {
            ..=4 => (4, 1, 16),
            5..=8 => (8, 2, 32),
            _ => (16, 4, 32),
        };
        let splits = self.splits(driver, rows);
        let params = QuantisedParams {
            inputs: product.x,
            weights: self.blocks.pointer(),
            operands: scratch.operands.pointer(),
            unit_sums: if self.inputs.is_multiple_of(256) { scratch.unit_sums.pointer() } else { NULL },
            bias: product.bias,
            outputs: product.y,
            m: product.rows as i32,
            n: self.outputs as i32,
            k: self.inputs as i32,
            width: product.width as i32,
            groups: groups as i32,
            splits: splits as i32,
        };
        let blocks = (self.inputs * groups).div_ceil(THREADS) as u32;
        let grid = Grid { blocks: (blocks, 1, 1), threads: THREADS as u32, shared: 0 };
        driver.launch("quantised_inputs", grid, &params)?;
        let shared = self.format.shared(rows);
        // two blocks share a multiprocessor where registers and shared memory allow it
        let resident = if most == 4 { 2 } else { 1 } * driver.multiprocessors() as usize;
        let tiles = self.outputs.div_ceil(rows * WARPS / splits);
        let grid = Grid {
            blocks: (tiles.min(resident) as u32, 1, 1),
            threads: THREADS as u32,
            shared: shared as u32,
        };
        driver.launch(&format!("quantised_{}_{most}", self.format.name), grid, &params)
    }

    /// How many warps of a block share the rows of W, each with some of its columns: as many as there are stages for.
    fn splits(&self, _driver: &Driver, _rows: usize) -> usize {
        let chunks = self.inputs.div_ceil(self.format.chunk);
        [8, 4, 2].into_iter().find(|splits| chunks.is_multiple_of(*splits)).unwrap_or(1)
    }

    /// The matrix in `dtype` `(outputs, inputs)`.
    ///
    /// # Errors
    /// A failure of the device, or a data type that no kernel writes.
    pub(crate) fn dequantise(&self, driver: &Driver, dtype: DType, to: Pointer) -> Result<()> {
        let params = DequantiseParams {
            weights: self.blocks.pointer(),
            values: to,
            n: self.outputs as i32,
            k: self.inputs as i32,
        };
        let blocks = (self.outputs * self.inputs / 8).div_ceil(THREADS);
        let grid = Grid { blocks: (blocks as u32, 1, 1), threads: THREADS as u32, shared: 0 };
        driver.launch(&format!("dequantise_{}_{}", self.format.name, super::driver::suffix(dtype)?), grid, &params)
    }
}
