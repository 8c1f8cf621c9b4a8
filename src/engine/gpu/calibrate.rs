//! A pure read of the GPU's memory.

use candle_core::{DType, Device, Tensor};

use super::driver::{Buffer, Driver, Grid, Params, Pointer};
use crate::error::Result;

const THREADS: u32 = 512;
/// Blocks for each multiprocessor: 3.13 TB/s on an H100, where 2 to 16 give 3.09 to 3.10 (128 and 256 threads no more).
const BLOCKS: u32 = 32;
/// Bytes that a thread reads at a time.
const WORD: usize = 16;
/// What a thread's words have to come to for it to write anything.
const NEVER: u32 = 0x9e37_79b9;

/// Numbers in a GPU's memory, and the kernel that reads them.
pub(crate) struct Reader {
    driver: Driver,
    numbers: Buffer,
    found: Buffer,
    bytes: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct ReadParams {
    from: Pointer,
    to: Pointer,
    count: i64,
    never: u32,
}

// SAFETY: the fields are those of `ReadParams` in calibrate.cu.
unsafe impl Params for ReadParams {}
const _: () = assert!(size_of::<ReadParams>() == 32);

impl Reader {
    /// Reads the memory of a contiguous tensor.
    ///
    /// # Errors
    /// A device that the kernels aren't compiled for, or that is full.
    pub(crate) fn new(numbers: Tensor, device: &Device) -> Result<Self> {
        let bytes = numbers.elem_count() * numbers.dtype().size_in_bytes() / WORD * WORD;
        let driver = Driver::new(device)?;
        let found = driver.zeros(1, DType::U32)?;
        Ok(Self { driver, numbers: Buffer::of(numbers)?, found, bytes })
    }

    /// Bytes of a read.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Reads everything so many times, and waits for it.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn read(&self, times: usize) -> Result<()> {
        let grid = Grid { blocks: (self.driver.multiprocessors() * BLOCKS, 1, 1), threads: THREADS, shared: 0 };
        let params = ReadParams {
            from: self.numbers.pointer(),
            to: self.found.pointer(),
            count: (self.bytes / WORD) as i64,
            never: NEVER,
        };
        for _ in 0..times {
            self.driver.launch("calibrate_read", grid, &params)?;
        }
        self.driver.wait()
    }
}
