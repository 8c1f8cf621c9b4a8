//! Products with matrices that stay in the block formats of GGUF, y = x·Wᵀ, with activations in f32.
//!
//! Up to 16 rows of x are multiplied by kernels that read the blocks as they are stored. They are as exact as a product
//! in f32 but for rounding near 10⁻⁵ of the result: unlike candle's products they don't quantise activations to 8 bits.
//! More rows go through in groups of 16 up to [`FEW_ROWS`]; beyond, matrix and activations become f16 for a product of
//! cuBLASLt, with roundings near 3 · 10⁻⁴ of the result.

use std::cell::RefCell;
use std::sync::Arc;

use candle_core::DType;
use candle_core::quantized::{GgmlDType, QMatMul, QTensor};

use super::driver::{Buffer, Driver, Grid, NULL, Params, Pointer, suffix};
use super::library::{self, Library};
use crate::error::{Error, Result};

/// Rows that one launch multiplies.
const GROUP: usize = 16;

/// Rows up to which groups of [`GROUP`] are quicker than dequantising the matrix.
const FEW_ROWS: usize = 64;

const THREADS: usize = 256;

/// Shared memory that a block has on all devices.
const SHARED: usize = 96 << 10;

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

#[repr(C)]
#[derive(Clone, Copy)]
struct RowsParams {
    inputs: Pointer,
    values: Pointer,
    scales: Pointer,
    k: i32,
}

// SAFETY: the fields are those of `RowsParams` in quantised.cu.
unsafe impl Params for RowsParams {}
const _: () = assert!(size_of::<RowsParams>() == 32);

#[repr(C)]
#[derive(Clone, Copy)]
struct FinishParams {
    outputs: Pointer,
    scales: Pointer,
    bias: Pointer,
    n: i32,
    width: i32,
}

// SAFETY: the fields are those of `FinishParams` in quantised.cu.
unsafe impl Params for FinishParams {}
const _: () = assert!(size_of::<FinishParams>() == 32);

/// A block format that kernels read.
#[derive(Debug, Clone, Copy, PartialEq)]
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
        (GgmlDType::Q8_0, Self::new("q8_0", [32, 34], 128, 2)),
        (GgmlDType::Q4_0, Self::new("q4_0", [32, 18], 256, 2)),
        (GgmlDType::Q4_1, Self::new("q4_1", [32, 20], 256, 4)),
        (GgmlDType::Q5_0, Self::new("q5_0", [32, 22], 256, 2)),
        (GgmlDType::Q5_1, Self::new("q5_1", [32, 24], 256, 4)),
        (GgmlDType::Q2K, Self::new("q2_k", [256, 84], 256, 4)),
        (GgmlDType::Q3K, Self::new("q3_k", [256, 110], 256, 2)),
        (GgmlDType::Q4K, Self::new("q4_k", [256, 144], 256, 16)),
        (GgmlDType::Q5K, Self::new("q5_k", [256, 176], 256, 16)),
        (GgmlDType::Q6K, Self::new("q6_k", [256, 210], 256, 2)),
    ];

    const fn new(name: &'static str, [columns, bytes]: [usize; 2], chunk: usize, alignment: usize) -> Self {
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

/// A quantised matrix `(outputs, inputs)` on the device.
pub(crate) struct QuantisedMatrix {
    format: Format,
    pointer: Pointer,
    /// What `pointer` is of.
    _tensor: Arc<QTensor>,
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
}

/// Buffers for activations as the kernels take them. What has grown too small is kept, since recorded launches know it.
#[derive(Default)]
pub(crate) struct Scratch {
    few: RefCell<Vec<FewRows>>,
    many: RefCell<Vec<ManyRows>>,
}

/// Operands of up to [`GROUP`] rows.
struct FewRows {
    inputs: usize,
    operands: Buffer,
    unit_sums: Buffer,
}

struct ManyRows {
    /// Elements that `weights` and `x` have room for, and rows that `scales` has.
    room: [usize; 3],
    /// The matrix in f16.
    weights: Buffer,
    /// `(rows, inputs)` in f16.
    x: Buffer,
    /// `(rows)`.
    scales: Buffer,
}

impl Scratch {
    /// Makes room for products with few rows of matrices of `inputs` columns.
    ///
    /// # Errors
    /// The device is full.
    pub(crate) fn reserve(&self, driver: &Driver, inputs: usize) -> Result<()> {
        let mut few = self.few.borrow_mut();
        if few.last().is_none_or(|last| last.inputs < inputs) {
            // 16 rows take 4 groups of 32 lanes with 16 bytes each, for every 32 and for every 256 inputs
            let buffer = |units: usize| driver.zeros(units * 4 * 32 * 16, DType::U8);
            let (operands, unit_sums) = (buffer(inputs.div_ceil(32))?, buffer(inputs.div_ceil(256))?);
            few.push(FewRows { inputs, operands, unit_sums });
        }
        Ok(())
    }

    /// Addresses of operands and of sums of units.
    fn few(&self) -> Result<[Pointer; 2]> {
        let few = self.few.borrow();
        let last = few.last().ok_or_else(|| Error::new("a quantised product has no buffers"))?;
        Ok([last.operands.pointer(), last.unit_sums.pointer()])
    }

    /// Addresses of the matrix, the rows and their scales, for so many of each.
    fn many(&self, driver: &Driver, needed: [usize; 3]) -> Result<[Pointer; 3]> {
        let mut many = self.many.borrow_mut();
        let kept = many.last().map_or([0; 3], |last| last.room);
        if kept.iter().zip(needed).any(|(kept, needed)| *kept < needed) {
            let room: [usize; 3] = std::array::from_fn(|index| kept[index].max(needed[index]));
            let buffer = |count, dtype| driver.zeros(count, dtype);
            let (weights, x) = (buffer(room[0], DType::F16)?, buffer(room[1], DType::F16)?);
            many.push(ManyRows { room, weights, x, scales: buffer(room[2], DType::F32)? });
        }
        let last = many.last().ok_or_else(|| Error::new("a quantised product has no buffers"))?;
        Ok([last.weights.pointer(), last.x.pointer(), last.scales.pointer()])
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
    /// Takes over a matrix that candle has brought to the device as it is stored; `None` if it is in a format without
    /// kernels.
    ///
    /// # Errors
    /// It isn't a matrix on a GPU.
    pub(crate) fn new(matrix: &QMatMul) -> Result<Option<Self>> {
        let QMatMul::QTensor(blocks) = matrix else { return Ok(None) };
        let Some(format) = Format::of(blocks.dtype()) else { return Ok(None) };
        let (outputs, inputs) = blocks.shape().dims2()?;
        // candle leaves room after the last block, which copies of 16 bytes may read
        let pointer = blocks.device_ptr()? as Pointer;
        match inputs.is_multiple_of(format.columns) && pointer.is_multiple_of(16) {
            true => Ok(Some(Self { format, pointer, _tensor: blocks.clone(), outputs, inputs })),
            false => Err(Error::new(format!("a matrix in {} has rows that aren't whole blocks", format.name))),
        }
    }

    /// Multiplies rows.
    ///
    /// # Errors
    /// A failure of the device.
    pub(crate) fn multiply(
        &self,
        driver: &Driver,
        library: &Library,
        product: &Product,
        scratch: &Scratch,
    ) -> Result<()> {
        // cuBLASLt chooses algorithms for rows that begin at multiples of 256 bytes
        if product.rows > FEW_ROWS && product.y.is_multiple_of(256) {
            return self.multiply_many(driver, library, product, scratch);
        }
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

    fn multiply_many(&self, driver: &Driver, library: &Library, product: &Product, scratch: &Scratch) -> Result<()> {
        let room = [self.outputs * self.inputs, product.rows * self.inputs, product.rows];
        let [weight, values, scales] = scratch.many(driver, room)?;
        self.dequantise(driver, DType::F16, weight)?;
        let grid = Grid { blocks: (product.rows as u32, 1, 1), threads: THREADS as u32, shared: 0 };
        driver.launch(
            "quantised_rows",
            grid,
            &RowsParams { inputs: product.x, values, scales, k: self.inputs as i32 },
        )?;
        let in_f16 = library::Product {
            x: values,
            weight,
            bias: NULL,
            y: product.y,
            rows: product.rows,
            outputs: self.outputs,
            inputs: self.inputs,
            dtype: DType::F16,
        };
        library.multiply_to_f32(driver, &in_f16, product.width)?;
        let finish = FinishParams {
            outputs: product.y,
            scales,
            bias: product.bias,
            n: self.outputs as i32,
            width: product.width as i32,
        };
        driver.launch("quantised_finish", grid, &finish)
    }

    fn multiply_few(&self, driver: &Driver, product: &Product, scratch: &Scratch) -> Result<()> {
        // columns of activations in eights, two for each row; rows of W of a warp
        let wide = if self.format.shared(32) <= SHARED { 32 } else { 16 };
        let (most, groups, rows) = match product.rows {
            ..=4 => (4, 1, 16),
            5..=8 => (8, 2, wide),
            _ => (16, 4, wide),
        };
        let splits = self.splits();
        let [operands, unit_sums] = scratch.few()?;
        let params = QuantisedParams {
            inputs: product.x,
            weights: self.pointer,
            operands,
            unit_sums: if self.inputs.is_multiple_of(256) { unit_sums } else { NULL },
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
        // as many blocks as there are at once, or fewer if they have equal work then
        let blocks = tiles.div_ceil(tiles.div_ceil(resident));
        let grid = Grid { blocks: (blocks as u32, 1, 1), threads: THREADS as u32, shared: shared as u32 };
        driver.launch(&format!("quantised_{}_{most}", self.format.name), grid, &params)
    }

    /// How many warps of a block share the rows of W, each with some of its columns: as many as there are stages for.
    fn splits(&self) -> usize {
        let chunks = self.inputs.div_ceil(self.format.chunk);
        [8, 4, 2].into_iter().find(|splits| chunks.is_multiple_of(*splits)).unwrap_or(1)
    }

    /// The matrix in `dtype` `(outputs, inputs)`.
    ///
    /// # Errors
    /// A failure of the device, or a data type that no kernel writes.
    pub(crate) fn dequantise(&self, driver: &Driver, dtype: DType, to: Pointer) -> Result<()> {
        let params =
            DequantiseParams { weights: self.pointer, values: to, n: self.outputs as i32, k: self.inputs as i32 };
        let blocks = (self.outputs * self.inputs / 8).div_ceil(THREADS);
        let grid = Grid { blocks: (blocks as u32, 1, 1), threads: THREADS as u32, shared: 0 };
        driver.launch(&format!("dequantise_{}_{}", self.format.name, suffix(dtype)?), grid, &params)
    }
}

#[cfg(all(test, feature = "cuda"))]
mod tests {
    use candle_core::quantized::QStorage;
    use candle_core::{Device, Tensor};

    use super::*;

    fn norm(tensor: &Tensor) -> f32 {
        tensor.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt()
    }

    /// A random matrix as candle quantises it: on the CPU and on the GPU.
    fn quantised(kind: GgmlDType, outputs: usize, inputs: usize, device: &Device) -> (Tensor, QMatMul) {
        let plain = Tensor::randn(0f32, 0.05, (outputs, inputs), &Device::Cpu).unwrap();
        let tensor = QTensor::quantize(&plain, kind).unwrap();
        let values = tensor.dequantize(&Device::Cpu).unwrap();
        let storage = QStorage::from_data(tensor.data().unwrap(), device, kind).unwrap();
        let matrix = QMatMul::QTensor(Arc::new(QTensor::new(storage, (outputs, inputs)).unwrap()));
        (values, matrix)
    }

    #[test]
    fn a_gpu_multiplies_by_quantised_matrices_as_by_their_values_in_f32() {
        let Ok(device) = Device::new_cuda(0) else { return };
        let driver = Driver::new(&device).unwrap();
        let library = Library::new(&driver).unwrap();
        let (outputs, inputs) = (1000, 2816);
        for (kind, format) in Format::ALL {
            let (values, matrix) = quantised(kind, outputs, inputs, &device);
            let matrix = QuantisedMatrix::new(&matrix).unwrap().unwrap();
            for rows in [1, 3, 4, 7, 16, 33, 100] {
                let x = Tensor::randn(0f32, 1.0, (rows, inputs), &Device::Cpu).unwrap();
                let bias = Tensor::randn(0f32, 1.0, outputs, &Device::Cpu).unwrap();
                let on_device = |tensor: &Tensor| Buffer::of(tensor.to_device(&device).unwrap()).unwrap();
                let (x_there, bias_there) = (on_device(&x), on_device(&bias));
                let y = driver.zeros(rows * outputs, DType::F32).unwrap();
                let scratch = Scratch::default();
                scratch.reserve(&driver, inputs).unwrap();
                let (x_at, bias_at, y_at) = (x_there.pointer(), bias_there.pointer(), y.pointer());
                let product = Product { x: x_at, rows, bias: bias_at, y: y_at, width: outputs };
                matrix.multiply(&driver, &library, &product, &scratch).unwrap();
                let found = y.tensor().to_device(&Device::Cpu).unwrap().reshape((rows, outputs)).unwrap();
                let expected = x.matmul(&values.t().unwrap()).unwrap().broadcast_add(&bias).unwrap();
                let apart = norm(&(found - &expected).unwrap()) / norm(&expected);
                let limit = if rows > FEW_ROWS { 1e-3 } else { 1e-5 };
                assert!(apart < limit, "{}, {rows} rows: off by {apart}", format.name);
            }
        }
    }
}
