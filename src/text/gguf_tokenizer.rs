//! A tokenizer out of the metadata of a GGUF file, for models that come without a `tokenizer.json`.
//!
//! GGUF stores a byte-level BPE as a list of tokens and merges and *names* the rest: `tokenizer.ggml.pre` says how a
//! text is split before merging. The splits here are those of the tokenizers with these names, as llama.cpp
//! (`llama-vocab.cpp`) lists them.

use std::collections::HashMap;

use serde_json::{Map, Value};
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer as Backend};

use super::chat::TemplateSource;
use super::model_text::ModelText;
use super::tokenizer::{Tokenizer, around};
use crate::error::{Context, Error, Result};
use crate::gguf::GgufFile;

/// The tokenizer's metadata of a GGUF file; each field is the value of `tokenizer.ggml.<field>` unless noted.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GgufTokenizer {
    /// Kind of tokenizer: `gpt2` is a byte-level BPE.
    pub model: String,
    /// How a text is split before merging.
    pub pre: Option<String>,
    /// `tokens`, by id.
    pub tokens: Vec<String>,
    /// `token_type`, by id; may be empty. The values are those of
    /// [GGUF's specification](https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
    pub token_types: Vec<i32>,
    /// The merges, each two tokens with a blank between them, best first.
    pub merges: Vec<String>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `unknown_token_id`.
    pub unknown: Option<u32>,
    /// `padding_token_id`.
    pub padding: Option<u32>,
    /// `add_bos_token`: whether BOS precedes each text; left out, as the kind of tokenizer has it.
    pub add_bos: Option<bool>,
    /// `add_eos_token`: whether EOS follows each text.
    pub add_eos: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
}

const TOKENS: &str = "tokenizer.ggml.tokens";

/// Values of `token_type`.
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const GPT4O: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const DEEPSEEK_V3: [&str; 3] = [
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
        r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
];
const DEEPSEEK_CODER: [&str; 5] = [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", r"\p{N}"];
const DEFAULT: [&str; 4] = [
    r"[\p{P}\$\+<=>\^~\|]+",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
    r"\p{N}+",
    r"[0-9][0-9][0-9]",
];

/// How a pre-tokenizer works.
struct Pre {
    splits: Splits,
    /// Compose characters before splitting.
    nfc: bool,
    /// A piece that is a token as a whole isn't put together from merges.
    ignore_merges: bool,
    /// Whether BOS is added if the metadata don't say.
    add_bos: bool,
}

enum Splits {
    /// GPT-2's own pattern.
    Gpt2,
    /// Each digit by itself, then GPT-2's pattern.
    DigitsThenGpt2,
    /// Patterns that cut one after the other.
    Patterns(&'static [&'static str]),
}

impl Pre {
    /// Names whose splits are known.
    const NAMES: &'static str = "default, gpt-2, phi-2, mpt, olmo, smollm, starcoder, refact, command-r, llama-bpe, \
        llama3, llama-v3, smaug-bpe, dbrx, glm4, chatglm-bpe, qwen2, deepseek-r1-qwen, megrez, gpt-4o, llama4, tekken, \
        deepseek-coder, deepseek-v3";

    fn named(name: &str) -> Option<Self> {
        let plain = |splits| Self { splits, nfc: false, ignore_merges: false, add_bos: false };
        Some(match name {
            "default" => plain(Splits::Patterns(&DEFAULT)),
            "gpt-2" | "phi-2" => plain(Splits::Gpt2),
            "mpt" | "olmo" => Self { nfc: true, ..plain(Splits::Gpt2) },
            "smollm" | "starcoder" | "refact" => plain(Splits::DigitsThenGpt2),
            "command-r" => Self { nfc: true, ..plain(Splits::DigitsThenGpt2) },
            "llama-bpe" | "llama3" | "llama-v3" => {
                Self { ignore_merges: true, add_bos: true, ..plain(Splits::Patterns(&[LLAMA3])) }
            }
            "smaug-bpe" | "dbrx" | "glm4" | "chatglm-bpe" => plain(Splits::Patterns(&[LLAMA3])),
            "qwen2" | "deepseek-r1-qwen" | "megrez" => Self { nfc: true, ..plain(Splits::Patterns(&[QWEN2])) },
            "gpt-4o" | "llama4" => plain(Splits::Patterns(&[GPT4O])),
            "tekken" => Self { ignore_merges: true, add_bos: true, ..plain(Splits::Patterns(&[TEKKEN])) },
            "deepseek-coder" => plain(Splits::Patterns(&DEEPSEEK_CODER)),
            "deepseek-v3" => plain(Splits::Patterns(&DEEPSEEK_V3)),
            _ => return None,
        })
    }

    fn pre_tokenizer(&self) -> Result<Sequence> {
        let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
        if let Splits::DigitsThenGpt2 = self.splits {
            steps.push(Digits::new(true).into());
        }
        if let Splits::Patterns(patterns) = self.splits {
            for pattern in patterns {
                let pattern = SplitPattern::Regex((*pattern).to_owned());
                let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
                steps.push(split.context(|| "a pre-tokenizer's pattern")?.into());
            }
        }
        let own_pattern = !matches!(self.splits, Splits::Patterns(_));
        steps.push(ByteLevel::new(false, true, own_pattern).into());
        Ok(Sequence::new(steps))
    }
}

/// The way out if the metadata don't describe a tokenizer fully.
const HINT: &str = "put the `tokenizer.json` of the model that the file was made from, and its \
                    `tokenizer_config.json`, beside the GGUF file";

impl GgufTokenizer {
    /// Whether a file says anything of a tokenizer.
    ///
    /// # Errors
    /// Metadata of another type.
    pub(crate) fn is_in(file: &GgufFile) -> Result<bool> {
        let has_model = file.optional_text("tokenizer.ggml.model")?.is_some();
        Ok(has_model || file.texts(TOKENS)?.is_some())
    }

    /// The tokenizer's metadata of a file.
    ///
    /// # Errors
    /// No tokenizer in the file, lists of different lengths, or an id that is no token's.
    pub(crate) fn read(file: &GgufFile) -> Result<Self> {
        let tokens = file.required(TOKENS, file.texts(TOKENS)?)?;
        let id = |key: &str| file.token_id(key, tokens.len());
        Ok(Self {
            model: file.text("tokenizer.ggml.model")?,
            pre: file.optional_text("tokenizer.ggml.pre")?,
            merges: file.texts("tokenizer.ggml.merges")?.unwrap_or_default(),
            token_types: token_types(file, tokens.len())?,
            bos: id("tokenizer.ggml.bos_token_id")?,
            eos: id("tokenizer.ggml.eos_token_id")?,
            unknown: id("tokenizer.ggml.unknown_token_id")?,
            padding: id("tokenizer.ggml.padding_token_id")?,
            add_bos: file.optional_flag("tokenizer.ggml.add_bos_token")?,
            add_eos: file.optional_flag("tokenizer.ggml.add_eos_token")?,
            chat_template: file.optional_text("tokenizer.chat_template")?,
            tokens,
        })
    }

    /// The text side of the model; `file` is what errors and records call the GGUF file.
    ///
    /// # Errors
    /// A kind of tokenizer that the metadata don't describe fully (SentencePiece, WordPiece), an unknown pre-tokenizer,
    /// or metadata that contradict each other: with what to do.
    pub fn text(self, file: &str) -> Result<ModelText> {
        let tokenizer = self.tokenizer(file).map_err(|error| error.at(file))?;
        let template =
            self.chat_template.as_ref().map(|text| TemplateSource { name: file.to_owned(), text: text.clone() });
        Ok(ModelText { tokenizer, special_tokens: self.special_tokens(), template: Ok(template) })
    }

    fn special_tokens(&self) -> Map<String, Value> {
        let named = [
            ("bos_token", self.bos),
            ("eos_token", self.eos),
            ("unk_token", self.unknown),
            ("pad_token", self.padding),
        ];
        let token = |(name, id): (&str, Option<u32>)| {
            let content = self.tokens.get(id? as usize)?;
            Some((name.to_owned(), Value::String(content.clone())))
        };
        named.into_iter().filter_map(token).collect()
    }

    fn tokenizer(&self, file: &str) -> Result<Tokenizer> {
        let pre = self.pre()?;
        let mut backend = Backend::new(self.bpe(&pre)?);
        if pre.nfc {
            backend.with_normalizer(Some(NFC)).context(|| "normalizer")?;
        }
        backend.with_pre_tokenizer(Some(pre.pre_tokenizer()?));
        backend.with_decoder(Some(ByteLevel::default()));
        backend.with_post_processor(Some(ByteLevel::new(false, false, false)));
        let added = self.added();
        backend.add_tokens(added).input_context(|| "`tokenizer.ggml.tokens`")?;
        let bos = self.end(self.add_bos.unwrap_or(pre.add_bos), self.bos, "bos")?;
        let eos = self.end(self.add_eos.unwrap_or(false), self.eos, "eos")?;
        if bos.is_some() || eos.is_some() {
            backend.with_post_processor(Some(around(bos, eos).input_context(|| "`tokenizer.ggml.add_bos_token`")?));
        }
        Ok(Tokenizer::new(backend, file.into()))
    }

    fn pre(&self) -> Result<Pre> {
        if self.model != "gpt2" {
            let message =
                format!("`tokenizer.ggml.model` is `{}`: its metadata don't hold a whole tokenizer", self.model);
            return Err(Error::input(message).with_hint(HINT));
        }
        let Some(name) = &self.pre else {
            let message = "no `tokenizer.ggml.pre`: how texts are split before merging isn't known";
            return Err(Error::input(message).with_hint(HINT));
        };
        Pre::named(name).ok_or_else(|| {
            let message = format!("`tokenizer.ggml.pre` is `{name}`, which isn't known here (known: {})", Pre::NAMES);
            Error::input(message).with_hint(HINT)
        })
    }

    fn bpe(&self, pre: &Pre) -> Result<BPE> {
        let field = "`tokenizer.ggml.tokens`";
        if !self.token_types.is_empty() && self.token_types.len() != self.tokens.len() {
            let (types, tokens) = (self.token_types.len(), self.tokens.len());
            return Err(Error::input(format!("{types} values of `tokenizer.ggml.token_type` for {tokens} tokens")));
        }
        let mut vocab: HashMap<String, u32> = HashMap::with_capacity(self.tokens.len());
        for (index, token) in self.tokens.iter().enumerate() {
            let id = u32::try_from(index).input_context(|| field)?;
            // llama.cpp gives empty entries this name: they are no tokens, and must not collide
            let token = if token.is_empty() { format!("[EMPTY_{index}]") } else { token.clone() };
            if let Some(first) = vocab.insert(token, id) {
                return Err(Error::input(format!("{field}: ids {first} and {id} are the same token")));
            }
        }
        let merge = |(index, merge): (usize, &String)| {
            let pair = merge.split_once(' ').filter(|(left, right)| !left.is_empty() && !right.is_empty());
            let (left, right) =
                pair.ok_or_else(|| Error::input(format!("`tokenizer.ggml.merges[{index}]` isn't two tokens")))?;
            Ok((left.to_owned(), right.to_owned()))
        };
        let merges = self.merges.iter().enumerate().map(merge).collect::<Result<Vec<_>>>()?;
        let vocab: tokenizers::models::bpe::Vocab = vocab.into_iter().collect();
        let builder = BPE::builder().vocab_and_merges(vocab, merges).ignore_merges(pre.ignore_merges);
        builder.build().input_context(|| "`tokenizer.ggml.merges`")
    }

    /// Tokens that are matched as a whole before anything is split; control tokens are left out when decoding.
    fn added(&self) -> Vec<AddedToken> {
        let typed = self.tokens.iter().zip(&self.token_types);
        let whole = typed.filter(|(token, kind)| !token.is_empty() && matches!(**kind, CONTROL | USER_DEFINED));
        whole.map(|(token, kind)| AddedToken::from(token.clone(), *kind == CONTROL).normalized(false)).collect()
    }

    fn end(&self, wanted: bool, id: Option<u32>, name: &str) -> Result<Option<(String, u32)>> {
        if !wanted {
            return Ok(None);
        }
        let Some(id) = id else {
            let message = format!("`tokenizer.ggml.{name}_token_id` is missing, and the tokenizer adds that token");
            return Err(Error::input(message).with_hint(HINT));
        };
        match self.tokens.get(id as usize) {
            Some(token) if !token.is_empty() => Ok(Some((token.clone(), id))),
            _ => Err(Error::input(format!("`tokenizer.ggml.{name}_token_id` is {id}, which is no token"))),
        }
    }
}

fn token_types(file: &GgufFile, count: usize) -> Result<Vec<i32>> {
    const KEY: &str = "tokenizer.ggml.token_type";
    let types = file.integers(KEY)?.unwrap_or_default();
    if !types.is_empty() && types.len() != count {
        return Err(file.error(KEY, format!("has {} entries for {count} tokens", types.len())));
    }
    types
        .into_iter()
        .map(|kind| i32::try_from(kind).map_err(|_| file.error(KEY, format!("{kind} isn't a token's type"))))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(golden: &str) -> Result<GgufTokenizer> {
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/gguf");
        GgufTokenizer::read(&GgufFile::open(&goldens.join(golden)).unwrap())
    }

    #[test]
    fn the_tokenizers_data_is_what_was_written() {
        let data = read("llama_f16/model.gguf").unwrap();
        assert_eq!((data.model.as_str(), data.pre.as_deref()), ("gpt2", Some("gpt-2")));
        assert_eq!((data.tokens.len(), data.token_types.len(), data.merges.len()), (300, 300, 41));
        assert_eq!(data.tokens[..3], ["<pad>", "<s>", "</s>"]);
        assert_eq!(data.merges[..2], ["e n", "e t"]);
        assert_eq!(data.token_types[..4], [3, 3, 3, 1]);
        assert_eq!((data.bos, data.padding, data.unknown), (Some(1), Some(0), None));
        assert_eq!((data.add_bos, data.add_eos), (Some(false), None));
        assert!(data.chat_template.unwrap().contains("messages"));
        let none = read("types.gguf").unwrap_err();
        assert!(none.message().contains("`tokenizer.ggml."), "{none}");
    }
}
