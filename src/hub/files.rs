//! Which files of a repository a model needs. Pickled weights (`.bin`, `.pth`, `.pt`) are never among them: reading
//! them runs code.

use super::source::{Gguf, is_gguf, is_plain_path};
use crate::error::{Error, Result};

pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";
const ADAPTER: &str = "adapter_model.safetensors";

/// Files of a model beside its weights; what isn't there isn't needed. The vocabularies serve transformers, which makes
/// `tokenizer.json` of them where a repository has none.
const BESIDE: [&str; 14] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "adapter_config.json",
];

/// Files that help to run a GGUF file, where the repository has them.
const BESIDE_GGUF: [&str; 5] =
    ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];

/// What to get for a model.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Needed {
    /// Files by their path in the repository, small ones first.
    pub(crate) files: Vec<String>,
    /// Whether the weights are the files that [`INDEX`] names: it has to be read first.
    pub(crate) sharded: bool,
}

/// What a model in safetensors, or an adapter of PEFT, needs of a repository with these files.
///
/// As in transformers, `model.safetensors` counts before an index. Weights in other forms beside them (`original/`,
/// `consolidated.safetensors`, `onnx/`) are left.
///
/// # Errors
/// No such weights: says what is there in place of them, and how to convert it.
pub(super) fn of_model(id: &str, listed: &[String]) -> Result<Needed> {
    let has = |name: &str| listed.iter().any(|file| file == name);
    let sharded = !has(SINGLE) && has(INDEX);
    let weights: Vec<&str> = match has(SINGLE) {
        true => vec![SINGLE],
        false => [INDEX, ADAPTER].into_iter().filter(|name| has(name)).collect(),
    };
    if weights.is_empty() {
        return Err(no_weights(id, listed));
    }
    let adapter = (has(SINGLE) && has(ADAPTER)).then_some(ADAPTER);
    let names = BESIDE.into_iter().filter(|name| has(name)).chain(weights).chain(adapter);
    Ok(Needed { files: names.map(str::to_owned).collect(), sharded })
}

fn no_weights(id: &str, listed: &[String]) -> Error {
    let pickled = |name: &&String| {
        let weights = name.contains("model") || name.contains("consolidated");
        weights && [".bin", ".pth", ".pt", ".ckpt"].iter().any(|ending| name.ends_with(ending))
    };
    if let Some(name) = listed.iter().find(pickled) {
        return Error::input(format!("`{id}` has only pickled weights (`{name}`), and no safetensors")).with_hint(
            format!(
                "convert them in Python, and name that folder as source: \
             `AutoModelForCausalLM.from_pretrained(\"{id}\").save_pretrained(\"folder\")`, and the same for \
             `AutoTokenizer`; or look for a `refs/pr/N` with safetensors and name it as `revision`"
            ),
        );
    }
    if listed.iter().any(|name| is_gguf(name)) {
        return Error::input(format!("`{id}` has no safetensors, but GGUF files")).with_hint(format!(
            "name one of them as source, such as `{id}:{}`",
            names(listed.iter().filter(|n| is_gguf(n)))
        ));
    }
    let hint = format!("a model needs `{SINGLE}`, or shards with `{INDEX}`; an adapter needs `{ADAPTER}`");
    Error::input(format!("`{id}` has no weights in safetensors")).with_hint(hint)
}

/// The shards that an index names.
///
/// # Errors
/// The index isn't one, or names files outside its folder.
pub(super) fn shards(index: &str) -> Result<Vec<String>> {
    let wrong = |what: String| Error::input(format!("`{INDEX}`: {what}")).with_hint("the repository is damaged");
    let json: serde_json::Value = serde_json::from_str(index).map_err(|cause| wrong(cause.to_string()))?;
    let map = json.get("weight_map").and_then(serde_json::Value::as_object);
    let map = map.ok_or_else(|| wrong("`weight_map` is missing".to_owned()))?;
    let named = map.values().map(|file| file.as_str().ok_or_else(|| wrong(format!("`{file}` is no file name"))));
    let mut files = named.map(|name| name.map(str::to_owned)).collect::<Result<Vec<_>>>()?;
    files.sort();
    files.dedup();
    match files.iter().find(|file| !is_plain_path(file) || !file.ends_with(".safetensors")) {
        Some(file) => Err(wrong(format!("`{file}` is no safetensors file of the repository"))),
        None if files.is_empty() => Err(wrong("`weight_map` is empty".to_owned())),
        None => Ok(files),
    }
}

/// What a GGUF file needs of a repository: itself, and the files that help to run it. The GGUF file is the last.
///
/// # Errors
/// No such file, several that fit, or one that is a part of several.
pub(super) fn of_gguf(id: &str, which: &Gguf, listed: &[String]) -> Result<Needed> {
    let all = || listed.iter().filter(|name| is_gguf(name));
    let found: Vec<&String> = match which {
        Gguf::File(path) => all().filter(|name| *name == path).collect(),
        Gguf::Quantisation(tag) => all().filter(|name| has_quantisation(name, tag)).collect(),
    };
    let wanted = match which {
        Gguf::File(path) => format!("no file `{path}`"),
        Gguf::Quantisation(tag) => format!("no GGUF file with the quantisation `{tag}`"),
    };
    let file = match found[..] {
        [file] => file,
        [] if all().next().is_none() => {
            return Err(Error::input(format!("`{id}` has {wanted}, and no GGUF file at all"))
                .with_hint("name the repository that holds the GGUF files, often the one with `-GGUF` in its name"));
        }
        [] => {
            return Err(Error::input(format!("`{id}` has {wanted}")).with_hint(format!("it has `{}`", names(all()))));
        }
        _ if found.iter().all(|name| is_part(name)) => return Err(split(id, found[0])),
        _ => {
            return Err(Error::input(format!("`{id}` has more than one such GGUF file"))
                .with_hint(format!("name one of them: `{}`", names(found.into_iter()))));
        }
    };
    if is_part(file) {
        return Err(split(id, file));
    }
    let beside = BESIDE_GGUF.into_iter().filter(|name| listed.iter().any(|file| file == name)).map(str::to_owned);
    Ok(Needed { files: beside.chain([file.clone()]).collect(), sharded: false })
}

fn split(id: &str, file: &str) -> Error {
    Error::input(format!("`{id}`: `{file}` is a part of a model in several GGUF files"))
        .with_hint("merge the parts with llama.cpp's `llama-gguf-split --merge`, and name the result as source")
}

/// Whether a file's name ends with a quantisation, in any case: `Model-Q4_K_M.gguf`, `model.q4_k_m.gguf`. Projectors of
/// vision models (`mmproj`) are no language models.
fn has_quantisation(path: &str, tag: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    let stem = name.strip_suffix(".gguf").unwrap_or(&name);
    let stem = part_of(stem).unwrap_or(stem);
    let before = stem.strip_suffix(&tag.to_ascii_lowercase());
    !stem.starts_with("mmproj") && before.is_some_and(|before| before.is_empty() || before.ends_with(['-', '.', '_']))
}

/// Whether a file is one of several: `model-00001-of-00003.gguf`.
fn is_part(path: &str) -> bool {
    path.len().checked_sub(5).and_then(|at| path.get(..at)).is_some_and(|stem| part_of(stem).is_some())
}

/// The stem before `-00001-of-00003`.
fn part_of(stem: &str) -> Option<&str> {
    let number = |text: &str| text.len() == 5 && text.chars().all(|c| c.is_ascii_digit());
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (rest, index) = rest.rsplit_once('-')?;
    (number(count) && number(index)).then_some(rest)
}

/// A few names, for a hint.
fn names<'a>(files: impl Iterator<Item = &'a String>) -> String {
    const SHOWN: usize = 12;
    let mut files: Vec<&str> = files.map(String::as_str).collect();
    let more =
        if files.len() > SHOWN { format!("` and {} more, such as `", files.len() - SHOWN) } else { String::new() };
    let last = files.last().copied().unwrap_or_default();
    files.truncate(SHOWN);
    match more.is_empty() {
        true => files.join("`, `"),
        false => format!("{}{more}{last}", files.join("`, `")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn model(names: &[&str]) -> Result<Needed> {
        of_model("owner/name", &listed(names))
    }

    fn gguf(which: Gguf, names: &[&str]) -> Result<Vec<String>> {
        of_gguf("owner/name", &which, &listed(names)).map(|needed| needed.files)
    }

    fn tag(name: &str) -> Gguf {
        Gguf::Quantisation(name.to_owned())
    }

    #[test]
    fn a_single_file_counts_before_an_index_and_other_forms_are_left() {
        let names = [
            "README.md",
            "config.json",
            "consolidated.safetensors",
            "model.safetensors",
            "model.safetensors.index.json",
            "original/consolidated.00.pth",
            "original/params.json",
            "pytorch_model.bin",
            "tokenizer.json",
            "training_args.bin",
        ];
        let expected = listed(&["config.json", "tokenizer.json", "model.safetensors"]);
        assert_eq!(model(&names).unwrap(), Needed { files: expected, sharded: false });
    }

    #[test]
    fn shards_are_those_that_the_index_names() {
        let needed = model(&["consolidated.safetensors", "model.safetensors.index.json", "config.json"]).unwrap();
        assert_eq!(needed, Needed { files: listed(&["config.json", INDEX]), sharded: true });
        let index = r#"{"weight_map": {"a": "m-2.safetensors", "b": "m-1.safetensors", "c": "m-1.safetensors"}}"#;
        assert_eq!(shards(index).unwrap(), listed(&["m-1.safetensors", "m-2.safetensors"]));
    }

    #[test]
    fn an_index_that_leads_out_of_the_repository_is_refused() {
        for file in ["../../x.safetensors", "/etc/x.safetensors", "x.bin", ""] {
            let index = format!(r#"{{"weight_map": {{"a": "{file}"}}}}"#);
            assert!(shards(&index).is_err(), "{file}");
        }
        for index in ["{}", "[]", "not json", r#"{"weight_map": {}}"#, r#"{"weight_map": {"a": 1}}"#] {
            assert!(shards(index).is_err(), "{index}");
        }
    }

    #[test]
    fn an_adapter_needs_its_configuration_and_its_weights() {
        let needed = model(&["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"]).unwrap();
        assert_eq!(needed.files, listed(&["tokenizer.json", "adapter_config.json", "adapter_model.safetensors"]));
    }

    #[test]
    fn pickled_weights_are_refused_with_how_to_convert_them() {
        for name in ["pytorch_model.bin", "consolidated.00.pth", "pytorch_model-00001-of-00002.bin"] {
            let error = model(&["config.json", name]).unwrap_err();
            assert!(error.message().contains(name), "{error}");
            assert!(error.hint().unwrap().contains("save_pretrained"), "{error}");
        }
    }

    #[test]
    fn a_repository_of_gguf_files_says_which_it_has() {
        let error = model(&["a-Q4_K_M.gguf", "a-Q8_0.gguf"]).unwrap_err();
        assert!(error.hint().unwrap().contains("`owner/name:a-Q4_K_M.gguf`, `a-Q8_0.gguf`"), "{error}");
    }

    #[test]
    fn a_quantisation_finds_the_file_that_ends_with_it() {
        let names = ["config.json", "M-Q4_K_M.gguf", "M-Q4_K_S.gguf", "M-IQ4_K_M.gguf", "mmproj-Q4_K_M.gguf"];
        assert_eq!(gguf(tag("q4_k_m"), &names).unwrap(), listed(&["config.json", "M-Q4_K_M.gguf"]));
        assert_eq!(gguf(tag("Q4_K_S"), &["m.q4_k_s.gguf"]).unwrap(), listed(&["m.q4_k_s.gguf"]));
    }

    #[test]
    fn a_gguf_file_that_isnt_there_is_answered_with_those_that_are() {
        let error = gguf(Gguf::File("b.gguf".to_owned()), &["a.gguf", "sub/c.gguf"]).unwrap_err();
        assert!(error.to_string().contains("`a.gguf`, `sub/c.gguf`"), "{error}");
        let error = gguf(tag("Q8_0"), &["x-Q8_0.gguf", "y-Q8_0.gguf"]).unwrap_err();
        assert!(error.to_string().contains("name one of them: `x-Q8_0.gguf`, `y-Q8_0.gguf`"), "{error}");
        assert!(gguf(tag("Q8_0"), &["model.safetensors"]).unwrap_err().to_string().contains("no GGUF file at all"));
    }

    #[test]
    fn a_model_in_several_gguf_files_has_to_be_merged() {
        let names = ["BF16/m-BF16-00001-of-00002.gguf", "BF16/m-BF16-00002-of-00002.gguf"];
        for which in [tag("BF16"), Gguf::File(names[0].to_owned())] {
            let error = gguf(which, &names).unwrap_err();
            assert!(error.hint().unwrap().contains("llama-gguf-split --merge"), "{error}");
        }
    }
}
