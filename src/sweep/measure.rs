//! `measure` of the sweep file: how energy is measured, and what the presets stand for.

use serde::{Deserialize as DeriveDeserialize, Serialize};

use crate::meter::{MeterChoice, ModelCoefficients};
use crate::record::{Adaptive, MeterInfo, Order, OutputLength, Preset, Protocol};
use crate::sweep::spec::{Auto, default_seed};
use crate::units::Seconds;

/// How energy is measured. Every key left out is chosen by the preset and the meter.
#[derive(Debug, Clone, PartialEq, DeriveDeserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MeasureSpec {
    /// `quick`, `standard` or `publication`.
    pub preset: Preset,
    /// What measures.
    pub meter: MeterChoice,
    /// Blocks: how often every cell is measured; `auto`: 3, 5 or 5 by preset.
    pub repeats: Auto<u32>,
    /// Most blocks, where repeats go on until `half_width` is reached; `auto`: as many as `repeats`, 15 in `publication`.
    pub max_repeats: Auto<u32>,
    /// Half-width of a cell's 95 % interval relative to its mean at which repeats end; `auto`: 0.02.
    pub half_width: Auto<f64>,
    /// Shortest window in seconds; `auto`: what the meter needs, on a GPU twice that, in `publication` four times.
    pub window_s: Auto<f64>,
    /// Work before and after each window in seconds; `auto`: what the meter needs.
    pub guard_s: Auto<f64>,
    /// Shortest warm-up before each window in seconds; `auto`: half a window, 10 s at most.
    pub warmup_s: Auto<f64>,
    /// Longest warm-up in seconds, where temperature or speed aren't steady; `auto`: three times `warmup_s`, twelve times in
    /// `publication`.
    pub max_warmup_s: Auto<f64>,
    /// Idle baseline before and after the trials of each load in seconds; `auto`: what the meter needs, a quarter in `quick`.
    pub idle_s: Auto<f64>,
    /// `blocks`, or `by_model` for models too large to be loaded in every block.
    pub order: Order,
    /// A random wait before each trial, so that the work meets another phase of the sensor's rhythm in each repeat.
    pub random_phase: bool,
    /// Adds cells of 1 and 8 new tokens, from which prefill and decode are told apart; `auto`: in `publication`, in `fixed`
    /// length.
    pub prefill: Auto<bool>,
    /// Measures the processor next to the GPU where RAPL is readable.
    pub cpu_energy: bool,
    /// Seed of the order of trials and of their phases.
    pub seed: u64,
    /// GPUs to charge; left out, the one that the engine runs on.
    pub gpu_indices: Option<Vec<u32>>,
    /// Coefficients of the modelled meter.
    pub modelled: Option<ModelCoefficients>,
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
            idle_s: Auto::Auto,
            order: Order::default(),
            random_phase: true,
            prefill: Auto::Auto,
            cpu_energy: true,
            seed: default_seed(),
            gpu_indices: None,
            modelled: None,
        }
    }
}

/// Most blocks of `publication`: a cell that isn't narrow by then has another problem than too few repeats.
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

    /// Whether cells are added that tell prefill and decode apart.
    pub fn splits_prefill(&self, length: OutputLength) -> bool {
        self.prefill.or(self.preset == Preset::Publication && length == OutputLength::Fixed)
    }

    /// The protocol on a meter.
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
        let longest = if self.preset == Preset::Publication { 12.0 } else { 3.0 };
        let idle = if self.preset == Preset::Quick { meter.idle_s.0 / 4.0 } else { meter.idle_s.0 };
        Protocol {
            min_window_s: Seconds(window),
            guard_s: Seconds(self.guard_s.or(meter.guard_s.0)),
            warmup_s: Seconds(warmup),
            max_warmup_s: Seconds(self.max_warmup_s.or(warmup * longest).max(warmup)),
            idle_s: Seconds(self.idle_s.or(idle)),
            settle_s: Seconds(if on_gpu { SETTLE } else { 0.0 }),
            seed: self.seed,
            preset: self.preset,
            order: self.order,
            adaptive: self.adaptive(),
            random_phase_s: if self.random_phase { meter.sensing_period_s.unwrap_or_default() } else { Seconds(0.0) },
        }
    }
}
