//! Kernels for f32 on the CPU, as custom operations on candle's tensors.
//!
//! Small models are bound by the cost of each operation, and candle's matmul packs the weights again in every call with
//! more than one row. Here weights and KV cache lie in panels (see [`panels`]) that one kernel multiplies by, and
//! attention is one operation. Everything else is candle's own.
//!
//! Each output is summed in an order that depends on nothing but its own row, so that a row gives the same bits in any
//! batch and on any number of threads.

pub(super) mod attention;
mod exp;
pub(super) mod gate;
pub(super) mod panel_cache;
pub(super) mod panels;

use candle_core::{CpuStorage, Layout, Result};

/// Work below this many multiplications (a few microseconds) isn't worth waking another thread for: measured with
/// `cargo bench --bench decode` between 2¹² and 2²⁴.
const PARALLEL_FROM: usize = 1 << 16;

/// Compiles a kernel for the vector units that the processor has: `$body::<FMA>` is inlined into a function with AVX2
/// and FMA, which is called if both are there.
macro_rules! vectorised {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) = $body:ident) => {
        $(#[$doc])*
        $vis fn $name($($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn with_avx2($($arg: $type),*) {
                    $body::<true>($($arg),*)
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the processor has just been found to have both features.
                    return unsafe { with_avx2($($arg),*) };
                }
            }
            $body::<{ cfg!(target_arch = "aarch64") }>($($arg),*)
        }
    };
}
use vectorised;

/// a · b + c, fused if the processor has an instruction for it. Without one, `mul_add` would be a slow library call.
#[inline(always)]
fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Threads that share work of this many multiplications.
fn threads_for(multiplications: usize) -> usize {
    rayon::current_num_threads().min(multiplications / PARALLEL_FROM + 1)
}

/// The values of a contiguous f32 tensor.
fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let all = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&all[start..end]),
        None => candle_core::bail!("a kernel needs contiguous tensors"),
    }
}
