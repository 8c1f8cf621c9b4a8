//! A model on its way to being measured: its prompts as token ids, then its weights.

use crate::clock::Clock;
use crate::engine::{Engine, Prompt};
use crate::error::{Error, Kind, Result};
use crate::meter::Meter;
use crate::model::{Codec, TokenizedPrompts};
use crate::record::{Cost, FailureKind, IdleBaseline, PromptForm};
use crate::run::prepare::Prepared;
use crate::stage;
use crate::sweep::spec::ModelSpec;
use crate::units::Seconds;

/// A model whose weights aren't loaded yet.
pub(super) struct Encoder {
    codec: Codec,
    encoded: TokenizedPrompts,
}

/// A model that is ready to be measured.
pub(super) struct Loaded {
    pub(crate) label: String,
    pub(crate) engine: Box<dyn Engine>,
    pub(crate) codec: Codec,
    pub(crate) prompts: Vec<Prompt>,
    /// How the prompts are put to the model.
    pub(crate) form: PromptForm,
    /// Time and energy of loading.
    pub(crate) load: Cost,
    /// How long the device has idled since the last work, and cooled.
    pub(crate) rest: Seconds,
    /// The newest idle baseline with the model loaded.
    pub(crate) idle: Option<IdleBaseline>,
}

/// Why no cell of a model can be measured.
pub(super) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) error: Error,
}

impl Failure {
    pub(super) fn new(kind: FailureKind, error: Error) -> Self {
        // a meter fails in its own way, whatever it was measuring. Running out of memory doesn't: while a model is
        // loaded it says nothing about the cells, since another process may hold the memory
        let kind = if error.kind() == Kind::Meter { FailureKind::Meter } else { kind };
        Self { kind, error }
    }
}

impl Encoder {
    /// Opens the model's tokenizer and encodes the prompts of the energy windows.
    pub(super) fn new(prepared: &Prepared, spec: &ModelSpec) -> Result<Self, Failure> {
        let codec = prepared.loader.codec(spec).map_err(|error| Failure::new(FailureKind::Load, error))?;
        let texts = prepared.prompts.items.iter().map(|item| item.text.as_str());
        let encoded = codec.prompts(texts).map_err(|error| Failure::new(FailureKind::Prompt, error))?;
        Ok(Self { codec, encoded })
    }

    /// Tokens of the longest prompt.
    pub(crate) fn longest(&self) -> usize {
        self.encoded.prompts.iter().map(|prompt| prompt.ids.len()).max().unwrap_or(0)
    }

    /// Loads the weights.
    pub(super) fn load(
        self,
        prepared: &Prepared,
        spec: &ModelSpec,
        meter: &mut dyn Meter,
        clock: &Clock,
    ) -> Result<Loaded, Failure> {
        let loader = &prepared.loader;
        // the files are hashed once for the record, which is no part of what loading costs
        let loaded = loader.hash(spec).and_then(|()| stage::cost(meter, clock, || loader.engine(spec, clock)));
        let (engine, load) = loaded.map_err(|error| Failure::new(FailureKind::Load, error))?;
        let form = PromptForm { energy: Some(self.encoded.truncated), ..self.codec.form() };
        let (label, prompts) = (spec.label.clone(), self.encoded.prompts);
        let rest = load.duration_s;
        Ok(Loaded { label, engine, codec: self.codec, prompts, form, load, rest, idle: None })
    }
}
