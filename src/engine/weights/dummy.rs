//! Dummy weights: an architecture can be measured before anyone has trained or downloaded the model.
//!
//! Time doesn't depend on the values of the weights. Power does, through the bits that switch in a matrix product, so
//! the numbers are distributed as those of trained weights unless something else is asked for.

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};
use rayon::prelude::*;

use crate::engine::layout::TensorSpec;
use crate::error::Result;
use crate::record::{DummyDistribution, DummyWeights};

/// Standard deviation of matrices: the one that most families are initialised with.
pub(crate) const DEVIATION: f32 = 0.02;

/// Values that a task fills.
const CHUNK: usize = 1 << 16;

/// Seeded random weights: the same on every device and machine.
///
/// Matrices and tables have mean 0 and standard deviation 0.02; biases are 0; norms leave their input's scale as it is.
pub(crate) struct Dummy {
    /// Seed and distribution.
    pub(crate) numbers: DummyWeights,
    /// Data type that the weights would have on disk.
    pub(crate) dtype: DType,
    /// Norms add 1 to their weights.
    pub(crate) norms_add_one: bool,
    /// Makes the same numbers on a device, so that they needn't be made on the host and copied.
    pub(crate) on_device: Option<OnDevice>,
}

/// Makes the numbers of a tensor of this shape and type on a device; `None` if it can't on this one.
pub(crate) type OnDevice = Box<dyn Fn(Numbers, &[usize], DType, &Device) -> Result<Option<Tensor>>>;

/// The numbers of one tensor: what every maker of them starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Numbers {
    /// Number i is made of the hash of this and i.
    pub(crate) stream: u64,
    /// Evenly distributed, not Gaussian.
    pub(crate) uniform: bool,
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
        let uniform = match self.numbers.distribution {
            DummyDistribution::Gaussian => false,
            DummyDistribution::Uniform => true,
            DummyDistribution::Zeros => return Ok(Tensor::zeros(shape, dtype, device)?),
        };
        let numbers = Numbers { stream: self.stream(&tensor.name), uniform };
        let on_device = match &self.on_device {
            Some(make) if !device.is_cpu() => make(numbers, shape, dtype, device)?,
            _ => None,
        };
        on_device.map_or_else(|| numbers.on_host(shape, dtype, device), Ok)
    }

    /// Where a tensor's sequence of numbers begins.
    fn stream(&self, name: &str) -> u64 {
        let hash = name
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        finalise(self.numbers.seed ^ hash)
    }
}

impl Numbers {
    fn on_host(self, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
        match self.uniform {
            true => random(self.stream, uniform, shape, dtype, device),
            false => random(self.stream, gaussian, shape, dtype, device),
        }
    }
}

/// A tensor of the numbers that `draw` makes of the hashes from `stream` on.
fn random(
    stream: u64,
    draw: impl Fn(u64) -> f32 + Sync,
    shape: &[usize],
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    let count = shape.iter().product();
    Ok(match dtype {
        DType::BF16 => Tensor::from_vec(fill(stream, count, |hash| bf16::from_f32(draw(hash))), shape, device)?,
        DType::F16 => Tensor::from_vec(fill(stream, count, |hash| f16::from_f32(draw(hash))), shape, device)?,
        _ => Tensor::from_vec(fill(stream, count, draw), shape, device)?.to_dtype(dtype)?,
    })
}

fn fill<T: Copy + Default + Send>(stream: u64, count: usize, draw: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let mut values = vec![T::default(); count];
    values.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
        let first = stream.wrapping_add((chunk * CHUNK) as u64);
        for (index, value) in values.iter_mut().enumerate() {
            *value = draw(finalise(first.wrapping_add(index as u64)));
        }
    });
    values
}

/// Uniform with standard deviation [`DEVIATION`].
fn uniform(hash: u64) -> f32 {
    let unit = (hash >> 40) as f32 / (1 << 23) as f32 - 1.0;
    unit * DEVIATION * 3f32.sqrt()
}

/// Gaussian with standard deviation [`DEVIATION`]: a sum of four uniform numbers, bent into shape by a polynomial, as
/// Teichroew did with twelve (Knuth, *The Art of Computer Programming*, volume 2, 3.4.1).
///
/// The four numbers are the quarters of one hash. The polynomial is the least-squares fit, weighted by how often each
/// sum comes up, of the normal quantile over that of the sum, scaled to variance 1. It makes 4 standard deviations as
/// likely as they should be to 3 %, and ends at 5.18. There is nothing in it but sums and products, which are the same
/// on every machine.
fn gaussian(hash: u64) -> f32 {
    const LANES: u64 = 0x0000_ffff_0000_ffff;
    let [a, b, c, d, e]: [f32; 5] = [1.666_835_4, 0.048_170_26, 0.027_934_048, -0.016_922_573, 0.005_337_821_3];
    let pairs = (hash & LANES) + ((hash >> 16) & LANES);
    let sum = ((pairs & 0xffff_ffff) + (pairs >> 32)) as i32;
    let x = (sum - 2 * 0xffff) as f32 / (1 << 16) as f32;
    let square = x * x;
    x * ((((e * square + d) * square + c) * square + b) * square + a) * DEVIATION
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

    fn dummy(seed: u64, distribution: DummyDistribution) -> Dummy {
        Dummy {
            numbers: DummyWeights { seed, distribution },
            dtype: DType::BF16,
            norms_add_one: false,
            on_device: None,
        }
    }

    fn matrix(name: &str, seed: u64, distribution: DummyDistribution) -> Vec<f32> {
        let tensor = TensorSpec { name: name.into(), shape: vec![1000, 1000] };
        let values = dummy(seed, distribution).load(&tensor, DType::F32, &Device::Cpu).unwrap();
        values.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Mean, standard deviation and kurtosis.
    fn moments(values: &[f32]) -> [f64; 3] {
        let mean_of =
            |f: &dyn Fn(f64) -> f64| values.iter().map(|value| f(f64::from(*value))).sum::<f64>() / values.len() as f64;
        let mean = mean_of(&|value| value);
        let variance = mean_of(&|value| (value - mean).powi(2));
        [mean, variance.sqrt(), mean_of(&|value| (value - mean).powi(4)) / variance.powi(2)]
    }

    #[test]
    fn matrices_have_the_stated_mean_deviation_and_tails() {
        // a million numbers: standard errors 2e-5, 1.4e-5 and 0.005
        for (distribution, expected) in [(DummyDistribution::Gaussian, 3.0), (DummyDistribution::Uniform, 1.8)] {
            let [mean, deviation, kurtosis] = moments(&matrix("a.weight", 0, distribution));
            assert!(mean.abs() < 8e-5, "{distribution}: {mean}");
            assert!((deviation - 0.02).abs() < 6e-5, "{distribution}: {deviation}");
            assert!((kurtosis - expected).abs() < 0.05, "{distribution}: {kurtosis}");
        }
    }

    #[test]
    fn gaussian_weights_lie_within_each_number_of_deviations_as_often_as_a_normal_variable() {
        let values = matrix("a.weight", 3, DummyDistribution::Gaussian);
        for (deviations, share) in [(0.5, 0.382_925), (1.0, 0.682_689), (2.0, 0.954_500), (3.0, 0.997_300)] {
            let within = values.iter().filter(|value| value.abs() < 0.02 * deviations).count();
            let found = within as f64 / values.len() as f64;
            assert!((found - share).abs() < 2e-3 * (1.0 - share).max(0.5), "{deviations}: {found} for {share}");
        }
        assert!(values.iter().any(|value| value.abs() > 0.02 * 4.5), "the tails reach beyond 4.5 deviations");
    }

    #[test]
    fn numbers_vary_with_name_and_seed_and_with_nothing_else() {
        let one = |name, seed| matrix(name, seed, DummyDistribution::Gaussian);
        assert_eq!(one("a.weight", 0), one("a.weight", 0));
        assert_ne!(one("a.weight", 0), one("a.weight", 1));
        assert_ne!(one("a.weight", 0), one("b.weight", 0));
    }

    #[test]
    fn every_machine_makes_the_same_numbers() {
        let first = |distribution| matrix("a.weight", 42, distribution)[..4].to_vec();
        assert_eq!(first(DummyDistribution::Gaussian), [-1.054_880_6e-2, 8.549_305e-3, 1.914_142_3e-2, 1.712_283e-2]);
        assert_eq!(
            first(DummyDistribution::Uniform),
            [-6.983_325_4e-3, 1.230_065_8e-2, -6.217_863_4e-3, -2.286_859e-2]
        );
    }

    #[test]
    fn zeros_are_zeros_in_matrices_and_leave_norms_alone() {
        assert!(matrix("a.weight", 42, DummyDistribution::Zeros).iter().all(|value| value.to_bits() == 0));
        let norm = TensorSpec { name: "norm.weight".into(), shape: vec![2] };
        let norm = dummy(42, DummyDistribution::Zeros).load(&norm, DType::F32, &Device::Cpu).unwrap();
        assert_eq!(norm.to_vec1::<f32>().unwrap(), [1.0, 1.0]);
    }

    #[test]
    fn half_precision_is_the_rounding_of_the_same_numbers() {
        let tensor = TensorSpec { name: "a.weight".into(), shape: vec![30, 50] };
        for distribution in DummyDistribution::ALL {
            let load = |dtype| dummy(7, distribution).load(&tensor, dtype, &Device::Cpu).unwrap();
            let bits = |tensor: &Tensor| tensor.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap();
            for dtype in [DType::BF16, DType::F16] {
                let rounded = load(DType::F32).to_dtype(dtype).unwrap();
                assert_eq!(bits(&load(dtype)), bits(&rounded), "{distribution} in {dtype:?}");
            }
        }
    }

    #[test]
    fn a_device_makes_the_numbers_itself_if_it_can_and_the_host_never_asks_it_to() {
        let refuses: OnDevice = Box::new(|_, _, _, _| Err(crate::error::Error::new("asked")));
        let dummy = Dummy { on_device: Some(refuses), ..dummy(42, DummyDistribution::Gaussian) };
        let tensor = TensorSpec { name: "a.weight".into(), shape: vec![2, 2] };
        assert!(dummy.load(&tensor, DType::F32, &Device::Cpu).is_ok());
    }

    #[test]
    fn biases_are_zero_and_norms_change_nothing() {
        let plain = dummy(7, DummyDistribution::Gaussian);
        let load = |dummy: &Dummy, name: &str| {
            let tensor = TensorSpec { name: name.into(), shape: vec![2] };
            dummy.load(&tensor, DType::F32, &Device::Cpu).unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(load(&plain, "q.bias"), [0.0, 0.0]);
        assert_eq!(load(&plain, "norm.weight"), [1.0, 1.0]);
        assert_eq!(load(&Dummy { norms_add_one: true, ..plain }, "norm.weight"), [0.0, 0.0]);
    }
}
