//! A left-padded batch under way: where it is, and the room that holds its keys and values.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Tensor};

use super::driver::{Buffer, Driver};
use super::room::Room;
use crate::engine::config::Config;
use crate::error::{Error, Result};

/// A left-padded batch under way. All rows end at the same column; row r begins at column `starts[r]`.
pub(crate) struct Sequences {
    /// First column of each row that isn't padding.
    pub(crate) starts: Vec<usize>,
    /// Columns that the caches hold.
    pub(crate) length: usize,
    /// Columns that there may be.
    pub(crate) capacity: usize,
    /// A step has run in the room.
    pub(super) warmed: bool,
    /// Taken out only when this is dropped.
    room: Option<Room>,
    /// Where the room goes in the end.
    spare: Arc<Mutex<Option<Room>>>,
    /// All token ids so far, each `(b, t)`, for a model that may have to recompute them.
    history: Vec<Tensor>,
}

impl Sequences {
    /// An empty batch in a room for it.
    pub(super) fn new(starts: Vec<usize>, capacity: usize, room: Room, spare: Arc<Mutex<Option<Room>>>) -> Self {
        let warmed = room.is_recorded();
        Self { starts, length: 0, capacity, warmed, room: Some(room), spare, history: Vec::new() }
    }

    /// The buffers.
    pub(super) fn room(&self) -> Result<&Room> {
        self.room.as_ref().ok_or_else(|| Error::new("the batch has ended"))
    }

    /// Moves on to another room.
    pub(super) fn move_to(&mut self, room: Room) {
        self.warmed = room.is_recorded();
        self.room = Some(room);
    }

    /// Tells the device where rows begin.
    pub(super) fn write_starts(&mut self, driver: &Driver) -> Result<()> {
        let starts: Vec<u32> = self.starts.iter().map(|start| *start as u32).collect();
        driver.write(&starts, &self.room()?.starts)
    }

    /// Tells the device how many columns the caches hold, and the number of the step.
    pub(super) fn write_progress(&self, driver: &Driver, length: usize, step: usize) -> Result<()> {
        driver.write(&[length as u32, step as u32], &self.room()?.progress)
    }

    /// Gives the device the next token of each row `(b, 1)`.
    pub(super) fn write_inputs(&self, ids: &Tensor, driver: &Driver) -> Result<()> {
        driver.write(&ids.to_dtype(DType::U32)?.flatten_all()?.to_vec1::<u32>()?, &self.room()?.inputs)
    }

    /// Brings the rotations for the lengths after `tokens` more columns into the room's tables.
    pub(super) fn rotate(&mut self, config: &Config, driver: &Driver, tokens: usize) -> Result<()> {
        let longest = self.length + tokens - self.starts.iter().min().copied().unwrap_or_default();
        match &mut self.room {
            Some(room) => room.rotate(config, driver, longest),
            None => Err(Error::new("the batch has ended")),
        }
    }

    /// Takes note of new tokens `(b, t)`; all tokens so far if the caches have to be filled again with them, because the
    /// sequences grow past `limit`.
    pub(super) fn recomputed(&mut self, ids: &Tensor, limit: Option<usize>) -> Result<Option<Tensor>> {
        let Some(limit) = limit else { return Ok(None) };
        let (past, tokens) = (self.length, ids.dim(1)?);
        self.history.push(ids.clone());
        if past == 0 || past > limit || past + tokens <= limit {
            return Ok(None);
        }
        self.length = 0;
        Ok(Some(Tensor::cat(&self.history, 1)?))
    }

    /// Row r of the tokens so far becomes what row `rows[r]` was.
    pub(super) fn reorder_history(&mut self, rows: &Tensor) -> Result<()> {
        if !self.history.is_empty() {
            self.history = vec![Tensor::cat(&self.history, 1)?.index_select(rows, 0)?];
        }
        Ok(())
    }

    /// The two choices of each row at a step, once the device has passed it: of all tokens, and of those that don't end
    /// a sequence.
    ///
    /// # Errors
    /// The batch has ended.
    pub(crate) fn chosen(&self, step: usize) -> Result<Vec<[u32; 2]>> {
        let room = self.room()?;
        let flat = room.chosen.read(step * 2 * room.batch, 2 * room.batch);
        Ok(flat.chunks_exact(2).map(|pair| [pair[0], pair[1]]).collect())
    }
}

impl Drop for Sequences {
    fn drop(&mut self) {
        *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = self.room.take();
    }
}

/// The first `count` of the numbers that a tensor's memory begins with, as a tensor of this shape.
pub(super) fn view(buffer: &Buffer, shape: &[usize]) -> Result<Tensor> {
    let count = shape.iter().product();
    Ok(buffer.tensor().flatten_all()?.narrow(0, 0, count)?.reshape(shape)?)
}
