//! The byte-level BPE tokenizer that all models share, trained on generated training text; reading it is the library's.

use std::fs;
use std::path::Path;

use ept_sweep::error::{Context, Error, Result};
use ept_sweep::text::Tokenizer;
use rayon::prelude::*;
use serde_json::json;
use tokenizers::AddedToken;
use tokenizers::Tokenizer as Trainee;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::processors::template::TemplateProcessing;

use crate::files::{make_folder, write_json};
use crate::tasks::{Item, train_item};

pub(crate) const VOCAB_SIZE: usize = 1024;
pub(crate) const BOS: (&str, u32) = ("<|begin_of_text|>", 0);
pub(crate) const EOS: (&str, u32) = ("<|end_of_text|>", 1);
pub(crate) const PAD: (&str, u32) = ("<|pad|>", 2);
/// Positions of the models, and the most tokens that a training item may have.
pub(crate) const MAX_LENGTH: usize = 512;

/// How many training items the merges are learnt from.
const TRAINING_ITEMS: u64 = 40_000;

const FILES: [&str; 3] = ["tokenizer.json", "special_tokens_map.json", "tokenizer_config.json"];

/// Trains the tokenizer and writes the files that Hugging Face's AutoTokenizer reads; a seed gives the same ones again.
///
/// # Errors
/// The files can't be written.
pub(crate) fn train(seed: u64, folder: &Path) -> Result<()> {
    let failed = || "can't train the tokenizer";
    let mut tokenizer = untrained()?;
    let trainer = BpeTrainer::builder()
        .vocab_size(VOCAB_SIZE)
        .show_progress(false)
        .special_tokens([BOS, EOS, PAD].map(|(text, _)| AddedToken::from(text, true)).to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let text = |index| {
        let item = train_item(seed, index);
        item.prompt() + &item.target()
    };
    let texts: Vec<String> = (0..TRAINING_ITEMS).into_par_iter().map(text).collect();
    tokenizer.train(&mut TrainerWrapper::BpeTrainer(trainer), texts.iter()).context(failed)?;
    make_folder(folder)?;
    tokenizer.save(folder.join(FILES[0]), true).context(failed)?;
    write_settings(folder)
}

/// Digits one by one, then bytes; a begin-of-text token in front.
fn untrained() -> Result<Trainee> {
    let mut tokenizer = Trainee::new(BPE::default());
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
        PreTokenizerWrapper::Digits(Digits::new(true)),
        PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true)),
    ])));
    tokenizer.with_decoder(Some(ByteLevel::new(false, true, true)));
    let failed = || "can't make the tokenizer's template";
    let template = TemplateProcessing::builder()
        .try_single(format!("{} $A", BOS.0))
        .context(failed)?
        .try_pair(format!("{} $A $B", BOS.0))
        .context(failed)?
        .special_tokens(vec![BOS])
        .build()
        .context(failed)?;
    tokenizer.with_post_processor(Some(template));
    Ok(tokenizer)
}

fn write_settings(folder: &Path) -> Result<()> {
    let tokens = json!({ "bos_token": BOS.0, "eos_token": EOS.0, "pad_token": PAD.0 });
    write_json(&folder.join(FILES[1]), &tokens)?;
    let settings = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS.0,
        "eos_token": EOS.0,
        "pad_token": PAD.0,
        "padding_side": "left",
        "model_max_length": MAX_LENGTH,
        "clean_up_tokenization_spaces": false,
    });
    write_json(&folder.join(FILES[2]), &settings)
}

/// Reads the tokenizer of a folder, and checks the ids that configurations and code rely on.
///
/// # Errors
/// There is none, or it is another one.
pub(crate) fn load(folder: &Path) -> Result<Tokenizer> {
    let tokenizer = Tokenizer::load(folder)?;
    let size = tokenizer.vocab_size();
    if size != VOCAB_SIZE {
        return Err(Error::input(format!("has {size} tokens, not {VOCAB_SIZE}")).at(folder.display()));
    }
    for (text, id) in [BOS, EOS, PAD] {
        if tokenizer.encode_bare(text)? != [id] {
            return Err(Error::input(format!("`{text}` isn't token {id}")).at(folder.display()));
        }
    }
    Ok(tokenizer)
}

/// Copies the tokenizer's files from one model folder to another.
///
/// # Errors
/// A file can't be read or written.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<()> {
    if from == to {
        return Ok(());
    }
    for name in FILES {
        fs::copy(from.join(name), to.join(name)).context(|| format!("can't copy `{}`", from.join(name).display()))?;
    }
    Ok(())
}

/// Ids of the prompt with the begin-of-text token, as inference sees them.
///
/// # Errors
/// The tokenizer fails.
pub(crate) fn prompt_ids(tokenizer: &Tokenizer, item: &Item) -> Result<Vec<u32>> {
    tokenizer.encode(&item.prompt())
}

/// The ids to learn: the response and the end-of-text token.
///
/// # Errors
/// The tokenizer fails.
pub(crate) fn target_ids(tokenizer: &Tokenizer, item: &Item) -> Result<Vec<u32>> {
    let mut ids = tokenizer.encode_bare(&item.target())?;
    ids.push(EOS.1);
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{Folder, bundled};

    #[test]
    fn prompt_and_target_encode_like_the_whole_text() {
        let tokenizer = load(&bundled("models/teacher")).unwrap();
        for index in 0..200 {
            let item = train_item(5, 1_000_000 + index);
            let prompt = prompt_ids(&tokenizer, &item).unwrap();
            let target = target_ids(&tokenizer, &item).unwrap();
            let whole = tokenizer.encode(&(item.prompt() + &item.target())).unwrap();
            assert_eq!([&prompt[..], &target[..target.len() - 1]].concat(), whole);
            assert_eq!(tokenizer.decode(&target).unwrap(), item.target());
        }
    }

    #[test]
    fn the_bundled_tokenizer_is_the_one_that_the_seed_gives() {
        let folder = Folder::new();
        train(20_260_101, &folder.0).unwrap();
        for name in FILES {
            let (made, kept) = (folder.0.join(name), bundled("models/teacher").join(name));
            assert_eq!(fs::read_to_string(made).unwrap(), fs::read_to_string(kept).unwrap(), "{name}");
        }
    }
}
