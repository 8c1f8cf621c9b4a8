//! `ept-sweep plan`: the cells of a sweep with tokens, memory and time, and every problem that shows before measuring.

use crate::cli::PlanArgs;
use crate::cli::exit::Exit;
use crate::commands::budget;
use crate::console::Console;
use crate::error::{Error, Result};
use crate::format;
use crate::hub::Watch;
use crate::record::CellSpec;
use crate::run::outlook::{CellOutlook, Outlook};
use crate::run::prepare::Prepared;
use crate::sweep::plan::CellFilter;

/// Prints the plan on standard output and the problems on standard error.
///
/// # Errors
/// The sweep file is wrong.
pub(crate) fn plan(arguments: &PlanArgs, console: &Console) -> Result<Exit> {
    let prepared = Prepared::new(&arguments.sweep, arguments.device, true, Watch::silent())?;
    let only = prepared.filter(arguments.only.as_deref())?;
    let mut outlook = Outlook::new(&prepared);
    let mut problems = std::mem::take(&mut outlook.problems);
    for error in &outlook.not_yet_known {
        console.warn(format!("not known yet: {}", error.one_line()));
    }
    if let Some(short) = outlook.meter.as_ref().and_then(|meter| prepared.spec.measure.too_short(meter)) {
        console.warn(short);
    }
    match (arguments.budget, &outlook.meter) {
        (Some(budget), Some(meter)) => problems.extend(budget::show(&prepared, meter, budget).err()),
        _ => problems.extend(print(&prepared, &outlook, only.as_ref(), console)),
    }
    for problem in &problems {
        console.error(problem);
    }
    Ok(if problems.is_empty() { Exit::Done } else { Exit::BadInput })
}

/// Prints the cells and their totals; gives the problems of single cells.
fn print(prepared: &Prepared, outlook: &Outlook<'_>, only: Option<&CellFilter>, console: &Console) -> Vec<Error> {
    println!(
        "{:<32} {:>6} {:>7} {:>6} {:>10} {:>11} {:>10} {:>9}",
        "cell", "batch", "length", "dtype", "T_in", "T_out", "memory", "time"
    );
    let cells = prepared.plan.cells.iter().filter(|cell| only.is_none_or(|filter| filter.matches(&cell.id)));
    let shown: Vec<(&CellSpec, CellOutlook)> = cells.map(|cell| (cell, outlook.cell(cell))).collect();
    for (cell, known) in &shown {
        print_cell(cell, known);
    }
    print_summary(prepared, shown.len(), outlook);
    for (label, form) in outlook.forms() {
        if let Some(sentence) = format::prompt_form(form) {
            println!("prompts of `{label}`: {sentence}");
        }
    }
    for (cell, known) in &shown {
        if let Some(misfit) = &known.misfit {
            console.warn(format!("cell `{}` {misfit}: a run skips it", cell.id));
        }
    }
    shown.into_iter().filter_map(|(_, known)| known.problem).collect()
}

fn print_cell(cell: &CellSpec, known: &CellOutlook) {
    let unknown = || format::UNKNOWN.to_owned();
    let bound = if known.is_exact { "" } else { "≤ " };
    println!(
        "{:<32} {:>6} {:>7} {:>6} {:>10} {:>11} {:>10} {:>9}",
        cell.id.0,
        cell.batch_size,
        cell.max_new_tokens,
        cell.dtype,
        known.tokens_in.map_or_else(unknown, |tokens| format::count(tokens as u64)),
        format!("{bound}{}", format::count(known.tokens_out as u64)),
        known.memory.map_or_else(unknown, format::bytes),
        known.least_time.map_or_else(unknown, |time| format!("≥ {}", format::duration(time))),
    );
}

fn print_summary(prepared: &Prepared, shown: usize, outlook: &Outlook<'_>) {
    let blocks = prepared.plan.blocks;
    let time = outlook.least_time(shown);
    let time = time.map_or_else(|| format::UNKNOWN.to_owned(), |time| format!("at least {}", format::duration(time)));
    println!(
        "\n{shown} cells × {blocks} repeats = {} trials; {} prompts a pass; {time}",
        shown * blocks as usize,
        prepared.prompts.items.len()
    );
}
