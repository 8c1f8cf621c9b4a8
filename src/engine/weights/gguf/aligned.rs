//! Bytes at an address that blocks can be read from.

/// Bytes at an address that is right for every type of block: candle panics at others.
pub(crate) enum Aligned<'a> {
    AsIs(&'a [u8]),
    Moved { buffer: Vec<u8>, start: usize },
}

impl<'a> Aligned<'a> {
    /// Largest alignment of a block's fields: f32.
    const TO: usize = align_of::<f32>();

    pub(super) fn new(bytes: &'a [u8]) -> Self {
        if bytes.as_ptr().align_offset(Self::TO) == 0 {
            return Aligned::AsIs(bytes);
        }
        let mut buffer = vec![0; bytes.len() + Self::TO];
        let start = buffer.as_ptr().align_offset(Self::TO).min(Self::TO);
        buffer[start..start + bytes.len()].copy_from_slice(bytes);
        buffer.truncate(start + bytes.len());
        Aligned::Moved { buffer, start }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Aligned::AsIs(bytes) => bytes,
            Aligned::Moved { buffer, start } => buffer.get(*start..).unwrap_or_default(),
        }
    }
}
