//! LoRA adapters as PEFT saves them: reads `adapter_config.json` and `adapter_model.safetensors`, and merges the adapter
//! into the base model's weights, tensor by tensor, in f32. Knows names and shapes, no architecture.
//!
//! Implements LoRA (Hu et al. 2021), rank-stabilised LoRA (Kalajdzievski 2023) and DoRA (Liu et al. 2024) as PEFT's
//! `merge_and_unload` does. What would change the merged weights and isn't implemented is refused when the adapter is
//! opened; what only says how training began (`init_lora_weights: "gaussian"`, `lora_dropout` …) is passed over.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device, Tensor};
use fancy_regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use crate::engine::config::read_object;
use crate::error::{Context, Error, Result};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";
const PICKLED: &str = "adapter_model.bin";

/// What PEFT puts in front of the base model's names.
const PREFIX: &str = "base_model.model.";

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

/// An opened adapter. [`merge`](Self::merge) is called once for each tensor of the base model; afterwards
/// [`unused`](Self::unused) has to be empty, or the adapter isn't one for this model.
pub struct Adapter {
    config_file: PathBuf,
    weights_file: PathBuf,
    settings: Settings,
    mapped: MmapedSafetensors,
    /// Low-rank updates, by the module that they belong to, such as `model.layers.0.self_attn.q_proj`.
    updates: BTreeMap<String, Update>,
    /// Tensors that take the place of the base's: its name → name in the adapter's file.
    replacements: BTreeMap<String, String>,
    used: RefCell<BTreeSet<String>>,
    conv1d: bool,
}

/// Names, in the adapter's file, of what changes one weight.
#[derive(Default)]
struct Update {
    /// A: (rank, in).
    down: Option<String>,
    /// B: (out, rank).
    up: Option<String>,
    /// DoRA's magnitudes: (out).
    magnitude: Option<String>,
    /// Of an embedding table, (tokens, width): A is (rank, tokens) and B is (width, rank).
    embedding: bool,
}

impl Adapter {
    /// Reads the configuration and the header of the weights.
    ///
    /// # Errors
    /// A file that is missing or damaged, another method than LoRA, or a variant of LoRA that isn't served.
    pub fn open(folder: &Path) -> Result<Self> {
        let config_file = folder.join(CONFIG);
        let weights_file = folder.join(WEIGHTS);
        if !config_file.is_file() {
            return Err(Error::input(format!("has no `{CONFIG}`"))
                .at(folder.display())
                .hint("name a folder as PEFT's `save_pretrained` writes it"));
        }
        let settings = Settings::read(&config_file)?;
        if !weights_file.is_file() {
            return Err(no_weights(folder));
        }
        // SAFETY: the mapping is sound as long as nobody truncates the file while the model is loaded, which holds for
        // any program that maps model files.
        let mapped = unsafe { MmapedSafetensors::new(&weights_file) };
        let mapped = mapped.map_err(|cause| {
            let message = Error::from(cause).message().to_owned();
            Error::input(format!("isn't a whole safetensors file: {message}"))
                .at(weights_file.display())
                .hint("download or copy the file again")
        })?;
        let mut adapter = Self {
            conv1d: settings.fan_in_fan_out,
            config_file,
            weights_file,
            settings,
            mapped,
            updates: BTreeMap::new(),
            replacements: BTreeMap::new(),
            used: RefCell::default(),
        };
        adapter.index()?;
        Ok(adapter)
    }

    /// Says whether the base stores the weights of its linear layers transposed, as GPT-2's `Conv1D` does. Shapes
    /// decide where they can; this decides for square matrices, and without it `fan_in_fan_out` does.
    pub fn set_conv1d(&mut self, conv1d: bool) {
        self.conv1d = conv1d;
    }

    /// The tensor of the base model with this name, as it is after merging: f32, on `base`'s device, in its shape.
    ///
    /// # Errors
    /// Shapes that don't fit the base, a rank that isn't the configuration's, or a result that isn't finite.
    pub fn merge(&self, name: &str, base: Tensor) -> Result<Tensor> {
        let mut weight = base.to_dtype(DType::F32)?;
        if let Some(key) = self.replacements.get(name) {
            weight = self.replacement(key, &weight)?;
        }
        match name.strip_suffix(".weight").and_then(|module| Some((module, self.updates.get(module)?))) {
            None => Ok(weight),
            Some((module, update)) => self.update(module, update, &weight).map_err(|error| {
                Error::input(error.message()).at(format!("{}: module `{module}`", self.weights_file.display()))
            }),
        }
    }

    /// Whether merging changes the tensor with this name.
    pub fn touches(&self, name: &str) -> bool {
        let updated = name.strip_suffix(".weight").is_some_and(|module| self.updates.contains_key(module));
        updated || self.replacements.contains_key(name)
    }

    /// Whether a base model whose output layer is its embedding table has an output layer of its own after merging:
    /// the adapter changes one of the two and doesn't keep them tied (`ensure_weight_tying`). Its weights are then
    /// `merge(output, base's embedding table)`.
    ///
    /// That is what the adapter was trained as. PEFT's merge of a low-rank update into a tied table moves both, and
    /// PEFT warns about it.
    pub fn unties(&self, embedding: &str, output: &str) -> bool {
        self.touches(output) || (self.touches(embedding) && !self.settings.keeps_tied)
    }

    /// Tensors of the adapter that no call of [`merge`](Self::merge) has used.
    pub fn unused(&self) -> Vec<String> {
        let used = self.used.borrow();
        self.mapped.tensors().into_iter().map(|(name, _)| name).filter(|name| !used.contains(name)).collect()
    }

    /// Refuses an adapter that changes something that the base model, with tensors of these `names`, doesn't have.
    ///
    /// # Errors
    /// As said, with the first name.
    pub fn check_targets(&self, names: &BTreeSet<String>) -> Result<()> {
        let updated = self.updates.keys().map(|module| format!("{module}.weight"));
        let foreign: Vec<String> =
            updated.chain(self.replacements.keys().cloned()).filter(|name| !names.contains(name)).collect();
        self.nothing_left(&foreign)
    }

    /// Refuses an adapter of which something was left over.
    ///
    /// # Errors
    /// As said, with the first names.
    pub fn check_all_used(&self) -> Result<()> {
        let mut unused = self.unused();
        unused.sort();
        self.nothing_left(&unused)
    }

    fn nothing_left(&self, unused: &[String]) -> Result<()> {
        let Some(first) = unused.first() else { return Ok(()) };
        let others = match unused.len() {
            1 => String::new(),
            count => format!(" (and {} more)", count - 1),
        };
        Err(Error::input(format!("tensor `{first}`{others} belongs to nothing in the base model"))
            .at(self.weights_file.display())
            .hint(match self.base_model() {
                Some(base) => format!("the adapter was trained on `{base}`"),
                None => "merge the adapter into the model that it was trained on".to_owned(),
            }))
    }

    /// The base model, as the adapter names it.
    pub fn base_model(&self) -> Option<&str> {
        self.settings.base_model.as_deref()
    }

    /// The files that were read.
    pub fn files(&self) -> [&Path; 2] {
        [&self.config_file, &self.weights_file]
    }

    /// What was merged, for the record: method, rank and alpha.
    pub fn describe(&self) -> String {
        let settings = &self.settings;
        let method = match (settings.dora, settings.rank_stabilised) {
            (false, false) => "LoRA",
            (false, true) => "rsLoRA",
            (true, false) => "DoRA",
            (true, true) => "DoRA with rsLoRA scaling",
        };
        let patterns = match settings.ranks.is_empty() && settings.alphas.is_empty() {
            true => "",
            false => ", with patterns",
        };
        format!("{method} adapter merged in f32: rank {}, alpha {}{patterns}", settings.rank, settings.alpha)
    }

    /// Sorts the tensors of the file by what they are.
    fn index(&mut self) -> Result<()> {
        let tensors = self.mapped.tensors();
        let place = |name: &str| format!("{}: tensor `{name}`", self.weights_file.display());
        let mut updates: BTreeMap<String, Update> = BTreeMap::new();
        let mut replacements = BTreeMap::new();
        for (name, view) in tensors {
            match DType::try_from(view.dtype()) {
                Ok(DType::F32 | DType::F16 | DType::BF16) => {}
                _ => {
                    let message = format!("is stored as `{:?}`; served are `f32`, `f16` and `bf16`", view.dtype());
                    return Err(Error::input(message).at(place(&name)));
                }
            }
            let twice = match classify(&name).map_err(|error| error.at(place(&name)))? {
                Part::Whole(base) => replacements.insert(base, name.clone()),
                Part::OfUpdate { module, which, embedding } => {
                    let update = updates.entry(module).or_default();
                    update.embedding |= embedding;
                    let slot = match which {
                        Which::Down => &mut update.down,
                        Which::Up => &mut update.up,
                        Which::Magnitude => &mut update.magnitude,
                    };
                    slot.replace(name.clone())
                }
            };
            if let Some(other) = twice {
                return Err(Error::input(format!("stands for the same weight as `{other}`"))
                    .at(place(&name))
                    .hint("save one adapter to a folder: `save_pretrained(folder, selected_adapters=[name])`"));
            }
        }
        for (module, update) in &updates {
            self.check_parts(module, update)?;
        }
        self.updates = updates;
        self.replacements = replacements;
        Ok(())
    }

    fn check_parts(&self, module: &str, update: &Update) -> Result<()> {
        let missing = match update {
            Update { down: None, .. } => "lora_A",
            Update { up: None, .. } => "lora_B",
            Update { magnitude: None, .. } if self.settings.dora => "lora_magnitude_vector",
            Update { magnitude: Some(name), .. } if !self.settings.dora => {
                let message = format!("tensor `{name}` belongs to DoRA, which `{CONFIG}` doesn't ask for");
                return Err(Error::input(message).at(self.weights_file.display()));
            }
            _ => return Ok(()),
        };
        Err(Error::input(format!("module `{module}` has no `{missing}`")).at(self.weights_file.display()))
    }

    fn replacement(&self, key: &str, base: &Tensor) -> Result<Tensor> {
        let tensor = self.load(key, base.device())?;
        if tensor.dims() != base.dims() {
            let message = format!("has shape {:?}, the base model's is {:?}", tensor.dims(), base.dims());
            let error = Error::input(message).at(format!("{}: tensor `{key}`", self.weights_file.display()));
            return Err(error.hint(
                "where training resized the vocabulary, resize the base model and save it: `resize_token_embeddings`",
            ));
        }
        Ok(tensor)
    }

    /// W + s·B·A, and with DoRA its rows (of the matrix as (out, in)) scaled to the learned magnitudes.
    fn update(&self, module: &str, update: &Update, base: &Tensor) -> Result<Tensor> {
        let (Some(down), Some(up)) = (&update.down, &update.up) else {
            return Err(Error::input("lacks a factor"));
        };
        let (down, up) = (self.load(down, base.device())?, self.load(up, base.device())?);
        let (&[rank, inputs], &[outputs, columns]) = (down.dims(), up.dims()) else {
            return Err(Error::input(format!("factors of shapes {:?} and {:?}", down.dims(), up.dims())));
        };
        let stated = self.settings.rank_of(module)?;
        if rank != stated || columns != stated {
            return Err(Error::input(format!(
                "factors of shapes {:?} and {:?}, where `{CONFIG}` says rank {stated}",
                down.dims(),
                up.dims()
            )));
        }
        let transposed = self.transposed(update, base, [outputs, inputs])?;
        let scale = self.settings.scale_of(module, rank)?;
        let weight = if transposed { base.t()? } else { base.clone() };
        let mut merged = (weight + (up.matmul(&down)? * scale)?)?;
        if let Some(magnitude) = &update.magnitude {
            merged = self.with_magnitudes(&self.load(magnitude, base.device())?, &merged)?;
        }
        if !merged.sum_all()?.to_scalar::<f32>()?.is_finite() {
            return Err(Error::input("merging gives numbers that aren't finite"));
        }
        if transposed { Ok(merged.t()?.contiguous()?) } else { Ok(merged) }
    }

    /// Whether the base holds the matrix as (in, out).
    fn transposed(&self, update: &Update, base: &Tensor, shape: [usize; 2]) -> Result<bool> {
        let [outputs, inputs] = shape;
        let straight = base.dims() == [outputs, inputs];
        let across = base.dims() == [inputs, outputs];
        match (straight, across) {
            (_, true) if update.embedding => Ok(true),
            (true, true) => Ok(self.conv1d),
            (true, false) if !update.embedding => Ok(false),
            (false, true) => Ok(true),
            _ => Err(Error::input(format!("changes a matrix of {shape:?}, the base model's is {:?}", base.dims()))
                .hint("merge the adapter into the model that it was trained on")),
        }
    }

    /// DoRA, equation 5 of Liu et al.: m · V / ‖V‖, the norm taken over the inputs of each output.
    fn with_magnitudes(&self, magnitude: &Tensor, merged: &Tensor) -> Result<Tensor> {
        let outputs = merged.dim(0)?;
        if magnitude.elem_count() != outputs {
            let shape = magnitude.dims();
            return Err(Error::input(format!("magnitudes of shape {shape:?} for {outputs} outputs")));
        }
        let norm = merged.sqr()?.sum_keepdim(1)?.sqrt()?;
        Ok(merged.broadcast_mul(&magnitude.reshape((outputs, 1))?.div(&norm)?)?)
    }

    fn load(&self, key: &str, device: &Device) -> Result<Tensor> {
        let tensor = self.mapped.load(key, device).and_then(|tensor| tensor.to_dtype(DType::F32));
        let place = || format!("{}: tensor `{key}`", self.weights_file.display());
        let tensor = tensor.map_err(|cause| Error::from(cause).at(place()))?;
        self.used.borrow_mut().insert(key.to_owned());
        Ok(tensor)
    }
}

fn no_weights(folder: &Path) -> Error {
    let error = Error::input(format!("has no `{WEIGHTS}`")).at(folder.display());
    match folder.join(PICKLED).is_file() {
        true => error.hint(format!(
            "`{PICKLED}` is a pickle, which can run code while it is read, and isn't served; load the adapter with \
             PEFT and save it again: `PeftModel.save_pretrained(folder)` writes safetensors"
        )),
        false => error.hint("name a folder as PEFT's `save_pretrained` writes it"),
    }
}

/// What a tensor of the adapter's file is.
#[derive(Debug, PartialEq)]
enum Part {
    /// Takes the place of the base's tensor with this name.
    Whole(String),
    /// Belongs to the low-rank update of a module.
    OfUpdate { module: String, which: Which, embedding: bool },
}

#[derive(Debug, PartialEq)]
enum Which {
    Down,
    Up,
    Magnitude,
}

/// Reads a name such as `base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight`. The prefix and the name of
/// the adapter (`default`) may be absent, as in files that PEFT writes.
fn classify(name: &str) -> Result<Part> {
    let path = name.strip_prefix(PREFIX).unwrap_or(name);
    let words: Vec<&str> = path.split('.').collect();
    let kinds = [
        ("lora_A", Which::Down, false),
        ("lora_B", Which::Up, false),
        ("lora_embedding_A", Which::Down, true),
        ("lora_embedding_B", Which::Up, true),
        ("lora_magnitude_vector", Which::Magnitude, false),
    ];
    for (word, which, embedding) in kinds {
        let Some(at) = words.iter().position(|each| *each == word) else { continue };
        return match words.get(at + 1..).unwrap_or_default() {
            ["bias"] | [_, "bias"] => Err(Error::input("is a bias of LoRA's own (`lora_bias`), which isn't served")),
            [] | [_] | [_, "weight"] => Ok(Part::OfUpdate { module: words[..at].join("."), which, embedding }),
            _ => Err(Error::input("has a name that isn't one of PEFT's")),
        };
    }
    if let Some(word) = words.iter().find(|word| word.starts_with("lora_")) {
        return Err(Error::input(format!("`{word}` belongs to a variant of LoRA that isn't served")));
    }
    // `lm_head.modules_to_save.default.weight` of older versions, `embed_tokens.base_layer.weight` of targeted tables
    let mut plain: Vec<&str> = Vec::with_capacity(words.len());
    let mut rest = words.into_iter();
    while let Some(word) = rest.next() {
        match word {
            "base_layer" => {}
            "modules_to_save" => drop(rest.next()),
            word => plain.push(word),
        }
    }
    Ok(Part::Whole(plain.join(".")))
}

/// What `adapter_config.json` says about merging.
struct Settings {
    file: PathBuf,
    rank: usize,
    alpha: f64,
    rank_stabilised: bool,
    dora: bool,
    fan_in_fan_out: bool,
    keeps_tied: bool,
    base_model: Option<String>,
    ranks: Vec<Pattern>,
    alphas: Vec<Pattern>,
}

/// A module's own rank or alpha. Keys are matched in the order of the file, and the first one counts.
struct Pattern {
    key: Regex,
    value: f64,
}

impl Settings {
    fn read(file: &Path) -> Result<Self> {
        let map = read_object(file)?;
        let fields = Fields { file, map: &map };
        match fields.text("peft_type")?.as_deref() {
            Some("LORA") => {}
            Some(other) => return Err(fields.error("peft_type", format!("`{other}` isn't served, `LORA` is"))),
            None => return Err(fields.error("peft_type", "is missing".to_owned())),
        }
        refuse_variants(&fields)?;
        refuse_changed_bases(&fields)?;
        if let Some(other) = fields.text("bias")?.filter(|bias| !["none", "all", "lora_only"].contains(&&**bias)) {
            return Err(fields.error("bias", format!("`{other}` isn't `none`, `all` or `lora_only`")));
        }
        Ok(Self {
            file: file.to_owned(),
            rank: as_rank(fields.number("r")?.unwrap_or(8.0)).ok_or_else(|| fields.no_rank("r"))?,
            alpha: fields.number("lora_alpha")?.unwrap_or(8.0),
            rank_stabilised: fields.flag("use_rslora")?,
            dora: fields.flag("use_dora")?,
            fan_in_fan_out: fields.flag("fan_in_fan_out")?,
            keeps_tied: fields.flag("ensure_weight_tying")?,
            base_model: fields.text("base_model_name_or_path")?.filter(|name| !name.is_empty()),
            ranks: fields.patterns("rank_pattern")?,
            alphas: fields.patterns("alpha_pattern")?,
        })
    }

    fn rank_of(&self, module: &str) -> Result<usize> {
        match self.matching(&self.ranks, module)? {
            None => Ok(self.rank),
            Some(value) => as_rank(value)
                .ok_or_else(|| Error::input(format!("`rank_pattern`: `{value}` isn't a rank")).at(self.file.display())),
        }
    }

    /// α/r, or α/√r where rank-stabilised.
    fn scale_of(&self, module: &str, rank: usize) -> Result<f64> {
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
        "layer_replication" => "replicated layers aren't served",
        "lora_bias" => "biases of LoRA's own aren't served",
        "megatron_config" => "Megatron's parallel layers aren't served",
        "monteclora_config" => "MonteCLoRA draws random weights and can't be merged",
        "target_parameters" => "updates of stacked parameters (experts) aren't served",
        "trainable_token_indices" => "trainable tokens aren't served",
        "use_bdlora" => "block-diagonal LoRA isn't served",
        "use_qalora" => "QALoRA isn't served",
        "velora_config" => "VeLoRA isn't served",
        _ => "isn't a setting of LoRA that is known here, so that its effect on the merged weights isn't known either",
    };
    let read_here = ["use_dora", "use_rslora"];
    let unserved = fields.map.iter().find(|(key, value)| {
        !PASSED.contains(&key.as_str()) && !read_here.contains(&key.as_str()) && says_something(value)
    });
    match unserved {
        None => Ok(()),
        Some((key, _)) => Err(fields.error(key, why(key).to_owned()).hint(
            "merge with PEFT itself, `model.merge_and_unload().save_pretrained(folder)`, and measure the merged model",
        )),
    }
}

/// Refuses initialisations after which the adapter belongs to other base weights than the ones on disk.
fn refuse_changed_bases(fields: &Fields<'_>) -> Result<()> {
    let initialisation = match fields.map.get("init_lora_weights") {
        None | Some(Value::Null | Value::Bool(_)) => return Ok(()),
        Some(value) => value.as_str().unwrap_or_default().to_lowercase(),
    };
    if PLAIN_INITIALISATIONS.contains(&initialisation.as_str()) {
        return Ok(());
    }
    let message =
        format!("`{initialisation}` changes the base weights before training, so that the adapter fits others");
    Err(fields.error("init_lora_weights", message).hint(
        "save the adapter with PEFT as plain LoRA: `save_pretrained(folder, \
         path_initial_model_for_weight_conversion=…)`, or save the merged model",
    ))
}

/// Whether a value differs from PEFT's "not used".
fn says_something(value: &Value) -> bool {
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

/// The fields of `adapter_config.json`; `null` reads as absent.
struct Fields<'a> {
    file: &'a Path,
    map: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn error(&self, key: &str, message: String) -> Error {
        Error::input(format!("`{key}`: {message}")).at(self.file.display())
    }

    fn no_rank(&self, key: &str) -> Error {
        self.error(key, "isn't a rank, a whole number from 1".to_owned())
    }

    fn get<T>(&self, key: &str, expected: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match read(value) {
                Some(value) => Ok(Some(value)),
                None => Err(self.error(key, format!("isn't {expected}"))),
            },
        }
    }

    fn text(&self, key: &str) -> Result<Option<String>> {
        self.get(key, "a string", |value| value.as_str().map(str::to_owned))
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        self.get(key, "a number", Value::as_f64)
    }

    fn flag(&self, key: &str) -> Result<bool> {
        Ok(self.get(key, "`true` or `false`", Value::as_bool)?.unwrap_or(false))
    }

    /// Keys are regular expressions that match the end of a module's name from a dot on, as PEFT's `get_pattern_key`
    /// does.
    fn patterns(&self, key: &str) -> Result<Vec<Pattern>> {
        let map = match self.map.get(key) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Object(map)) => map,
            Some(_) => return Err(self.error(key, "isn't an object of numbers".to_owned())),
        };
        if map.len() > MOST_PATTERNS {
            return Err(self.error(key, format!("has more than {MOST_PATTERNS} patterns")));
        }
        let compile = |(pattern, value): (&String, &Value)| {
            let value = value.as_f64().ok_or_else(|| self.error(key, format!("`{pattern}` isn't a number")))?;
            let regex = RegexBuilder::new(&format!(r"^(?:.*\.)?(?:{pattern})$"))
                .delegate_size_limit(PATTERN_BYTES)
                .build()
                .map_err(|cause| self.error(key, format!("`{pattern}` isn't a pattern that is served: {cause}")))?;
            Ok(Pattern { key: regex, value })
        };
        map.iter().map(compile).collect()
    }
}

#[cfg(test)]
#[path = "adapter_tests.rs"]
mod tests;
