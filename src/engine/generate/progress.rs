//! The answers of a batch that grow by a token a step, and when they end.

use super::batch::PAD;
use super::choice::Choice;
use crate::engine::interface::{GenerateOptions, Generation};
use crate::record::{Finish, OutputLength};

/// The answers of a batch so far.
pub(crate) struct Progress<'a> {
    eos: &'a [u32],
    options: GenerateOptions,
    rows: Vec<Row>,
    steps: usize,
}

#[derive(Clone, Default)]
struct Row {
    ids: Vec<u32>,
    ended: bool,
    natural_length: Option<usize>,
}

impl<'a> Progress<'a> {
    /// Nothing yet.
    pub(crate) fn new(eos: &'a [u32], rows: usize, options: GenerateOptions) -> Self {
        Self { eos, options, rows: vec![Row::default(); rows], steps: 0 }
    }

    /// Takes the choices of one step, one for each row.
    pub(crate) fn push(&mut self, choices: &[Choice]) {
        self.steps += 1;
        for (row, choice) in self.rows.iter_mut().zip(choices) {
            let is_eos = self.eos.contains(&choice.any);
            match self.options.length {
                OutputLength::Natural if row.ended => {}
                OutputLength::Natural => {
                    row.ids.push(choice.any);
                    row.ended = is_eos;
                }
                OutputLength::Fixed => {
                    row.ids.push(choice.not_eos);
                    if is_eos && row.natural_length.is_none() {
                        row.natural_length = Some(self.steps);
                    }
                }
            }
        }
    }

    /// Whether every row has ended or is at the limit.
    pub(crate) fn is_done(&self) -> bool {
        self.steps == self.options.max_new_tokens || self.rows.iter().all(|row| row.ended)
    }

    /// The next input of each row.
    pub(crate) fn inputs(&self) -> Vec<u32> {
        let input = |row: &Row| if row.ended { PAD } else { row.ids.last().copied().unwrap_or(PAD) };
        self.rows.iter().map(input).collect()
    }

    /// The answers.
    pub(crate) fn finish(self) -> Vec<Generation> {
        let finish = |ended| if ended { Finish::Eos } else { Finish::Length };
        let generation =
            |row: Row| Generation { ids: row.ids, finish: finish(row.ended), natural_length: row.natural_length };
        self.rows.into_iter().map(generation).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choices(rows: &[(u32, u32)]) -> Vec<Choice> {
        rows.iter().map(|(any, not_eos)| Choice { any: *any, not_eos: *not_eos }).collect()
    }

    fn natural(max_new_tokens: usize) -> GenerateOptions {
        GenerateOptions::greedy(max_new_tokens, OutputLength::Natural)
    }

    #[test]
    fn a_row_that_ended_is_fed_padding_and_keeps_its_answer() {
        let mut progress = Progress::new(&[7, 9], 2, natural(8));
        progress.push(&choices(&[(9, 9), (4, 4)]));
        assert!(!progress.is_done());
        assert_eq!(progress.inputs(), [PAD, 4]);
        progress.push(&choices(&[(5, 5), (7, 7)]));
        assert!(progress.is_done());
        let ended = |ids: &[u32]| Generation { ids: ids.to_vec(), finish: Finish::Eos, natural_length: None };
        assert_eq!(progress.finish(), [ended(&[9]), ended(&[4, 7])]);
    }

    #[test]
    fn a_natural_row_without_end_stops_at_the_limit() {
        let mut progress = Progress::new(&[7], 1, natural(2));
        progress.push(&choices(&[(1, 1)]));
        progress.push(&choices(&[(2, 2)]));
        assert!(progress.is_done());
        assert_eq!(progress.finish()[0].finish, Finish::Length);
    }

    #[test]
    fn a_fixed_row_goes_on_and_remembers_its_first_natural_end() {
        let options = GenerateOptions::greedy(3, OutputLength::Fixed);
        let mut progress = Progress::new(&[7], 1, options);
        for choice in [(1, 1), (7, 2), (7, 3)] {
            assert!(!progress.is_done());
            progress.push(&choices(&[choice]));
        }
        assert!(progress.is_done());
        let expected = Generation { ids: vec![1, 2, 3], finish: Finish::Length, natural_length: Some(2) };
        assert_eq!(progress.finish(), [expected]);
    }
}
