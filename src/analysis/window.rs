//! Numbers of a single window, as one reads them next to its record.

use crate::record::WindowEnergy;

/// EPT-Bench's sum as a share of the window's energy; `None` unless both are known.
pub(crate) fn ept_bench_share(energy: &WindowEnergy) -> Option<f64> {
    let (sum, total) = energy.ept_bench_sum_j.zip(energy.total_j)?;
    (total.get() != 0.0).then(|| sum.get() / total.get())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Joules;

    #[test]
    fn the_sum_is_a_share_of_the_energy_if_both_are_known() {
        let energy = |sum: Option<f64>, total: Option<f64>| WindowEnergy {
            ept_bench_sum_j: sum.map(Joules),
            total_j: total.map(Joules),
            ..WindowEnergy::default()
        };
        assert_eq!(ept_bench_share(&energy(Some(97.0), Some(100.0))), Some(0.97));
        for (sum, total) in [(None, Some(100.0)), (Some(97.0), None), (Some(0.0), Some(0.0))] {
            assert_eq!(ept_bench_share(&energy(sum, total)), None);
        }
    }
}
