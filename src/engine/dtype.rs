//! The data type that a model runs in: what is asked for, what is stored, and what the device can do.

use std::path::Path;

use candle_core::DType;

use crate::error::{Error, Result};
use crate::json::read_object;

/// The data type that `config.json` names, for weights that aren't there; bf16 if it names none.
///
/// # Errors
/// The file can't be read.
pub(crate) fn stated_dtype(folder: &Path) -> Result<DType> {
    let json = read_object(&folder.join("config.json"))?;
    let stated = ["dtype", "torch_dtype"].iter().find_map(|field| json.get(*field)?.as_str());
    Ok(match stated {
        Some("float16") => DType::F16,
        Some("float32") => DType::F32,
        _ => DType::BF16,
    })
}

/// The data type to run in, with notes for the record.
///
/// # Errors
/// `asked` is no data type that models run in.
pub(crate) fn run_dtype(asked: Option<&str>, stored: DType, on_cpu: bool) -> Result<(DType, Vec<String>)> {
    let dtype = match asked {
        None => stored,
        Some("f32") => DType::F32,
        Some("f16") => DType::F16,
        Some("bf16") => DType::BF16,
        Some(other) => {
            return Err(Error::input(format!("`{other}` is no data type; supported are `f32`, `f16` and `bf16`")));
        }
    };
    let note = |text: &str| vec![text.to_owned()];
    Ok(match (dtype, asked) {
        (DType::BF16, _) if on_cpu => (DType::F32, note("bf16 upcast to f32 on the CPU, which has no bf16 products")),
        (DType::F16, None) if on_cpu => (DType::F32, note("f16 upcast to f32 on the CPU, whose f16 products are slow")),
        (DType::F16, Some(_)) if on_cpu => {
            (dtype, note("f16 on the CPU runs many times slower than f32: don't compare it with other data types"))
        }
        _ => (dtype, Vec::new()),
    })
}

/// The data type to run in with quantised weights, whose products take and give f32.
///
/// # Errors
/// Another data type is asked for.
pub(crate) fn quantised_dtype(asked: Option<&str>, stored: &str) -> Result<DType> {
    match asked {
        None | Some("f32") => Ok(DType::F32),
        Some(other) => Err(Error::input(format!("weights in {stored} can't run in `{other}`"))
            .with_hint("leave `dtype` out: activations are f32")),
    }
}
