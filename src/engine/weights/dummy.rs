//! Dummy weights: the energy of an architecture doesn't depend on the values of its weights, so it can be measured
//! before anyone has trained or downloaded the model.

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;

use crate::engine::layout::TensorSpec;
use crate::error::Result;

/// Standard deviation of matrices: the one that most families are initialised with.
const DEVIATION: f32 = 0.02;

/// Values that a task fills.
const CHUNK: usize = 1 << 16;

/// Seeded random weights: the same on every device and machine.
///
/// Matrices and tables are uniform with mean 0 and standard deviation 0.02; biases are 0; norms leave their input's
/// scale as it is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Dummy {
    /// Varies the numbers.
    pub(crate) seed: u64,
    /// Data type that the weights would have on disk.
    pub(crate) dtype: DType,
    /// Norms add 1 to their weights.
    pub(crate) norms_add_one: bool,
}

impl Dummy {
    /// A tensor's numbers, which follow from seed, name and place alone.
    ///
    /// # Errors
    /// The device is full.
    pub(crate) fn load(&self, tensor: &TensorSpec, dtype: DType, device: &Device) -> Result<Tensor> {
        let shape = tensor.shape.as_slice();
        if tensor.name.ends_with(".bias") {
            return Ok(Tensor::zeros(shape, dtype, device)?);
        }
        if shape.len() == 1 || tensor.name.contains("norm") {
            return Ok(match self.norms_add_one {
                true => Tensor::zeros(shape, dtype, device)?,
                false => Tensor::ones(shape, dtype, device)?,
            });
        }
        let count = tensor.elements() as usize;
        let stream = self.stream(&tensor.name);
        Ok(match dtype {
            DType::BF16 => Tensor::from_vec(fill(stream, count, bf16::from_f32), shape, device)?,
            DType::F16 => Tensor::from_vec(fill(stream, count, f16::from_f32), shape, device)?,
            _ => Tensor::from_vec(fill(stream, count, |value| value), shape, device)?.to_dtype(dtype)?,
        })
    }

    /// Where a tensor's sequence of numbers begins.
    fn stream(&self, name: &str) -> u64 {
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        finalise(self.seed ^ hash)
    }
}

fn fill<T: Copy + Default + Send>(stream: u64, count: usize, cast: impl Fn(f32) -> T + Sync) -> Vec<T> {
    let mut values = vec![T::default(); count];
    values.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
        for (index, value) in values.iter_mut().enumerate() {
            *value = cast(uniform(stream.wrapping_add((chunk * CHUNK + index) as u64)));
        }
    });
    values
}

/// Uniform with standard deviation [`DEVIATION`].
fn uniform(counter: u64) -> f32 {
    let unit = (finalise(counter) >> 40) as f32 / (1 << 23) as f32 - 1.0;
    unit * DEVIATION * 3f32.sqrt()
}

/// The finaliser of SplitMix64 (Steele et al. 2014) over a Weyl sequence.
fn finalise(counter: u64) -> u64 {
    let mut z = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(name: &str, seed: u64) -> Vec<f32> {
        let tensor = TensorSpec { name: name.into(), shape: vec![300, 400] };
        let dummy = Dummy { seed, dtype: DType::BF16, norms_add_one: false };
        let values = dummy.load(&tensor, DType::F32, &Device::Cpu).unwrap();
        values.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn matrices_have_the_stated_mean_and_deviation_and_vary_with_name_and_seed() {
        let values = matrix("a.weight", 0);
        let n = values.len() as f64;
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let deviation = (values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n).sqrt();
        assert!(mean.abs() < 3e-4, "{mean}");
        assert!((deviation - 0.02).abs() < 2e-4, "{deviation}");
        assert_eq!(values, matrix("a.weight", 0));
        assert_ne!(values, matrix("a.weight", 1));
        assert_ne!(values, matrix("b.weight", 0));
    }

    #[test]
    fn half_precision_is_the_rounding_of_the_same_numbers() {
        let tensor = TensorSpec { name: "a.weight".into(), shape: vec![3, 5] };
        let dummy = Dummy { seed: 7, dtype: DType::BF16, norms_add_one: false };
        let exact = dummy.load(&tensor, DType::F32, &Device::Cpu).unwrap();
        let half = dummy.load(&tensor, DType::BF16, &Device::Cpu).unwrap();
        let rounded = exact.to_dtype(DType::BF16).unwrap();
        let bits = |tensor: &Tensor| tensor.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(bits(&half), bits(&rounded));
    }

    #[test]
    fn biases_are_zero_and_norms_change_nothing() {
        let dummy = Dummy { seed: 7, dtype: DType::F32, norms_add_one: false };
        let load = |dummy: &Dummy, name: &str| {
            let tensor = TensorSpec { name: name.into(), shape: vec![2] };
            dummy.load(&tensor, DType::F32, &Device::Cpu).unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(load(&dummy, "q.bias"), [0.0, 0.0]);
        assert_eq!(load(&dummy, "norm.weight"), [1.0, 1.0]);
        assert_eq!(load(&Dummy { norms_add_one: true, ..dummy }, "norm.weight"), [0.0, 0.0]);
    }
}
