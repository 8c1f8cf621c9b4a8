//! Prints a cell: its axes and protocol, and the estimates over its repeats.

use crate::analysis::{CellSummary, HeatEffect, HeatEffects, HeatUnknown, Phases};
use crate::commands::report::Analysed;
use crate::format;
use crate::record::{OutputLength, Protocol};

/// What was asked for.
pub(super) fn print_head(cell: &CellSummary, analysed: &Analysed) {
    print_axes(cell);
    if let Some(planned) = analysed.stored.info.cells.iter().find(|planned| planned.id.0 == cell.id) {
        println!("  decoding: {}", planned.decoding);
        if planned.probe {
            println!("  measured only to separate prefill from decode: in no comparison and no headline");
        }
    }
    print_protocol(&analysed.stored.info.protocol);
    let forms = analysed.stored.info.parts.iter().rev().filter_map(|part| part.prompt_forms.get(&cell.model));
    if let Some(sentence) = forms.take(1).find_map(format::prompt_form) {
        println!("  prompts: {sentence}");
    }
}

fn print_axes(cell: &CellSummary) {
    println!("{}", cell.id);
    println!(
        "  model {} ({}), batch size {}, {} new tokens at most, {}, {} length",
        cell.model,
        cell.role.words(),
        cell.batch_size,
        cell.max_new_tokens,
        cell.dtype,
        match cell.output_length {
            OutputLength::Natural => "natural",
            OutputLength::Fixed => "fixed",
        }
    );
    let counts = cell.counts;
    println!(
        "  repeats: {} planned, {} valid, {} invalid, {} failed, {} skipped",
        counts.planned, counts.valid, counts.invalid, counts.failed, counts.skipped
    );
}

fn print_protocol(protocol: &Protocol) {
    println!(
        "  protocol: preset {}, order {}, windows of at least {}, guard work {}, idle {} before and after",
        protocol.preset.words(),
        protocol.order.words(),
        format::duration(protocol.min_window_s),
        format::duration(protocol.guard_s),
        format::duration(protocol.idle_s)
    );
}

/// What came of it.
pub(super) fn print_results(cell: &CellSummary, analysed: &Analysed) {
    print_estimates(cell);
    print_heat(analysed);
    print_phases(cell, analysed);
    print_accuracy(cell, analysed);
}

fn print_estimates(cell: &CellSummary) {
    println!("\n  over the valid repeats (mean, 95 % Student-t interval)");
    let rows = [
        ("EPT_in", cell.ept_in_j),
        ("EPT_out", cell.ept_out_j),
        ("EPT_total", cell.ept_total_j),
        ("net EPT_out", cell.net_ept_out_j),
        ("per prompt", cell.energy_per_prompt_j),
        ("per pass", cell.energy_per_pass_j),
    ];
    for (name, estimate) in rows {
        let energy = estimate.map_or_else(|| format::UNKNOWN.to_owned(), |estimate| format::energy(&estimate));
        println!("    {name:<12} {energy}");
    }
    for failure in &cell.failures {
        println!("    {failure}");
    }
}

/// By all warm-ups of the run: those of a single cell are too few.
fn print_heat(analysed: &Analysed) {
    let HeatEffects { core, memory } = &analysed.study.heat;
    if *core == HeatEffect::Unknown(HeatUnknown::NoCourse) {
        return;
    }
    println!("\n  the same work on a warmer device, by the run's warm-ups");
    println!("    by the core   {}", format::heat_effect(core));
    if *memory != HeatEffect::Unknown(HeatUnknown::NoTemperature) {
        println!("    by the memory {}", format::heat_effect(memory));
    }
}

fn print_phases(cell: &CellSummary, analysed: &Analysed) {
    let same = |phases: &&Phases| {
        (&phases.model, phases.batch_size, &phases.dtype) == (&cell.model, cell.batch_size, &cell.dtype)
    };
    let Some(phases) = analysed.study.phases.iter().find(same) else { return };
    println!("\n  prefill and decode of {} at batch size {}", phases.model, phases.batch_size);
    let methods = [
        ("by difference", &phases.difference),
        ("by regression", &phases.regression),
        ("inside windows", &phases.inside),
    ];
    for (name, energy) in methods {
        if let Some(energy) = energy {
            println!(
                "    {name:<15} {} a prompt, {} a step, {} a decoded token",
                format::energy(&energy.prefill_j_per_prompt),
                format::energy(&energy.decode_j_per_step),
                format::energy(&energy.decode_j_per_token)
            );
        }
    }
}

fn print_accuracy(cell: &CellSummary, analysed: &Analysed) {
    let found =
        analysed.study.accuracies.iter().find(|a| a.model == cell.model && a.max_new_tokens == cell.max_new_tokens);
    if let Some(accuracy) = found {
        println!("\n  accuracy on {} prompts of {}", accuracy.exact_match.n, accuracy.dataset);
        println!("    exact match  {}", format::percent(&accuracy.exact_match));
        println!("    ROUGE-L      {}", format::percent(&accuracy.rouge_l));
    }
}
