//! Words and sentences for what was recorded and what may be said of it.

use super::estimate::per_degree;
use super::number::{count, fraction, plural};
use super::quantity::celsius_between;
use crate::analysis::HeatEffect;
use crate::record::{ChatTemplateInfo, ClockEvent, EnergyMethod, PromptForm, Truncate, Truncated};

/// The text with a capital letter at its start.
pub(crate) fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
}

/// How a model is given its prompts, and how much was cut off them; `None` if they are plain text and nothing is.
pub(crate) fn prompt_form(form: &PromptForm) -> Option<String> {
    let template = match &form.chat_template {
        Some(template) => Some(chat_template(template)),
        None if form.unused_template => Some("plain text; the model's own chat template isn't used".to_owned()),
        None => None,
    };
    let limit = form.limit.map(|limit| {
        let most = plural(limit.max_tokens, "token");
        let end = match limit.truncate {
            Truncate::None => return format!("prompts of more than {most} are rejected"),
            Truncate::Left => "beginning",
            Truncate::Right => "end",
        };
        let lists = [("", form.energy), (" of the accuracy", form.accuracy)];
        let lost = lists.into_iter().filter_map(|(of, truncated)| Some(cut(of, truncated?)));
        let lost = lost.collect::<Vec<_>>().join(", ");
        format!("prompts of more than {most} are cut at the {end}: {lost}")
    });
    let parts: Vec<String> = [template, limit].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn cut(of: &str, truncated: Truncated) -> String {
    let all = plural(truncated.of, "prompt");
    match truncated.prompts {
        0 => format!("none of {all}{of}"),
        cut => format!("{} of {all}{of}, {} tokens lost", count(cut as u64), count(truncated.tokens)),
    }
}

fn chat_template(template: &ChatTemplateInfo) -> String {
    let system = template.system.as_ref().map(|system| format!("system prompt “{system}”"));
    let variables = template.variables.iter().map(|(name, value)| format!("{name} = {value}"));
    let date = Some(format!("today's date taken as {}", template.date));
    let given = system.into_iter().chain(variables).chain(date).collect::<Vec<_>>().join(", ");
    format!("through the chat template of {} ({given})", template.source)
}

/// Clock events with their shares of a window: `power cap 85 %, idle 1 %`; `none` if none was active.
pub fn clock_events(events: &[(ClockEvent, f64)]) -> String {
    let each = events.iter().map(|(event, share)| format!("{} {}", event.words(), fraction(*share)));
    let all = each.collect::<Vec<_>>().join(", ");
    if all.is_empty() { "none".to_owned() } else { all }
}

/// What a degree adds to the energy of the same work: `0.40 % per °C [0.37, 0.43] (10 warm-ups, 45–57 °C)`, or why that
/// isn't known.
pub(crate) fn heat_effect(effect: &HeatEffect) -> String {
    match effect {
        HeatEffect::Known(known) => format!(
            "{} ({}, {})",
            per_degree(&known.share),
            plural(known.share.n, "warm-up"),
            celsius_between(known.range_c.low, known.range_c.high)
        ),
        HeatEffect::Unknown(why) => format!("unknown ({})", why.words()),
    }
}

/// The warning for everything that shows energies by these methods; `None` if all of them measure.
pub(crate) fn caveat(methods: &[EnergyMethod]) -> Option<&'static str> {
    let has = |m| methods.contains(&m);
    let measures = has(EnergyMethod::Counter) || has(EnergyMethod::PowerIntegral);
    match (has(EnergyMethod::Modelled), has(EnergyMethod::Simulated), measures) {
        (false, false, _) => None,
        (true, false, false) => Some("modelled, not measured"),
        (false, true, false) => Some("simulated, not measured"),
        (true, true, false) => Some("modelled and simulated, not measured"),
        (true, _, true) => Some("partly modelled, not all measured"),
        (false, true, true) => Some("partly simulated, not all measured"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_events_are_named_with_their_shares() {
        let events = [(ClockEvent::SoftwarePowerCap, 0.853), (ClockEvent::Idle, 0.01)];
        assert_eq!(clock_events(&events).replace('\u{a0}', " "), "power cap 85 %, idle 1 %");
        assert_eq!(clock_events(&[]), "none");
    }

    #[test]
    fn a_mixture_with_modelled_energy_says_so() {
        use EnergyMethod::{Counter, Modelled, Simulated};
        assert_eq!(caveat(&[Counter]), None);
        assert_eq!(caveat(&[Modelled]), Some("modelled, not measured"));
        assert_eq!(caveat(&[Simulated]), Some("simulated, not measured"));
        assert_eq!(caveat(&[Counter, Modelled]), Some("partly modelled, not all measured"));
    }
}
