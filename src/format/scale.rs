//! Units with SI prefixes that a whole column or axis shares.

/// A unit with its prefix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    /// A value in the base unit is multiplied by this.
    pub(crate) factor: f64,
    /// The unit as it is printed: `mJ`.
    pub(crate) unit: &'static str,
}

impl Scale {
    /// The base unit itself.
    pub(crate) const fn plain(unit: &'static str) -> Self {
        Self { factor: 1.0, unit }
    }

    /// Percent of a share.
    pub(crate) const PERCENT: Self = Self { factor: 100.0, unit: "%" };

    /// Joules with the prefix that suits the middle of `values` (by their geometric mean).
    pub(crate) fn joules(values: impl IntoIterator<Item = f64>) -> Self {
        let steps = [(1e-6, "MJ", 1e6), (1e-3, "kJ", 1e3), (1.0, "J", 1.0), (1e3, "mJ", 1e-3), (1e6, "µJ", 1e-6)];
        pick(values, &steps, Self { factor: 1e9, unit: "nJ" })
    }

    /// Counts with the prefix that suits `values`: thousands are written out, from a million on prefixes are used.
    pub fn counts(values: impl IntoIterator<Item = f64>) -> Self {
        let steps =
            [(1e-15, "quadrillion", 1e15), (1e-12, "trillion", 1e12), (1e-9, "billion", 1e9), (1e-6, "million", 1e6)];
        pick(values, &steps, Self::plain(""))
    }
}

fn pick(values: impl IntoIterator<Item = f64>, steps: &[(f64, &'static str, f64)], smallest: Scale) -> Scale {
    let logs: Vec<f64> = values.into_iter().filter(|v| v.is_finite() && *v != 0.0).map(|v| v.abs().ln()).collect();
    let middle = if logs.is_empty() { 1.0 } else { (logs.iter().sum::<f64>() / logs.len() as f64).exp() };
    // 0.9995 of a unit rounds to 1.00 of it
    let found = steps.iter().find(|(_, _, from)| middle >= from * 0.9995);
    found.map_or(smallest, |&(factor, unit, _)| Scale { factor, unit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_suit_the_size() {
        let unit = |v: f64| Scale::joules([v]).unit;
        assert_eq!([2e-9, 2e-6, 2e-3, 0.99999, 2.0, 2e3, 2e7].map(unit), ["nJ", "µJ", "mJ", "J", "J", "kJ", "MJ"]);
        assert_eq!(Scale::joules([]).unit, "J");
        assert_eq!(Scale::joules([0.0, f64::NAN]).unit, "J");
    }
}
