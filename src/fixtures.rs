//! What unit tests of several rooms build their cases from.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::record::{
    CellId, CellSpec, Cost, Decoding, EnergyMethod, Measurement, ModelInfo, OutputLength, Padding, Quantity, Sample,
    SourceTrace, Validity, Window, WindowEnergy,
};
use crate::units::{Joules, Seconds, Tokens};

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

/// A window of one pass from 5 to 15 s with one prompt of 10 tokens and 100 output tokens.
pub(crate) fn measurement(energy_j: f64) -> Measurement {
    Measurement {
        window: Window {
            t0_s: Seconds(5.0),
            t1_s: Seconds(15.0),
            passes: 1,
            batches: 1,
            prompts: 1,
            decode_steps: None,
            decode_s: None,
            offset_s: Seconds(0.0),
        },
        tokens_in: Tokens(10),
        tokens_out: Tokens(100),
        tokens_pad: Tokens(0),
        output_bytes: None,
        energy: WindowEnergy { total_j: Some(Joules(energy_j)), ..WindowEnergy::default() },
        idle: None,
        load: Cost::default(),
        warmup: Cost::default(),
        validity: Validity::default(),
        conditions: vec![],
        phases: None,
        heat: None,
    }
}

/// A model of the decoder, of which little is known.
pub(crate) fn model_info() -> ModelInfo {
    ModelInfo {
        architecture: "a".to_owned(),
        engine: "decoder".to_owned(),
        parameters: None,
        weight_bytes: None,
        dtype: "bf16".to_owned(),
        stored_dtype: None,
        device: "cuda:0".to_owned(),
        revision: None,
        files: [].into(),
        padding: Padding::Left,
        dummy: None,
        kernels: None,
        fallback: vec![],
        workload: None,
        launches_per_step: None,
        notes: vec![],
    }
}

/// A source from pairs of seconds and value, labelled as a counter, without a known tick and without a lag.
pub(crate) fn source(domain: &str, quantity: Quantity, samples: impl IntoIterator<Item = (f64, f64)>) -> SourceTrace {
    SourceTrace {
        domain: domain.to_owned(),
        quantity,
        method: EnergyMethod::Counter,
        tick: None,
        lag: Seconds(0.0),
        samples: samples.into_iter().map(|(t, value)| Sample { t: Seconds(t), value }).collect(),
    }
}

/// A folder that is removed with the value.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ept-sweep-unit-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

#[test]
fn a_folder_is_empty_at_first_and_gone_with_its_value() {
    let folder = Folder::new();
    assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0);
    fs::write(folder.path("file"), cell("m", 1, 2).id.0).unwrap();
    let path = folder.0.clone();
    drop(folder);
    assert!(!path.exists());
}

#[test]
fn a_source_keeps_the_order_of_its_samples() {
    let source = source("gpu0", Quantity::Power, [(0.0, 3.0), (1.0, 2.0)]);
    assert_eq!(source.samples, [(0.0, 3.0), (1.0, 2.0)].map(|(t, value)| Sample { t: Seconds(t), value }));
}
