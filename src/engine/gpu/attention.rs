//! temporary
use super::driver::{Driver, Pointer};
use super::matrix::Gpu;
use crate::engine::heads::Heads;
use crate::error::{Error, Result};
pub(crate) struct Scratch;
impl Scratch {
    pub(crate) fn new(_: &Driver, _: Heads, _: usize, _: usize) -> Result<Self> {
        Ok(Self)
    }
}
pub(crate) struct Attend<'a> {
    pub(crate) heads: Heads,
    pub(crate) queries: Pointer,
    pub(crate) query_stride: usize,
    pub(crate) keys: Pointer,
    pub(crate) values: Pointer,
    pub(crate) output: Pointer,
    pub(crate) starts: Pointer,
    pub(crate) length: Pointer,
    pub(crate) alibi: Option<Pointer>,
    pub(crate) rows: usize,
    pub(crate) tokens: usize,
    pub(crate) capacity: usize,
    pub(crate) window: Option<usize>,
    pub(crate) scale: f32,
    pub(crate) softcap: f32,
    pub(crate) scratch: &'a Scratch,
}
pub(crate) fn launch(_: &Gpu, _: &Attend<'_>) -> Result<()> {
    Err(Error::new("todo"))
}
