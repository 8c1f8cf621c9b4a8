//! The energy floor: the least energy that a device could do a window's work with, by what reading and multiplying cost
//! on it when nothing else is done.
//!
//! floor = bytes · joules a byte + operations · joules an operation + idle power · the roofline's time, where bytes and
//! operations follow from the model's shapes and the window's tokens, and the other numbers are measured on the device.
//! Prefill and decode steps each take the longer of the time to read their bytes and the time to do their operations. The
//! measured time is nowhere in it.

use crate::record::{Calibration, CalibrationWindow, Decoding, EnergyMethod, Measurement, ModelInfo, Workload};
use crate::stats::{Estimate, mean};
use crate::units::{Joules, Seconds, Watts};

/// What reading and multiplying cost on a device: one repeat of a calibration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rates {
    /// Bytes a second of a pure read.
    pub(crate) bytes_per_s: f64,
    /// Joules a byte of it, above the idle power.
    pub(crate) joules_per_byte: f64,
    /// Operations a second of a large product.
    pub(crate) flops_per_s: f64,
    /// Joules an operation of it, above the idle power and what its bytes cost.
    pub(crate) joules_per_flop: f64,
    pub(crate) idle: Watts,
}

impl Rates {
    /// The repeats of a calibration: the first read with the first product, and so on. None if one isn't usable.
    pub(crate) fn of(calibration: &Calibration) -> Vec<Self> {
        let idle = calibration.idle.power_w;
        let repeat = |(read, product): (&CalibrationWindow, &CalibrationWindow)| {
            let above_idle = |window: &CalibrationWindow| (window.energy_j - idle * window.duration_s).get();
            let joules_per_byte = above_idle(read) / read.bytes;
            let rates = Self {
                bytes_per_s: read.bytes / read.duration_s.get(),
                joules_per_byte,
                flops_per_s: product.flops / product.duration_s.get(),
                joules_per_flop: (above_idle(product) - product.bytes * joules_per_byte) / product.flops,
                idle,
            };
            rates.is_usable().then_some(rates)
        };
        let repeats: Option<Vec<Self>> = calibration.reads.iter().zip(&calibration.products).map(repeat).collect();
        repeats.unwrap_or_default()
    }

    fn is_usable(&self) -> bool {
        [self.bytes_per_s, self.joules_per_byte, self.flops_per_s, self.joules_per_flop]
            .iter()
            .all(|rate| rate.is_finite() && *rate > 0.0)
    }
}

/// Bytes and operations of one prefill, or of one decode step.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Step {
    bytes: f64,
    flops: f64,
}

impl Step {
    fn time(self, rates: &Rates) -> Seconds {
        Seconds((self.bytes / rates.bytes_per_s).max(self.flops / rates.flops_per_s))
    }

    fn energy(self, rates: &Rates) -> Joules {
        let dynamic = self.bytes * rates.joules_per_byte + self.flops * rates.joules_per_flop;
        Joules(dynamic) + rates.idle * self.time(rates)
    }
}

/// The work of a window: prefills and decode steps, each by their mean.
///
/// The longer of two times is a convex function of a step, so that the mean step takes no longer than the mean of the
/// steps: a floor in this, too.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct WindowWork {
    prefills: f64,
    prefill: Step,
    decode_steps: f64,
    decode: Step,
}

impl WindowWork {
    /// The work that a model's shapes ask for in a window. Padding isn't in it, and neither are the steps of sequences that
    /// have ended.
    ///
    /// `None` if the window's record doesn't have its decode steps, or follows several beams for each answer.
    pub(crate) fn of(workload: &Workload, measurement: &Measurement, decoding: Decoding) -> Option<Self> {
        let window = &measurement.window;
        let steps = window.decode_steps? as f64;
        let (batches, prompts) = (f64::from(window.batches), f64::from(window.prompts));
        if decoding.sequences_per_prompt() > 1 || batches < 1.0 || prompts < 1.0 {
            return None;
        }
        let (tokens_in, tokens_out) = (measurement.tokens_in.get() as f64, measurement.tokens_out.get() as f64);
        // prefill gives the first token of each answer, and the last one is never read
        let decoded = (tokens_out - prompts).max(0.0);
        let prompt = tokens_in / prompts;
        let seen_in_prefill = attention(workload, 0.0, prompt);
        let seen_in_decode = attention(workload, prompt, decoded / prompts);
        let token = workload.token_flops as f64;
        let output = workload.output_flops as f64;
        Some(Self {
            prefills: batches,
            prefill: Step {
                bytes: workload.weight_bytes_for(tokens_in / batches) + tokens_in / batches * written(workload),
                flops: (tokens_in * token + prompts * (output + seen_in_prefill.flops)) / batches,
            },
            decode_steps: steps,
            decode: match steps > 0.0 {
                true => Step {
                    bytes: workload.weight_bytes_for(decoded / steps) + prompts * seen_in_decode.bytes / steps,
                    flops: (decoded * (token + output) + prompts * seen_in_decode.flops) / steps,
                },
                false => Step::default(),
            },
        })
    }

    /// The least energy of the window.
    pub(crate) fn energy(&self, rates: &Rates) -> Joules {
        self.prefill.energy(rates) * self.prefills + self.decode.energy(rates) * self.decode_steps
    }

    /// Bytes of a decode step, on average.
    pub(crate) fn bytes_per_step(&self) -> Option<f64> {
        (self.decode_steps > 0.0).then_some(self.decode.bytes)
    }
}

/// Keys and values read, and operations, of the attention of one sequence that reads `queries` tokens after `before` others.
fn attention(workload: &Workload, before: f64, queries: f64) -> Step {
    workload.attention.iter().fold(Step::default(), |sum, layers| {
        let pairs = layers.layers as f64 * layers.pairs(before, queries);
        Step { bytes: sum.bytes + pairs * layers.kv_bytes as f64, flops: sum.flops + pairs * layers.pair_flops as f64 }
    })
}

/// Bytes of the keys and values that a token leaves behind. In a decode step the token's own are among those it sees.
fn written(workload: &Workload) -> f64 {
    workload.attention.iter().map(|layers| (layers.layers * layers.kv_bytes) as f64).sum()
}

/// What a window's work would take at least, and how close its decoding came to the memory's limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Limits {
    /// Least energy of the window in joules; the interval is that of the calibration's repeats.
    pub(crate) energy: Estimate,
    /// Bytes of a decode step / its time / the bandwidth of a pure read.
    pub(crate) bandwidth_share: Option<f64>,
}

impl Limits {
    /// `None` if the model's work isn't known, or what it costs on its device.
    pub(crate) fn of(
        measurement: &Measurement,
        decoding: Decoding,
        model: &ModelInfo,
        calibrations: &[Calibration],
    ) -> Option<Self> {
        let workload = model.workload.as_ref()?;
        let work = WindowWork::of(workload, measurement, decoding)?;
        let calibration = calibrations.iter().find(|calibration| fits(calibration, model, measurement))?;
        let rates = Rates::of(calibration);
        let energies: Vec<f64> = rates.iter().map(|rates| work.energy(rates).get()).collect();
        let energy = mean(&energies)?;
        let bandwidth = mean(&rates.iter().map(|rates| rates.bytes_per_s).collect::<Vec<_>>())?.value;
        let step_s = step(measurement).map(Seconds::get);
        let bandwidth_share = work.bytes_per_step().zip(step_s).map(|(bytes, step_s)| bytes / step_s / bandwidth);
        Some(Self { energy, bandwidth_share })
    }
}

/// Mean time of a decode step.
pub(crate) fn step(measurement: &Measurement) -> Option<Seconds> {
    let steps = measurement.window.decode_steps.filter(|steps| *steps > 0)?;
    Some(measurement.window.decode_s? * (1.0 / steps as f64))
}

/// Of the model's device and data type, with energies that go together: measured ones never with others.
fn fits(calibration: &Calibration, model: &ModelInfo, measurement: &Measurement) -> bool {
    let measured = |method| matches!(method, EnergyMethod::Counter | EnergyMethod::PowerIntegral);
    let (own, other) = (measurement.energy.method, calibration.method);
    let go_together = own == Some(other) || (own.is_some_and(measured) && measured(other));
    let first_device = model.device.split(", ").next();
    let products = model.workload.as_ref().map(|workload| workload.products.as_str());
    go_together && first_device == Some(&calibration.device) && products == Some(&calibration.dtype)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures;
    use crate::record::{AttentionWork, IdleBaseline};
    use crate::units::Tokens;

    /// 3 TB/s at 100 pJ a byte and 800 TFLOP/s at 0.5 pJ over 100 W: a read draws 400 W, a product of 8192³ in bf16 a bit
    /// more than 500 W.
    fn calibration() -> Calibration {
        let window = |bytes: f64, flops: f64, duration_s: f64, watts: f64| CalibrationWindow {
            bytes,
            flops,
            duration_s: Seconds(duration_s),
            energy_j: Joules(watts * duration_s),
            temperature_c: None,
            sm_clock_mhz: None,
            memory_clock_mhz: None,
            power_cap: None,
        };
        let (product_bytes, product_flops) = (8e11, 1.6e15);
        let product_w = 100.0 + (product_bytes * 1e-10 + product_flops * 0.5e-12) / 2.0;
        Calibration {
            device: "cuda:0".into(),
            name: None,
            uuid: None,
            dtype: "bf16".into(),
            measured_at: String::new(),
            meter: "nvml".into(),
            method: EnergyMethod::Counter,
            idle: IdleBaseline {
                power_w: Watts(100.0),
                duration_s: Seconds(5.0),
                segments_w: vec![],
                temperature_c: None,
            },
            reads: vec![window(6e12, 0.0, 2.0, 400.0); 3],
            products: vec![window(product_bytes, product_flops, 2.0, product_w); 3],
        }
    }

    fn close(left: f64, right: f64) {
        assert!((left / right - 1.0).abs() < 1e-12, "{left} is not {right}");
    }

    /// 10 GB of weights, 20 GFLOP a token, 1 GFLOP for its logits, 10 layers of 1 MB a token and 1 MFLOP a pair.
    fn workload(window: Option<u64>) -> Workload {
        Workload {
            products: "bf16".into(),
            weight_bytes: 10_000_000_000,
            token_flops: 20_000_000_000,
            output_flops: 1_000_000_000,
            experts: vec![],
            attention: vec![AttentionWork { layers: 10, window, kv_bytes: 1_000_000, pair_flops: 1_000_000 }],
        }
    }

    /// Two batches of four prompts of 100 tokens, each answered by 51 tokens.
    fn measurement() -> Measurement {
        let mut measurement = fixtures::measurement(1000.0);
        measurement.window.batches = 2;
        measurement.window.prompts = 8;
        measurement.window.decode_steps = Some(100);
        measurement.window.decode_s = Some(Seconds(1.0));
        measurement.tokens_in = Tokens(800);
        measurement.tokens_out = Tokens(8 * 51);
        measurement.energy.method = Some(EnergyMethod::Counter);
        measurement
    }

    fn model(workload: Workload) -> ModelInfo {
        ModelInfo { workload: Some(workload), device: "cuda:0".into(), ..fixtures::model_info() }
    }

    #[test]
    fn the_rates_of_a_calibration_are_those_of_its_work_above_idling() {
        let rates = Rates::of(&calibration());
        assert_eq!(rates.len(), 3);
        close(rates[0].bytes_per_s, 3e12);
        close(rates[0].joules_per_byte, 1e-10);
        close(rates[0].flops_per_s, 8e14);
        close(rates[0].joules_per_flop, 0.5e-12);
    }

    #[test]
    fn a_calibration_that_cost_no_more_than_idling_gives_no_rates() {
        let mut wrong = calibration();
        wrong.reads[1].energy_j = Joules(100.0);
        assert!(Rates::of(&wrong).is_empty());
    }

    #[test]
    fn the_floor_of_a_window_is_its_bytes_its_operations_and_idling_for_the_time_of_the_longer() {
        let limits = Limits::of(&measurement(), Decoding::Greedy, &model(workload(None)), &[calibration()]).unwrap();
        // a prefill: 400 tokens, 4 rows of logits, 4 · 100 · 101 / 2 pairs in each layer, 400 entries written
        let prefill_bytes = 1e10 + 400.0 * 10.0 * 1e6;
        let prefill_flops = 400.0 * 2e10 + 4.0 * 1e9 + 4.0 * 5050.0 * 10.0 * 1e6;
        // a decode step: 4 tokens that see 101 … 150 keys, 125.5 on average
        let step_bytes = 1e10 + 4.0 * 125.5 * 10.0 * 1e6;
        let step_flops = 4.0 * 2.1e10 + 4.0 * 125.5 * 10.0 * 1e6;
        let prefill_s = f64::max(prefill_bytes / 3e12, prefill_flops / 8e14);
        assert!(prefill_flops / 8e14 > prefill_bytes / 3e12, "prefill is bound by operations");
        let step_s = step_bytes / 3e12;
        let energy = 2.0 * (prefill_bytes * 1e-10 + prefill_flops * 0.5e-12 + 100.0 * prefill_s)
            + 100.0 * (step_bytes * 1e-10 + step_flops * 0.5e-12 + 100.0 * step_s);
        close(limits.energy.value, energy);
        assert_eq!(limits.energy.n, 3);
        // 100 steps in a second
        close(limits.bandwidth_share.unwrap(), step_bytes / 0.01 / 3e12);
    }

    #[test]
    fn a_window_of_attention_bounds_the_keys_that_are_read() {
        let of = |window| WindowWork::of(&workload(window), &measurement(), Decoding::Greedy).unwrap();
        close(of(Some(64)).bytes_per_step().unwrap(), 1e10 + 4.0 * 64.0 * 10.0 * 1e6);
        close(of(Some(120)).bytes_per_step().unwrap(), 1e10 + 4.0 * (20.0 * 110.5 + 30.0 * 120.0) / 50.0 * 10.0 * 1e6);
        assert_eq!(of(Some(150)), of(None));
    }

    #[test]
    fn answers_of_one_token_have_a_floor_and_no_share_of_the_bandwidth() {
        let mut single = measurement();
        single.window.decode_steps = Some(0);
        single.tokens_out = Tokens(8);
        let limits = Limits::of(&single, Decoding::Greedy, &model(workload(None)), &[calibration()]).unwrap();
        assert!(limits.energy.value > 0.0 && limits.bandwidth_share.is_none());
    }

    #[test]
    fn without_the_models_work_or_a_calibration_of_its_device_and_data_type_the_floor_is_unknown() {
        let of = |model: &ModelInfo, calibration: Calibration| {
            Limits::of(&measurement(), Decoding::Greedy, model, &[calibration])
        };
        let known = model(workload(None));
        assert!(of(&known, calibration()).is_some());
        assert!(of(&fixtures::model_info(), calibration()).is_none());
        assert!(of(&known, Calibration { dtype: "f16".into(), ..calibration() }).is_none());
        assert!(of(&known, Calibration { device: "cuda:1".into(), ..calibration() }).is_none());
        assert!(of(&known, Calibration { method: EnergyMethod::Modelled, ..calibration() }).is_none());
        assert!(of(&known, Calibration { method: EnergyMethod::PowerIntegral, ..calibration() }).is_some());
        let spread = ModelInfo { device: "cuda:0, cuda:1".into(), ..known };
        assert!(of(&spread, calibration()).is_some(), "layers over several devices: the first one counts");
    }
}
