//! `ept-sweep bench`: EPT-Bench's own command line, and its JSON record.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::Serialize;

use crate::calendar;
use crate::cli::BenchArgs;
use crate::cli::exit::Exit;
use crate::clock::Clock;
use crate::console::Console;
use crate::engine::load;
use crate::error::{Context, Error, Result};
use crate::file::write_atomic;
use crate::format;
use crate::host;
use crate::hub;
use crate::meter::{self, EngineGpu, Meter, MeterOptions};
use crate::model::Loader;
use crate::prompts::PromptSet;
use crate::record::{
    CellId, CellSpec, Decoding, EnergyMethod, FailureKind, Measurement, MeterInfo, ModelInfo, Outcome, OutputLength,
    Protocol, Reason, Role,
};
use crate::stage::{self, Stage};
use crate::sweep::measure::MeasureSpec;
use crate::sweep::spec::{Auto, ModelSource, ModelSpec, WeightsChoice};
use crate::units::{Joules, JoulesPerToken, Seconds, Tokens};

const DOLLY: &str = "databricks/databricks-dolly-15k";
const DOLLY_FILE: &str = "databricks-dolly-15k.jsonl";
/// The seed with which EPT-Bench draws from Dolly.
const DOLLY_SEED: u64 = 42;

/// EPT-Bench's six keys, then everything else that helps to judge them.
#[derive(Debug, Serialize)]
#[expect(non_snake_case, reason = "the keys are EPT-Bench's")]
struct Record<'a> {
    E_run_J: Option<Joules>,
    T_in: Tokens,
    T_out: Tokens,
    EPT_in_J_per_tok: Option<JoulesPerToken>,
    EPT_out_J_per_tok: Option<JoulesPerToken>,
    EPT_total_J_per_tok: Option<JoulesPerToken>,
    energy_method: Option<EnergyMethod>,
    /// EPT-Bench's own estimator over the same window, if the meter has the readings for it.
    E_sum_J: Option<Joules>,
    valid: bool,
    invalid_reasons: &'a [Reason],
    warnings: &'a [Reason],
    model: &'a str,
    model_info: &'a ModelInfo,
    prompts: &'a str,
    num_prompts: usize,
    passes: u32,
    batch_size: usize,
    max_new_tokens: usize,
    measured_elapsed_s: Seconds,
    tokens_per_second_out: Option<f64>,
    t_out_counts_eos: bool,
    meter: &'a MeterInfo,
    version: &'a str,
    git_revision: Option<String>,
    started_at: String,
}

/// Measures one model on one prompt list.
///
/// # Errors
/// Bad input, or the measurement failed: then no file is written.
pub(crate) fn bench(arguments: &BenchArgs, console: &Console, stop: &Arc<AtomicBool>) -> Result<Exit> {
    writable(&arguments.out)?;
    let watch = console.downloads(stop);
    let loader = Loader::new(PathBuf::new(), arguments.place.device, arguments.place.offline, watch.clone());
    arguments.place.device.check()?;
    let set = prompts(arguments, &watch)?;
    let clock = Clock::monotonic();
    let mut meter = open_meter(arguments, &loader, &clock)?;
    let started_at = calendar::timestamp();
    let (mut model, load) = stage::cost(&mut *meter, &clock, || loader.load(&model_spec(arguments), &clock))?;
    let prompts = model.codec.prompts(set.items.iter().map(|item| item.text.as_str()))?.prompts;
    console.say(format!("{} on {} prompts, meter `{}`", arguments.model, prompts.len(), meter.info().name));
    let cell = cell(arguments, &model.engine.info().dtype);
    let protocol = protocol(meter.info());
    let stage = Stage {
        engine: &mut *model.engine,
        meter: &mut *meter,
        clock: &clock,
        prompts: &prompts,
        decode: &|ids| model.codec.decode(ids),
        protocol: &protocol,
        idle: None,
        offset: Seconds(0.0),
        rest: load.duration_s,
        load,
        stop,
    };
    let measurement = measure(stage, &cell)?;
    let with = With { prompts: &set, model: model.engine.info(), meter: meter.info(), started_at };
    let record = record(arguments, &measurement, with);
    write(&arguments.out, &record)?;
    print(&record, &arguments.out, console);
    Ok(Exit::Done)
}

fn measure(mut stage: Stage<'_>, cell: &CellSpec) -> Result<Box<Measurement>> {
    match stage.trial(cell)?.outcome {
        Outcome::Measured(measurement) => Ok(measurement),
        Outcome::Failed { failure: FailureKind::Prompt, message } => Err(Error::input(message)),
        Outcome::Failed { message, .. } | Outcome::Skipped { message } => Err(Error::new(message)),
    }
}

fn print(record: &Record<'_>, out: &Path, console: &Console) {
    console.say(format!(
        "{} in {}: {} → {}",
        format::joules(record.E_run_J),
        format::duration(record.measured_elapsed_s),
        format::joules_per_token(record.EPT_out_J_per_tok),
        out.display()
    ));
}

/// Finds out before measuring whether the result can be written.
fn writable(path: &Path) -> Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder.is_dir() && !path.is_dir() {
        return Ok(());
    }
    Err(Error::input(format!("can't write `{}`", path.display())).with_hint("name a file in a folder that exists"))
}

fn prompts(arguments: &BenchArgs, watch: &hub::Watch) -> Result<PromptSet> {
    match &arguments.prompts {
        Some(path) => PromptSet::read(path, &path.display().to_string()),
        None => PromptSet::read(&dolly(arguments, watch)?, DOLLY)?.draw(Some(arguments.num_prompts), DOLLY_SEED),
    }
}

/// Dolly's file: from the given folder if it is there already, else from the hub.
fn dolly(arguments: &BenchArgs, watch: &hub::Watch) -> Result<PathBuf> {
    let local = arguments.dolly_cache_dir.as_ref().map(|folder| folder.join(DOLLY_FILE));
    match local {
        Some(path) if path.is_file() => Ok(path),
        _ => hub::dataset_file(DOLLY, DOLLY_FILE, arguments.dolly_cache_dir.as_deref(), arguments.place.offline, watch),
    }
}

fn open_meter(arguments: &BenchArgs, loader: &Loader, clock: &Clock) -> Result<Box<dyn Meter>> {
    let gpu = loader.device.gpu_index();
    let options = MeterOptions {
        engine_gpus: gpu.map(|ordinal| EngineGpu { ordinal, uuid: load::uuid(ordinal) }).into_iter().collect(),
        gpu_indices: arguments.gpu_indices.clone(),
        ..MeterOptions::default()
    };
    meter::open(arguments.meter, &options, clock)
}

fn model_spec(arguments: &BenchArgs) -> ModelSpec {
    // a folder or file needs no leading `./` on the command line, as in EPT-Bench
    let named = |name: &String| {
        let is_local = Path::new(name).exists() && !name.starts_with(['.', '/', '~']);
        if is_local { format!("./{name}") } else { name.clone() }
    };
    ModelSpec {
        label: arguments.model.clone(),
        source: ModelSource::Name(named(&arguments.model)),
        role: Role::Model,
        teacher: None,
        dtype: arguments.dtype,
        adapter: arguments.adapter.as_ref().map(named),
        revision: None,
        training: None,
        sweep: None,
        weights: WeightsChoice::Stored,
        devices: None,
        // EPT-Bench gives every model the prompts as they are
        chat_template: None,
        template_variables: Default::default(),
    }
}

fn cell(arguments: &BenchArgs, dtype: &str) -> CellSpec {
    CellSpec {
        id: CellId("bench".to_owned()),
        model: arguments.model.clone(),
        batch_size: arguments.batch_size,
        max_new_tokens: arguments.max_new_tokens,
        dtype: dtype.to_owned(),
        output_length: OutputLength::Natural,
        decoding: Decoding::Greedy,
        dummy_weights: false,
        probe: false,
    }
}

/// The standard protocol without baselines: the record has no net energy.
fn protocol(meter: &MeterInfo) -> Protocol {
    MeasureSpec { idle_s: Auto::Value(0.0), ..MeasureSpec::default() }.protocol(meter)
}

/// What a measurement was made with.
struct With<'a> {
    prompts: &'a PromptSet,
    model: &'a ModelInfo,
    meter: &'a MeterInfo,
    started_at: String,
}

fn record<'a>(arguments: &'a BenchArgs, measurement: &'a Measurement, with: With<'a>) -> Record<'a> {
    let elapsed = measurement.window.duration();
    Record {
        E_run_J: measurement.energy.total_j,
        T_in: measurement.tokens_in,
        T_out: measurement.tokens_out,
        EPT_in_J_per_tok: measurement.ept_in(),
        EPT_out_J_per_tok: measurement.ept_out(),
        EPT_total_J_per_tok: measurement.ept_total(),
        energy_method: measurement.energy.method,
        E_sum_J: measurement.energy.ept_bench_sum_j,
        valid: measurement.validity.is_valid(),
        invalid_reasons: &measurement.validity.invalid_reasons,
        warnings: &measurement.validity.warnings,
        model: &arguments.model,
        model_info: with.model,
        prompts: &with.prompts.source,
        num_prompts: with.prompts.items.len(),
        passes: measurement.window.passes,
        batch_size: arguments.batch_size,
        max_new_tokens: arguments.max_new_tokens,
        measured_elapsed_s: elapsed,
        tokens_per_second_out: measurement.tokens_out.per(elapsed),
        t_out_counts_eos: true,
        meter: with.meter,
        version: host::VERSION,
        git_revision: host::git_revision(),
        started_at: with.started_at,
    }
}

fn write(path: &Path, record: &Record<'_>) -> Result<()> {
    let text = serde_json::to_string_pretty(record).context(|| "can't write the record as JSON")?;
    write_atomic(path, format!("{text}\n").as_bytes())
}
