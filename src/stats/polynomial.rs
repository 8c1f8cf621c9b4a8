//! Polynomials through weighted points.

use super::mean::{Contrast, Spread};

/// A measured point of a curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct WeightedPoint {
    /// Where.
    pub(crate) x: f64,
    /// What was measured there.
    pub(crate) y: f64,
    /// 1 / variance of `y`, up to a factor that all points share.
    pub(crate) weight: f64,
}

/// Coefficients β₀, β₁ … of the polynomial y = β₀ + β₁x + … of `degree`, by weighted least squares (Draper and Smith,
/// *Applied Regression Analysis*, 3rd ed., §9.2): β = (XᵀWX)⁻¹XᵀWy with variances σ²(XᵀWX)⁻¹, where σ² = Σwr²/(N − p)
/// of the residuals r, and N − p degrees of freedom. So the weights need not be known but for a common factor.
///
/// `None` where the points lie at fewer places than there are coefficients.
pub(crate) fn weighted_polynomial(points: &[WeightedPoint], degree: usize) -> Option<Vec<Contrast>> {
    let p = degree + 1;
    // in units of the largest x and y all sums are of a size
    let largest = |get: fn(&WeightedPoint) -> f64| points.iter().map(|point| get(point).abs()).fold(0.0, f64::max);
    let (of_x, of_y, of_w) = (largest(|at| at.x), largest(|at| at.y), largest(|at| at.weight));
    if points.len() < p || !(of_x > 0.0 && of_y > 0.0 && of_w > 0.0) {
        return None;
    }
    let powers = |at: &WeightedPoint| (0..p).map(|k| (at.x / of_x).powi(k as i32)).collect::<Vec<f64>>();
    let mut normal = vec![vec![0.0; p]; p];
    let mut right = vec![0.0; p];
    for at in points {
        let row = powers(at);
        for i in 0..p {
            right[i] += at.weight / of_w * row[i] * at.y / of_y;
            for j in 0..p {
                normal[i][j] += at.weight / of_w * row[i] * row[j];
            }
        }
    }
    let inverse = inverted(normal)?;
    let beta: Vec<f64> = inverse.iter().map(|row| row.iter().zip(&right).map(|(a, b)| a * b).sum()).collect();
    let fitted = |at: &WeightedPoint| powers(at).iter().zip(&beta).map(|(x, b)| x * b).sum::<f64>();
    let squares: f64 = points.iter().map(|at| at.weight / of_w * (at.y / of_y - fitted(at)).powi(2)).sum();
    let freedom = (points.len() - p) as f64;
    let coefficient = |k: usize| Contrast {
        value: beta[k],
        spread: (freedom > 0.0)
            .then(|| Spread { standard_error: (squares / freedom * inverse[k][k]).max(0.0).sqrt(), freedom }),
        n: points.len(),
    };
    Some((0..p).map(|k| coefficient(k).scaled(of_y / of_x.powi(k as i32))).collect())
}

/// Coefficients of a linear regression, the sum of the squares that it leaves, and the variances of the coefficients for a
/// residual variance of 1.
pub(super) struct Solution {
    pub(super) coefficients: Vec<f64>,
    pub(super) squares: f64,
    pub(super) variances: Vec<f64>,
}

/// Ordinary least squares of lines (what multiplies each coefficient; value); `None` where the lines don't determine the
/// coefficients.
pub(super) fn least_squares(lines: &[(Vec<f64>, f64)]) -> Option<Solution> {
    let p = lines.first()?.0.len();
    // in units of the largest of each column all sums are of a size
    let largest: Vec<f64> = (0..p).map(|k| lines.iter().map(|(row, _)| row[k].abs()).fold(0.0, f64::max)).collect();
    if largest.iter().any(|largest| !(*largest > 0.0 && largest.is_finite())) {
        return None;
    }
    let scaled: Vec<(Vec<f64>, f64)> =
        lines.iter().map(|(row, y)| (row.iter().zip(&largest).map(|(x, of)| x / of).collect(), *y)).collect();
    let product = |i: usize, j: usize| scaled.iter().map(|(row, _)| row[i] * row[j]).sum::<f64>();
    let inverse = inverted((0..p).map(|i| (0..p).map(|j| product(i, j)).collect()).collect())?;
    let right: Vec<f64> = (0..p).map(|k| scaled.iter().map(|(row, y)| row[k] * y).sum()).collect();
    let beta: Vec<f64> = inverse.iter().map(|row| row.iter().zip(&right).map(|(a, b)| a * b).sum()).collect();
    let fitted = |row: &[f64]| row.iter().zip(&beta).map(|(x, b)| x * b).sum::<f64>();
    let squares = scaled.iter().map(|(row, y)| (y - fitted(row)).powi(2)).sum();
    Some(Solution {
        coefficients: beta.iter().zip(&largest).map(|(b, of)| b / of).collect(),
        squares,
        variances: (0..p).map(|k| inverse[k][k] / (largest[k] * largest[k])).collect(),
    })
}

/// Inverse of a small matrix by Gauss and Jordan with pivots; `None` where it has none.
fn inverted(mut matrix: Vec<Vec<f64>>) -> Option<Vec<Vec<f64>>> {
    const SINGULAR: f64 = 1e-12;
    let p = matrix.len();
    let size = matrix.iter().flatten().fold(0.0f64, |size, value| size.max(value.abs()));
    for (i, row) in matrix.iter_mut().enumerate() {
        row.extend((0..p).map(|j| f64::from(u8::from(i == j))));
    }
    for k in 0..p {
        let pivot = (k..p).max_by(|a, b| matrix[*a][k].abs().total_cmp(&matrix[*b][k].abs()))?;
        matrix.swap(k, pivot);
        let lead = matrix[k][k];
        if lead.is_nan() || lead.abs() <= SINGULAR * size {
            return None;
        }
        let row: Vec<f64> = matrix[k].iter().map(|value| value / lead).collect();
        for (_, other) in matrix.iter_mut().enumerate().filter(|(i, _)| *i != k) {
            let times = other[k];
            other.iter_mut().zip(&row).for_each(|(value, base)| *value -= times * base);
        }
        matrix[k] = row;
    }
    Some(matrix.into_iter().map(|mut row| row.split_off(p)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Estimate;

    fn close(actual: f64, expected: f64, tolerance: f64) {
        assert!((actual - expected).abs() <= tolerance, "{actual} is not {expected} ± {tolerance}");
    }

    fn ends(estimate: Estimate) -> (f64, f64) {
        let interval = estimate.interval.unwrap();
        (interval.low, interval.high)
    }

    fn points(of: &[(f64, f64, f64)]) -> Vec<WeightedPoint> {
        of.iter().map(|&(x, y, weight)| WeightedPoint { x, y, weight }).collect()
    }

    #[test]
    fn a_line_through_exact_points_is_that_line_whatever_their_weights() {
        let exact = points(&[(0.0, 5.0, 4.0), (7.0, 26.0, 1.0), (31.0, 98.0, 0.25), (127.0, 386.0, 0.01)]);
        let line = weighted_polynomial(&exact, 1).unwrap();
        close(line[0].value, 5.0, 1e-9);
        close(line[1].value, 3.0, 1e-10);
        close(line[1].spread.unwrap().standard_error, 0.0, 1e-10);
        assert_eq!(line[1].spread.unwrap().freedom, 2.0);
        let parabola = weighted_polynomial(&exact, 2).unwrap();
        close(parabola[2].value, 0.0, 1e-12);
    }

    #[test]
    fn a_fit_has_the_interval_of_the_textbook() {
        // R: summary(lm(c(1, 3, 4, 8) ~ c(0, 1, 2, 3))), slope 2.2 ± 0.42426, intercept 0.7 ± 0.79373
        let line =
            weighted_polynomial(&points(&[(0.0, 1.0, 1.0), (1.0, 3.0, 1.0), (2.0, 4.0, 1.0), (3.0, 8.0, 1.0)]), 1)
                .unwrap();
        close(line[1].value, 2.2, 1e-12);
        close(line[0].value, 0.7, 1e-12);
        // residuals 0.3, 0.1, −1.1, 0.7: σ² = 1.8 / 2; var β₁ = σ²/5, var β₀ = σ²·(1/4 + 1.5²/5)
        close(line[1].spread.unwrap().standard_error, (0.9f64 / 5.0).sqrt(), 1e-12);
        close(line[0].spread.unwrap().standard_error, (0.9f64 * 0.7).sqrt(), 1e-12);
        let half = 4.302_652_729_911_275 * (0.9f64 / 5.0).sqrt();
        close(ends(line[1].estimate()).1, 2.2 + half, 1e-8);
    }

    #[test]
    fn a_weight_of_two_is_the_same_point_twice() {
        let weighted = weighted_polynomial(&points(&[(0.0, 1.0, 2.0), (1.0, 3.0, 1.0), (2.0, 4.0, 1.0)]), 1).unwrap();
        let twice =
            weighted_polynomial(&points(&[(0.0, 1.0, 1.0), (0.0, 1.0, 1.0), (1.0, 3.0, 1.0), (2.0, 4.0, 1.0)]), 1)
                .unwrap();
        close(weighted[0].value, twice[0].value, 1e-12);
        close(weighted[1].value, twice[1].value, 1e-12);
    }

    #[test]
    fn a_curve_needs_as_many_places_as_coefficients() {
        assert!(weighted_polynomial(&points(&[(1.0, 1.0, 1.0), (1.0, 2.0, 1.0)]), 1).is_none());
        let two_places = points(&[(0.0, 1.0, 1.0), (0.0, 2.0, 1.0), (3.0, 1.0, 1.0), (3.0, 2.0, 1.0)]);
        assert!(weighted_polynomial(&two_places, 2).is_none());
        let through = weighted_polynomial(&points(&[(0.0, 1.0, 1.0), (1.0, 2.0, 1.0)]), 1).unwrap();
        assert_eq!(through[1].spread, None, "two points leave nothing to tell the error from");
    }
}
