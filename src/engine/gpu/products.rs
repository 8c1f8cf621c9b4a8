//! temporary
use super::driver::Driver;
use super::library::Product;
use crate::engine::config::Activation;
use crate::error::{Error, Result};
pub(crate) fn is_better(_: &Product) -> bool {
    false
}
pub(crate) fn gated_is_better(_: &Product) -> bool {
    false
}
pub(crate) fn multiply(_: &Driver, _: &Product) -> Result<()> {
    Err(Error::new("todo"))
}
pub(crate) fn multiply_gated(_: &Driver, _: &Product, _: Activation) -> Result<()> {
    Err(Error::new("todo"))
}
