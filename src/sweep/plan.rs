//! The plan: all cells of a sweep, and the order in which their trials run.

use std::collections::{BTreeMap, HashSet};

use globset::{Glob, GlobMatcher};

use crate::error::{Error, Result};
use crate::record::{CellId, CellSpec, Order, TrialKey};
use crate::sweep::model::ModelSpec;
use crate::sweep::order::order;
use crate::sweep::spec::SweepSpec;

/// The trials of a sweep: every cell once in each block. The order in which they run needs a seed as well.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// All cells, in the order of the sweep file.
    pub cells: Vec<CellSpec>,
    /// Blocks that are measured in any case.
    pub(crate) blocks: u32,
    /// Most blocks; those from `blocks` on are measured only while intervals are too wide.
    most_blocks: u32,
    order: Order,
    /// Labels, in the order of the sweep file.
    models: Vec<String>,
}

/// One load of a model in one block.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Session {
    pub(crate) block: u32,
    /// Label of the model.
    pub(crate) model: String,
    /// Indices into `Plan::cells`, in the order in which they run.
    pub(crate) cells: Vec<usize>,
}

impl Plan {
    /// Plans a sweep. `dtypes` gives the data type that each model (by label) runs in, if it is known.
    ///
    /// # Errors
    /// More cells than `sweep.max_cells`, or two labels that give the same cell id.
    pub fn new(spec: &SweepSpec, dtypes: &BTreeMap<String, String>) -> Result<Self> {
        let count: usize = spec.models.iter().map(|model| cells_of(spec, model)).fold(0, usize::saturating_add);
        if count > spec.sweep.max_cells {
            let message = format!("the sweep has {count} cells, more than `sweep.max_cells: {}`", spec.sweep.max_cells);
            return Err(Error::input(message).with_hint("shorten an axis, or raise `max_cells` if you mean it"));
        }
        let cells: Vec<CellSpec> = spec.models.iter().flat_map(|model| model_cells(spec, model, dtypes)).collect();
        let mut seen = HashSet::new();
        if let Some(twice) = cells.iter().find(|cell| !seen.insert(&cell.id)) {
            let message = format!("two cells have the id `{}`", twice.id);
            return Err(
                Error::input(message).with_hint("labels that differ only in blanks give the same id: rename one")
            );
        }
        let blocks = spec.measure.repeats();
        let most = spec.measure.adaptive().map_or(blocks, |adaptive| adaptive.max_repeats);
        let models = spec.models.iter().map(|model| model.label.clone()).collect();
        Ok(Self { cells, blocks, most_blocks: most, order: spec.measure.order, models })
    }

    /// All loads of a model with the cells that run on it, in order.
    ///
    /// In each block every model is loaded once, and its cells run once; in which order is random, and balanced over
    /// blocks, so that a drift of the machine can't favour one of them. The order depends on
    /// the seed and the block alone: a continued run keeps it.
    pub(crate) fn sessions(&self, seed: u64) -> Vec<Session> {
        let mut sessions: Vec<Session> = (0..self.most_blocks).flat_map(|block| self.block(seed, block)).collect();
        if self.order == Order::ByModel {
            // stable: a model's blocks stay in order
            sessions.sort_by_key(|session| self.models.iter().position(|label| *label == session.model));
        }
        sessions
    }

    fn block(&self, seed: u64, block: u32) -> impl Iterator<Item = Session> {
        // the first stream orders the models, and each model's cells have a stream of their own
        let session = move |model: usize| {
            let label = &self.models[model];
            let own: Vec<usize> = (0..self.cells.len()).filter(|index| self.cells[*index].model == *label).collect();
            let cells = order(seed, model as u32 + 1, own.len(), block).into_iter().map(|place| own[place]).collect();
            Session { block, model: label.clone(), cells }
        };
        order(seed, 0, self.models.len(), block).into_iter().map(session)
    }

    /// The trials that are left once `done` is taken out and only cells that match `only` are kept.
    pub(crate) fn remaining(
        &self,
        seed: u64,
        done: &HashSet<TrialKey>,
        only: Option<&CellFilter>,
    ) -> impl Iterator<Item = Session> {
        let wanted = move |session: &Session, index: usize| {
            let id = &self.cells[index].id;
            let key = TrialKey { cell: id.clone(), block: session.block };
            only.is_none_or(|filter| filter.matches(id)) && !done.contains(&key)
        };
        let keep = move |session: Session| Session {
            cells: session.cells.iter().copied().filter(|index| wanted(&session, *index)).collect(),
            ..session
        };
        self.sessions(seed).into_iter().map(keep).filter(|session| !session.cells.is_empty())
    }

    /// Number of trials.
    pub fn trials(&self) -> usize {
        self.cells.len() * self.blocks as usize
    }
}

/// `--only GLOB`: which cells to run.
#[derive(Debug, Clone)]
pub(crate) struct CellFilter(GlobMatcher);

impl CellFilter {
    /// Reads a glob such as `teacher.b8.*`.
    ///
    /// # Errors
    /// The glob is malformed.
    pub(crate) fn new(glob: &str) -> Result<Self> {
        let bad = |error: globset::Error| {
            Error::input(format!("bad glob `{glob}`: {}", error.kind()))
                .with_hint("for example `teacher.b8.*` or `*.n32`")
        };
        Ok(Self(Glob::new(glob).map_err(bad)?.compile_matcher()))
    }

    /// Whether the cell is wanted.
    pub(crate) fn matches(&self, id: &CellId) -> bool {
        self.0.is_match(&id.0)
    }
}

fn axes_of<'a>(spec: &'a SweepSpec, model: &'a ModelSpec) -> (&'a [usize], &'a [usize]) {
    let own = model.sweep.as_ref();
    let batch = own.and_then(|axes| axes.batch_size.as_ref()).unwrap_or(&spec.sweep.batch_size);
    let length = own.and_then(|axes| axes.max_new_tokens.as_ref()).unwrap_or(&spec.sweep.max_new_tokens);
    (&batch.0, &length.0)
}

fn cells_of(spec: &SweepSpec, model: &ModelSpec) -> usize {
    let (batch, length) = axes_of(spec, model);
    batch.len().saturating_mul(length.len() + probes(spec, length).count())
}

fn model_cells(spec: &SweepSpec, model: &ModelSpec, dtypes: &BTreeMap<String, String>) -> Vec<CellSpec> {
    let (batches, lengths) = axes_of(spec, model);
    let asked = model.dtype.map(|dtype| dtype.name().to_owned());
    let dtype = dtypes.get(&model.label).cloned().or(asked).unwrap_or_else(|| "stored".to_owned());
    let cell = |batch_size: usize, max_new_tokens: usize| CellSpec {
        id: cell_id(&model.label, batch_size, max_new_tokens),
        model: model.label.clone(),
        batch_size,
        max_new_tokens,
        dtype: dtype.clone(),
        output_length: spec.generation.length,
        decoding: spec.generation.decoding,
        dummy_weights: model.weights.dummy().is_some(),
        probe: !lengths.contains(&max_new_tokens),
    };
    let all: Vec<usize> = probes(spec, lengths).chain(lengths.iter().copied()).collect();
    batches.iter().flat_map(|batch| all.iter().map(move |length| (*batch, *length))).map(|(b, n)| cell(b, n)).collect()
}

/// The output lengths that are added to separate prefill from decode.
fn probes<'a>(spec: &SweepSpec, lengths: &'a [usize]) -> impl Iterator<Item = usize> + 'a {
    const LENGTHS: [usize; 2] = [1, 8];
    let wanted = spec.measure.splits_prefill(spec.generation.length);
    LENGTHS.into_iter().filter(move |length| wanted && !lengths.contains(length))
}

/// `student-kd.b8.n32`: the label with `-` for blanks, the batch size, the output length.
fn cell_id(label: &str, batch_size: usize, max_new_tokens: usize) -> CellId {
    let label: Vec<&str> = label.split_whitespace().collect();
    CellId(format!("{}.b{batch_size}.n{max_new_tokens}", label.join("-")))
}
