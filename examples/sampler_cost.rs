//! What measuring costs, and whether it shows in what is measured: `cargo run --release --features cuda --example sampler_cost
//! -- FOLDER [PAIRS] [SECONDS]`.
//!
//! Generates with a model of random weights (the folder needs no more than a `config.json`) in pairs of spans, one with the
//! meter recording and one without, in random order within each pair: tokens per second of the one over the other, with a
//! 95 % interval over the pairs, and the processor time of the sampler's thread.

use std::fs;
use std::path::Path;
use std::time::Instant;

use ept_sweep::clock::Clock;
use ept_sweep::engine::load::{self, DeviceChoice, LoadOptions, load_decoder};
use ept_sweep::engine::{Engine, GenerateOptions, Prompt};
use ept_sweep::meter::{self, Edge, EngineGpu, Meter, MeterOptions};
use ept_sweep::record::{DummyDistribution, DummyWeights, MeterChoice, OutputLength};
use ept_sweep::stats;
use rand::{Rng as _, SeedableRng as _};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const BATCH: usize = 8;
const NEW: usize = 64;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = arguments.first().ok_or("name a folder with a config.json")?;
    let pairs: usize = arguments.get(1).map_or(Ok(10), |text| text.parse())?;
    let seconds: f64 = arguments.get(2).map_or(Ok(4.0), |text| text.parse())?;
    let dummy = Some(DummyWeights { seed: 1, distribution: DummyDistribution::Gaussian });
    let options = LoadOptions { dummy, dtype: Some("bf16"), ..LoadOptions::default() };
    let mut engine = load_decoder(Path::new(folder), &options, DeviceChoice::Auto, None)?;
    let prompts: Vec<Prompt> = (0..BATCH)
        .map(|row| Prompt { text: String::new(), ids: (0..64).map(|i| 5 + (row * 64 + i) as u32).collect() })
        .collect();
    let clock = Clock::monotonic();
    let gpus = DeviceChoice::Auto.gpu_index();
    let engine_gpus = gpus.map(|ordinal| EngineGpu { ordinal, uuid: load::uuid(ordinal) }).into_iter().collect();
    let options = MeterOptions { engine_gpus, ..MeterOptions::default() };
    let mut meter = meter::open(MeterChoice::Auto, &options, &clock)?;
    println!("meter {}, {pairs} pairs of {seconds} s, batch {BATCH}, {NEW} new tokens", meter.info().name);
    tokens_per_second(&mut engine, &prompts, 2.0 * seconds)?;
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let (mut ratios, mut shares) = (Vec::new(), Vec::new());
    for pair in 0..pairs {
        let on_first: bool = random.random();
        let (mut on, mut off) = (0.0, 0.0);
        for recorded in [on_first, !on_first] {
            if recorded {
                let (speed, share) = recorded_speed(&mut *meter, &mut engine, &prompts, seconds)?;
                on = speed;
                shares.push(share);
            } else {
                off = tokens_per_second(&mut engine, &prompts, seconds)?;
            }
        }
        println!("pair {pair}: on {on:.1} tokens/s, off {off:.1} tokens/s, on/off {:.4}", on / off);
        ratios.push(on / off);
    }
    let show = |name: &str, values: &[f64]| {
        let mean = stats::mean(values)?;
        let ends = mean.interval.map_or_else(String::new, |ends| format!(" [{:.4}, {:.4}]", ends.low, ends.high));
        println!("{name}: {:.4}{ends}, n = {}", mean.value, mean.n);
        Some(())
    };
    show("tokens/s on/off", &ratios);
    show("sampler's share of one processor inside the window", &shares);
    Ok(())
}

/// Tokens per second of a window with guard work around it, as a trial has it, and the sampler's share of a processor within.
fn recorded_speed(
    meter: &mut dyn Meter,
    engine: &mut dyn Engine,
    prompts: &[Prompt],
    seconds: f64,
) -> Outcome<(f64, f64)> {
    let mut work = |meter: &mut dyn Meter| -> Outcome<(f64, f64)> {
        meter.edge(Edge::Soon);
        tokens_per_second(engine, prompts, 0.3)?;
        meter.edge(Edge::Passed);
        let (busy, start) = (sampler_time(), Instant::now());
        let speed = tokens_per_second(engine, prompts, seconds)?;
        let share = (sampler_time() - busy) / start.elapsed().as_secs_f64();
        meter.edge(Edge::Passed);
        tokens_per_second(engine, prompts, 0.3)?;
        Ok((speed, share))
    };
    meter.start()?;
    let result = work(meter);
    meter.stop()?;
    result
}

fn tokens_per_second(engine: &mut dyn Engine, prompts: &[Prompt], seconds: f64) -> Outcome<f64> {
    let options = GenerateOptions::greedy(NEW, OutputLength::Fixed);
    let (start, mut tokens) = (Instant::now(), 0);
    while tokens == 0 || start.elapsed().as_secs_f64() < seconds {
        tokens += engine.generate(prompts, options)?.iter().map(|answer| answer.ids.len()).sum::<usize>();
    }
    Ok(tokens as f64 / start.elapsed().as_secs_f64())
}

/// Seconds of processor time of the thread named `sampler` (Linux; 0 elsewhere).
fn sampler_time() -> f64 {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return 0.0 };
    let of_task = |path: std::path::PathBuf| {
        let name = fs::read_to_string(path.join("comm")).ok()?;
        let time = fs::read_to_string(path.join("schedstat")).ok()?;
        (name.trim() == "sampler").then(|| time.split_whitespace().next()?.parse::<f64>().ok()).flatten()
    };
    tasks.filter_map(|task| of_task(task.ok()?.path())).sum::<f64>() * 1e-9
}
