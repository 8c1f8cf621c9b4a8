//! A model ready to run: an engine together with its tokenizer, from wherever the sweep file says.

mod codec;
mod finder;
mod loader;
mod location;
mod prompting;

pub(crate) use codec::{Codec, TokenizedPrompts, check_lengths};
pub(crate) use loader::{Loader, Model};
pub(crate) use location::Location;
