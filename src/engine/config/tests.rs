use super::*;
use crate::engine::config::rope::{Rope, RopeScaling};

fn read(json: &str) -> Result<Config> {
    let mut map: Map<String, Value> = serde_json::from_str(
        r#"{"architectures": ["LlamaForCausalLM"], "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24,
            "num_hidden_layers": 2, "num_attention_heads": 4}"#,
    )
    .unwrap();
    let changes: Map<String, Value> = serde_json::from_str(json).unwrap();
    map.extend(changes);
    Config::from_json(Path::new("m/config.json"), &map)
}

fn message(json: &str) -> String {
    read(json).unwrap_err().to_string()
}

#[test]
fn absent_fields_and_nulls_take_the_defaults_of_transformers() {
    let absent = read("{}").unwrap();
    assert_eq!((absent.attention.kv_heads, absent.attention.head_dim, absent.max_positions), (4, 4, 2048));
    assert_eq!((absent.norm.eps, absent.output.tied), (1e-6, false));
    assert_eq!(absent.eos_ids, [2]);
    assert_eq!(absent.ropes, [Rope::plain(10_000.0, 4)]);
    let null = r#"{"head_dim": null, "num_key_value_heads": null, "rope_scaling": null, "rope_theta": null}"#;
    assert_eq!(read(null).unwrap(), absent);
}

#[test]
fn both_spellings_of_the_rotary_embedding_mean_the_same() {
    let four = r#"{"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4}}"#;
    let five = r#"{"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 4.0}}"#;
    let expected = [Rope { scaling: RopeScaling::Linear { factor: 4.0 }, ..Rope::plain(5e5, 4) }];
    assert_eq!(read(four).unwrap().ropes, expected);
    assert_eq!(read(five).unwrap().ropes, expected);
}

#[test]
fn end_of_sequence_is_an_id_or_a_list_or_nothing() {
    assert_eq!(read(r#"{"eos_token_id": 7}"#).unwrap().eos_ids, [7]);
    assert_eq!(read(r#"{"eos_token_id": [7, 9]}"#).unwrap().eos_ids, [7, 9]);
    assert!(read(r#"{"eos_token_id": null}"#).unwrap().eos_ids.is_empty());
    assert_eq!(
        message(r#"{"eos_token_id": -1}"#),
        "m/config.json: `eos_token_id`: `-1` isn't a token id or a list of them"
    );
}

#[test]
fn what_is_not_supported_is_refused_by_name_with_a_list_of_what_is() {
    let other = message(r#"{"architectures": ["T5ForConditionalGeneration"]}"#);
    assert!(
        other.starts_with(
            "m/config.json: `architectures`: `T5ForConditionalGeneration` isn't supported; supported are `"
        ),
        "{other}"
    );
    assert!(other.contains("`LlamaForCausalLM`, ") && other.contains("`Qwen3MoeForCausalLM`, "), "{other}");
    let rope = message(r#"{"rope_scaling": {"rope_type": "mrope", "factor": 4.0}}"#);
    assert_eq!(
        rope,
        "m/config.json: `rope_scaling.rope_type`: `mrope` isn't supported; supported are `default`, `linear`, \
         `dynamic`, `yarn`, `llama3` and `longrope`"
    );
    assert!(message(r#"{"hidden_act": "mish"}"#).contains("`hidden_act`: `mish` isn't supported"));
    assert!(message(r#"{"quantization_config": {}}"#).contains("`quantization_config`"));
    assert!(message(r#"{"rope_parameters": {"partial_rotary_factor": 1.5}}"#).contains("`partial_rotary_factor`"));
    assert!(message(r#"{"num_hidden_layers": 5000}"#).contains("`num_hidden_layers`: 5000 is more than"));
}

#[test]
fn hostile_experts_are_refused_before_anything_is_allocated() {
    let mixtral = |count: &str| {
        message(&format!(r#"{{"architectures": ["MixtralForCausalLM"], "num_key_value_heads": 2, {count}}}"#))
    };
    assert!(mixtral(r#""num_local_experts": 1000000"#).contains("`num_local_experts`: 1000000 is more than"));
    assert!(mixtral(r#""num_local_experts": 2, "num_experts_per_tok": 3"#).contains("`num_experts_per_tok`"));
}

#[test]
fn layers_without_their_type_or_rotation_are_refused() {
    let qwen = |rest: &str| {
        message(&format!(r#"{{"architectures": ["Qwen2ForCausalLM"], "num_key_value_heads": 2, {rest}}}"#))
    };
    let types = qwen(r#""layer_types": ["full_attention"]"#);
    assert!(types.contains("`layer_types`: has 1 entries, `num_hidden_layers` says 2"), "{types}");
    assert!(
        qwen(r#""layer_types": ["full_attention", "linear_attention"]"#).contains("`linear_attention` isn't supported")
    );
}

#[test]
fn wrong_values_name_the_file_and_the_field() {
    assert_eq!(message(r#"{"vocab_size": null}"#), "m/config.json: `vocab_size`: is missing");
    assert_eq!(
        message(r#"{"num_hidden_layers": "two"}"#),
        "m/config.json: `num_hidden_layers`: `\"two\"` isn't a positive whole number of a sensible size"
    );
    assert!(message(r#"{"hidden_size": 0}"#).contains("`hidden_size`: `0`"));
    assert!(message(r#"{"hidden_size": 1e30}"#).contains("`hidden_size`"));
    assert!(message(r#"{"num_key_value_heads": 3}"#).contains("`num_key_value_heads`: 3 doesn't divide"));
    assert!(message(r#"{"head_dim": 5}"#).contains("`head_dim`: 5 isn't"));
    assert!(message(r#"{"rope_scaling": {"type": "linear"}}"#).contains("`rope_scaling.factor`: is missing"));
    assert!(message(r#"{"rope_scaling": 3}"#).contains("`rope_scaling`: `3` isn't an object"));
}

#[test]
fn a_window_belongs_to_the_layers_that_the_family_gives_it_to() {
    let windows = |json: &str| -> Vec<Option<usize>> {
        let base = r#""num_key_value_heads": 2, "num_hidden_layers": 3"#;
        read(&format!("{{{base}, {json}}}")).unwrap().layers.iter().map(|layer| layer.window).collect()
    };
    let mistral = r#""architectures": ["MistralForCausalLM"]"#;
    assert_eq!(windows(mistral), [Some(4096); 3]);
    assert_eq!(windows(&format!(r#"{mistral}, "sliding_window": null"#)), [None; 3]);
    let qwen = r#""architectures": ["Qwen2ForCausalLM"], "sliding_window": 8, "max_window_layers": 2"#;
    assert_eq!(windows(qwen), [None; 3]);
    assert_eq!(windows(&format!(r#"{qwen}, "use_sliding_window": true"#)), [None, None, Some(8)]);
}
