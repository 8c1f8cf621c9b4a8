//! The architectures outside the decoder against Hugging Face transformers: tests/golden/library/ holds what transformers
//! makes of tiny models in f32 on the CPU (scripts/make_library_goldens.py).

mod common;

use common::generated::Golden;
use ept_sweep::engine::grouped::GroupedEngine;
use ept_sweep::engine::load::{DeviceChoice, LoadOptions, inspect, load, load_grouped};
use ept_sweep::engine::{Engine, GenerateOptions};
use ept_sweep::record::{Finish, OutputLength};

const STEPS: usize = 32;

fn served() -> Vec<Golden> {
    let only = std::env::var("ONLY").ok();
    let all = Golden::all("library").into_iter();
    all.filter(|golden| only.as_ref().is_none_or(|name| *name == golden.name)).collect()
}

fn engine(golden: &Golden, dtype: &str) -> GroupedEngine {
    let folder = golden.model();
    let options = LoadOptions { dtype: Some(dtype), ..LoadOptions::default() };
    load_grouped(&folder.0, &options, DeviceChoice::Cpu).unwrap_or_else(|error| panic!("{}: {error}", golden.name))
}

#[test]
fn survey() {
    for golden in served() {
        let folder = golden.model();
        let options = LoadOptions { dtype: Some("f32"), ..LoadOptions::default() };
        let mut engine = match load_grouped(&folder.0, &options, DeviceChoice::Cpu) {
            Ok(engine) => engine,
            Err(error) => {
                println!("{}: {error}", golden.name);
                continue;
            }
        };
        match engine.prompt_logits(&golden.batch()) {
            Ok(logits) => {
                let errors: Vec<f32> =
                    logits.iter().enumerate().map(|(row, ours)| golden.logit_error(row, ours)).collect();
                println!("{}: logits {errors:?}", golden.name);
            }
            Err(error) => println!("{}: {error}", golden.name),
        }
        let options = GenerateOptions { max_new_tokens: STEPS, length: OutputLength::Natural };
        let answers = engine.generate(&golden.batch(), options).unwrap();
        let right = answers.iter().enumerate().filter(|(row, answer)| answer.ids == golden.natural(*row)).count();
        println!("{}: {right} of {} answers", golden.name, answers.len());
    }
}
