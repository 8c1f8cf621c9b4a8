//! Prompts as a model sees them, against transformers and tokenizers: `scripts/make_chat_goldens.py` makes the goldens.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Folder, program, repository, run, stderr, stdout, sweep};
use ept_sweep::calendar::Date;
use ept_sweep::error::{Kind, Result};
use ept_sweep::text::{
    ChatTemplate, GgufTokenizer, Limit, Message, ModelText, Prompter, Rules, Side, TemplateSource, Tokenizer,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn golden(path: impl AsRef<Path>) -> Vec<Value> {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn chat_folder() -> PathBuf {
    repository().join("tests/golden/chat")
}

/// A model folder with the goldens' tokenizer and the given settings.
fn model_folder(settings: &Value) -> Folder {
    let folder = Folder::new();
    fs::copy(chat_folder().join("tokenizer.json"), folder.path("tokenizer.json")).unwrap();
    folder.write("tokenizer_config.json", &settings.to_string());
    folder
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn messages(value: &Value) -> Vec<Message<'_>> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|value| Message { role: value["role"].as_str().unwrap(), content: value["content"].as_str().unwrap() })
        .collect()
}

/// Renders and encodes every case of a golden file; returns how many, and what differs.
fn compare(entries: &[Value], source_of: impl Fn(&Value) -> String) -> (usize, Vec<String>) {
    let (mut compared, mut differing) = (0, Vec::new());
    for entry in entries {
        let mut settings = entry["config"].clone();
        // a tokenizer that adds BOS by itself: the template's own must stay the only one
        settings["add_bos_token"] = json!(settings.get("bos_token").is_some());
        let folder = model_folder(&settings);
        folder.write("chat_template.jinja", &source_of(entry));
        let text = ModelText::load(&folder.0).unwrap();
        let source = text.template.unwrap().unwrap();
        for case in entry["cases"].as_array().unwrap() {
            compared += 1;
            let variables = case["variables"].as_object().unwrap();
            let rendered = ChatTemplate::new(source.clone(), &text.special_tokens, variables, Date::default())
                .and_then(|template| template.render(&messages(&case["messages"])));
            let what = format!("{} {} {}", entry["template"], case["name"], case["variables"]);
            if let Err(difference) = same(&rendered, case, &text.tokenizer) {
                differing.push(format!("{what}: {difference}"));
            }
        }
    }
    (compared, differing)
}

fn same(rendered: &Result<String>, case: &Value, tokenizer: &Tokenizer) -> Result<(), String> {
    match (rendered, case["error"].as_str()) {
        (Ok(text), None) if *text != case["text"].as_str().unwrap() => Err(format!("{text:?} for {}", case["text"])),
        (Ok(text), None) => match tokenizer.encode_bare(text).unwrap() == ids(&case["ids"]) {
            true => Ok(()),
            false => Err("other token ids".to_owned()),
        },
        (Err(error), Some(message)) if case["raised"] == json!(true) => match error.message().ends_with(message) {
            true => Ok(()),
            false => Err(format!("{error} for {message}")),
        },
        (Err(_), Some(_)) => Ok(()),
        (Ok(text), Some(error)) => Err(format!("{text:?} for the error {error}")),
        (Err(error), None) => Err(format!("{error}")),
    }
}

#[test]
fn the_families_templates_render_and_encode_as_in_transformers() {
    let entries = golden(chat_folder().join("golden.json"));
    let source = |entry: &Value| fs::read_to_string(chat_folder().join(entry["template"].as_str().unwrap())).unwrap();
    let (compared, differing) = compare(&entries, source);
    assert!(differing.is_empty(), "{}", differing.join("\n"));
    assert_eq!((entries.len(), compared >= 80), (6, true), "{compared} cases");
}

#[test]
#[ignore = "needs CHAT_GOLDENS: a file that scripts/make_chat_goldens.py made of templates that can't be kept here"]
fn templates_from_outside_render_as_in_transformers() {
    let entries = golden(std::env::var("CHAT_GOLDENS").expect("CHAT_GOLDENS names a file"));
    let (compared, differing) = compare(&entries, |entry| entry["text"].as_str().unwrap().to_owned());
    println!("{} templates, {compared} cases, {} differ", entries.len(), differing.len());
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

#[test]
fn plain_prompts_are_cut_as_transformers_truncates_them() {
    for case in golden(chat_folder().join("truncation.json")) {
        let settings = match case["bos"].as_str() {
            Some(bos) => json!({"bos_token": bos, "add_bos_token": true}),
            None => json!({}),
        };
        let folder = model_folder(&settings);
        let cut = Some(if case["side"] == json!("left") { Side::Left } else { Side::Right });
        let limit = Some(Limit { max_tokens: case["most"].as_u64().unwrap() as usize, cut });
        let prompter = Prompter::new(ModelText::load(&folder.0).unwrap(), Rules { limit, ..Rules::default() }).unwrap();
        let text = case["text"].as_str().unwrap();
        let prompt = prompter.tokenize(text).unwrap();
        assert_eq!(prompt.ids, ids(&case["ids"]), "{case}");
        let whole = prompter.tokenizer().encode(text).unwrap().len();
        assert_eq!(prompt.dropped, whole - prompt.ids.len(), "{case}");
        assert_eq!(prompt.text == text, prompt.dropped == 0, "{case}");
    }
}

fn prompter(template: &str, rules: Rules) -> Result<Prompter> {
    let folder = model_folder(&json!({"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": true}));
    let path = chat_folder().join(template);
    let template = Some(TemplateSource::read(&path, template)?);
    Prompter::new(ModelText::load(&folder.0)?, Rules { template, ..rules })
}

#[test]
fn with_a_template_the_users_text_is_cut_and_the_templates_own_text_stays() {
    let text = "It's 12:30, and they're late; 你好，世界 😀😀 we'll wait for the quick brown fox.";
    let system = Some("Be brief.".to_owned());
    let whole =
        prompter("phi.jinja", Rules { system: system.clone(), ..Rules::default() }).unwrap().tokenize(text).unwrap();
    assert_eq!((whole.dropped, whole.text.contains(text)), (0, true));
    for cut in [Side::Left, Side::Right] {
        for max_tokens in 30..whole.ids.len() {
            let limit = Some(Limit { max_tokens, cut: Some(cut) });
            let rules = Rules { system: system.clone(), limit, ..Rules::default() };
            let prompt = prompter("phi.jinja", rules).unwrap().tokenize(text).unwrap();
            assert!(
                prompt.ids.len() <= max_tokens && prompt.ids.len() + 8 > max_tokens,
                "{} of {max_tokens}",
                prompt.ids.len()
            );
            assert_eq!(prompt.dropped, whole.ids.len() - prompt.ids.len());
            let (front, rest) = prompt.text.split_once("<|user|>\n").unwrap();
            let (kept, end) = rest.split_once("<|end|>").unwrap();
            assert_eq!((front, end), ("<|system|>\nBe brief.<|end|>\n", "\n<|assistant|>\n"));
            assert!(!kept.is_empty());
            match cut {
                Side::Left => assert!(text.ends_with(kept), "{kept}"),
                Side::Right => assert!(text.starts_with(kept), "{kept}"),
            }
        }
    }
}

#[test]
fn a_limit_that_a_prompt_can_not_keep_is_an_error_that_says_both_numbers() {
    let limit = |max_tokens, cut| Rules { limit: Some(Limit { max_tokens, cut }), ..Rules::default() };
    let refused = prompter("phi.jinja", limit(5, None)).unwrap().tokenize("Name three colours.").unwrap_err();
    assert!(refused.message().contains("`prompts.max_tokens` is 5"), "{refused}");
    let full =
        prompter("llama3.jinja", limit(5, Some(Side::Right))).unwrap().tokenize("Name three colours.").unwrap_err();
    assert!(full.message().contains("the chat template alone takes"), "{full}");
    assert_eq!((refused.kind(), full.kind()), (Kind::Input, Kind::Input));
}

#[test]
fn a_template_without_a_system_role_is_blamed_on_the_system_prompt() {
    let rules = Rules { system: Some("Be brief.".to_owned()), ..Rules::default() };
    let error = prompter("gemma.jinja", rules).unwrap().tokenize("Hi").unwrap_err();
    assert!(
        error.message().ends_with("the template refuses the conversation: there is no system role here"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("remove `prompts.system`"), "{error}");
}

#[test]
fn a_system_prompt_without_a_template_is_refused() {
    let folder = model_folder(&json!({}));
    let rules = Rules { system: Some("Be brief.".to_owned()), ..Rules::default() };
    let error = Prompter::new(ModelText::load(&folder.0).unwrap(), rules).err().unwrap();
    assert!(error.message().contains("needs a chat template"), "{error}");
}

#[test]
fn the_template_file_wins_over_the_settings_and_these_over_the_processor() {
    let find = |folder: &Folder| ModelText::load(&folder.0).unwrap().template;
    let none = model_folder(&json!({"chat_template": null}));
    assert_eq!(find(&none), Ok(None));
    none.write("chat_template.json", r#"{"chat_template": "processor"}"#);
    assert_eq!(find(&none).unwrap().unwrap().text, "processor");
    let several = json!([{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "settings"}]);
    let folder = model_folder(&json!({ "chat_template": several }));
    folder.write("chat_template.json", r#"{"chat_template": "processor"}"#);
    let found = find(&folder).unwrap().unwrap();
    assert_eq!((found.name.as_str(), found.text.as_str()), ("tokenizer_config.json", "settings"));
    folder.write("chat_template.jinja", "file");
    assert_eq!(find(&folder).unwrap().unwrap().name, "chat_template.jinja");
}

#[test]
fn several_templates_without_a_default_are_named_in_the_error() {
    let folder = model_folder(&json!({"chat_template": [{"name": "rag", "template": "x"}]}));
    let error = ModelText::load(&folder.0).unwrap().template.unwrap_err();
    assert!(error.message().contains("no `default` among rag"), "{error}");
    let folder = model_folder(&json!({"chat_template": 3}));
    assert!(ModelText::load(&folder.0).unwrap().template.is_err());
}

fn gguf(entry: &Value) -> GgufTokenizer {
    let texts =
        |key: &str| entry[key].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect();
    GgufTokenizer {
        model: "gpt2".to_owned(),
        pre: entry["pre"].as_str().map(str::to_owned),
        tokens: texts("tokens"),
        token_types: entry["types"].as_array().unwrap().iter().map(|kind| kind.as_i64().unwrap() as i32).collect(),
        merges: texts("merges"),
        bos: entry["bos"].as_u64().map(|id| id as u32),
        eos: entry["eos"].as_u64().map(|id| id as u32),
        chat_template: Some("{{ bos_token }}{{ messages[0].content }}".to_owned()),
        ..GgufTokenizer::default()
    }
}

#[test]
fn tokenizers_out_of_gguf_metadata_encode_and_decode_as_the_originals() {
    let entries = golden(repository().join("tests/golden/gguf.json"));
    assert_eq!(entries.len(), 9);
    for entry in &entries {
        let text = gguf(entry).text("m.gguf").unwrap();
        for case in entry["encodings"].as_array().unwrap() {
            let encoded = text.tokenizer.encode(case["text"].as_str().unwrap()).unwrap();
            assert_eq!(encoded, ids(&case["ids"]), "{}: {}", entry["pre"], case["text"]);
            assert_eq!(text.tokenizer.decode(&encoded).unwrap(), case["decoded"].as_str().unwrap(), "{}", entry["pre"]);
        }
        assert_eq!(text.tokenizer.vocab_size(), entry["tokens"].as_array().unwrap().len());
    }
}

#[test]
fn stated_ends_and_the_chat_template_of_gguf_metadata_are_used() {
    let entries = golden(repository().join("tests/golden/gguf.json"));
    let (bos, eos) = (entries[0]["bos"].as_u64().unwrap() as u32, entries[0]["eos"].as_u64().unwrap() as u32);
    let both = GgufTokenizer { add_bos: Some(true), add_eos: Some(true), ..gguf(&entries[0]) };
    let text = both.text("m.gguf").unwrap();
    assert_eq!(text.tokenizer.encode("").unwrap(), [bos, eos]);
    let template = text.template.clone().unwrap();
    let prompter = Prompter::new(text, Rules { template, ..Rules::default() }).unwrap();
    let prompt = prompter.tokenize("Hi").unwrap();
    assert_eq!((prompt.text.as_str(), prompt.ids[0]), ("<|bos|>Hi", bos));
    assert_eq!(prompter.tokenizer().decode(&prompt.ids).unwrap(), "Hi");
}

#[test]
fn gguf_metadata_that_hold_no_whole_tokenizer_are_refused_with_what_to_do() {
    let entry = &golden(repository().join("tests/golden/gguf.json"))[0];
    let refused = |change: &dyn Fn(&mut GgufTokenizer)| {
        let mut metadata = gguf(entry);
        change(&mut metadata);
        metadata.text("m.gguf").err().unwrap()
    };
    let sentencepiece = refused(&|metadata| metadata.model = "llama".to_owned());
    assert!(sentencepiece.message().starts_with("m.gguf: `tokenizer.ggml.model` is `llama`"), "{sentencepiece}");
    assert!(sentencepiece.hint().unwrap().contains("tokenizer.json"), "{sentencepiece}");
    assert!(refused(&|metadata| metadata.pre = None).message().contains("no `tokenizer.ggml.pre`"));
    assert!(refused(&|metadata| metadata.pre = Some("bloom".to_owned())).message().contains("`bloom`"));
    assert!(refused(&|metadata| metadata.merges[0] = "one".to_owned()).message().contains("merges[0]"));
    assert!(refused(&|metadata| metadata.merges[0] = "no such".to_owned()).message().contains("merges"));
    assert!(refused(&|metadata| metadata.tokens[5] = metadata.tokens[6].clone()).message().contains("ids 5 and 6"));
    assert!(refused(&|metadata| metadata.token_types.truncate(3)).message().contains("token_type"));
    let no_bos = |metadata: &mut GgufTokenizer| (metadata.add_bos, metadata.bos) = (Some(true), None);
    assert!(refused(&no_bos).message().contains("bos_token_id"));
    let far_bos = |metadata: &mut GgufTokenizer| (metadata.add_bos, metadata.bos) = (Some(true), Some(u32::MAX));
    assert!(refused(&far_bos).message().contains("is no token"));
}

/// A study of two bundled models whose prompts go through `keys`.
fn study(folder: &Folder, models: &str, keys: &str) -> PathBuf {
    let data = repository().join("data");
    let data = data.display();
    folder.write("chat.jinja", "{% for m in messages %}<{{ m.role }}> {{ m.content | trim }}\n{% endfor %}<answer>");
    folder.write(
        "chat.yaml",
        &format!(
            "name: chat\nmodels:\n  - {{label: kd, source: {data}/models/student-kd, dtype: f32{models}}}\n  \
             - {{label: base, source: {data}/models/student-base, dtype: f32}}\n\
             sweep: {{batch_size: 2, max_new_tokens: 2}}\nprompts: {{text: [Add 2 and 3., \"Sort: c a b\"]{keys}}}\n\
             measure: {{meter: modelled, repeats: 1, window_s: 0.01, warmup_s: 0, idle_s: 0}}\n\
             accuracy: {{file: {data}/instructions/heldout.jsonl, count: 2}}\n"
        ),
    )
}

fn run_info(out: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(out.join("run.json")).unwrap()).unwrap()
}

#[test]
fn a_run_records_how_each_model_was_given_the_prompts_and_the_report_says_it() {
    let folder = Folder::new();
    let out = folder.path("run");
    let keys = ", max_tokens: 40, truncate: left, date: 2025-01-02";
    let file = study(&folder, ", chat_template: ./chat.jinja, template_variables: {mood: calm}", keys);
    sweep(&file, &out);
    let forms = &run_info(&out)["parts"][0]["prompt_forms"];
    let template = &forms["kd"]["chat_template"];
    assert_eq!((&template["source"], &template["date"]), (&json!("./chat.jinja"), &json!("2025-01-02")));
    assert_eq!((&template["variables"], &template["system"]), (&json!({"mood": "calm"}), &Value::Null));
    assert_eq!(template["sha256"].as_str().unwrap().len(), 64);
    assert_eq!(forms["base"]["chat_template"], Value::Null);
    for label in ["kd", "base"] {
        assert_eq!(forms[label]["limit"], json!({"max_tokens": 40, "truncate": "left"}));
        assert_eq!((&forms[label]["energy"]["of"], &forms[label]["accuracy"]["of"]), (&json!(2), &json!(2)));
    }
    let generations = fs::read_to_string(out.join("generations.jsonl")).unwrap();
    let lines: Vec<Value> = generations.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |label: &str| lines.iter().find(|line| line["cell"].as_str().unwrap().starts_with(label)).unwrap();
    assert_eq!(of("kd")["prompt"], json!("<user> Add 2 and 3.\n<answer>"));
    assert_eq!(of("base")["prompt"], json!("Add 2 and 3."));
    let report = fs::read_to_string(out.join("report.md")).unwrap();
    assert!(
        report
            .contains("through the chat template of ./chat.jinja (mood = \"calm\", today's date taken as 2025-01-02)")
    );
    assert!(report.contains("do not read the prompts in the same form"), "{report}");
    let cell = of("kd")["cell"].as_str().unwrap();
    let explained = run([std::ffi::OsStr::new("explain"), cell.as_ref(), "--run".as_ref(), out.as_os_str()]);
    assert!(stdout(&explained).contains("prompts: through the chat template"), "{}", stderr(&explained));
    fs::write(folder.path("chat.jinja"), "{{ messages[0].content }}").unwrap();
    fs::write(out.join("records.jsonl"), "").unwrap();
    let changed = program().arg(&file).arg("--out").arg(&out).output().unwrap();
    assert!(!changed.status.success());
    assert!(stderr(&changed).contains("its chat template or truncation differs"), "{}", stderr(&changed));
}

#[test]
fn a_template_that_refuses_is_a_failed_row_of_its_model_and_the_others_are_measured() {
    let folder = Folder::new();
    let out = folder.path("run");
    let file = study(&folder, ", chat_template: ./chat.jinja", "");
    fs::write(folder.path("chat.jinja"), "{{ raise_exception('not today') }}").unwrap();
    assert!(!program().arg(&file).arg("--out").arg(&out).output().unwrap().status.success());
    let trials = common::trials(&out);
    let of = |label: &str| trials.iter().find(|line| line["cell"]["model"] == json!(label)).unwrap();
    assert_eq!(
        (&of("kd")["outcome"]["outcome"], &of("kd")["outcome"]["failure"]),
        (&json!("failed"), &json!("prompt"))
    );
    assert!(of("kd")["outcome"]["message"].as_str().unwrap().contains("not today"), "{}", of("kd"));
    assert_eq!(of("base")["outcome"]["outcome"], json!("measured"));
}

#[test]
fn plan_says_what_is_cut_and_which_prompt_is_too_long() {
    let folder = Folder::new();
    let file = study(&folder, "", ", chat_template: ./chat.jinja, max_tokens: 400, system: Be brief.");
    let planned = run([std::ffi::OsStr::new("plan"), file.as_os_str()]);
    assert!(planned.status.success(), "{}", stderr(&planned));
    assert!(stdout(&planned).contains("prompts of `kd`: through the chat template"), "{}", stdout(&planned));
    let file = study(&folder, "", ", max_tokens: 2");
    let refused = run([std::ffi::OsStr::new("plan"), file.as_os_str()]);
    assert!(!refused.status.success());
    assert!(stderr(&refused).contains("prompt 1 (`Add 2 and 3.`): "), "{}", stderr(&refused));
}

#[test]
fn contradictions_in_the_sweep_file_are_found_before_anything_runs() {
    let folder = Folder::new();
    let cases = [
        (", system: Be brief.", "a system prompt needs a chat template, and `kd` uses none"),
        (", truncate: left", "`truncate` without `max_tokens`"),
        (", max_tokens: 0", "`max_tokens: 0`"),
        (", template_variables: {enable_thinking: false}", "no model uses one"),
        (", chat_template: auto, template_variables: {messages: []}", "`messages` is always given to a template"),
        (", chat_template: automatic", "`auto`, `none` or a file"),
        (", date: tomorrow", "a date as 2024-07-26"),
        (", chat_template: ./missing.jinja", "can't read the chat template"),
        (", chat_template: auto, system: Be brief.", "the model has none"),
    ];
    for (keys, expected) in cases {
        let file = study(&folder, "", keys);
        let output = run([std::ffi::OsStr::new("plan"), file.as_os_str()]);
        assert!(!output.status.success(), "{keys}");
        assert!(stderr(&output).contains(expected), "{keys}: {}", stderr(&output));
    }
}

/// Pieces that templates are made of, put together without sense.
fn scraps() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "{% for m in messages %}",
        "{% endfor %}",
        "{% if ",
        "{% endif %}",
        "{{ ",
        " }}",
        " %}",
        "{% set x = ",
        "messages",
        "[::-1]",
        "[1:]",
        "[",
        "]",
        "(",
        ")",
        ".role",
        ".content",
        "|trim",
        "|tojson",
        "|length",
        " ~ ",
        " + ",
        " * 99999999",
        "'a'",
        "1",
        "none",
        "range(99999)",
        "namespace(a=1)",
        "{% macro m(a) %}",
        "{% endmacro %}",
        "m(1)",
        "{% break %}",
        "{%- generation -%}",
        "{% endgeneration %}",
        "raise_exception('no')",
        "strftime_now('%d')",
        "{% include 'x' %}",
        "{#",
        "#}",
        "-%}",
        "{%-",
        "loop.index0",
        ".split('')",
        ".replace('', 'aaaa')",
        "|indent(99999)",
        "é😀",
        "\n",
        "{% raw %}",
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_senseless_template_gives_the_same_text_twice_or_an_error_that_names_it(text in scraps()) {
        let hi = [Message { role: "user", content: "Hi" }];
        let render = || {
            let source = TemplateSource { name: "senseless.jinja".to_owned(), text: text.clone() };
            ChatTemplate::new(source, &Map::new(), &Map::new(), Date::default()).and_then(|t| t.render(&hi))
        };
        let rendered = render();
        prop_assert_eq!(&rendered, &render());
        if let Err(error) = rendered {
            prop_assert!(error.message().contains("senseless.jinja"), "{error}");
        }
    }

    #[test]
    fn a_damaged_tokenizer_is_refused_by_name_or_encodes_into_ids_that_it_decodes(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<bool>(),
    ) {
        let mut bytes = fs::read(chat_folder().join("tokenizer.json")).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if cut {
            bytes.truncate(at);
        }
        let folder = Folder::new();
        fs::write(folder.path("tokenizer.json"), bytes).unwrap();
        match ModelText::load(&folder.0) {
            Ok(text) => if let Ok(ids) = text.tokenizer.encode("It's 12 😀 <|user|>") {
                prop_assert!(text.tokenizer.decode(&ids).is_ok());
            },
            Err(error) => prop_assert!(error.message().contains("tokenizer.json"), "{error}"),
        }
    }

    #[test]
    fn senseless_settings_are_refused_by_name_or_the_tokenizer_encodes(key in 0..8usize, value in 0..8usize) {
        let keys = ["chat_template", "bos_token", "add_bos_token", "added_tokens_decoder", "additional_special_tokens",
            "extra_special_tokens", "eos_token", "add_eos_token"];
        let values = [json!(null), json!(1), json!("x"), json!([1, null]), json!({"content": 3}), json!(true),
            json!({"99999999999": {}}), json!([{"name": 1, "template": []}])];
        let folder = model_folder(&json!({keys[key]: values[value].clone()}));
        match ModelText::load(&folder.0) {
            Ok(text) => prop_assert!(!text.tokenizer.encode("Hi").unwrap().is_empty()),
            Err(error) => prop_assert!(error.message().contains("tokenizer_config.json"), "{error}"),
        }
    }

    #[test]
    fn senseless_gguf_metadata_are_refused_by_name_or_make_a_tokenizer_of_their_tokens(
        tokens in prop::collection::vec("[a-cĠ ]{0,3}", 0..30),
        merges in prop::collection::vec("[a-cĠ ]{0,5}", 0..10),
        token_types in prop::collection::vec(-1..7i32, 0..30),
        ends in any::<(Option<u32>, Option<u32>, Option<bool>, Option<bool>)>(),
        pre in prop::sample::select(vec!["llama-bpe", "qwen2", "default", "gpt-2", "deepseek-v3", "other"]),
    ) {
        let (bos, eos, add_bos, add_eos) = ends;
        let count = tokens.len();
        let metadata = GgufTokenizer {
            model: "gpt2".to_owned(), pre: Some(pre.to_owned()),
            tokens, token_types, merges, bos, eos, add_bos, add_eos,
            ..GgufTokenizer::default()
        };
        match metadata.text("m.gguf") {
            Ok(text) => if let Ok(ids) = text.tokenizer.encode("abc cab  a") {
                prop_assert!(ids.iter().all(|id| (*id as usize) < count), "{ids:?} of {count}");
                prop_assert!(text.tokenizer.decode(&ids).is_ok());
            },
            Err(error) => prop_assert!(error.message().contains("m.gguf"), "{error}"),
        }
    }
}
