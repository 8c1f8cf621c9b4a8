//! Matrices on the GPU, and which kernel multiplies by them.

use candle_core::DType;

use super::driver::{Buffer, Driver, NULL, Pointer};
use super::library::{Library, Product};
use super::products;
use crate::engine::config::Activation;
use crate::engine::weights::matrices::Matrix as Loaded;
use crate::error::Result;

/// The weights of y = x · Wᵀ + b.
pub(crate) struct Matrix {
    weight: Buffer,
    bias: Option<Buffer>,
    /// Rows of W.
    pub(crate) outputs: usize,
    /// Columns of W.
    pub(crate) inputs: usize,
}

/// The device with everything that products need.
pub(crate) struct Gpu {
    pub(crate) driver: Driver,
    pub(crate) library: Library,
    /// The type of weights and activations.
    pub(crate) dtype: DType,
}

impl Matrix {
    /// Takes over loaded weights.
    ///
    /// # Errors
    /// They aren't on the GPU.
    pub(crate) fn new(loaded: Loaded) -> Result<Self> {
        let (outputs, inputs) = loaded.weight.dims2()?;
        let bias = loaded.bias.map(Buffer::of).transpose()?;
        Ok(Self { weight: Buffer::of(loaded.weight)?, bias, outputs, inputs })
    }

    fn product(&self, gpu: &Gpu, x: Pointer, rows: usize, y: Pointer) -> Product {
        Product {
            x,
            weight: self.weight.pointer(),
            bias: self.bias.as_ref().map_or(NULL, Buffer::pointer),
            y,
            rows,
            outputs: self.outputs,
            inputs: self.inputs,
            dtype: gpu.dtype,
        }
    }

    /// Multiplies `rows` rows: x `(rows, inputs)` to y `(rows, outputs)`.
    ///
    /// # Errors
    /// A failure of the device.
    pub(crate) fn multiply(&self, gpu: &Gpu, x: Pointer, rows: usize, y: Pointer) -> Result<()> {
        let product = self.product(gpu, x, rows, y);
        match products::is_better(&product) {
            true => products::multiply(&gpu.driver, &product),
            false => gpu.library.multiply(&gpu.driver, &product),
        }
    }

    /// Multiplies by a gate's matrix and the one beside it in one, and applies the activation: x `(rows, inputs)` to y
    /// `(rows, outputs / 2)`. Gives whether it did: there may be no kernel for so many rows.
    ///
    /// # Errors
    /// A failure of the device.
    pub(crate) fn multiply_gated(
        &self,
        gpu: &Gpu,
        x: Pointer,
        rows: usize,
        activation: Activation,
        y: Pointer,
    ) -> Result<bool> {
        let product = self.product(gpu, x, rows, y);
        let fused = self.bias.is_none() && products::gated_is_better(&product);
        if fused {
            products::multiply_gated(&gpu.driver, &product, activation)?;
        }
        Ok(fused)
    }
}
