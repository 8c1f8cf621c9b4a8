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
    /// A GGUF file; tokenizer files lie beside it, or in `folder` where it comes from the hub.
    Gguf {
        /// The file.
        path: PathBuf,
        /// The folder of what belongs to it: `tokenizer.json` and its like, where they are there.
        folder: PathBuf,
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
    /// Hears of downloads.
    watch: hub::Watch,
    /// Models of the hub that were found: a block's load must not ask the network again.
    found: RefCell<BTreeMap<(hub::Source, Option<String>), hub::Snapshot>>,
}

impl Loader {
    /// A loader for the sources of a file in the folder `base`; `watch` hears of what is fetched from the hub.
    pub fn new(base: PathBuf, device: DeviceChoice, offline: bool, watch: hub::Watch) -> Self {
        Self { base, device, offline, watch, found: RefCell::default() }
    }

    /// Whether a model comes from the hub.
    pub fn is_from_hub(&self, model: &ModelSpec) -> bool {
        matches!(&model.source, ModelSource::Name(name) if matches!(self.place(name), Place::Hub(_)))
    }

    /// Finds a model's files, from the hub where the source is a hub id.
    ///
    /// # Errors
    /// The folder or file doesn't exist, or the hub can't give the model.
    pub fn locate(&self, model: &ModelSpec) -> Result<Location> {
        let ModelSource::Name(name) = &model.source else { return Ok(Location::Simulated) };
        let found = self.find(name, model.revision.as_deref());
        found.map_err(|error| error.at(format!("model `{}`", model.label)))
    }

    /// Finds the files that a source names: a folder, a GGUF file, or what `hub::Source` reads.
    ///
    /// # Errors
    /// As for [`Loader::locate`].
    pub fn find(&self, source: &str, revision: Option<&str>) -> Result<Location> {
        let hint = "a local source starts with `./`, `../`, `~/` or `/` and is relative to the sweep file; \
                    a hub id has the form `owner/name`";
        match self.place(source) {
            Place::Local(_) if revision.is_some() => {
                Err(Error::input(format!("`{source}` is local: it has no revision"))
                    .hint("remove `revision`, or name a model of the hub"))
            }
            Place::Local(path) if path.is_dir() => Ok(Location::Folder { path, commit: None }),
            Place::Local(path) if hub::is_gguf(source) => match path.is_file() {
                true => {
                    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
                    Ok(Location::Gguf { path, folder, commit: None })
                }
                false => Err(Error::input(format!("no file `{}`", path.display())).hint(hint)),
            },
            Place::Local(path) => Err(Error::input(format!("no folder `{}`", path.display())).hint(hint)),
            Place::Hub(id) => self.fetch(source, id, revision),
        }
    }

    fn fetch(&self, name: &str, source: hub::Source, revision: Option<&str>) -> Result<Location> {
        let key = (source, revision.map(str::to_owned));
        let known = self.found.borrow().get(&key).cloned();
        let snapshot = match known {
            Some(snapshot) => snapshot,
            None => {
                let fetched = hub::model(&key.0, revision, self.offline, &self.watch);
                fetched.map_err(|error| self.or_local(name, error))?
            }
        };
        self.found.borrow_mut().insert(key, snapshot.clone());
        let hub::Snapshot { folder, commit, gguf } = snapshot;
        Ok(match gguf {
            Some(path) => Location::Gguf { path, folder, commit: Some(commit) },
            None => Location::Folder { path: folder, commit: Some(commit) },
        })
    }

    /// A name that the hub doesn't give may have been meant for something local.
    fn or_local(&self, name: &str, error: Error) -> Error {
        if self.base.join(name).exists() {
            return error
                .hint(format!("for the local one write `./{name}`: a name with a slash and without `./` is a hub id"));
        }
        match name.contains('/') {
            true => error,
            false => error.at(format!("no folder `{}`, and from the hub", self.base.join(name).display())),
        }
    }

    /// What a model is, from its configuration and the headers of its weights; `None` for a simulated one.
    ///
    /// # Errors
    /// The model can't be found or can't be served.
    pub fn inspect(&self, model: &ModelSpec) -> Result<Option<ModelSummary>> {
        match self.locate(model)? {
            Location::Folder { path, .. } => {
                load::inspect(&path, None).map(Some).map_err(|error| error.at(format!("model `{}`", model.label)))
            }
            Location::Gguf { path, .. } => Err(gguf_not_served(&path).at(format!("model `{}`", model.label))),
            Location::Simulated => Ok(None),
        }
    }

    /// The data type that a model will run in, given what its weights are stored in.
    pub fn dtype(&self, model: &ModelSpec, summary: Option<&ModelSummary>) -> String {
        let asked = model.dtype.map(crate::sweep::spec::Dtype::name);
        let stored = summary.map(|summary| summary.stored_dtype.as_str());
        match asked.or(stored).unwrap_or("f32") {
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
                let options = load::LoadOptions { dtype, revision: commit, ..load::LoadOptions::default() };
                let engine = load::load(&path, &options, self.device).map_err(at)?;
                let tokenizer = Tokenizer::load(&path).map_err(at)?;
                Ok(Model { engine, codec: Codec::Tokenizer(Box::new(tokenizer)) })
            }
            (ModelSource::Name(_), Location::Gguf { path, .. }) => Err(at(gguf_not_served(&path))),
            (ModelSource::Name(name), Location::Simulated) => {
                Err(Error::new(format!("model `{}`: `{name}` has no files", model.label)))
            }
        }
    }

    /// What a source names. A bare name (`gpt2`) is a folder where there is one, else one of the hub's oldest models.
    fn place(&self, name: &str) -> Place {
        if let (Some(rest), Some(home)) = (name.strip_prefix("~/"), std::env::home_dir()) {
            return Place::Local(home.join(rest));
        }
        let path = self.base.join(name);
        match hub::Source::parse(name) {
            Some(source) if name.contains(['/', ':']) || !path.is_dir() => Place::Hub(source),
            _ => Place::Local(path),
        }
    }
}

/// Where a source points.
enum Place {
    Local(PathBuf),
    Hub(hub::Source),
}

fn gguf_not_served(path: &Path) -> Error {
    Error::input(format!("`{}`: this version doesn't run GGUF files", path.display()))
        .hint("name the model's folder or repository in safetensors")
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
