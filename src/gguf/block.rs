//! The types of blocks that tensors are stored in.

use crate::error::{Error, Result};

/// How the numbers of a tensor are stored, by ggml's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockType {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q8_1,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Q8K,
}

impl BlockType {
    /// All types that can be read.
    pub(crate) const ALL: [BlockType; 15] = [
        BlockType::F32,
        BlockType::F16,
        BlockType::Bf16,
        BlockType::Q4_0,
        BlockType::Q4_1,
        BlockType::Q5_0,
        BlockType::Q5_1,
        BlockType::Q8_0,
        BlockType::Q8_1,
        BlockType::Q2K,
        BlockType::Q3K,
        BlockType::Q4K,
        BlockType::Q5K,
        BlockType::Q6K,
        BlockType::Q8K,
    ];

    /// ggml's number, llama.cpp's spelling, and how many elements are stored in how many bytes.
    const fn facts(self) -> (u32, &'static str, usize, usize) {
        match self {
            BlockType::F32 => (0, "F32", 1, 4),
            BlockType::F16 => (1, "F16", 1, 2),
            BlockType::Bf16 => (30, "BF16", 1, 2),
            BlockType::Q4_0 => (2, "Q4_0", 32, 18),
            BlockType::Q4_1 => (3, "Q4_1", 32, 20),
            BlockType::Q5_0 => (6, "Q5_0", 32, 22),
            BlockType::Q5_1 => (7, "Q5_1", 32, 24),
            BlockType::Q8_0 => (8, "Q8_0", 32, 34),
            BlockType::Q8_1 => (9, "Q8_1", 32, 36),
            BlockType::Q2K => (10, "Q2_K", 256, 84),
            BlockType::Q3K => (11, "Q3_K", 256, 110),
            BlockType::Q4K => (12, "Q4_K", 256, 144),
            BlockType::Q5K => (13, "Q5_K", 256, 176),
            BlockType::Q6K => (14, "Q6_K", 256, 210),
            BlockType::Q8K => (15, "Q8_K", 256, 292),
        }
    }

    /// The type with one of ggml's numbers.
    ///
    /// # Errors
    /// A type that isn't supported, by its name if that is known.
    pub(crate) fn numbered(number: u32) -> Result<Self> {
        if let Some(kind) = Self::ALL.into_iter().find(|kind| kind.facts().0 == number) {
            return Ok(kind);
        }
        let name = UNSUPPORTED.iter().find(|(unsupported, _)| *unsupported == number);
        let name = name.map_or_else(|| format!("number {number}"), |(_, name)| (*name).to_owned());
        Err(Error::input(format!(
            "is of type {name}; supported are F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q8_1, Q2_K, Q3_K, Q4_K, \
             Q5_K, Q6_K and Q8_K"
        ))
        .with_hint("take a file of the same model that is quantised to one of these, such as Q4_K_M or Q8_0"))
    }

    /// llama.cpp's spelling.
    pub(crate) fn name(self) -> &'static str {
        self.facts().1
    }

    /// Elements of a block.
    pub(crate) fn elements(self) -> usize {
        self.facts().2
    }

    /// Bytes of a block.
    pub(crate) fn bytes(self) -> usize {
        self.facts().3
    }

    /// Whether elements are stored one by one, as plain numbers.
    pub(crate) fn is_plain(self) -> bool {
        self.elements() == 1
    }
}

/// Names of the types that aren't supported, for the message.
const UNSUPPORTED: [(u32, &str); 18] = [
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];
