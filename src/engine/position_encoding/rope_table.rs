//! The rotations of the rotary position embedding: frequencies as transformers computes them, and tables of cosines and
//! sines by position, computed on the host and cast to the type that the model runs in.

use std::f64::consts::PI;

use candle_core::{DType, Device, Tensor};

use crate::engine::config::{Rope, RopeScaling, RopeStyle, Yarn};
use crate::error::Result;

/// Cosines and sines of the positions from 0 on, each `(positions, pairs)`, on the host.
#[derive(Debug)]
pub(crate) struct RopeTable {
    cos: Vec<f32>,
    sin: Vec<f32>,
    pairs: usize,
    style: RopeStyle,
}

/// Which frequencies a rotary embedding uses at a length: lengths with equal keys use the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RopeKey(usize);

impl Rope {
    /// Which frequencies are used once the longest sequence of a batch has this length.
    pub(crate) fn key(&self, length: usize) -> RopeKey {
        RopeKey(match &self.scaling {
            RopeScaling::Dynamic { original_positions, .. } => length.max(*original_positions as usize),
            RopeScaling::Long { original_positions, .. } => usize::from(length > *original_positions),
            _ => 0,
        })
    }

    /// The table of positions 0 to `positions - 1` with the frequencies of a key.
    pub(crate) fn table(&self, key: RopeKey, positions: usize) -> RopeTable {
        let frequencies = self.frequencies(key);
        let factor = self.attention_factor();
        // transformers multiplies position and frequency in f32, and far positions show the rounding
        let angles = || (0..positions).flat_map(|p| frequencies.iter().map(move |frequency| p as f32 * frequency));
        RopeTable {
            cos: angles().map(|angle| f64::from(angle).cos() as f32 * factor).collect(),
            sin: angles().map(|angle| f64::from(angle).sin() as f32 * factor).collect(),
            pairs: self.dims / 2,
            style: self.style,
        }
    }

    /// The factor of cosines and sines.
    fn attention_factor(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn(Yarn { attention_factor, .. }) | RopeScaling::Long { attention_factor, .. } => {
                attention_factor as f32
            }
            _ => 1.0,
        }
    }

    /// Angle per position of each pair of dimensions, the fastest first, rounded once.
    fn frequencies(&self, key: RopeKey) -> Vec<f32> {
        self.exact_frequencies(key).into_iter().map(|frequency| frequency as f32).collect()
    }

    /// Angle per position of each pair of dimensions, the fastest first.
    pub(crate) fn exact_frequencies(&self, key: RopeKey) -> Vec<f64> {
        let dims = self.dims as f64;
        let plain = |theta: f64| (0..self.dims / 2).map(move |pair| theta.powf(-2.0 * pair as f64 / dims));
        match &self.scaling {
            RopeScaling::Default => plain(self.theta).collect(),
            RopeScaling::Linear { factor } => plain(self.theta).map(|frequency| frequency / factor).collect(),
            RopeScaling::Divisors(divisors) => divided(plain(self.theta), divisors),
            RopeScaling::Long { short, long, .. } => {
                divided(plain(self.theta), if key == RopeKey(0) { short } else { long })
            }
            RopeScaling::Dynamic { factor, original_positions } => {
                let growth = factor * key.0 as f64 / original_positions - (factor - 1.0);
                plain(self.theta * growth.powf(dims / (dims - 2.0))).collect()
            }
            RopeScaling::Yarn(yarn) => {
                let stretch = |(pair, frequency)| yarn.stretched(frequency, yarn.kept(pair, self.theta, dims));
                plain(self.theta).enumerate().map(stretch).collect()
            }
            RopeScaling::Llama3 { .. } => plain(self.theta).map(|frequency| self.llama3(frequency)).collect(),
        }
    }

    fn llama3(&self, frequency: f64) -> f64 {
        let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions } = self.scaling else {
            return frequency;
        };
        let turns = original_positions * frequency / (2.0 * PI);
        if turns > high_freq_factor {
            frequency
        } else if turns < low_freq_factor {
            frequency / factor
        } else {
            let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
            (1.0 - kept) * frequency / factor + kept * frequency
        }
    }
}

fn divided(plain: impl Iterator<Item = f64>, divisors: &[f32]) -> Vec<f64> {
    plain.zip(divisors).map(|(frequency, divisor)| frequency / f64::from(*divisor)).collect()
}

impl Yarn {
    /// How much of a pair's frequency is kept as it is, from 0 to 1.
    fn kept(&self, pair: usize, theta: f64, dims: f64) -> f64 {
        // the dimension whose pair turns this often within the original length
        let turning = |turns: f64| dims * (self.original_positions / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln());
        let (low, high) = (turning(self.beta_fast), turning(self.beta_slow));
        let (low, high) = if self.truncate { (low.floor(), high.ceil()) } else { (low, high) };
        let (low, high) = (low.max(0.0), high.min(dims - 1.0));
        // transformers avoids the division by zero with the same constant
        let high = if low == high { high + 0.001 } else { high };
        1.0 - ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0)
    }

    fn stretched(&self, frequency: f64, kept: f64) -> f64 {
        frequency / self.factor * (1.0 - kept) + frequency * kept
    }
}

impl RopeTable {
    /// How many positions the table has.
    pub(crate) fn positions(&self) -> usize {
        self.cos.len() / self.pairs
    }

    /// Which dimensions form a pair.
    pub(crate) fn style(&self) -> RopeStyle {
        self.style
    }

    /// Cosines and sines of a position.
    #[inline(always)]
    pub(crate) fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let range = position * self.pairs..(position + 1) * self.pairs;
        (&self.cos[range.clone()], &self.sin[range])
    }

    /// All cosines and all sines, each `(positions, pairs)`.
    #[cfg(feature = "cuda")]
    pub(crate) fn into_parts(self) -> (Vec<f32>, Vec<f32>) {
        (self.cos, self.sin)
    }

    /// Cosines and sines of the first `positions` on a device, each `(positions, pairs)`.
    pub(crate) fn to_device(&self, positions: usize, dtype: DType, device: &Device) -> Result<[Tensor; 2]> {
        let upload = |values: &[f32]| -> Result<Tensor> {
            let values = &values[..positions * self.pairs];
            Ok(Tensor::from_slice(values, (positions, self.pairs), device)?.to_dtype(dtype)?)
        };
        Ok([upload(&self.cos)?, upload(&self.sin)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(dims: usize, scaling: RopeScaling) -> Rope {
        Rope { theta: 10_000.0, dims, style: RopeStyle::Halves, scaling }
    }

    #[test]
    fn frequencies_fall_geometrically_from_one() {
        let rope = rope(8, RopeScaling::Default);
        assert_eq!(rope.frequencies(rope.key(5)), [1.0, 0.1, 0.01, 0.001]);
    }

    #[test]
    fn linear_scaling_divides_every_frequency() {
        let rope = rope(4, RopeScaling::Linear { factor: 4.0 });
        assert_eq!(rope.frequencies(rope.key(5)), [0.25, 0.0025]);
    }

    #[test]
    fn llama3_keeps_short_wavelengths_and_divides_long_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_positions: 8192.0,
        };
        let rope = rope(8, scaling);
        assert_eq!(rope.llama3(1.0), 1.0);
        assert_eq!(rope.llama3(1e-5), 1e-5 / 8.0);
        let between = 2.0 * PI / (8192.0 / 2.5);
        assert!((rope.llama3(between) / between - 0.5625).abs() < 1e-12);
    }

    #[test]
    fn dynamic_scaling_begins_past_the_original_length_and_grows_with_the_sequence() {
        let rope = rope(4, RopeScaling::Dynamic { factor: 2.0, original_positions: 16.0 });
        assert_eq!(rope.frequencies(rope.key(16)), [1.0, 0.01]);
        // At twice the length the base is 3² times as large: (2 · 2 − 1)^(4 / 2).
        let grown = rope.frequencies(rope.key(32));
        assert_eq!(grown[0], 1.0);
        assert!((f64::from(grown[1]) - 1.0 / 90_000f64.sqrt()).abs() < 1e-9, "{grown:?}");
        assert_ne!(rope.key(32), rope.key(33));
    }

    #[test]
    fn long_scaling_changes_its_divisors_past_the_original_length() {
        let (short, long) = (vec![1.0, 2.0], vec![4.0, 5.0]);
        let scaling = RopeScaling::Long { short, long, original_positions: 16, attention_factor: 1.5 };
        let rope = rope(4, scaling);
        assert_eq!(rope.frequencies(rope.key(16)), [1.0, 0.005]);
        assert_eq!(rope.frequencies(rope.key(17)), [0.25, 0.002]);
        assert_eq!(rope.table(rope.key(1), 1).at(0).0, [1.5, 1.5]);
    }
}
