//! A number with its interval: the only form in which a statistic leaves this room.

/// A point estimate with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The estimate.
    pub value: f64,
    /// The 95 % interval; `None` at n = 1.
    pub interval: Option<Interval>,
    /// Number of independent units (windows, or prompts for accuracy).
    pub n: usize,
}

impl Estimate {
    /// Half the width of the interval relative to the estimate: ± 2 % is 0.02.
    pub(crate) fn relative_half_width(&self) -> Option<f64> {
        let Interval { low, high } = self.interval?;
        let width = (high - low) / 2.0 / self.value.abs();
        width.is_finite().then_some(width)
    }

    /// The estimate of an increasing function of the same quantity.
    #[must_use]
    pub(crate) fn map_increasing(self, f: impl Fn(f64) -> f64) -> Self {
        let interval = self.interval.map(|ends| Interval { low: f(ends.low), high: f(ends.high) });
        Self { value: f(self.value), interval, n: self.n }
    }

    /// The estimate of a decreasing function of the same quantity: the ends swap.
    #[must_use]
    pub(crate) fn map_decreasing(self, f: impl Fn(f64) -> f64) -> Self {
        let interval = self.interval.map(|ends| Interval { low: f(ends.high), high: f(ends.low) });
        Self { value: f(self.value), interval, n: self.n }
    }
}

/// A two-sided interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}
