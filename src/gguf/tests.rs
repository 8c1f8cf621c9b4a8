//! What headers are read, and which are refused.

use super::block::BlockType;
use super::fixture::{Builder, text};
use super::header::Header;
use crate::error::Error;

fn error(builder: &Builder) -> Error {
    Header::read(&builder.bytes()).expect_err("is accepted")
}

#[test]
fn a_file_put_together_by_hand_is_read() {
    let mut builder = Builder::new();
    builder.tensor("output_norm.weight", &[8], 0, 0).tensor("token_embd.weight", &[4, 8], 0, 32);
    let header = Header::read(&builder.bytes()).unwrap();
    assert_eq!(header.tensors["token_embd.weight"].shape, [8, 4]);
    assert_eq!(header.tensors["token_embd.weight"].dtype, BlockType::F32);
}

#[test]
fn hostile_headers_are_refused_with_the_reason() {
    let norm = |size: &[u64], kind, offset| {
        let mut builder = Builder::new();
        builder.tensor("output_norm.weight", size, kind, offset);
        error(&builder)
    };
    let entry = |key: &str, kind: u32, value: &[u8]| error(Builder::new().entry(key, kind, value));
    let mut old = Builder::new();
    old.version = 1;
    let mut big = Builder::new();
    big.version = 3u32.swap_bytes();
    let mut overlap = Builder::new();
    overlap.tensor("output_norm.weight", &[16], 0, 0).tensor("token_embd.weight", &[16], 0, 32);
    let mut twice = Builder::new();
    twice.tensor("output_norm.weight", &[8], 0, 0).tensor("output_norm.weight", &[8], 0, 64);
    let array = |kind: u32, count: u64| [&kind.to_le_bytes()[..], &count.to_le_bytes()].concat();
    let mut nested = Vec::new();
    (0..6).for_each(|_| nested.extend(array(9, 1)));
    for (found, reason) in [
        (Header::read(b"").unwrap_err(), "isn't a GGUF file"),
        (Header::read(b"GGML\x03\0\0\0").unwrap_err(), "isn't a GGUF file"),
        (Header::read(b"GGUF\x03\0").unwrap_err(), "4 bytes where 2 are left"),
        (error(&old), "version 1"),
        (error(&big), "big-endian"),
        (norm(&[1 << 40], 0, 0), "reach past the end"),
        (norm(&[u64::MAX, 2], 0, 0), "too large"),
        (norm(&[u64::MAX / 4 + 1], 0, 0), "too large"),
        (norm(&[8], 0, u64::MAX - 31), "reach past the end"),
        (norm(&[8], 0, 4), "isn't a multiple of 32"),
        (norm(&[8], 20, 0), "type IQ4_NL"),
        (norm(&[32], 39, 0), "type MXFP4"),
        (norm(&[8], 4, 0), "type number 4"),
        (norm(&[8], 8, 0), "isn't a multiple of Q8_0's block of 32"),
        (norm(&[0], 0, 0), "a dimension of 0"),
        (norm(&[], 0, 0), "0 dimensions"),
        (norm(&[1, 1, 1, 1, 1], 0, 0), "5 dimensions"),
        (error(&overlap), "over each other"),
        (error(&twice), "is there twice"),
        (entry("general.architecture", 8, &text("llama")), "is there twice"),
        (entry("a", 13, &[0; 8]), "unknown type 13"),
        (entry("a", 7, &[2]), "isn't a boolean"),
        (entry("a", 8, &u64::MAX.to_le_bytes()), "18446744073709551615 bytes"),
        (entry("a", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]), "isn't UTF-8"),
        (entry("a", 9, &array(4, u64::MAX)), "18446744073709551615 elements"),
        (entry("a", 9, &array(0, 1 << 50)), "1125899906842624 bytes"),
        (entry("a", 9, &array(8, u64::MAX)), "bytes where"),
        (entry("a", 9, &nested), "too deep"),
        (entry("a", 9, &array(77, 1)), "unknown type 77"),
        (entry("general.alignment", 4, &[0; 4]), "isn't a power of two"),
        (entry("general.alignment", 4, &24u32.to_le_bytes()), "isn't a power of two"),
        (entry("general.alignment", 8, &text("32")), "isn't a power of two"),
    ] {
        assert!(found.message().contains(reason), "{found}, not {reason}");
    }
    let mut counts = b"GGUF\x03\0\0\0".to_vec();
    counts.extend([0xff; 16]);
    counts.extend([0; 64]);
    assert!(Header::read(&counts).unwrap_err().message().contains("more than the file has room for"));
}

#[test]
fn a_file_that_ends_early_anywhere_is_an_error() {
    let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/gguf/llama_q4_0/model.gguf")).unwrap();
    for end in (0..bytes.len() - 32).step_by(97) {
        assert!(Header::read(&bytes[..end]).is_err(), "{end}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { failure_persistence: None, ..Default::default() })]

    #[test]
    fn made_up_headers_give_an_error(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..256)) {
        proptest::prop_assert!(Header::read(&bytes).is_err());
        drop(Header::read(&[b"GGUF\x03\0\0\0", &bytes[..]].concat()));
        // small counts, so that what follows is read, too
        drop(Header::read(&[b"GGUF\x03\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0", &bytes[..]].concat()));
    }
}
