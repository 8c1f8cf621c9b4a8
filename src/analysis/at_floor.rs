//! Two models at their energy floors: what of a saving is the models', and what the engine makes of it.

use crate::frame::{CellSide, Energy, Pair};

/// A saving at the energy floor, and how far above it both sides are.
///
/// Geometric means over trials, as the measured saving; without intervals: both floors come from one calibration, whose
/// error hardly changes their ratio.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AtFloor {
    /// 1 − floor of the new one / floor of the base, per output token.
    pub saving: f64,
    /// Energy per output token of the base / its floor.
    pub base_multiple: f64,
    /// The same of the new one.
    pub new_multiple: f64,
}

/// Logarithms of a side: of its floor, and of how many times that it takes.
#[derive(Debug, Clone, Copy, Default)]
struct Logs {
    floor: f64,
    multiple: f64,
}

impl AtFloor {
    /// In one cell; `None` if the floor of a side isn't known.
    pub(super) fn of(pair: &Pair) -> Option<Self> {
        Self::over(&[pair])
    }

    /// Over several cells; `None` if a floor isn't known in one of them.
    pub(super) fn over(pairs: &[&Pair]) -> Option<Self> {
        let side =
            |get: fn(&Pair) -> &CellSide| mean(&pairs.iter().map(|pair| logs(get(pair))).collect::<Option<Vec<_>>>()?);
        let (base, new) = (side(|pair| &pair.base)?, side(|pair| &pair.new)?);
        Some(Self {
            saving: 1.0 - (new.floor - base.floor).exp(),
            base_multiple: base.multiple.exp(),
            new_multiple: new.multiple.exp(),
        })
    }
}

fn logs(side: &CellSide) -> Option<Logs> {
    let of = |energy: &Energy| {
        let floor = energy.floor?.get().ln();
        Some(Logs { floor, multiple: energy.ept_out?.get().ln() - floor })
    };
    mean(&side.0.values().flatten().map(of).collect::<Option<Vec<_>>>()?)
}

fn mean(all: &[Logs]) -> Option<Logs> {
    let n = all.len() as f64;
    let sum = all.iter().fold(Logs::default(), |sum, logs| Logs {
        floor: sum.floor + logs.floor,
        multiple: sum.multiple + logs.multiple,
    });
    let mean = Logs { floor: sum.floor / n, multiple: sum.multiple / n };
    (mean.floor.is_finite() && mean.multiple.is_finite()).then_some(mean)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::OutputLength;
    use crate::units::JoulesPerToken;

    fn side(trials: &[(f64, Option<f64>)]) -> CellSide {
        let energy = |(block, (ept, floor)): (u32, &(f64, Option<f64>))| Energy {
            block,
            method: None,
            ept_out: Some(JoulesPerToken(*ept)),
            floor: floor.map(JoulesPerToken),
            temperature_c: None,
            memory_temperature_c: None,
            sm_clock_mhz: None,
            power_cap: None,
        };
        CellSide([(0, (0..).zip(trials).map(energy).collect())].into())
    }

    fn pair(base: &[(f64, Option<f64>)], new: &[(f64, Option<f64>)]) -> Pair {
        Pair {
            cell: "t.b1.n8".into(),
            batch_size: 1,
            max_new_tokens: 8,
            output_length: OutputLength::Fixed,
            base: side(base),
            new: side(new),
        }
    }

    #[test]
    fn a_saving_at_the_floor_is_that_of_the_floors_and_the_multiples_are_what_the_engine_adds() {
        let one = pair(&[(3.0, Some(2.5)), (3.0, Some(2.5))], &[(0.8, Some(0.5)), (0.8, Some(0.5))]);
        let at_floor = AtFloor::of(&one).unwrap();
        let close = |left: f64, right: f64| assert!((left - right).abs() < 1e-12, "{left} is not {right}");
        close(at_floor.saving, 0.8);
        close(at_floor.base_multiple, 1.2);
        close(at_floor.new_multiple, 1.6);
        // floors of a fifth and of a twentieth: together a tenth
        let other = pair(&[(2.0, Some(2.0))], &[(0.1, Some(0.1))]);
        let over = AtFloor::over(&[&one, &other]).unwrap();
        close(over.saving, 0.9);
        close(over.base_multiple, 1.2f64.sqrt());
    }

    #[test]
    fn a_floor_that_is_missing_anywhere_leaves_the_saving_unknown() {
        assert_eq!(AtFloor::of(&pair(&[(3.0, Some(2.5))], &[(0.8, Some(0.5)), (0.8, None)])), None);
        assert_eq!(AtFloor::of(&pair(&[(3.0, Some(2.5))], &[])), None);
        assert_eq!(AtFloor::over(&[]), None);
    }
}
