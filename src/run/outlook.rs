//! What can be said of a sweep before anything is measured: tokens, memory and time of each cell, and problems.

use std::collections::BTreeMap;

use crate::engine::Prompt;
use crate::engine::load::ModelSummary;
use crate::error::{Error, Result};
use crate::meter;
use crate::model::{self, Codec};
use crate::record::{CellSpec, MeterInfo, OutputLength, PromptForm, Protocol};
use crate::run::fit::{self, Device, Fit};
use crate::run::info;
use crate::run::prepare::Prepared;
use crate::sweep::spec::ModelSpec;
use crate::units::Seconds;

/// What is known of a sweep.
pub(crate) struct Outlook<'a> {
    prepared: &'a Prepared,
    /// This machine's meter, if it has one that fits.
    pub(crate) meter: Option<MeterInfo>,
    protocol: Option<Protocol>,
    models: BTreeMap<&'a str, KnownModel<'a>>,
    /// Everything that would make the sweep fail.
    pub(crate) problems: Vec<Error>,
    /// Models of the hub of which nothing is known until they are downloaded.
    pub(crate) not_yet_known: Vec<Error>,
}

#[derive(Default)]
struct KnownModel<'a> {
    summary: Option<&'a ModelSummary>,
    /// The prompts of the energy windows, and how all prompts are put to the model.
    prompts: Option<(Vec<Prompt>, PromptForm)>,
}

/// What is known of a cell; `None` stands for unknown.
pub(crate) struct CellOutlook {
    /// Input tokens of one pass.
    pub(crate) tokens_in: Option<usize>,
    /// Output tokens of one pass, or the most there can be.
    pub(crate) tokens_out: usize,
    /// Whether every pass has exactly that many.
    pub(crate) is_exact: bool,
    /// Bytes of weights, KV cache and activations.
    pub(crate) memory: Option<u64>,
    /// Shortest time of all its repeats: warm-up, guard and window. A pass that takes longer adds to it.
    pub(crate) least_time: Option<Seconds>,
    /// Why the cell can't run.
    pub(crate) problem: Option<Error>,
    /// Why a run skips it.
    pub(crate) misfit: Option<String>,
}

impl<'a> Outlook<'a> {
    /// Looks at the meter, the models and the prompts, collecting problems.
    pub(crate) fn new(prepared: &'a Prepared) -> Self {
        let mut outlook = Self {
            prepared,
            meter: None,
            protocol: None,
            models: BTreeMap::new(),
            problems: Vec::new(),
            not_yet_known: Vec::new(),
        };
        for spec in &prepared.spec.models {
            let known = outlook.model(spec);
            outlook.models.insert(&spec.label, known);
        }
        outlook.meter = meter_info(prepared).map_err(|error| outlook.problems.push(error)).ok();
        outlook.protocol = outlook.meter.as_ref().map(|meter| prepared.spec.measure.protocol(meter));
        outlook
    }

    fn model(&mut self, spec: &'a ModelSpec) -> KnownModel<'a> {
        let prepared = self.prepared;
        let summary = match prepared.models.get(&spec.label) {
            Some(Ok(summary)) => summary.as_ref(),
            Some(Err(error)) => {
                let list = match prepared.loader.is_from_hub(spec) {
                    true => &mut self.not_yet_known,
                    false => &mut self.problems,
                };
                list.push(error.clone());
                None
            }
            None => None,
        };
        let at = |error: Error| error.at(format!("model `{}`", spec.label));
        let encoded = codec(prepared, spec, summary)
            .and_then(|codec| codec.map(|codec| encode(prepared, &codec).map_err(at)).transpose());
        let prompts = encoded.unwrap_or_else(|error| {
            self.problems.push(error);
            None
        });
        KnownModel { summary, prompts }
    }

    /// What is known of a cell of the plan.
    pub(crate) fn cell(&self, cell: &CellSpec) -> CellOutlook {
        let known = &self.models[cell.model.as_str()];
        let prompts = known.prompts.as_ref().map(|(prompts, _)| prompts.as_slice());
        CellOutlook {
            tokens_in: prompts.map(|prompts| prompts.iter().map(|prompt| prompt.ids.len()).sum()),
            tokens_out: self.prepared.prompts.items.len() * cell.max_new_tokens,
            is_exact: cell.output_length == OutputLength::Fixed,
            memory: self.memory(cell, known),
            least_time: self.protocol.as_ref().map(|protocol| self.repeats_of_a_cell(protocol)),
            problem: too_long(cell, known).err(),
            misfit: self.misfit(cell, known),
        }
    }

    /// How each model is given the prompts, by label.
    pub(crate) fn forms(&self) -> impl Iterator<Item = (&str, &PromptForm)> {
        self.models.iter().filter_map(|(label, known)| Some((*label, &known.prompts.as_ref()?.1)))
    }

    /// Shortest time of `cells` cells with all repeats and idle baselines; `None` without a meter.
    pub(crate) fn least_time(&self, cells: usize) -> Option<Seconds> {
        let protocol = self.protocol.as_ref()?;
        let loads = self.prepared.spec.models.len() as f64 * f64::from(self.prepared.plan.blocks);
        let baselines = (protocol.idle_s + protocol.settle_s) * (2.0 * loads);
        Some(self.repeats_of_a_cell(protocol) * cells as f64 + baselines)
    }

    fn repeats_of_a_cell(&self, protocol: &Protocol) -> Seconds {
        let once = protocol.warmup_s + protocol.guard_s * 2.0 + protocol.min_window_s;
        once * f64::from(self.prepared.plan.blocks)
    }

    fn memory(&self, cell: &CellSpec, known: &KnownModel<'_>) -> Option<u64> {
        let on_gpu = self.prepared.loader.first_device(self.prepared.spec.model(&cell.model)?).is_gpu();
        Some(fit::need(cell, known.summary?, known.longest()?, on_gpu).total())
    }

    fn misfit(&self, cell: &CellSpec, known: &KnownModel<'_>) -> Option<String> {
        let device = Device::of(&self.prepared.loader, self.prepared.spec.model(&cell.model)?);
        Fit::default().obstacle(cell, known.summary, known.longest()?, device)
    }
}

impl KnownModel<'_> {
    /// Tokens of the longest prompt.
    fn longest(&self) -> Option<usize> {
        let (prompts, _) = self.prompts.as_ref()?;
        Some(prompts.iter().map(|prompt| prompt.ids.len()).max().unwrap_or(0))
    }
}

/// Opens this machine's meter, and reads the training records, as a run would.
fn meter_info(prepared: &Prepared) -> Result<MeterInfo> {
    let clock = prepared.clock();
    let meter = meter::open(prepared.meter_choice(&clock), &prepared.meter_options(), &clock)?;
    info::run_info(prepared, meter.info())?;
    Ok(meter.info().clone())
}

fn codec(prepared: &Prepared, spec: &ModelSpec, summary: Option<&ModelSummary>) -> Result<Option<Codec>> {
    match (prepared.loader.locate(spec), summary) {
        (Ok(model::Location::Simulated), _) => Ok(Some(Codec::Words)),
        (Ok(_), Some(_)) => prepared.loader.codec(spec).map(Some),
        // reported with the model itself
        _ => Ok(None),
    }
}

fn encode(prepared: &Prepared, codec: &Codec) -> Result<(Vec<Prompt>, PromptForm)> {
    let encoded = codec.prompts(prepared.prompts.items.iter().map(|item| item.text.as_str()))?;
    let scored = prepared.accuracy.as_ref().map(|set| codec.prompts(set.items.iter().map(|item| item.text.as_str())));
    let accuracy = scored.transpose().map_err(|error| error.at("accuracy"))?.map(|encoded| encoded.truncated);
    Ok((encoded.prompts, PromptForm { energy: Some(encoded.truncated), accuracy, ..codec.form() }))
}

fn too_long(cell: &CellSpec, known: &KnownModel<'_>) -> Result<()> {
    match (&known.prompts, known.summary) {
        (Some((prompts, _)), Some(summary)) => model::check_lengths(cell, prompts, summary.max_positions),
        _ => Ok(()),
    }
}
