//! Greedy decoding on the GPU, whose steps run ahead of the host: tokens are chosen on the device, and the host only looks
//! for the end.

use std::collections::VecDeque;
use std::time::Instant;

use super::batch::LeftPadded;
use super::choice::{Choice, not_numbers};
use super::progress::Progress;
use crate::engine::gpu::{Model, StepEnd};
use crate::engine::interface::{GenerateOptions, Generation};
use crate::error::Result;
use crate::record::OutputLength;
use crate::units::Seconds;

/// Steps between two looks at what was chosen, in `fixed` length: nothing can end before the limit.
const LOOK_EVERY: usize = 16;

/// The answers of a batch, and the time from `start` until every row had its first token; `None` if the host has a part in
/// the model's steps.
pub(crate) fn greedy(
    model: &Model,
    padded: &LeftPadded,
    eos: &[u32],
    options: GenerateOptions,
    start: Instant,
) -> Result<Option<(Vec<Generation>, Seconds)>> {
    let limit = options.max_new_tokens;
    let fixed = options.length == OutputLength::Fixed;
    // with natural ends one step is under way while the one before is looked at: at most one goes to waste
    let (every, ahead) = if fixed { (LOOK_EVERY, 2 * LOOK_EVERY) } else { (1, 1) };
    let mut sequences = model.begin(padded.starts.clone(), padded.width + limit - 1)?;
    if !model.runs_ahead(&sequences, padded.width, padded.width + limit - 1) {
        return Ok(None);
    }
    let mut progress = Progress::new(eos, padded.starts.len(), options);
    model.choose_first(&padded.ids(model.device())?, &mut sequences, fixed)?;
    let mut marks = VecDeque::from([(1, model.mark()?)]);
    let (mut launched, mut looked) = (1, 0);
    let mut first = None;
    while let Some((until, mark)) = marks.pop_front() {
        while launched < limit && launched < until + ahead {
            model.step(&mut sequences, StepEnd::Choice { fixed })?;
            launched += 1;
            if launched.is_multiple_of(every) || launched == limit {
                marks.push_back((launched, model.mark()?));
            }
        }
        model.wait_for(&mark)?;
        first.get_or_insert_with(|| Seconds(start.elapsed().as_secs_f64()));
        for step in looked..until {
            progress.push(&choices(&sequences.chosen(step)?, model.vocabulary())?);
        }
        looked = until;
        if progress.is_done() {
            break;
        }
    }
    // a step that went to waste is part of the work
    model.wait()?;
    Ok(first.map(|first| (progress.finish(), first)))
}

fn choices(chosen: &[[u32; 2]], vocabulary: usize) -> Result<Vec<Choice>> {
    let is_token = |id: &u32| (*id as usize) < vocabulary;
    match chosen.iter().flatten().all(is_token) {
        true => Ok(chosen.iter().map(|[any, not_eos]| Choice { any: *any, not_eos: *not_eos }).collect()),
        false => Err(not_numbers()),
    }
}
