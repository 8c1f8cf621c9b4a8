//! A model's weights and their one forward pass: token ids in, logits out, for every architecture that [`Config`]
//! describes.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Tensor};
use half::{bf16, f16};

use super::attention::{Step, soft_cap};
use super::cache::{Columns, PartState, Sequences};
use super::layer::Layer;
use super::linear::Linear;
use super::norm::Normalise;
use super::place::{Kernels, Place};
use super::positions::{self, TableInUse};
use crate::engine::config::Config;
use crate::engine::layout::MatrixSpec;
use crate::engine::position_encoding::AlibiTable;
use crate::engine::weights::Weights;
use crate::error::{Error, Result};

/// Most attention scores that candle's operations hold at a time, of all rows and heads together: 1 GiB in f32.
pub(crate) const LARGEST_SCORES: u64 = 1 << 28;

/// A model's weights, ready to run.
pub(crate) struct Decoder {
    largest_scores: u64,
    config: Config,
    embedding: Linear,
    /// Table of learned positions `(rows, hidden)`.
    positions: Option<Tensor>,
    embedding_norm: Option<Normalise>,
    project_in: Option<Linear>,
    /// Consecutive layers, each part on a place of its own.
    parts: Vec<Part>,
    windows: Vec<Option<usize>>,
    final_norm: Option<Normalise>,
    project_out: Option<Linear>,
    /// `None` if the embedding table is the output layer.
    output: Option<Linear>,
    first: Place,
    last: Place,
    /// Tables of the rotary embeddings that were last in use.
    tables: Mutex<Vec<Option<TableInUse>>>,
}

struct Part {
    place: Place,
    layers: Vec<Layer>,
}

impl Decoder {
    /// Loads a model onto one or several places, its layers spread over them in order.
    pub(crate) fn load(config: &Config, weights: &Weights, places: &[Place]) -> Result<Self> {
        let [first, ..] = places else {
            return Err(Error::new("a model needs a device"));
        };
        let last = places.last().unwrap_or(first);
        let layout = weights.layout();
        let norm = |spec: &Option<_>, place: &Place| -> Result<Option<Normalise>> {
            spec.as_ref().map(|spec| Normalise::load(weights, spec, place)).transpose()
        };
        let output = output(weights, places, last)?;
        // a table that is only looked up isn't worth packing; one that also computes the logits is
        let table_kernels = if output.is_some() { Kernels::Stock } else { first.kernels };
        let table = weights.load(&layout.embedding, first.dtype, &first.device)?;
        let positions = layout.positions.as_ref().map(|spec| weights.load(spec, first.dtype, &first.device));
        let (project_in, project_out) = match &layout.projections {
            Some([into, out]) => {
                (Some(Linear::load(weights, &[into], first)?), Some(Linear::load(weights, &[out], last)?))
            }
            None => (None, None),
        };
        Ok(Self {
            embedding: Linear::new(table, None, table_kernels)?,
            positions: positions.transpose()?,
            embedding_norm: norm(&layout.embedding_norm, first)?,
            project_in,
            parts: parts(config, weights, places)?,
            windows: config.windows(),
            final_norm: norm(&layout.final_norm, last)?,
            project_out,
            output,
            tables: Mutex::new(vec![None; config.ropes.len()]),
            first: first.clone(),
            last: last.clone(),
            config: config.clone(),
            largest_scores: LARGEST_SCORES,
        })
    }

    /// Holds fewer attention scores at a time.
    pub(crate) fn limit_scores(&mut self, largest: u64) {
        self.largest_scores = largest;
    }

    /// Query tokens that are attended for at a time, if each sees up to `length` columns.
    fn block(&self, rows: usize, length: usize) -> usize {
        let one = (rows * self.config.attention.heads * length).max(1) as u64;
        usize::try_from((self.largest_scores / one).max(1)).unwrap_or(usize::MAX)
    }

    /// Where logits come out.
    pub(crate) fn output_place(&self) -> &Place {
        &self.last
    }

    /// An empty batch for rows of up to `capacity` columns; row r begins at column `starts[r]`.
    pub(crate) fn begin(&self, starts: Vec<usize>, capacity: usize) -> Result<Sequences> {
        let attention = &self.config.attention;
        let scale = self.config.layers.first().map_or(1.0, |layer| layer.scale);
        let alibi = attention.alibi.map(|alibi| Arc::new(AlibiTable::new(alibi, attention, scale, capacity)));
        let columns = Columns { starts: &starts, capacity, alibi: alibi.as_deref() };
        let state = |part: &Part| PartState::new(attention, &part.place, part.layers.len(), columns);
        let parts = self.parts.iter().map(state).collect::<Result<_>>()?;
        Ok(Sequences { length: 0, capacity, tables: Vec::new(), alibi, parts, history: Vec::new(), starts })
    }

    /// Runs new tokens `(b, t)` after those in the cache and gives what goes into the final norm: `(b · t, hidden)`.
    pub(crate) fn hidden(&self, ids: &Tensor, sequences: &mut Sequences) -> Result<Tensor> {
        let Some(limit) = self.config.recompute_past else { return self.run(ids, sequences) };
        let (past, tokens) = (sequences.length, ids.dim(1)?);
        sequences.history.push(ids.clone());
        if past == 0 || past > limit || past + tokens <= limit {
            return self.run(ids, sequences);
        }
        // keys in the cache are rotated by the short table: all of them have to be computed again with the long one
        let all = Tensor::cat(&sequences.history, 1)?;
        sequences.length = 0;
        let x = self.run(&all, sequences)?;
        let (batch, hidden) = (ids.dim(0)?, x.dim(1)?);
        Ok(x.reshape((batch, past + tokens, hidden))?.narrow(1, past, tokens)?.contiguous()?.reshape(((), hidden))?)
    }

    /// Logits `(m, vocabulary)` for rows `(m, hidden)` of what [`Decoder::hidden`] gives.
    pub(crate) fn logits(&self, rows: &Tensor) -> Result<Tensor> {
        let x = match &self.final_norm {
            Some(norm) => norm.forward(rows)?,
            None => rows.clone(),
        };
        let x = match &self.project_out {
            Some(projection) => projection.forward(&x)?,
            None => x,
        };
        let logits = self.output.as_ref().unwrap_or(&self.embedding).forward(&x)?;
        let logits = match self.config.output.scale {
            1.0 => logits,
            scale => (logits * scale)?,
        };
        match self.config.output.softcap {
            Some(cap) => soft_cap(&logits, cap),
            None => Ok(logits),
        }
    }

    fn run(&self, ids: &Tensor, sequences: &mut Sequences) -> Result<Tensor> {
        let tokens = ids.dim(1)?;
        let past = sequences.length;
        let first = sequences.starts.iter().min().copied().unwrap_or_default();
        self.choose_tables(sequences, past + tokens - first);
        let ids = &ids.to_device(&self.first.device)?;
        let mut x = self.embed(ids, sequences)?;
        let block = self.block(sequences.starts.len(), past + tokens);
        for (part, state) in self.parts.iter().zip(&mut sequences.parts) {
            let pass = match &mut state.positions {
                Some(positions) => {
                    positions.rotate_by(&sequences.tables)?;
                    Some(positions.pass(past, tokens, &self.windows, block)?)
                }
                None => None,
            };
            let alibi = sequences.alibi.as_deref();
            let step = Step { starts: &sequences.starts, past, tables: &sequences.tables, alibi, pass };
            x = x.to_device(&part.place.device)?;
            for (layer, cache) in part.layers.iter().zip(&mut state.layers) {
                x = layer.forward(x, &step, cache)?;
            }
        }
        sequences.length += tokens;
        Ok(x.to_device(&self.last.device)?)
    }

    /// `(b, t)` token ids to `(b · t, hidden)`.
    fn embed(&self, ids: &Tensor, sequences: &Sequences) -> Result<Tensor> {
        let x = self.embedding.rows(&ids.flatten_all()?)?;
        let x = match self.scale(x.dtype()) {
            1.0 => x,
            scale => (x * scale)?,
        };
        let x = match &self.project_in {
            Some(projection) => projection.forward(&x)?,
            None => x,
        };
        let x = match (&self.positions, self.config.embedding.positions) {
            (Some(table), Some(positions)) => {
                let (past, tokens) = (sequences.length, ids.dim(1)?);
                let rows = positions::learned(&sequences.starts, past, tokens, positions.offset, &self.first)?;
                (x + table.index_select(&rows, 0)?)?
            }
            _ => x,
        };
        match &self.embedding_norm {
            Some(norm) => norm.forward(&x),
            None => Ok(x),
        }
    }

    fn scale(&self, dtype: DType) -> f64 {
        let scale = self.config.embedding.scale;
        match (self.config.embedding.round_scale, dtype) {
            (true, DType::BF16) => bf16::from_f64(scale).to_f64(),
            (true, DType::F16) => f16::from_f64(scale).to_f64(),
            _ => scale,
        }
    }

    /// Sets the tables that rotate a batch whose longest row has this length. Tables are kept from one batch to the
    /// next.
    fn choose_tables(&self, sequences: &mut Sequences, longest: usize) {
        let mut kept = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, (rope, kept)) in self.config.ropes.iter().zip(kept.iter_mut()).enumerate() {
            let key = rope.key(longest);
            if sequences.tables.get(index).is_some_and(|(used, _)| *used == key) {
                continue;
            }
            let fits = |(used, table): &&TableInUse| *used == key && table.positions() >= sequences.capacity;
            let table = match kept.as_ref().filter(fits) {
                Some(table) => table.clone(),
                // rounded up, so that a slightly longer batch finds the table long enough
                None => (key, Arc::new(rope.table(key, sequences.capacity.next_power_of_two()))),
            };
            *kept = Some(table.clone());
            match sequences.tables.get_mut(index) {
                Some(used) => *used = table,
                None => sequences.tables.push(table),
            }
        }
    }
}

/// The output layer, unless it is the embedding table as it was loaded.
fn output(weights: &Weights, places: &[Place], last: &Place) -> Result<Option<Linear>> {
    match weights.has_own_output() {
        true => Ok(Some(Linear::load(weights, &[&weights.layout().output], last)?)),
        false => tied_output(weights, last, places.len() > 1),
    }
}

/// The embedding table as an output layer of its own, if it has to be on another device or is quantised.
fn tied_output(weights: &Weights, place: &Place, elsewhere: bool) -> Result<Option<Linear>> {
    let layout = weights.layout();
    let quantised = weights.are_quantised();
    if !elsewhere && !quantised && layout.output.bias.is_none() {
        return Ok(None);
    }
    let tied = MatrixSpec { weight: layout.embedding.clone(), bias: layout.output.bias.clone(), transposed: false };
    Ok(Some(Linear::load(weights, &[&tied], place)?))
}

/// Spreads the layers over the places as evenly as they divide, the first places taking one more.
fn parts(config: &Config, weights: &Weights, places: &[Place]) -> Result<Vec<Part>> {
    let (each, more) = (config.layers.len() / places.len(), config.layers.len() % places.len());
    let mut next = 0;
    let part = |(index, place): (usize, &Place)| {
        let begin = next;
        next += each + usize::from(index < more);
        let load = |index| Layer::load(config, &weights.layout().layers[index], index, weights, place);
        Ok(Part { place: place.clone(), layers: (begin..next).map(load).collect::<Result<_>>()? })
    };
    places.iter().enumerate().map(part).collect()
}
