//! A model ready to run: an engine together with its tokenizer, from wherever the sweep file says.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::clock::{Clock, SimulatedDevice};
use crate::engine::load::{DeviceChoice, ModelSummary};
use crate::engine::synthetic::{self, Synthetic};
use crate::engine::{Engine, Prompt, load};
use crate::error::{Error, Result};
use crate::hub;
use crate::record::CellSpec;
use crate::sweep::spec::{ModelSource, ModelSpec};
use crate::text::Tokenizer;

/// An engine and its tokenizer.
pub struct Model {
    /// The engine.
    pub engine: Box<dyn Engine>,
    /// Text to token ids and back.
    pub codec: Codec,
}

/// Text to token ids and back.
pub enum Codec {
    /// A model's own tokenizer.
    Tokenizer(Box<Tokenizer>),
    /// Words between blanks: the simulated model's.
    Words,
}

impl Codec {
    /// Token ids of a text, with the special tokens that the model expects.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match self {
            Codec::Tokenizer(tokenizer) => tokenizer.encode(text),
            Codec::Words => Ok(synthetic::words_to_ids(text)),
        }
    }

    /// Text of token ids, without special tokens.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        match self {
            Codec::Tokenizer(tokenizer) => tokenizer.decode(ids),
            Codec::Words => Ok(synthetic::ids_to_text(ids)),
        }
    }

    /// A prompt with its ids.
    ///
    /// # Errors
    /// The tokenizer fails, or gives no token at all.
    pub fn prompt(&self, text: &str) -> Result<Prompt> {
        let ids = self.encode(text)?;
        if ids.is_empty() {
            return Err(Error::input("a prompt gives no tokens").hint("remove empty prompts"));
        }
        Ok(Prompt { text: text.to_owned(), ids })
    }
}

/// Where a model's files are on this machine.
#[derive(Debug, Clone, PartialEq)]
pub enum Location {
    /// A folder, with the hub's commit where it comes from there.
    Folder {
        /// The folder.
        path: PathBuf,
        /// The hub's commit.
        commit: Option<String>,
    },
    /// Nowhere: it is simulated.
    Simulated,
}

/// How models are found and where they run.
#[derive(Debug, Clone)]
pub struct Loader {
    /// Folder of the sweep file: relative sources start there.
    pub base: PathBuf,
    /// Where models run.
    pub device: DeviceChoice,
    /// Use the hub's local cache alone.
    pub offline: bool,
    /// Models of the hub that were found: a block's load must not ask the network again.
    found: RefCell<BTreeMap<(String, Option<String>), hub::Snapshot>>,
}

impl Loader {
    /// A loader for the sources of a file in the folder `base`.
    pub fn new(base: PathBuf, device: DeviceChoice, offline: bool) -> Self {
        Self { base, device, offline, found: RefCell::default() }
    }

    /// Whether a model comes from the hub.
    pub fn is_from_hub(&self, model: &ModelSpec) -> bool {
        matches!(&model.source, ModelSource::Name(name) if self.local_path(name).is_none())
    }

    /// Finds a model's files, from the hub where the source is a hub id.
    ///
    /// # Errors
    /// The folder doesn't exist, or the hub can't give the model.
    pub fn locate(&self, model: &ModelSpec) -> Result<Location> {
        let ModelSource::Name(name) = &model.source else { return Ok(Location::Simulated) };
        if let Some(path) = self.local_path(name) {
            if !path.is_dir() {
                let message = format!("model `{}`: no folder `{}`", model.label, path.display());
                let hint = "a local source starts with `./`, `../`, `~/` or `/` and is relative to the sweep file; \
                            a hub id has the form `owner/name`";
                return Err(Error::input(message).hint(hint));
            }
            return Ok(Location::Folder { path, commit: None });
        }
        let snapshot = self.snapshot(name, model).map_err(|error| error.at(format!("model `{}`", model.label)))?;
        Ok(Location::Folder { path: snapshot.folder, commit: snapshot.commit })
    }

    fn snapshot(&self, name: &str, model: &ModelSpec) -> Result<hub::Snapshot> {
        let key = (name.to_owned(), model.revision.clone());
        if let Some(known) = self.found.borrow().get(&key) {
            return Ok(known.clone());
        }
        let snapshot = hub::model(name, model.revision.as_deref(), self.offline).map_err(|error| {
            match self.base.join(name).is_dir() {
                true => error.hint(format!("for the folder write `./{name}`: a name without `./` is a hub id")),
                false => error,
            }
        })?;
        self.found.borrow_mut().insert(key, snapshot.clone());
        Ok(snapshot)
    }

    /// What a model is, from its configuration and the headers of its weights; `None` for a simulated one.
    ///
    /// # Errors
    /// The model can't be found or can't be served.
    pub fn inspect(&self, model: &ModelSpec) -> Result<Option<ModelSummary>> {
        match self.locate(model)? {
            Location::Folder { path, .. } => {
                load::inspect(&path).map(Some).map_err(|error| error.at(format!("model `{}`", model.label)))
            }
            Location::Simulated => Ok(None),
        }
    }

    /// The data type that a model will run in, given what its weights are stored in.
    pub fn dtype(&self, model: &ModelSpec, summary: Option<&ModelSummary>) -> String {
        let asked = model.dtype.map(crate::sweep::spec::Dtype::name);
        let only = summary.and_then(|summary| summary.only_dtype);
        let stored = summary.map(|summary| summary.stored_dtype.as_str());
        match asked.or(only).or(stored).unwrap_or("f32") {
            // the processor has no bf16 products: the engine runs such weights in f32
            "bf16" if !self.device.is_gpu() => "f32".to_owned(),
            dtype => dtype.to_owned(),
        }
    }

    /// Loads a model for one block.
    ///
    /// # Errors
    /// Its files are missing, malformed or not served, or it doesn't fit.
    pub fn load(&self, model: &ModelSpec, clock: &Clock) -> Result<Model> {
        let at = |error: Error| error.at(format!("model `{}`", model.label));
        match (&model.source, self.locate(model)?) {
            (ModelSource::Synthetic(spec), _) => {
                let engine = Synthetic::new(spec.clone(), device(clock)?).map_err(at)?;
                Ok(Model { engine: Box::new(engine), codec: Codec::Words })
            }
            (ModelSource::Name(_), Location::Folder { path, commit }) => {
                let dtype = model.dtype.map(crate::sweep::spec::Dtype::name);
                let options = load::LoadOptions { dtype, revision: commit };
                let engine = load::load(&path, &options, self.device).map_err(at)?;
                let tokenizer = Tokenizer::load(&path).map_err(at)?;
                Ok(Model { engine, codec: Codec::Tokenizer(Box::new(tokenizer)) })
            }
            (ModelSource::Name(name), Location::Simulated) => {
                Err(Error::new(format!("model `{}`: `{name}` has no files", model.label)))
            }
        }
    }

    /// The folder that a source names, where it names one and no hub id.
    fn local_path(&self, name: &str) -> Option<PathBuf> {
        if let (Some(rest), Some(home)) = (name.strip_prefix("~/"), std::env::home_dir()) {
            return Some(home.join(rest));
        }
        let path = Path::new(name);
        let explicit = name.starts_with('.') || path.is_absolute();
        (explicit || hub::parse_id(name).is_none()).then(|| self.base.join(path))
    }
}

fn device(clock: &Clock) -> Result<SimulatedDevice> {
    match clock {
        Clock::Simulated(device) => Ok(device.clone()),
        Clock::Monotonic(_) => Err(Error::new("a simulated model needs the simulated clock")),
    }
}

/// Fails the cell where a prompt and its answer don't fit the model's positions.
///
/// # Errors
/// Names the longest prompt and the limit.
pub fn check_lengths(cell: &CellSpec, prompts: &[Prompt], limit: usize) -> Result<()> {
    let longest = prompts.iter().map(|prompt| prompt.ids.len()).max().unwrap_or(0);
    if longest.saturating_add(cell.max_new_tokens) <= limit {
        return Ok(());
    }
    let message = format!(
        "cell `{}`: the longest prompt has {longest} tokens and {} more are asked for, but the model has {limit} positions",
        cell.id, cell.max_new_tokens
    );
    Err(Error::input(message).hint("lower `max_new_tokens`, or use shorter prompts"))
}
