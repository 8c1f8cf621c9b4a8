//! A model ready to run: an engine together with its tokenizer, from wherever the sweep file says.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::clock::{Clock, SimulatedDevice};
use crate::digest::sha256;
use crate::engine::load::{DeviceChoice, ModelSummary};
use crate::engine::synthetic::{self, Synthetic};
use crate::engine::{Engine, Prompt, load};
use crate::error::{Error, Result};
use crate::hub;
use crate::record::{CellSpec, ChatTemplateInfo, PromptForm, PromptLimit, Truncate, Truncated};
use crate::sweep::spec::{ModelSource, ModelSpec, PromptSpec, TemplateChoice, WeightsChoice};
use crate::text::{Limit, ModelText, Prompter, Put, Rules, Side, TemplateSource, Tokenizer};

/// Seed of made-up weights.
const DUMMY_SEED: u64 = 42;

/// An engine and its tokenizer.
pub struct Model {
    /// The engine.
    pub engine: Box<dyn Engine>,
    /// Text to token ids and back.
    pub codec: Codec,
}

/// Text to token ids and back.
pub enum Codec {
    /// A model's own tokenizer, with how prompts are put to the model.
    Text(Box<TextCodec>),
    /// Words between blanks: the simulated model's.
    Words,
    /// Random token ids for prompts.
    Random(Box<RandomCodec>),
}

/// Random token ids for prompts, and a tokenizer for answers where there is one.
pub struct RandomCodec {
    vocab_size: usize,
    tokens: usize,
    tokenizer: Option<Tokenizer>,
}

impl RandomCodec {
    /// Ids that follow from the prompt's name alone: the same for models with the same vocabulary size.
    fn ids(&self, name: &str) -> Vec<u32> {
        let mut random = ChaCha8Rng::from_seed(sha256(name.as_bytes()));
        (0..self.tokens).map(|_| random.random_range(0..self.vocab_size as u32)).collect()
    }
}

/// How a model's prompts and answers are turned into token ids and back.
pub struct TextCodec {
    prompter: Prompter,
    form: PromptForm,
}

/// A list of prompts as a model reads them.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// The prompts, in order.
    pub list: Vec<Prompt>,
    /// What was cut off.
    pub truncated: Truncated,
}

impl Codec {
    /// How prompts are put to the model.
    pub fn form(&self) -> PromptForm {
        match self {
            Codec::Text(text) => text.form.clone(),
            Codec::Words | Codec::Random(_) => PromptForm::default(),
        }
    }

    /// Text of token ids, without special tokens.
    ///
    /// # Errors
    /// The tokenizer fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        match self {
            Codec::Text(text) => text.prompter.tokenizer().decode(ids),
            Codec::Words => Ok(synthetic::ids_to_text(ids)),
            Codec::Random(random) => random.tokenizer.as_ref().map_or(Ok(String::new()), |text| text.decode(ids)),
        }
    }

    /// Prompts as the model reads them: through its chat template, within the limit of length, with their ids.
    ///
    /// # Errors
    /// Names the first prompt that the template refuses, that is too long, or that gives no token at all.
    pub fn prompts<'a>(&self, texts: impl Iterator<Item = &'a str>) -> Result<Encoded> {
        let mut encoded = Encoded { list: Vec::new(), truncated: Truncated::default() };
        for (index, text) in texts.enumerate() {
            let put = self.put(text).map_err(|error| error.at(format!("prompt {} ({})", index + 1, opening(text))))?;
            encoded.truncated.of += 1;
            encoded.truncated.prompts += usize::from(put.dropped > 0);
            encoded.truncated.tokens += put.dropped as u64;
            encoded.list.push(Prompt { text: put.text, ids: put.ids });
        }
        Ok(encoded)
    }

    fn put(&self, text: &str) -> Result<Put> {
        let put = match self {
            Codec::Text(codec) => codec.prompter.put(text)?,
            Codec::Words => Put { text: text.to_owned(), ids: synthetic::words_to_ids(text), dropped: 0 },
            Codec::Random(random) => Put { text: text.to_owned(), ids: random.ids(text), dropped: 0 },
        };
        match put.ids.is_empty() {
            true => Err(Error::input("it gives no tokens").hint("remove empty prompts")),
            false => Ok(put),
        }
    }
}

/// The first words of a prompt, enough to find it by.
fn opening(text: &str) -> String {
    const SHOWN: usize = 40;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("`{}…`", &line[..end]),
        None => format!("`{line}`"),
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
    /// How prompts are put to the models; `None`: as they are.
    prompts: Option<PromptSpec>,
    /// Models of the hub that were found: a block's load must not ask the network again.
    found: RefCell<BTreeMap<(hub::Source, Option<String>), hub::Snapshot>>,
}

impl Loader {
    /// A loader for the sources of a file in the folder `base`; `watch` hears of what is fetched from the hub.
    pub fn new(base: PathBuf, device: DeviceChoice, offline: bool, watch: hub::Watch) -> Self {
        Self { base, device, offline, watch, prompts: None, found: RefCell::default() }
    }

    /// The same loader for models that are given prompts as the sweep file says.
    #[must_use]
    pub fn with_prompts(self, prompts: &PromptSpec) -> Self {
        Self { prompts: Some(prompts.clone()), ..self }
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
    /// The model or its adapter can't be found or can't be served.
    pub fn inspect(&self, model: &ModelSpec) -> Result<Option<ModelSummary>> {
        let at = |error: Error| error.at(format!("model `{}`", model.label));
        let location = self.locate(model)?;
        let Some((path, commit)) = location.files() else { return Ok(None) };
        self.with_options(model, commit, |options| load::inspect(path, options)).map(Some).map_err(at)
    }

    /// Computes the digests of a model's files, which are then known for the life of the process.
    ///
    /// # Errors
    /// As for [`Loader::inspect`], or a file can't be read.
    pub fn hash(&self, model: &ModelSpec) -> Result<()> {
        let at = |error: Error| error.at(format!("model `{}`", model.label));
        let location = self.locate(model)?;
        let Some((path, commit)) = location.files() else { return Ok(()) };
        self.with_options(model, commit, |options| load::hash(path, options)).map_err(at)
    }

    /// Gives what the sweep file says about loading a model.
    fn with_options<T>(
        &self,
        model: &ModelSpec,
        commit: Option<&str>,
        work: impl FnOnce(&load::LoadOptions<'_>) -> Result<T>,
    ) -> Result<T> {
        let adapter = model.adapter.as_deref().map(|adapter| self.adapter(adapter)).transpose()?;
        let devices = load::devices(self.device, model.devices.as_deref());
        work(&load::LoadOptions {
            dtype: model.dtype.map(crate::sweep::spec::Dtype::name),
            revision: commit.map(str::to_owned),
            more_devices: devices.into_iter().skip(1).collect(),
            adapter: adapter.as_deref(),
            dummy: (model.weights == WeightsChoice::Dummy).then_some(DUMMY_SEED),
        })
    }

    fn adapter(&self, source: &str) -> Result<PathBuf> {
        let found = self.find(source, None).map_err(|error| error.at(format!("adapter `{source}`")))?;
        match found {
            Location::Folder { path, .. } => Ok(path),
            Location::Gguf { .. } | Location::Simulated => Err(Error::input(format!(
                "adapter `{source}` isn't a folder or a repository"
            ))
            .hint("name what PEFT's `save_pretrained` writes: `adapter_config.json` and `adapter_model.safetensors`")),
        }
    }

    /// The first of the devices that a model runs on.
    pub fn first_device(&self, model: &ModelSpec) -> DeviceChoice {
        load::devices(self.device, model.devices.as_deref()).first().copied().unwrap_or(self.device)
    }

    /// Bytes that are free on the devices that a model runs on, where that can be told.
    pub fn free_memory(&self, model: &ModelSpec) -> Option<u64> {
        load::devices(self.device, model.devices.as_deref()).into_iter().map(DeviceChoice::free_memory).sum()
    }

    /// The data type that a model will run in, given what its weights are stored in.
    pub fn dtype(&self, model: &ModelSpec, summary: Option<&ModelSummary>) -> String {
        let asked = model.dtype.map(crate::sweep::spec::Dtype::name);
        let only = summary.and_then(|summary| summary.only_dtype);
        let stored = summary.map(|summary| summary.stored_dtype.as_str());
        match asked.or(only).or(stored).unwrap_or("f32") {
            // the processor has no bf16 products and slow ones of f16: the engine runs such weights in f32
            "bf16" if !self.first_device(model).is_gpu() => "f32".to_owned(),
            "f16" if asked.is_none() && !self.first_device(model).is_gpu() => "f32".to_owned(),
            dtype => dtype.to_owned(),
        }
    }

    /// Loads a model for one block, without its tokenizer.
    ///
    /// # Errors
    /// Its files are missing, malformed or not served, or it doesn't fit.
    pub fn engine(&self, model: &ModelSpec, clock: &Clock) -> Result<Box<dyn Engine>> {
        let at = |error: Error| error.at(format!("model `{}`", model.label));
        if let ModelSource::Synthetic(spec) = &model.source {
            return Ok(Box::new(Synthetic::new(spec.clone(), device(clock)?).map_err(at)?));
        }
        let location = self.locate(model)?;
        let Some((path, commit)) = location.files() else {
            return Err(at(Error::new(format!("`{}` has no files", model.source.name()))));
        };
        let device = self.first_device(model);
        self.with_options(model, commit, |options| load::load(path, options, device)).map_err(at)
    }

    /// How a model's prompts and answers are turned into token ids and back.
    ///
    /// # Errors
    /// The model can't be found, or its tokenizer or chat template is missing or damaged.
    pub fn codec(&self, model: &ModelSpec) -> Result<Codec> {
        let at = |error: Error| error.at(format!("model `{}`", model.label));
        let location = self.locate(model)?;
        if location == Location::Simulated {
            return Ok(Codec::Words);
        }
        match self.prompts.as_ref().and_then(|prompts| prompts.random) {
            None => location.text().and_then(|text| self.codec_of(model, text)).map_err(at),
            Some(random) => {
                let vocab_size = self.inspect(model)?.map_or(0, |summary| summary.vocab_size);
                let tokenizer = match location.has_tokenizer() {
                    true => Some(location.text().map_err(at)?.tokenizer),
                    false => None,
                };
                Ok(Codec::Random(Box::new(RandomCodec { vocab_size, tokens: random.tokens, tokenizer })))
            }
        }
    }

    /// Loads a model for one block.
    ///
    /// # Errors
    /// As for [`Loader::engine`] and [`Loader::codec`].
    pub fn load(&self, model: &ModelSpec, clock: &Clock) -> Result<Model> {
        Ok(Model { engine: self.engine(model, clock)?, codec: self.codec(model)? })
    }

    fn codec_of(&self, model: &ModelSpec, text: ModelText) -> Result<Codec> {
        let rules = self.rules(model, &text)?;
        let has_own = matches!(&text.template, Ok(Some(_)) | Err(_));
        let form = form(&rules, has_own);
        let prompter = Prompter::new(text, rules)?;
        Ok(Codec::Text(Box::new(TextCodec { prompter, form })))
    }

    fn rules(&self, model: &ModelSpec, text: &ModelText) -> Result<Rules> {
        let Some(prompts) = &self.prompts else { return Ok(Rules::default()) };
        let template = match prompts.template_of(model) {
            TemplateChoice::None => None,
            TemplateChoice::Auto => text.template.clone()?,
            TemplateChoice::File(path) => {
                Some(TemplateSource::read(&self.base.join(path), &path.display().to_string())?)
            }
        };
        let mut variables = prompts.template_variables.clone();
        variables.extend(model.template_variables.clone());
        let cut = match prompts.truncate {
            Truncate::None => None,
            Truncate::Left => Some(Side::Left),
            Truncate::Right => Some(Side::Right),
        };
        let limit = prompts.max_tokens.map(|max_tokens| Limit { max_tokens, cut });
        Ok(Rules { template, system: prompts.system.clone(), variables, date: prompts.date, limit })
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

impl Location {
    /// The folder or file that holds the weights, and the hub's commit.
    fn files(&self) -> Option<(&Path, Option<&str>)> {
        match self {
            Location::Folder { path, commit } | Location::Gguf { path, commit, .. } => Some((path, commit.as_deref())),
            Location::Simulated => None,
        }
    }

    /// Whether a tokenizer lies with the weights.
    fn has_tokenizer(&self) -> bool {
        match self {
            Location::Folder { path, .. } => path.join("tokenizer.json").is_file(),
            Location::Gguf { .. } => true,
            Location::Simulated => false,
        }
    }

    /// The text side of the model. A `tokenizer.json` beside a GGUF file wins over what the file says itself.
    fn text(&self) -> Result<ModelText> {
        match self {
            Location::Folder { path, .. } => ModelText::load(path),
            Location::Gguf { folder, .. } if folder.join("tokenizer.json").is_file() => ModelText::load(folder),
            Location::Gguf { path, .. } => load::gguf_tokenizer(path)?.text(&path.display().to_string()),
            Location::Simulated => Err(Error::new("a simulated model has no tokenizer")),
        }
    }
}

/// What the record keeps of the rules.
fn form(rules: &Rules, has_own_template: bool) -> PromptForm {
    let info = |source: &TemplateSource| ChatTemplateInfo {
        source: source.name.clone(),
        sha256: source.sha256(),
        system: rules.system.clone(),
        variables: rules.variables.clone(),
        date: rules.date.to_string(),
    };
    let limit = |limit: Limit| PromptLimit {
        max_tokens: limit.max_tokens,
        truncate: match limit.cut {
            None => Truncate::None,
            Some(Side::Left) => Truncate::Left,
            Some(Side::Right) => Truncate::Right,
        },
    };
    PromptForm {
        chat_template: rules.template.as_ref().map(info),
        unused_template: has_own_template && rules.template.is_none(),
        limit: rules.limit.map(limit),
        ..PromptForm::default()
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
