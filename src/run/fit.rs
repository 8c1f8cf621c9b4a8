//! Which cells fit into memory: estimated before a model is loaded, and learnt from those that ran out of it.

use crate::engine::load::{MemoryNeed, ModelSummary};
use crate::format;
use crate::model::Loader;
use crate::record::{CellId, CellSpec, FailureKind, Outcome};
use crate::sweep::spec::ModelSpec;

/// Which cells are known to run out of memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fit {
    ran_out: Vec<CellSpec>,
}

/// The device that a model runs on, as far as memory is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Device {
    /// Free bytes; `None` if the device doesn't report them.
    pub(crate) free: Option<u64>,
    pub(crate) is_gpu: bool,
}

impl Device {
    /// The device of a model, as it is now.
    pub(crate) fn of(loader: &Loader, model: &ModelSpec) -> Self {
        Self { free: loader.free_memory(model), is_gpu: loader.first_device(model).is_gpu() }
    }

    /// Stands for any device if only earlier trials are to decide.
    pub(crate) const UNKNOWN: Self = Self { free: None, is_gpu: false };
}

impl Fit {
    /// Takes a trial into account: a cell that was measured fits after all.
    pub(crate) fn learn(&mut self, cell: &CellSpec, outcome: &Outcome) {
        self.ran_out.retain(|other| other.id != cell.id || !matches!(outcome, Outcome::Measured(_)));
        if matches!(outcome, Outcome::Failed { failure: FailureKind::OutOfMemory, .. }) {
            self.ran_out.push(cell.clone());
        }
    }

    /// Why a cell isn't worth trying: a smaller one of the same model ran out of memory, or the estimate is above what
    /// is free. `None` if it is. `longest` is the number of tokens of the longest prompt.
    pub(crate) fn obstacle(
        &self,
        cell: &CellSpec,
        summary: Option<&ModelSummary>,
        longest: usize,
        device: Device,
    ) -> Option<String> {
        if let Some(smaller) = self.dominated_by(cell) {
            return Some(format!("not tried: `{smaller}`, which needs no more memory, ran out of it"));
        }
        let need = need(cell, summary?, longest, device.is_gpu);
        let free = device.free?;
        (need.total() > free).then(|| {
            format!(
                "doesn't fit: about {} are needed (weights {}, KV cache {}, activations {}), {} are free",
                format::bytes(need.total()),
                format::bytes(need.weights),
                format::bytes(need.kv_cache),
                format::bytes(need.activations),
                format::bytes(free)
            )
        })
    }

    fn dominated_by(&self, cell: &CellSpec) -> Option<&CellId> {
        let smaller = |other: &&CellSpec| {
            other.model == cell.model
                && other.id != cell.id
                && other.batch_size <= cell.batch_size
                && other.max_new_tokens <= cell.max_new_tokens
        };
        self.ran_out.iter().find(smaller).map(|other| &other.id)
    }
}

/// Memory that a cell needs; every beam is a row of its own.
pub(crate) fn need(cell: &CellSpec, summary: &ModelSummary, longest: usize, on_gpu: bool) -> MemoryNeed {
    let rows = cell.batch_size.saturating_mul(cell.decoding.sequences_per_prompt());
    summary.memory(rows, longest, longest.saturating_add(cell.max_new_tokens), &cell.dtype, on_gpu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Decoding, OutputLength};

    fn cell(batch_size: usize, max_new_tokens: usize) -> CellSpec {
        CellSpec {
            id: CellId(format!("m.b{batch_size}.n{max_new_tokens}")),
            model: "m".into(),
            batch_size,
            max_new_tokens,
            dtype: "bf16".into(),
            output_length: OutputLength::Fixed,
            decoding: Decoding::Greedy,
            dummy_weights: false,
            probe: false,
        }
    }

    /// Llama 3.1 8B.
    fn summary() -> ModelSummary {
        ModelSummary {
            architecture: "LlamaForCausalLM".into(),
            parameters: 8_030_261_248,
            max_positions: 131_072,
            vocab_size: 128_256,
            layers: 32,
            kv_heads: 8,
            head_dim: 128,
            heads: 32,
            hidden_size: 4096,
            inner_size: 2 * 14_336,
            stored_dtype: "bf16".into(),
            stored_bytes: 16_060_522_496,
            quantised: false,
            dequantised_bytes: 0,
            only_dtype: None,
        }
    }

    fn gpu(free: Option<u64>) -> Device {
        Device { free, is_gpu: true }
    }

    #[test]
    fn attention_scores_count_where_they_are_held_and_no_further_than_a_block_of_them() {
        let f32_cell = CellSpec { dtype: "f32".into(), ..cell(4, 8) };
        let (cpu, gpu) = (need(&f32_cell, &summary(), 1000, false), need(&f32_cell, &summary(), 1000, true));
        assert_eq!(cpu.kv_cache, gpu.kv_cache);
        assert!(cpu.activations < gpu.activations);
        let long = need(&cell(1, 8), &summary(), 100_000, true);
        assert!(long.activations < 40 << 30, "{long:?}");
    }

    #[test]
    fn the_kv_cache_of_a_known_model_is_128_kib_a_token_in_bf16() {
        let need = need(&cell(8, 100), &summary(), 28, true);
        assert_eq!(need.kv_cache, 8 * 128 * 128 * 1024);
        assert_eq!(need.weights, 2 * 8_030_261_248);
        assert!(need.activations > 0);
    }

    #[test]
    fn a_cell_that_needs_more_than_is_free_is_reported_with_the_numbers() {
        let fit = Fit::default();
        assert_eq!(fit.obstacle(&cell(1, 32), Some(&summary()), 100, gpu(Some(80 << 30))), None);
        let obstacle = fit.obstacle(&cell(64, 32), Some(&summary()), 8000, gpu(Some(80 << 30))).unwrap();
        assert!(obstacle.starts_with("doesn't fit: about ") && obstacle.contains("KV cache"), "{obstacle}");
        assert_eq!(
            fit.obstacle(&cell(64, 32), Some(&summary()), 8000, Device::UNKNOWN),
            None,
            "free memory isn't known"
        );
    }

    #[test]
    fn larger_cells_of_a_model_that_ran_out_are_not_tried_and_smaller_ones_are() {
        let mut fit = Fit::default();
        let out_of_memory = Outcome::Failed { failure: FailureKind::OutOfMemory, message: String::new() };
        fit.learn(&cell(8, 64), &out_of_memory);
        for (batch_size, length, tried) in [(8, 32, true), (4, 128, true), (8, 128, false), (16, 64, false)] {
            assert_eq!(
                fit.obstacle(&cell(batch_size, length), None, 10, Device::UNKNOWN).is_none(),
                tried,
                "{batch_size} {length}"
            );
        }
        assert_eq!(fit.obstacle(&cell(8, 64), None, 10, Device::UNKNOWN), None, "its own repeats are tried again");
        let other = CellSpec { model: "other".into(), ..cell(16, 64) };
        assert_eq!(fit.obstacle(&other, None, 10, Device::UNKNOWN), None);
    }
}
