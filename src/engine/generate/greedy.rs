//! Greedy choice of the next tokens: the first index of the largest logit, with and without end-of-sequence tokens.

use candle_core::{DType, Device, Tensor};

use super::choice::{Choice, not_numbers};
use crate::error::Result;

/// Chooses tokens; knows the end-of-sequence tokens of a model.
pub(crate) struct Picker {
    eos: Vec<u32>,
    /// For devices other than the CPU.
    device: Option<OnDevice>,
}

struct OnDevice {
    /// 0, 1, 2 … `(1, vocabulary)`.
    indices: Tensor,
    /// −∞ at end-of-sequence tokens `(1, vocabulary)`, if there are any.
    without_eos: Option<Tensor>,
}

impl Picker {
    /// A picker for logits `(b, vocabulary)` on a device. With `mask_eos` each choice is made a second time without
    /// end-of-sequence tokens.
    pub(crate) fn new(eos: &[u32], mask_eos: bool, vocabulary: usize, device: &Device) -> Result<Self> {
        let eos: Vec<u32> = if mask_eos { eos.to_vec() } else { Vec::new() };
        let device = match device.is_cpu() {
            true => None,
            false => Some(OnDevice::new(&eos, vocabulary, device)?),
        };
        Ok(Self { eos, device })
    }

    /// One choice for each row of the logits; waits for the device.
    ///
    /// # Errors
    /// Logits that aren't numbers.
    pub(crate) fn pick(&self, logits: &Tensor) -> Result<Vec<Choice>> {
        let logits = logits.to_dtype(DType::F32)?;
        let vocabulary = logits.dim(1)? as u32;
        let choices = match &self.device {
            Some(device) => device.pick(&logits)?,
            None => logits.to_vec2::<f32>()?.iter().map(|row| self.pick_row(row)).collect(),
        };
        match choices.iter().all(|choice| choice.any < vocabulary && choice.not_eos < vocabulary) {
            true => Ok(choices),
            false => Err(not_numbers()),
        }
    }

    fn pick_row(&self, logits: &[f32]) -> Choice {
        let any = first_largest(logits, &[]);
        let not_eos = if self.eos.contains(&any) { first_largest(logits, &self.eos) } else { any };
        Choice { any, not_eos }
    }
}

/// Index of the first of the largest values, or the length if none is a number.
fn first_largest(values: &[f32], except: &[u32]) -> u32 {
    let mut largest = (values.len() as u32, f32::NEG_INFINITY);
    for (index, value) in (0..).zip(values) {
        if *value > largest.1 && !except.contains(&index) {
            largest = (index, *value);
        }
    }
    largest.0
}

impl OnDevice {
    fn new(eos: &[u32], vocabulary: usize, device: &Device) -> Result<Self> {
        let indices = Tensor::arange(0, vocabulary as u32, device)?.reshape((1, vocabulary))?;
        let mut mask = vec![0f32; vocabulary];
        for id in eos {
            if let Some(slot) = mask.get_mut(*id as usize) {
                *slot = f32::NEG_INFINITY;
            }
        }
        let without_eos = match eos.is_empty() {
            true => None,
            false => Some(Tensor::from_vec(mask, (1, vocabulary), device)?),
        };
        Ok(Self { indices, without_eos })
    }

    fn pick(&self, logits: &Tensor) -> Result<Vec<Choice>> {
        let any = self.first_largest(logits)?;
        let Some(mask) = &self.without_eos else {
            let choices = any.to_vec1::<u32>()?.into_iter();
            return Ok(choices.map(|any| Choice { any, not_eos: any }).collect());
        };
        let not_eos = self.first_largest(&logits.broadcast_add(mask)?)?;
        let both = Tensor::stack(&[any, not_eos], 1)?.to_vec2::<u32>()?;
        Ok(both.into_iter().map(|row| Choice { any: row[0], not_eos: row[1] }).collect())
    }

    /// `(b, vocabulary)` to `(b)`. The device's own argmax takes any of several largest values.
    fn first_largest(&self, logits: &Tensor) -> Result<Tensor> {
        let is_largest = logits.broadcast_eq(&logits.max_keepdim(1)?)?;
        let indices = self.indices.broadcast_as(logits.shape())?;
        let none = Tensor::full(logits.dim(1)? as u32, (1, 1), logits.device())?.broadcast_as(logits.shape())?;
        Ok(is_largest.where_cond(&indices, &none)?.min(1)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both_ways(rows: &[[f32; 4]], eos: &[u32]) -> Result<Vec<Choice>> {
        let flat = rows.concat();
        let logits = Tensor::from_vec(flat, (rows.len(), 4), &Device::Cpu).unwrap();
        let on_host = Picker::new(eos, true, 4, &Device::Cpu).unwrap();
        let device = Some(OnDevice::new(eos, 4, &Device::Cpu).unwrap());
        let on_device = Picker { eos: eos.to_vec(), device };
        let (host, device) = (on_host.pick(&logits), on_device.pick(&logits));
        assert_eq!(host, device);
        host
    }

    #[test]
    fn the_first_index_wins_a_tie() {
        let choices = both_ways(&[[1.0, 3.0, 3.0, 2.0], [-1.0, -1.0, -1.0, -1.0]], &[]).unwrap();
        assert_eq!(choices, [Choice { any: 1, not_eos: 1 }, Choice { any: 0, not_eos: 0 }]);
    }

    #[test]
    fn the_choice_without_end_of_sequence_is_told_apart() {
        let choices = both_ways(&[[1.0, 3.0, 3.0, 2.0], [5.0, 4.0, 3.0, 2.0]], &[1, 2]).unwrap();
        assert_eq!(choices, [Choice { any: 1, not_eos: 3 }, Choice { any: 0, not_eos: 0 }]);
    }

    #[test]
    fn logits_that_are_not_numbers_are_an_error() {
        let error = both_ways(&[[f32::NAN; 4]], &[]).unwrap_err();
        assert_eq!(error.message(), "the model's logits aren't numbers");
    }
}
