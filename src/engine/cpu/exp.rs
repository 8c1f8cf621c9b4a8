//! The exponential function in a form that compilers turn into vector instructions.

use std::f32::consts::LOG2_E;

use super::multiply_add;

/// 1.5 · 2²³: adding it rounds to the nearest whole number, which is then in the low bits of the sum.
const ROUND: f32 = 12_582_912.0;

/// Upper part of ln 2: its product with a whole number of up to 9 bits is exact.
const LN_2_HIGH: f32 = 0.693_359_4;
/// ln 2 − [`LN_2_HIGH`].
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// eˣ to about 2e-7 relative (x = n · ln 2 + r, and the polynomial of the Cephes library for eʳ); below the smallest
/// normal number it gives 0 or about 1e-38.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    let x = x.clamp(-87.3, 88.3);
    let rounded = multiply_add::<FMA>(x, LOG2_E, ROUND);
    let whole = rounded - ROUND;
    let r = multiply_add::<FMA>(whole, -LN_2_HIGH, x);
    let r = multiply_add::<FMA>(whole, -LN_2_LOW, r);
    let mut series = 1.987_569_1e-4;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5] {
        series = multiply_add::<FMA>(series, r, coefficient);
    }
    let fraction = multiply_add::<FMA>(series, r * r, r) + 1.0;
    let exponent = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23;
    fraction * f32::from_bits(exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_right_to_a_few_parts_in_ten_million() {
        for step in -8700..=8800 {
            let x = step as f32 / 100.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp::<false>(x)) / exact - 1.0).abs();
            assert!(error < 4e-7, "exp({x}) is off by {error:e}");
        }
        assert_eq!(exp::<false>(0.0), 1.0);
        assert!(exp::<false>(f32::MIN) < 2e-38);
        assert!(exp::<false>(f32::NAN).is_nan());
    }
}
