//! `ept-sweep explain CELL`: everything behind one cell's number, down to the trials and the formula.

use std::path::{Path, PathBuf};

use crate::analysis::{CellSummary, Phases};
use crate::cli::ExplainArgs;
use crate::cli::exit::Exit;
use crate::commands::report::{Analysed, analyse};
use crate::error::{Error, Result};
use crate::format;
use crate::record::{Baseline, Conditions, EnergyMethod, Measurement, Outcome, PhaseSplit, Protocol, Reason, Trial};
use crate::store::samples_path;

/// Prints it.
///
/// # Errors
/// There is no such run or cell.
pub fn explain(arguments: &ExplainArgs) -> Result<Exit> {
    let root = arguments.run.clone().map_or_else(only_run, Ok)?;
    let analysed = analyse(&root)?;
    let mut cells = analysed.study.cells.iter().chain(&analysed.study.probes);
    let Some(cell) = cells.find(|cell| cell.id == arguments.cell) else {
        return Err(unknown_cell(&arguments.cell, &analysed));
    };
    print_cell(cell);
    let planned = analysed.stored.info.cells.iter().find(|planned| planned.id.0 == cell.id);
    if let Some(planned) = planned {
        println!("  decoding: {}", planned.decoding);
        if planned.probe {
            println!("  measured only to tell prefill and decode apart: in no comparison and no headline");
        }
    }
    print_protocol(&analysed.stored.info.protocol);
    print_prompts(cell, &analysed);
    let trials = analysed.stored.trials.iter().filter(|trial| trial.cell.id.0 == cell.id);
    for trial in trials {
        print_trial(trial, &analysed.stored.baselines, &root);
    }
    print_estimates(cell);
    print_phases(cell, &analysed);
    print_accuracy(cell, &analysed);
    Ok(Exit::Done)
}

/// The only run in `reports/`, so that the common case needs no flag.
fn only_run() -> Result<PathBuf> {
    let entries = std::fs::read_dir("reports").map(|entries| entries.filter_map(|entry| entry.ok()).collect());
    let entries: Vec<std::fs::DirEntry> = entries.unwrap_or_default();
    let runs: Vec<PathBuf> = entries
        .iter()
        .map(|entry| entry.path())
        .filter(|path| path.join("run.json").exists() && !is_rotated(path))
        .collect();
    match runs.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Error::input("no run in `reports/`").hint("name the run's directory with `--run DIR`")),
        several => {
            let names: Vec<_> = several.iter().map(|path| path.display().to_string()).collect();
            Err(Error::input("several runs in `reports/`")
                .hint(format!("choose one with `--run`: {}", names.join(", "))))
        }
    }
}

/// `kd.1`, `kd.2` …: a run that `--fresh` moved aside.
fn is_rotated(path: &Path) -> bool {
    let number = path.extension().is_some_and(|end| end.as_encoded_bytes().iter().all(u8::is_ascii_digit));
    number && path.with_extension("").join("run.json").exists()
}

fn unknown_cell(wanted: &str, analysed: &Analysed) -> Error {
    let cells = analysed.study.cells.iter().chain(&analysed.study.probes);
    let ids: Vec<&str> = cells.map(|cell| cell.id.as_str()).collect();
    let nearest = ids.iter().min_by_key(|id| strsim::damerau_levenshtein(wanted, id));
    let hint = nearest.map_or_else(String::new, |id| format!("did you mean `{id}`? cells: {}", ids.join(", ")));
    Error::input(format!("no cell `{wanted}` in this run")).hint(hint)
}

fn print_cell(cell: &CellSummary) {
    println!("{}", cell.id);
    println!(
        "  model {} ({}), batch size {}, {} new tokens at most, {}, {} length",
        cell.model,
        cell.role.words(),
        cell.batch_size,
        cell.max_new_tokens,
        cell.dtype,
        cell.output_length.words()
    );
    let counts = cell.counts;
    println!(
        "  repeats: {} planned, {} valid, {} invalid, {} failed, {} skipped",
        counts.planned, counts.valid, counts.invalid, counts.failed, counts.skipped
    );
}

fn print_prompts(cell: &CellSummary, analysed: &Analysed) {
    let forms = analysed.stored.info.parts.iter().rev().filter_map(|part| part.prompt_forms.get(&cell.model));
    if let Some(sentence) = forms.take(1).find_map(format::prompt_form) {
        println!("  prompts: {sentence}");
    }
}

fn print_protocol(protocol: &Protocol) {
    println!(
        "  protocol: preset {}, order {}, windows of at least {}, guard work {}, idle {} before and after",
        protocol.preset,
        protocol.order,
        format::duration(protocol.min_window_s),
        format::duration(protocol.guard_s),
        format::duration(protocol.idle_s)
    );
}

fn print_trial(trial: &Trial, baselines: &[Baseline], root: &Path) {
    println!("\n  repeat {} (started {})", trial.block + 1, trial.started_at);
    match &trial.outcome {
        Outcome::Measured(measurement) => {
            print_measurement(measurement, &around(trial, baselines));
            let path = samples_path(root, &trial.key());
            println!("    raw samples  {}", path.display());
        }
        Outcome::Failed { failure, message } => println!("    failed ({}): {message}", failure.words()),
        Outcome::Skipped { message } => println!("    skipped: {message}"),
    }
}

/// The baselines of the trial's own load: before, then after.
fn around<'a>(trial: &Trial, baselines: &'a [Baseline]) -> Vec<&'a Baseline> {
    let own = |line: &&Baseline| {
        (line.model.as_str(), line.block, line.part) == (trial.cell.model.as_str(), trial.block, trial.part)
    };
    let mut own: Vec<&Baseline> = baselines.iter().filter(own).collect();
    own.sort_by_key(|line| line.time);
    own
}

fn print_measurement(measurement: &Measurement, baselines: &[&Baseline]) {
    let (window, energy) = (&measurement.window, &measurement.energy);
    let method = energy.method.map_or("no source", EnergyMethod::words);
    println!(
        "    window       {} from {} to {} on the run's clock; {} passes, {} batches, {} prompts",
        format::duration(window.duration()),
        format::duration(window.t0_s),
        format::duration(window.t1_s),
        window.passes,
        window.batches,
        window.prompts
    );
    println!("    energy       {} ({method})", format::joules(energy.total_j));
    for domain in &energy.domains {
        println!(
            "      {}: {} ({})",
            domain.domain,
            format::joules(Some(domain.energy_j)),
            match domain.residual {
                Some(residual) => format!(
                    "{}; second source {}, residual {}",
                    domain.method.words(),
                    format::joules(domain.integral_j),
                    format::fraction(residual)
                ),
                None => domain.method.words().to_owned(),
            }
        );
    }
    if let Some(residual) = energy.residual {
        println!("    second source {}, residual {}", format::joules(energy.integral_j), format::fraction(residual));
    }
    for domain in &energy.host {
        println!(
            "    beside it    {}: {} ({}), not in the energy above",
            domain.domain,
            format::joules(Some(domain.energy_j)),
            domain.method.words()
        );
    }
    if let Some(sum) = energy.ept_bench_sum_j {
        let ratio = energy.total_j.map(|total| format!(", {} of it", format::fraction(sum.0 / total.0)));
        println!(
            "    E_sum_J      {}{} (EPT-Bench's estimator: power × 0.1 s, added up)",
            format::joules(Some(sum)),
            ratio.unwrap_or_default()
        );
    }
    println!(
        "    tokens       {} in, {} out, {} padding",
        format::count(measurement.tokens_in.0),
        format::count(measurement.tokens_out.0),
        format::count(measurement.tokens_pad.0)
    );
    println!("    EPT_in    = E / T_in           = {}", format::joules_per_token(measurement.ept_in()));
    println!("    EPT_out   = E / T_out          = {}", format::joules_per_token(measurement.ept_out()));
    println!("    EPT_total = E / (T_in + T_out) = {}", format::joules_per_token(measurement.ept_total()));
    if let Some(phases) = &measurement.phases {
        print_split(phases);
    }
    for gpu in &measurement.conditions {
        print_conditions(gpu);
    }
    print_idle(measurement, baselines);
    print_reasons("not valid", &measurement.validity.invalid_reasons);
    print_reasons("warning", &measurement.validity.warnings);
}

fn print_split(phases: &PhaseSplit) {
    println!(
        "    prefill      {} in {}; decode {} in {}, {} steps (from power samples)",
        format::joules(Some(phases.prefill_j)),
        format::duration(phases.prefill_s),
        format::joules(Some(phases.decode_j)),
        format::duration(phases.decode_s),
        format::count(phases.decode_steps)
    );
}

fn print_conditions(gpu: &Conditions) {
    let temperature = gpu.temperature_start_c.zip(gpu.temperature_end_c);
    let temperature = temperature.map(|(from, to)| format::celsius_range(from, to));
    let clock = gpu.sm_clock_mhz.zip(gpu.sm_clock_min_mhz);
    let clock = clock
        .map(|(mean, lowest)| format!("SM clock {}, at least {}", format::megahertz(mean), format::megahertz(lowest)));
    let memory = gpu.memory_clock_mhz.map(|clock| format!("memory {}", format::megahertz(clock)));
    let state = gpu.performance_state.map(|state| format!("P{state}"));
    let events: Vec<_> = gpu.clock_events.iter().map(|(event, share)| (*event, *share)).collect();
    let events = Some(format!("clock events: {}", format::clock_events(&events)));
    let others = gpu.foreign_processes.map(|others| format!("processes of others: {others}"));
    let all: Vec<String> = [temperature, clock, memory, state, events, others].into_iter().flatten().collect();
    println!("    conditions   {}: {}", gpu.domain, all.join("; "));
}

fn print_idle(measurement: &Measurement, baselines: &[&Baseline]) {
    for line in baselines {
        println!(
            "    idle {:<7} {} over {}",
            line.time.words(),
            format::watts(line.idle.power_w.0),
            format::duration(line.idle.duration_s)
        );
    }
    if let [before, after] = baselines {
        let drift = after.idle.power_w.0 - before.idle.power_w.0;
        println!("    idle drift   {}", format::signed_watts(drift));
    }
    if let Some(idle) = measurement.idle.as_ref().filter(|_| baselines.is_empty()) {
        println!("    idle         {} over {}", format::watts(idle.power_w.0), format::duration(idle.duration_s));
    }
}

fn print_reasons(what: &str, reasons: &[Reason]) {
    for reason in reasons {
        println!("    {what}: {} – {}", reason.code(), reason.explanation());
    }
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
        println!("    {name:<12} {}", estimate.map_or_else(|| "–".to_owned(), |estimate| format::energy(&estimate)));
    }
    for failure in &cell.failures {
        println!("    {failure}");
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
