//! Prints a trial: its window, every source of its energy, the formula, and the reasons for or against it.

use crate::analysis::window::ept_bench_share;
use crate::format;
use crate::record::{
    Around, Conditions, DomainEnergy, EnergyMethod, Heat, Measurement, Outcome, PhaseSplit, Reason, Trial, WindowEnergy,
};
use crate::store::{Stored, samples_path};
use crate::units::{Seconds, Watts};
use crate::validity;

/// One repeat of a cell.
pub(super) fn print(trial: &Trial, stored: &Stored) {
    println!("\n  repeat {} (started {})", trial.block + 1, trial.started_at);
    match &trial.outcome {
        Outcome::Measured(measurement) => {
            print_measurement(measurement, &Around::of(trial, &stored.baselines));
            println!("    raw samples  {}", samples_path(&stored.root, &trial.key()).display());
        }
        Outcome::Failed { failure, message } => println!("    failed ({failure:?}): {message}"),
        Outcome::Skipped { message } => println!("    skipped: {message}"),
    }
}

fn print_measurement(measurement: &Measurement, around: &Around<'_>) {
    print_window(measurement);
    print_energy(&measurement.energy);
    print_tokens(measurement);
    if let Some(phases) = &measurement.phases {
        print_split(phases);
    }
    for gpu in &measurement.conditions {
        print_conditions(gpu);
    }
    if let Some(heat) = &measurement.heat {
        print_heat(heat, measurement.warmup.duration_s);
    }
    print_idle(measurement, around);
    let validity = validity::with_baselines(measurement, around);
    print_reasons("not valid", &validity.invalid_reasons);
    print_reasons("warning", &validity.warnings);
}

fn print_window(measurement: &Measurement) {
    let window = &measurement.window;
    println!(
        "    window       {} from {} to {} on the run's clock; {} passes, {} batches, {} prompts",
        format::duration(window.duration()),
        format::duration(window.t0_s),
        format::duration(window.t1_s),
        window.passes,
        window.batches,
        window.prompts
    );
}

fn print_energy(energy: &WindowEnergy) {
    let method = energy.method.map_or("no source", EnergyMethod::words);
    println!("    energy       {} ({method})", format::joules(energy.total_j));
    for domain in &energy.domains {
        print_domain(domain);
    }
    if let Some(residual) = energy.residual {
        let explained =
            energy.residual_sd.map(|sd| format!(" (the sources' resolution explains ± {})", format::fraction(sd)));
        println!(
            "    second source {}, residual {}{}",
            format::joules(energy.integral_j),
            format::fraction(residual),
            explained.unwrap_or_default()
        );
    }
    if let Some((start, end)) = energy.edges_s {
        let (start, end) = (format::duration(start), format::duration(end));
        println!("    edges        the counter's ticks are known to ± {start} at the start, ± {end} at the end");
    }
    if let Some(memory) = energy.memory {
        println!(
            "    GPU memory   {} of it (average power of the last second; {} covered)",
            format::joules(Some(memory.energy_j)),
            format::fraction(memory.coverage)
        );
    }
    for domain in &energy.host {
        println!(
            "    also drawn   {}: {} ({}), not in the energy above",
            domain.domain,
            format::joules(Some(domain.energy_j)),
            domain.method.words()
        );
    }
    if let Some(sum) = energy.ept_bench_sum_j {
        let share = ept_bench_share(energy).map(|share| format!(", {} of it", format::fraction(share)));
        println!(
            "    E_sum_J      {}{} (EPT-Bench's estimator: power × 0.1 s, added up)",
            format::joules(Some(sum)),
            share.unwrap_or_default()
        );
    }
}

fn print_domain(domain: &DomainEnergy) {
    let second = domain.residual.map(|residual| {
        let (integral, residual) = (format::joules(domain.integral_j), format::fraction(residual));
        format!("; second source {integral}, residual {residual}")
    });
    println!(
        "      {}: {} ({}{})",
        domain.domain,
        format::joules(Some(domain.energy_j)),
        domain.method.words(),
        second.unwrap_or_default()
    );
}

fn print_tokens(measurement: &Measurement) {
    println!(
        "    tokens       {} in, {} out, {} padding",
        format::count(measurement.tokens_in.0),
        format::count(measurement.tokens_out.0),
        format::count(measurement.tokens_pad.0)
    );
    println!("    EPT_in    = E / T_in           = {}", format::joules_per_token(measurement.ept_in()));
    println!("    EPT_out   = E / T_out          = {}", format::joules_per_token(measurement.ept_out()));
    println!("    EPT_total = E / (T_in + T_out) = {}", format::joules_per_token(measurement.ept_total()));
}

fn print_split(phases: &PhaseSplit) {
    println!(
        "    prefill      {} in {}; decode {} in {}, {} steps (from power samples{})",
        format::joules(Some(phases.prefill_j)),
        format::duration(phases.prefill_s),
        format::joules(Some(phases.decode_j)),
        format::duration(phases.decode_s),
        format::count(phases.decode_steps),
        phases.lag_s.map_or(String::new(), |lag| format!(", which lag by {}", format::duration(lag)))
    );
}

fn print_conditions(gpu: &Conditions) {
    let temperature = gpu.temperature_start_c.zip(gpu.temperature_end_c);
    let temperature = temperature.map(|(from, to)| format::celsius_range(from, to));
    let clock = gpu.sm_clock_mhz.zip(gpu.sm_clock_min_mhz);
    let clock = clock
        .map(|(mean, lowest)| format!("SM clock {}, at least {}", format::megahertz(mean), format::megahertz(lowest)));
    let memory = gpu.memory_clock_mhz.map(|clock| format!("memory clock {}", format::megahertz(clock)));
    let state = gpu.performance_state.map(|state| format!("P{state}"));
    let events: Vec<_> = gpu.clock_events.iter().map(|(event, share)| (*event, *share)).collect();
    let events = Some(format!("clock events: {}", format::clock_events(&events)));
    let others = gpu.foreign_processes.map(|others| format!("other processes: {others}"));
    let hot = gpu.memory_temperature_end_c.map(|celsius| format!("memory {}", format::celsius(celsius)));
    let all: Vec<String> = [temperature, hot, clock, memory, state, events, others].into_iter().flatten().collect();
    println!("    conditions   {}: {}", gpu.domain, all.join("; "));
}

fn print_heat(heat: &Heat, warmup: Seconds) {
    let share = |value: Option<f64>| value.map_or(format::UNKNOWN.to_owned(), format::fraction);
    println!(
        "    warm-up      {} in {} cycles; still to come {}, at most {} ({} allowed)",
        format::duration(warmup),
        heat.cycles.len(),
        share(heat.remainder),
        share(heat.remainder_at_most),
        format::fraction(heat.allowed)
    );
}

fn print_idle(measurement: &Measurement, around: &Around<'_>) {
    let baselines = [("idle before", around.before), ("idle after", around.after)];
    for (when, baseline) in baselines {
        if let Some(line) = baseline {
            let power = format::watts(line.idle.power_w.get());
            println!("    {when:<12} {power} over {}", format::duration(line.idle.duration_s));
        }
    }
    if let Some(Watts(drift)) = around.drift() {
        println!("    idle drift   {}", format::signed_watts(drift));
    }
    // runs of format 1 have no baselines of their own
    let recorded = measurement.idle.as_ref().filter(|_| around.before.is_none() && around.after.is_none());
    if let Some(idle) = recorded {
        println!("    idle         {} over {}", format::watts(idle.power_w.get()), format::duration(idle.duration_s));
    }
}

fn print_reasons(what: &str, reasons: &[Reason]) {
    for reason in reasons {
        println!("    {what}: {} – {}", reason.code(), reason.explanation());
    }
}
