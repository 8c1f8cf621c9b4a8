//! The positions of tokens as candle's own operations need them: rotations, masks and linear biases.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::place::Place;
use crate::engine::position_encoding::{AlibiTable, RopeKey, RopeTable};
use crate::error::Result;

/// Added to the scores of masked columns. Finite, so that a row of nothing but padding isn't NaN, and small enough that
/// two of them don't overflow.
const MASKED: f32 = f32::MIN / 4.0;

/// A rotary embedding's table in use, by which all parts of a model rotate.
pub(crate) type TableInUse = (RopeKey, Arc<RopeTable>);

/// Positions of a left-padded batch by column. Row r begins at column `starts[r]`, where its position is 0.
pub(crate) struct Positions {
    place: Place,
    starts: Vec<usize>,
    capacity: usize,
    /// `(b, 1, 1, capacity)`, if rows are padded.
    padding: Option<Tensor>,
    /// One for each rotary embedding.
    rotations: Vec<Rotation>,
    /// `(b, h, 1, capacity)`.
    alibi: Option<Tensor>,
}

struct Rotation {
    key: RopeKey,
    /// `(capacity, pairs)`, or `(capacity, b, pairs)` if rows are padded.
    cos: Tensor,
    /// As `cos`.
    sin: Tensor,
}

/// The part of one forward pass.
pub(crate) struct Pass<'a> {
    positions: &'a Positions,
    windows: &'a [Option<usize>],
    past: usize,
    /// Query tokens of a row that are attended for at a time.
    pub(crate) block: usize,
    /// Cosines and sines of each rotary embedding, `(t, pairs)`, or `(b, t, pairs)` if rows are padded.
    pub(crate) rotations: Vec<[Tensor; 2]>,
    /// One for each window of the model, if all queries go in one block.
    masks: Vec<Option<Tensor>>,
    /// `(b, h, 1, past + t)`.
    pub(crate) alibi: Option<Tensor>,
}

impl Pass<'_> {
    /// The mask of a window for `count` query tokens from `first` on: broadcasts to
    /// `(b, h, count, past + first + count)`.
    pub(crate) fn mask(&self, window: usize, first: usize, count: usize) -> Result<Option<Tensor>> {
        match self.masks.get(window) {
            Some(mask) => Ok(mask.clone()),
            None => self.positions.mask(self.past + first, count, self.windows[window]),
        }
    }
}

impl Positions {
    /// Positions for rows of up to `capacity` columns.
    pub(crate) fn new(place: &Place, starts: &[usize], capacity: usize, alibi: Option<&AlibiTable>) -> Result<Self> {
        let padding = match starts.iter().all(|start| *start == 0) {
            true => None,
            false => {
                let mask =
                    starts.iter().flat_map(|start| (0..capacity).map(move |c| if c < *start { MASKED } else { 0.0 }));
                Some(Tensor::from_vec(mask.collect(), (starts.len(), 1, 1, capacity), &place.device)?)
            }
        };
        let alibi = alibi.map(|table| table.by_column(starts, capacity, &place.device)).transpose()?;
        Ok(Self { place: place.clone(), starts: starts.to_vec(), capacity, padding, rotations: Vec::new(), alibi })
    }

    /// Numbers of rows `(b)` on the device.
    pub(crate) fn index(&self, rows: &[usize]) -> Result<Tensor> {
        row_index(rows, &self.place.device)
    }

    /// Row r becomes what row `rows[r]` was; `index` is the same on the device.
    pub(crate) fn reorder(&mut self, rows: &[usize], index: &Tensor) -> Result<()> {
        self.starts = rows.iter().filter_map(|row| self.starts.get(*row).copied()).collect();
        if let Some(alibi) = &mut self.alibi {
            *alibi = alibi.index_select(index, 0)?;
        }
        let Some(padding) = &mut self.padding else { return Ok(()) };
        *padding = padding.index_select(index, 0)?;
        for rotation in &mut self.rotations {
            rotation.cos = rotation.cos.index_select(index, 1)?;
            rotation.sin = rotation.sin.index_select(index, 1)?;
        }
        Ok(())
    }

    /// Takes over the tables in use, if they have changed.
    pub(crate) fn rotate_by(&mut self, tables: &[TableInUse]) -> Result<()> {
        for (index, (key, table)) in tables.iter().enumerate() {
            match self.rotations.get(index) {
                Some(rotation) if rotation.key == *key => {}
                Some(_) => self.rotations[index] = self.rotation(*key, table)?,
                None => self.rotations.push(self.rotation(*key, table)?),
            }
        }
        Ok(())
    }

    fn rotation(&self, key: RopeKey, table: &RopeTable) -> Result<Rotation> {
        let [cos, sin] = table.to_device(self.capacity, self.place.dtype, &self.place.device)?;
        if self.padding.is_none() {
            return Ok(Rotation { key, cos, sin });
        }
        let rows = self.starts.len();
        let positions =
            (0..self.capacity).flat_map(|c| self.starts.iter().map(move |start| c.saturating_sub(*start) as u32));
        let positions = Tensor::from_vec(positions.collect(), self.capacity * rows, &self.place.device)?;
        let by_column = |table: Tensor| table.index_select(&positions, 0)?.reshape((self.capacity, rows, ()));
        Ok(Rotation { key, cos: by_column(cos)?, sin: by_column(sin)? })
    }

    /// The part for `tokens` new columns after `past`, `block` of them attended for at a time.
    pub(crate) fn pass<'a>(
        &'a self,
        past: usize,
        tokens: usize,
        windows: &'a [Option<usize>],
        block: usize,
    ) -> Result<Pass<'a>> {
        let part = |table: &Tensor| -> Result<Tensor> {
            let columns = table.narrow(0, past, tokens)?;
            match self.padding {
                Some(_) => Ok(columns.transpose(0, 1)?.contiguous()?),
                None => Ok(columns),
            }
        };
        let rotations = self.rotations.iter().map(|rotation| Ok([part(&rotation.cos)?, part(&rotation.sin)?]));
        // with several blocks each makes its mask: masks for all tokens would take the memory that blocks save
        let kept = if block < tokens { &[] } else { windows };
        let masks = kept.iter().map(|window| self.mask(past, tokens, *window));
        Ok(Pass {
            positions: self,
            windows,
            past,
            block,
            rotations: rotations.collect::<Result<_>>()?,
            masks: masks.collect::<Result<_>>()?,
            alibi: self.alibi.as_ref().map(|alibi| alibi.narrow(3, 0, past + tokens)).transpose()?,
        })
    }

    fn mask(&self, past: usize, tokens: usize, window: Option<usize>) -> Result<Option<Tensor>> {
        let length = past + tokens;
        let padding = self.padding.as_ref().map(|padding| padding.narrow(3, 0, length)).transpose()?;
        if tokens == 1 && window.is_none_or(|window| length <= window) {
            return Ok(padding);
        }
        let mask = self.seen(past, tokens, window)?;
        match padding {
            Some(padding) => Ok(Some(mask.broadcast_add(&padding)?)),
            None => Ok(Some(mask)),
        }
    }

    /// Mask of the columns that new tokens after `past` see, up to their own: `(1, 1, tokens, past + tokens)`, made on
    /// the device.
    fn seen(&self, past: usize, tokens: usize, window: Option<usize>) -> Result<Tensor> {
        let length = past + tokens;
        let range = |from: usize, to: usize| Tensor::arange(from as u32, to as u32, &self.place.device);
        let own = range(past, length)?.reshape((tokens, 1))?;
        let later = range(0, length)?.reshape((1, length))?.broadcast_gt(&own)?.to_dtype(DType::F32)?;
        let hidden = match window {
            Some(window) if window < length => {
                let left_behind = range(window, length + window)?.reshape((1, length))?.broadcast_le(&own)?;
                (later + left_behind.to_dtype(DType::F32)?)?
            }
            _ => later,
        };
        Ok((hidden * f64::from(MASKED))?.reshape((1, 1, tokens, length))?)
    }
}

/// Numbers of rows `(b)` on a device.
pub(crate) fn row_index(rows: &[usize], device: &Device) -> Result<Tensor> {
    let numbers = rows.iter().map(|row| *row as u32).collect::<Vec<u32>>();
    Ok(Tensor::from_vec(numbers, rows.len(), device)?)
}

/// Row indices of a table of learned positions for `tokens` new columns after `past`: `(b · t)`.
pub(crate) fn learned(starts: &[usize], past: usize, tokens: usize, offset: usize, place: &Place) -> Result<Tensor> {
    let rows = starts
        .iter()
        .flat_map(|start| (past..past + tokens).map(move |column| (column.saturating_sub(*start) + offset) as u32));
    Ok(Tensor::from_vec(rows.collect::<Vec<_>>(), starts.len() * tokens, &place.device)?.to_dtype(DType::U32)?)
}
