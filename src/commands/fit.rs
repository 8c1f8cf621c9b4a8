//! Which cells fit into memory: estimated before a model is loaded, and learnt from those that ran out of it.

use crate::engine::load::{MemoryNeed, ModelSummary};
use crate::format;
use crate::record::{CellId, CellSpec, FailureKind, Outcome, Trial};

/// What is known of the memory that cells take.
#[derive(Debug, Clone, Default)]
pub struct Fit {
    ran_out: Vec<CellSpec>,
}

impl Fit {
    /// Takes up what earlier trials of the run showed.
    pub fn new(trials: &[Trial]) -> Self {
        let out_of_memory =
            |trial: &&Trial| matches!(trial.outcome, Outcome::Failed { failure: FailureKind::OutOfMemory, .. });
        Self { ran_out: trials.iter().filter(out_of_memory).map(|trial| trial.cell.clone()).collect() }
    }

    /// Remembers a cell that ran out of memory.
    pub fn ran_out(&mut self, cell: &CellSpec) {
        self.ran_out.push(cell.clone());
    }

    /// Why a cell isn't worth trying, where it isn't: a smaller one of the same model ran out of memory, or the estimate
    /// is above what is free. `longest` is the number of tokens of the longest prompt.
    pub fn obstacle(
        &self,
        cell: &CellSpec,
        summary: Option<&ModelSummary>,
        longest: usize,
        free: Option<u64>,
    ) -> Option<String> {
        if let Some(smaller) = self.dominated_by(cell) {
            return Some(format!("not tried: `{smaller}`, which needs no more memory, ran out of it"));
        }
        let need = need(cell, summary?, longest);
        let free = free?;
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

/// What a cell takes; every beam is a row of its own.
pub fn need(cell: &CellSpec, summary: &ModelSummary, longest: usize) -> MemoryNeed {
    let rows = cell.batch_size.saturating_mul(cell.decoding.sequences_per_prompt());
    summary.memory(rows, longest, longest.saturating_add(cell.max_new_tokens), &cell.dtype)
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
            only_dtype: None,
        }
    }

    #[test]
    fn the_kv_cache_of_a_known_model_is_128_kib_a_token_in_bf16() {
        let need = need(&cell(8, 100), &summary(), 28);
        assert_eq!(need.kv_cache, 8 * 128 * 128 * 1024);
        assert_eq!(need.weights, 2 * 8_030_261_248);
        assert!(need.activations > 0);
    }

    #[test]
    fn a_cell_that_needs_more_than_is_free_is_told_with_the_figures() {
        let fit = Fit::default();
        assert_eq!(fit.obstacle(&cell(1, 32), Some(&summary()), 100, Some(80 << 30)), None);
        let obstacle = fit.obstacle(&cell(64, 32), Some(&summary()), 8000, Some(80 << 30)).unwrap();
        assert!(obstacle.starts_with("doesn't fit: about ") && obstacle.contains("KV cache"), "{obstacle}");
        assert_eq!(fit.obstacle(&cell(64, 32), Some(&summary()), 8000, None), None, "free memory isn't known");
    }

    #[test]
    fn larger_cells_of_a_model_that_ran_out_are_not_tried_and_smaller_ones_are() {
        let mut fit = Fit::default();
        fit.ran_out(&cell(8, 64));
        for (batch_size, length, tried) in [(8, 32, true), (4, 128, true), (8, 128, false), (16, 64, false)] {
            assert_eq!(
                fit.obstacle(&cell(batch_size, length), None, 10, None).is_none(),
                tried,
                "{batch_size} {length}"
            );
        }
        assert_eq!(fit.obstacle(&cell(8, 64), None, 10, None), None, "its own repeats are tried again");
        let other = CellSpec { model: "other".into(), ..cell(16, 64) };
        assert_eq!(fit.obstacle(&other, None, 10, None), None);
    }
}
