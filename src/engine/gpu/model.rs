//! A model's weights on the GPU, and its forward pass over them.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};

use super::choose::{self, Choice};
use super::driver::{Buffer, Driver, Mark, Pointer};
use super::embed::{self, Embed, Positions};
use super::layer::{Columns, Layer, NormLayer, Pass, Pending};
use super::matrix::{Gpu, Matrix};
use super::room::{Room, Workspace};
use super::sequences::{Sequences, view};
use crate::engine::config::{Config, Rope};
use crate::engine::heads::Heads;
use crate::engine::layout::MatrixSpec;
use crate::engine::weights::Weights;
use crate::error::{Error, Result};

/// Tokens that go through the layers at a time in prefill: enough for the matrix products to run at their best, and few
/// enough that activations take little memory beside the weights.
const CHUNK: usize = 8192;

/// A model's weights on the GPU.
pub(crate) struct Model {
    config: Config,
    /// `(vocabulary, hidden)`.
    embedding: Buffer,
    /// Table of learned positions `(rows, hidden)`.
    positions: Option<Buffer>,
    embedding_norm: Option<NormLayer>,
    layers: Vec<Layer>,
    final_norm: Option<NormLayer>,
    output: Matrix,
    /// Activations of prefill.
    work: RefCell<Option<Workspace>>,
    /// The room of the last batch, for the next.
    spare: Arc<Mutex<Option<Room>>>,
    /// Dropped last: recorded launches are of its kernels.
    gpu: Gpu,
}

/// What a step ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StepEnd {
    /// Logits.
    Logits,
    /// The next token of each row is chosen; with `fixed` length never one that ends a sequence.
    Choice { fixed: bool },
}

impl Model {
    /// Loads a model of which nothing is in the way (see [`obstacles`](super::obstacles)).
    ///
    /// # Errors
    /// Weights that can't be read, or a device that is full.
    pub(crate) fn load(config: &Config, weights: &Weights, device: &Device, dtype: DType) -> Result<Self> {
        let driver = Driver::new(device)?;
        let gpu = Gpu::new(driver, dtype)?;
        let layout = weights.layout();
        let load = |spec| Buffer::of(weights.load(spec, dtype, device)?);
        let norm = |spec: &Option<_>| -> Result<Option<NormLayer>> {
            spec.as_ref().map(|spec| NormLayer::load(weights, spec, dtype, device)).transpose()
        };
        let embedding = load(&layout.embedding)?;
        let tied = MatrixSpec { weight: layout.embedding.clone(), ..layout.output.clone() };
        let output = match weights.has_own_output() {
            true => Matrix::load(weights, &[&layout.output], &gpu)?,
            // beside the table in f32, which tokens are looked up in
            false if weights.are_quantised() => Matrix::load(weights, &[&tied], &gpu)?,
            false => {
                let bias = weights.load_bias(&[&tied], dtype, device)?;
                Matrix::new(crate::engine::weights::matrices::Matrix { weight: embedding.tensor().clone(), bias })?
            }
        };
        let layer = |index: usize| Layer::load(config, &layout.layers[index], index, weights, &gpu);
        let layers = (0..config.layers.len()).map(layer).collect::<Result<_>>()?;
        Ok(Self {
            positions: layout.positions.as_ref().map(load).transpose()?,
            embedding_norm: norm(&layout.embedding_norm)?,
            final_norm: norm(&layout.final_norm)?,
            config: config.clone(),
            embedding,
            layers,
            output,
            work: RefCell::new(None),
            spare: Arc::new(Mutex::new(None)),
            gpu,
        })
    }

    /// An empty batch for rows of up to `capacity` columns; row r begins at column `starts[r]`.
    ///
    /// # Errors
    /// The device is full.
    pub(crate) fn begin(&self, starts: Vec<usize>, capacity: usize) -> Result<Sequences> {
        let room = self.room(starts.len(), capacity)?;
        let mut sequences = Sequences::new(starts, capacity, room, self.spare.clone());
        sequences.write_starts(&self.gpu.driver)?;
        Ok(sequences)
    }

    fn room(&self, batch: usize, columns: usize) -> Result<Room> {
        let kept = self.spare.lock().unwrap_or_else(PoisonError::into_inner).take();
        match kept {
            Some(room) if room.fits(batch, columns) => Ok(room),
            other => {
                // its memory is free again before more is taken
                drop(other);
                Room::new(&self.gpu, &self.config, batch, columns)
            }
        }
    }

    /// Runs new tokens `(b, t)` after those in the cache and gives what goes into the final norm: `(b · t, hidden)`.
    ///
    /// # Errors
    /// A failure of the device, which may be full.
    pub(crate) fn hidden(&self, ids: &Tensor, sequences: &mut Sequences) -> Result<Tensor> {
        let (batch, tokens) = ids.dims2()?;
        let Some(all) = sequences.recomputed(ids, self.config.recompute_past)? else {
            return self.prefill(ids, sequences);
        };
        let x = self.prefill(&all, sequences)?;
        let (width, length) = (self.config.hidden_size, all.dim(1)?);
        let new = x.reshape((batch, length, width))?.narrow(1, length - tokens, tokens)?;
        Ok(new.contiguous()?.reshape((batch * tokens, width))?)
    }

    /// Logits `(m, vocabulary)` for rows `(m, hidden)` of what [`Model::hidden`] gives.
    ///
    /// # Errors
    /// A failure of the device, which may be full.
    pub(crate) fn logits(&self, rows: &Tensor) -> Result<Tensor> {
        let rows = Buffer::of(rows.contiguous()?)?;
        let count = rows.tensor().dim(0)?;
        let normed = self.gpu.driver.zeros(count * self.config.hidden_size, self.gpu.dtype)?;
        let logits = self.gpu.driver.zeros(count * self.config.vocab_size, self.gpu.dtype)?;
        self.finish(rows.pointer(), Pending::NOTHING, count, &normed, &logits)?;
        Ok(logits.tensor().reshape((count, self.config.vocab_size))?)
    }

    /// Runs new tokens `(b, t)`: the logits `(b, vocabulary)` that follow the last of each row. They are in memory that
    /// the next call uses again.
    ///
    /// # Errors
    /// A failure of the device, which may be full.
    pub(crate) fn next_logits(&self, ids: &Tensor, sequences: &mut Sequences) -> Result<Tensor> {
        let (batch, tokens) = ids.dims2()?;
        if tokens == 1 && sequences.length > 0 && self.config.recompute_past.is_none() {
            sequences.write_inputs(ids, &self.gpu.driver)?;
            sequences.write_progress(&self.gpu.driver, sequences.length, 0)?;
            self.step(sequences, StepEnd::Logits)?;
        } else {
            let hidden = self.hidden(ids, sequences)?;
            self.last_logits(&hidden, sequences)?;
        }
        Ok(sequences.room()?.logits.tensor().reshape((batch, self.config.vocab_size))?)
    }

    /// Reads the prompts and chooses the first token of each row.
    ///
    /// # Errors
    /// A failure of the device, which may be full.
    pub(crate) fn choose_first(&self, ids: &Tensor, sequences: &mut Sequences, fixed: bool) -> Result<()> {
        let hidden = self.hidden(ids, sequences)?;
        self.last_logits(&hidden, sequences)?;
        self.choose(sequences.room()?, fixed, 0)
    }

    /// Whether the steps from `now` to `then` columns can run ahead of the host: nothing in them is decided there.
    pub(crate) fn runs_ahead(&self, sequences: &Sequences, now: usize, then: usize) -> bool {
        let padding = sequences.starts.iter().min().copied().unwrap_or_default();
        let same = |rope: &Rope| rope.key(now - padding) == rope.key(then - padding);
        let recomputes = self.config.recompute_past.is_some_and(|limit| now <= limit && then > limit);
        self.config.ropes.iter().all(same) && !recomputes
    }

    /// Where the model runs.
    pub(crate) fn device(&self) -> &Device {
        self.gpu.driver.device()
    }

    /// Token ids are below this.
    pub(crate) fn vocabulary(&self) -> usize {
        self.config.vocab_size
    }

    /// A mark behind all work so far.
    ///
    /// # Errors
    /// A failure of the device.
    pub(crate) fn mark(&self) -> Result<Mark> {
        self.gpu.driver.mark()
    }

    /// Waits until the device has passed a mark.
    ///
    /// # Errors
    /// Work before it that has failed.
    pub(crate) fn wait_for(&self, mark: &Mark) -> Result<()> {
        self.gpu.driver.wait_for(mark)
    }

    /// Waits until all work is done.
    ///
    /// # Errors
    /// Work that has failed.
    pub(crate) fn wait(&self) -> Result<()> {
        self.gpu.driver.wait()
    }

    /// A step of one token a row, whose ids the step before has chosen, or the host has written.
    ///
    /// # Errors
    /// A failure of the device.
    pub(crate) fn step(&self, sequences: &mut Sequences, end: StepEnd) -> Result<()> {
        sequences.rotate(&self.config, &self.gpu.driver, 1)?;
        sequences.length += 1;
        let warmed = sequences.warmed;
        sequences.warmed = true;
        let room = sequences.room()?;
        let graph = match end {
            StepEnd::Logits => &room.plain,
            StepEnd::Choice { fixed } => &room.greedy[usize::from(fixed)],
        };
        match graph.get() {
            Some(graph) => self.gpu.driver.replay(graph),
            // the first step of a room loads what libraries load on first use, which can't be recorded
            None if !warmed => self.launch_step(room, end),
            None => {
                let recorded = self.gpu.driver.record(|| self.launch_step(room, end))?;
                self.gpu.driver.replay(graph.get_or_init(|| recorded))
            }
        }
    }

    /// Launches of a step of one row. Running one also makes the libraries load what they need.
    ///
    /// # Errors
    /// A failure of the device, which may be full.
    pub(crate) fn launches_per_step(&self) -> Result<u32> {
        let mut sequences = self.begin(vec![0], 1)?;
        sequences.rotate(&self.config, &self.gpu.driver, 1)?;
        sequences.write_progress(&self.gpu.driver, 0, 0)?;
        let before = self.gpu.driver.launches();
        self.launch_step(sequences.room()?, StepEnd::Choice { fixed: true })?;
        let launches = self.gpu.driver.launches() - before;
        self.gpu.driver.wait()?;
        Ok(launches as u32)
    }

    /// The launches of one step.
    fn launch_step(&self, room: &Room, end: StepEnd) -> Result<()> {
        let columns = Columns { first_row: 0, rows: room.batch, tokens: 1 };
        let x = room.work.x.pointer();
        let pending = self.launch_layers(room.inputs.pointer(), room, &room.work, columns, x)?;
        self.finish(x, pending, room.batch, &room.work.normed, &room.logits)?;
        match end {
            StepEnd::Logits => Ok(()),
            StepEnd::Choice { fixed } => self.choose(room, fixed, 1),
        }
    }

    /// Embeds tokens and runs them through the layers, their residual stream at `x`; gives what it lacks then.
    fn launch_layers(
        &self,
        ids: Pointer,
        room: &Room,
        work: &Workspace,
        columns: Columns,
        x: Pointer,
    ) -> Result<Pending<'_>> {
        let hidden = self.config.hidden_size;
        let offset = self.config.embedding.positions.map_or(0, |positions| positions.offset);
        let embed = Embed {
            ids,
            table: self.embedding.pointer(),
            vocabulary: self.config.vocab_size,
            width: hidden,
            scale: self.scale(),
            positions: self.positions.as_ref().map(|table| Positions { table: table.pointer(), offset }),
            starts: room.starts.at(columns.first_row),
            length: room.progress.pointer(),
            x,
        };
        embed::run(&self.gpu.driver, self.gpu.dtype, columns.rows, columns.tokens, &embed)?;
        if let Some(norm) = &self.embedding_norm {
            Pending::NOTHING.join(&self.gpu, [columns.count(), hidden], x, [Some((norm, x)), None])?;
        }
        let activation = self.config.activation;
        let mut pass = Pass { gpu: &self.gpu, room, work, columns, hidden, activation, layer: 0 };
        let mut pending = Pending::NOTHING;
        for layer in &self.layers {
            pending = layer.launch(&pass, x, pending)?;
            pass.layer += 1;
        }
        Ok(pending)
    }

    /// The factor of the embedding, rounded as in transformers.
    fn scale(&self) -> f32 {
        let scale = self.config.embedding.scale;
        match (self.config.embedding.round_scale, self.gpu.dtype) {
            (true, DType::BF16) => bf16::from_f64(scale).to_f32(),
            (true, DType::F16) => f16::from_f64(scale).to_f32(),
            _ => scale as f32,
        }
    }

    /// From the residual stream of `rows` rows at `x`, which lacks `pending`, to their logits.
    fn finish(&self, x: Pointer, pending: Pending<'_>, rows: usize, normed: &Buffer, logits: &Buffer) -> Result<()> {
        let norm = self.final_norm.as_ref().map(|norm| (norm, normed.pointer()));
        pending.join(&self.gpu, [rows, self.config.hidden_size], x, [norm, None])?;
        let input = if norm.is_some() { normed.pointer() } else { x };
        self.output.multiply(&self.gpu, input, rows, logits.pointer())?;
        let (scale, softcap) = (self.config.output.scale, self.config.output.softcap);
        if scale == 1.0 && softcap.is_none() {
            return Ok(());
        }
        let count = rows * self.config.vocab_size;
        choose::cap(
            &self.gpu.driver,
            self.gpu.dtype,
            logits.pointer(),
            count,
            scale as f32,
            softcap.map(|cap| cap as f32),
        )
    }

    /// The logits after the last token of each row, from the residual streams `(b · t, hidden)` of all.
    fn last_logits(&self, hidden: &Tensor, sequences: &Sequences) -> Result<()> {
        let room = sequences.room()?;
        let width = self.config.hidden_size;
        let tokens = hidden.dim(0)? / room.batch;
        let last = hidden.reshape((room.batch, tokens, width))?.narrow(1, tokens - 1, 1)?;
        let last = Buffer::of(last.contiguous()?)?;
        self.finish(last.pointer(), Pending::NOTHING, room.batch, &room.work.normed, &room.logits)
    }

    /// Chooses the next token of each row; `advance` columns have been added to the caches.
    fn choose(&self, room: &Room, fixed: bool, advance: usize) -> Result<()> {
        let choice = Choice {
            logits: room.logits.pointer(),
            pitch: self.config.vocab_size,
            chosen: room.chosen.pointer(),
            next: room.inputs.pointer(),
            length: room.progress.pointer(),
            step: room.progress.at(1),
            advance,
        };
        room.choosers[usize::from(fixed)].run(&self.gpu.driver, self.gpu.dtype, &choice)
    }

    /// Runs prompts through the layers, some rows at a time: `(b · t, hidden)`.
    fn prefill(&self, ids: &Tensor, sequences: &mut Sequences) -> Result<Tensor> {
        let (batch, tokens) = ids.dims2()?;
        let width = self.config.hidden_size;
        sequences.rotate(&self.config, &self.gpu.driver, tokens)?;
        let ids = Buffer::of(ids.contiguous()?)?;
        let x = self.gpu.driver.zeros(batch * tokens * width, self.gpu.dtype)?;
        let past = sequences.length;
        // whole rows go together; a row that is too long goes in parts
        let (rows, part) = ((CHUNK / tokens).clamp(1, batch), tokens.min(CHUNK));
        let mut kept = self.work.borrow_mut();
        let work = match kept.take() {
            Some(work) if work.tokens >= rows * part => kept.insert(work),
            other => {
                drop(other);
                kept.insert(Workspace::new(&self.gpu.driver, &self.config, rows * part, self.gpu.dtype)?)
            }
        };
        for first in (0..tokens).step_by(part) {
            let count = part.min(tokens - first);
            sequences.write_progress(&self.gpu.driver, past + first, 0)?;
            for row in (0..batch).step_by(rows) {
                let columns = Columns { first_row: row, rows: rows.min(batch - row), tokens: count };
                let at = row * tokens + first;
                let to = x.at(at * width);
                let pending = self.launch_layers(ids.at(at), sequences.room()?, work, columns, to)?;
                pending.join(&self.gpu, [columns.count(), width], to, [None, None])?;
            }
        }
        sequences.length = past + tokens;
        sequences.write_progress(&self.gpu.driver, sequences.length, 0)?;
        Ok(x.tensor().reshape((batch * tokens, width))?)
    }

    /// Row r of the batch becomes what row `rows[r]` was; a row may go on several times or not at all.
    ///
    /// Copies the columns of each layer's cache that are in use, and nothing if all rows stay as they are.
    ///
    /// # Errors
    /// A row that the batch doesn't have, or a device that is full.
    pub(crate) fn reorder(&self, rows: &[usize], sequences: &mut Sequences) -> Result<()> {
        if rows.iter().copied().eq(0..sequences.starts.len()) {
            return Ok(());
        }
        let start = |row: &usize| sequences.starts.get(*row).copied();
        let Some(starts) = rows.iter().map(start).collect::<Option<Vec<usize>>>() else {
            return Err(Error::new("a batch can't go on with a row that it doesn't have"));
        };
        let numbers: Vec<u32> = rows.iter().map(|row| *row as u32).collect();
        let index = self.gpu.driver.upload(&numbers)?;
        sequences.reorder_history(index.tensor())?;
        let old = sequences.room()?;
        let heads = Heads::of(&self.config.attention);
        let shape = |room: &Room| [room.batch, heads.keys, room.capacity, heads.width];
        let grown = match rows.len() == old.batch {
            true => None,
            false => Some(Room::new(&self.gpu, &self.config, rows.len(), sequences.capacity)?),
        };
        let new = grown.as_ref().unwrap_or(old);
        for (from, to) in old.caches.iter().zip(&new.caches) {
            for (from, to) in [(&from.keys, &to.keys), (&from.values, &to.values)] {
                let used = view(from, &shape(old))?.narrow(2, 0, sequences.length)?.contiguous()?;
                let kept = used.index_select(index.tensor(), 0)?;
                view(to, &shape(new))?.slice_set(&kept, 2, 0)?;
            }
        }
        if let Some(room) = grown {
            sequences.move_to(room);
            sequences.rotate(&self.config, &self.gpu.driver, 0)?;
        }
        sequences.starts = starts;
        sequences.write_starts(&self.gpu.driver)?;
        sequences.write_progress(&self.gpu.driver, sequences.length, 0)
    }
}
