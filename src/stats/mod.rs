//! Statistics of independent values: means, proportions, differences, fits. Knows nothing of energy.

mod approach;
mod estimate;
mod holm;
mod mean;
mod polynomial;
mod precision;
mod proportion;

pub(crate) use self::approach::{Approach, approach};
pub use self::estimate::{Estimate, Interval};
pub(crate) use self::holm::holm_known;
pub use self::mean::mean;
pub(crate) use self::mean::{Contrast, ln, paired_difference, t_quantile};
pub(crate) use self::polynomial::{WeightedPoint, weighted_polynomial};
pub(crate) use self::precision::{Precision, precision};
pub(crate) use self::proportion::{paired_proportions, proportion, proportion_stderr};

/// p value of Pearson's chi-squared statistic: for tests that a draw follows its distribution.
#[cfg(test)]
pub(crate) fn chi_squared_p(statistic: f64, freedom: usize) -> f64 {
    use statrs::distribution::{ChiSquared, ContinuousCDF as _};
    1.0 - ChiSquared::new(freedom as f64).expect("a positive number of degrees of freedom").cdf(statistic)
}
