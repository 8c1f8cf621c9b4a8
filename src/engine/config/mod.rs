//! What a model is, read from `config.json` and `generation_config.json`. A new architecture is one more function in
//! [`families`] that fills in a [`Config`]; docs/architectures.md has the recipe.

pub(super) mod architecture;
mod families;
mod graph;
mod names;
mod read;
pub(super) mod rope;

pub(super) use architecture::named;
pub(super) use graph::{Activation, Alibi, Attention, Config, Experts, FeedForward, Norm, NormKind, QkSpan, Residual};
pub(super) use names::{FusedOrder, GateUpNames, Names, QkvNames};
pub(super) use read::{generation_eos, refuse_quantised};
pub(super) use rope::{Rope, RopeScaling, RopeStyle, Yarn};
