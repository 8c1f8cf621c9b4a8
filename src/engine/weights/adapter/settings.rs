//! `adapter_config.json`: the settings that merging follows, and those that it can't.

use std::path::{Path, PathBuf};

use fancy_regex::{Regex, RegexBuilder};
use serde_json::Value;

use crate::error::{Context, Error, Result};
use crate::json::{Fields, read_object};

/// Keys of `adapter_config.json` that are read here, or that don't change the merged weights.
const PASSED: [&str; 28] = [
    "alpha_pattern",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_alpha",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "modules_to_save",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
];

/// Initialisations that leave the base weights alone.
const PLAIN_INITIALISATIONS: [&str; 4] = ["gaussian", "eva", "orthogonal", "mica"];

/// Largest compiled size of a pattern in bytes, and largest number of patterns.
const PATTERN_BYTES: usize = 1 << 16;
const MOST_PATTERNS: usize = 4096;

/// The settings of `adapter_config.json` that merging follows.
pub(crate) struct Settings {
    file: PathBuf,
    pub(crate) rank: usize,
    pub(crate) alpha: f64,
    /// Updates are scaled by α/√r and not by α/r.
    pub(crate) rank_stabilised: bool,
    pub(crate) dora: bool,
    /// The base stores its matrices as (in, out).
    pub(crate) fan_in_fan_out: bool,
    /// An update of the embedding table changes a tied output layer, too.
    pub(crate) keeps_tied: bool,
    /// The base model, as the adapter names it.
    pub(crate) base_model: Option<String>,
    ranks: Vec<Pattern>,
    alphas: Vec<Pattern>,
}

/// A module's own rank or alpha. Keys are matched in the order of the file, and the first one counts.
struct Pattern {
    key: Regex,
    value: f64,
}

impl Settings {
    /// Reads `adapter_config.json`.
    ///
    /// # Errors
    /// A file that can't be read, a field with a wrong value, or a variant of LoRA that isn't supported.
    pub(super) fn read(file: &Path) -> Result<Self> {
        let map = read_object(file)?;
        let fields = Fields::new(file, &map);
        match fields.text("peft_type")? {
            Some("LORA") => {}
            Some(other) => return Err(fields.error("peft_type", format!("`{other}` isn't supported, `LORA` is"))),
            None => return Err(fields.error("peft_type", "is missing")),
        }
        refuse_variants(&fields)?;
        refuse_changed_bases(&fields)?;
        if let Some(other) = fields.text("bias")?.filter(|bias| !["none", "all", "lora_only"].contains(bias)) {
            return Err(fields.error("bias", format!("`{other}` isn't `none`, `all` or `lora_only`")));
        }
        Ok(Self {
            file: file.to_owned(),
            rank: as_rank(fields.number("r")?.unwrap_or(8.0))
                .ok_or_else(|| fields.error("r", "isn't a rank, a whole number from 1"))?,
            alpha: fields.number("lora_alpha")?.unwrap_or(8.0),
            rank_stabilised: fields.flag("use_rslora")?.unwrap_or(false),
            dora: fields.flag("use_dora")?.unwrap_or(false),
            fan_in_fan_out: fields.flag("fan_in_fan_out")?.unwrap_or(false),
            keeps_tied: fields.flag("ensure_weight_tying")?.unwrap_or(false),
            base_model: fields.text("base_model_name_or_path")?.filter(|name| !name.is_empty()).map(str::to_owned),
            ranks: patterns(&fields, "rank_pattern")?,
            alphas: patterns(&fields, "alpha_pattern")?,
        })
    }

    /// Whether modules have ranks or alphas of their own.
    pub(crate) fn has_patterns(&self) -> bool {
        !self.ranks.is_empty() || !self.alphas.is_empty()
    }

    /// The rank of a module's update.
    ///
    /// # Errors
    /// A pattern's value that is no rank.
    pub(crate) fn rank_of(&self, module: &str) -> Result<usize> {
        match self.matching(&self.ranks, module)? {
            None => Ok(self.rank),
            Some(value) => as_rank(value)
                .ok_or_else(|| Error::input(format!("`rank_pattern`: `{value}` isn't a rank")).at(self.file.display())),
        }
    }

    /// The factor of a module's update: α/r, or α/√r if rank-stabilised.
    ///
    /// # Errors
    /// A pattern that can't be matched.
    pub(crate) fn scale_of(&self, module: &str, rank: usize) -> Result<f64> {
        let alpha = self.matching(&self.alphas, module)?.unwrap_or(self.alpha);
        let rank = rank as f64;
        Ok(if self.rank_stabilised { alpha / rank.sqrt() } else { alpha / rank })
    }

    fn matching(&self, patterns: &[Pattern], module: &str) -> Result<Option<f64>> {
        for pattern in patterns {
            if pattern.key.is_match(module).input_context(|| self.file.display())? {
                return Ok(Some(pattern.value));
            }
        }
        Ok(None)
    }
}

/// Refuses what changes the merged weights in a way that isn't implemented, and what isn't known.
fn refuse_variants(fields: &Fields<'_>) -> Result<()> {
    let why = |key: &str| match key {
        "alora_invocation_tokens" => "activated LoRA starts in the middle of a text and can't be merged",
        "arrow_config" => "Arrow chooses between adapters while it runs and can't be merged",
        "kasa_config" => "KaSA truncates the base weights",
        "layer_replication" => "replicated layers aren't supported",
        "lora_bias" => "biases of LoRA's own aren't supported",
        "megatron_config" => "Megatron's parallel layers aren't supported",
        "monteclora_config" => "MonteCLoRA draws random weights and can't be merged",
        "target_parameters" => "updates of stacked parameters (experts) aren't supported",
        "trainable_token_indices" => "trainable tokens aren't supported",
        "use_bdlora" => "block-diagonal LoRA isn't supported",
        "use_qalora" => "QALoRA isn't supported",
        "velora_config" => "VeLoRA isn't supported",
        _ => "isn't a setting of LoRA that is known here, so that its effect on the merged weights isn't known either",
    };
    let read_here = ["use_dora", "use_rslora"];
    let unsupported =
        fields.entries().find(|(key, value)| !PASSED.contains(key) && !read_here.contains(key) && is_used(value));
    match unsupported {
        None => Ok(()),
        Some((key, _)) => Err(fields.error(key, why(key)).with_hint(
            "merge with PEFT itself, `model.merge_and_unload().save_pretrained(folder)`, and measure the merged model",
        )),
    }
}

/// Refuses initialisations after which the adapter belongs to other base weights than the ones on disk.
fn refuse_changed_bases(fields: &Fields<'_>) -> Result<()> {
    let initialisation = match fields.get("init_lora_weights") {
        None | Some(Value::Bool(_)) => return Ok(()),
        Some(value) => value.as_str().unwrap_or_default().to_lowercase(),
    };
    if PLAIN_INITIALISATIONS.contains(&initialisation.as_str()) {
        return Ok(());
    }
    let message =
        format!("`{initialisation}` changes the base weights before training, so that the adapter fits others");
    Err(fields.error("init_lora_weights", message).with_hint(
        "save the adapter with PEFT as plain LoRA: `save_pretrained(folder, \
         path_initial_model_for_weight_conversion=…)`, or save the merged model",
    ))
}

/// Whether a value differs from PEFT's "not used".
fn is_used(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::String(text) => !text.is_empty(),
        Value::Bool(true) | Value::Number(_) => true,
    }
}

fn as_rank(value: f64) -> Option<usize> {
    (value.fract() == 0.0 && (1.0..=1e6).contains(&value)).then_some(value as usize)
}

/// Values by patterns. Keys are regular expressions that match the end of a module's name from a dot on, as PEFT's
/// `get_pattern_key` matches them.
fn patterns(fields: &Fields<'_>, key: &str) -> Result<Vec<Pattern>> {
    let Some(value) = fields.get(key) else { return Ok(Vec::new()) };
    let map = value.as_object().ok_or_else(|| fields.error(key, "isn't an object of numbers"))?;
    if map.len() > MOST_PATTERNS {
        return Err(fields.error(key, format!("has more than {MOST_PATTERNS} patterns")));
    }
    let compile = |(pattern, value): (&String, &Value)| {
        let value = value.as_f64().ok_or_else(|| fields.error(key, format!("`{pattern}` isn't a number")))?;
        let regex = RegexBuilder::new(&format!(r"^(?:.*\.)?(?:{pattern})$"))
            .delegate_size_limit(PATTERN_BYTES)
            .build()
            .map_err(|cause| fields.error(key, format!("`{pattern}` isn't a pattern that is supported: {cause}")))?;
        Ok(Pattern { key: regex, value })
    };
    map.iter().map(compile).collect()
}
