//! Matrix products by cuBLASLt: those of many rows, which the tensor cores bound rather than memory.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr::from_ref;

use candle_core::DType;
use candle_core::cuda_backend::cudarc::cublaslt::{result, sys};

use super::driver::{Buffer, Driver, NULL, Pointer};
use crate::error::{Context, Error, Result};

/// Scratch memory that algorithms may use: the library's own advice for Hopper.
const WORKSPACE: usize = 32 << 20;

/// `CUBLAS_OP_T`, which the bindings leave out.
const TRANSPOSED: i32 = 1;

/// y = x · Wᵀ + b by the library.
pub(crate) struct Library {
    handle: sys::cublasLtHandle_t,
    workspace: Buffer,
    plans: RefCell<HashMap<Shape, Plan>>,
}

/// What an algorithm is chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    rows: usize,
    outputs: usize,
    inputs: usize,
    dtype: DType,
    /// Values from one row of y to the next.
    stride: usize,
    /// y is in f32, whatever the other matrices are in.
    to_f32: bool,
    bias: bool,
}

/// A product that is ready to run.
struct Plan {
    operation: sys::cublasLtMatmulDesc_t,
    weight: sys::cublasLtMatrixLayout_t,
    input: sys::cublasLtMatrixLayout_t,
    output: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

/// The buffers of a product.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Product {
    /// `(rows, inputs)`.
    pub(crate) x: Pointer,
    /// `(outputs, inputs)`.
    pub(crate) weight: Pointer,
    /// `(outputs)`, or [`NULL`].
    pub(crate) bias: Pointer,
    /// `(rows, outputs)`.
    pub(crate) y: Pointer,
    pub(crate) rows: usize,
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    pub(crate) dtype: DType,
}

// SAFETY: the library's handle and descriptions may be used by any thread, one at a time.
unsafe impl Send for Library {}

impl Library {
    /// Opens the library.
    ///
    /// # Errors
    /// It isn't there, or the device is full.
    pub(crate) fn new(driver: &Driver) -> Result<Self> {
        let handle = result::create_handle().context(|| "can't open cuBLASLt")?;
        Ok(Self { handle, workspace: driver.zeros(WORKSPACE, DType::U8)?, plans: RefCell::new(HashMap::new()) })
    }

    /// Runs a product. Sums are in f32, and in exact f32 products for f32.
    ///
    /// # Errors
    /// A shape that the library has no algorithm for, or a failure of the device.
    pub(crate) fn multiply(&self, driver: &Driver, product: &Product) -> Result<()> {
        let Product { rows, outputs, inputs, dtype, .. } = *product;
        let bias = product.bias != NULL;
        self.run(driver, product, Shape { rows, outputs, inputs, dtype, stride: outputs, to_f32: false, bias })
    }

    /// Runs a product without a bias, whose y is in f32 and has `stride` values from one row to the next.
    ///
    /// # Errors
    /// As for [`Library::multiply`].
    pub(crate) fn multiply_to_f32(&self, driver: &Driver, product: &Product, stride: usize) -> Result<()> {
        let Product { rows, outputs, inputs, dtype, .. } = *product;
        self.run(driver, product, Shape { rows, outputs, inputs, dtype, stride, to_f32: true, bias: false })
    }

    fn run(&self, driver: &Driver, product: &Product, shape: Shape) -> Result<()> {
        let Shape { rows, outputs, inputs, .. } = shape;
        let mut plans = self.plans.borrow_mut();
        let plan = match plans.get(&shape) {
            Some(plan) => plan,
            None => plans.entry(shape).or_insert(Plan::new(self.handle, shape)?),
        };
        if shape.bias {
            let attribute = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_BIAS_POINTER;
            // SAFETY: the operation lives as long as the plan, and takes an address for this attribute.
            unsafe { set(plan.operation, attribute, &product.bias) }?;
        }
        let (one, zero) = (1f32, 0f32);
        // SAFETY: the descriptions belong to the plan, and the caller's buffers have the sizes that it states.
        let run = unsafe {
            result::matmul(
                self.handle,
                plan.operation,
                from_ref(&one).cast(),
                from_ref(&zero).cast(),
                product.weight as *const c_void,
                plan.weight,
                product.x as *const c_void,
                plan.input,
                product.y as *const c_void,
                plan.output,
                product.y as *mut c_void,
                plan.output,
                &raw const plan.algorithm,
                self.workspace.pointer() as *mut c_void,
                WORKSPACE,
                driver.stream().cu_stream().cast(),
            )
        };
        driver.count_launches(1);
        run.context(|| format!("cuBLASLt can't multiply {rows} × {inputs} by {inputs} × {outputs}"))
    }
}

impl Plan {
    /// The library is column-major: yᵀ = W · xᵀ there, with W's columns as rows here.
    fn new(handle: sys::cublasLtHandle_t, shape: Shape) -> Result<Self> {
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        let data = match shape.dtype {
            DType::F32 => sys::cudaDataType_t::CUDA_R_32F,
            DType::F16 => sys::cudaDataType_t::CUDA_R_16F,
            DType::BF16 => sys::cudaDataType_t::CUDA_R_16BF,
            other => return Err(Error::new(format!("cuBLASLt isn't asked for products in {}", other.as_str()))),
        };
        let failed = || format!("cuBLASLt has no algorithm for {shape:?}");
        let (rows, outputs, inputs) = (shape.rows as u64, shape.outputs as u64, shape.inputs as u64);
        let layout = |data, rows, columns, stride: usize| {
            result::create_matrix_layout(data, rows, columns, stride as i64).context(failed)
        };
        let to = if shape.to_f32 { sys::cudaDataType_t::CUDA_R_32F } else { data };
        let compute = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        let operation = result::create_matmul_desc(compute, sys::cudaDataType_t::CUDA_R_32F).context(failed)?;
        let mut plan = Self {
            operation,
            weight: layout(data, inputs, outputs, shape.inputs)?,
            input: layout(data, inputs, rows, shape.inputs)?,
            output: layout(to, outputs, rows, shape.stride)?,
            algorithm: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
        };
        // SAFETY: the operation has just been made, and each attribute has the type that the library documents.
        unsafe { set(operation, Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &TRANSPOSED) }?;
        if shape.bias {
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
            // SAFETY: as above.
            unsafe { set(operation, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue) }?;
        }
        plan.algorithm = plan.choose(handle).context(failed)?;
        Ok(plan)
    }

    /// The library's first choice: the same for a shape in every run, so that a run can be repeated bit by bit.
    fn choose(&self, handle: sys::cublasLtHandle_t) -> Result<sys::cublasLtMatmulAlgo_t, result::CublasError> {
        use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
        let preference = result::create_matmul_pref()?;
        // SAFETY: all descriptions are alive, and the attribute is a number of bytes.
        unsafe {
            let bytes = WORKSPACE;
            result::set_matmul_pref_attribute(
                preference,
                Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                from_ref(&bytes).cast(),
                size_of::<usize>(),
            )?;
            let found = result::get_matmul_algo_heuristic(
                handle,
                self.operation,
                self.weight,
                self.input,
                self.output,
                self.output,
                preference,
            );
            result::destroy_matmul_pref(preference)?;
            Ok(found?.algo)
        }
    }
}

/// Sets an attribute of an operation.
///
/// # Safety
/// The operation lives, and `T` is the type that the library documents for the attribute.
unsafe fn set<T>(
    operation: sys::cublasLtMatmulDesc_t,
    attribute: sys::cublasLtMatmulDescAttributes_t,
    value: &T,
) -> Result<()> {
    // SAFETY: as the caller promises.
    let set =
        unsafe { result::set_matmul_desc_attribute(operation, attribute, from_ref(value).cast(), size_of::<T>()) };
    set.context(|| format!("cuBLASLt refuses {attribute:?}"))
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: each was made by this plan and is destroyed once; a failure has nobody to be told to.
        unsafe {
            let _ = result::destroy_matmul_desc(self.operation);
            for layout in [self.weight, self.input, self.output] {
                let _ = result::destroy_matrix_layout(layout);
            }
        }
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        self.plans.borrow_mut().clear();
        // SAFETY: the handle was made by this object, and no plan is left.
        let _: Result<(), result::CublasError> = unsafe { result::destroy_handle(self.handle) };
    }
}
