//! Attention with linear biases (Press et al. 2022): what is added to the scores by head and position of the key.

use candle_core::{Device, Tensor};
use half::bf16;

use crate::engine::config::{Alibi, Attention};
use crate::error::Result;

/// Biases of each head by position, on the host. Positions count from the start of the sequence: what is the same for
/// all keys of a query doesn't change its softmax.
#[derive(Debug)]
pub(crate) struct AlibiTable {
    biases: Vec<f32>,
    positions: usize,
}

impl AlibiTable {
    /// The table of a model whose scores are multiplied by `scale`, for positions below `positions`.
    pub(crate) fn new(alibi: Alibi, attention: &Attention, scale: f64, positions: usize) -> Self {
        let slopes = slopes(attention.heads);
        let bias = |slope: f32, position: usize| match alibi {
            Alibi::Bloom => slope * position as f32,
            // transformers computes slope and product in bf16, and scales the bias together with the score
            Alibi::Falcon => {
                let slope = bf16::from_f32(slope).to_f32();
                bf16::from_f32(slope * bf16::from_f32(position as f32).to_f32()).to_f32() * scale as f32
            }
        };
        let biases = slopes.iter().flat_map(|slope| (0..positions).map(move |position| bias(*slope, position)));
        Self { biases: biases.collect(), positions }
    }

    /// Biases of one head from position 0 on.
    #[inline(always)]
    pub(crate) fn head(&self, head: usize) -> &[f32] {
        &self.biases[head * self.positions..][..self.positions]
    }

    /// Biases of all heads, one after the other.
    #[cfg(feature = "cuda")]
    pub(crate) fn biases(&self) -> &[f32] {
        &self.biases
    }

    /// Biases by column of a left-padded batch: `(b, h, 1, capacity)`.
    pub(crate) fn by_column(&self, starts: &[usize], capacity: usize, device: &Device) -> Result<Tensor> {
        let heads = self.biases.len() / self.positions;
        let mut columns = Vec::with_capacity(starts.len() * heads * capacity);
        for start in starts {
            for head in 0..heads {
                columns.extend((0..capacity).map(|column| self.head(head)[column.saturating_sub(*start)]));
            }
        }
        Ok(Tensor::from_vec(columns, (starts.len(), heads, 1, capacity), device)?)
    }
}

/// A geometric sequence of slopes, one for each head; if their number is no power of two, the rest are every other
/// slope of the sequence for the next power of two.
fn slopes(heads: usize) -> Vec<f32> {
    let whole = if heads.is_power_of_two() { heads } else { heads.next_power_of_two() / 2 };
    let base = |heads: usize| 2f64.powf(-8.0 / heads as f64) as f32;
    let first = (1..=whole).map(|power| base(whole).powi(power as i32));
    let more = (0..heads - whole).map(|index| base(2 * whole).powi(2 * index as i32 + 1));
    first.chain(more).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_those_of_the_paper_for_eight_heads() {
        let expected: Vec<f32> = (1..=8).map(|power| 0.5f32.powi(power)).collect();
        assert_eq!(slopes(8), expected);
    }

    #[test]
    fn a_number_of_heads_between_powers_of_two_takes_slopes_from_between() {
        let six = slopes(6);
        assert_eq!(six[..4], slopes(4)[..]);
        assert_eq!(six[4..], [slopes(8)[0], slopes(8)[2]]);
    }
}
