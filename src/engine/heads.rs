//! The heads of attention, which the decoder and its kernels share.

use super::config::Attention;

/// Heads of a layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heads {
    /// Query heads.
    pub(crate) queries: usize,
    /// Key and value heads.
    pub(crate) keys: usize,
    /// Width of a head.
    pub(crate) width: usize,
}

impl Heads {
    /// The heads of a model.
    pub(super) fn of(attention: &Attention) -> Self {
        Self { queries: attention.heads, keys: attention.kv_heads, width: attention.head_dim }
    }

    /// Values in a row of queries, keys and values together.
    pub(crate) fn qkv(self) -> usize {
        (self.queries + 2 * self.keys) * self.width
    }

    /// Query heads that share a key head.
    pub(crate) fn shared(self) -> usize {
        self.queries / self.keys
    }
}
