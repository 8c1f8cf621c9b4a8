use super::*;

/// A word-level tokenizer with five words and truncation and padding left switched on.
const WORDS: &str = r#"{
  "version": "1.0",
  "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
  "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
              "pad_type_id": 0, "pad_token": "<pad>"},
  "added_tokens": [{"id": 0, "content": "<pad>", "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true}],
  "normalizer": null,
  "pre_tokenizer": {"type": "Whitespace"},
  "post_processor": null,
  "decoder": null,
  "model": {"type": "WordLevel", "vocab": {"<pad>": 0, "[b]": 1, "[e]": 2, "red": 3, "blue": 4}, "unk_token": "blue"}
}"#;

fn load(name: &str, tokenizer: &str, settings: Option<&str>) -> Result<Tokenizer> {
    let folder: PathBuf = std::env::temp_dir().join(format!("ept-sweep-text-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(TOKENIZER), tokenizer).unwrap();
    if let Some(settings) = settings {
        std::fs::write(folder.join(SETTINGS), settings).unwrap();
    }
    let tokenizer = Tokenizer::load(&folder);
    std::fs::remove_dir_all(&folder).unwrap();
    tokenizer
}

#[test]
fn truncation_and_padding_of_the_file_are_switched_off() {
    let tokenizer = load("plain", WORDS, None).unwrap();
    assert_eq!(tokenizer.encode("red blue red").unwrap(), [3, 4, 3]);
    assert_eq!(tokenizer.decode(&[3, 0, 4]).unwrap(), "red blue");
}

#[test]
fn special_tokens_of_the_settings_are_left_out_when_decoding() {
    let settings = r#"{"bos_token": "[b]", "eos_token": {"content": "[e]"}}"#;
    let tokenizer = load("special", WORDS, Some(settings)).unwrap();
    assert_eq!(tokenizer.encode("red").unwrap(), [3]);
    assert_eq!(tokenizer.decode(&[1, 3, 2]).unwrap(), "red");
}

#[test]
fn stated_bos_and_eos_are_put_around_the_text() {
    let settings = r#"{"bos_token": "[b]", "eos_token": "[e]", "add_bos_token": true, "add_eos_token": true}"#;
    let tokenizer = load("ends", WORDS, Some(settings)).unwrap();
    assert_eq!(tokenizer.encode("red blue").unwrap(), [1, 3, 4, 2]);
}

#[test]
fn added_tokens_of_the_settings_get_their_stated_ids() {
    let token = r#"{"content": "<tool>", "special": true, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false}"#;
    let tokenizer = load("added", WORDS, Some(&format!(r#"{{"added_tokens_decoder": {{"5": {token}}}}}"#))).unwrap();
    assert_eq!(tokenizer.encode("red <tool> blue").unwrap(), [3, 5, 4]);
    assert_eq!(tokenizer.vocab_size(), 6);
    let error = load("moved", WORDS, Some(&format!(r#"{{"added_tokens_decoder": {{"9": {token}}}}}"#)));
    let message = error.err().unwrap().to_string();
    assert!(message.contains("tokenizer_config.json: `added_tokens_decoder.9`: `<tool>` has another id"), "{message}");
}

#[test]
fn a_tokenizer_that_breaks_the_library_is_an_error_with_what_to_do() {
    let broken = WORDS.replace(
        "\"normalizer\": null",
        "\"normalizer\": {\"type\": \"Precompiled\", \"precompiled_charsmap\": \"AAAA\"}",
    );
    let error = load("broken", &broken, None).err().unwrap();
    assert!(error.message().contains("tokenizer.json: "), "{error}");
}

#[test]
fn damaged_and_missing_files_give_errors_that_name_the_file() {
    let damaged = load("damaged", "{", None).err().unwrap().to_string();
    assert!(damaged.contains("tokenizer.json: "), "{damaged}");
    let settings = load("settings", WORDS, Some("[]")).err().unwrap().to_string();
    assert!(settings.contains("tokenizer_config.json: "), "{settings}");
    let missing = Tokenizer::load(Path::new("no/such/folder")).err().unwrap().to_string();
    assert!(missing.starts_with("no/such/folder: has no `tokenizer.json`\nhint: "), "{missing}");
}
