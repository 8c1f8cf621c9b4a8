//! What a sweep file must satisfy beyond its types: every finding points into the file.

use std::collections::HashSet;
use std::fmt::Display;

use crate::error::{Error, Result};
use crate::record::{Decoding, MeterChoice, Order, OutputLength, Role, Truncate};
use crate::sweep::spec::{
    Auto, Axis, ModelSource, ModelSpec, RandomPrompts, SweepSpec, TemplateChoice, Variables, WeightsChoice,
};
use crate::sweep::yaml::Step::{Item, Key};
use crate::sweep::yaml::{Source, Step, closest};

/// Checks everything that the file alone can tell.
///
/// # Errors
/// The first contradiction, with its place in the file and what to do.
pub fn check(spec: &SweepSpec, source: &Source<'_>) -> Result<()> {
    let check = Check { spec, source };
    check.name()?;
    check.models()?;
    check.axes()?;
    check.prompts()?;
    check.generation()?;
    check.measure()?;
    check.accuracy()?;
    check.report()
}

/// No sequence or batch is longer than this: larger values are slips of the pen.
const LARGEST_AXIS_VALUE: usize = 1 << 20;

/// The plan lists every repeat; more than this are a slip of the pen.
const MOST_REPEATS: u32 = 1000;

struct Check<'a> {
    spec: &'a SweepSpec,
    source: &'a Source<'a>,
}

impl Check<'_> {
    fn fail(&self, path: &[Step<'_>], message: impl Display, hint: impl Into<String>) -> Error {
        self.source.error_at(path, message).hint(hint)
    }

    fn name(&self) -> Result<()> {
        let name = &self.spec.name;
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if name.is_empty() || name.starts_with('.') || !plain {
            let hint = "the name is also the folder's: letters, digits, `-`, `_` and `.`, not starting with `.`";
            return Err(self.fail(&[Key("name")], format!("bad sweep name `{name}`"), hint));
        }
        Ok(())
    }

    fn models(&self) -> Result<()> {
        if self.spec.models.is_empty() {
            return Err(self.fail(&[Key("models")], "no models", "list at least one model with `label` and `source`"));
        }
        for (index, model) in self.spec.models.iter().enumerate() {
            if let (ModelSource::Synthetic(_), Some(key)) = (&model.source, weights_key(model)) {
                let message = format!("`{key}` of the simulated model `{}`", model.label);
                let hint = "remove it: a simulated model has no weights";
                return Err(self.fail(&[Key("models"), Item(index), Key(key)], message, hint));
            }
        }
        let mut seen = HashSet::new();
        for (index, model) in self.spec.models.iter().enumerate() {
            let label = &[Key("models"), Item(index), Key("label")];
            if model.label.trim().is_empty() {
                return Err(self.fail(label, "empty label", "give the model a short name"));
            }
            if model.label.chars().any(char::is_control) {
                return Err(self.fail(label, "a label with control characters", "use printable characters"));
            }
            if !seen.insert(&model.label) {
                let message = format!("two models have the label `{}`", model.label);
                return Err(self.fail(label, message, "labels name cells and must differ"));
            }
            self.model_source(index, model)?;
            self.weights(index, model)?;
            self.devices(index, model)?;
            self.teacher(index, model)?;
            if let Some(axes) = &model.sweep {
                let at = |key| [Key("models"), Item(index), Key("sweep"), Key(key)];
                axes.batch_size.as_ref().map_or(Ok(()), |axis| self.axis(axis, &at("batch_size")))?;
                axes.max_new_tokens.as_ref().map_or(Ok(()), |axis| self.axis(axis, &at("max_new_tokens")))?;
            }
        }
        Ok(())
    }

    fn model_source(&self, index: usize, model: &ModelSpec) -> Result<()> {
        let path = &[Key("models"), Item(index), Key("source")];
        match &model.source {
            ModelSource::Name(name) if name.trim().is_empty() => {
                Err(self.fail(path, "empty source", "name a folder (`./my-model`) or a hub id (`owner/name`)"))
            }
            ModelSource::Synthetic(synthetic) => synthetic.check().map_err(|error| {
                self.fail(path, error.message(), error.hint_text().unwrap_or("see docs/sweep-file.md"))
            }),
            ModelSource::Name(name) if model.revision.is_some() && crate::hub::Source::parse(name).is_none() => {
                let path = &[Key("models"), Item(index), Key("revision")];
                Err(self.fail(path, "a revision of a local folder", "only a model of the hub has revisions: remove it"))
            }
            ModelSource::Name(_) => Ok(()),
        }
    }

    /// What can't go with made-up weights.
    fn weights(&self, index: usize, model: &ModelSpec) -> Result<()> {
        let at = |key| [Key("models"), Item(index), Key(key)];
        if model.weights == WeightsChoice::Dummy {
            if model.adapter.is_some() {
                let hint = "remove one of them: an adapter changes what the weights say, which is nothing here";
                return Err(self.fail(&at("adapter"), "an adapter for dummy weights", hint));
            }
            if self.spec.accuracy.is_some() {
                let message = format!("accuracy of dummy weights (`{}`)", model.label);
                let hint = "remove `accuracy`, or measure this model in a sweep of its own";
                return Err(self.fail(&at("weights"), message, hint));
            }
        }
        Ok(())
    }

    /// One meter charges the same GPUs for every model.
    fn devices(&self, index: usize, model: &ModelSpec) -> Result<()> {
        let path = [Key("models"), Item(index), Key("devices")];
        let Some(devices) = &model.devices else {
            return match self.spec.models.iter().find(|other| other.devices.is_some()) {
                None => Ok(()),
                Some(other) => {
                    let path = [Key("models"), Item(index), Key("label")];
                    let message = format!("`{}` names `devices`, and `{}` doesn't", other.label, model.label);
                    Err(self.fail(
                        &path,
                        message,
                        "give all models of a sweep the same `devices`: one meter charges them",
                    ))
                }
            };
        };
        let distinct: HashSet<_> = devices.iter().collect();
        if devices.is_empty() || distinct.len() < devices.len() {
            return Err(self.fail(&path, "an empty list or a device twice", "such as `[0, 1]`"));
        }
        match self.spec.models.iter().all(|other| other.devices.as_ref().is_none_or(|others| others == devices)) {
            true => Ok(()),
            false => {
                let hint = "give all models of a sweep the same `devices`: one meter charges them";
                Err(self.fail(&path, "models on different devices", hint))
            }
        }
    }

    fn teacher(&self, index: usize, model: &ModelSpec) -> Result<()> {
        let role = [Key("models"), Item(index), Key("role")];
        let path = [Key("models"), Item(index), Key("teacher")];
        let needs_teacher = matches!(model.role, Role::Student | Role::Control);
        let Some(teacher) = &model.teacher else {
            if needs_teacher {
                let message = format!("`{}` is a student or control, but names no teacher", model.label);
                return Err(self.fail(&role, message, "add `teacher: <label of the teacher>`"));
            }
            return Ok(());
        };
        if !needs_teacher {
            let hint = "add `role: student` (or `control`), or remove `teacher`";
            return Err(self.fail(&path, format!("`{}` names a teacher, but is no student", model.label), hint));
        }
        match self.spec.model(teacher) {
            Some(found) if found.role == Role::Teacher => Ok(()),
            Some(_) => {
                let hint = format!("add `role: teacher` to the model `{teacher}`");
                Err(self.fail(&path, format!("`{teacher}` isn't a teacher"), hint))
            }
            None => {
                let labels: Vec<&str> = self.spec.models.iter().map(|model| model.label.as_str()).collect();
                let hint = match closest(teacher, &labels) {
                    Some(label) => format!("did you mean `{label}`?"),
                    None => format!("models here: {}", labels.join(", ")),
                };
                Err(self.fail(&path, format!("no model has the label `{teacher}`"), hint))
            }
        }
    }

    fn axes(&self) -> Result<()> {
        self.axis(&self.spec.sweep.batch_size, &[Key("sweep"), Key("batch_size")])?;
        self.axis(&self.spec.sweep.max_new_tokens, &[Key("sweep"), Key("max_new_tokens")])
    }

    fn axis(&self, axis: &Axis, path: &[Step<'_>]) -> Result<()> {
        if axis.0.is_empty() {
            return Err(self.fail(path, "empty axis", "give at least one value, such as `[1, 8]`"));
        }
        if let Some(large) = axis.0.iter().find(|value| **value > LARGEST_AXIS_VALUE) {
            let hint = format!("values go up to {LARGEST_AXIS_VALUE}");
            return Err(self.fail(path, format!("`{large}` on an axis"), hint));
        }
        if axis.0.contains(&0) {
            return Err(self.fail(path, "0 on an axis", "values start at 1"));
        }
        let distinct: HashSet<_> = axis.0.iter().collect();
        if distinct.len() < axis.0.len() {
            return Err(self.fail(
                path,
                "a value stands twice on an axis",
                "each value makes cells of its own: once is enough",
            ));
        }
        Ok(())
    }

    fn prompts(&self) -> Result<()> {
        let prompts = &self.spec.prompts;
        let given =
            [("file", prompts.file.is_some()), ("text", prompts.text.is_some()), ("random", prompts.random.is_some())];
        let given: Vec<&str> = given.into_iter().filter(|(_, given)| *given).map(|(key, _)| key).collect();
        match (given.as_slice(), &prompts.text) {
            ([first, second, ..], _) => {
                let message = format!("both `{first}` and `{second}`");
                return Err(self.fail(&[Key("prompts"), Key(second)], message, "keep one of them"));
            }
            ([], _) => {
                let hint = "add `file: prompts.jsonl` (or `.txt`), `text: [\"…\"]` or `random: {tokens: 128}`";
                return Err(self.fail(&[Key("prompts")], "no prompts", hint));
            }
            (_, Some(text)) if text.iter().all(|prompt| prompt.trim().is_empty()) => {
                return Err(self.fail(&[Key("prompts"), Key("text")], "no prompts", "give at least one prompt"));
            }
            _ => {}
        }
        if let Some(random) = prompts.random {
            self.random_prompts(random)?;
        }
        if prompts.count == Some(0) {
            return Err(self.fail(&[Key("prompts"), Key("count")], "0 prompts", "draw at least one, or leave it out"));
        }
        self.prompt_length()?;
        self.chat_templates()
    }

    fn random_prompts(&self, random: RandomPrompts) -> Result<()> {
        let path = [Key("prompts"), Key("random")];
        let prompts = &self.spec.prompts;
        if random.tokens == 0 || random.tokens > LARGEST_AXIS_VALUE {
            let hint = format!("1 to {LARGEST_AXIS_VALUE}");
            return Err(self.fail(&path, format!("random prompts of {} tokens", random.tokens), hint));
        }
        match prompts.count {
            None => {
                return Err(self.fail(&path, "random prompts without `count`", "add how many there are: `count: 64`"));
            }
            Some(count) if count > LARGEST_AXIS_VALUE => {
                return Err(self.fail(&path, format!("{count} prompts"), format!("1 to {LARGEST_AXIS_VALUE}")));
            }
            Some(_) => {}
        }
        if self.spec.accuracy.is_some() {
            let hint = "remove `accuracy`, or give the prompts as text";
            return Err(self.fail(&path, "random prompts beside `accuracy`", hint));
        }
        let templated = prompts.chat_template != TemplateChoice::None
            || self.spec.models.iter().any(|model| model.chat_template.is_some());
        if templated || prompts.system.is_some() || prompts.max_tokens.is_some() {
            let hint = "remove `chat_template`, `system` and `max_tokens`: random ids go to the model as they are";
            return Err(self.fail(&path, "random prompts with a form", hint));
        }
        Ok(())
    }

    fn prompt_length(&self) -> Result<()> {
        let prompts = &self.spec.prompts;
        match prompts.max_tokens {
            None if prompts.truncate != Truncate::None => {
                let hint = "add `max_tokens`, the longest prompt: the same for every model, whatever it has room for";
                Err(self.fail(&[Key("prompts"), Key("truncate")], "`truncate` without `max_tokens`", hint))
            }
            Some(tokens) if tokens == 0 || tokens > LARGEST_AXIS_VALUE => {
                let hint = format!("1 to {LARGEST_AXIS_VALUE}");
                Err(self.fail(&[Key("prompts"), Key("max_tokens")], format!("`max_tokens: {tokens}`"), hint))
            }
            _ => Ok(()),
        }
    }

    /// What is said for a template that isn't used would be left out in silence.
    fn chat_templates(&self) -> Result<()> {
        let prompts = &self.spec.prompts;
        self.variables(&prompts.template_variables, &[Key("prompts"), Key("template_variables")])?;
        for (index, model) in self.spec.models.iter().enumerate() {
            let own = &[Key("models"), Item(index), Key("template_variables")];
            self.variables(&model.template_variables, own)?;
            if *prompts.template_of(model) == TemplateChoice::None && !model.template_variables.is_empty() {
                let hint = "add `chat_template: auto` (or a file) to the model or to `prompts`";
                let message = format!("`{}` has variables for a chat template, and uses none", model.label);
                return Err(self.fail(own, message, hint));
            }
            self.simulated_reads_words(index, model)?;
        }
        let plain = |model: &&ModelSpec| *prompts.template_of(model) == TemplateChoice::None;
        let (first_plain, all_plain) =
            (self.spec.models.iter().find(plain), self.spec.models.iter().all(|m| plain(&m)));
        if let (Some(_), Some(model)) = (&prompts.system, first_plain) {
            let message = format!("a system prompt needs a chat template, and `{}` uses none", model.label);
            let hint = "add `chat_template: auto` (or a file), or put the text into the prompts themselves";
            return Err(self.fail(&[Key("prompts"), Key("system")], message, hint));
        }
        if all_plain && !prompts.template_variables.is_empty() {
            let hint = "add `chat_template: auto` (or a file), or remove the variables";
            let path = &[Key("prompts"), Key("template_variables")];
            return Err(self.fail(path, "variables for a chat template, and no model uses one", hint));
        }
        Ok(())
    }

    fn generation(&self) -> Result<()> {
        let decoding = &self.spec.generation.decoding;
        if let Err(bad) = decoding.check() {
            let path = [Key("generation"), Key("decoding"), Key(bad.method), Key(bad.key)];
            return Err(self.fail(&path, bad.message, bad.hint));
        }
        let simulated = self.spec.models.iter().any(|model| matches!(model.source, ModelSource::Synthetic(_)));
        if simulated && *decoding != Decoding::Greedy {
            let hint = "remove `decoding`: a simulated model has no probabilities to choose by";
            return Err(self.fail(
                &[Key("generation"), Key("decoding")],
                "sampling or beams of a simulated model",
                hint,
            ));
        }
        Ok(())
    }

    fn variables(&self, variables: &Variables, path: &[Step<'_>]) -> Result<()> {
        const TAKEN: [&str; 4] = ["messages", "tools", "documents", "add_generation_prompt"];
        match TAKEN.into_iter().find(|name| variables.contains_key(*name)) {
            Some(name) => Err(self.fail(path, format!("`{name}` is always given to a template"), "remove it")),
            None => Ok(()),
        }
    }

    fn simulated_reads_words(&self, index: usize, model: &ModelSpec) -> Result<()> {
        let prompts = &self.spec.prompts;
        let templated = matches!(prompts.template_of(model), TemplateChoice::File(_)) || prompts.system.is_some();
        if !matches!(model.source, ModelSource::Synthetic(_)) || !(templated || prompts.max_tokens.is_some()) {
            return Ok(());
        }
        let message =
            format!("`{}` is simulated: it reads words, through no chat template and of any number", model.label);
        let hint = "remove `chat_template`, `system` and `max_tokens`";
        Err(self.fail(&[Key("models"), Item(index), Key("source")], message, hint))
    }

    fn measure(&self) -> Result<()> {
        let measure = &self.spec.measure;
        let at = |key| [Key("measure"), Key(key)];
        for (key, repeats) in [("repeats", measure.repeats), ("max_repeats", measure.max_repeats)] {
            match repeats {
                Auto::Value(0) => {
                    let hint = "1 at least; 5 or more give an interval worth having";
                    return Err(self.fail(&at(key), "0 repeats", hint));
                }
                Auto::Value(many) if many > MOST_REPEATS => {
                    let hint = format!("{MOST_REPEATS} at most; 5 to 20 say what there is to say");
                    return Err(self.fail(&at(key), format!("{many} repeats"), hint));
                }
                _ => {}
            }
        }
        self.adaptive()?;
        self.duration(measure.window_s, "window_s", f64::MIN_POSITIVE)?;
        for (key, value) in [
            ("guard_s", measure.guard_s),
            ("warmup_s", measure.warmup_s),
            ("max_warmup_s", measure.max_warmup_s),
            ("idle_s", measure.idle_s),
        ] {
            self.duration(value, key, 0.0)?;
        }
        if measure.gpu_indices.as_ref().is_some_and(Vec::is_empty) {
            return Err(self.fail(&at("gpu_indices"), "no GPUs", "name at least one index, or leave it out"));
        }
        if let Some(coefficients) = &measure.modelled {
            let wrong = |watts: f64| !watts.is_finite() || watts < 0.0;
            if wrong(coefficients.watts_per_core) || wrong(coefficients.idle_w) {
                return Err(self.fail(&at("modelled"), "a negative or infinite power", "watts are 0 or more"));
            }
        }
        self.synthetic_pair()
    }

    fn adaptive(&self) -> Result<()> {
        let measure = &self.spec.measure;
        let at = |key| [Key("measure"), Key(key)];
        let repeats = measure.repeats();
        match measure.max_repeats {
            Auto::Value(most) if most < repeats => {
                let message =
                    format!("`max_repeats: {most}` is less than the {repeats} repeats that are measured anyway");
                return Err(self.fail(&at("max_repeats"), message, "raise it, or lower `repeats`"));
            }
            _ => {}
        }
        if let Auto::Value(width) = measure.half_width {
            if !(width > 0.0 && width < 0.5) {
                let hint = "a share of the mean, such as 0.02 for ± 2 %";
                return Err(self.fail(&at("half_width"), format!("`half_width: {width}` isn't a small share"), hint));
            }
            if measure.adaptive().is_none() {
                let hint = "set `max_repeats` above `repeats`, or remove `half_width`";
                return Err(self.fail(&at("half_width"), "`half_width` without repeats to add", hint));
            }
        }
        if measure.adaptive().is_some() && repeats < 2 {
            let hint =
                "set `repeats: 5`: an interval needs two values, and a stop decided on fewer than five is too early";
            return Err(self.fail(&at("repeats"), "repeats that go on from a single one", hint));
        }
        if measure.adaptive().is_some() && measure.order == Order::ByModel {
            let hint = "remove `max_repeats`, or use `order: blocks`";
            return Err(self.fail(&at("order"), "adaptive repeats need blocks in which all models meet", hint));
        }
        if measure.prefill == Auto::Value(true) && self.spec.generation.length != OutputLength::Fixed {
            let hint = "set `generation.length: fixed`, or remove `prefill`";
            let message = "prefill and decode can be told apart only where every length produces the same tokens";
            return Err(self.fail(&at("prefill"), message, hint));
        }
        Ok(())
    }

    fn duration(&self, value: Auto<f64>, key: &'static str, least: f64) -> Result<()> {
        match value {
            Auto::Value(seconds) if !seconds.is_finite() || seconds < least || seconds > 86_400.0 => {
                let message = format!("`{key}: {seconds:e}` isn't a time that can be waited for");
                Err(self.fail(&[Key("measure"), Key(key)], message, "seconds, or `auto`"))
            }
            _ => Ok(()),
        }
    }

    /// A simulated model runs on a simulated clock: its energy can't be measured, and that of a real one can't be
    /// simulated.
    fn synthetic_pair(&self) -> Result<()> {
        let simulated = |model: &&ModelSpec| matches!(model.source, ModelSource::Synthetic(_));
        let synthetic = self.spec.models.iter().filter(simulated).count();
        let meter = self.spec.measure.meter;
        if synthetic > 0 && synthetic < self.spec.models.len() {
            let hint = "put the simulated models into a sweep of their own";
            return Err(self.fail(&[Key("models")], "simulated and real models in one sweep", hint));
        }
        if synthetic > 0 && !matches!(meter, MeterChoice::Synthetic | MeterChoice::Auto) {
            let message = format!("`meter: {meter}` can't measure a simulated model");
            return Err(self.fail(&[Key("measure"), Key("meter")], message, "use `meter: synthetic`"));
        }
        if synthetic == 0 && meter == MeterChoice::Synthetic {
            let hint = "use `meter: auto`; the synthetic meter goes with `source: { synthetic: … }`";
            return Err(self.fail(&[Key("measure"), Key("meter")], "a synthetic meter for real models", hint));
        }
        Ok(())
    }

    fn accuracy(&self) -> Result<()> {
        let Some(accuracy) = &self.spec.accuracy else { return Ok(()) };
        let at = |key| [Key("accuracy"), Key(key)];
        if accuracy.count == Some(0) {
            return Err(self.fail(&at("count"), "0 prompts", "draw at least one, or leave out `accuracy`"));
        }
        if accuracy.batch_size == 0 {
            return Err(self.fail(&at("batch_size"), "a batch of 0", "1 or more"));
        }
        if self.spec.models.iter().any(|model| matches!(model.source, ModelSource::Synthetic(_))) {
            let hint = "remove `accuracy`: a simulated model writes nothing that could be right";
            return Err(self.fail(&[Key("accuracy")], "accuracy of a simulated model", hint));
        }
        Ok(())
    }

    fn report(&self) -> Result<()> {
        let floor = self.spec.report.floor;
        if !(0.0..0.5).contains(&floor) {
            let hint = "a share of the energy below which two cells count as equal, such as 0.01";
            return Err(self.fail(
                &[Key("report"), Key("floor")],
                format!("`floor: {floor}` isn't a small share"),
                hint,
            ));
        }
        Ok(())
    }
}

/// A key about weights that a model has.
fn weights_key(model: &ModelSpec) -> Option<&'static str> {
    match model {
        ModelSpec { adapter: Some(_), .. } => Some("adapter"),
        ModelSpec { weights: WeightsChoice::Dummy, .. } => Some("weights"),
        ModelSpec { devices: Some(_), .. } => Some("devices"),
        _ => None,
    }
}
