//! GGUF files for tests.

/// A GGUF file put together by hand.
pub(crate) struct Builder {
    pub(crate) version: u32,
    pub(crate) metadata: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    pub(crate) data: usize,
}

impl Builder {
    pub(crate) fn new() -> Self {
        let mut builder = Self { version: 3, metadata: vec![], tensors: vec![], data: 256 };
        builder.entry("general.architecture", 8, &text("llama"));
        builder
    }

    pub(crate) fn entry(&mut self, key: &str, kind: u32, value: &[u8]) -> &mut Self {
        self.metadata.push([&text(key)[..], &kind.to_le_bytes(), value].concat());
        self
    }

    pub(crate) fn tensor(&mut self, name: &str, sizes: &[u64], kind: u32, offset: u64) -> &mut Self {
        let sizes_bytes: Vec<u8> = sizes.iter().flat_map(|size| size.to_le_bytes()).collect();
        let count = (sizes.len() as u32).to_le_bytes();
        self.tensors.push([&text(name)[..], &count, &sizes_bytes, &kind.to_le_bytes(), &offset.to_le_bytes()].concat());
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.metadata.len() as u64).to_le_bytes());
        bytes.extend(self.metadata.concat());
        bytes.extend(self.tensors.concat());
        bytes.resize(bytes.len().next_multiple_of(32) + self.data, 0);
        bytes
    }
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}
