//! `measure` of the sweep file: how energy is measured, and what the presets mean.

use rand::TryRngCore as _;
use rand::rngs::OsRng;
use serde::{Deserialize as DeriveDeserialize, Serialize};

use crate::error::{Context as _, Result};
use crate::record::{Adaptive, MeterChoice, MeterInfo, ModelCoefficients, Order, OutputLength, Preset, Protocol};
use crate::sweep::calibration::CalibrationChoice;
use crate::sweep::default::Auto;
use crate::units::Seconds;

/// How energy is measured. Every key left out is chosen by the preset and the meter.
#[derive(Debug, Clone, PartialEq, DeriveDeserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MeasureSpec {
    /// `quick`, `standard` or `publication`.
    pub(crate) preset: Preset,
    /// The meter to use.
    pub(crate) meter: MeterChoice,
    /// Blocks: how often every cell is measured; `auto`: 3, 5 or 5 by preset.
    pub(crate) repeats: Auto<u32>,
    /// Most blocks, if repeats go on until `half_width` is reached; `auto`: as many as `repeats`, 15 in
    /// `publication`.
    pub(crate) max_repeats: Auto<u32>,
    /// Half-width of a cell's 95 % interval relative to its mean at which repeats end; `auto`: 0.02.
    pub(crate) half_width: Auto<f64>,
    /// Shortest window in seconds; `auto`: what the meter needs, on a GPU twice that, in `publication` four times.
    pub(crate) window_s: Auto<f64>,
    /// Work before and after each window in seconds; `auto`: what the meter needs.
    pub(crate) guard_s: Auto<f64>,
    /// Shortest warm-up before each window in seconds; `auto`: half a window, 10 s at most.
    pub(crate) warmup_s: Auto<f64>,
    /// Longest warm-up in seconds, if the work isn't steady; `auto`: on a GPU 25, 45 or 120 by preset, else `warmup_s`.
    pub(crate) max_warmup_s: Auto<f64>,
    /// What may still be to come of the energy's approach to its steady state, as a share of it; its bound may be
    /// twice that. `auto`: 0.01, 0.005 or 0.0025 by preset.
    pub(crate) steady: Auto<f64>,
    /// Idle baseline before and after each model's trials of a block in seconds; `auto`: what the meter needs, a
    /// quarter in `quick`.
    pub(crate) idle_s: Auto<f64>,
    /// `blocks`, or `by_model` for models too large to be loaded in every block.
    pub(crate) order: Order,
    /// A random wait before each trial, so that each repeat meets the sensor's rhythm at another offset.
    #[serde(alias = "random_phase")]
    pub(crate) random_offset: bool,
    /// Adds cells of 1 and 8 new tokens, which separate prefill from decode; `auto`: in `publication`, in
    /// `fixed` length.
    pub(crate) prefill: Auto<bool>,
    /// Also measures the processor if RAPL is readable.
    pub(crate) cpu_energy: bool,
    /// Seed of the order of trials and of their offsets; `auto`: drawn for each new run and recorded with it, so that
    /// repeated runs don't repeat the same order.
    pub(crate) seed: Auto<u64>,
    /// Whether the run measures what reading and multiplying cost on its devices, for the energy floor: `auto` (if the
    /// meter measures), `measure`, `off`, or the path of a calibration or of a run that has one.
    #[serde(skip_serializing_if = "CalibrationChoice::is_auto")]
    pub(crate) calibration: CalibrationChoice,
    /// GPUs to charge; left out, the one that the engine runs on.
    pub(crate) gpu_indices: Option<Vec<u32>>,
    /// Coefficients of the modelled meter.
    pub(crate) modelled: Option<ModelCoefficients>,
}

impl Default for MeasureSpec {
    fn default() -> Self {
        Self {
            preset: Preset::default(),
            meter: MeterChoice::default(),
            repeats: Auto::Auto,
            max_repeats: Auto::Auto,
            half_width: Auto::Auto,
            window_s: Auto::Auto,
            guard_s: Auto::Auto,
            warmup_s: Auto::Auto,
            max_warmup_s: Auto::Auto,
            steady: Auto::Auto,
            idle_s: Auto::Auto,
            order: Order::default(),
            random_offset: true,
            prefill: Auto::Auto,
            cpu_energy: true,
            seed: Auto::Auto,
            calibration: CalibrationChoice::Auto,
            gpu_indices: None,
            modelled: None,
        }
    }
}

/// Most blocks of `publication`: if a cell isn't narrow by then, its problem isn't too few repeats.
const MOST_ADAPTIVE: u32 = 15;
/// Relative half-width of a 95 % interval that is narrow enough.
const NARROW: f64 = 0.02;
/// Clocks of an idle GPU fall within a second or two.
const SETTLE: f64 = 3.0;

impl MeasureSpec {
    /// Blocks that are measured in any case.
    pub fn repeats(&self) -> u32 {
        self.repeats.or(match self.preset {
            Preset::Quick => 3,
            Preset::Standard | Preset::Publication => 5,
        })
    }

    /// When repeats go on beyond those.
    pub fn adaptive(&self) -> Option<Adaptive> {
        let most = self.max_repeats.or(match self.preset {
            Preset::Publication => MOST_ADAPTIVE.max(self.repeats()),
            Preset::Quick | Preset::Standard => self.repeats(),
        });
        (most > self.repeats()).then(|| Adaptive { half_width: self.half_width.or(NARROW), max_repeats: most })
    }

    /// Whether cells are added that separate prefill from decode.
    pub(crate) fn splits_prefill(&self, length: OutputLength) -> bool {
        self.prefill.or(self.preset == Preset::Publication && length == OutputLength::Fixed)
    }

    /// A warning if `window_s` is below what the meter needs: every window would be marked `window_too_short`.
    pub(crate) fn too_short(&self, meter: &MeterInfo) -> Option<String> {
        let Auto::Value(window) = self.window_s else { return None };
        let least = meter.min_window_s.0;
        (window < least).then(|| {
            format!(
                "`measure.window_s: {window}` is below the {least} s that the meter `{}` needs: shorter windows aren't \
                 valid (`window_too_short`); raise it or use `auto`",
                meter.name
            )
        })
    }

    /// The sweep file's seed, or one from the operating system: of 32 bits, since people read it and copy it.
    ///
    /// # Errors
    /// The operating system gives no random number.
    pub(crate) fn draw_seed(&self) -> Result<u64> {
        match self.seed {
            Auto::Value(seed) => Ok(seed),
            Auto::Auto => OsRng.try_next_u32().map(u64::from).context(|| "can't draw a seed"),
        }
    }

    /// The protocol on a meter. A seed that is left open is 0: only a run draws one (`draw_seed`).
    pub fn protocol(&self, meter: &MeterInfo) -> Protocol {
        let on_gpu = !meter.gpus.is_empty();
        let times = match self.preset {
            Preset::Quick => 1.0,
            Preset::Standard if on_gpu => 2.0,
            Preset::Standard => 1.0,
            Preset::Publication => 4.0,
        };
        let window = self.window_s.or(meter.min_window_s.0 * times);
        let warmup = self.warmup_s.or((window / 2.0).min(10.0));
        let (longest, steady) = match self.preset {
            Preset::Quick => (25.0, 0.01),
            Preset::Standard => (45.0, 0.005),
            Preset::Publication => (120.0, 0.0025),
        };
        // without a thermometer nothing shows whether a longer warm-up is needed
        let longest = if on_gpu { longest } else { warmup };
        let idle = if self.preset == Preset::Quick { meter.idle_s.0 / 4.0 } else { meter.idle_s.0 };
        Protocol {
            min_window_s: Seconds(window),
            guard_s: Seconds(self.guard_s.or(meter.guard_s.0)),
            warmup_s: Seconds(warmup),
            max_warmup_s: Seconds(self.max_warmup_s.or(longest).max(warmup)),
            steady: Some(self.steady.or(steady)),
            idle_s: Seconds(self.idle_s.or(idle)),
            settle_s: Seconds(if on_gpu { SETTLE } else { 0.0 }),
            seed: self.seed.or(0),
            preset: self.preset,
            order: self.order,
            balanced: true,
            adaptive: self.adaptive(),
            random_offset_s: if self.random_offset { rhythm(meter) } else { Seconds(0.0) },
        }
    }
}

/// The slowest rhythm that a meter's readings have: of its looks at the power, or of its ticks; 0 if it looks at nothing.
fn rhythm(meter: &MeterInfo) -> Seconds {
    let slower =
        |looks: Seconds| if meter.tick_s.is_some_and(|tick| tick > looks) { meter.tick_s } else { Some(looks) };
    meter.sensing_period_s.and_then(slower).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::*;
    use crate::meter::fixtures;
    use crate::record::GpuInfo;
    use crate::sweep::{Plan, SweepSpec};

    fn gpu() -> MeterInfo {
        MeterInfo {
            min_window_s: Seconds(5.0),
            guard_s: Seconds(1.0),
            idle_s: Seconds(20.0),
            sensing_period_s: Some(Seconds(0.1)),
            gpus: vec![GpuInfo::default()],
            ..fixtures::info(&["gpu0"])
        }
    }

    fn modelled() -> MeterInfo {
        MeterInfo { min_window_s: Seconds(0.5), idle_s: Seconds(2.0), ..fixtures::info(&["cpu"]) }
    }

    fn preset(preset: Preset) -> MeasureSpec {
        MeasureSpec { preset, ..MeasureSpec::default() }
    }

    const PRESETS: [Preset; 3] = [Preset::Quick, Preset::Standard, Preset::Publication];

    #[test]
    fn windows_grow_with_the_preset_and_standard_takes_longer_ones_on_a_gpu() {
        let windows = |meter: &MeterInfo| PRESETS.map(|name| preset(name).protocol(meter).min_window_s.0);
        assert_eq!(windows(&gpu()), [5.0, 10.0, 20.0]);
        assert_eq!(windows(&modelled()), [0.5, 0.5, 2.0]);
    }

    #[test]
    fn warm_up_is_half_a_window_and_publication_waits_longest_for_the_steadiest_work() {
        let warmups = PRESETS.map(|name| preset(name).protocol(&gpu())).map(|p| (p.warmup_s.0, p.max_warmup_s.0));
        assert_eq!(warmups, [(2.5, 25.0), (5.0, 45.0), (10.0, 120.0)]);
        let steady = PRESETS.map(|name| preset(name).protocol(&gpu()).steady.unwrap());
        assert_eq!(steady, [0.01, 0.005, 0.0025]);
        let asked = MeasureSpec { steady: Auto::Value(0.02), ..MeasureSpec::default() };
        assert_eq!(asked.protocol(&gpu()).steady, Some(0.02));
        let long = MeasureSpec { window_s: Auto::Value(60.0), ..MeasureSpec::default() };
        assert_eq!(long.protocol(&gpu()).warmup_s, Seconds(10.0), "no longer than that without being asked");
        let own = MeasureSpec { warmup_s: Auto::Value(9.0), max_warmup_s: Auto::Value(4.0), ..MeasureSpec::default() };
        assert_eq!(own.protocol(&gpu()).max_warmup_s, Seconds(9.0), "the longest is never below the shortest");
    }

    #[test]
    fn idle_baselines_are_the_meters_and_a_quarter_of_them_in_quick() {
        assert_eq!(PRESETS.map(|name| preset(name).protocol(&gpu()).idle_s.0), [5.0, 20.0, 20.0]);
        assert_eq!(PRESETS.map(|name| preset(name).protocol(&modelled()).idle_s.0), [0.5, 2.0, 2.0]);
        let none = MeasureSpec { idle_s: Auto::Value(0.0), ..MeasureSpec::default() };
        assert_eq!(none.protocol(&gpu()).idle_s, Seconds(0.0));
    }

    #[test]
    fn guards_and_random_offsets_are_those_of_the_meter() {
        let protocol = MeasureSpec::default().protocol(&gpu());
        assert_eq!((protocol.guard_s, protocol.random_offset_s), (Seconds(1.0), Seconds(0.1)));
        assert_eq!(MeasureSpec::default().protocol(&modelled()).random_offset_s, Seconds(0.0), "it has no rhythm");
        let fixed = MeasureSpec { random_offset: false, guard_s: Auto::Value(2.0), ..MeasureSpec::default() };
        let protocol = fixed.protocol(&gpu());
        assert_eq!((protocol.guard_s, protocol.random_offset_s), (Seconds(2.0), Seconds(0.0)));
    }

    #[test]
    fn only_a_gpu_needs_a_rest_before_its_idle_baseline() {
        assert_eq!(MeasureSpec::default().protocol(&gpu()).settle_s, Seconds(3.0));
        assert_eq!(MeasureSpec::default().protocol(&modelled()).settle_s, Seconds(0.0));
    }

    #[test]
    fn only_publication_adds_repeats_unless_it_is_asked_for() {
        assert_eq!(PRESETS.map(|name| preset(name).repeats()), [3, 5, 5]);
        let adaptive = PRESETS.map(|name| preset(name).adaptive());
        assert_eq!(adaptive, [None, None, Some(Adaptive { half_width: 0.02, max_repeats: 15 })]);
        let asked = MeasureSpec { max_repeats: Auto::Value(8), half_width: Auto::Value(0.01), ..preset(Preset::Quick) };
        assert_eq!(asked.adaptive(), Some(Adaptive { half_width: 0.01, max_repeats: 8 }));
        let many = MeasureSpec { repeats: Auto::Value(20), ..preset(Preset::Publication) };
        assert_eq!((many.repeats(), many.adaptive()), (20, None), "as many as that are enough");
    }

    fn plan(measure: &str, generation: &str) -> Plan {
        let text = format!(
            "name: s\nmodels:\n  - {{label: a, source: ./a}}\n  - {{label: b, source: ./b}}\n\
             sweep: {{batch_size: [1, 4], max_new_tokens: [8, 32]}}\nprompts: {{text: [x]}}\n{generation}{measure}"
        );
        Plan::new(&SweepSpec::parse(Path::new("s.yaml"), &text).unwrap(), &BTreeMap::new()).unwrap()
    }

    const FIXED: &str = "generation: {length: fixed}\n";

    #[test]
    fn publication_in_fixed_length_adds_probes_of_one_and_eight_tokens_where_they_are_missing() {
        let publication = "measure: {preset: publication}\n";
        let probes =
            |plan: &Plan| plan.cells.iter().filter(|cell| cell.probe).map(|cell| cell.id.0.clone()).collect::<Vec<_>>();
        let added = plan(publication, FIXED);
        assert_eq!(probes(&added), ["a.b1.n1", "a.b4.n1", "b.b1.n1", "b.b4.n1"], "8 is a level already");
        assert_eq!(added.cells.len(), 12);
        for (measure, generation) in [
            (publication, ""),
            ("measure: {preset: publication, prefill: false}\n", FIXED),
            ("measure: {preset: standard}\n", FIXED),
        ] {
            assert_eq!(probes(&plan(measure, generation)), [""; 0], "{measure}");
        }
        assert_eq!(probes(&plan("measure: {preset: quick, prefill: true}\n", FIXED)).len(), 4);
    }

    #[test]
    fn by_model_runs_all_blocks_of_a_model_before_the_next_one() {
        let order = |measure| {
            let sessions = plan(measure, "").sessions(1);
            sessions.into_iter().map(|session| (session.model, session.block)).collect::<Vec<_>>()
        };
        let all = [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1), ("b", 2)].map(|(m, b)| (m.to_owned(), b));
        assert_eq!(order("measure: {repeats: 3, order: by_model}\n"), all);
        let blocks: Vec<u32> = order("measure: {repeats: 3}\n").into_iter().map(|(_, block)| block).collect();
        assert_eq!(blocks, [0, 0, 1, 1, 2, 2], "all models meet in each block");
    }

    #[test]
    fn cells_and_models_have_the_same_mean_place_over_each_pair_of_blocks() {
        let plan = plan("measure: {repeats: 4}\n", "");
        for seed in 0..10 {
            for pair in plan.sessions(seed).chunks(4) {
                let models: Vec<&str> = pair.iter().map(|session| session.model.as_str()).collect();
                assert!(models == ["a", "b", "b", "a"] || models == ["b", "a", "a", "b"], "{models:?}");
                for model in ["a", "b"] {
                    let mut cells = pair.iter().filter(|session| session.model == model).map(|session| &session.cells);
                    let (first, second) = (cells.next().unwrap(), cells.next().unwrap());
                    assert!(first.iter().eq(second.iter().rev()), "{first:?} {second:?}");
                }
            }
        }
        assert_eq!(plan.sessions(7), plan.sessions(7));
        assert_ne!(plan.sessions(7), plan.sessions(8));
    }

    #[test]
    fn a_seed_is_drawn_unless_the_sweep_file_names_one() {
        let drawn = [(); 4].map(|()| MeasureSpec::default().draw_seed().unwrap());
        assert!(drawn.iter().any(|seed| *seed != drawn[0]), "{drawn:?}");
        let fixed = MeasureSpec { seed: Auto::Value(7), ..MeasureSpec::default() };
        assert_eq!((fixed.draw_seed().unwrap(), fixed.protocol(&gpu()).seed), (7, 7));
    }

    #[test]
    fn repeats_that_may_be_added_are_planned_and_are_not_counted() {
        let plan = plan("measure: {repeats: 5, max_repeats: 7}\n", "");
        assert_eq!((plan.blocks, plan.trials(), plan.sessions(1).len()), (5, 40, 14));
    }

    #[test]
    fn a_window_below_what_the_meter_needs_is_reported_and_auto_never_is() {
        let window = |window_s| MeasureSpec { window_s, ..MeasureSpec::default() };
        let said = window(Auto::Value(2.0)).too_short(&gpu()).unwrap();
        assert!(said.contains("window_s: 2") && said.contains("5 s") && said.contains("window_too_short"), "{said}");
        assert_eq!(window(Auto::Value(5.0)).too_short(&gpu()), None);
        assert_eq!(window(Auto::Auto).too_short(&gpu()), None);
    }
}
