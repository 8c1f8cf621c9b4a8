//! Sampling, beam search and log-likelihoods on the tiny models of tests/golden/, against what Hugging Face transformers
//! makes of them in f32 on the CPU (scripts/make_decoding_goldens.py).

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::generated;
use ept_sweep::clock::SimulatedDevice;
use ept_sweep::engine::generate::DecoderEngine;
use ept_sweep::engine::load::{DeviceChoice, LoadOptions, load_decoder};
use ept_sweep::engine::synthetic::Synthetic;
use ept_sweep::engine::{Continuation, Engine, GenerateOptions, Generation, Kernels, Prompt};
use ept_sweep::record::SyntheticSpec;
use ept_sweep::record::{BeamSearch, Decoding, EarlyStopping, Finish, OutputLength, Sampling};
use ept_sweep::units::Watts;
use serde::Deserialize;
use serde_json::{Value, json};

const BOTH_KERNELS: [Kernels; 2] = [Kernels::Cpu, Kernels::Stock];
const STEPS: usize = 16;

#[derive(Deserialize)]
struct Golden {
    beams: Vec<BeamCase>,
    scores: Vec<ScoreCase>,
}

#[derive(Deserialize)]
struct BeamCase {
    model: String,
    #[serde(flatten)]
    beam: Beam,
    fixed: bool,
    eos_ids: Vec<u32>,
    prompts: Vec<Vec<u32>>,
    answers: Vec<Vec<u32>>,
    scores: Vec<f64>,
}

#[derive(Deserialize)]
struct Beam {
    num_beams: usize,
    length_penalty: f64,
    early_stopping: EarlyStopping,
}

#[derive(Deserialize)]
struct ScoreCase {
    model: String,
    rows: Vec<ScoreRow>,
}

#[derive(Deserialize)]
struct ScoreRow {
    context: Vec<u32>,
    continuation: Vec<u32>,
    log_probs: Vec<f32>,
    is_greedy: bool,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn golden() -> Golden {
    serde_json::from_str(&fs::read_to_string(folder("decoding.json")).unwrap()).unwrap()
}

fn load(folder: &Path, kernels: Kernels) -> DecoderEngine {
    let options = LoadOptions { dtype: Some("f32"), ..LoadOptions::default() };
    load_decoder(folder, &options, DeviceChoice::Cpu, Some(kernels)).unwrap()
}

fn engine(name: &str, kernels: Kernels) -> DecoderEngine {
    load(&folder(name), kernels)
}

/// A model whose answers end at other tokens than it was written with.
fn with_eos(name: &str, eos_ids: &[u32], kernels: Kernels) -> DecoderEngine {
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let copy = std::env::temp_dir().join(format!("ept-sweep-decoding-{}-{count}", std::process::id()));
    fs::create_dir_all(&copy).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(folder(name).join(file), copy.join(file)).unwrap();
    }
    fs::write(copy.join("generation_config.json"), json!({ "eos_token_id": eos_ids }).to_string()).unwrap();
    let engine = load(&copy, kernels);
    fs::remove_dir_all(&copy).unwrap();
    engine
}

fn prompts(ids: &[Vec<u32>]) -> Vec<Prompt> {
    ids.iter().map(|ids| Prompt { text: String::new(), ids: ids.clone() }).collect()
}

fn some_prompts() -> Vec<Prompt> {
    prompts(&[vec![5, 6, 7, 8], vec![9], vec![250, 3, 17, 40, 99, 120], vec![30, 31]])
}

fn sample(seed: u64) -> Decoding {
    Decoding::Sample(Sampling { temperature: 0.9, top_k: 40, top_p: 0.95, min_p: None, seed })
}

fn beam(num_beams: usize) -> Decoding {
    Decoding::Beam(BeamSearch { num_beams, length_penalty: 1.0, early_stopping: EarlyStopping::Likely })
}

fn generate(engine: &mut DecoderEngine, batch: &[Prompt], length: OutputLength, decoding: Decoding) -> Vec<Generation> {
    engine.generate(batch, GenerateOptions { max_new_tokens: STEPS, length, decoding }).unwrap()
}

fn score(engine: &mut DecoderEngine, pairs: &[(&[u32], &[u32])]) -> Vec<ept_sweep::engine::Score> {
    let item = |(context, continuation): &(&[u32], &[u32])| Continuation {
        context: context.to_vec(),
        continuation: continuation.to_vec(),
    };
    engine.score(&pairs.iter().map(item).collect::<Vec<_>>()).unwrap()
}

#[test]
fn the_best_beam_is_that_of_transformers() {
    let golden = golden();
    assert!(golden.beams.len() > 50);
    for case in &golden.beams {
        let Beam { num_beams, length_penalty, early_stopping } = case.beam;
        let decoding = Decoding::Beam(BeamSearch { num_beams, length_penalty, early_stopping });
        let length = if case.fixed { OutputLength::Fixed } else { OutputLength::Natural };
        for kernels in BOTH_KERNELS {
            let mut engine = with_eos(&case.model, &case.eos_ids, kernels);
            let answers = generate(&mut engine, &prompts(&case.prompts), length, decoding);
            for (row, answer) in answers.iter().enumerate() {
                let what = format!("{}, {decoding}, {kernels:?}, {length:?}, row {row}", case.model);
                assert_eq!(answer.ids, case.answers[row], "{what}");
                let ended = case.eos_ids.contains(answer.ids.last().unwrap());
                assert_eq!(answer.finish, if ended { Finish::Eos } else { Finish::Length }, "{what}");
                assert_eq!(answer.natural_length, None, "{what}");
            }
        }
    }
}

/// The engine's own log-likelihood of the answer is the score that transformers gives to the beam.
#[test]
fn the_score_of_a_beam_is_the_log_likelihood_of_its_tokens() {
    for case in golden().beams.iter().step_by(5) {
        let mut engine = engine(&case.model, Kernels::Cpu);
        let pairs: Vec<(&[u32], &[u32])> =
            case.prompts.iter().zip(&case.answers).map(|(p, a)| (p.as_slice(), a.as_slice())).collect();
        for (row, (ours, theirs)) in score(&mut engine, &pairs).iter().zip(&case.scores).enumerate() {
            let normalised = ours.log_likelihood / (ours.tokens as f64).powf(case.beam.length_penalty);
            assert!((normalised - theirs).abs() < 1e-3, "{}, row {row}: {normalised}, not {theirs}", case.model);
        }
    }
}

#[test]
fn beams_of_a_batch_are_those_of_its_prompts_one_at_a_time() {
    for kernels in BOTH_KERNELS {
        let mut engine = engine("several_eos", kernels);
        for length in [OutputLength::Natural, OutputLength::Fixed] {
            let batch = some_prompts();
            let together = generate(&mut engine, &batch, length, beam(3));
            for (row, prompt) in batch.iter().enumerate() {
                let alone = generate(&mut engine, std::slice::from_ref(prompt), length, beam(3));
                assert_eq!(alone[0], together[row], "{kernels:?}, {length:?}, row {row}");
            }
        }
    }
}

/// Beam search to a limit without a cache: each sequence is computed anew at each step.
fn search_anew(engine: &mut DecoderEngine, prompt: &Prompt, eos: &[u32], num_beams: usize, steps: usize) -> Vec<u32> {
    let mut beams: Vec<(f64, Vec<u32>)> = vec![(0.0, Vec::new())];
    for _ in 0..steps {
        let texts: Vec<Vec<u32>> = beams.iter().map(|(_, ids)| [prompt.ids.as_slice(), ids].concat()).collect();
        let logits = engine.prompt_logits(&prompts(&texts)).unwrap();
        let mut next = Vec::new();
        for ((score, ids), logits) in beams.iter().zip(logits) {
            let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
            let allowed = (0..).zip(&logits).filter(|(token, _)| !eos.contains(token));
            next.extend(
                allowed
                    .map(|(token, logit)| (score + f64::from(*logit) - sum.ln(), [ids.as_slice(), &[token]].concat())),
            );
        }
        next.sort_by(|a, b| b.0.total_cmp(&a.0));
        next.truncate(num_beams);
        beams = next;
    }
    beams.swap_remove(0).1
}

#[test]
fn in_every_family_beams_with_a_cache_are_those_without_one() {
    const STEPS: usize = 4;
    for golden in generated::Golden::all("families") {
        // its keys keep the rotation that was in use when they came: that isn't computing them anew
        if golden.name.contains("dynamic") {
            continue;
        }
        let folder = golden.model();
        for kernels in BOTH_KERNELS {
            let mut engine = load(&folder.0, kernels);
            let batch = golden.batch();
            let options = GenerateOptions { max_new_tokens: STEPS, length: OutputLength::Fixed, decoding: beam(3) };
            // the longest row of a batch chooses the rotation of all
            let size = if golden.name.contains("longrope") { 1 } else { batch.len() };
            let answers: Vec<Generation> =
                batch.chunks(size).flat_map(|batch| engine.generate(batch, options).unwrap()).collect();
            for (row, (prompt, answer)) in batch.iter().zip(&answers).enumerate() {
                let anew = search_anew(&mut engine, prompt, &golden.eos_ids, 3, STEPS);
                if answer.ids == anew {
                    continue;
                }
                let scores = score(&mut engine, &[(&prompt.ids, &answer.ids), (&prompt.ids, &anew)]);
                let gap = scores[0].log_likelihood - scores[1].log_likelihood;
                assert!(gap.abs() < 1e-3, "{}, {kernels:?}, row {row}: {:?}, not {anew:?}", golden.name, answer.ids);
            }
        }
    }
}

#[test]
fn sampling_gives_a_prompt_the_same_answer_in_any_batch_and_in_each_pass() {
    let mut engine = engine("gqa_tied", Kernels::Cpu);
    let batch = some_prompts();
    for length in [OutputLength::Natural, OutputLength::Fixed] {
        let together = generate(&mut engine, &batch, length, sample(1));
        assert_eq!(generate(&mut engine, &batch, length, sample(1)), together);
        for (row, prompt) in batch.iter().enumerate() {
            let alone = generate(&mut engine, std::slice::from_ref(prompt), length, sample(1));
            assert_eq!(alone[0], together[row], "{length:?}, row {row}");
        }
        assert_ne!(generate(&mut engine, &batch, length, sample(2)), together);
    }
}

#[test]
fn a_sampled_answer_of_fixed_length_is_the_natural_one_up_to_its_end() {
    let batch = some_prompts();
    // Every fifth token ends an answer, so that each answer ends somewhere.
    let eos: Vec<u32> = (0..300).step_by(5).collect();
    for kernels in BOTH_KERNELS {
        let mut engine = with_eos("gqa_tied", &eos, kernels);
        for seed in 0..5 {
            let natural = generate(&mut engine, &batch, OutputLength::Natural, sample(seed));
            let fixed = generate(&mut engine, &batch, OutputLength::Fixed, sample(seed));
            for (natural, fixed) in natural.iter().zip(&fixed) {
                assert_eq!(fixed.ids.len(), STEPS);
                assert!(fixed.ids.iter().all(|id| !eos.contains(id)));
                let before = natural.ids.iter().take_while(|id| !eos.contains(id)).count();
                assert_eq!(natural.ids[..before], fixed.ids[..before]);
                let ended = natural.finish == Finish::Eos;
                assert_eq!(fixed.natural_length, ended.then_some(natural.ids.len()));
            }
        }
    }
}

#[test]
fn one_candidate_is_greedy_decoding_and_a_shorter_limit_a_beginning() {
    let mut engine = engine("mha_untied", Kernels::Cpu);
    let batch = some_prompts();
    let one = Decoding::Sample(Sampling { top_k: 1, ..Sampling::default() });
    let greedy = generate(&mut engine, &batch, OutputLength::Natural, Decoding::Greedy);
    assert_eq!(generate(&mut engine, &batch, OutputLength::Natural, one), greedy);

    let long = generate(&mut engine, &batch, OutputLength::Natural, sample(3));
    let options = GenerateOptions { max_new_tokens: 5, length: OutputLength::Natural, decoding: sample(3) };
    for (short, long) in engine.generate(&batch, options).unwrap().iter().zip(&long) {
        assert!(long.ids.starts_with(&short.ids));
    }
}

#[test]
fn log_likelihoods_of_a_padded_batch_are_those_of_transformers() {
    for case in golden().scores {
        for kernels in BOTH_KERNELS {
            let pairs: Vec<(&[u32], &[u32])> =
                case.rows.iter().map(|row| (row.context.as_slice(), row.continuation.as_slice())).collect();
            let scores = score(&mut engine(&case.model, kernels), &pairs);
            for (row, (ours, theirs)) in scores.iter().zip(&case.rows).enumerate() {
                let what = format!("{}, {kernels:?}, row {row}", case.model);
                assert_eq!((ours.tokens, ours.log_probs.len()), (theirs.continuation.len(), theirs.log_probs.len()));
                assert_eq!(ours.is_greedy, theirs.is_greedy, "{what}");
                for (ours, theirs) in ours.log_probs.iter().zip(&theirs.log_probs) {
                    assert!((ours - theirs).abs() < 1e-4, "{what}: {ours} against {theirs}");
                }
                let sum: f64 = theirs.log_probs.iter().copied().map(f64::from).sum();
                assert!((ours.log_likelihood - sum).abs() < 1e-3, "{what}");
            }
        }
    }
}

#[test]
fn what_greedy_decoding_writes_is_greedy_and_anything_else_is_not() {
    let mut engine = engine("wide_heads", Kernels::Cpu);
    let batch = some_prompts();
    for (prompt, answer) in batch.iter().zip(generate(&mut engine, &batch, OutputLength::Natural, Decoding::Greedy)) {
        let mut other = answer.ids.clone();
        *other.last_mut().unwrap() ^= 1;
        let scores = score(&mut engine, &[(&prompt.ids, &answer.ids), (&prompt.ids, &other)]);
        assert_eq!((scores[0].is_greedy, scores[1].is_greedy), (true, false));
    }
}

#[test]
fn what_cannot_be_scored_is_an_error() {
    let mut engine = engine("gqa_tied", Kernels::Cpu);
    let mut error = |context: &[u32], continuation: &[u32]| {
        let item = Continuation { context: context.to_vec(), continuation: continuation.to_vec() };
        engine.score(&[item]).unwrap_err().message().to_owned()
    };
    assert_eq!(error(&[], &[1]), "context 0 of the batch: it has no tokens");
    assert_eq!(error(&[1], &[]), "continuation 0 of the batch: it has no tokens");
    assert!(error(&[1], &[300]).contains("token id 300 is outside"));
    assert!(error(&[1; 250], &[1; 8]).contains("257 positions with the context don't fit the model's 256"));
    assert_eq!(engine.score(&[]).unwrap_err().message(), "the batch is empty");
    let longest = Continuation { context: vec![1; 249], continuation: vec![1; 8] };
    assert_eq!(engine.score(&[longest]).unwrap()[0].tokens, 8);
}

#[test]
fn a_simulated_model_neither_scores_nor_samples_nor_searches() {
    let spec: SyntheticSpec = serde_json::from_value(json!({ "power_w": 100.0, "step_s": 1.0 })).unwrap();
    let mut engine = Synthetic::new(spec, SimulatedDevice::new(Watts(60.0))).unwrap();
    let item = Continuation { context: vec![1], continuation: vec![2] };
    let error = engine.score(&[item]).unwrap_err();
    assert!(error.message().starts_with("the `synthetic` engine has no probabilities"), "{}", error.message());
    for decoding in [sample(1), beam(2)] {
        let options = GenerateOptions { max_new_tokens: 4, length: OutputLength::Natural, decoding };
        assert!(engine.generate(&prompts(&[vec![1]]), options).is_err());
    }
}

#[test]
fn settings_that_mean_nothing_are_refused_by_the_engine_too() {
    let mut engine = engine("gqa_tied", Kernels::Cpu);
    let batch = some_prompts();
    for (decoding, message) in [
        (Decoding::Sample(Sampling { temperature: 0.0, ..Sampling::default() }), "`temperature: 0` can't be used"),
        (beam(1), "`num_beams: 1` can't be used"),
    ] {
        let options = GenerateOptions { max_new_tokens: 4, length: OutputLength::Natural, decoding };
        assert_eq!(engine.generate(&batch, options).unwrap_err().message(), message);
    }
    let nearly_all: Vec<u32> = (0..298).collect();
    let mut few = with_eos("gqa_tied", &nearly_all, Kernels::Cpu);
    let options = GenerateOptions { max_new_tokens: 4, length: OutputLength::Fixed, decoding: beam(3) };
    assert_eq!(few.generate(&batch, options).unwrap_err().message(), "3 beams for a vocabulary of 300");
}

/// Runs where this build can use a GPU and there is one.
#[cfg(feature = "cuda")]
#[test]
fn a_gpu_searches_samples_and_scores_as_the_cpu_does() {
    if DeviceChoice::Auto.gpu_index().is_none() {
        return;
    }
    for kernels in [None, Some(Kernels::Stock)] {
        let options = LoadOptions { dtype: Some("f32"), ..LoadOptions::default() };
        let mut gpu = load_decoder(&folder("gqa_tied"), &options, DeviceChoice::Cuda(0), kernels).unwrap();
        let mut cpu = engine("gqa_tied", Kernels::Cpu);
        let batch = some_prompts();
        for decoding in [Decoding::Greedy, sample(1), beam(4)] {
            for length in [OutputLength::Natural, OutputLength::Fixed] {
                let expected = generate(&mut cpu, &batch, length, decoding);
                assert_eq!(generate(&mut gpu, &batch, length, decoding), expected, "{kernels:?}, {decoding}");
            }
        }
        let pairs: [(&[u32], &[u32]); 2] = [(&[1, 2, 3], &[4]), (&[5], &[6, 7, 8])];
        for (gpu, cpu) in score(&mut gpu, &pairs).iter().zip(score(&mut cpu, &pairs)) {
            assert!((gpu.log_likelihood - cpu.log_likelihood).abs() < 1e-3, "{kernels:?}");
            assert_eq!(gpu.is_greedy, cpu.is_greedy, "{kernels:?}");
        }
    }
}

fn refused(decoding: Value) -> String {
    let yaml = format!(
        "name: a\nmodels:\n  - label: m\n    source: ./m\nsweep: {{batch_size: 1, max_new_tokens: 4}}\n\
         prompts: {{text: [\"x\"]}}\ngeneration:\n  decoding: {decoding}\n"
    );
    let error = ept_sweep::sweep::SweepSpec::parse(Path::new("a.yaml"), &yaml).unwrap_err();
    format!("{}\nhint: {}", error.message(), error.hint().unwrap_or_default())
}

#[test]
fn a_setting_that_cannot_be_used_is_shown_where_it_stands() {
    for (decoding, words) in [
        (
            json!({"sample": {"temperature": 0}}),
            ["a.yaml:8:", "`temperature: 0` can't be used", "use `decoding: greedy`"],
        ),
        (json!({"sample": {"topk": 5}}), ["a.yaml:8:", "unknown key `topk`", "did you mean `top_k`?"]),
        (json!({"sample": {"top_p": 1.5}}), ["a.yaml:8:", "`top_p: 1.5` can't be used", "1 at most"]),
        (json!({"beam": {"num_beams": 1}}), ["a.yaml:8:", "`num_beams: 1` can't be used", "decoding: greedy"]),
        (json!({"beam": {}}), ["a.yaml:8:", "missing field `num_beams`", ""]),
        (json!({"beams": {"num_beams": 2}}), ["a.yaml:8:", "unknown key `beams`", "did you mean `beam`?"]),
        (json!("greedily"), ["a.yaml:8:", "unknown value `greedily`", "did you mean `greedy`?"]),
    ] {
        let message = refused(decoding);
        for word in words {
            assert!(message.contains(word), "{message}\nlacks {word}");
        }
    }
}

#[test]
fn a_sweep_file_carries_its_decoding_into_each_cell() {
    let yaml = "name: a\nmodels:\n  - label: m\n    source: ./m\nsweep: {batch_size: [1, 2], max_new_tokens: 4}\n\
                prompts: {text: [\"x\"]}\ngeneration: {decoding: {beam: {num_beams: 4, early_stopping: never}}}\n";
    let spec = ept_sweep::sweep::SweepSpec::parse(Path::new("a.yaml"), yaml).unwrap();
    let plan = ept_sweep::sweep::Plan::new(&spec, &Default::default()).unwrap();
    let beam = BeamSearch { num_beams: 4, length_penalty: 1.0, early_stopping: EarlyStopping::Never };
    assert!(plan.cells.len() == 2 && plan.cells.iter().all(|cell| cell.decoding == Decoding::Beam(beam)));
}
