//! Records as a run would store them, for tests that build a run by hand.

use ept_sweep::record::{
    CellId, CellSpec, Cost, Decoding, Domain, EnergyMethod, FORMAT, Host, IdleBaseline, Measurement, MeterInfo, Order,
    OutputLength, Part, Preset, PromptInfo, Protocol, Quantity, RunInfo, Sample, SourceTrace, Validity, Window,
    WindowEnergy,
};
use ept_sweep::units::{Joules, Seconds, Tokens, Watts};

/// A greedy cell of fixed output length in f32.
pub(crate) fn cell(model: &str, batch_size: usize, max_new_tokens: usize) -> CellSpec {
    CellSpec {
        id: CellId(format!("{model}.b{batch_size}.n{max_new_tokens}")),
        model: model.to_owned(),
        batch_size,
        max_new_tokens,
        dtype: "f32".to_owned(),
        output_length: OutputLength::Fixed,
        decoding: Decoding::Greedy,
        dummy_weights: false,
        probe: false,
    }
}

/// A run named `synthetic` without models, cells and parts, over a list of 20 prompts.
pub(crate) fn run_info(blocks: u32) -> RunInfo {
    RunInfo {
        format: FORMAT,
        name: "synthetic".to_owned(),
        question: None,
        notes: None,
        sweep_file: "sweep.yaml".to_owned(),
        sweep_yaml: String::new(),
        sweep_sha256: "00".to_owned(),
        models: vec![],
        cells: vec![],
        blocks,
        protocol: protocol(),
        prompts: PromptInfo { source: "prompts.txt".to_owned(), count: 20, sha256: "00".to_owned() },
        accuracy_sha256: None,
        floor: 0.01,
        parts: vec![],
    }
}

/// Windows of 5 s in random order, none added.
pub(crate) fn protocol() -> Protocol {
    Protocol {
        min_window_s: Seconds(5.0),
        guard_s: Seconds(0.2),
        warmup_s: Seconds(1.0),
        idle_s: Seconds(20.0),
        seed: 1,
        preset: Preset::Standard,
        max_warmup_s: Seconds(3.0),
        steady: Some(0.01),
        settle_s: Seconds(0.0),
        order: Order::Blocks,
        balanced: true,
        adaptive: None,
        random_offset_s: Seconds(0.0),
    }
}

/// A meter whose counters are its domains.
pub(crate) fn meter(name: &str, domains: &[&str]) -> MeterInfo {
    let domain = |name: &&str| Domain { name: (*name).to_owned(), description: String::new() };
    MeterInfo {
        name: name.to_owned(),
        method: EnergyMethod::Counter,
        domains: domains.iter().map(domain).collect(),
        tick_s: None,
        min_window_s: Seconds(1.0),
        guard_s: Seconds(0.0),
        idle_s: Seconds(1.0),
        notes: vec![],
        host_domains: vec![],
        sensing_period_s: None,
        sources: vec![],
        gpus: vec![],
    }
}

/// A part of a run on an unknown machine.
pub(crate) fn part(meter: MeterInfo) -> Part {
    Part {
        started_at: "2025-01-01T00:00:00Z".to_owned(),
        version: "0.1.0".to_owned(),
        git_revision: None,
        host: Host::default(),
        meter,
        models: [].into(),
        prompt_forms: [].into(),
        calibrations: Vec::new(),
    }
}

/// A window of 10 s with 100 output tokens a second, in two passes over 20 prompts, read from a counter; 50 W idle.
pub(crate) fn measurement(watts: f64) -> Measurement {
    Measurement {
        window: Window {
            t0_s: Seconds(100.0),
            t1_s: Seconds(110.0),
            passes: 2,
            batches: 10,
            prompts: 40,
            decode_steps: None,
            decode_s: None,
            offset_s: Seconds(0.03),
        },
        tokens_in: Tokens(500),
        tokens_out: Tokens(1000),
        tokens_pad: Tokens(125),
        output_bytes: Some(4000),
        energy: WindowEnergy {
            total_j: Some(Joules(watts * 10.0)),
            method: Some(EnergyMethod::Counter),
            ..WindowEnergy::default()
        },
        idle: Some(idle(50.0)),
        load: Cost { duration_s: Seconds(3.0), energy_j: None },
        warmup: Cost::default(),
        validity: Validity::default(),
        conditions: vec![],
        phases: None,
        heat: None,
    }
}

/// 20 s of waiting at a constant power.
pub(crate) fn idle(watts: f64) -> IdleBaseline {
    IdleBaseline { power_w: Watts(watts), duration_s: Seconds(20.0), segments_w: vec![], temperature_c: None }
}

/// A source from pairs of seconds and value, without a known tick and without a lag.
pub(crate) fn source(
    domain: &str,
    quantity: Quantity,
    method: EnergyMethod,
    samples: impl IntoIterator<Item = (f64, f64)>,
) -> SourceTrace {
    SourceTrace {
        domain: domain.to_owned(),
        quantity,
        method,
        tick: None,
        lag: Seconds(0.0),
        samples: samples.into_iter().map(|(t, value)| Sample { t: Seconds(t), value }).collect(),
    }
}
