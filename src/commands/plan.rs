//! `ept-sweep plan`: the cells of a sweep with tokens, memory and time, and every problem that shows before measuring.

use std::collections::BTreeMap;

use crate::cli::PlanArgs;
use crate::cli::exit::Exit;
use crate::commands::budget;
use crate::console::Console;
use crate::engine::load::ModelSummary;
use crate::error::{Error, Result};
use crate::format;
use crate::hub::Watch;
use crate::meter;
use crate::model::{self, Codec};
use crate::record::{CellSpec, MeterInfo, OutputLength, PromptForm, Protocol};
use crate::run::fit::{self, Device, Fit};
use crate::run::prepare::Prepared;
use crate::sweep::plan::CellFilter;
use crate::units::Seconds;

/// What is known of one model before it is loaded.
struct Known<'a> {
    summary: Option<&'a ModelSummary>,
    prompts: Option<Vec<crate::engine::Prompt>>,
    form: Option<PromptForm>,
}

/// Prints the plan on standard output and the problems on standard error.
///
/// # Errors
/// The sweep file is wrong.
pub fn plan(arguments: &PlanArgs, console: &Console) -> Result<Exit> {
    let prepared = Prepared::new(&arguments.sweep, arguments.device, true, Watch::silent())?;
    let only = arguments.only.as_deref().map(CellFilter::new).transpose()?;
    let mut problems = Vec::new();
    let known = known_models(&prepared, console, &mut problems);
    let meter = meter_info(&prepared, &mut problems);
    if let Some(short) = meter.as_ref().and_then(|meter| prepared.spec.measure.too_short(meter)) {
        console.warn(short);
    }
    if let (Some(budget), Some(meter)) = (arguments.budget, &meter) {
        problems.extend(budget::show(&prepared, meter, budget).err());
        return Ok(report(&problems, console));
    }
    let protocol = meter.map(|meter| prepared.spec.measure.protocol(&meter));
    println!(
        "{:<32} {:>6} {:>7} {:>6} {:>10} {:>11} {:>10} {:>9}",
        "cell", "batch", "length", "dtype", "T_in", "T_out", "memory", "time"
    );
    let cells = prepared.plan.cells.iter().filter(|cell| only.as_ref().is_none_or(|filter| filter.matches(&cell.id)));
    let (mut shown, mut misfits) = (0, Vec::new());
    for cell in cells {
        print_cell(cell, &prepared, &known[&cell.model], protocol.as_ref(), &mut problems);
        misfits.extend(misfit(cell, &known[&cell.model], &prepared));
        shown += 1;
    }
    summary(&prepared, shown, protocol.as_ref());
    print_forms(&known);
    if shown == 0 {
        problems.push(Error::input("`--only` matches no cell"));
    }
    for misfit in misfits {
        console.warn(misfit);
    }
    Ok(report(&problems, console))
}

/// Says what is wrong, and how the command ends.
fn report(problems: &[Error], console: &Console) -> Exit {
    for problem in problems {
        console.error(problem);
    }
    if problems.is_empty() { Exit::Done } else { Exit::BadInput }
}

fn known_models<'a>(
    prepared: &'a Prepared,
    console: &Console,
    problems: &mut Vec<Error>,
) -> BTreeMap<String, Known<'a>> {
    let mut known = BTreeMap::new();
    for spec in &prepared.spec.models {
        let summary = match prepared.models.get(&spec.label) {
            Some(Ok(summary)) => summary.as_ref(),
            Some(Err(error)) if prepared.loader.is_from_hub(spec) => {
                console.warn(format!("not known yet: {}", error.one_line()));
                None
            }
            Some(Err(error)) => {
                problems.push(error.clone());
                None
            }
            None => None,
        };
        let at = |error: Error| error.at(format!("model `{}`", spec.label));
        let encoded = codec(prepared, spec, summary)
            .and_then(|codec| codec.map(|codec| encode(prepared, &codec).map_err(at)).transpose());
        let encoded = encoded.unwrap_or_else(|error| {
            problems.push(error);
            None
        });
        let (prompts, form) = encoded.unzip();
        known.insert(spec.label.clone(), Known { summary, prompts, form });
    }
    known
}

fn codec(
    prepared: &Prepared,
    spec: &crate::sweep::spec::ModelSpec,
    summary: Option<&ModelSummary>,
) -> Result<Option<Codec>> {
    match (prepared.loader.locate(spec), summary) {
        (Ok(model::Location::Simulated), _) => Ok(Some(Codec::Words)),
        (Ok(_), Some(_)) => prepared.loader.codec(spec).map(Some),
        // reported with the model itself
        _ => Ok(None),
    }
}

fn encode(prepared: &Prepared, codec: &Codec) -> Result<(Vec<crate::engine::Prompt>, PromptForm)> {
    let encoded = codec.prompts(prepared.prompts.items.iter().map(|item| item.text.as_str()))?;
    let scored = prepared.accuracy.as_ref().map(|set| codec.prompts(set.items.iter().map(|item| item.text.as_str())));
    let accuracy = scored.transpose().map_err(|error| error.at("accuracy"))?.map(|encoded| encoded.truncated);
    Ok((encoded.prompts, PromptForm { energy: Some(encoded.truncated), accuracy, ..codec.form() }))
}

/// How each model is given the prompts, where it is more than the text itself.
fn print_forms(known: &BTreeMap<String, Known<'_>>) {
    for (label, known) in known {
        if let Some(sentence) = known.form.as_ref().and_then(format::prompt_form) {
            println!("prompts of `{label}`: {sentence}");
        }
    }
}

/// This machine's meter, where there is one; the training records are looked at, too.
fn meter_info(prepared: &Prepared, problems: &mut Vec<Error>) -> Option<MeterInfo> {
    let clock = prepared.clock();
    let opened = meter::open(prepared.meter_choice(&clock), &prepared.meter_options(), &clock);
    let info = opened.map(|meter| meter.info().clone());
    match info.and_then(|info| crate::run::info::run_info(prepared, &info).map(|_| info)) {
        Ok(info) => Some(info),
        Err(error) => {
            problems.push(error);
            None
        }
    }
}

fn print_cell(
    cell: &CellSpec,
    prepared: &Prepared,
    known: &Known<'_>,
    protocol: Option<&Protocol>,
    problems: &mut Vec<Error>,
) {
    let prompts = prepared.prompts.items.len();
    let input = known.prompts.as_ref().map(|prompts| prompts.iter().map(|prompt| prompt.ids.len()).sum::<usize>());
    let unknown = || "–".to_owned();
    let bound = if cell.output_length == OutputLength::Fixed { "" } else { "≤ " };
    let output = format!("{bound}{}", format::count((prompts * cell.max_new_tokens) as u64));
    let memory = memory(cell, known, prepared);
    let least = protocol.map(|protocol| least_time(protocol, prepared.plan.blocks));
    println!(
        "{:<32} {:>6} {:>7} {:>6} {:>10} {:>11} {:>10} {:>9}",
        cell.id.0,
        cell.batch_size,
        cell.max_new_tokens,
        cell.dtype,
        input.map_or_else(unknown, |input| format::count(input as u64)),
        output,
        memory.map_or_else(unknown, format::bytes),
        least.map_or_else(unknown, |time| format!("≥ {}", format::duration(time))),
    );
    problems.extend(too_long(cell, known).err());
}

fn too_long(cell: &CellSpec, known: &Known<'_>) -> Result<()> {
    match (&known.prompts, known.summary) {
        (Some(prompts), Some(summary)) => model::check_lengths(cell, prompts, summary.max_positions),
        _ => Ok(()),
    }
}

/// Why a run would skip a cell, where it would.
fn misfit(cell: &CellSpec, known: &Known<'_>, prepared: &Prepared) -> Option<String> {
    let (spec, prompts) = (prepared.spec.model(&cell.model)?, known.prompts.as_ref()?);
    let obstacle =
        Fit::default().obstacle(cell, known.summary, longest(prompts), Device::of(&prepared.loader, spec))?;
    Some(format!("cell `{}` {obstacle}: a run skips it", cell.id))
}

/// Weights, KV cache and activations, where the model and its prompts are known.
fn memory(cell: &CellSpec, known: &Known<'_>, prepared: &Prepared) -> Option<u64> {
    let on_gpu = prepared.loader.first_device(prepared.spec.model(&cell.model)?).is_gpu();
    Some(fit::need(cell, known.summary?, longest(known.prompts.as_ref()?), on_gpu).total())
}

fn longest(prompts: &[crate::engine::Prompt]) -> usize {
    prompts.iter().map(|prompt| prompt.ids.len()).max().unwrap_or(0)
}

/// Shortest time that a cell's repeats take: warm-up, guard and window; a pass that takes longer adds to it.
fn least_time(protocol: &Protocol, blocks: u32) -> Seconds {
    (protocol.warmup_s + protocol.guard_s * 2.0 + protocol.min_window_s) * f64::from(blocks)
}

fn summary(prepared: &Prepared, shown: usize, protocol: Option<&Protocol>) {
    let blocks = prepared.plan.blocks;
    let trials = shown * blocks as usize;
    let time = protocol.map(|protocol| {
        let loads = prepared.spec.models.len() as f64 * f64::from(blocks);
        least_time(protocol, blocks) * shown as f64 + (protocol.idle_s + protocol.settle_s) * (2.0 * loads)
    });
    let time = time.map_or_else(|| "–".to_owned(), |time| format!("at least {}", format::duration(time)));
    println!(
        "\n{shown} cells × {blocks} repeats = {trials} trials; {} prompts a pass; {time}",
        prepared.prompts.items.len()
    );
}
