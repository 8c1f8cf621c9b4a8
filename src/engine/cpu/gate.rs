//! The gated activation of the feed-forward layer: silu(gate) · up.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::exp::exp;
use super::{threads_for, values, vectorised};

/// Multiplications that an exponential is about worth.
const COST: usize = 16;

/// silu(gate) · up for rows that hold gate and up side by side: `(m, 2 i)` gives `(m, i)`.
pub(crate) fn silu_gate(gate_up: &Tensor) -> Result<Tensor> {
    gate_up.apply_op1_no_bwd(&SiluGate)
}

struct SiluGate;

impl CustomOp1 for SiluGate {
    fn name(&self) -> &'static str {
        "silu-gate"
    }

    fn cpu_fwd(&self, gate_up: &CpuStorage, at: &Layout) -> Result<(CpuStorage, Shape)> {
        let (m, width) = at.shape().dims2()?;
        let (gate_up, inner) = (values(gate_up, at)?, width / 2);
        let mut gated = vec![0.0; m * inner];
        if threads_for(m * inner * COST) == 1 {
            gate_rows(gate_up, inner, &mut gated);
        } else {
            let share = m.div_ceil(rayon::current_num_threads());
            let parts = gate_up.par_chunks(share * width).zip(gated.par_chunks_mut(share * inner));
            parts.for_each(|(gate_up, gated)| gate_rows(gate_up, inner, gated));
        }
        Ok((CpuStorage::F32(gated), (m, inner).into()))
    }
}

vectorised! {
    fn gate_rows(gate_up: &[f32], inner: usize, gated: &mut [f32]) = gate_body
}

#[inline(always)]
fn gate_body<const FMA: bool>(gate_up: &[f32], inner: usize, gated: &mut [f32]) {
    for (row, gated) in gate_up.chunks_exact(2 * inner).zip(gated.chunks_exact_mut(inner)) {
        let (gate, up) = row.split_at(inner);
        for ((gate, up), gated) in gate.iter().zip(up).zip(gated) {
            *gated = gate * up / (1.0 + exp::<FMA>(-gate));
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_gate_is_silu_times_up_and_stays_finite() {
        let gate_up = Tensor::new(&[[1f32, -200.0, 3.0, 2.0], [0.0, 200.0, 5.0, 1.0]], &Device::Cpu).unwrap();
        let gated = silu_gate(&gate_up).unwrap().to_vec2::<f32>().unwrap();
        assert!((gated[0][0] - 3.0 * 0.731_058_6).abs() < 1e-6);
        assert!(gated[0][1].abs() < 1e-30);
        assert_eq!(gated[1], [0.0, 200.0]);
    }
}
