//! From records to verdicts, on synthetic runs whose answers are known exactly.

mod common;

use common::Folder;
use common::records::{self, idle, measurement};
use ept_sweep::analysis::diff::{self, Diff, Labels, Measured};
use ept_sweep::analysis::{
    Basis, BreakEven, BreakEvenUnknown, Estimate, HeatEffect, HeatUnknown, Interval, PerDegree, Saving, Study,
    Undecided, Verdict, analyse,
};
use ept_sweep::error::Result;
use ept_sweep::frame::Frame;
use ept_sweep::record::*;
use ept_sweep::table;
use ept_sweep::units::{Joules, Seconds, Tokens, Watts};

/// Relative difference below which two energies count as equal.
const FLOOR: f64 = 0.01;

/// A run in the making: each trial generates 100 output tokens a second for 10 s in two passes over 20 prompts.
#[derive(Clone)]
struct Run {
    info: RunInfo,
    trials: Vec<Trial>,
    evaluations: Vec<Evaluation>,
    baselines: Vec<Baseline>,
}

impl Run {
    fn new(blocks: u32) -> Self {
        Self { info: records::run_info(blocks), trials: Vec::new(), evaluations: Vec::new(), baselines: Vec::new() }
    }

    /// Teacher `t`, student `s` (1 MJ of training), control `c`.
    fn distillation(blocks: u32) -> Self {
        let mut run = Self::new(blocks);
        run.model("t", Role::Teacher, None);
        run.model("s", Role::Student, Some("t"));
        run.model("c", Role::Control, Some("t"));
        run.train("s", 1e6, EnergyMethod::Counter);
        run
    }

    fn model(&mut self, label: &str, role: Role, teacher: Option<&str>) {
        let (label, teacher) = (label.to_owned(), teacher.map(str::to_owned));
        self.info.models.push(ModelMeta {
            label,
            role,
            teacher,
            source: "synthetic".to_owned(),
            adapter: None,
            training: None,
        });
    }

    fn train(&mut self, label: &str, energy_j: f64, method: EnergyMethod) {
        let model = self.info.models.iter_mut().find(|model| model.label == label).unwrap();
        model.training = Some(TrainingCost {
            recipe: Some("kd".to_owned()),
            energy_j: Some(Joules(energy_j)),
            energy_method: Some(method),
            ..TrainingCost::default()
        });
    }

    /// A cell with one trial for each power; in watts, since 100 tokens a second make W/100 joules a token.
    fn cell(&mut self, model: &str, batch_size: usize, watts: &[f64]) {
        let cell = self.plan(model, batch_size);
        for (block, &power) in watts.iter().enumerate() {
            self.trials.push(trial(&cell, block as u32, Outcome::Measured(Box::new(measurement(power)))));
        }
    }

    fn plan(&mut self, model: &str, batch_size: usize) -> CellSpec {
        self.plan_length(model, batch_size, 32, false)
    }

    fn plan_length(&mut self, model: &str, batch_size: usize, max_new_tokens: usize, probe: bool) -> CellSpec {
        let cell = CellSpec { probe, ..records::cell(model, batch_size, max_new_tokens) };
        self.info.cells.push(cell.clone());
        cell
    }

    /// Exact matches of 100 prompts, the first `matches` of them.
    fn evaluate(&mut self, model: &str, max_new_tokens: usize, matches: usize) {
        let item = |index: usize| ItemScore {
            category: Some(if index.is_multiple_of(2) { "even" } else { "odd" }.to_owned()),
            exact_match: index < matches,
            rouge_l: if index < matches { 1.0 } else { 0.25 },
            tokens_out: 4,
            answer: String::new(),
        };
        self.evaluations.push(Evaluation {
            format: FORMAT,
            model: model.to_owned(),
            dtype: "f32".to_owned(),
            max_new_tokens,
            dataset: "tasks".to_owned(),
            dataset_sha256: "00".to_owned(),
            duration_s: Seconds(1.0),
            items: (0..100).map(item).collect(),
            error: None,
        });
    }

    fn trial_mut(&mut self, cell: &str, block: u32) -> &mut Trial {
        self.trials.iter_mut().find(|trial| trial.cell.id.0 == cell && trial.block == block).unwrap()
    }

    fn measurement_mut(&mut self, cell: &str, block: u32) -> &mut Measurement {
        match &mut self.trial_mut(cell, block).outcome {
            Outcome::Measured(measurement) => measurement,
            other => panic!("{other:?}"),
        }
    }

    fn frame(&self) -> Frame {
        self.try_frame().unwrap()
    }

    fn try_frame(&self) -> Result<Frame> {
        Frame::build(&self.info, &self.trials, &self.evaluations, &self.baselines)
    }

    fn study(&self) -> Study {
        analyse(&self.info, &self.frame(), &self.evaluations).unwrap()
    }

    fn within(&self, base: &str, new: &str) -> Diff {
        let frame = self.frame();
        diff::within_run(&self.measured(&frame), base, new, FLOOR).unwrap()
    }

    fn measured<'a>(&'a self, frame: &'a Frame) -> Measured<'a> {
        Measured { run: &self.info, frame, evaluations: &self.evaluations }
    }
}

fn trial(cell: &CellSpec, block: u32, outcome: Outcome) -> Trial {
    let started_at = "2025-01-01T00:00:00Z".to_owned();
    Trial { format: FORMAT, cell: cell.clone(), block, part: 0, started_at, outcome }
}

fn baseline(model: &str, block: u32, time: BaselineTime, watts: f64) -> Baseline {
    Baseline { format: FORMAT, model: model.to_owned(), block, part: 0, time, idle: idle(watts) }
}

fn close(actual: f64, expected: f64) {
    assert!((actual - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{actual} is not {expected}");
}

fn ends(estimate: &Estimate) -> (f64, f64) {
    let Interval { low, high } = estimate.interval.unwrap();
    (low, high)
}

fn only(savings: &[Saving], student: &str) -> Saving {
    let mut of_student = savings.iter().filter(|saving| saving.student == student);
    let saving = of_student.next().unwrap().clone();
    assert!(of_student.next().is_none());
    saving
}

#[test]
fn three_hundred_watts_against_one_hundred_save_two_thirds() {
    let mut run = Run::distillation(5);
    run.cell("t", 8, &[300.0; 5]);
    run.cell("s", 8, &[100.0; 5]);
    let study = run.study();
    let saving = only(&study.savings, "s");
    let comparison = &saving.ept_out;
    for (estimate, expected) in [
        (comparison.ratio, 1.0 / 3.0),
        (comparison.saving, 2.0 / 3.0),
        (comparison.factor, 3.0),
        (comparison.saved_j_per_token, 2.0),
    ] {
        let estimate = estimate.unwrap();
        close(estimate.value, expected);
        assert_eq!(ends(&estimate), (estimate.value, estimate.value), "equal repeats have no spread");
        assert_eq!(estimate.n, 5);
    }
    assert_eq!(comparison.verdict, Verdict::Improved);
    let BreakEven::Tokens(tokens) = saving.break_even else { panic!("{:?}", saving.break_even) };
    close(tokens.value, 1e6 / 2.0);
    assert_eq!(study.overall[0].ept_out, *comparison);
    assert_eq!((study.overall[0].cells, study.overall[0].measured), (1, true));
}

#[test]
fn a_cell_is_summarised_over_its_valid_windows() {
    let mut run = Run::distillation(5);
    run.cell("t", 8, &[290.0, 300.0, 310.0, 900.0, 0.0]);
    let cell = run.info.cells[0].clone();
    run.measurement_mut("t.b8.n32", 3).validity.invalid_reasons = vec![Reason::ResidualTooLarge];
    run.measurement_mut("t.b8.n32", 0).validity.warnings = vec![Reason::ResidualNoticeable];
    let failed = Outcome::Failed { failure: FailureKind::OutOfMemory, message: "out of memory".to_owned() };
    *run.trial_mut("t.b8.n32", 4) = trial(&cell, 4, failed);
    let study = run.study();
    let summary = &study.cells[0];
    let counts = summary.counts;
    assert_eq!((counts.planned, counts.valid, counts.invalid, counts.failed, counts.skipped), (5, 3, 1, 1, 0));
    let ept = summary.ept_out_j.unwrap();
    close(ept.value, 3.0);
    close(ends(&ept).1 - 3.0, 4.302_652_729_911_275 * 0.1 / 3.0f64.sqrt());
    close(summary.ept_in_j.unwrap().value, 6.0);
    close(summary.ept_total_j.unwrap().value, 2.0);
    close(summary.net_ept_out_j.unwrap().value, 2.5);
    close(summary.energy_per_pass_j.unwrap().value, 1500.0);
    close(summary.energy_per_prompt_j.unwrap().value, 75.0);
    close(summary.tokens_per_s.unwrap().value, 100.0);
    close(summary.power_w.unwrap().value, 300.0);
    let tokens = summary.tokens_per_pass.unwrap();
    assert_eq!((tokens.prompts, tokens.input, tokens.output, tokens.pad_fraction), (20.0, 250.0, 500.0, 0.2));
    assert_eq!(summary.invalid_reasons, vec![Reason::ResidualTooLarge]);
    assert_eq!(summary.warnings, vec![Reason::ResidualNoticeable]);
    assert_eq!(summary.failures, vec!["out of memory".to_owned()]);
    assert_eq!(
        study.reasons.iter().map(|r| (r.reason, r.invalid, r.warned)).collect::<Vec<_>>(),
        [(Reason::ResidualTooLarge, 1, 0), (Reason::ResidualNoticeable, 0, 1)]
    );
    assert_eq!(study.methods, vec![EnergyMethod::Counter]);
}

#[test]
fn drift_that_both_sides_share_cancels_in_paired_blocks() {
    let mut run = Run::distillation(5);
    let drift = [1.0, 1.2, 0.9, 1.4, 1.1];
    run.cell("t", 8, &drift.map(|d| 300.0 * d));
    run.cell("s", 8, &drift.map(|d| 100.0 * d));
    let ratio = only(&run.study().savings, "s").ept_out.ratio.unwrap();
    let (low, high) = ends(&ratio);
    close(low, 1.0 / 3.0);
    close(high, 1.0 / 3.0);
}

#[test]
fn the_paired_log_ratio_has_the_student_interval() {
    let mut run = Run::distillation(3);
    run.cell("t", 8, &[300.0; 3]);
    run.cell("s", 8, &[0.0f64, 0.1, 0.2].map(|log| 100.0 * log.exp()));
    let ratio = only(&run.study().savings, "s").ept_out.ratio.unwrap();
    close(ratio.value, 0.1f64.exp() / 3.0);
    let half = 4.302_652_729_911_275 * 0.1 / 3.0f64.sqrt();
    close(ends(&ratio).0, (0.1 - half).exp() / 3.0);
    close(ends(&ratio).1, (0.1 + half).exp() / 3.0);
}

#[test]
fn blocks_that_do_not_match_are_compared_as_independent_samples() {
    let mut run = Run::distillation(6);
    run.cell("t", 8, &[300.0, 306.0, 294.0, 1.0, 1.0, 1.0]);
    run.cell("s", 8, &[1.0, 1.0, 1.0, 100.0, 102.0, 98.0]);
    for block in 0..3 {
        run.measurement_mut("t.b8.n32", block + 3).validity.invalid_reasons = vec![Reason::CounterReset];
        run.measurement_mut("s.b8.n32", block).validity.invalid_reasons = vec![Reason::CounterReset];
    }
    let comparison = only(&run.study().savings, "s").ept_out;
    let ratio = comparison.ratio.unwrap();
    close(ratio.value, 1.0 / 3.0);
    // equal log variances v: SE = √(2v/3), 4 degrees of freedom
    let logs = [1.0f64, 1.02, 0.98].map(f64::ln);
    let mean = logs.iter().sum::<f64>() / 3.0;
    let v = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / 2.0;
    close(ends(&ratio).1.ln(), (1.0f64 / 3.0).ln() + 2.776_445_105_197_793 * (2.0 * v / 3.0).sqrt());
    assert_eq!(ratio.n, 3);
    assert_eq!(run.study().overall[0].ept_out.ratio, None, "no block has both sides");
}

#[test]
fn one_repeat_gives_numbers_without_intervals_and_no_verdict() {
    let mut run = Run::distillation(1);
    run.cell("t", 8, &[300.0]);
    run.cell("s", 8, &[100.0]);
    let saving = only(&run.study().savings, "s");
    assert_eq!(saving.ept_out.ratio.map(|ratio| (ratio.interval, ratio.n)), Some((None, 1)));
    assert_eq!((saving.ept_out.p_adjusted, saving.ept_out.verdict), (None, Verdict::Inconclusive));
    assert!(matches!(saving.break_even, BreakEven::Tokens(Estimate { interval: None, .. })));
}

#[test]
fn verdicts_follow_the_floor() {
    let verdict = |new: [f64; 5]| {
        let mut run = Run::distillation(5);
        run.cell("t", 8, &[100.0; 5]);
        run.cell("s", 8, &new);
        only(&run.study().savings, "s").ept_out.verdict
    };
    let around = |centre: f64, spread: f64| [-1.0, -0.5, 0.0, 0.5, 1.0].map(|step| centre + step * spread);
    assert_eq!(verdict(around(95.0, 0.5)), Verdict::Improved);
    assert_eq!(verdict(around(105.0, 0.5)), Verdict::Regressed);
    assert_eq!(verdict(around(100.0, 0.5)), Verdict::Equivalent);
    assert_eq!(verdict(around(99.5, 0.1)), Verdict::Equivalent, "a difference below the floor is no news");
    assert_eq!(verdict(around(99.0, 0.5)), Verdict::Inconclusive, "the interval straddles the floor");
    assert_eq!(verdict(around(100.0, 5.0)), Verdict::Inconclusive, "a wide interval is no proof of equality");
}

#[test]
fn p_values_are_adjusted_over_the_cells_of_one_student() {
    let p_values = |batches: &[usize]| {
        let mut run = Run::distillation(3);
        for &batch in batches {
            run.cell("t", batch, &[100.0; 3]);
            run.cell("s", batch, &[94.0, 95.0, 96.0]);
        }
        run.study().savings.iter().map(|saving| saving.ept_out.p_adjusted.unwrap()).collect::<Vec<_>>()
    };
    let alone = p_values(&[1])[0];
    for p in p_values(&[1, 2, 4]) {
        close(p, 3.0 * alone);
    }
}

#[test]
fn energies_of_different_methods_are_not_compared() {
    let mut run = Run::distillation(5);
    run.cell("t", 8, &[300.0; 5]);
    run.cell("s", 8, &[100.0; 5]);
    for block in 0..5 {
        run.measurement_mut("s.b8.n32", block).energy.method = Some(EnergyMethod::Modelled);
    }
    let study = run.study();
    let saving = only(&study.savings, "s");
    assert_eq!((saving.ept_out.ratio, saving.ept_out.verdict), (None, Verdict::Inconclusive));
    assert_eq!(saving.break_even, BreakEven::Unknown(BreakEvenUnknown::UnknownSaving));
    assert_eq!((study.overall[0].ept_out.ratio, study.overall[0].measured), (None, false));
    assert_eq!(study.methods, vec![EnergyMethod::Counter, EnergyMethod::Modelled]);
}

#[test]
fn a_cell_that_mixes_methods_has_no_energy() {
    let mut run = Run::distillation(2);
    run.cell("t", 8, &[300.0; 2]);
    run.measurement_mut("t.b8.n32", 1).energy.method = Some(EnergyMethod::PowerIntegral);
    let study = run.study();
    assert_eq!((study.cells[0].method, study.cells[0].ept_out_j), (None, None));
    assert!(study.cells[0].tokens_per_s.is_some());
}

#[test]
fn modelled_savings_do_not_pay_back_measured_training() {
    let mut run = Run::distillation(2);
    run.cell("t", 8, &[300.0; 2]);
    run.cell("s", 8, &[100.0; 2]);
    for trial in &mut run.trials {
        let Outcome::Measured(measurement) = &mut trial.outcome else { unreachable!() };
        measurement.energy.method = Some(EnergyMethod::Modelled);
    }
    let study = run.study();
    assert_eq!(study.savings[0].break_even, BreakEven::Unknown(BreakEvenUnknown::MixedMethods));
    assert_eq!(study.overall[0].break_even, BreakEven::Unknown(BreakEvenUnknown::MixedMethods));
    assert!(!study.overall[0].measured);
}

#[test]
fn the_overall_saving_is_the_geometric_mean_over_cells_with_the_block_as_unit() {
    let mut run = Run::distillation(3);
    run.cell("t", 1, &[300.0, 300.0, 300.0]);
    run.cell("t", 8, &[200.0, 200.0, 200.0]);
    run.cell("s", 1, &[100.0, 110.0, 120.0]);
    run.cell("s", 8, &[100.0, 110.0, 120.0]);
    let overall = &run.study().overall[0];
    let ratio = overall.ept_out.ratio.unwrap();
    close(ratio.value, (1.0f64 * 1.1 * 1.2).cbrt() / 6.0f64.sqrt());
    assert_eq!((overall.cells, ratio.n), (2, 3));
    close(overall.ept_out.saved_j_per_token.unwrap().value, 2.5 - 1.1);
    let BreakEven::Tokens(tokens) = overall.break_even else { panic!() };
    close(tokens.value, 1e6 / 1.4);
}

#[test]
fn a_block_with_an_invalid_window_is_left_out_of_the_overall_saving() {
    let mut run = Run::distillation(3);
    for batch in [1, 8] {
        run.cell("t", batch, &[300.0; 3]);
        run.cell("s", batch, &[100.0, 100.0, 30.0]);
    }
    run.measurement_mut("t.b1.n32", 2).validity.invalid_reasons = vec![Reason::WindowTooShort];
    let overall = run.study().overall[0].clone();
    let ratio = overall.ept_out.ratio.unwrap();
    close(ratio.value, 1.0 / 3.0);
    assert_eq!(ratio.n, 2);
    assert!(!overall.measured, "one of its trials is invalid");
}

#[test]
fn a_cell_that_never_ran_is_not_shared() {
    let mut run = Run::distillation(2);
    for batch in [1, 8] {
        run.cell("s", batch, &[100.0; 2]);
    }
    run.cell("t", 1, &[300.0; 2]);
    let oom = run.plan("t", 8);
    for block in 0..2 {
        run.trials.push(trial(&oom, block, Outcome::Skipped { message: "too large".to_owned() }));
    }
    let study = run.study();
    assert_eq!(study.savings.len(), 2);
    assert_eq!(study.savings[1].ept_out.ratio, None);
    assert_eq!(study.overall[0].cells, 1);
    close(study.overall[0].ept_out.ratio.unwrap().value, 1.0 / 3.0);
}

#[test]
fn accuracy_joins_the_savings_and_the_control() {
    let mut run = Run::distillation(2);
    for (model, watts, matches) in [("t", 300.0, 90), ("s", 100.0, 80), ("c", 100.0, 60)] {
        run.cell(model, 8, &[watts; 2]);
        run.evaluate(model, 32, matches);
    }
    run.evaluate("s", 64, 85);
    let study = run.study();
    close(only(&study.savings, "s").accuracy_difference.unwrap().value, -0.1);
    let overall = &study.overall[0];
    close(overall.student_accuracy.unwrap().value, 0.8);
    close(overall.teacher_accuracy.unwrap().value, 0.9);
    let (control, over) = overall.over_control.clone().unwrap();
    assert_eq!(control, "c");
    close(over.value, 0.2);
    assert_eq!(study.overall[1].over_control, None);
    let labels: Vec<_> = study.accuracies.iter().map(|a| (a.model.as_str(), a.max_new_tokens)).collect();
    assert_eq!(labels, [("t", 32), ("s", 32), ("s", 64), ("c", 32)]);
    assert_eq!(study.accuracies[0].by_category, [("even".to_owned(), 0.9, 50), ("odd".to_owned(), 0.9, 50)]);
}

#[test]
fn the_front_has_the_points_that_nothing_beats() {
    let mut run = Run::distillation(1);
    for (model, watts, matches) in [("t", 300.0, 90), ("s", 100.0, 80), ("c", 100.0, 60)] {
        run.cell(model, 8, &[watts]);
        run.evaluate(model, 32, matches);
    }
    run.cell("s", 1, &[200.0]);
    let front = |study: Study| study.points.into_iter().map(|p| (p.cell, p.on_front)).collect::<Vec<_>>();
    let expected = [("t.b8.n32", true), ("s.b8.n32", true), ("c.b8.n32", false), ("s.b1.n32", false)];
    assert_eq!(front(run.study()), expected.map(|(cell, on_front)| (cell.to_owned(), on_front)));
    run.measurement_mut("t.b8.n32", 0).energy.total_j = None;
    assert_eq!(front(run.study()).len(), 3, "a cell without an energy has no point");
}

#[test]
fn a_plan_without_trials_gives_a_study_of_unknowns() {
    let mut run = Run::distillation(5);
    run.plan("t", 8);
    run.plan("s", 8);
    let study = run.study();
    assert_eq!(study.cells.len(), 2);
    assert!(study.cells.iter().all(|cell| cell.ept_out_j.is_none() && cell.counts.planned == 5));
    assert_eq!(study.savings[0].ept_out.ratio, None);
    assert_eq!((study.overall[0].cells, study.overall[0].ept_out.ratio), (0, None));
    assert!(study.points.is_empty() && study.methods.is_empty() && study.reasons.is_empty());
}

#[test]
fn null_energies_and_zero_tokens_stay_unknown() {
    let mut run = Run::distillation(3);
    run.cell("t", 8, &[300.0; 3]);
    run.cell("s", 8, &[100.0; 3]);
    run.measurement_mut("s.b8.n32", 0).energy = WindowEnergy::default();
    run.measurement_mut("s.b8.n32", 1).tokens_out = Tokens(0);
    let study = run.study();
    assert_eq!(study.cells[1].ept_out_j.map(|e| (e.value, e.n)), Some((1.0, 1)));
    assert_eq!(only(&study.savings, "s").ept_out.ratio.unwrap().n, 1);
}

#[test]
fn a_trial_outside_the_plan_and_a_double_block_are_refused() {
    let mut run = Run::distillation(2);
    run.cell("t", 8, &[300.0; 2]);
    let double = Run { trials: [run.trials.clone(), run.trials[..1].to_vec()].concat(), ..run.clone() };
    let error = double.try_frame().unwrap_err();
    assert_eq!(error.message(), "cell `t.b8.n32` has two valid trials in block 0");
    run.info.cells.clear();
    let error = run.try_frame().unwrap_err();
    assert_eq!(error.message(), "the results have a trial of cell `t.b8.n32`, which isn't in the run's plan");
}

#[test]
fn the_frame_has_a_row_for_every_trial_and_survives_parquet_and_csv() {
    let mut run = Run::distillation(2);
    run.cell("s", 8, &[100.0, 1.0 / 3.0]);
    run.cell("t", 8, &[300.0]);
    run.evaluate("s", 32, 80);
    let cell = run.plan("t", 16);
    let message = "no room, \"sorry\"\nhint: less".to_owned();
    run.trials.insert(0, trial(&cell, 0, Outcome::Failed { failure: FailureKind::OutOfMemory, message }));
    let frame = run.frame();
    assert_eq!(frame.trials().height(), 4);
    let text = |name: &str, row: usize| table::Cells(frame.trials()).text(name, row).unwrap().map(str::to_owned);
    let number = |name: &str, row: usize| table::Cells(frame.trials()).f64(name, row).unwrap();
    assert_eq!(
        (0..4).map(|row| text("cell", row).unwrap()).collect::<Vec<_>>(),
        ["s.b8.n32", "s.b8.n32", "t.b8.n32", "t.b16.n32"]
    );
    assert_eq!(text("teacher", 0), Some("t".to_owned()));
    assert_eq!((text("failure", 3), text("outcome", 3)), (Some("out_of_memory".to_owned()), Some("failed".to_owned())));
    assert_eq!((number("E_run_J", 0), number("EPT_out_J_per_tok", 0)), (Some(1000.0), Some(1.0)));
    assert_eq!((number("net_E_run_J", 0), number("power_w", 0)), (Some(500.0), Some(100.0)));
    assert_eq!((number("E_run_J", 3), number("load_J", 0)), (None, None));
    assert_eq!((number("exact_match", 0), number("exact_match_stderr", 0)), (Some(0.8), Some(0.04)));
    assert_eq!(number("exact_match", 2), None);

    let folder = Folder::new();
    let (parquet, csv) = (folder.path("results.parquet"), folder.path("results.csv"));
    let flat = frame.flat().unwrap();
    table::write_parquet(&parquet, frame.trials()).unwrap();
    table::write_csv(&csv, &flat).unwrap();
    assert!(table::read_parquet(&parquet).unwrap().equals_missing(frame.trials()));
    assert!(table::read_csv(&csv, Some(flat.schema().clone())).unwrap().equals_missing(&flat));
}

#[test]
fn the_idle_power_is_the_mean_of_the_brackets_of_the_trials_own_load() {
    let mut run = Run::distillation(3);
    run.cell("t", 8, &[150.0; 3]);
    run.baselines = vec![
        baseline("t", 0, BaselineTime::Before, 48.0),
        baseline("t", 0, BaselineTime::After, 52.0),
        baseline("t", 1, BaselineTime::Before, 49.0),
        baseline("t", 1, BaselineTime::After, 50.0),
        baseline("s", 2, BaselineTime::After, 90.0),
        baseline("t", 2, BaselineTime::Before, 60.0),
        Baseline { part: 1, ..baseline("t", 2, BaselineTime::After, 90.0) },
    ];
    let frame = run.frame();
    let number = |name: &str, row: usize| table::Cells(frame.trials()).f64(name, row).unwrap();
    let flat = frame.flat().unwrap();
    let warnings = |row: usize| table::Cells(&flat).text("warnings", row).unwrap().unwrap().to_owned();
    assert_eq!((number("idle_w", 0), number("idle_drift_w", 0)), (Some(50.0), Some(4.0)));
    assert_eq!(number("net_E_run_J", 0), Some(1000.0));
    assert_eq!(warnings(0), "idle_drift", "4 W of 100 W net");
    assert_eq!((number("idle_w", 1), number("idle_drift_w", 1), warnings(1)), (Some(49.5), Some(1.0), String::new()));
    assert_eq!((number("idle_w", 2), number("idle_drift_w", 2)), (Some(60.0), None), "only before");
    let study = run.study();
    close(study.cells[0].windows.idle_drift_w.unwrap(), 4.0);
    assert_eq!((study.cells[0].counts.valid, study.reasons[0].warned), (3, 1), "the gross energy is valid");
}

fn domain(name: &str, energy: f64, residual: Option<f64>) -> DomainEnergy {
    DomainEnergy {
        domain: name.to_owned(),
        energy_j: Joules(energy),
        method: EnergyMethod::Counter,
        integral_j: None,
        residual,
    }
}

/// A window on two GPUs with host, conditions and phases.
fn two_gpus() -> Run {
    let mut run = Run::distillation(1);
    run.cell("t", 8, &[300.0]);
    let gpu = |index: u32, end: f64, share: f64, others: u32| Conditions {
        domain: format!("gpu{index}"),
        temperature_start_c: Some(end - 2.0),
        temperature_end_c: Some(end),
        sm_clock_mhz: Some(1500.0 + 100.0 * f64::from(index)),
        sm_clock_min_mhz: Some(1400.0 + 100.0 * f64::from(index)),
        clock_events: [(ClockEvent::SoftwarePowerCap, share)].into(),
        foreign_processes: Some(others),
        ..Conditions::default()
    };
    let measurement = run.measurement_mut("t.b8.n32", 0);
    measurement.energy.domains = vec![domain("gpu0", 2000.0, Some(0.012)), domain("gpu1", 1000.0, Some(-0.02))];
    measurement.energy.host = vec![domain("package-0", 500.0, None), domain("dram-0", 50.0, None)];
    measurement.energy.residual = Some(0.001);
    measurement.energy.ept_bench_sum_j = Some(Joules(2850.0));
    measurement.conditions = vec![gpu(0, 70.0, 0.85, 0), gpu(1, 61.0, 0.5, 2)];
    measurement.phases = Some(PhaseSplit {
        prefill_j: Joules(600.0),
        decode_j: Joules(2300.0),
        prefill_s: Seconds(1.5),
        decode_s: Seconds(8.0),
        decode_steps: 310,
        lag_s: None,
    });
    run
}

#[test]
fn domains_conditions_and_phases_have_columns_of_their_own() {
    let frame = two_gpus().frame();
    let number = |name: &str| table::Cells(frame.trials()).f64(name, 0).unwrap().unwrap_or_else(|| panic!("{name}"));
    for (name, expected) in [
        ("gpu_J", 3000.0),
        ("cpu_J", 500.0),
        ("dram_J", 50.0),
        ("total_J", 3550.0),
        ("E_sum_J", 2850.0),
        ("residual_worst", -0.02),
        ("temperature_start_c", 68.0),
        ("temperature_end_c", 70.0),
        ("sm_clock_mhz", 1550.0),
        ("sm_clock_min_mhz", 1400.0),
        ("prefill_J", 600.0),
        ("decode_J", 2300.0),
        ("prefill_s", 1.5),
        ("offset_s", 0.03),
    ] {
        assert_eq!(number(name), expected, "{name}");
    }
    let flat = frame.flat().unwrap();
    assert_eq!(table::Cells(&flat).text("clock_events", 0).unwrap(), Some("software_power_cap:0.85"));
    assert_eq!(table::Cells(frame.trials()).i64("foreign_processes", 0).unwrap(), Some(2));
    assert_eq!(table::Cells(frame.trials()).bool("probe", 0).unwrap(), Some(false));
}

#[test]
fn domains_and_clock_events_of_a_window_are_summarised_with_its_cell() {
    let study = two_gpus().study();
    let cell = &study.cells[0];
    assert_eq!(cell.windows.clock_events, Some(vec![(ClockEvent::SoftwarePowerCap, 0.85)]));
    close(cell.domains.total_j.unwrap().value, 3550.0 / 2.0);
    close(cell.ept_bench_sum.unwrap().ratio.value, 0.95);
}

#[test]
fn without_the_hosts_energy_the_total_is_unknown() {
    let mut run = two_gpus();
    run.measurement_mut("t.b8.n32", 0).energy.host.clear();
    let frame = run.frame();
    let number = |name: &str| table::Cells(frame.trials()).f64(name, 0).unwrap();
    assert_eq!((number("gpu_J"), number("cpu_J"), number("total_J")), (Some(3000.0), None, None));
}

#[test]
fn a_package_that_was_not_measured_leaves_the_processor_unknown() {
    let mut run = Run::distillation(1);
    run.cell("t", 8, &[300.0]);
    run.info.parts = vec![records::part(records::meter("rapl", &["package-0", "package-1"]))];
    let package = |name: &str| domain(name, 100.0, None);
    run.measurement_mut("t.b8.n32", 0).energy.domains = vec![package("package-0")];
    let cpu = |run: &Run| table::Cells(run.frame().trials()).f64("cpu_J", 0).unwrap();
    assert_eq!(cpu(&run), None);
    run.measurement_mut("t.b8.n32", 0).energy.domains.push(package("package-1"));
    assert_eq!(cpu(&run), Some(200.0));
}

#[test]
fn probes_tell_the_phases_apart_and_are_in_nothing_else() {
    let mut run = Run::distillation(2);
    for (model, scale) in [("t", 3.0), ("s", 1.0)] {
        // a pass of 5 batches: 100 J of prefill and 2 J a step, times the scale; two passes a window of 10 s
        for (length, probe) in [(1, true), (8, true), (32, false)] {
            let cell = run.plan_length(model, 8, length, probe);
            let watts = (100.0 + 2.0 * 5.0 * (length as f64 - 1.0)) * scale * 2.0 / 10.0;
            for block in 0..2 {
                let mut measured = measurement(watts);
                measured.tokens_out = Tokens(40 * length as u64);
                run.trials.push(trial(&cell, block, Outcome::Measured(Box::new(measured))));
            }
        }
        run.evaluate(model, 32, 80);
        run.evaluate(model, 8, 40);
    }
    let study = run.study();
    let ids = |cells: &[ept_sweep::analysis::CellSummary]| cells.iter().map(|c| c.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&study.cells), ["t.b8.n32", "s.b8.n32"]);
    assert_eq!(ids(&study.probes), ["t.b8.n1", "t.b8.n8", "s.b8.n1", "s.b8.n8"]);
    assert_eq!((study.savings.len(), study.overall[0].cells, study.points.len()), (1, 1, 2));
    assert!(study.accuracies.iter().all(|accuracy| accuracy.max_new_tokens == 32));
    let [teacher, student] = &study.phases[..] else { panic!("{:?}", study.phases) };
    close(teacher.difference.unwrap().decode_j_per_step.value, 6.0);
    close(student.regression.unwrap().decode_j_per_step.value, 2.0);
    close(student.regression.unwrap().prefill_j_per_prompt.value, 5.0);
    let diff = run.within("t", "s");
    assert_eq!((diff.rows.len(), diff.accuracy.len()), (1, 1));
    assert!(diff.unmatched.is_empty());
}

#[test]
fn adaptive_repeats_beyond_the_planned_ones_are_complete_and_counted() {
    let mut run = Run::distillation(2);
    run.info.protocol.adaptive = Some(Adaptive { half_width: 0.02, max_repeats: 4 });
    run.cell("t", 8, &[300.0; 4]);
    run.cell("s", 8, &[90.0, 110.0, 95.0, 105.0]);
    let study = run.study();
    assert_eq!((study.cells[0].counts.planned, study.cells[0].counts.valid), (4, 4));
    assert!(study.overall[0].measured, "more than the planned repeats are no gap");
    let stopping = study.stopping.unwrap();
    assert_eq!((stopping.fewest, stopping.most, stopping.repeats, stopping.narrow), (2, 4, 4, 1));
    assert_eq!(stopping.wide, ["s.b8.n32"]);
    run.measurement_mut("s.b8.n32", 3).validity.invalid_reasons = vec![Reason::Throttled];
    assert!(!run.study().overall[0].measured);
}

#[test]
fn a_cell_with_one_valid_repeat_is_neither_narrow_nor_wide() {
    let mut run = Run::distillation(2);
    run.info.protocol.adaptive = Some(Adaptive { half_width: 0.02, max_repeats: 4 });
    run.cell("t", 8, &[300.0; 2]);
    run.cell("s", 8, &[90.0, 110.0]);
    run.measurement_mut("s.b8.n32", 1).validity.invalid_reasons = vec![Reason::Throttled];
    let stopping = run.study().stopping.unwrap();
    assert_eq!((stopping.narrow, stopping.wide.len(), stopping.cells()), (1, 0, 2));
    assert_eq!(stopping.unknown, ["s.b8.n32"]);
}

#[test]
fn a_diff_within_a_run_pairs_blocks_and_gives_a_verdict() {
    let mut run = Run::distillation(3);
    for batch in [1, 8] {
        run.cell("t", batch, &[300.0, 330.0, 270.0]);
        run.cell("s", batch, &[100.0, 110.0, 90.0]);
    }
    run.plan("t", 16);
    run.evaluate("t", 32, 90);
    run.evaluate("s", 32, 80);
    let diff = run.within("t", "s");
    assert_eq!(diff.basis, Basis::WithinRun(Order::Blocks));
    assert_eq!(diff.rows.len(), 2);
    assert_eq!(diff.unmatched, vec!["t.b16.n32".to_owned()]);
    for row in &diff.rows {
        close(row.comparison.ratio.unwrap().value, 1.0 / 3.0);
        close(row.base_ept_out_j.unwrap().value, 3.0);
        close(row.new_ept_out_j.unwrap().value, 1.0);
        assert_eq!((row.comparison.verdict, row.undecided), (Verdict::Improved, None));
    }
    assert_eq!((diff.overall[0].cells, diff.overall[0].comparison.verdict), (2, Verdict::Improved));
    close(diff.accuracy[0].exact_match.unwrap().value, -0.1);
    close(diff.accuracy[0].rouge_l.unwrap().value, -0.075);
    assert_eq!(run.study().savings[0].ept_out, diff.rows[0].comparison);
}

/// A warm-up from 45 towards 57 °C in cycles of 700 J at 50 °C and 0.4 % more of it for each degree.
fn warm_up() -> Heat {
    let cycle = |second: i32| {
        let temperature = 57.0 - 12.0 * (-f64::from(second) / 25.0).exp();
        Cycle {
            t_s: Seconds(f64::from(second)),
            duration_s: Seconds(1.0),
            energy_j: Joules(700.0 * (0.004 * (temperature - 50.0)).exp()),
            temperature_c: Some(temperature),
            memory_temperature_c: None,
        }
    };
    Heat { cycles: (0..40).map(cycle).collect(), ..Heat::default() }
}

#[test]
fn each_compared_pair_states_its_conditions_and_what_the_difference_in_temperature_may_explain() {
    let mut run = Run::distillation(2);
    run.cell("t", 1, &[300.0, 330.0]);
    run.cell("s", 1, &[100.0, 110.0]);
    let mut part = records::part(records::meter("nvml", &["gpu0"]));
    part.meter.gpus = vec![GpuInfo { power_limit_w: Some(Watts(700.0)), ..GpuInfo::default() }];
    run.info.parts = vec![part];
    for (cell, warmth, cap) in [("t.b1.n32", 60.0, 0.8), ("s.b1.n32", 56.0, 0.0)] {
        for block in 0..2 {
            let measurement = run.measurement_mut(cell, block);
            measurement.conditions = vec![Conditions {
                domain: "gpu0".to_owned(),
                temperature_start_c: Some(warmth - 1.0 + f64::from(block)),
                temperature_end_c: Some(warmth + 1.0 + f64::from(block)),
                sm_clock_mhz: Some(1980.0 - 200.0 * cap),
                clock_events: [(ClockEvent::SoftwarePowerCap, cap)].into(),
                ..Conditions::default()
            }];
            measurement.heat = Some(warm_up());
        }
    }
    let (study, diff) = (run.study(), run.within("t", "s"));
    let HeatEffect::Known(core) = study.heat.core else { panic!("{:?}", study.heat) };
    close(core.share.value, 0.004);
    assert_eq!((core.share.n, core.range_c.low), (4, 45.0));
    assert_eq!(study.heat.memory, HeatEffect::Unknown(HeatUnknown::NoTemperature));
    for conditions in [study.savings[0].conditions, diff.rows[0].conditions] {
        let (base, new) = (conditions.base, conditions.new);
        assert_eq!((base.temperature_c, new.temperature_c), (Some(60.5), Some(56.5)));
        assert_eq!((base.sm_clock_mhz, new.sm_clock_mhz), (Some(1820.0), Some(1980.0)));
        assert_eq!((base.power_cap, new.power_cap), (Some(0.8), Some(0.0)));
        assert_eq!((base.power_limit_w, new.power_limit_w), (Some(700.0), Some(700.0)));
        close(conditions.heat_share.unwrap(), -0.016);
    }
    // a window that isn't valid takes no part, nor does its warm-up
    run.measurement_mut("t.b1.n32", 1).validity.invalid_reasons = vec![Reason::Throttled];
    assert_eq!(run.within("t", "s").rows[0].conditions.base.temperature_c, Some(60.0));
    for cell in ["t.b1.n32", "s.b1.n32"] {
        run.measurement_mut(cell, 0).heat = None;
    }
    let study = run.study();
    assert!(matches!(study.heat.core, HeatEffect::Known(PerDegree { share, .. }) if share.interval.is_none()));
    assert_eq!(study.savings[0].conditions.heat_share, None, "one warm-up shows nothing");
    run.measurement_mut("s.b1.n32", 1).heat = None;
    let study = run.study();
    assert_eq!(study.heat.core, HeatEffect::Unknown(HeatUnknown::NoCourse));
    assert_eq!(study.savings[0].conditions.heat_share, None);
}

#[test]
fn in_the_order_by_model_a_comparison_has_an_interval_and_a_break_even_but_no_verdict() {
    let mut run = Run::distillation(3);
    run.cell("t", 1, &[300.0, 330.0, 270.0]);
    run.cell("s", 1, &[100.0, 110.0, 90.0]);
    let paired = run.within("t", "s").rows[0].comparison.ratio.unwrap().interval.unwrap();
    run.info.protocol.order = Order::ByModel;
    let (study, diff) = (run.study(), run.within("t", "s"));
    assert_eq!(diff.basis, Basis::WithinRun(Order::ByModel));
    let (saving, overall) = (&study.savings[0], &study.overall[0]);
    for (comparison, undecided) in [
        (&saving.ept_out, saving.undecided),
        (&overall.ept_out, overall.undecided),
        (&diff.rows[0].comparison, diff.rows[0].undecided),
        (&diff.overall[0].comparison, diff.overall[0].undecided),
    ] {
        assert_eq!((comparison.p_adjusted, comparison.verdict), (None, Verdict::Inconclusive));
        assert_eq!(undecided, Some(Undecided::ByModel));
        // 10 % of spread on both sides; block by block, where it cancels, there would be none
        let Interval { low, high } = comparison.ratio.unwrap().interval.unwrap();
        assert!(paired.high - paired.low < 1e-9 && low < 0.3 && high > 0.37, "{low} {high}");
    }
    for break_even in [&saving.break_even, &overall.break_even] {
        assert!(matches!(break_even, BreakEven::Tokens(tokens) if tokens.interval.is_some()), "{break_even:?}");
    }
}

#[test]
fn a_diff_of_two_runs_has_an_interval_and_no_verdict() {
    let (old, new) = (teacher_run(&[300.0, 301.0, 299.0]), teacher_run(&[200.0, 201.0, 199.0]));
    let (old_frame, new_frame) = (old.frame(), new.frame());
    let (old, new) = ([old.measured(&old_frame)], [new.measured(&new_frame)]);
    let diff = diff::across_runs(&old, &new, &Labels::Common, FLOOR).unwrap();
    assert_eq!(diff.basis, Basis::AcrossRuns { base_runs: 1, new_runs: 1 });
    let row = &diff.rows[0];
    assert!(row.comparison.ratio.unwrap().interval.is_some());
    assert_eq!((row.comparison.p_adjusted, row.comparison.verdict), (None, Verdict::Inconclusive));
    assert_eq!(row.undecided, Some(Undecided::OneRunASide));
    assert_eq!(diff.overall[0].undecided, Some(Undecided::OneRunASide));
}

#[test]
fn with_several_runs_a_side_the_run_is_the_unit() {
    let runs: Vec<Run> =
        [[300.0, 302.0], [303.0, 305.0], [297.0, 299.0], [200.0, 202.0], [202.0, 204.0], [198.0, 200.0]]
            .iter()
            .map(|watts| teacher_run(watts))
            .collect();
    let frames: Vec<Frame> = runs.iter().map(Run::frame).collect();
    let measured: Vec<Measured<'_>> = runs.iter().zip(&frames).map(|(run, frame)| run.measured(frame)).collect();
    let diff = diff::across_runs(&measured[..3], &measured[3..], &Labels::Common, FLOOR).unwrap();
    let row = &diff.rows[0];
    let ratio = row.comparison.ratio.unwrap();
    let log = |pairs: [[f64; 2]; 3]| pairs.map(|[a, b]| (f64::ln(a) + f64::ln(b)) / 2.0).iter().sum::<f64>() / 3.0;
    let expected =
        log([[200.0, 202.0], [202.0, 204.0], [198.0, 200.0]]) - log([[300.0, 302.0], [303.0, 305.0], [297.0, 299.0]]);
    close(ratio.value, expected.exp());
    assert_eq!((ratio.n, row.comparison.verdict, row.undecided), (3, Verdict::Improved, None));

    let uneven = diff::across_runs(&measured[..2], &measured[3..4], &Labels::Common, FLOOR).unwrap();
    assert_eq!(uneven.rows[0].comparison.ratio.unwrap().interval, None);
    assert_eq!(uneven.rows[0].undecided, Some(Undecided::OneRunASide));
}

fn teacher_run(watts: &[f64]) -> Run {
    let mut run = Run::new(watts.len() as u32);
    run.model("t", Role::Teacher, None);
    run.cell("t", 8, watts);
    run
}

#[test]
fn a_diff_says_why_it_knows_nothing() {
    let mut run = Run::distillation(2);
    run.cell("t", 1, &[300.0; 2]);
    run.cell("t", 8, &[300.0; 2]);
    run.cell("s", 1, &[100.0; 2]);
    run.plan("s", 8);
    for block in 0..2 {
        run.measurement_mut("s.b1.n32", block).energy.method = Some(EnergyMethod::Modelled);
    }
    let diff = run.within("t", "s");
    assert_eq!(diff.rows[0].undecided, Some(Undecided::MixedMethods));
    assert_eq!(diff.rows[1].undecided, Some(Undecided::NoEnergy));
    assert_eq!(diff.overall[0].undecided, Some(Undecided::MixedMethods));
    assert!(diff.rows[0].new_ept_out_j.is_some(), "each side is known by itself");
}

#[test]
fn a_diff_names_the_models_that_there_are() {
    let run = teacher_run(&[300.0]);
    let frame = run.frame();
    let error = diff::within_run(&run.measured(&frame), "t", "x", FLOOR).unwrap_err();
    assert_eq!(error.message(), "run `synthetic` has no model `x`");
    assert_eq!(error.hint(), Some("its models are `t`"));
}
