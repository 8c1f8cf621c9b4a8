//! The only place where a measured number becomes a string.
//!
//! Precision is chosen here, by the kind of quantity; the digits of an estimate follow its interval, so that a number
//! shows no more of itself than its interval knows. Unknown is `–`, never zero.

mod estimate;
mod number;
mod quantity;
mod scale;
mod words;

pub use estimate::{energy, interval, points, rouge_l, tokens, value};
pub(crate) use estimate::{
    percent, percent_range, rouge_l_interval, short_percent, signed_points, signed_value, times,
};
pub(crate) use number::{
    UNKNOWN, change, count, fraction, fraction_range, number, p_value, plural, precise, share, share_error, ticks,
    whole, whole_percent,
};
pub use quantity::coverage;
pub(crate) use quantity::{
    bytes, celsius, celsius_range, duration, joules, joules_per_token, megahertz, megahertz_range, multiple, passes,
    seconds, signed_watts, watts, watts_range, window_length,
};
pub(crate) use scale::Scale;
pub use words::clock_events;
pub(crate) use words::{capitalised, caveat, heat_effect, prompt_form};
