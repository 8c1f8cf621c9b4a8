//! What earlier starts of a run left to do.

use std::collections::HashSet;

use crate::record::{Outcome, RunInfo, Trial, TrialKey};
use crate::run::learned::Learned;
use crate::run::setup::Setup;
use crate::sweep::plan::Session;

/// The rest of a run.
pub(super) struct Remaining {
    /// Trials that are done; those that failed are among them unless they are tried again.
    pub(crate) done: usize,
    /// Trials that failed or were skipped in earlier starts.
    pub(crate) failed: usize,
    /// The loads of a model that are left, each with its cells, in order.
    pub(crate) sessions: Vec<Session>,
    /// What the done trials showed.
    pub(crate) learned: Learned,
}

impl Remaining {
    /// Takes the done trials out of the plan of `run`.
    pub(super) fn new(setup: Setup<'_>, run: &RunInfo, trials: &[Trial], retry_failed: bool) -> Self {
        let done = done_trials(trials, retry_failed);
        let kept = trials.iter().filter(|trial| done.contains(&trial.key()));
        let learned = Learned::new(kept, begun(&done, run.blocks));
        let sessions =
            left(setup.prepared.plan.remaining(run.protocol.seed, &done, setup.only).collect(), run, &learned);
        let failed = trials.iter().filter(|trial| !matches!(trial.outcome, Outcome::Measured(_))).count();
        Self { done: done.len(), failed, sessions, learned }
    }

    /// How many trials are left, those included that may turn out not to be needed.
    pub(super) fn trials(&self) -> usize {
        self.sessions.iter().map(|session| session.cells.len()).sum()
    }

    /// What a start that continues a run says; `None` for the first one.
    pub(crate) fn sentence(&self) -> Option<String> {
        let (done, failed, left) = (self.done, self.failed, self.trials());
        match (done, failed, left) {
            (0, _, _) => None,
            (_, 0, 0) => Some(format!("all {done} trials are measured already; nothing is measured again")),
            (_, 0, _) => Some(format!("resuming: {done} trials are measured already, {left} are left")),
            _ => Some(format!(
                "resuming: {done} trials are done already, {left} are left; {failed} failed earlier \
                 (`--retry-failed` measures them again)"
            )),
        }
    }
}

fn done_trials(trials: &[Trial], retry_failed: bool) -> HashSet<TrialKey> {
    let done = trials.iter().filter(|trial| !retry_failed || matches!(trial.outcome, Outcome::Measured(_)));
    done.map(|trial| trial.key()).collect()
}

/// The blocks beyond the planned ones that an earlier start began: a block is never left half measured, since
/// comparisons pair the models within it.
fn begun(done: &HashSet<TrialKey>, blocks: u32) -> impl Iterator<Item = u32> {
    done.iter().map(|key| key.block).filter(move |block| *block >= blocks)
}

/// Drops the repeats beyond the planned ones unless intervals are too wide or the block was begun.
fn left(sessions: Vec<Session>, run: &RunInfo, learned: &Learned) -> Vec<Session> {
    let planned = sessions.iter().any(|session| session.block < run.blocks);
    let wide = run.protocol.adaptive.is_some_and(|adaptive| learned.spread.is_wide(adaptive.half_width));
    let wanted = |session: &Session| planned || wide || learned.has_begun(session.block);
    sessions.into_iter().filter(wanted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::CellId;

    #[test]
    fn a_block_that_was_begun_beyond_the_planned_ones_is_measured_whole() {
        let key = |block| TrialKey { cell: CellId("a.b1.n8".into()), block };
        let done = [0, 1, 4, 5].map(key).into_iter().collect();
        assert_eq!(begun(&done, 5).collect::<Vec<_>>(), [5]);
    }

    #[test]
    fn a_start_that_continues_says_how_much_is_done_and_left() {
        let session = Session { block: 0, model: "a".into(), cells: vec![0, 1] };
        let said = |done, failed, sessions: &[Session]| {
            let learned = Learned::new(std::iter::empty(), std::iter::empty());
            Remaining { done, failed, sessions: sessions.to_vec(), learned }.sentence()
        };
        assert_eq!(said(0, 0, std::slice::from_ref(&session)), None);
        assert_eq!(said(8, 0, &[]).unwrap(), "all 8 trials are measured already; nothing is measured again");
        let resuming = said(6, 0, std::slice::from_ref(&session)).unwrap();
        assert_eq!(resuming, "resuming: 6 trials are measured already, 2 are left");
        assert!(said(6, 1, &[]).unwrap().contains("1 failed earlier (`--retry-failed`"));
    }
}
