//! Dummy weights, random prompts, and cells that don't fit: through the program.

mod common;

use std::fs;

use common::{Folder, program, stderr, trials};

const MEASURE: &str = "measure: {meter: modelled, repeats: 1, window_s: 0.05, warmup_s: 0.01, idle_s: 0}\n";

/// A folder with nothing but the config of a Llama.
fn config_only(folder: &Folder, layers: usize) {
    fs::create_dir(folder.path("model")).unwrap();
    folder.write(
        "model/config.json",
        &format!(
            r#"{{"architectures": ["LlamaForCausalLM"], "vocab_size": 500, "hidden_size": 64, "intermediate_size": 128,
                "num_hidden_layers": {layers}, "num_attention_heads": 4, "max_position_embeddings": 1048576,
                "dtype": "bfloat16"}}"#
        ),
    );
}

#[test]
fn an_architecture_is_measured_from_its_config_alone() {
    let folder = Folder::new();
    config_only(&folder, 2);
    let sweep = folder.write(
        "sweep.yaml",
        &format!(
            "name: dummy\nmodels:\n  - {{label: llama, source: ./model, weights: dummy}}\n\
             sweep: {{batch_size: [1, 4], max_new_tokens: 8}}\nprompts: {{random: {{tokens: 12}}, count: 8}}\n\
             generation: {{length: fixed}}\n{MEASURE}"
        ),
    );
    let out = folder.path("out");
    common::sweep(&sweep, &out);
    for record in trials(&out) {
        assert_eq!(record["outcome"]["outcome"], "measured", "{record}");
        assert_eq!(record["cell"]["dummy_weights"], true);
        let passes = record["outcome"]["window"]["passes"].as_u64().unwrap();
        assert_eq!(record["outcome"]["tokens_in"].as_u64().unwrap(), passes * 8 * 12);
        assert_eq!(record["outcome"]["tokens_out"].as_u64().unwrap(), passes * 8 * 8);
    }
    let report = fs::read_to_string(out.join("report.md")).unwrap();
    assert!(report.contains("Dummy weights: llama"), "{report}");
    assert!(report.contains("model, f32, dummy weights"), "each row of the results says so");
    assert!(report.contains("The dummy weights of llama (Gaussian) are not trained"), "{report}");
    let table = fs::read_to_string(out.join("results.csv")).unwrap();
    assert!(table.lines().next().unwrap().contains("weights") && table.contains("dummy"));
}

#[test]
fn models_of_one_shape_with_each_distribution_of_dummy_weights_are_measured_side_by_side() {
    let folder = Folder::new();
    config_only(&folder, 2);
    let model = |name: &str| format!("  - {{label: {name}, source: ./model, weights: {{dummy: {name}}}}}\n");
    let models: String = ["gaussian", "uniform", "zeros"].map(model).concat();
    let sweep = folder.write(
        "sweep.yaml",
        &format!(
            "name: dummy\nmodels:\n{models}sweep: {{batch_size: 1, max_new_tokens: 8}}\n\
             prompts: {{random: {{tokens: 12}}, count: 2}}\ngeneration: {{length: fixed}}\n{MEASURE}"
        ),
    );
    let out = folder.path("out");
    common::sweep(&sweep, &out);
    let run: serde_json::Value = serde_json::from_str(&fs::read_to_string(out.join("run.json")).unwrap()).unwrap();
    for name in ["gaussian", "uniform", "zeros"] {
        let loaded = &run["parts"][0]["models"][name]["dummy"];
        assert_eq!(*loaded, serde_json::json!({"seed": 42, "distribution": name}));
    }
    let report = fs::read_to_string(out.join("report.md")).unwrap();
    assert!(report.contains("dummy weights: uniform, standard deviation 0.02 (seed 42)"), "{report}");
    assert!(report.contains("dummy weights: all zero"), "{report}");
}

#[test]
fn other_words_for_weights_are_refused_with_those_that_can_be_meant() {
    let folder = Folder::new();
    config_only(&folder, 2);
    let cases = [
        ("dumy", "dumy"),
        ("{dummy: normal}", "gaussian"),
        ("{random: gaussian}", "random"),
        ("[dummy]", "{dummy: gaussian | uniform | zeros}"),
    ];
    for (weights, expected) in cases {
        let sweep = folder.write(
            "sweep.yaml",
            &format!(
                "name: dummy\nmodels:\n  - {{label: llama, source: ./model, weights: {weights}}}\n\
                 sweep: {{batch_size: 1, max_new_tokens: 8}}\nprompts: {{random: {{tokens: 4}}, count: 4}}\n"
            ),
        );
        let output = program().arg("plan").arg(&sweep).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        let said = stderr(&output);
        assert!(said.contains(expected) && said.contains("sweep.yaml:3"), "{said}");
    }
}

#[test]
fn the_same_random_prompts_and_weights_give_the_same_answers_again() {
    let folder = Folder::new();
    config_only(&folder, 2);
    let sweep = folder.write(
        "sweep.yaml",
        &format!(
            "name: dummy\nmodels:\n  - {{label: llama, source: ./model, weights: dummy}}\n\
             sweep: {{batch_size: 2, max_new_tokens: 8}}\nprompts: {{random: {{tokens: 12}}, count: 4}}\n{MEASURE}"
        ),
    );
    let answers = |name: &str| {
        common::sweep(&sweep, &folder.path(name));
        fs::read_to_string(folder.path(name).join("generations.jsonl")).unwrap()
    };
    assert_eq!(answers("one"), answers("two"));
}

#[test]
fn accuracy_of_dummy_weights_is_refused_in_the_sweep_file() {
    let folder = Folder::new();
    config_only(&folder, 2);
    folder.write("held.jsonl", "{\"instruction\": \"a\", \"response\": \"b\"}\n");
    let sweep = folder.write(
        "sweep.yaml",
        "name: dummy\nmodels:\n  - {label: llama, source: ./model, weights: dummy}\n\
         sweep: {batch_size: 1, max_new_tokens: 8}\nprompts: {text: [\"a\"]}\naccuracy: {file: held.jsonl}\n",
    );
    let output = program().arg("plan").arg(&sweep).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("accuracy of dummy weights (`llama`)"), "{}", stderr(&output));
}

#[test]
fn random_prompts_and_dummy_weights_that_contradict_the_rest_are_refused_where_they_stand() {
    let folder = Folder::new();
    config_only(&folder, 2);
    let refused = |model: &str, prompts: &str| {
        let sweep = folder.write(
            "sweep.yaml",
            &format!(
                "name: dummy\nmodels:\n  - {{label: llama, source: ./model, weights: dummy{model}}}\n\
                 sweep: {{batch_size: 1, max_new_tokens: 8}}\nprompts: {{{prompts}}}\n"
            ),
        );
        let output = program().arg("plan").arg(&sweep).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        stderr(&output)
    };
    let cases = [
        ("", "random: {tokens: 4}", "random prompts without `count`"),
        ("", "random: {tokens: 0}, count: 4", "random prompts of 0 tokens"),
        ("", "text: [a], random: {tokens: 4}, count: 4", "both `text` and `random`"),
        ("", "random: {tokens: 4}, count: 4, system: Be brief.", "random prompts can't have a form"),
        (", adapter: ./lora", "random: {tokens: 4}, count: 4", "an adapter for dummy weights"),
        (", devices: [0, 0]", "random: {tokens: 4}, count: 4", "the list is empty or names a device twice"),
    ];
    for (model, prompts, expected) in cases {
        let said = refused(model, prompts);
        assert!(said.contains(expected) && said.contains("sweep.yaml:"), "{said}");
    }
}

#[test]
fn a_cell_that_cannot_fit_is_skipped_with_the_figures_and_the_others_run() {
    let folder = Folder::new();
    // 64 layers · 2 · 64 wide in f32: 32 KiB of KV cache a token; 900,000 tokens of 8 sequences are 220 GiB
    config_only(&folder, 64);
    let sweep = folder.write(
        "sweep.yaml",
        &format!(
            "name: large\nmodels:\n  - {{label: llama, source: ./model, weights: dummy}}\n\
             sweep: {{batch_size: [1, 8], max_new_tokens: [2, 900000]}}\nprompts: {{random: {{tokens: 4}}, count: 8}}\n\
             {MEASURE}"
        ),
    );
    let plan = program().arg("plan").arg(&sweep).output().unwrap();
    assert!(stderr(&plan).contains("cell `llama.b8.n900000` doesn't fit: about"), "{}", stderr(&plan));
    let out = folder.path("out");
    let output = program().arg(&sweep).arg("--out").arg(&out).args(["--only", "*.b[18].n2"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let output = program().arg(&sweep).arg("--out").arg(&out).args(["--only", "*.b8.*"]).output().unwrap();
    assert!(stderr(&output).contains("failed or were skipped"), "{}", stderr(&output));
    let records = trials(&out);
    let outcome = |id: &str| &records.iter().find(|record| record["cell"]["id"] == id).unwrap()["outcome"];
    assert_eq!(outcome("llama.b1.n2")["outcome"], "measured");
    assert_eq!(outcome("llama.b8.n2")["outcome"], "measured");
    let skipped = outcome("llama.b8.n900000");
    assert_eq!(skipped["outcome"], "skipped");
    let message = skipped["message"].as_str().unwrap();
    assert!(message.starts_with("doesn't fit: about ") && message.contains("are free"), "{message}");
}

#[test]
fn after_running_out_of_memory_smaller_cells_run_and_larger_ones_are_skipped() {
    let folder = Folder::new();
    let sweep = folder.write(
        "sweep.yaml",
        "name: oom\nmodels:\n  - {label: m, source: {synthetic: {power_w: 100, step_s: 0.01, \
         fail: {kind: oom, from_batch_size: 4}}}}\nsweep: {batch_size: [1, 2, 4, 8], max_new_tokens: 4}\n\
         prompts: {text: [a, b, c, d, e, f, g, h]}\nmeasure: {repeats: 3, window_s: 1, warmup_s: 0, idle_s: 0}\n",
    );
    let out = folder.path("out");
    let output = program().arg(&sweep).arg("--out").arg(&out).output().unwrap();
    assert!(stderr(&output).contains("failed or were skipped"), "{}", stderr(&output));
    let records = trials(&out);
    let count = |id: &str, outcome: &str| {
        records.iter().filter(|r| r["cell"]["id"] == id && r["outcome"]["outcome"] == outcome).count()
    };
    assert_eq!((count("m.b1.n4", "measured"), count("m.b2.n4", "measured")), (3, 3));
    assert_eq!(count("m.b4.n4", "failed"), 3, "its own repeats are tried again");
    assert!(count("m.b8.n4", "skipped") >= 2, "it is dominated from the first failure of a smaller one on");
    let skipped = records.iter().find(|record| record["outcome"]["outcome"] == "skipped").unwrap();
    assert!(skipped["outcome"]["message"].as_str().unwrap().contains("`m.b4.n4`, which needs no more memory"));
}
