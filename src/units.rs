//! Physical quantities as types, and the only arithmetic that is allowed between them.

use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, Sub};

use serde::{Deserialize, Serialize};

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub f64);

        impl $name {
            /// The bare number, in the unit of the type.
            pub fn get(self) -> f64 {
                self.0
            }
        }
        impl Add for $name {
            type Output = Self;
            fn add(self, other: Self) -> Self {
                Self(self.0 + other.0)
            }
        }
        impl AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                self.0 += other.0;
            }
        }
        impl Sub for $name {
            type Output = Self;
            fn sub(self, other: Self) -> Self {
                Self(self.0 - other.0)
            }
        }
        impl Mul<f64> for $name {
            type Output = Self;
            fn mul(self, factor: f64) -> Self {
                Self(self.0 * factor)
            }
        }
        impl Sum for $name {
            fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
                Self(items.map(|item| item.0).sum())
            }
        }
    };
}

quantity!(
    /// Energy in joules.
    Joules
);
quantity!(
    /// Power in watts.
    Watts
);
quantity!(
    /// Time in seconds: a duration, or an instant on the clock of a run.
    Seconds
);
quantity!(
    /// Energy per token in joules: the quantity that EPT-Bench calls EPT.
    JoulesPerToken
);

/// A number of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tokens(pub u64);

impl Tokens {
    /// The bare number.
    pub(crate) fn get(self) -> u64 {
        self.0
    }

    /// Tokens per second over `time`; `None` if no time passed.
    pub(crate) fn per(self, time: Seconds) -> Option<f64> {
        (time.0 > 0.0).then(|| self.0 as f64 / time.0)
    }
}

impl Add for Tokens {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl Sum for Tokens {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        Self(items.map(|item| item.0).sum())
    }
}

impl Mul<Seconds> for Watts {
    type Output = Joules;
    fn mul(self, time: Seconds) -> Joules {
        Joules(self.0 * time.0)
    }
}

impl Div<Seconds> for Joules {
    type Output = Watts;
    fn div(self, time: Seconds) -> Watts {
        Watts(self.0 / time.0)
    }
}

impl Joules {
    /// Energy per token; `None` if there are no tokens.
    pub(crate) fn per_token(self, tokens: Tokens) -> Option<JoulesPerToken> {
        (tokens.0 > 0).then(|| JoulesPerToken(self.0 / tokens.0 as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_hundred_watts_for_ten_milliseconds_are_three_joules() {
        assert_eq!(Watts(300.0) * Seconds(0.010), Joules(3.0));
    }

    #[test]
    fn energy_per_token_is_unknown_without_tokens() {
        assert_eq!(Joules(3.0).per_token(Tokens(0)), None);
        assert_eq!(Joules(3.0).per_token(Tokens(2)), Some(JoulesPerToken(1.5)));
    }
}
