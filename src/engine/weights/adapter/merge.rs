//! Merging an adapter into the base model's weights, tensor by tensor. In f32 whatever the base is stored in, as the
//! updates are small against the weights.

use candle_core::{DType, Device, Tensor};

use super::files::{Adapter, CONFIG, Update};
use crate::error::{Error, Result};

impl Adapter {
    /// The tensor of the base model with this name, as it is after merging: f32, on `base`'s device, in its shape.
    ///
    /// # Errors
    /// Shapes that don't fit the base, a rank that isn't the configuration's, or a result that isn't finite.
    pub(crate) fn merge(&self, name: &str, base: Tensor) -> Result<Tensor> {
        let mut weight = base.to_dtype(DType::F32)?;
        if let Some(key) = self.replacements.get(name) {
            weight = self.replacement(key, &weight)?;
        }
        match name.strip_suffix(".weight").and_then(|module| Some((module, self.updates.get(module)?))) {
            None => Ok(weight),
            Some((module, update)) => self.update(module, update, &weight).map_err(|error| {
                Error::input(error.message()).at(format!("{}: module `{module}`", self.weights_file.display()))
            }),
        }
    }

    fn replacement(&self, key: &str, base: &Tensor) -> Result<Tensor> {
        let tensor = self.load(key, base.device())?;
        if tensor.dims() != base.dims() {
            let message = format!("has shape {:?}, the base model's is {:?}", tensor.dims(), base.dims());
            let error = Error::input(message).at(format!("{}: tensor `{key}`", self.weights_file.display()));
            return Err(error.with_hint(
                "where training resized the vocabulary, resize the base model and save it: `resize_token_embeddings`",
            ));
        }
        Ok(tensor)
    }

    /// W + s·B·A, and with DoRA its rows (of the matrix as (out, in)) scaled to the learned magnitudes.
    fn update(&self, module: &str, update: &Update, base: &Tensor) -> Result<Tensor> {
        let (Some(down), Some(up)) = (&update.down, &update.up) else {
            return Err(Error::input("lacks a factor"));
        };
        let (down, up) = (self.load(down, base.device())?, self.load(up, base.device())?);
        let (&[rank, inputs], &[outputs, columns]) = (down.dims(), up.dims()) else {
            return Err(Error::input(format!("factors of shapes {:?} and {:?}", down.dims(), up.dims())));
        };
        let stated = self.settings.rank_of(module)?;
        if rank != stated || columns != stated {
            return Err(Error::input(format!(
                "factors of shapes {:?} and {:?}, where `{CONFIG}` says rank {stated}",
                down.dims(),
                up.dims()
            )));
        }
        let transposed = self.transposed(update, base, [outputs, inputs])?;
        let scale = self.settings.scale_of(module, rank)?;
        let weight = if transposed { base.t()? } else { base.clone() };
        let mut merged = (weight + (up.matmul(&down)? * scale)?)?;
        if let Some(magnitude) = &update.magnitude {
            merged = self.with_magnitudes(&self.load(magnitude, base.device())?, &merged)?;
        }
        // a damaged adapter would otherwise show only as nonsense in the answers
        if !merged.sum_all()?.to_scalar::<f32>()?.is_finite() {
            return Err(Error::input("merging gives numbers that aren't finite"));
        }
        if transposed { Ok(merged.t()?.contiguous()?) } else { Ok(merged) }
    }

    /// Whether the base holds the matrix as (in, out).
    fn transposed(&self, update: &Update, base: &Tensor, shape: [usize; 2]) -> Result<bool> {
        let [outputs, inputs] = shape;
        let straight = base.dims() == [outputs, inputs];
        let across = base.dims() == [inputs, outputs];
        match (straight, across) {
            (_, true) if update.embedding => Ok(true),
            (true, true) => Ok(self.conv1d),
            (true, false) if !update.embedding => Ok(false),
            (false, true) => Ok(true),
            _ => Err(Error::input(format!("changes a matrix of {shape:?}, the base model's is {:?}", base.dims()))
                .with_hint("merge the adapter into the model that it was trained on")),
        }
    }

    /// DoRA, equation 5 of Liu et al.: m · V / ‖V‖, the norm taken over the inputs of each output.
    fn with_magnitudes(&self, magnitude: &Tensor, merged: &Tensor) -> Result<Tensor> {
        let outputs = merged.dim(0)?;
        if magnitude.elem_count() != outputs {
            let shape = magnitude.dims();
            return Err(Error::input(format!("magnitudes of shape {shape:?} for {outputs} outputs")));
        }
        let norm = merged.sqr()?.sum_keepdim(1)?.sqrt()?;
        Ok(merged.broadcast_mul(&magnitude.reshape((outputs, 1))?.div(&norm)?)?)
    }

    fn load(&self, key: &str, device: &Device) -> Result<Tensor> {
        let tensor = self.mapped.load(key, device).and_then(|tensor| tensor.to_dtype(DType::F32));
        let place = || format!("{}: tensor `{key}`", self.weights_file.display());
        let tensor = tensor.map_err(|cause| Error::from(cause).at(place()))?;
        self.used.borrow_mut().insert(key.to_owned());
        Ok(tensor)
    }
}
