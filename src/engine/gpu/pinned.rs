//! Memory of the host that kernels write to: what the host has to know of each step arrives there without a copy that it
//! would have to wait for.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use candle_core::cuda_backend::cudarc::driver::{CudaStream, DriverError, result, sys};

use super::driver::{Driver, Pointer};
use crate::error::{Context, Error, Result};

/// Numbers in page-locked memory of the host, at the same address on the device.
pub(crate) struct Pinned {
    first: NonNull<AtomicU32>,
    count: usize,
    stream: Arc<CudaStream>,
}

// SAFETY: the memory belongs to this object alone, and the device writes to it in whole numbers.
unsafe impl Send for Pinned {}

impl Pinned {
    /// Memory for `count` numbers.
    ///
    /// # Errors
    /// The host has no more memory that it can lock.
    pub(crate) fn new(driver: &Driver, count: usize) -> Result<Self> {
        let stream = driver.stream().clone();
        let count = count.max(1);
        // SAFETY: the context is that of this thread, since the driver is used on it.
        let memory = unsafe { result::malloc_host(count * size_of::<u32>(), sys::CU_MEMHOSTALLOC_DEVICEMAP) };
        let memory = memory.context(|| "can't lock memory of the host for the GPU")?;
        let first =
            NonNull::new(memory.cast::<AtomicU32>()).ok_or_else(|| Error::new("locked memory has no address"))?;
        // SAFETY: the memory has just been taken, for so many numbers.
        unsafe { first.as_ptr().cast::<u32>().write_bytes(0, count) };
        Ok(Self { first, count, stream })
    }

    /// Where the device finds it: with unified addresses, at the same place.
    pub(crate) fn pointer(&self) -> Pointer {
        self.first.as_ptr() as Pointer
    }

    /// The numbers of a range; those that a kernel writes are there once an event behind it has passed.
    pub(crate) fn read(&self, first: usize, count: usize) -> Vec<u32> {
        let last = self.count.min(first + count);
        // SAFETY: the range is inside the memory, and whatever writes to it meanwhile writes whole numbers.
        (first..last).map(|index| unsafe { self.first.add(index).as_ref() }.load(Ordering::Acquire)).collect()
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // kernels that write here may still be under way
        let _: Result<(), DriverError> = self.stream.synchronize();
        // SAFETY: the memory was taken by this object, and nothing on the device uses it any more.
        let _: Result<(), DriverError> = unsafe { result::free_host(self.first.as_ptr().cast()) };
    }
}
