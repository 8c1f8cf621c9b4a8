//! The operations that models run on: what a sweep file asks for, and what came of it.

use crate::vocabulary::vocabulary;

vocabulary! {
    /// Which operations models run on.
    #[derive(Default)]
    pub enum KernelsChoice {
        /// The fastest that run the whole model on its device and in its data type.
        #[default]
        Auto = "auto", "the fastest";
        /// candle's stock operations everywhere: the reference that the others are checked against.
        Plain = "plain", "plain operations";
    }
}

vocabulary! {
    /// The operations that a model ran on.
    pub enum KernelsUsed {
        /// This program's kernels for f32 on a CPU.
        Cpu = "cpu", "CPU kernels";
        /// This program's kernels for NVIDIA GPUs.
        Gpu = "gpu", "GPU kernels";
        /// candle's stock operations.
        Plain = "plain", "plain operations";
    }
}

impl KernelsUsed {
    /// What that means, in a sentence.
    pub fn explanation(self) -> &'static str {
        match self {
            KernelsUsed::Cpu => "matrix products, attention and gates run on this program's own kernels for CPUs",
            KernelsUsed::Gpu => {
                "the whole forward pass runs on this program's own kernels for GPUs, and a decode step is one CUDA graph"
            }
            KernelsUsed::Plain => {
                "the model runs on candle's stock operations, one by one: slower, and at more energy per token than the \
                 model needs"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_operations_is_explained_in_a_clause() {
        for kernels in KernelsUsed::ALL {
            assert!(kernels.explanation().len() > 40, "{kernels}");
            assert!(!kernels.explanation().ends_with('.'), "{kernels}");
        }
    }
}
