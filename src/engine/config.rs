//! What a model is, read from `config.json` and `generation_config.json`: the sizes and the variants that the decoder
//! is built from. A new architecture of the same family is one more function here that fills in a [`Config`].

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::grouped;
use crate::error::{Context, Error, Result};

/// Architectures that [`Config::read`] knows, as `config.json` names them.
pub const SERVED: [&str; 2] = ["LlamaForCausalLM", "MistralForCausalLM"];

/// Rope types that the decoder computes.
const SERVED_ROPE: &str = "`default`, `linear` and `llama3`";

/// Largest value of a size in `config.json`: keeps products of two sizes far from overflow.
const LARGEST_SIZE: u64 = 1 << 30;

/// Everything that the decoder has to know about a model beside its weights.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// As `config.json` names it.
    pub architecture: String,
    /// Token ids are below this.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the feed-forward layer.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Longest sequence, prompt and answer together.
    pub max_positions: usize,
    /// Epsilon of RMSNorm.
    pub norm_eps: f64,
    /// Activation of the gate.
    pub activation: Activation,
    /// Rotary position embedding.
    pub rope: Rope,
    /// Which linear layers have a bias.
    pub biases: Biases,
    /// The output layer is the embedding table.
    pub tied: bool,
    /// Token ids that end a sequence.
    pub eos_ids: Vec<u32>,
}

/// Activation of the gate in the feed-forward layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x · sigmoid(x).
    Silu,
}

/// Which linear layers have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Biases {
    /// Query, key and value projections.
    pub qkv: bool,
    /// Output projection of attention.
    pub attention_output: bool,
    /// All three layers of the feed-forward.
    pub mlp: bool,
}

/// Rotary position embedding (Su et al. 2021), halves rotated as in GPT-NeoX.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// How the frequencies are stretched for long contexts.
    pub scaling: RopeScaling,
}

/// How the frequencies of the rotary embedding are stretched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// All divided by one factor.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: long wavelengths divided by the factor, short ones kept, with a ramp between.
    Llama3 {
        /// The divisor of long wavelengths.
        factor: f64,
        /// Wavelengths above `original_positions / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original_positions / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context length of the pretraining.
        original_positions: f64,
    },
}

impl Config {
    /// Reads `config.json` and, where it is there, `generation_config.json` of a model folder, in the spellings of
    /// transformers 4 and 5.
    ///
    /// # Errors
    /// A file that can't be read, an architecture or a variant that isn't served, or a field with a wrong value; the
    /// message names the file and the field.
    pub fn read(folder: &Path) -> Result<Self> {
        let file = folder.join("config.json");
        let json = read_object(&file)?;
        let fields = Fields::new(&file, &json);
        let mut config = Self::from_fields(&fields)?;
        if let Some(ids) = generation_eos(folder)? {
            config.eos_ids = ids;
        }
        Ok(config)
    }

    fn from_fields(fields: &Fields) -> Result<Self> {
        fields.refuse_quantised()?;
        let config = match architecture(fields)?.as_str() {
            "LlamaForCausalLM" => llama(fields)?,
            "MistralForCausalLM" => mistral(fields)?,
            other => return Err(not_served(fields, other)),
        };
        config.check(fields)?;
        Ok(config)
    }

    fn check(&self, fields: &Fields) -> Result<()> {
        if !self.heads.is_multiple_of(self.kv_heads) {
            let message = format!("{} doesn't divide `num_attention_heads` ({})", self.kv_heads, self.heads);
            return Err(fields.error("num_key_value_heads", message));
        }
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(2) {
            let message = format!("{} isn't a positive even number, which the rotary embedding needs", self.head_dim);
            return Err(fields.error("head_dim", message));
        }
        Ok(())
    }
}

pub(super) fn architecture(fields: &Fields) -> Result<String> {
    let first = fields.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
    first.map(str::to_owned).ok_or_else(|| {
        let message = format!("names no architecture; served are {}", served_list());
        fields.error("architectures", message)
    })
}

fn not_served(fields: &Fields, architecture: &str) -> Error {
    let message = format!("`{architecture}` isn't served; served are {}", served_list());
    fields.error("architectures", message)
}

fn served_list() -> String {
    let listed = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    format!("{} and, in groups of equally long prompts, {}", listed(&SERVED), listed(&grouped::SERVED))
}

/// Llama 1 to 3, and what is saved as such. Defaults as in transformers' `LlamaConfig`.
fn llama(fields: &Fields) -> Result<Config> {
    let attention_bias = fields.flag("attention_bias")?.unwrap_or(false);
    let biases = Biases {
        qkv: attention_bias,
        attention_output: attention_bias,
        mlp: fields.flag("mlp_bias")?.unwrap_or(false),
    };
    let heads = fields.required_size("num_attention_heads")?;
    let kv_heads = fields.size("num_key_value_heads")?.unwrap_or(heads);
    gated_decoder(fields, heads, kv_heads, 2048, biases)
}

/// Mistral without its sliding window, which is Llama's graph. Defaults as in transformers' `MistralConfig`.
fn mistral(fields: &Fields) -> Result<Config> {
    let heads = fields.required_size("num_attention_heads")?;
    let kv_heads = match fields.spelled("num_key_value_heads") {
        None => 8,
        Some(_) => fields.size("num_key_value_heads")?.unwrap_or(heads),
    };
    let config = gated_decoder(fields, heads, kv_heads, 4096 * 32, Biases::default())?;
    let window = match fields.spelled("sliding_window") {
        None => Some(4096),
        Some(_) => fields.size("sliding_window")?,
    };
    match window {
        Some(window) if window < config.max_positions => {
            let message = format!(
                "{window}: a sliding window below `max_position_embeddings` ({}) isn't served",
                config.max_positions
            );
            Err(fields.error("sliding_window", message))
        }
        _ => Ok(config),
    }
}

/// The part that all pre-norm decoders with a gated feed-forward share.
fn gated_decoder(
    fields: &Fields,
    heads: usize,
    kv_heads: usize,
    default_positions: usize,
    biases: Biases,
) -> Result<Config> {
    let hidden_size = fields.required_size("hidden_size")?;
    let max_positions = fields.size("max_position_embeddings")?.unwrap_or(default_positions);
    Ok(Config {
        architecture: architecture(fields)?,
        vocab_size: fields.required_size("vocab_size")?,
        hidden_size,
        intermediate_size: fields.required_size("intermediate_size")?,
        layers: fields.required_size("num_hidden_layers")?,
        heads,
        kv_heads,
        head_dim: fields.size("head_dim")?.unwrap_or(hidden_size / heads),
        max_positions,
        norm_eps: fields.positive("rms_norm_eps")?.unwrap_or(1e-6),
        activation: activation(fields)?,
        rope: rope(fields, max_positions)?,
        biases,
        tied: fields.flag("tie_word_embeddings")?.unwrap_or(false),
        eos_ids: match fields.spelled("eos_token_id") {
            None => vec![2],
            Some(_) => fields.token_ids("eos_token_id")?.unwrap_or_default(),
        },
    })
}

fn activation(fields: &Fields) -> Result<Activation> {
    match fields.text("hidden_act")?.unwrap_or("silu") {
        "silu" | "swish" => Ok(Activation::Silu),
        other => Err(fields.error("hidden_act", format!("`{other}` isn't served; served is `silu`"))),
    }
}

/// The rotary embedding in both spellings: `rope_parameters` with everything inside (transformers 5), or `rope_theta`
/// beside `rope_scaling` (transformers 4).
fn rope(fields: &Fields, max_positions: usize) -> Result<Rope> {
    let parameters = fields.rope()?;
    let inside = |name: &str| match &parameters {
        Some(parameters) => parameters.positive(name),
        None => Ok(None),
    };
    let theta = match inside("rope_theta")? {
        Some(theta) => theta,
        None => fields.positive("rope_theta")?.unwrap_or(10_000.0),
    };
    for share in [inside("partial_rotary_factor")?, fields.positive("partial_rotary_factor")?] {
        if share.is_some_and(|share| share != 1.0) {
            return Err(fields.error("partial_rotary_factor", "rotating a part of each head isn't served"));
        }
    }
    let scaling = match &parameters {
        Some(parameters) => rope_scaling(parameters, max_positions)?,
        None => RopeScaling::Default,
    };
    Ok(Rope { theta, scaling })
}

fn rope_scaling(parameters: &Fields, max_positions: usize) -> Result<RopeScaling> {
    let kind = match parameters.text("rope_type")? {
        Some(kind) => Some(kind),
        None => parameters.text("type")?,
    };
    match kind {
        None if parameters.get("factor").is_some() => Err(parameters.error("rope_type", "is missing beside `factor`")),
        None | Some("default") => Ok(RopeScaling::Default),
        Some("linear") => Ok(RopeScaling::Linear { factor: parameters.required_positive("factor")? }),
        Some("llama3") => Ok(RopeScaling::Llama3 {
            factor: parameters.required_positive("factor")?,
            low_freq_factor: parameters.required_positive("low_freq_factor")?,
            high_freq_factor: parameters.required_positive("high_freq_factor")?,
            original_positions: parameters
                .positive("original_max_position_embeddings")?
                .unwrap_or(max_positions as f64),
        }),
        Some(other) => Err(parameters.error("rope_type", format!("`{other}` isn't served; served are {SERVED_ROPE}"))),
    }
}

/// End-of-sequence ids of `generation_config.json`, which win over those of `config.json`.
pub(super) fn generation_eos(folder: &Path) -> Result<Option<Vec<u32>>> {
    let file = folder.join("generation_config.json");
    if !file.exists() {
        return Ok(None);
    }
    let json = read_object(&file)?;
    Fields::new(&file, &json).token_ids("eos_token_id")
}

/// Reads a JSON file that has to hold an object.
pub(crate) fn read_object(file: &Path) -> Result<Map<String, Value>> {
    let text = fs::read_to_string(file).input_context(|| format!("can't read `{}`", file.display()))?;
    match serde_json::from_str(&text).input_context(|| file.display())? {
        Value::Object(map) => Ok(map),
        _ => Err(Error::input("isn't a JSON object").at(file.display())),
    }
}

/// The fields of a JSON object, with errors that name the file and the field. `null` reads as absent.
pub(super) struct Fields<'a> {
    file: PathBuf,
    inside: &'static str,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(file: &Path, map: &'a Map<String, Value>) -> Self {
        Self { file: file.to_owned(), inside: "", map }
    }

    pub(super) fn error(&self, field: &str, message: impl std::fmt::Display) -> Error {
        Error::input(format!("`{}{field}`: {message}", self.inside)).at(self.file.display())
    }

    fn wrong(&self, field: &str, value: &Value, expected: &str) -> Error {
        self.error(field, format!("`{value}` isn't {expected}"))
    }

    /// The value, where it is there and not `null`.
    pub(super) fn get(&self, field: &str) -> Option<&'a Value> {
        self.spelled(field).filter(|value| !value.is_null())
    }

    /// The value as it is written, `null` included: some defaults apply only where a field is left out.
    pub(super) fn spelled(&self, field: &str) -> Option<&'a Value> {
        self.map.get(field)
    }

    pub(super) fn size(&self, field: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_u64() {
            Some(size @ 1..=LARGEST_SIZE) => Ok(Some(size as usize)),
            _ => Err(self.wrong(field, value, "a positive whole number of a sensible size")),
        }
    }

    pub(super) fn required_size(&self, field: &str) -> Result<usize> {
        self.size(field)?.ok_or_else(|| self.error(field, "is missing"))
    }

    pub(super) fn positive(&self, field: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if number > 0.0 && number.is_finite() => Ok(Some(number)),
            _ => Err(self.wrong(field, value, "a positive number")),
        }
    }

    pub(super) fn required_positive(&self, field: &str) -> Result<f64> {
        self.positive(field)?.ok_or_else(|| self.error(field, "is missing"))
    }

    pub(super) fn flag(&self, field: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(field, value, "`true` or `false`"))
    }

    pub(super) fn text(&self, field: &str) -> Result<Option<&'a str>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(field, value, "a string"))
    }

    /// What says how the rotary embedding is stretched, in either spelling.
    pub(super) fn rope(&self) -> Result<Option<Fields<'a>>> {
        match self.object("rope_scaling")? {
            Some(scaling) => Ok(Some(scaling)),
            None => self.object("rope_parameters"),
        }
    }

    /// Refuses weights that were quantised.
    pub(super) fn refuse_quantised(&self) -> Result<()> {
        match self.get("quantization_config") {
            None => Ok(()),
            Some(_) => Err(self
                .error("quantization_config", "quantised weights aren't served")
                .hint("take the unquantised model (f32, f16 or bf16 safetensors)")),
        }
    }

    fn object(&self, field: &'static str) -> Result<Option<Fields<'a>>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let map = value.as_object().ok_or_else(|| self.wrong(field, value, "an object"))?;
        let inside = match field {
            "rope_scaling" => "rope_scaling.",
            _ => "rope_parameters.",
        };
        Ok(Some(Fields { file: self.file.clone(), inside, map }))
    }

    /// One token id or a list of them.
    pub(super) fn token_ids(&self, field: &str) -> Result<Option<Vec<u32>>> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let one = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match value {
            Value::Array(list) => list.iter().map(one).collect(),
            single => one(single).map(|id| vec![id]),
        };
        ids.map(Some).ok_or_else(|| self.wrong(field, value, "a token id or a list of them"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Config> {
        let mut map: Map<String, Value> = serde_json::from_str(
            r#"{"architectures": ["LlamaForCausalLM"], "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24,
                "num_hidden_layers": 2, "num_attention_heads": 4}"#,
        )
        .unwrap();
        let changes: Map<String, Value> = serde_json::from_str(json).unwrap();
        map.extend(changes);
        Config::from_fields(&Fields::new(Path::new("m/config.json"), &map))
    }

    fn message(json: &str) -> String {
        read(json).unwrap_err().to_string()
    }

    #[test]
    fn absent_fields_and_nulls_take_the_defaults_of_transformers() {
        let absent = read("{}").unwrap();
        assert_eq!((absent.kv_heads, absent.head_dim, absent.max_positions), (4, 4, 2048));
        assert_eq!((absent.norm_eps, absent.tied), (1e-6, false));
        assert_eq!(absent.eos_ids, [2]);
        assert_eq!(absent.rope, Rope { theta: 10_000.0, scaling: RopeScaling::Default });
        let null = r#"{"head_dim": null, "num_key_value_heads": null, "rope_scaling": null, "rope_theta": null}"#;
        assert_eq!(read(null).unwrap(), absent);
    }

    #[test]
    fn both_spellings_of_the_rotary_embedding_mean_the_same() {
        let four = r#"{"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4}}"#;
        let five = r#"{"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 4.0}}"#;
        let expected = Rope { theta: 5e5, scaling: RopeScaling::Linear { factor: 4.0 } };
        assert_eq!(read(four).unwrap().rope, expected);
        assert_eq!(read(five).unwrap().rope, expected);
    }

    #[test]
    fn end_of_sequence_is_an_id_or_a_list_or_nothing() {
        assert_eq!(read(r#"{"eos_token_id": 7}"#).unwrap().eos_ids, [7]);
        assert_eq!(read(r#"{"eos_token_id": [7, 9]}"#).unwrap().eos_ids, [7, 9]);
        assert!(read(r#"{"eos_token_id": null}"#).unwrap().eos_ids.is_empty());
        assert_eq!(
            message(r#"{"eos_token_id": -1}"#),
            "m/config.json: `eos_token_id`: `-1` isn't a token id or a list of them"
        );
    }

    #[test]
    fn what_is_not_served_is_refused_by_name_with_what_is_served() {
        let gpt = message(r#"{"architectures": ["GPT2LMHeadModel"]}"#);
        assert!(gpt.starts_with("m/config.json: `architectures`: `GPT2LMHeadModel` isn't served; served are `Llama"));
        assert!(SERVED.iter().chain(&grouped::SERVED).all(|name| gpt.contains(&format!("`{name}`"))), "{gpt}");
        let yarn = message(r#"{"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}"#);
        assert_eq!(
            yarn,
            "m/config.json: `rope_scaling.rope_type`: `yarn` isn't served; served are `default`, `linear` and `llama3`"
        );
        assert!(message(r#"{"hidden_act": "gelu"}"#).contains("`hidden_act`: `gelu` isn't served"));
        assert!(message(r#"{"quantization_config": {}}"#).contains("`quantization_config`"));
        assert!(message(r#"{"rope_parameters": {"partial_rotary_factor": 0.5}}"#).contains("`partial_rotary_factor`"));
    }

    #[test]
    fn wrong_values_name_the_file_and_the_field() {
        assert_eq!(message(r#"{"vocab_size": null}"#), "m/config.json: `vocab_size`: is missing");
        assert_eq!(
            message(r#"{"num_hidden_layers": "two"}"#),
            "m/config.json: `num_hidden_layers`: `\"two\"` isn't a positive whole number of a sensible size"
        );
        assert!(message(r#"{"hidden_size": 0}"#).contains("`hidden_size`: `0`"));
        assert!(message(r#"{"hidden_size": 1e30}"#).contains("`hidden_size`"));
        assert!(message(r#"{"num_key_value_heads": 3}"#).contains("`num_key_value_heads`: 3 doesn't divide"));
        assert!(message(r#"{"head_dim": 5}"#).contains("`head_dim`: 5 isn't"));
        assert!(message(r#"{"rope_scaling": {"type": "linear"}}"#).contains("`rope_scaling.factor`: is missing"));
        assert!(message(r#"{"rope_scaling": 3}"#).contains("`rope_scaling`: `3` isn't an object"));
    }

    #[test]
    fn mistral_is_served_without_an_active_sliding_window() {
        let mistral = |rest: &str| {
            read(&format!(r#"{{"architectures": ["MistralForCausalLM"], "num_key_value_heads": 2 {rest}}}"#))
        };
        assert!(mistral(r#", "sliding_window": null"#).is_ok());
        assert!(mistral(r#", "sliding_window": 512, "max_position_embeddings": 512"#).is_ok());
        let absent = mistral("").unwrap_err().to_string();
        assert!(absent.contains("`sliding_window`: 4096"), "{absent}");
    }
}
