//! The byte-level BPE tokenizer shared by the three models, trained on generated training text.

use std::path::Path;

use rayon::prelude::*;
use serde_json::json;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer};

use crate::tasks::{Item, train_item};
use crate::{Failure, Res, write_json};

pub const VOCAB_SIZE: usize = 1024;
pub const BOS: (&str, u32) = ("<|begin_of_text|>", 0);
pub const EOS: (&str, u32) = ("<|end_of_text|>", 1);
pub const PAD: (&str, u32) = ("<|pad|>", 2);
pub const MAX_LENGTH: usize = 512;

/// How many training items the merges are learnt from.
const TRAINING_ITEMS: u64 = 40_000;

fn failed(error: tokenizers::Error) -> Failure {
    format!("tokenizer: {error}").into()
}

/// Trains the tokenizer; the same seed gives the same file.
pub fn train(seed: u64) -> Res<Tokenizer> {
    let texts: Vec<String> = (0..TRAINING_ITEMS)
        .into_par_iter()
        .map(|i| {
            let item = train_item(seed, i);
            item.prompt() + &item.target()
        })
        .collect();
    let special = [BOS, EOS, PAD].map(|(text, _)| AddedToken::from(text, true));
    let trainer = BpeTrainer::builder()
        .vocab_size(VOCAB_SIZE)
        .show_progress(false)
        .special_tokens(special.to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();

    let mut model = Tokenizer::new(BPE::default());
    model.with_pre_tokenizer(Some(Sequence::new(vec![
        PreTokenizerWrapper::Digits(Digits::new(true)),
        PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true)),
    ])));
    model.with_decoder(Some(ByteLevel::new(false, true, true)));
    let template = TemplateProcessing::builder()
        .try_single(format!("{} $A", BOS.0))
        .map_err(|e| format!("tokenizer template: {e}"))?
        .try_pair(format!("{} $A $B", BOS.0))
        .map_err(|e| format!("tokenizer template: {e}"))?
        .special_tokens(vec![BOS])
        .build()
        .map_err(|e| format!("tokenizer template: {e}"))?;
    model.with_post_processor(Some(template));

    model.train(&mut TrainerWrapper::BpeTrainer(trainer), texts.iter()).map_err(failed)?;
    check(&model)?;
    Ok(model)
}

/// The ids that configs and code rely on.
fn check(tokenizer: &Tokenizer) -> Res<()> {
    let size = tokenizer.get_vocab_size(true);
    if size != VOCAB_SIZE {
        return Err(format!("the tokenizer has {size} tokens, not {VOCAB_SIZE}").into());
    }
    for (text, id) in [BOS, EOS, PAD] {
        if tokenizer.token_to_id(text) != Some(id) {
            return Err(format!("{text} isn't token {id}").into());
        }
    }
    Ok(())
}

pub fn load(path: &Path) -> Res<Tokenizer> {
    let tokenizer = Tokenizer::from_file(path).map_err(|e| format!("{}: {e}", path.display()))?;
    check(&tokenizer)?;
    Ok(tokenizer)
}

/// Writes the tokenizer files that Hugging Face's AutoTokenizer reads.
pub fn save(tokenizer: &Tokenizer, dir: &Path) -> Res<()> {
    std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    tokenizer.save(dir.join("tokenizer.json"), true).map_err(failed)?;
    let tokens = json!({ "bos_token": BOS.0, "eos_token": EOS.0, "pad_token": PAD.0 });
    write_json(&dir.join("special_tokens_map.json"), &tokens)?;
    let config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS.0,
        "eos_token": EOS.0,
        "pad_token": PAD.0,
        "padding_side": "left",
        "model_max_length": MAX_LENGTH,
        "clean_up_tokenization_spaces": false,
    });
    write_json(&dir.join("tokenizer_config.json"), &config)
}

/// Prompt ids with the begin-of-text token, as inference sees them.
pub fn prompt_ids(tokenizer: &Tokenizer, item: &Item) -> Res<Vec<u32>> {
    Ok(tokenizer.encode_fast(item.prompt(), true).map_err(failed)?.get_ids().to_vec())
}

/// The ids to learn: the response and the end-of-text token.
pub fn target_ids(tokenizer: &Tokenizer, item: &Item) -> Res<Vec<u32>> {
    let mut ids = tokenizer.encode_fast(item.target(), false).map_err(failed)?.get_ids().to_vec();
    ids.push(EOS.1);
    Ok(ids)
}

pub fn decode(tokenizer: &Tokenizer, ids: &[u32]) -> Res<String> {
    tokenizer.decode(ids, true).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompt_and_target_encode_like_the_whole_text() -> Res<()> {
        let tokenizer = train(5)?;
        for i in 0..200 {
            let item = train_item(5, 1_000_000 + i);
            let mut parts = prompt_ids(&tokenizer, &item)?;
            parts.extend(target_ids(&tokenizer, &item)?);
            let whole = tokenizer.encode(item.prompt() + &item.target(), true).map_err(failed)?;
            assert_eq!(parts[..parts.len() - 1], *whole.get_ids());
            let prompt = prompt_ids(&tokenizer, &item)?.len();
            assert_eq!(decode(&tokenizer, &parts[prompt..])?, item.target());
        }
        Ok(())
    }
}
