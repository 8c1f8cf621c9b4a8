//! Everything that is known before a model is loaded: the sweep, its prompts, its models, the plan.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::clock::{Clock, SimulatedDevice};
use crate::engine::load::{self, DeviceChoice, ModelSummary};
use crate::error::{Error, Kind, Result};
use crate::hub::Watch;
use crate::meter::{EngineGpu, MeterOptions};
use crate::model::Loader;
use crate::prompts::PromptSet;
use crate::record::MeterChoice;
use crate::sweep::plan::CellFilter;
use crate::sweep::spec::{AccuracySpec, ModelSource, ModelSpec, PromptSpec};
use crate::sweep::{Plan, SweepSpec};
use crate::units::Watts;

/// A sweep that is ready to be measured.
pub(crate) struct Prepared {
    /// Path of the sweep file.
    pub(crate) file: PathBuf,
    /// Text of the sweep file.
    pub(crate) yaml: String,
    pub(crate) spec: SweepSpec,
    /// Finds and loads the models.
    pub(crate) loader: Loader,
    /// The prompts of the energy windows.
    pub(crate) prompts: PromptSet,
    /// The prompts of the accuracy, if it is measured.
    pub(crate) accuracy: Option<PromptSet>,
    /// Sizes of each model by label, or why they aren't known; a simulated model has none.
    pub(crate) models: BTreeMap<String, Result<Option<ModelSummary>>>,
    pub(crate) plan: Plan,
}

impl Prepared {
    /// Reads a sweep file and everything that it names.
    ///
    /// A model that can't be found or isn't supported doesn't stop the others: it is kept as an error. `watch` is
    /// notified of downloads.
    ///
    /// # Errors
    /// The sweep file, a prompt file or the plan is wrong.
    pub(crate) fn new(file: &Path, device: DeviceChoice, offline: bool, watch: Watch) -> Result<Self> {
        device.check()?;
        let (spec, yaml) = SweepSpec::read(file)?;
        let base = file.parent().unwrap_or(Path::new("")).to_owned();
        let loader = Loader::new(base, device, offline, watch);
        let loader = loader.with_prompts(&spec.prompts).with_kernels(spec.engine.kernels);
        let prompts = energy_prompts(&spec.prompts, &loader)?;
        let accuracy = spec.accuracy.as_ref().map(|accuracy| accuracy_prompts(accuracy, &loader)).transpose()?;
        let inspect = |model: &ModelSpec| (model.label.clone(), loader.inspect(model));
        let models: BTreeMap<_, _> = spec.models.iter().map(inspect).collect();
        if let Some(error) =
            models.values().filter_map(|known| known.as_ref().err()).find(|error| error.kind() == Kind::Interrupted)
        {
            return Err(error.clone());
        }
        let dtypes = spec.models.iter().filter_map(|model| {
            let summary = models.get(&model.label)?.as_ref().ok()?;
            Some((model.label.clone(), loader.dtype(model, summary.as_ref())))
        });
        let plan = Plan::new(&spec, &dtypes.collect())?;
        full_batches(&plan, prompts.items.len())?;
        Ok(Self { file: file.to_owned(), yaml, spec, loader, prompts, accuracy, models, plan })
    }

    /// Reads `--only`.
    ///
    /// # Errors
    /// The glob is malformed, or matches no cell.
    pub(crate) fn filter(&self, glob: Option<&str>) -> Result<Option<CellFilter>> {
        let Some(filter) = glob.map(CellFilter::new).transpose()? else { return Ok(None) };
        if self.plan.cells.iter().any(|cell| filter.matches(&cell.id)) {
            return Ok(Some(filter));
        }
        let first = self.plan.cells.first().map_or_else(String::new, |cell| format!(", such as `{}`", cell.id));
        Err(Error::input("`--only` matches no cell").with_hint(format!("`ept-sweep plan` lists the cell ids{first}")))
    }

    /// The clock: that of the simulated device if the models are simulated.
    pub(crate) fn clock(&self) -> Clock {
        let mut simulated = self.spec.models.iter().filter_map(|model| match &model.source {
            ModelSource::Synthetic(spec) => Some(spec),
            ModelSource::Name(_) => None,
        });
        let Some(first) = simulated.next() else { return Clock::monotonic() };
        let idle = Watts(first.idle_w);
        let heat = first.heat.or_else(|| simulated.find_map(|spec| spec.heat));
        Clock::Simulated(
            heat.map_or_else(|| SimulatedDevice::new(idle), |heat| SimulatedDevice::with_heat(idle, heat.heating())),
        )
    }

    /// The meter to open: a simulated model needs the synthetic one.
    pub(crate) fn meter_choice(&self, clock: &Clock) -> MeterChoice {
        match clock {
            Clock::Simulated(_) => MeterChoice::Synthetic,
            Clock::Monotonic(_) => self.spec.measure.meter,
        }
    }

    /// The GPUs that the models run on: the same for all of them.
    fn engine_gpus(&self) -> Vec<EngineGpu> {
        let named = self.spec.models.iter().find_map(|model| model.devices.as_deref());
        let gpus = load::devices(self.loader.device, named).into_iter().filter_map(DeviceChoice::gpu_index);
        gpus.map(|ordinal| EngineGpu { ordinal, uuid: load::uuid(ordinal) }).collect()
    }

    /// How to open the meter.
    pub(crate) fn meter_options(&self) -> MeterOptions {
        MeterOptions {
            gpu_indices: self.spec.measure.gpu_indices.clone(),
            coefficients: self.spec.measure.modelled.unwrap_or_default(),
            engine_gpus: self.engine_gpus(),
            without_cpu: !self.spec.measure.cpu_energy,
            command: None,
        }
    }
}

/// A batch that the prompts can't fill would be reported under a size that never ran.
fn full_batches(plan: &Plan, prompts: usize) -> Result<()> {
    match plan.cells.iter().find(|cell| cell.batch_size > prompts) {
        None => Ok(()),
        Some(cell) => {
            let message = format!(
                "cell `{}`: a batch of {} needs as many prompts, and there are {prompts}",
                cell.id, cell.batch_size
            );
            Err(Error::input(message).with_hint("raise `prompts.count`, or lower the batch size"))
        }
    }
}

fn energy_prompts(spec: &PromptSpec, loader: &Loader) -> Result<PromptSet> {
    if let (Some(random), Some(count)) = (spec.random, spec.count) {
        return Ok(PromptSet::random(count, random.tokens, spec.seed));
    }
    let set = match (&spec.file, &spec.text) {
        (Some(file), _) => PromptSet::read(&loader.base.join(file), &file.display().to_string())?,
        (None, texts) => PromptSet::from_texts("the sweep file", texts.as_deref().unwrap_or_default()),
    };
    set.draw(spec.count, spec.seed)
}

fn accuracy_prompts(spec: &AccuracySpec, loader: &Loader) -> Result<PromptSet> {
    let path = loader.base.join(&spec.file);
    let set = PromptSet::read(&path, &spec.file.display().to_string())?;
    let blank = |reference: &Option<String>| reference.as_deref().is_none_or(|text| text.trim().is_empty());
    if set.items.iter().any(|item| blank(&item.reference)) {
        let message = format!("{}: a row has no `response`, so its answer can't be scored", path.display());
        return Err(Error::input(message).with_hint("add the reference answers, or remove `accuracy`"));
    }
    set.draw(spec.count, spec.seed)
}
