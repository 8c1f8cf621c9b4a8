use super::*;

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
    assert_eq!((absent.kv_heads, absent.head_dim, absent.max_positions), (4, 4, 2048));
    assert_eq!((absent.norm_eps, absent.tied), (1e-6, false));
    assert_eq!(absent.eos_ids, [2]);
    assert_eq!(absent.rope, Rope { theta: 10_000.0, scaling: RopeScaling::Default });
    let null = r#"{"head_dim": null, "num_key_value_heads": null, "rope_scaling": null, "rope_theta": null}"#;
    assert_eq!(read(null).unwrap(), absent);
}

#[test]
fn both_spellings_of_the_rotary_embedding_mean_the_same() {
    let four = r#"{"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4}}"#;
    let five = r#"{"rope_parameters": {"rope_theta": 5e5, "rope_type": "linear", "factor": 4.0}}"#;
    let expected = Rope { theta: 5e5, scaling: RopeScaling::Linear { factor: 4.0 } };
    assert_eq!(read(four).unwrap().rope, expected);
    assert_eq!(read(five).unwrap().rope, expected);
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
fn what_is_not_served_is_refused_by_name_with_what_is_served() {
    let gpt = message(r#"{"architectures": ["GPT2LMHeadModel"]}"#);
    assert_eq!(
        gpt,
        "m/config.json: `architectures`: `GPT2LMHeadModel` isn't served; served are `LlamaForCausalLM` and \
         `MistralForCausalLM`"
    );
    let yarn = message(r#"{"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}"#);
    assert_eq!(
        yarn,
        "m/config.json: `rope_scaling.rope_type`: `yarn` isn't served; served are `default`, `linear` and `llama3`"
    );
    assert!(message(r#"{"hidden_act": "gelu"}"#).contains("`hidden_act`: `gelu` isn't served"));
    assert!(message(r#"{"quantization_config": {}}"#).contains("`quantization_config`"));
    assert!(message(r#"{"rope_parameters": {"partial_rotary_factor": 0.5}}"#).contains("`partial_rotary_factor`"));
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
fn mistral_is_served_without_an_active_sliding_window() {
    let mistral =
        |rest: &str| read(&format!(r#"{{"architectures": ["MistralForCausalLM"], "num_key_value_heads": 2 {rest}}}"#));
    assert!(mistral(r#", "sliding_window": null"#).is_ok());
    assert!(mistral(r#", "sliding_window": 512, "max_position_embeddings": 512"#).is_ok());
    let absent = mistral("").unwrap_err().to_string();
    assert!(absent.contains("`sliding_window`: 4096"), "{absent}");
}
