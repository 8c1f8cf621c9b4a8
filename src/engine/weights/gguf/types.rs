//! Types of blocks as candle knows them.

use candle_core::DType;
use candle_core::quantized::GgmlDType;

use crate::gguf::BlockType;

/// candle's name of a type.
pub(crate) fn ggml_dtype(kind: BlockType) -> GgmlDType {
    match kind {
        BlockType::F32 => GgmlDType::F32,
        BlockType::F16 => GgmlDType::F16,
        BlockType::Bf16 => GgmlDType::BF16,
        BlockType::Q4_0 => GgmlDType::Q4_0,
        BlockType::Q4_1 => GgmlDType::Q4_1,
        BlockType::Q5_0 => GgmlDType::Q5_0,
        BlockType::Q5_1 => GgmlDType::Q5_1,
        BlockType::Q8_0 => GgmlDType::Q8_0,
        BlockType::Q8_1 => GgmlDType::Q8_1,
        BlockType::Q2K => GgmlDType::Q2K,
        BlockType::Q3K => GgmlDType::Q3K,
        BlockType::Q4K => GgmlDType::Q4K,
        BlockType::Q5K => GgmlDType::Q5K,
        BlockType::Q6K => GgmlDType::Q6K,
        BlockType::Q8K => GgmlDType::Q8K,
    }
}

/// The data type of numbers that are stored one by one.
pub(crate) fn plain_dtype(kind: BlockType) -> Option<DType> {
    match kind {
        BlockType::F32 => Some(DType::F32),
        BlockType::F16 => Some(DType::F16),
        BlockType::Bf16 => Some(DType::BF16),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_the_sizes_that_candle_reads_them_with() {
        for kind in BlockType::ALL {
            let theirs = ggml_dtype(kind);
            assert_eq!((kind.elements(), kind.bytes()), (theirs.block_size(), theirs.type_size()), "{}", kind.name());
        }
    }
}
