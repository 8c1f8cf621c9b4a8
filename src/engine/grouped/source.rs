//! Where a model's tensors come from: the files of the model folder, through candle's `VarBuilder`. Every tensor is
//! checked against the files before the first is loaded, and one that nobody asked for is an error.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use candle_nn::{Init, VarBuilder};

use super::definition::{Definition, Model};
use crate::engine::weights::Safetensors;
use crate::error::{Error, Result};

/// Makes the model of a definition.
///
/// # Errors
/// A tensor that is missing, has another shape than the config asks for or doesn't belong to the model; or a failure of
/// the device.
pub(super) fn build(
    definition: &Definition,
    weights: &Safetensors,
    dtype: DType,
    device: &Device,
) -> Result<Box<dyn Model>> {
    checked_names(definition, weights)?;
    Asked::default().build(definition, weights, Values::Loaded, dtype, device)
}

/// The tensors that the model consists of, checked against the headers of the files.
///
/// # Errors
/// As for [`build`].
pub(super) fn checked_names(definition: &Definition, weights: &Safetensors) -> Result<BTreeSet<String>> {
    check_counts(definition, weights)?;
    let asked = Asked::default();
    asked.build(definition, weights, Values::Placeholders, DType::F32, &Device::Cpu)?;
    let names = std::mem::take(&mut asked.lock().names);
    for (name, _) in weights.tensors() {
        let is_copy = OUTPUTS.contains(&name) && weights.same_data(name, definition.embedding)?;
        let is_ignored = definition.ignored.as_ref().is_some_and(|prefix| name.starts_with(prefix));
        if !names.contains(name) && !is_copy && !is_ignored {
            let hint = "an adapter has to be merged first; a bias has to be stated in `config.json`";
            return Err(weights.error(name, "isn't part of the model as `config.json` describes it").with_hint(hint));
        }
    }
    Ok(names)
}

/// Names of an output layer that isn't the embedding table.
pub(super) const OUTPUTS: [&str; 2] = ["lm_head.weight", "head.weight"];

/// Models make room for as many layers and experts as the config says; each needs a tensor of its own.
fn check_counts(definition: &Definition, weights: &Safetensors) -> Result<()> {
    let stored = weights.tensors().count();
    let largest = definition.layers.max(definition.experts.unwrap_or(0));
    match largest <= stored {
        true => Ok(()),
        false => {
            let message =
                format!("`config.json` asks for {largest} layers or experts; the files hold {stored} tensors");
            Err(Error::input(message))
        }
    }
}

/// The values of the tensors that a backend hands out.
#[derive(Clone, Copy)]
enum Values {
    /// The tensors.
    Loaded,
    /// A zero in the shape of the tensor, which takes no memory.
    Placeholders,
}

/// What a model has asked for so far.
#[derive(Default, Clone)]
struct Asked(Arc<Mutex<Record>>);

#[derive(Default)]
struct Record {
    names: BTreeSet<String>,
    failure: Option<Error>,
}

impl Asked {
    fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn build(
        &self,
        definition: &Definition,
        weights: &Safetensors,
        values: Values,
        dtype: DType,
        device: &Device,
    ) -> Result<Box<dyn Model>> {
        let files = Files { weights, renamed: definition.renamed, values, asked: self.clone() };
        let built = (definition.build)(VarBuilder::from_backend(Box::new(files), dtype, device.clone()));
        // the library's own error for what failed here says less
        built.map_err(|cause| self.lock().failure.take().unwrap_or_else(|| cause.into()))
    }
}

/// The files behind a `VarBuilder`.
struct Files<'a> {
    weights: &'a Safetensors,
    renamed: &'static [(&'static str, &'static str)],
    values: Values,
    asked: Asked,
}

impl Files<'_> {
    /// What a tensor is called in the files.
    fn stored_name(&self, name: &str) -> String {
        let is_there = |name: &str| self.weights.shape(name).is_ok();
        let other = self.renamed.iter().find(|(asked, other)| *asked == name && !is_there(name) && is_there(other));
        other.map_or(name, |(_, other)| other).to_owned()
    }

    fn tensor(&self, name: &str, shape: Option<&Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
        let name = self.stored_name(name);
        let stored = self.weights.shape(&name)?;
        if let Some(asked) = shape.filter(|asked| asked.dims() != stored) {
            return Err(self.weights.error(&name, format!("has shape {stored:?}, `config.json` asks for {asked:?}")));
        }
        let tensor = match self.values {
            Values::Loaded => self.weights.load(&name, dtype, device)?,
            Values::Placeholders => Tensor::zeros((), dtype, device)?.broadcast_as(stored)?,
        };
        self.asked.lock().names.insert(name);
        Ok(tensor)
    }

    /// Keeps the error, since candle's type has no place for it.
    fn keep(&self, result: Result<Tensor>) -> candle_core::Result<Tensor> {
        result.map_err(|error| {
            let text = candle_core::Error::Msg(error.message().to_owned());
            self.asked.lock().failure.get_or_insert(error);
            text
        })
    }
}

impl SimpleBackend for Files<'_> {
    fn get(&self, s: Shape, name: &str, _: Init, dtype: DType, dev: &Device) -> candle_core::Result<Tensor> {
        self.keep(self.tensor(name, Some(&s), dtype, dev))
    }

    fn get_unchecked(&self, name: &str, dtype: DType, dev: &Device) -> candle_core::Result<Tensor> {
        self.keep(self.tensor(name, None, dtype, dev))
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.weights.shape(&self.stored_name(name)).is_ok()
    }
}

/// The same tensors, some of them adjusted by their name.
pub(super) fn adjusted<'a>(
    tensors: VarBuilder<'a>,
    adjust: impl Fn(&str, Tensor) -> candle_core::Result<Tensor> + Send + Sync + 'a,
) -> VarBuilder<'a> {
    let (dtype, device) = (tensors.dtype(), tensors.device().clone());
    VarBuilder::from_backend(Box::new(Adjusted { tensors, adjust }), dtype, device)
}

struct Adjusted<'a, F> {
    tensors: VarBuilder<'a>,
    adjust: F,
}

impl<F: Fn(&str, Tensor) -> candle_core::Result<Tensor> + Send + Sync> SimpleBackend for Adjusted<'_, F> {
    fn get(&self, s: Shape, name: &str, h: Init, dtype: DType, _: &Device) -> candle_core::Result<Tensor> {
        (self.adjust)(name, self.tensors.get_with_hints_dtype(s, name, h, dtype)?)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, _: &Device) -> candle_core::Result<Tensor> {
        (self.adjust)(name, self.tensors.get_unchecked_dtype(name, dtype)?)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.tensors.contains_tensor(name)
    }
}
