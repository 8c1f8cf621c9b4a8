//! Work of known size, by which a device is calibrated: a pure read of memory, and a large product of random matrices.
//!
//! The numbers are random, since the power of both depends on the bits that switch: with zeros a read takes a quarter less.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::device::DeviceChoice;
#[cfg(feature = "cuda")]
use super::gpu::Reader;
use super::weights::DEVIATION;
use crate::clock::SimulatedDevice;
use crate::error::{Error, Result};
use crate::record::SyntheticCard;
use crate::units::{Seconds, Watts};

/// Bytes of the buffer that a GPU reads, if it has room for it: far more than its caches.
const BUFFER: u64 = 2 << 30;
/// The same of a CPU, whose caches may hold hundreds of megabytes.
const CPU_BUFFER: u64 = 1 << 30;
/// No more than this share of the free memory is used.
const SHARE: u64 = 8;
/// Rows and columns of the multiplied matrices on a GPU: large enough for the full rate.
const GPU_SIDE: usize = 8192;
/// The same on a CPU.
const CPU_SIDE: usize = 1024;
/// Reads and products that a GPU is given at a time, so that waiting for it in between costs nothing.
#[cfg(feature = "cuda")]
const GPU_BATCH: usize = 16;
/// Numbers that are drawn for the buffer of a CPU, which holds them again and again.
const DRAWN: usize = 1 << 20;

/// What a piece of work did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Amount {
    /// Bytes that were read or written.
    pub bytes: f64,
    /// Floating-point operations, apart from those of a read's sum.
    pub flops: f64,
}

/// A device with something to read and something to multiply.
pub struct Yardstick(Kind);

enum Kind {
    Cpu {
        buffer: Vec<f32>,
        matrices: Matrices,
    },
    #[cfg(feature = "cuda")]
    Gpu {
        reader: Reader,
        matrices: Matrices,
    },
    Simulated {
        card: SyntheticCard,
        device: SimulatedDevice,
    },
}

/// Two square matrices of the data type.
struct Matrices {
    left: Tensor,
    right: Tensor,
}

impl Yardstick {
    /// The yardstick of a device for products in `f32`, `f16` or `bf16`.
    ///
    /// # Errors
    /// Another data type, or a device that isn't there or has too little memory left.
    pub fn open(choice: DeviceChoice, dtype: &str) -> Result<Self> {
        let dtype = match dtype {
            "f32" => DType::F32,
            "f16" => DType::F16,
            "bf16" => DType::BF16,
            other => return Err(Error::input(format!("`{other}` is no data type of products"))),
        };
        let most = if choice.is_gpu() { BUFFER } else { CPU_BUFFER };
        let bytes = choice.free_memory().map_or(most, |free| most.min(free / SHARE));
        let device = choice.open()?;
        match device.is_cpu() {
            true => {
                let matrices = Matrices::new(CPU_SIDE, dtype, &device)?;
                Ok(Self(Kind::Cpu { buffer: numbers(bytes as usize / 4)?, matrices }))
            }
            false => Self::gpu(bytes, dtype, &device),
        }
    }

    #[cfg(feature = "cuda")]
    fn gpu(bytes: u64, dtype: DType, device: &Device) -> Result<Self> {
        let count = bytes as usize / dtype.size_in_bytes();
        let numbers = Tensor::randn(0f32, DEVIATION, count, device)?.to_dtype(dtype)?;
        let reader = Reader::new(numbers, device)?;
        Ok(Self(Kind::Gpu { reader, matrices: Matrices::new(GPU_SIDE, dtype, device)? }))
    }

    #[cfg(not(feature = "cuda"))]
    fn gpu(_: u64, _: DType, _: &Device) -> Result<Self> {
        Err(Error::new("this build has no kernels for GPUs"))
    }

    /// The yardstick of a simulated device.
    pub fn simulated(card: SyntheticCard, device: SimulatedDevice) -> Self {
        Self(Kind::Simulated { card, device })
    }

    /// Reads the buffer; it is done when this returns.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn read(&mut self) -> Result<Amount> {
        match &self.0 {
            Kind::Cpu { buffer, .. } => {
                std::hint::black_box(sum_of_bits(buffer));
                Ok(Amount { bytes: 4.0 * buffer.len() as f64, flops: 0.0 })
            }
            #[cfg(feature = "cuda")]
            Kind::Gpu { reader, .. } => {
                reader.read(GPU_BATCH)?;
                Ok(Amount { bytes: (GPU_BATCH * reader.bytes()) as f64, flops: 0.0 })
            }
            Kind::Simulated { card, device } => {
                device.spend(Seconds(BUFFER as f64 / card.read_bytes_per_s), Watts(card.read_w));
                Ok(Amount { bytes: BUFFER as f64, flops: 0.0 })
            }
        }
    }

    /// Multiplies; it is done when this returns.
    ///
    /// # Errors
    /// A failure of the device.
    pub fn multiply(&mut self) -> Result<Amount> {
        match &self.0 {
            Kind::Cpu { matrices, .. } => matrices.multiply(1),
            #[cfg(feature = "cuda")]
            Kind::Gpu { matrices, .. } => matrices.multiply(GPU_BATCH),
            Kind::Simulated { card, device } => {
                let amount = product(GPU_SIDE, 2, 1);
                device.spend(Seconds(amount.flops / card.flops_per_s), Watts(card.product_w));
                Ok(amount)
            }
        }
    }
}

impl Matrices {
    fn new(side: usize, dtype: DType, device: &Device) -> Result<Self> {
        let random = || Tensor::randn(0f32, DEVIATION, (side, side), device)?.to_dtype(dtype);
        Ok(Self { left: random()?, right: random()? })
    }

    fn multiply(&self, times: usize) -> Result<Amount> {
        for _ in 0..times {
            self.left.matmul(&self.right)?;
        }
        self.left.device().synchronize()?;
        Ok(product(self.left.dims()[0], self.left.dtype().size_in_bytes(), times))
    }
}

/// Each matrix moves at least once: two are read and one is written.
fn product(side: usize, size: usize, times: usize) -> Amount {
    let (side, times) = (side as f64, times as f64);
    Amount { bytes: times * 3.0 * side * side * size as f64, flops: times * 2.0 * side.powi(3) }
}

/// So many numbers in the CPU's memory.
fn numbers(count: usize) -> Result<Vec<f32>> {
    let drawn: Vec<f32> = Tensor::randn(0f32, DEVIATION, DRAWN.min(count).max(1), &Device::Cpu)?.to_vec1()?;
    Ok(drawn.iter().copied().cycle().take(count).collect())
}

/// Reads everything, on all threads. Whole numbers are summed, since sums of floats depend on their order and so go one by
/// one: that would take longer than reading.
fn sum_of_bits(numbers: &[f32]) -> u32 {
    let of_chunk = |chunk: &[f32]| chunk.iter().fold(0u32, |sum, number| sum.wrapping_add(number.to_bits()));
    numbers.par_chunks(1 << 16).map(of_chunk).reduce(|| 0, u32::wrapping_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Joules;

    #[test]
    fn a_simulated_card_takes_the_time_and_power_of_its_rates() {
        let card = SyntheticCard { read_bytes_per_s: 2e12, read_w: 500.0, flops_per_s: 8e14, product_w: 600.0 };
        let device = SimulatedDevice::new(Watts(100.0));
        let mut yardstick = Yardstick::simulated(card, device.clone());
        let read = yardstick.read().unwrap();
        assert!((device.now().0 - read.bytes / 2e12).abs() < 1e-15);
        let product = yardstick.multiply().unwrap();
        assert_eq!((product.flops, product.bytes), (2.0 * 8192f64.powi(3), 6.0 * 8192.0 * 8192.0));
        let joules = 500.0 * read.bytes / 2e12 + 600.0 * product.flops / 8e14;
        assert!((device.energy() - Joules(joules)).0.abs() < 1e-9);
    }

    #[test]
    fn a_processor_reads_its_buffer_and_multiplies_in_the_data_type() {
        assert_eq!(sum_of_bits(&[1.0, 1.0]), 1f32.to_bits().wrapping_mul(2));
        let cpu = Matrices::new(64, DType::F32, &Device::Cpu).unwrap();
        let amount = cpu.multiply(3).unwrap();
        assert_eq!((amount.flops, amount.bytes), (3.0 * 2.0 * 64f64.powi(3), 3.0 * 3.0 * 64.0 * 64.0 * 4.0));
        assert!(Yardstick::open(DeviceChoice::Cpu, "q4_k").is_err());
    }

    #[test]
    fn the_buffer_holds_numbers_of_many_bits() {
        let drawn = numbers(DRAWN + 5).unwrap();
        assert_eq!((drawn.len(), drawn[DRAWN]), (DRAWN + 5, drawn[0]));
        let mean = drawn.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / drawn.len() as f64;
        assert!((mean.sqrt() / f64::from(DEVIATION) - 1.0).abs() < 0.01);
    }
}
