//! An adapter's files: which of the base model's tensors they change.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use candle_core::DType;
use candle_core::safetensors::MmapedSafetensors;

use super::names::{Factor, Part, classify};
use super::settings::Settings;
use crate::engine::weights::safetensors::map_safetensors;
use crate::error::{Error, Result};

pub(super) const CONFIG: &str = "adapter_config.json";
pub(super) const WEIGHTS: &str = "adapter_model.safetensors";
pub(super) const PICKLED: &str = "adapter_model.bin";

/// An opened adapter. [`merge`](Self::merge) is called once for each tensor of the base model; afterwards
/// [`unused`](Self::unused) has to be empty, or the adapter isn't one for this model.
pub(crate) struct Adapter {
    config_file: PathBuf,
    pub(super) weights_file: PathBuf,
    pub(super) settings: Settings,
    pub(super) mapped: MmapedSafetensors,
    /// Low-rank updates, by the module that they belong to, such as `model.layers.0.self_attn.q_proj`.
    pub(super) updates: BTreeMap<String, Update>,
    /// Tensors that take the place of the base's: its name → name in the adapter's file.
    pub(super) replacements: BTreeMap<String, String>,
    pub(super) used: RefCell<BTreeSet<String>>,
    pub(super) conv1d: bool,
}

/// Names, in the adapter's file, of what changes one weight.
#[derive(Default)]
pub(super) struct Update {
    /// A: (rank, in).
    pub(crate) down: Option<String>,
    /// B: (out, rank).
    pub(crate) up: Option<String>,
    /// DoRA's magnitudes: (out).
    pub(crate) magnitude: Option<String>,
    /// Of an embedding table, (tokens, width): A is (rank, tokens) and B is (width, rank).
    pub(crate) embedding: bool,
}

impl Adapter {
    /// Reads the configuration and the header of the weights.
    ///
    /// # Errors
    /// A file that is missing or damaged, another method than LoRA, or a variant of LoRA that isn't supported.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let config_file = folder.join(CONFIG);
        let weights_file = folder.join(WEIGHTS);
        if !config_file.is_file() {
            return Err(Error::input(format!("has no `{CONFIG}`"))
                .at(folder.display())
                .with_hint("name a folder as PEFT's `save_pretrained` writes it"));
        }
        let settings = Settings::read(&config_file)?;
        if !weights_file.is_file() {
            return Err(no_weights(folder));
        }
        let mapped = map_safetensors(&weights_file)?;
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
    pub(crate) fn set_conv1d(&mut self, conv1d: bool) {
        self.conv1d = conv1d;
    }

    /// Whether merging changes the tensor with this name.
    pub(crate) fn touches(&self, name: &str) -> bool {
        let updated = name.strip_suffix(".weight").is_some_and(|module| self.updates.contains_key(module));
        updated || self.replacements.contains_key(name)
    }

    /// Whether a base model whose output layer is its embedding table has an output layer of its own after merging:
    /// the adapter changes one of the two and doesn't keep them tied (`ensure_weight_tying`). Its weights are then
    /// `merge(output, base's embedding table)`.
    ///
    /// That is what the adapter was trained as. PEFT's merge of a low-rank update into a tied table moves both, and
    /// PEFT warns about it.
    pub(crate) fn unties(&self, embedding: &str, output: &str) -> bool {
        self.touches(output) || (self.touches(embedding) && !self.settings.keeps_tied)
    }

    /// Tensors of the adapter that no call of [`merge`](Self::merge) has used.
    pub(crate) fn unused(&self) -> Vec<String> {
        let used = self.used.borrow();
        self.mapped.tensors().into_iter().map(|(name, _)| name).filter(|name| !used.contains(name)).collect()
    }

    /// Refuses an adapter that changes something that the base model, with tensors of these `names`, doesn't have.
    ///
    /// # Errors
    /// As said, with the first name.
    pub(crate) fn check_targets(&self, names: &BTreeSet<String>) -> Result<()> {
        let updated = self.updates.keys().map(|module| format!("{module}.weight"));
        let foreign: Vec<String> =
            updated.chain(self.replacements.keys().cloned()).filter(|name| !names.contains(name)).collect();
        self.nothing_left(&foreign)
    }

    /// Refuses an adapter of which something was left over.
    ///
    /// # Errors
    /// As said, with the first names.
    pub(crate) fn check_all_used(&self) -> Result<()> {
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
            .with_hint(match self.base_model() {
                Some(base) => format!("the adapter was trained on `{base}`"),
                None => "merge the adapter into the model that it was trained on".to_owned(),
            }))
    }

    /// The base model, as the adapter names it.
    pub(crate) fn base_model(&self) -> Option<&str> {
        self.settings.base_model.as_deref()
    }

    /// The files that were read.
    pub(crate) fn files(&self) -> [&Path; 2] {
        [&self.config_file, &self.weights_file]
    }

    /// A note for the record: method, rank and alpha of what was merged.
    pub(crate) fn describe(&self) -> String {
        let settings = &self.settings;
        let method = match (settings.dora, settings.rank_stabilised) {
            (false, false) => "LoRA",
            (false, true) => "rsLoRA",
            (true, false) => "DoRA",
            (true, true) => "DoRA with rsLoRA scaling",
        };
        let patterns = match settings.has_patterns() {
            true => ", with patterns",
            false => "",
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
                    let message = format!("is stored as `{:?}`; supported are `f32`, `f16` and `bf16`", view.dtype());
                    return Err(Error::input(message).at(place(&name)));
                }
            }
            let twice = match classify(&name).map_err(|error| error.at(place(&name)))? {
                Part::Whole(base) => replacements.insert(base, name.clone()),
                Part::OfUpdate { module, which, embedding } => {
                    let update = updates.entry(module).or_default();
                    update.embedding |= embedding;
                    let slot = match which {
                        Factor::Down => &mut update.down,
                        Factor::Up => &mut update.up,
                        Factor::Magnitude => &mut update.magnitude,
                    };
                    slot.replace(name.clone())
                }
            };
            if let Some(other) = twice {
                return Err(Error::input(format!("is the same weight as `{other}`"))
                    .at(place(&name))
                    .with_hint("save one adapter to a folder: `save_pretrained(folder, selected_adapters=[name])`"));
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
}

fn no_weights(folder: &Path) -> Error {
    let error = Error::input(format!("has no `{WEIGHTS}`")).at(folder.display());
    match folder.join(PICKLED).is_file() {
        true => error.with_hint(format!(
            "`{PICKLED}` is a pickle, which can run code while it is read, and isn't supported; load the adapter with \
             PEFT and save it again: `PeftModel.save_pretrained(folder)` writes safetensors"
        )),
        false => error.with_hint("name a folder as PEFT's `save_pretrained` writes it"),
    }
}
