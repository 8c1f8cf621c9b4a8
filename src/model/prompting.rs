//! What the sweep file says about prompts, applied to one model.

use std::path::Path;

use super::codec::{Codec, TextCodec};
use crate::error::Result;
use crate::record::{ChatTemplateInfo, PromptForm, PromptLimit, Truncate};
use crate::sweep::spec::{ModelSpec, PromptSpec, TemplateChoice};
use crate::text::{Limit, ModelText, Prompter, Rules, Side, TemplateSource};

/// The codec of a model that has a tokenizer. Without `prompts`, prompts go in as plain text; paths start at `base`.
///
/// # Errors
/// The chat template can't be read or isn't valid, or there is none for a system prompt.
pub(super) fn text_codec(
    prompts: Option<&PromptSpec>,
    base: &Path,
    model: &ModelSpec,
    text: ModelText,
) -> Result<Codec> {
    let rules = match prompts {
        Some(prompts) => rules(prompts, base, model, &text)?,
        None => Rules::default(),
    };
    let has_own = matches!(&text.template, Ok(Some(_)) | Err(_));
    let form = form(&rules, has_own);
    let prompter = Prompter::new(text, rules)?;
    Ok(Codec::Text(Box::new(TextCodec { prompter, form })))
}

fn rules(prompts: &PromptSpec, base: &Path, model: &ModelSpec, text: &ModelText) -> Result<Rules> {
    let template = match prompts.template_of(model) {
        TemplateChoice::None => None,
        TemplateChoice::Auto => text.template.clone()?,
        TemplateChoice::File(path) => Some(TemplateSource::read(&base.join(path), &path.display().to_string())?),
    };
    let mut variables = prompts.template_variables.clone();
    variables.extend(model.template_variables.clone());
    let cut = match prompts.truncate {
        Truncate::None => None,
        Truncate::Left => Some(Side::Left),
        Truncate::Right => Some(Side::Right),
    };
    let limit = prompts.max_tokens.map(|max_tokens| Limit { max_tokens, cut });
    Ok(Rules { template, system: prompts.system.clone(), variables, date: prompts.date, limit })
}

/// The rules as the record has them.
fn form(rules: &Rules, has_own_template: bool) -> PromptForm {
    let info = |source: &TemplateSource| ChatTemplateInfo {
        source: source.name.clone(),
        sha256: source.sha256(),
        system: rules.system.clone(),
        variables: rules.variables.clone(),
        date: rules.date.to_string(),
    };
    let limit = |limit: Limit| PromptLimit {
        max_tokens: limit.max_tokens,
        truncate: match limit.cut {
            None => Truncate::None,
            Some(Side::Left) => Truncate::Left,
            Some(Side::Right) => Truncate::Right,
        },
    };
    PromptForm {
        chat_template: rules.template.as_ref().map(info),
        unused_template: has_own_template && rules.template.is_none(),
        limit: rules.limit.map(limit),
        ..PromptForm::default()
    }
}
