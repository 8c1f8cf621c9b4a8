//! Where models run: choosing devices, opening them, and what memory they have left.

use candle_core::Device;

#[cfg(feature = "cuda")]
use crate::error::Context;
use crate::error::{Error, Result};

/// Where a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU if there is one and this build can use it, else the CPU.
    Auto,
    /// The processor, also for models that name GPUs of their own.
    Cpu,
    /// The CUDA device with this index.
    Cuda(usize),
}

impl DeviceChoice {
    /// Whether that is a GPU on this machine.
    pub(crate) fn is_gpu(self) -> bool {
        self.gpu_index().is_some()
    }

    /// The CUDA ordinal, for a GPU.
    pub fn gpu_index(self) -> Option<usize> {
        match self {
            DeviceChoice::Auto if cuda_devices() > 0 => Some(0),
            DeviceChoice::Cuda(index) => Some(index),
            DeviceChoice::Auto | DeviceChoice::Cpu => None,
        }
    }

    /// The device as records name it.
    pub(crate) fn name(self) -> String {
        self.gpu_index().map_or_else(|| "cpu".to_owned(), |index| format!("cuda:{index}"))
    }

    /// Refuses what this build can't do, before anything else is tried.
    ///
    /// # Errors
    /// A GPU is asked for and CUDA isn't built in.
    pub fn check(self) -> Result<()> {
        match self {
            DeviceChoice::Cuda(index) if cfg!(not(feature = "cuda")) => {
                Err(Error::input(format!("this build can't use CUDA device {index}"))
                    .with_hint("build with `--features cuda`, or run on the CPU with `--device cpu`"))
            }
            _ => Ok(()),
        }
    }

    /// Bytes that are free on the device, if that is known.
    pub(crate) fn free_memory(self) -> Option<u64> {
        match self.gpu_index() {
            Some(index) => free_on_gpu(index),
            None => crate::host::available_memory(),
        }
    }

    /// Opens the device.
    pub(super) fn open(self) -> Result<Device> {
        self.check()?;
        match self.gpu_index() {
            Some(index) => open_cuda(index),
            None => Ok(Device::Cpu),
        }
    }
}

/// CUDA's name of a device, `GPU-…`, which other tools know it by.
#[cfg(feature = "cuda")]
pub fn uuid(index: usize) -> Option<String> {
    let context = candle_core::cuda_backend::cudarc::driver::CudaContext::new(index).ok()?;
    let bytes: Vec<u8> = context.uuid().ok()?.bytes.iter().map(|byte| *byte as u8).collect();
    let hex = crate::digest::hex(&bytes);
    let parts = [hex.get(..8)?, hex.get(8..12)?, hex.get(12..16)?, hex.get(16..20)?, hex.get(20..)?];
    Some(format!("GPU-{}", parts.join("-")))
}

/// CUDA's name of a device; this build has none.
#[cfg(not(feature = "cuda"))]
pub fn uuid(_: usize) -> Option<String> {
    None
}

/// The devices that a model's layers are spread over: those that the model names, else the one of the run.
pub(crate) fn devices(run: DeviceChoice, named: Option<&[usize]>) -> Vec<DeviceChoice> {
    match named {
        Some(indices) if run != DeviceChoice::Cpu => indices.iter().map(|index| DeviceChoice::Cuda(*index)).collect(),
        _ => vec![run],
    }
}

#[cfg(feature = "cuda")]
fn cuda_devices() -> usize {
    let count = candle_core::cuda_backend::cudarc::driver::CudaContext::device_count();
    count.map_or(0, |count| count.max(0) as usize)
}

#[cfg(not(feature = "cuda"))]
fn cuda_devices() -> usize {
    0
}

#[cfg(feature = "cuda")]
fn free_on_gpu(index: usize) -> Option<u64> {
    let context = candle_core::cuda_backend::cudarc::driver::CudaContext::new(index).ok()?;
    let (free, _) = context.mem_get_info().ok()?;
    Some(free as u64)
}

#[cfg(not(feature = "cuda"))]
fn free_on_gpu(_: usize) -> Option<u64> {
    None
}

#[cfg(feature = "cuda")]
fn open_cuda(index: usize) -> Result<Device> {
    let device = Device::new_cuda(index).input_context(|| format!("can't use CUDA device {index}"))?;
    // SAFETY: one thread uses one stream, so that there is nothing for events to order.
    unsafe { device.as_cuda_device()?.disable_event_tracking() };
    keep_freed_memory(index).context(|| format!("can't set up the memory of CUDA device {index}"))?;
    Ok(device)
}

/// Lets the device's pool keep freed memory for the next use. By default it goes back to the system whenever the host
/// waits for the device, and taking it again costs milliseconds.
#[cfg(feature = "cuda")]
fn keep_freed_memory(index: usize) -> std::result::Result<(), candle_core::cuda_backend::cudarc::driver::DriverError> {
    use candle_core::cuda_backend::cudarc::driver::{result, sys};
    /// More than the activations of a batch, and little beside the weights of the next model.
    const KEPT: u64 = 2 << 30;
    let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: the device exists, since it has just been opened, and the attribute is a number of 8 bytes.
    unsafe {
        let pool = result::device::get_default_mem_pool(result::device::get(index as i32)?)?;
        result::mem_pool::set_attribute(pool, threshold, std::ptr::from_ref(&KEPT).cast_mut().cast())
    }
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(index: usize) -> Result<Device> {
    Err(Error::new(format!("this build has no CUDA device {index}")))
}

/// A device as records name it.
pub(super) fn name(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "cpu".to_owned(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}
