//! Enums with a stable code and words for people, each variant defined in one place.
//!
//! The code is what is stored and what a sweep file says; it never changes. The words are what a reader sees.

/// Defines an enum whose variants each have a code, aliases of earlier versions, and words:
/// `Variant = "code" | "old_code", "words";`.
///
/// The enum is ordered as its variants are written, is read and written by serde as its code, and is displayed as its
/// code. A repeated code doesn't compile: the pattern that it makes would be unreachable.
macro_rules! vocabulary {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident {
            $(
                $(#[$variant_meta:meta])*
                $variant:ident = $code:literal $(| $alias:literal)*, $words:literal;
            )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        $vis enum $name {
            $(
                $(#[$variant_meta])*
                #[serde(rename = $code, $(alias = $alias),*)]
                $variant,
            )+
        }

        #[allow(dead_code, reason = "not every enum needs all that each of them offers")]
        impl $name {
            /// In the order in which they are defined.
            $vis const ALL: [Self; [$($code),+].len()] = [$(Self::$variant),+];

            /// The stable code, as stored.
            $vis const fn code(self) -> &'static str {
                match self {
                    $(Self::$variant => $code,)+
                }
            }

            /// The words that a reader sees.
            $vis const fn words(self) -> &'static str {
                match self {
                    $(Self::$variant => $words,)+
                }
            }

            /// The variant of a code or of one of its aliases.
            #[deny(unreachable_patterns)]
            $vis fn from_code(code: &str) -> Option<Self> {
                match code {
                    $($code $(| $alias)* => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.code())
            }
        }
    };
}

pub(crate) use vocabulary;

#[cfg(test)]
mod tests {
    vocabulary! {
        /// Two drinks.
        #[derive(Default)]
        enum Drink {
            #[default]
            Tea = "tea" | "chai", "a cup of tea";
            BlackCoffee = "black_coffee", "coffee, black";
        }
    }

    #[test]
    fn a_code_is_what_is_stored_shown_and_read_back() {
        for drink in Drink::ALL {
            assert_eq!(serde_json::to_value(drink).unwrap(), drink.code());
            assert_eq!(serde_json::from_value::<Drink>(drink.code().into()).unwrap(), drink);
            assert_eq!(Drink::from_code(drink.code()), Some(drink));
            assert_eq!(drink.to_string(), drink.code());
        }
        assert_eq!(Drink::ALL.map(Drink::words), ["a cup of tea", "coffee, black"]);
    }

    #[test]
    fn an_earlier_code_is_still_read() {
        assert_eq!(serde_json::from_str::<Drink>(r#""chai""#).unwrap(), Drink::Tea);
        assert_eq!(Drink::from_code("chai"), Some(Drink::default()));
    }

    #[test]
    fn an_unknown_code_is_an_error_that_lists_the_known_ones() {
        assert_eq!(Drink::from_code("water"), None);
        let error = serde_json::from_str::<Drink>(r#""water""#).unwrap_err().to_string();
        assert!(error.starts_with("unknown variant `water`, expected"), "{error}");
        assert!(error.contains("`tea`") && error.contains("`black_coffee`"), "{error}");
    }
}
