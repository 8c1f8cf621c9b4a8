//! The prompts, their form, and how text is generated and scored.

use super::file::{File, LARGEST};
use crate::error::Result;
use crate::record::{Decoding, Truncate};
use crate::sweep::model::{ModelSource, ModelSpec};
use crate::sweep::prompts::{RandomPrompts, TemplateChoice, Variables};
use crate::sweep::yaml::Step::{self, Item, Key};

pub(super) fn prompts(file: &File<'_>) -> Result<()> {
    let prompts = &file.spec.prompts;
    let given =
        [("file", prompts.file.is_some()), ("text", prompts.text.is_some()), ("random", prompts.random.is_some())];
    let given: Vec<&str> = given.into_iter().filter(|(_, given)| *given).map(|(key, _)| key).collect();
    match (given.as_slice(), &prompts.text) {
        ([first, second, ..], _) => {
            let message = format!("both `{first}` and `{second}`");
            return Err(file.fail(&[Key("prompts"), Key(second)], message, "keep one of them"));
        }
        ([], _) => {
            let hint = "add `file: prompts.jsonl` (or `.txt`), `text: [\"…\"]` or `random: {tokens: 128}`";
            return Err(file.fail(&[Key("prompts")], "no prompts", hint));
        }
        (_, Some(text)) if text.iter().all(|prompt| prompt.trim().is_empty()) => {
            return Err(file.fail(&[Key("prompts"), Key("text")], "no prompts", "give at least one prompt"));
        }
        _ => {}
    }
    if let Some(random) = prompts.random {
        random_prompts(file, random)?;
    }
    if prompts.count == Some(0) {
        return Err(file.fail(&[Key("prompts"), Key("count")], "0 prompts", "draw at least one, or leave it out"));
    }
    prompt_length(file)?;
    chat_templates(file)
}

fn random_prompts(file: &File<'_>, random: RandomPrompts) -> Result<()> {
    let path = [Key("prompts"), Key("random")];
    let prompts = &file.spec.prompts;
    if random.tokens == 0 || random.tokens > LARGEST {
        let hint = format!("1 to {LARGEST}");
        return Err(file.fail(&path, format!("random prompts of {} tokens", random.tokens), hint));
    }
    match prompts.count {
        None => {
            return Err(file.fail(&path, "random prompts without `count`", "add how many there are: `count: 64`"));
        }
        Some(count) if count > LARGEST => {
            return Err(file.fail(&path, format!("{count} prompts"), format!("1 to {LARGEST}")));
        }
        Some(_) => {}
    }
    if file.spec.accuracy.is_some() {
        let hint = "remove `accuracy`, or give the prompts as text";
        return Err(file.fail(&path, "random prompts together with `accuracy`", hint));
    }
    let templated = prompts.chat_template != TemplateChoice::None
        || file.spec.models.iter().any(|model| model.chat_template.is_some());
    if templated || prompts.system.is_some() || prompts.max_tokens.is_some() {
        let hint = "remove `chat_template`, `system` and `max_tokens`: random ids go to the model as they are";
        return Err(file.fail(&path, "random prompts can't have a form", hint));
    }
    Ok(())
}

fn prompt_length(file: &File<'_>) -> Result<()> {
    let prompts = &file.spec.prompts;
    match prompts.max_tokens {
        None if prompts.truncate != Truncate::None => {
            let hint = "add `max_tokens`, the longest prompt: the same for every model, whatever it has room for";
            Err(file.fail(&[Key("prompts"), Key("truncate")], "`truncate` without `max_tokens`", hint))
        }
        Some(tokens) if tokens == 0 || tokens > LARGEST => {
            let hint = format!("1 to {LARGEST}");
            Err(file.fail(&[Key("prompts"), Key("max_tokens")], format!("`max_tokens: {tokens}`"), hint))
        }
        _ => Ok(()),
    }
}

/// Settings for a template that isn't used would be ignored silently: they are refused.
fn chat_templates(file: &File<'_>) -> Result<()> {
    let prompts = &file.spec.prompts;
    variables(file, &prompts.template_variables, &[Key("prompts"), Key("template_variables")])?;
    for (index, model) in file.spec.models.iter().enumerate() {
        let own = &[Key("models"), Item(index), Key("template_variables")];
        variables(file, &model.template_variables, own)?;
        if *prompts.template_of(model) == TemplateChoice::None && !model.template_variables.is_empty() {
            let hint = "add `chat_template: auto` (or a file) to the model or to `prompts`";
            let message = format!("`{}` has variables for a chat template, and uses none", model.label);
            return Err(file.fail(own, message, hint));
        }
        simulated_reads_words(file, index, model)?;
    }
    let plain = |model: &&ModelSpec| *prompts.template_of(model) == TemplateChoice::None;
    let (first_plain, all_plain) = (file.spec.models.iter().find(plain), file.spec.models.iter().all(|m| plain(&m)));
    if let (Some(_), Some(model)) = (&prompts.system, first_plain) {
        let message = format!("a system prompt needs a chat template, and `{}` uses none", model.label);
        let hint = "add `chat_template: auto` (or a file), or put the text into the prompts themselves";
        return Err(file.fail(&[Key("prompts"), Key("system")], message, hint));
    }
    if all_plain && !prompts.template_variables.is_empty() {
        let hint = "add `chat_template: auto` (or a file), or remove the variables";
        let path = &[Key("prompts"), Key("template_variables")];
        return Err(file.fail(path, "variables for a chat template, and no model uses one", hint));
    }
    Ok(())
}

fn variables(file: &File<'_>, variables: &Variables, path: &[Step<'_>]) -> Result<()> {
    const TAKEN: [&str; 4] = ["messages", "tools", "documents", "add_generation_prompt"];
    match TAKEN.into_iter().find(|name| variables.contains_key(*name)) {
        Some(name) => Err(file.fail(path, format!("`{name}` is always given to a template"), "remove it")),
        None => Ok(()),
    }
}

fn simulated_reads_words(file: &File<'_>, index: usize, model: &ModelSpec) -> Result<()> {
    let prompts = &file.spec.prompts;
    let templated = matches!(prompts.template_of(model), TemplateChoice::File(_)) || prompts.system.is_some();
    if !matches!(model.source, ModelSource::Synthetic(_)) || !(templated || prompts.max_tokens.is_some()) {
        return Ok(());
    }
    let message = format!("`{}` is simulated: it reads any number of words, and no chat template", model.label);
    let hint = "remove `chat_template`, `system` and `max_tokens`";
    Err(file.fail(&[Key("models"), Item(index), Key("source")], message, hint))
}

pub(super) fn generation(file: &File<'_>) -> Result<()> {
    let decoding = &file.spec.generation.decoding;
    if let Err(bad) = decoding.check() {
        let path = [Key("generation"), Key("decoding"), Key(bad.method), Key(bad.key)];
        return Err(file.fail(&path, bad.message, bad.hint));
    }
    let simulated = file.spec.models.iter().any(|model| matches!(model.source, ModelSource::Synthetic(_)));
    if simulated && *decoding != Decoding::Greedy {
        let hint = "remove `decoding`: a simulated model has no probabilities to choose by";
        return Err(file.fail(&[Key("generation"), Key("decoding")], "sampling or beams of a simulated model", hint));
    }
    Ok(())
}

pub(super) fn accuracy(file: &File<'_>) -> Result<()> {
    let Some(accuracy) = &file.spec.accuracy else { return Ok(()) };
    let at = |key| [Key("accuracy"), Key(key)];
    if accuracy.count == Some(0) {
        return Err(file.fail(&at("count"), "0 prompts", "draw at least one, or leave out `accuracy`"));
    }
    if accuracy.batch_size == 0 {
        return Err(file.fail(&at("batch_size"), "a batch of 0", "1 or more"));
    }
    if file.spec.models.iter().any(|model| matches!(model.source, ModelSource::Synthetic(_))) {
        let hint = "remove `accuracy`: a simulated model writes nothing that could be right";
        return Err(file.fail(&[Key("accuracy")], "accuracy of a simulated model", hint));
    }
    Ok(())
}
