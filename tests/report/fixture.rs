//! A study with three models, three batch sizes and two lengths, and ways to spoil it.

use ept_sweep::analysis::PowerTrace;
use ept_sweep::analysis::*;
use ept_sweep::record::*;
use ept_sweep::units::{Joules, Seconds, Watts};

pub(crate) const TEACHER: &str = "teacher";
pub(crate) const STUDENT: &str = "student-kd";
pub(crate) const CONTROL: &str = "student-ce";
const MODELS: [(&str, Role, f64, f64); 3] = [
    (TEACHER, Role::Teacher, 0.0412, 0.94),
    (STUDENT, Role::Student, 0.0119, 0.78),
    (CONTROL, Role::Control, 0.01192, 0.66),
];

pub(crate) fn estimate(value: f64, half_width: f64, n: usize) -> Estimate {
    Estimate { value, interval: Some(Interval { low: value - half_width, high: value + half_width }), n }
}

pub(crate) fn study() -> Study {
    grid(&MODELS.map(|(label, role, ept, exact)| (label.to_owned(), role, ept, exact)), &[1, 4, 16], &[16, 64])
}

/// Every combination of models, batch sizes and lengths, compared with the first model.
pub(crate) fn grid(models: &[(String, Role, f64, f64)], batches: &[usize], lengths: &[usize]) -> Study {
    let mut study = Study {
        heat: HeatEffects::default(),
        device_costs: Vec::new(),
        cells: Vec::new(),
        probes: Vec::new(),
        phases: Vec::new(),
        stopping: None,
        accuracies: Vec::new(),
        savings: Vec::new(),
        overall: Vec::new(),
        points: Vec::new(),
        methods: vec![EnergyMethod::Counter],
        reasons: Vec::new(),
    };
    for (label, role, ept, exact) in models {
        for &length in lengths {
            study.accuracies.push(accuracy(label, *role, exact * (1.0 - 2.0 / length as f64), length));
            for &batch in batches {
                let cell =
                    cell(label, *role, ept / (batch as f64).powf(0.7) * (1.0 + 4.0 / length as f64), batch, length);
                study.points.push(point(&cell, study.accuracies.last().unwrap().exact_match));
                study.cells.push(cell);
            }
        }
    }
    mark_front(&mut study.points);
    compare(&mut study, models);
    study
}

fn accuracy(label: &str, role: Role, exact: f64, length: usize) -> Accuracy {
    Accuracy {
        model: label.to_owned(),
        role,
        max_new_tokens: length,
        exact_match: estimate(exact, 0.08, 100),
        exact_match_stderr: 0.041,
        rouge_l: estimate(exact * 0.98, 0.06, 100),
        rouge_l_stderr: Some(0.031),
        by_category: vec![("closed_qa".to_owned(), exact, 60), ("summarization".to_owned(), exact * 0.9, 40)],
        dataset: "heldout.jsonl".to_owned(),
    }
}

fn cell(model: &str, role: Role, ept: f64, batch_size: usize, max_new_tokens: usize) -> CellSummary {
    let of = |value: f64| Some(estimate(value, value * 0.018, 5));
    let output = 50.0 * max_new_tokens as f64;
    CellSummary {
        id: format!("{model}.b{batch_size}.n{max_new_tokens}"),
        model: model.to_owned(),
        role,
        batch_size,
        max_new_tokens,
        dtype: "f32".to_owned(),
        dummy_weights: false,
        output_length: OutputLength::Fixed,
        counts: TrialCounts { planned: 5, valid: 5, ..TrialCounts::default() },
        energy_per_pass_j: of(ept * output),
        tokens_per_pass: Some(PassTokens { prompts: 50.0, input: 1_240.0, output, pad_fraction: 0.083 }),
        ept_in_j: of(ept * output / 1_240.0),
        ept_out_j: of(ept),
        ept_total_j: of(ept * output / (1_240.0 + output)),
        net_ept_out_j: of(ept * 0.7),
        energy_per_prompt_j: of(ept * output / 50.0),
        tokens_per_s: of(30.0 / ept),
        power_w: of(31.4),
        method: Some(EnergyMethod::Counter),
        invalid_reasons: Vec::new(),
        warnings: Vec::new(),
        windows: WindowFacts {
            windows: 5,
            window_s: Some(5.4),
            passes: Some(3.0),
            tick_s: Some(0.001),
            ..WindowFacts::default()
        },
        domains: Domains::default(),
        memory: None,
        ept_bench_sum: None,
        engine: EngineCost::default(),
        failures: Vec::new(),
    }
}

fn point(cell: &CellSummary, accuracy: Estimate) -> Point {
    Point {
        cell: cell.id.clone(),
        model: cell.model.clone(),
        role: cell.role,
        batch_size: cell.batch_size,
        max_new_tokens: cell.max_new_tokens,
        ept_out_j: cell.ept_out_j.unwrap(),
        accuracy,
        on_front: false,
    }
}

fn mark_front(points: &mut [Point]) {
    let all = points.to_vec();
    for point in points {
        let (e, a) = (point.ept_out_j.value, point.accuracy.value);
        point.on_front = !all.iter().any(|other| {
            let (oe, oa) = (other.ept_out_j.value, other.accuracy.value);
            (oe < e && oa >= a) || (oe == e && oa > a)
        });
    }
}

pub(crate) fn comparison(saving: f64, half_width: f64, verdict: Verdict) -> Comparison {
    let ratio = 1.0 - saving;
    Comparison {
        ratio: Some(estimate(ratio, half_width, 5)),
        saving: Some(estimate(saving, half_width, 5)),
        saved_j_per_token: Some(estimate(0.03 * saving, 0.03 * half_width, 5)),
        factor: Some(estimate(1.0 / ratio, half_width / ratio / ratio, 5)),
        p_adjusted: Some(0.0004),
        verdict,
    }
}

fn compare(study: &mut Study, models: &[(String, Role, f64, f64)]) {
    let Some((teacher, _, base, exact)) = models.first().cloned() else { return };
    let mut cells: Vec<(usize, usize)> = study.cells.iter().map(|c| (c.batch_size, c.max_new_tokens)).collect();
    cells.sort_unstable();
    cells.dedup();
    for (i, (label, role, ept, own)) in models.iter().enumerate().skip(1) {
        let saving = 1.0 - ept / base;
        for &(batch_size, max_new_tokens) in &cells {
            study.savings.push(Saving {
                student: label.clone(),
                role: *role,
                teacher: teacher.clone(),
                batch_size,
                max_new_tokens,
                ept_out: comparison(saving - 0.01 * (batch_size as f64).log2(), 0.02, Verdict::Improved),
                at_floor: None,
                undecided: None,
                accuracy_difference: Some(estimate(own - exact, 0.08, 100)),
                conditions: PairConditions::default(),
                break_even: BreakEven::Tokens(estimate(1.24e6, 0.11e6, 5)),
            });
        }
        study.overall.push(OverallSaving {
            student: label.clone(),
            role: *role,
            teacher: teacher.clone(),
            cells: cells.len(),
            ept_out: comparison(saving, 0.018, Verdict::Improved),
            at_floor: None,
            undecided: None,
            student_accuracy: Some(estimate(*own, 0.08, 100)),
            teacher_accuracy: Some(estimate(exact, 0.05, 100)),
            accuracy_difference: Some(estimate(own - exact, 0.08, 100)),
            over_control: (i == 1).then(|| (CONTROL.to_owned(), estimate(0.12, 0.07, 100))),
            measured: true,
            break_even: BreakEven::Tokens(estimate(1.24e6, 0.11e6, 5)),
        });
    }
}

/// The same with floors: the engine takes 1.2 times the teacher's and 1.6 times the students'.
pub(crate) fn with_floors() -> Study {
    let mut study = study();
    for cell in &mut study.cells {
        let multiple = if cell.role == Role::Teacher { 1.2 } else { 1.6 };
        let floor = cell.ept_out_j.unwrap().value / multiple;
        cell.engine = EngineCost {
            floor_j: Some(estimate(floor, 0.004 * floor, 5)),
            floor_multiple: Some(estimate(multiple, 0.02, 5)),
            decode_step_s: Some(estimate(0.0066, 0.0001, 5)),
            bandwidth_share: Some(estimate(0.9 / multiple, 0.01, 5)),
            gpu_busy: Some(0.97),
            launches_per_step: Some(227),
        };
    }
    let at_floor = Some(AtFloor { saving: 0.78, base_multiple: 1.2, new_multiple: 1.6 });
    study.savings.iter_mut().for_each(|saving| saving.at_floor = at_floor);
    study.overall.iter_mut().for_each(|overall| overall.at_floor = at_floor);
    study.device_costs = vec![DeviceCosts {
        device: "cuda:0".to_owned(),
        name: Some("NVIDIA H100 80GB HBM3".to_owned()),
        uuid: Some("GPU-1".to_owned()),
        dtype: "bf16".to_owned(),
        measured_at: "2026-03-04T05:06:07Z".to_owned(),
        idle_w: 126.0,
        bytes_per_s: estimate(3.02e12, 0.01e12, 4),
        joules_per_byte: estimate(98e-12, 1e-12, 4),
        flops_per_s: estimate(798e12, 3e12, 4),
        joules_per_flop: estimate(0.61e-12, 0.01e-12, 4),
        temperature_c: Some(58.0),
        sm_clock_mhz: Some(1610.0),
        power_cap: Some(1.0),
    }];
    study
}

/// What a run looks like in which a third of the trials went wrong.
pub(crate) fn spoiled() -> Study {
    let mut study = study();
    let cell = &mut study.cells[1];
    cell.counts = TrialCounts { planned: 5, valid: 2, invalid: 2, failed: 1, skipped: 0 };
    cell.invalid_reasons = vec![Reason::ResidualTooLarge, Reason::WindowTooShort];
    cell.warnings = vec![Reason::ResidualNoticeable];
    cell.failures = vec!["out of memory: `cuda:0` has 1.2 GiB left\nhint: use a smaller batch".to_owned()];
    let cell = &mut study.cells[4];
    cell.counts = TrialCounts { planned: 5, skipped: 5, ..TrialCounts::default() };
    cell.failures = vec!["too long for the model: 4096 tokens".to_owned()];
    for of in [&mut cell.energy_per_pass_j, &mut cell.ept_in_j, &mut cell.ept_out_j, &mut cell.ept_total_j] {
        *of = None;
    }
    cell.net_ept_out_j = None;
    cell.tokens_per_s = None;
    cell.power_w = None;
    cell.tokens_per_pass = None;
    study.savings[0].ept_out = comparison(0.02, 0.31, Verdict::Inconclusive);
    study.savings[0].break_even = BreakEven::Never;
    study.savings[1].break_even = BreakEven::Unknown(BreakEvenUnknown::MixedMethods);
    study.reasons = vec![
        ReasonCount { reason: Reason::ResidualTooLarge, invalid: 2, warned: 0 },
        ReasonCount { reason: Reason::ResidualNoticeable, invalid: 0, warned: 3 },
    ];
    study
}

pub(crate) fn modelled(mut study: Study) -> Study {
    study.methods = vec![EnergyMethod::Modelled];
    for cell in &mut study.cells {
        cell.method = Some(EnergyMethod::Modelled);
        cell.warnings = vec![Reason::Modelled];
    }
    for overall in &mut study.overall {
        overall.measured = false;
    }
    let warned = study.cells.len() * 5;
    study.reasons = vec![ReasonCount { reason: Reason::Modelled, invalid: 0, warned }];
    study
}

pub(crate) fn power() -> Vec<PowerTrace> {
    MODELS.iter().enumerate().map(|(i, (label, role, _, _))| trace(label, *role, i as f64)).collect()
}

pub(crate) fn trace(label: &str, role: Role, phase: f64) -> PowerTrace {
    let watts = |t: f64| match t {
        t if !(0.8..=7.2).contains(&t) => 9.0 + (t * 7.0).sin() * 0.4,
        t => 31.0 + (t * 11.0 + phase).sin() * 2.5 + (t * 37.0).cos() - phase,
    };
    let points = (0..400).map(|i| f64::from(i) * 0.02).map(|t| (100.0 + t, watts(t))).collect();
    let (prefill, label) = (Vec::new(), label.to_owned());
    PowerTrace { label, role, t0: 101.5, t1: 106.5, points, prefill, modelled: false }
}

pub(crate) fn run() -> RunInfo {
    let study = study();
    let cells = study.cells.iter().map(|c| CellSpec {
        id: CellId(c.id.clone()),
        model: c.model.clone(),
        batch_size: c.batch_size,
        max_new_tokens: c.max_new_tokens,
        dtype: c.dtype.clone(),
        output_length: c.output_length,
        decoding: Decoding::Greedy,
        dummy_weights: false,
        probe: false,
    });
    RunInfo {
        format: FORMAT,
        name: "distillation on the processor".to_owned(),
        question: Some("How much energy per token does distillation save, and what does it cost?".to_owned()),
        notes: Some("The teacher and both students\nare bundled models.\n\nA second paragraph.".to_owned()),
        sweep_file: "kd.yaml".to_owned(),
        sweep_yaml: "name: distillation\nmodels:\n  - label: teacher # <b>&\n```\n".to_owned(),
        sweep_sha256: "4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b".to_owned(),
        models: MODELS.map(|(label, role, _, _)| model(label, role)).to_vec(),
        cells: cells.collect(),
        blocks: 5,
        protocol: Protocol {
            min_window_s: Seconds(5.0),
            guard_s: Seconds(0.5),
            warmup_s: Seconds(3.0),
            idle_s: Seconds(20.0),
            seed: 42,
            preset: Preset::Standard,
            max_warmup_s: Seconds(9.0),
            steady: Some(0.01),
            settle_s: Seconds(0.0),
            order: Order::Blocks,
            balanced: true,
            adaptive: None,
            random_offset_s: Seconds(0.0),
        },
        prompts: PromptInfo {
            source: "data/heldout.jsonl".to_owned(),
            count: 50,
            sha256: "9f86d081884c7d65".repeat(4),
        },
        accuracy_sha256: None,
        floor: 0.01,
        parts: vec![part()],
    }
}

fn model(label: &str, role: Role) -> ModelMeta {
    ModelMeta {
        adapter: None,
        label: label.to_owned(),
        role,
        teacher: (role != Role::Teacher).then(|| TEACHER.to_owned()),
        source: format!("data/models/{label}"),
        training: (role == Role::Student).then(|| TrainingCost {
            recipe: Some("kd".to_owned()),
            duration_s: Some(Seconds(1234.0)),
            energy_j: Some(Joules(36_900.0)),
            energy_method: Some(EnergyMethod::Counter),
            device: Some("cpu".to_owned()),
            ..TrainingCost::default()
        }),
    }
}

fn part() -> Part {
    let info = |label: &str| ModelInfo {
        architecture: "LlamaForCausalLM".to_owned(),
        engine: "decoder".to_owned(),
        parameters: Some(1_115_264),
        weight_bytes: Some(4_461_056),
        dtype: "f32".to_owned(),
        stored_dtype: Some("f16".to_owned()),
        device: "cpu".to_owned(),
        revision: None,
        files: [("model.safetensors".to_owned(), format!("{label:0>8}").repeat(8))].into(),
        padding: Padding::Left,
        dummy: None,
        kernels: Some(KernelsUsed::Cpu),
        fallback: Vec::new(),
        workload: None,
        launches_per_step: None,
        notes: Vec::new(),
    };
    Part {
        started_at: "2026-03-04T05:06:07Z".to_owned(),
        version: "0.1.0".to_owned(),
        git_revision: Some("0123abc-dirty".to_owned()),
        host: Host {
            hostname: Some("bench-1".to_owned()),
            os: Some("Linux 6.8".to_owned()),
            cpu: Some("Example CPU 9".to_owned()),
            cores: 16,
            memory_bytes: Some(64 << 30),
        },
        meter: meter(EnergyMethod::Counter),
        models: [TEACHER, STUDENT, CONTROL].map(|label| (label.to_owned(), info(label))).into(),
        prompt_forms: [].into(),
        calibrations: Vec::new(),
    }
}

pub(crate) fn meter(method: EnergyMethod) -> MeterInfo {
    let domain = |name: &str, description: &str| Domain { name: name.to_owned(), description: description.to_owned() };
    MeterInfo {
        name: if method == EnergyMethod::Modelled { "modelled" } else { "rapl" }.to_owned(),
        method,
        domains: vec![domain("package-0", "intel-rapl:0"), domain("dram-0", "intel-rapl:0:0")],
        tick_s: Some(Seconds(0.001)),
        min_window_s: Seconds(1.0),
        guard_s: Seconds(0.2),
        idle_s: Seconds(5.0),
        notes: vec!["The package's counter wraps every 262 kJ; wraps are accounted for.".to_owned()],
        host_domains: Vec::new(),
        sensing_period_s: None,
        sources: Vec::new(),
        gpus: Vec::new(),
    }
}

/// Two GPUs with a processor beside them, measured by a preset with adaptive repeats; one was throttled by its power
/// limit.
pub(crate) fn gpu_run() -> RunInfo {
    let mut run = run();
    run.protocol = Protocol {
        preset: Preset::Publication,
        order: Order::ByModel,
        settle_s: Seconds(3.0),
        random_offset_s: Seconds(0.1),
        adaptive: Some(Adaptive { half_width: 0.02, max_repeats: 15 }),
        ..run.protocol
    };
    let probe =
        CellSpec { id: CellId("teacher.b1.n1".to_owned()), max_new_tokens: 1, probe: true, ..run.cells[0].clone() };
    run.cells.push(probe);
    run.parts[0].meter = gpu_meter(0.1);
    run
}

/// What NVML offers on two GPUs, with the tick of the counter as it was found.
pub(crate) fn gpu_meter(tick: f64) -> MeterInfo {
    let gpu = |index: u32| GpuInfo {
        domain: format!("gpu{index}"),
        name: "NVIDIA H100 80GB HBM3".to_owned(),
        uuid: Some(format!("GPU-0000000{index}")),
        pci_bus_id: Some(format!("00000000:0{index}:00.0")),
        driver: Some("580.159".to_owned()),
        vbios: Some("96.00.99".to_owned()),
        power_limit_w: Some(Watts(if index == 0 { 700.0 } else { 500.0 })),
        default_power_limit_w: Some(Watts(700.0)),
        max_sm_clock_mhz: Some(1980),
        max_memory_clock_mhz: Some(2619),
        persistence: Some(true),
        ecc: Some(true),
        mig: false,
        bandwidth: Some(3.35e12),
        foreign_processes: if index == 0 { vec![] } else { vec![4242] },
    };
    let source = |name: &str, status, role, tick: Option<f64>, call: f64| SourceInfo {
        domain: "gpu0".to_owned(),
        name: name.to_owned(),
        status,
        role,
        tick_s: tick.map(Seconds),
        tick_range_s: tick.map(|tick| (Seconds(tick * 0.7), Seconds(tick * 1.03))),
        call_s: Some(Seconds(call)),
        detail: (status != SourceStatus::Supported).then(|| "Not Supported".to_owned()),
    };
    let domain = |name: String, description: &str| Domain { name, description: description.to_owned() };
    MeterInfo {
        name: "nvml".to_owned(),
        method: EnergyMethod::Counter,
        domains: (0..2).map(|i| domain(format!("gpu{i}"), "NVIDIA H100 80GB HBM3")).collect(),
        host_domains: vec![
            domain("package-0".to_owned(), "intel-rapl:0"),
            domain("dram-0".to_owned(), "intel-rapl:0:0"),
        ],
        tick_s: Some(Seconds(tick)),
        sensing_period_s: Some(Seconds(0.1)),
        sources: vec![
            source("energy counter", SourceStatus::Supported, SourceRole::Primary, Some(tick), 0.0055),
            source(
                "power samples of the driver's ring",
                SourceStatus::Supported,
                SourceRole::Second,
                Some(0.02),
                0.0004,
            ),
            source("power usage", SourceStatus::Supported, SourceRole::Recorded, Some(0.101), 1e-6),
            source("instantaneous power (field 186)", SourceStatus::Unsupported, SourceRole::Unused, None, 0.003),
        ],
        gpus: (0..2).map(gpu).collect(),
        ..meter(EnergyMethod::Counter)
    }
}

/// What such a run gives.
pub(crate) fn gpu_study() -> Study {
    let mut study = study();
    for (i, cell) in study.cells.iter_mut().enumerate() {
        let per_pass = cell.energy_per_pass_j.unwrap();
        let part = |share: f64| Some(estimate(per_pass.value * share, per_pass.value * share * 0.02, 5));
        cell.windows = WindowFacts {
            windows: 7,
            window_s: Some(20.3),
            passes: Some(3.0),
            residual: Some(if i == 1 { -0.034 } else { 0.0021 }),
            coverage: Some(0.998),
            tick_s: Some(0.1),
            remainder_at_most: Some(0.0043),
            memory_temperature_c: Some(73.0),
            temperature_start_c: Some(58.0),
            temperature_end_c: Some(61.5),
            sm_clock_mhz: Some(1754.6),
            sm_clock_min_mhz: Some(1695.0),
            clock_events: Some(if i == 0 { vec![(ClockEvent::SoftwarePowerCap, 0.85)] } else { vec![] }),
            foreign_processes: Some(0.0),
            idle_drift_w: Some(-1.2),
        };
        cell.domains = Domains { gpu_j: part(1.0), cpu_j: part(0.2), dram_j: part(0.05), total_j: part(1.25) };
        cell.ept_bench_sum = Some(EptBenchSum { per_pass_j: part(0.962).unwrap(), ratio: estimate(0.962, 0.004, 5) });
        cell.counts = TrialCounts { planned: 7, valid: 7, ..TrialCounts::default() };
    }
    study.cells[1].warnings = vec![Reason::ResidualNoticeable, Reason::IdleDrift];
    study.cells[2].counts = TrialCounts { planned: 7, valid: 6, invalid: 1, ..TrialCounts::default() };
    study.cells[2].invalid_reasons = vec![Reason::Throttled];
    study.reasons = vec![
        ReasonCount { reason: Reason::ResidualNoticeable, invalid: 0, warned: 1 },
        ReasonCount { reason: Reason::Throttled, invalid: 1, warned: 0 },
        ReasonCount { reason: Reason::IdleDrift, invalid: 0, warned: 1 },
    ];
    let share = estimate(0.0041, 0.0003, 12);
    study.heat.core = HeatEffect::Known(PerDegree { share, range_c: Interval { low: 45.0, high: 62.0 } });
    let side = |temperature_c: f64, power_cap: f64, limit: f64| SideConditions {
        temperature_c: Some(temperature_c),
        memory_temperature_c: Some(temperature_c + 14.0),
        sm_clock_mhz: Some(1980.0 - 200.0 * power_cap),
        power_cap: Some(power_cap),
        power_limit_w: Some(limit),
    };
    for (i, saving) in study.savings.iter_mut().enumerate() {
        let (base, new) = (side(59.75, 0.85, 700.0), side(if i == 1 { 57.0 } else { 59.0 }, 0.0, 700.0));
        let heat_share = Some(0.0041 * (new.temperature_c.unwrap() - base.temperature_c.unwrap()));
        saving.conditions = PairConditions { base, new, heat_share };
    }
    let mut probe = study.cells[0].clone();
    probe.id = "teacher.b1.n1".to_owned();
    probe.max_new_tokens = 1;
    study.probes = vec![probe];
    study.phases = MODELS.iter().map(|(label, role, ept, _)| phases(label, *role, *ept)).collect();
    study.stopping = Some(Stopping {
        half_width: 0.02,
        fewest: 5,
        most: 15,
        repeats: 7,
        narrow: study.cells.len(),
        wide: vec![],
        unknown: vec![],
    });
    study
}

fn phases(label: &str, role: Role, ept: f64) -> Phases {
    let energy = |factor: f64, lengths| PhaseEnergy {
        prefill_j_per_prompt: estimate(0.4 * factor, 0.02, 7),
        decode_j_per_step: estimate(ept * factor, ept * 0.02, 7),
        decode_j_per_token: estimate(ept * factor, ept * 0.02, 7),
        lengths,
        longest: 64,
    };
    Phases {
        model: label.to_owned(),
        role,
        batch_size: 1,
        dtype: "f16".to_owned(),
        difference: Some(energy(1.0, 2)),
        regression: Some(energy(1.02, 4)),
        curvature: (role == Role::Teacher).then(|| estimate(1.2e-6, 0.3e-6, 28)),
        inside: (role == Role::Teacher).then(|| energy(0.95, 1)),
        prefill_disagreement: Some(0.07),
        decode_disagreement: Some(0.07),
    }
}
