//! Dummy weights made on the device: the numbers of [`Dummy`](crate::engine::weights::Dummy), bit for bit.

use std::cell::RefCell;

use candle_core::{DType, DeviceLocation, Tensor};

use super::driver::{Driver, Grid, Params, Pointer, suffix};
use crate::engine::weights::{Numbers, OnDevice};
use crate::error::Result;

const THREADS: u32 = 256;

#[repr(C)]
#[derive(Clone, Copy)]
struct DummyParams {
    values: Pointer,
    stream: u64,
    count: u64,
    uniform: i32,
}

// SAFETY: the fields are those of `DummyParams` in dummy.cu.
unsafe impl Params for DummyParams {}
const _: () = assert!(size_of::<DummyParams>() == 32);

/// Makes dummy weights on the GPU that they are for; on one that the kernels can't run on, it makes none.
pub(in crate::engine) fn maker() -> OnDevice {
    // the kernels are loaded once for each device, and not for each tensor
    let drivers: RefCell<Vec<(DeviceLocation, Option<Driver>)>> = RefCell::new(Vec::new());
    Box::new(move |numbers, shape, dtype, device| {
        let mut drivers = drivers.borrow_mut();
        let place = device.location();
        if !drivers.iter().any(|(known, _)| *known == place) {
            drivers.push((place, Driver::new(device).ok()));
        }
        match drivers.iter().find(|(known, _)| *known == place) {
            Some((_, Some(driver))) if suffix(dtype).is_ok() => tensor(driver, numbers, shape, dtype).map(Some),
            _ => Ok(None),
        }
    })
}

fn tensor(driver: &Driver, numbers: Numbers, shape: &[usize], dtype: DType) -> Result<Tensor> {
    let count = shape.iter().product();
    let values = driver.zeros(count, dtype)?;
    fill(driver, dtype, values.pointer(), count, numbers.stream, numbers.uniform)?;
    // the driver may be dropped next, and its kernels with it
    driver.wait()?;
    Ok(values.tensor().reshape(shape)?)
}

/// Fills memory with the `count` numbers whose hashes begin at `stream`, Gaussian or `uniform`.
///
/// # Errors
/// A failure of the device.
fn fill(driver: &Driver, dtype: DType, values: Pointer, count: usize, stream: u64, uniform: bool) -> Result<()> {
    let params = DummyParams { values, stream, count: count as u64, uniform: i32::from(uniform) };
    let needed = (count * dtype.size_in_bytes()).div_ceil(16 * THREADS as usize);
    let blocks = needed.clamp(1, 16 * driver.multiprocessors() as usize);
    let grid = Grid { blocks: (blocks as u32, 1, 1), threads: THREADS, shared: 0 };
    driver.launch(&format!("dummy_{}", suffix(dtype)?), grid, &params)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::engine::layout::TensorSpec;
    use crate::engine::load::DeviceChoice;
    use crate::engine::weights::Dummy;
    use crate::record::{DummyDistribution, DummyWeights};

    fn bits(dummy: &Dummy, tensor: &TensorSpec, dtype: DType, device: &Device) -> Vec<u32> {
        let made = dummy.load(tensor, dtype, device).unwrap();
        assert_eq!((made.dtype(), made.dims()), (dtype, tensor.shape.as_slice()));
        // every value of half precision has an f32 of its own
        let values: Vec<f32> = made.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    }

    /// Runs where there is a GPU.
    #[test]
    fn a_gpu_makes_the_numbers_of_the_host_bit_for_bit() {
        let Some(index) = DeviceChoice::Auto.gpu_index() else { return };
        let gpu = Device::new_cuda(index).unwrap();
        for distribution in DummyDistribution::ALL {
            let numbers = DummyWeights { seed: 42, distribution };
            let dummy = Dummy { numbers, dtype: DType::BF16, norms_add_one: false, on_device: Some(maker()) };
            // whole vectors of 16 bytes, and rests of them
            for shape in [vec![1usize, 1], vec![3, 5], vec![33, 31], vec![1024, 1000], vec![4, 257, 13]] {
                let tensor = TensorSpec { name: format!("a{}.weight", shape.len()), shape };
                for dtype in [DType::F32, DType::F16, DType::BF16] {
                    let host = bits(&dummy, &tensor, dtype, &Device::Cpu);
                    let device = bits(&dummy, &tensor, dtype, &gpu);
                    assert!(host == device, "{distribution}, {:?}, {dtype:?}", tensor.shape);
                }
            }
        }
    }
}
