//! Matrices on the GPU, and which kernel multiplies by them.

use candle_core::DType;

use super::driver::{Buffer, Driver, NULL, Pointer};
use super::library::{Library, Product};
use super::products;
use super::quantised::{self, QuantisedMatrix};
use crate::engine::config::{Activation, Attention, FusedOrder};
use crate::engine::layout::{MatrixSpec, QkvSpec};
use crate::engine::weights::Weights;
use crate::engine::weights::matrices::Matrix as Loaded;
use crate::error::Result;

/// The weights of y = x · Wᵀ + b.
pub(crate) struct Matrix {
    weight: Weight,
    bias: Option<Buffer>,
    /// Rows of W.
    pub(crate) outputs: usize,
    /// Columns of W.
    pub(crate) inputs: usize,
}

enum Weight {
    Plain(Buffer),
    /// Matrices whose outputs are side by side.
    Quantised(Vec<QuantisedMatrix>),
}

/// The device with everything that products need.
pub(crate) struct Gpu {
    pub(crate) driver: Driver,
    pub(crate) library: Library,
    /// For matrices that stay quantised.
    pub(crate) quantised: quantised::Scratch,
    /// The type of weights and activations.
    pub(crate) dtype: DType,
}

impl Gpu {
    /// Opens what products need.
    ///
    /// # Errors
    /// A library that isn't there, or a device that is full.
    pub(crate) fn new(driver: Driver, dtype: DType) -> Result<Self> {
        Ok(Self { library: Library::new(&driver)?, quantised: quantised::Scratch::default(), driver, dtype })
    }
}

impl Matrix {
    /// Takes over loaded weights.
    ///
    /// # Errors
    /// They aren't on the GPU.
    pub(crate) fn new(loaded: Loaded) -> Result<Self> {
        let (outputs, inputs) = loaded.weight.dims2()?;
        let bias = loaded.bias.map(Buffer::of).transpose()?;
        Ok(Self { weight: Weight::Plain(Buffer::of(loaded.weight)?), bias, outputs, inputs })
    }

    /// Loads matrices with the same number of columns as one, row over row; quantised ones as they are stored.
    ///
    /// # Errors
    /// Weights that can't be read, or a device that is full.
    pub(crate) fn load(weights: &Weights, parts: &[&MatrixSpec], gpu: &Gpu) -> Result<Self> {
        let (dtype, device) = (gpu.dtype, gpu.driver.device());
        let Some(matrices) = quantised_parts(weights, parts, gpu)? else {
            return Self::new(weights.load_rows(parts, dtype, device)?);
        };
        let bias = weights.load_bias(parts, dtype, device)?.map(Buffer::of).transpose()?;
        let outputs = matrices.iter().map(|matrix| matrix.outputs).sum();
        let inputs = matrices.iter().map(|matrix| matrix.inputs).max().unwrap_or_default();
        gpu.quantised.reserve(&gpu.driver, inputs)?;
        Ok(Self { weight: Weight::Quantised(matrices), bias, outputs, inputs })
    }

    /// Loads the query, key and value projections as one: all queries, all keys, all values.
    ///
    /// # Errors
    /// As for [`Matrix::load`].
    pub(crate) fn load_qkv(weights: &Weights, qkv: &QkvSpec, attention: &Attention, gpu: &Gpu) -> Result<Self> {
        match qkv {
            QkvSpec::Apart(parts) => Self::load(weights, &parts.each_ref(), gpu),
            QkvSpec::Fused(part, FusedOrder::Blocks) => Self::load(weights, &[part], gpu),
            QkvSpec::Fused(_, FusedOrder::ByKeyHead) => {
                Self::new(weights.load_qkv(qkv, attention, gpu.dtype, gpu.driver.device())?)
            }
        }
    }

    fn product(&self, gpu: &Gpu, weight: &Buffer, x: Pointer, rows: usize, y: Pointer) -> Product {
        Product {
            x,
            weight: weight.pointer(),
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
        let weight = match &self.weight {
            Weight::Plain(weight) => weight,
            Weight::Quantised(matrices) => return self.multiply_quantised(gpu, matrices, x, rows, y),
        };
        let product = self.product(gpu, weight, x, rows, y);
        match products::is_better(&product) {
            true => products::multiply(&gpu.driver, &product),
            false => gpu.library.multiply(&gpu.driver, &product),
        }
    }

    fn multiply_quantised(
        &self,
        gpu: &Gpu,
        matrices: &[QuantisedMatrix],
        x: Pointer,
        rows: usize,
        y: Pointer,
    ) -> Result<()> {
        let mut first = 0;
        for matrix in matrices {
            let bias = self.bias.as_ref().map_or(NULL, |bias| bias.at(first));
            let y = y + (first * size_of::<f32>()) as u64;
            let product = quantised::Product { x, rows, bias, y, width: self.outputs };
            matrix.multiply(&gpu.driver, &gpu.library, &product, &gpu.quantised)?;
            first += matrix.outputs;
        }
        Ok(())
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
        let Weight::Plain(weight) = &self.weight else { return Ok(false) };
        let product = self.product(gpu, weight, x, rows, y);
        let fused = self.bias.is_none() && products::gated_is_better(&product);
        if fused {
            products::multiply_gated(&gpu.driver, &product, activation)?;
        }
        Ok(fused)
    }
}

/// The matrices as they are stored, if all of them are quantised in formats with kernels; stacked if they have the same.
fn quantised_parts(weights: &Weights, parts: &[&MatrixSpec], gpu: &Gpu) -> Result<Option<Vec<QuantisedMatrix>>> {
    if gpu.dtype != DType::F32 || !weights.are_quantised() || parts.is_empty() {
        return Ok(None);
    }
    let load = |tensors: &[_]| -> Result<Option<QuantisedMatrix>> {
        let loaded = weights.load_quantised(tensors, gpu.driver.device())?;
        loaded.as_ref().map_or(Ok(None), QuantisedMatrix::new)
    };
    let tensors: Vec<_> = parts.iter().map(|part| &part.weight).collect();
    match load(&tensors)? {
        Some(stacked) => Ok(Some(vec![stacked])),
        None => Ok(tensors.iter().map(|tensor| load(&[*tensor])).collect::<Result<Vec<_>>>()?.into_iter().collect()),
    }
}
