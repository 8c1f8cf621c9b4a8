//! The models: labels, sources, weights, devices and roles.

use std::collections::HashSet;

use super::axes;
use super::file::File;
use crate::error::Result;
use crate::hub;
use crate::record::Role;
use crate::sweep::model::{ModelSource, ModelSpec, WeightsChoice};
use crate::sweep::yaml::Step::{Item, Key};
use crate::sweep::yaml::{Step, closest};

pub(super) fn models(file: &File<'_>) -> Result<()> {
    if file.spec.models.is_empty() {
        return Err(file.fail(&[Key("models")], "no models", "list at least one model with `label` and `source`"));
    }
    for (index, model) in file.spec.models.iter().enumerate() {
        if let (ModelSource::Synthetic(_), Some(key)) = (&model.source, weights_key(model)) {
            let message = format!("`{key}` of the simulated model `{}`", model.label);
            let hint = "remove it: a simulated model has no weights";
            return Err(file.fail(&at(index, key), message, hint));
        }
    }
    let mut seen = HashSet::new();
    for (index, model) in file.spec.models.iter().enumerate() {
        label(file, index, model)?;
        if !seen.insert(&model.label) {
            let message = format!("two models have the label `{}`", model.label);
            return Err(file.fail(&at(index, "label"), message, "labels name cells and must differ"));
        }
        model_source(file, index, model)?;
        weights(file, index, model)?;
        devices(file, index, model)?;
        teacher(file, index, model)?;
        axes::own_axes(file, index, model)?;
    }
    Ok(())
}

fn at(index: usize, key: &str) -> [Step<'_>; 3] {
    [Key("models"), Item(index), Key(key)]
}

fn label(file: &File<'_>, index: usize, model: &ModelSpec) -> Result<()> {
    if model.label.trim().is_empty() {
        return Err(file.fail(&at(index, "label"), "empty label", "give the model a short name"));
    }
    if model.label.chars().any(char::is_control) {
        let hint = "use printable characters";
        return Err(file.fail(&at(index, "label"), "a label with control characters", hint));
    }
    Ok(())
}

fn model_source(file: &File<'_>, index: usize, model: &ModelSpec) -> Result<()> {
    let path = &at(index, "source");
    match &model.source {
        ModelSource::Name(name) if name.trim().is_empty() => {
            Err(file.fail(path, "empty source", "name a folder (`./my-model`) or a hub id (`owner/name`)"))
        }
        ModelSource::Synthetic(synthetic) => synthetic
            .check()
            .map_err(|error| file.fail(path, error.message(), error.hint().unwrap_or("see docs/sweep-file.md"))),
        ModelSource::Name(name) if model.revision.is_some() && hub::Source::parse(name).is_none() => {
            let path = &at(index, "revision");
            Err(file.fail(path, "a revision of a local folder", "only a model of the hub has revisions: remove it"))
        }
        ModelSource::Name(_) => Ok(()),
    }
}

/// Settings that dummy weights exclude.
fn weights(file: &File<'_>, index: usize, model: &ModelSpec) -> Result<()> {
    if model.weights.dummy().is_some() {
        if model.adapter.is_some() {
            let hint = "remove one of them: random weights have nothing that an adapter could change";
            return Err(file.fail(&at(index, "adapter"), "an adapter for dummy weights", hint));
        }
        if file.spec.accuracy.is_some() {
            let message = format!("accuracy of dummy weights (`{}`)", model.label);
            let hint = "remove `accuracy`, or measure this model in a sweep of its own";
            return Err(file.fail(&at(index, "weights"), message, hint));
        }
    }
    Ok(())
}

/// One meter charges the same GPUs for every model.
fn devices(file: &File<'_>, index: usize, model: &ModelSpec) -> Result<()> {
    let path = at(index, "devices");
    let Some(devices) = &model.devices else {
        return match file.spec.models.iter().find(|other| other.devices.is_some()) {
            None => Ok(()),
            Some(other) => {
                let path = at(index, "label");
                let message = format!("`{}` names `devices`, and `{}` doesn't", other.label, model.label);
                Err(file.fail(&path, message, "give all models of a sweep the same `devices`: one meter charges them"))
            }
        };
    };
    let distinct: HashSet<_> = devices.iter().collect();
    if devices.is_empty() || distinct.len() < devices.len() {
        return Err(file.fail(&path, "the list is empty or names a device twice", "such as `[0, 1]`"));
    }
    match file.spec.models.iter().all(|other| other.devices.as_ref().is_none_or(|others| others == devices)) {
        true => Ok(()),
        false => {
            let hint = "give all models of a sweep the same `devices`: one meter charges them";
            Err(file.fail(&path, "models on different devices", hint))
        }
    }
}

fn teacher(file: &File<'_>, index: usize, model: &ModelSpec) -> Result<()> {
    let role = at(index, "role");
    let path = at(index, "teacher");
    let needs_teacher = matches!(model.role, Role::Student | Role::Control);
    let Some(teacher) = &model.teacher else {
        if needs_teacher {
            let message = format!("`{}` is a student or control, but names no teacher", model.label);
            return Err(file.fail(&role, message, "add `teacher: <label of the teacher>`"));
        }
        return Ok(());
    };
    if !needs_teacher {
        let hint = "add `role: student` (or `control`), or remove `teacher`";
        return Err(file.fail(&path, format!("`{}` names a teacher but isn't a student", model.label), hint));
    }
    match file.spec.model(teacher) {
        Some(found) if found.role == Role::Teacher => Ok(()),
        Some(_) => {
            let hint = format!("add `role: teacher` to the model `{teacher}`");
            Err(file.fail(&path, format!("`{teacher}` isn't a teacher"), hint))
        }
        None => {
            let labels: Vec<&str> = file.spec.models.iter().map(|model| model.label.as_str()).collect();
            let hint = match closest(teacher, &labels) {
                Some(label) => format!("did you mean `{label}`?"),
                None => format!("models here: {}", labels.join(", ")),
            };
            Err(file.fail(&path, format!("no model has the label `{teacher}`"), hint))
        }
    }
}

/// The first key that only a model with weights can have.
fn weights_key(model: &ModelSpec) -> Option<&'static str> {
    match model {
        ModelSpec { adapter: Some(_), .. } => Some("adapter"),
        ModelSpec { weights: WeightsChoice::Dummy(_), .. } => Some("weights"),
        ModelSpec { devices: Some(_), .. } => Some("devices"),
        _ => None,
    }
}
