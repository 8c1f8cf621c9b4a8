//! The tables of the rotary position embedding: cosines and sines by position, computed on the host in the arithmetic
//! of transformers (angles in f32) and cast to the type that the model runs in.

use std::f64::consts::PI;

use candle_core::{DType, Device, Tensor};

use super::config::{Rope, RopeScaling};
use crate::error::Result;

/// Cosines and sines of the positions from 0 on, each `(positions, head_dim / 2)`, on the host.
pub(super) struct RopeTable {
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
}

impl RopeTable {
    /// Computes the table for positions 0 to `positions - 1`.
    pub fn new(rope: &Rope, head_dim: usize, positions: usize) -> Self {
        let frequencies = frequencies(rope, head_dim);
        let angles = || (0..positions).flat_map(|p| frequencies.iter().map(move |frequency| p as f32 * frequency));
        Self {
            cos: angles().map(|angle| f64::from(angle).cos() as f32).collect(),
            sin: angles().map(|angle| f64::from(angle).sin() as f32).collect(),
            half: head_dim / 2,
        }
    }

    /// How many positions the table has.
    pub fn positions(&self) -> usize {
        self.cos.len() / self.half
    }

    /// Cosines and sines of a position.
    #[inline(always)]
    pub fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let range = position * self.half..(position + 1) * self.half;
        (&self.cos[range.clone()], &self.sin[range])
    }

    /// Cosines and sines of the first `positions` on the device, each `(positions, head_dim / 2)`.
    pub fn to_device(&self, positions: usize, dtype: DType, device: &Device) -> Result<(Tensor, Tensor)> {
        let upload = |values: &[f32]| -> Result<Tensor> {
            let values = &values[..positions * self.half];
            Ok(Tensor::from_slice(values, (positions, self.half), device)?.to_dtype(dtype)?)
        };
        Ok((upload(&self.cos)?, upload(&self.sin)?))
    }
}

/// Angle per position of each pair of dimensions, the fastest first.
fn frequencies(rope: &Rope, head_dim: usize) -> Vec<f32> {
    let plain = (0..head_dim / 2).map(|pair| rope.theta.powf(-2.0 * pair as f64 / head_dim as f64));
    plain.map(|frequency| scaled(frequency, rope.scaling) as f32).collect()
}

fn scaled(frequency: f64, scaling: RopeScaling) -> f64 {
    match scaling {
        RopeScaling::Default => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_positions } => {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_fall_geometrically_from_one() {
        let rope = Rope { theta: 10_000.0, scaling: RopeScaling::Default };
        assert_eq!(frequencies(&rope, 8), [1.0, 0.1, 0.01, 0.001]);
    }

    #[test]
    fn linear_scaling_divides_every_frequency() {
        let rope = Rope { theta: 10_000.0, scaling: RopeScaling::Linear { factor: 4.0 } };
        assert_eq!(frequencies(&rope, 4), [0.25, 0.0025]);
    }

    #[test]
    fn llama3_keeps_short_wavelengths_and_divides_long_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_positions: 8192.0,
        };
        assert_eq!(scaled(1.0, scaling), 1.0);
        assert_eq!(scaled(1e-5, scaling), 1e-5 / 8.0);
        let between = 2.0 * PI / (8192.0 / 2.5);
        assert!((scaled(between, scaling) / between - 0.5625).abs() < 1e-12);
    }
}
