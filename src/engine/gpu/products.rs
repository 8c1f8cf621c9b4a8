//! Products of few rows of activations, bound by memory: kernels that read the weights once, at memory's full speed.

use candle_core::DType;

use super::driver::{Driver, Grid, Params, Pointer, suffix};
use super::gate;
use super::library::Product;
use crate::engine::config::Activation;
use crate::error::{Error, Result};

/// The most rows that the kernels are for. With more, the inputs' way through the caches costs energy: at 8 rows of an 8B
/// shape a pass is 9 % shorter than the library's, at 5 % more energy, and energy is what this program is about.
const MOST_ROWS: usize = 4;

/// Elements of a row that a warp reads at a time, `CHUNK` in the kernels.
const CHUNK: usize = 64;

/// Columns of W from which on a multiprocessor has one large block in place of two.
const LONG: usize = 4096;

#[repr(C)]
#[derive(Clone, Copy)]
struct ProductParams {
    inputs: Pointer,
    weights: Pointer,
    bias: Pointer,
    outputs: Pointer,
    rows: i32,
    weight_rows: i32,
    weight_columns: i32,
    activation: i32,
}

// SAFETY: the fields are those of `ProductParams` in products.cu.
unsafe impl Params for ProductParams {}
const _: () = assert!(size_of::<ProductParams>() == 48);

/// A kernel, as `PRODUCTS` in products.cu makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Variant {
    /// The end of its name before the data type.
    name: &'static str,
    /// The most rows of inputs.
    columns: usize,
    warps: usize,
    /// 16-row fragments of W of a warp.
    fragments: usize,
    /// Stages of weights in flight.
    depth: usize,
    /// They are in shared memory, not in registers.
    ring: bool,
    /// Blocks that a multiprocessor has room for. No fewer may be asked for at once: blocks share the work by their
    /// number, and some multiprocessors would get more of them than others.
    blocks: usize,
}

const TWO: Variant = Variant { name: "m2", columns: 2, warps: 8, fragments: 1, depth: 4, ring: false, blocks: 2 };
const FOUR: Variant = Variant { name: "m4", columns: 4, ..TWO };
const TWO_LONG: Variant = Variant { name: "m2_long", warps: 16, depth: 2, blocks: 1, ..TWO };
const FOUR_LONG: Variant = Variant { name: "m4_long", warps: 16, ring: true, blocks: 1, ..FOUR };

impl Variant {
    /// `long`: rows of W are long, and a block may have most of a Hopper GPU's shared memory.
    fn for_rows(rows: usize, long: bool) -> Self {
        match (rows, long) {
            (..=2, false) => TWO,
            (..=2, true) => TWO_LONG,
            (_, false) => FOUR,
            (_, true) => FOUR_LONG,
        }
    }

    /// Bytes of shared memory of a block: the weights in flight, and the warps' sums.
    fn shared(&self) -> usize {
        const STAGE: usize = 16 * CHUNK * 2;
        let across = self.columns.div_ceil(8);
        // of two floats for each of 32 lanes
        let sums = if self.columns < 8 { self.fragments } else { 2 * self.fragments * across };
        let buffers = if self.fragments * across > 2 { 1 } else { 2 };
        let ring = if self.ring { self.warps * self.depth * self.fragments * STAGE } else { 0 };
        ring + buffers * self.warps * sums * 256
    }

    /// As many blocks as there are at once, or fewer if they have equal work then.
    fn grid(&self, driver: &Driver, outputs: usize, rows_of_tile: usize) -> Grid {
        let tiles = outputs.div_ceil(rows_of_tile * self.fragments);
        let at_once = self.blocks * driver.multiprocessors() as usize;
        let blocks = tiles.div_ceil(tiles.div_ceil(at_once));
        Grid { blocks: (blocks as u32, 1, 1), threads: 32 * self.warps as u32, shared: self.shared() as u32 }
    }
}

/// Whether [`multiply`] is a better choice than the library.
pub(crate) fn is_better(product: &Product) -> bool {
    fits(product)
}

/// Whether [`multiply_gated`] is a better choice than a product by the library and the activation after it.
pub(crate) fn gated_is_better(product: &Product) -> bool {
    fits(product) && product.outputs.is_multiple_of(2)
}

fn fits(product: &Product) -> bool {
    let aligned = [product.x, product.weight].iter().all(|pointer| pointer.is_multiple_of(16));
    let whole = (product.inputs * product.dtype.size_in_bytes()).is_multiple_of(16);
    aligned && whole && product.rows <= MOST_ROWS && suffix(product.dtype).is_ok()
}

/// y = x · Wᵀ + b.
///
/// # Errors
/// A product that doesn't fit, or a failure of the device.
pub(crate) fn multiply(driver: &Driver, product: &Product) -> Result<()> {
    run(driver, product, None)
}

/// y = act(gate) · up, where the gate's rows are the first half of x · Wᵀ + b and up's the second: y is
/// `(rows, outputs / 2)`.
///
/// # Errors
/// As for [`multiply`].
pub(crate) fn multiply_gated(driver: &Driver, product: &Product, activation: Activation) -> Result<()> {
    run(driver, product, Some(activation))
}

fn run(driver: &Driver, product: &Product, activation: Option<Activation>) -> Result<()> {
    if !fits(product) {
        return Err(Error::new(format!("no kernel for few rows multiplies {product:?}")));
    }
    let params = ProductParams {
        inputs: product.x,
        weights: product.weight,
        bias: product.bias,
        outputs: product.y,
        rows: product.rows as i32,
        weight_rows: product.outputs as i32,
        weight_columns: product.inputs as i32,
        activation: activation.map_or(0, gate::code),
    };
    let form = if activation.is_some() { "product_gated" } else { "product" };
    let outputs = if activation.is_some() { product.outputs / 2 } else { product.outputs };
    let dtype = suffix(product.dtype)?;
    if product.dtype == DType::F32 {
        /// Warps of a block, each with a row of W at a time.
        const WARPS: usize = 8;
        let blocks = outputs.div_ceil(WARPS).min(8 * driver.multiprocessors() as usize);
        let grid = Grid { blocks: (blocks as u32, 1, 1), threads: 32 * WARPS as u32, shared: 0 };
        return driver.launch(&format!("{form}_{dtype}"), grid, &params);
    }
    let variant = Variant::for_rows(product.rows, product.inputs >= LONG && driver.overlaps());
    let grid = variant.grid(driver, outputs, if activation.is_some() { 8 } else { 16 });
    driver.launch(&format!("{form}_{}_{dtype}", variant.name), grid, &params)
}

#[cfg(test)]
mod tests {
    use candle_core::{D, Device, Tensor};

    use super::*;
    use crate::engine::gpu::driver::{Buffer, NULL};

    fn device() -> Option<Device> {
        Device::new_cuda(0).ok()
    }

    fn numbers(device: &Device, shape: (usize, usize), dtype: DType, deviation: f32) -> Tensor {
        Tensor::randn(0f32, deviation, shape, device).unwrap().to_dtype(dtype).unwrap().contiguous().unwrap()
    }

    fn distance(found: &Tensor, expected: &Tensor) -> f64 {
        let norm = |x: &Tensor| x.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
        let found = found.to_dtype(DType::F32).unwrap();
        f64::from(norm(&(found - expected).unwrap()) / norm(expected))
    }

    fn limit(dtype: DType) -> f64 {
        match dtype {
            DType::F32 => 1e-5,
            DType::F16 => 1e-3,
            _ => 5e-3,
        }
    }

    /// y = x · Wᵀ + b by the kernel and by candle in f32; with an activation, also act(gate) · up.
    fn compare(driver: &Driver, dtype: DType, [rows, outputs, inputs]: [usize; 3], gated: bool) {
        let device = driver.device();
        let x = numbers(device, (rows, inputs), dtype, 1.0);
        let w = numbers(device, (outputs, inputs), dtype, 1.0 / (inputs as f32).sqrt());
        let b = numbers(device, (1, outputs), dtype, 1.0);
        let width = if gated { outputs / 2 } else { outputs };
        let poison = Tensor::full(f32::NAN, (rows, width), device).unwrap().to_dtype(dtype).unwrap();
        let buffers = [&x, &w, &b, &poison].map(|tensor| Buffer::of(tensor.clone()).unwrap());
        let [x_at, w_at, b_at, y_at] = [0, 1, 2, 3].map(|index| buffers[index].pointer());
        let product = Product { x: x_at, weight: w_at, bias: b_at, y: y_at, rows, outputs, inputs, dtype };
        let [x, w, b] = [x, w, b].map(|tensor| tensor.to_dtype(DType::F32).unwrap());
        let mut expected = x.matmul(&w.t().unwrap()).unwrap().broadcast_add(&b).unwrap();
        if gated {
            let rounded = expected.to_dtype(dtype).unwrap();
            let half = |index| rounded.narrow(D::Minus1, index * width, width).unwrap();
            let active = half(0).to_dtype(DType::F32).unwrap().silu().unwrap().to_dtype(dtype).unwrap();
            expected = (active * half(1)).unwrap().to_dtype(DType::F32).unwrap();
            multiply_gated(driver, &product, Activation::Silu).unwrap();
        } else {
            multiply(driver, &product).unwrap();
        }
        let found = distance(buffers[3].tensor(), &expected);
        assert!(found < limit(dtype), "{rows} × {inputs} by {outputs} in {dtype:?}: {found}");
    }

    #[test]
    fn a_gpu_multiplies_few_rows_as_candle_does() {
        let Some(device) = device() else { return };
        let driver = Driver::new(&device).unwrap();
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for rows in [1, 2, 3, MOST_ROWS] {
                for shape in [[rows, 4096, 4096], [rows, 1000, 896], [rows, 37, 72], [rows, 512, 14336]] {
                    compare(&driver, dtype, shape, false);
                    compare(&driver, dtype, [shape[0], 2 * shape[1], shape[2]], true);
                }
            }
        }
    }

    #[test]
    fn a_gpu_gives_the_same_bits_each_time_it_multiplies_few_rows() {
        let Some(device) = device() else { return };
        let driver = Driver::new(&device).unwrap();
        let [x, w] = [(3, 2048), (3072, 2048)].map(|shape| numbers(&device, shape, DType::BF16, 1.0));
        let results = [0, 1, 2].map(|_| {
            let y = Tensor::zeros((3, 3072), DType::BF16, &device).unwrap();
            let [x, w, y] = [&x, &w, &y].map(|tensor| Buffer::of(tensor.clone()).unwrap());
            let (rows, outputs, inputs, dtype) = (3, 3072, 2048, DType::BF16);
            let [x, weight] = [x.pointer(), w.pointer()];
            multiply(&driver, &Product { x, weight, bias: NULL, y: y.pointer(), rows, outputs, inputs, dtype })
                .unwrap();
            y.tensor().to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap()
        });
        assert_eq!(results[0], results[1]);
        assert_eq!(results[0], results[2]);
    }

    #[test]
    fn shared_memory_holds_the_weights_in_flight_and_the_sums_of_the_warps() {
        assert_eq!(TWO.shared(), 2 * 8 * 256);
        assert_eq!(TWO_LONG.shared(), 2 * 16 * 256);
        assert_eq!(FOUR_LONG.shared(), (128 << 10) + 2 * 16 * 256);
        assert!(2 * FOUR_LONG.shared() > 227 << 10, "a multiprocessor would take two blocks");
    }
}
