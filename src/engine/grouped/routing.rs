//! Which experts a token meets, and with which weights. Chosen on the host: the choice decides what runs next.

use std::cmp::Ordering;

use candle_core::{DType, Result, Tensor};
use candle_nn::{VarBuilder, ops};

/// The experts of a layer and how they are chosen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expertise {
    pub(crate) experts: usize,
    /// Experts that a token meets.
    pub(crate) chosen: usize,
    /// Width inside an expert.
    pub(crate) inner: usize,
    /// Experts that every token meets, stored as one.
    pub(crate) shared: usize,
    pub(crate) scoring: Scoring,
    /// Groups of experts, and how many of them a token may choose from.
    pub(crate) groups: Option<Groups>,
    /// Weights are made to sum to one.
    pub(crate) normalised: bool,
    /// Factor of the weights.
    pub(crate) scale: f32,
}

/// Groups of neighbouring experts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Groups {
    pub(crate) groups: usize,
    pub(crate) chosen: usize,
}

/// How the scores of the experts come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scoring {
    /// DeepSeek-V2: softmax; a group counts as much as its best expert.
    Softmax,
    /// DeepSeek-V3: sigmoid, a stored bias for the choice alone; a group counts as much as its two best experts.
    Sigmoid,
}

/// An expert with the tokens that meet it and their weights.
pub(super) type Assignment = (usize, Vec<u32>, Vec<f32>);

/// The router of a layer.
pub(super) struct Router {
    /// `(hidden, experts)`, f32
    weight: Tensor,
    bias: Vec<f32>,
    expertise: Expertise,
}

impl Router {
    pub(super) fn load(expertise: &Expertise, hidden_size: usize, tensors: VarBuilder<'_>) -> Result<Self> {
        let experts = expertise.experts;
        let f32 =
            |shape: &[usize], name: &str| tensors.get_with_hints_dtype(shape, name, Default::default(), DType::F32);
        let bias = match expertise.scoring {
            Scoring::Softmax => vec![0.0; experts],
            Scoring::Sigmoid => f32(&[experts], "e_score_correction_bias")?.to_vec1()?,
        };
        Ok(Self { weight: f32(&[experts, hidden_size], "weight")?.t()?, bias, expertise: *expertise })
    }

    /// Assigns tokens `(n, hidden)` to experts, in the order of the experts; waits for the device.
    pub(crate) fn choose(&self, x: &Tensor) -> Result<Vec<Assignment>> {
        let logits = x.to_dtype(DType::F32)?.matmul(&self.weight)?;
        let scores = match self.expertise.scoring {
            Scoring::Softmax => ops::softmax_last_dim(&logits)?,
            Scoring::Sigmoid => ops::sigmoid(&logits)?,
        };
        let mut assigned: Vec<Assignment> = (0..self.expertise.experts).map(|e| (e, vec![], vec![])).collect();
        for (token, scores) in (0u32..).zip(scores.to_vec2::<f32>()?) {
            for (expert, weight) in self.expertise.choose(&scores, &self.bias) {
                if let Some((_, tokens, weights)) = assigned.get_mut(expert) {
                    tokens.push(token);
                    weights.push(weight);
                }
            }
        }
        assigned.retain(|(_, tokens, _)| !tokens.is_empty());
        Ok(assigned)
    }
}

impl Expertise {
    /// The experts of a token with their weights, given its scores and the bias for the choice.
    fn choose(&self, scores: &[f32], bias: &[f32]) -> Vec<(usize, f32)> {
        let ranked: Vec<f32> = scores.iter().zip(bias).map(|(score, bias)| score + bias).collect();
        let allowed = self.allowed(&ranked);
        let candidates = ranked.iter().enumerate().filter(|(expert, _)| allowed(*expert)).collect();
        let chosen = largest(candidates, self.chosen);
        let mut weights: Vec<(usize, f32)> =
            chosen.into_iter().filter_map(|expert| Some((expert, *scores.get(expert)?))).collect();
        let sum: f32 = weights.iter().map(|(_, weight)| weight).sum::<f32>() + 1e-20;
        let factor = if self.normalised { self.scale / sum } else { self.scale };
        weights.iter_mut().for_each(|(_, weight)| *weight *= factor);
        weights
    }

    /// Whether an expert's group is among the best.
    fn allowed(&self, ranked: &[f32]) -> impl Fn(usize) -> bool {
        let size = self.groups.map_or(usize::MAX, |groups| (ranked.len() / groups.groups).max(1));
        let best = if self.scoring == Scoring::Sigmoid { 2 } else { 1 };
        let worth = |group: &[f32]| {
            let top = largest(group.iter().enumerate().collect(), best);
            top.into_iter().filter_map(|index| group.get(index)).sum::<f32>()
        };
        let worths: Vec<f32> = ranked.chunks(size.min(ranked.len().max(1))).map(worth).collect();
        let chosen = largest(worths.iter().enumerate().collect(), self.groups.map_or(1, |groups| groups.chosen));
        move |expert| chosen.contains(&(expert / size))
    }
}

/// Indices of the largest values, the first of equal ones first.
fn largest(mut values: Vec<(usize, &f32)>, count: usize) -> Vec<usize> {
    values.sort_by(|(_, a), (_, b)| b.partial_cmp(a).unwrap_or(Ordering::Equal));
    values.into_iter().take(count).map(|(index, _)| index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCORES: [f32; 6] = [0.9, 0.1, 0.5, 0.6, 0.2, 0.3];

    fn expertise(scoring: Scoring, groups: Option<Groups>) -> Expertise {
        Expertise { experts: 6, chosen: 2, inner: 1, shared: 1, scoring, groups, normalised: false, scale: 2.0 }
    }

    #[test]
    fn a_token_meets_the_experts_with_the_largest_scores() {
        assert_eq!(expertise(Scoring::Softmax, None).choose(&SCORES, &[0.0; 6]), [(0, 1.8), (3, 1.2)]);
    }

    #[test]
    fn groups_are_ranked_by_their_best_expert_or_by_their_two_best() {
        let one = Some(Groups { groups: 3, chosen: 1 });
        assert_eq!(expertise(Scoring::Softmax, one).choose(&SCORES, &[0.0; 6]), [(0, 1.8), (1, 0.2)]);
        assert_eq!(expertise(Scoring::Sigmoid, one).choose(&SCORES, &[0.0; 6]), [(3, 1.2), (2, 1.0)]);
    }

    #[test]
    fn the_bias_changes_the_choice_and_not_the_weights() {
        let normalised = Expertise { normalised: true, scale: 1.0, ..expertise(Scoring::Sigmoid, None) };
        let chosen = normalised.choose(&SCORES, &[0.0, 2.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(chosen.iter().map(|(expert, _)| *expert).collect::<Vec<_>>(), [1, 0]);
        assert!((chosen[0].1 - 0.1).abs() < 1e-6 && (chosen[1].1 - 0.9).abs() < 1e-6);
    }
}
