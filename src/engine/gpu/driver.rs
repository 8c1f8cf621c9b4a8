//! The one place that talks to CUDA: kernels and their launches, device memory, graphs of launches.
//!
//! Everything runs on candle's stream of a device, in order, so that tensors and kernels need no events between them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{
    CudaEvent, CudaGraph, CudaStream, DevicePtr, DriverError, result, sys,
};
use candle_core::{DType, Device, Storage, Tensor};
use half::{bf16, f16};

use crate::error::{Context, Error, Result};

include!(concat!(env!("OUT_DIR"), "/kernel_images.rs"));

/// An address on the device.
pub(crate) type Pointer = u64;

/// No buffer.
pub(crate) const NULL: Pointer = 0;

/// How many blocks of how many threads run a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grid {
    pub(crate) blocks: (u32, u32, u32),
    /// Threads of a block.
    pub(crate) threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub(crate) shared: u32,
}

/// The ending of the names of kernels for a data type.
///
/// # Errors
/// A type that no kernel runs in.
pub(crate) fn suffix(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("f32"),
        DType::F16 => Ok("f16"),
        DType::BF16 => Ok("bf16"),
        other => Err(Error::new(format!("no kernel runs in {}", other.as_str()))),
    }
}

/// What a kernel takes: a structure that is laid out as in its source.
///
/// # Safety
/// The type is `#[repr(C)]` and has the fields of the kernel's structure, in order.
pub(crate) unsafe trait Params: Copy {}

/// A device with the kernels of this crate.
pub(crate) struct Driver {
    device: Device,
    stream: Arc<CudaStream>,
    modules: Vec<Module>,
    functions: RefCell<HashMap<String, Function>>,
    /// Kernels may begin while the one before them ends: compute capability 9.0 and later.
    overlaps: bool,
    multiprocessors: u32,
    launches: Cell<u64>,
}

#[derive(Clone, Copy)]
struct Function {
    handle: sys::CUfunction,
    /// Dynamic shared memory that it has been allowed.
    shared: u32,
}

struct Module {
    handle: sys::CUmodule,
    stream: Arc<CudaStream>,
}

/// Memory on the device that is kept for as long as this lives.
#[derive(Clone)]
pub(crate) struct Buffer {
    tensor: Tensor,
    pointer: Pointer,
}

/// A mark in the stream of work.
pub(crate) struct Mark(CudaEvent);

/// A recorded sequence of launches.
pub(crate) struct Graph {
    graph: CudaGraph,
    /// Launches in it.
    pub(crate) launches: u64,
}

impl Driver {
    /// Loads the kernels onto a CUDA device.
    ///
    /// # Errors
    /// Not a CUDA device, or one that the kernels aren't compiled for.
    pub(crate) fn new(device: &Device) -> Result<Self> {
        let stream = device.as_cuda_device()?.cuda_stream();
        let context = stream.context();
        let (major, minor) = context.compute_capability().context(|| "can't ask for the GPU's compute capability")?;
        if major < 8 {
            return Err(Error::new(format!("the kernels need compute capability 8.0, this GPU has {major}.{minor}")));
        }
        let multiprocessors = context
            .attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
            .context(|| "can't ask for the GPU's multiprocessors")?;
        context.bind_to_thread().context(|| "can't use the GPU")?;
        let load = |(name, image): &(&str, &[u8])| Module::load(name, image, &stream);
        Ok(Self {
            modules: IMAGES.iter().map(load).collect::<Result<_>>()?,
            functions: RefCell::new(HashMap::new()),
            overlaps: major >= 9,
            multiprocessors: multiprocessors.max(1) as u32,
            launches: Cell::new(0),
            device: device.clone(),
            stream,
        })
    }

    /// The device as candle knows it.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// The stream that everything runs on.
    pub(super) fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Streaming multiprocessors of the device.
    pub(crate) fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    /// Whether kernels may begin while the one before them ends: Hopper and later, whose blocks may also have more shared
    /// memory than others.
    pub(crate) fn overlaps(&self) -> bool {
        self.overlaps
    }

    /// Launches so far; a product of a library counts as one, unless it was recorded in a graph.
    pub(crate) fn launches(&self) -> u64 {
        self.launches.get()
    }

    /// Counts launches.
    pub(super) fn count_launches(&self, count: u64) {
        self.launches.set(self.launches.get() + count);
    }

    /// Launches the kernel of this name. On devices that can, it may begin before the one before it has ended: kernels
    /// wait for their inputs themselves.
    ///
    /// # Errors
    /// No such kernel, or a launch that the device refuses.
    pub(crate) fn launch<P: Params>(&self, name: &str, grid: Grid, params: &P) -> Result<()> {
        let function = self.function(name, grid.shared)?;
        let mut attribute = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let (x, y, z) = grid.blocks;
        let config = sys::CUlaunchConfig {
            gridDimX: x,
            gridDimY: y,
            gridDimZ: z,
            blockDimX: grid.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: grid.shared,
            hStream: self.stream.cu_stream(),
            attrs: &raw mut attribute,
            numAttrs: u32::from(self.overlaps),
        };
        let mut arguments = [std::ptr::from_ref(params).cast_mut().cast::<c_void>()];
        // SAFETY: `Params` promises that the structure is the kernel's; the callers keep its buffers until the stream
        // has passed the launch, since memory is freed in the order of the stream.
        let launched =
            unsafe { sys::cuLaunchKernelEx(&raw const config, function, arguments.as_mut_ptr(), std::ptr::null_mut()) };
        launched.result().context(|| format!("can't launch `{name}` with {grid:?}"))?;
        self.count_launches(1);
        Ok(())
    }

    fn function(&self, name: &str, shared: u32) -> Result<sys::CUfunction> {
        /// A block may use more than this only once it has been allowed to.
        const ALLOWED: u32 = 48 << 10;
        let mut functions = self.functions.borrow_mut();
        let function = match functions.get_mut(name) {
            Some(function) => function,
            None => {
                let handle = self.find(name)?;
                functions.entry(name.to_owned()).or_insert(Function { handle, shared: ALLOWED })
            }
        };
        if shared > function.shared {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the handle is that of a loaded function.
            let allowed = unsafe { sys::cuFuncSetAttribute(function.handle, attribute, shared as i32) };
            allowed.result().context(|| format!("`{name}` can't have {shared} bytes of shared memory"))?;
            function.shared = shared;
        }
        Ok(function.handle)
    }

    fn find(&self, name: &str) -> Result<sys::CUfunction> {
        let c_name = CString::new(name).context(|| "a kernel's name")?;
        // SAFETY: the modules stay loaded for as long as the driver lives.
        let found = self
            .modules
            .iter()
            .find_map(|module| unsafe { result::module::get_function(module.handle, c_name.clone()).ok() });
        found.ok_or_else(|| Error::new(format!("there is no kernel `{name}`")))
    }

    /// Memory for `count` values, zeroed.
    ///
    /// # Errors
    /// The device is full.
    pub(crate) fn zeros(&self, count: usize, dtype: DType) -> Result<Buffer> {
        Buffer::of(Tensor::zeros(count.max(1), dtype, &self.device)?)
    }

    /// Copies numbers to new memory on the device.
    ///
    /// # Errors
    /// The device is full.
    pub(crate) fn upload<T: candle_core::WithDType>(&self, values: &[T]) -> Result<Buffer> {
        Buffer::of(Tensor::from_slice(values, values.len(), &self.device)?)
    }

    /// Copies numbers over those of a buffer, from its first on. The host's memory may be used again at once.
    ///
    /// # Errors
    /// More numbers than the buffer has room for.
    pub(crate) fn write<T: candle_core::WithDType>(&self, values: &[T], buffer: &Buffer) -> Result<()> {
        if size_of_val(values) > buffer.bytes() {
            return Err(Error::new("a buffer on the device is too small"));
        }
        // SAFETY: the sizes have just been compared, and the buffer lives. Memory that isn't locked is copied before the
        // call returns.
        let copied = unsafe { result::memcpy_htod_async(buffer.pointer, values, self.stream.cu_stream()) };
        copied.context(|| "can't copy to the GPU")
    }

    /// Waits until all work is done.
    ///
    /// # Errors
    /// Work that has failed.
    pub(crate) fn wait(&self) -> Result<()> {
        self.stream.synchronize().context(|| "the GPU failed")
    }

    /// A mark behind all work so far.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn mark(&self) -> Result<Mark> {
        Ok(Mark(self.stream.record_event(None).context(|| "can't record an event on the GPU")?))
    }

    /// Waits until the device has passed a mark.
    ///
    /// # Errors
    /// Work before it that has failed.
    pub(crate) fn wait_for(&self, mark: &Mark) -> Result<()> {
        mark.0.synchronize().context(|| "the GPU failed")
    }

    /// Records what `work` launches, without running it.
    ///
    /// # Errors
    /// A launch that fails, or something that can't be recorded, such as taking memory.
    pub(crate) fn record(&self, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let before = self.launches();
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).context(|| "can't begin to record launches")?;
        let worked = work();
        // also after a failure, since the stream would go on recording
        let ended = self.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        worked?;
        let graph = ended.context(|| "can't make a graph of the launches")?;
        let graph = graph.ok_or_else(|| Error::new("no launches were recorded"))?;
        graph.upload().context(|| "can't bring a graph to the GPU")?;
        self.launches.set(before);
        let mut launches = 0;
        // SAFETY: the graph lives, and with no list to fill in only the number of its nodes is written.
        let counted = unsafe { sys::cuGraphGetNodes(graph.cu_graph(), std::ptr::null_mut(), &raw mut launches) };
        counted.result().context(|| "can't count the launches of a graph")?;
        Ok(Graph { graph, launches: launches as u64 })
    }

    /// Runs a recorded sequence.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn replay(&self, graph: &Graph) -> Result<()> {
        graph.graph.launch().context(|| "can't run a graph on the GPU")?;
        self.count_launches(graph.launches);
        Ok(())
    }
}

// SAFETY: CUDA's handles belong to the context, not to a thread; this one is used by one thread at a time.
unsafe impl Send for Driver {}
// SAFETY: as above.
unsafe impl Send for Graph {}

impl Module {
    fn load(name: &str, image: &[u8], stream: &Arc<CudaStream>) -> Result<Self> {
        // SAFETY: the image is a whole one, as the compiler wrote it.
        let handle = unsafe { result::module::load_data(image.as_ptr().cast()) };
        let handle = handle.context(|| format!("can't load the kernels of `{name}.cu` onto the GPU"))?;
        Ok(Self { handle, stream: stream.clone() })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // a failure to unload leaves memory behind, and there is nobody to tell
        if self.stream.context().bind_to_thread().is_ok() {
            // SAFETY: nothing of the module is in use once the driver is dropped.
            let _: Result<(), DriverError> = unsafe { result::module::unload(self.handle) };
        }
    }
}

impl Buffer {
    /// The memory of a contiguous tensor.
    ///
    /// # Errors
    /// A tensor that isn't contiguous, or isn't on a CUDA device.
    pub(crate) fn of(tensor: Tensor) -> Result<Self> {
        let pointer = pointer(&tensor)?;
        Ok(Self { tensor, pointer })
    }

    /// Where it begins.
    pub(crate) fn pointer(&self) -> Pointer {
        self.pointer
    }

    /// Where its value number `index` is.
    pub(crate) fn at(&self, index: usize) -> Pointer {
        self.pointer + (index * self.tensor.dtype().size_in_bytes()) as u64
    }

    /// As a tensor, which shares the memory.
    pub(crate) fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    fn bytes(&self) -> usize {
        self.tensor.elem_count() * self.tensor.dtype().size_in_bytes()
    }
}

/// Where the values of a contiguous tensor on a CUDA device begin.
///
/// # Errors
/// A tensor that isn't contiguous, isn't on a CUDA device, or is of a type that no kernel takes.
fn pointer(tensor: &Tensor) -> Result<Pointer> {
    let (storage, layout) = tensor.storage_and_layout();
    let Some((first, _)) = layout.contiguous_offsets() else {
        return Err(Error::new("a kernel needs contiguous tensors"));
    };
    let Storage::Cuda(storage) = &*storage else {
        return Err(Error::new("a kernel needs tensors on the GPU"));
    };
    let stream = storage.device.cuda_stream();
    let begin = match tensor.dtype() {
        DType::F32 => storage.as_cuda_slice::<f32>()?.device_ptr(&stream).0,
        DType::F16 => storage.as_cuda_slice::<f16>()?.device_ptr(&stream).0,
        DType::BF16 => storage.as_cuda_slice::<bf16>()?.device_ptr(&stream).0,
        DType::U32 => storage.as_cuda_slice::<u32>()?.device_ptr(&stream).0,
        DType::U8 => storage.as_cuda_slice::<u8>()?.device_ptr(&stream).0,
        other => return Err(Error::new(format!("no kernel takes tensors of {}", other.as_str()))),
    };
    Ok(begin + (first * tensor.dtype().size_in_bytes()) as u64)
}
