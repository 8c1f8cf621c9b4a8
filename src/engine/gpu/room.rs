//! The buffers of a batch: keys and values, activations, and what a step of decoding reads and writes. They are kept for
//! the next batch of the same size, since a recorded step knows their addresses.

use std::cell::OnceCell;

use candle_core::DType;

use super::attention;
use super::choose::Chooser;
use super::driver::{Buffer, Driver, Graph};
use super::matrix::Gpu;
use super::mixture;
use super::pinned::Pinned;
use crate::engine::config::{Config, FeedForward};
use crate::engine::heads::Heads;
use crate::engine::position_encoding::{AlibiTable, RopeKey};
use crate::error::Result;

/// Capacities are multiples of this many columns, so that batches of about the same length share a room.
const COLUMNS: usize = 128;

/// The buffers of a batch of some size.
pub(crate) struct Room {
    /// Rows.
    pub(crate) batch: usize,
    /// Columns that the caches have room for.
    pub(crate) capacity: usize,
    /// The caches of each layer.
    pub(crate) caches: Vec<Cache>,
    /// First column of each row that isn't padding `(b)`.
    pub(crate) starts: Buffer,
    /// Columns in the caches, then the number of the step.
    pub(crate) progress: Buffer,
    /// The next input of each row `(b)`.
    pub(crate) inputs: Buffer,
    /// `(b, vocabulary)`.
    pub(crate) logits: Buffer,
    /// The two choices of each row and step `(capacity, b, 2)`.
    pub(crate) chosen: Pinned,
    /// Activations of one token a row.
    pub(crate) work: Workspace,
    /// One for each rotary embedding.
    pub(crate) tables: Vec<Rotations>,
    /// Linear biases `(h, capacity)`.
    pub(crate) alibi: Option<Buffer>,
    pub(crate) attention: attention::Scratch,
    /// Choosers of the next tokens for natural and for fixed length.
    pub(crate) choosers: [Chooser; 2],
    /// A step that chooses tokens, with end-of-sequence tokens masked or not.
    pub(crate) greedy: [OnceCell<Graph>; 2],
    /// A step that ends with logits.
    pub(crate) plain: OnceCell<Graph>,
}

/// Keys and values of a layer, each `(b, kv, capacity, d)`.
pub(crate) struct Cache {
    pub(crate) keys: Buffer,
    pub(crate) values: Buffer,
}

/// Cosines and sines of a rotary embedding, each `(capacity, pairs)`.
pub(crate) struct Rotations {
    /// The frequencies that are in the tables.
    key: Option<RopeKey>,
    pub(crate) pairs: usize,
    pub(crate) cos: Buffer,
    pub(crate) sin: Buffer,
}

/// Activations of so many tokens.
pub(crate) struct Workspace {
    pub(crate) tokens: usize,
    /// The residual stream `(m, hidden)`.
    pub(crate) x: Buffer,
    /// After a norm `(m, hidden)`.
    pub(crate) normed: Buffer,
    /// After the second norm of a parallel layer `(m, hidden)`.
    pub(crate) second: Buffer,
    /// Queries, keys and values `(m, (h + 2 kv) · d)`.
    pub(crate) qkv: Buffer,
    /// What attention gives `(m, h · d)`.
    pub(crate) attended: Buffer,
    /// The part that attention adds to the residual stream `(m, hidden)`.
    pub(crate) part: Buffer,
    /// Gate and up, or up `(m, 2 · inner)`.
    pub(crate) wide: Buffer,
    /// After the activation `(m, inner)`.
    pub(crate) gated: Buffer,
    /// The part that the feed-forward adds to the residual stream `(m, hidden)`.
    pub(crate) fed: Buffer,
    /// Of mixtures of experts, if there are any.
    pub(crate) mixture: Option<mixture::Buffers>,
}

impl Room {
    /// A room for `batch` rows of at least `columns` columns.
    ///
    /// # Errors
    /// The device is full.
    pub(crate) fn new(gpu: &Gpu, config: &Config, batch: usize, columns: usize) -> Result<Self> {
        let driver = &gpu.driver;
        let capacity = columns.next_multiple_of(COLUMNS);
        let heads = Heads::of(&config.attention);
        let cache = || driver.zeros(batch * heads.keys * capacity * heads.width, gpu.dtype);
        let chooser = |fixed| Chooser::new(driver, batch, config.vocab_size, &config.eos_ids, fixed);
        let caches = (0..config.layers.len()).map(|_| Ok(Cache { keys: cache()?, values: cache()? }));
        Ok(Self {
            batch,
            capacity,
            caches: caches.collect::<Result<_>>()?,
            starts: driver.zeros(batch, DType::U32)?,
            progress: driver.zeros(2, DType::U32)?,
            inputs: driver.zeros(batch, DType::U32)?,
            logits: driver.zeros(batch * config.vocab_size, gpu.dtype)?,
            chosen: Pinned::new(driver, 2 * batch * capacity)?,
            work: Workspace::new(driver, config, batch, gpu.dtype)?,
            tables: config
                .ropes
                .iter()
                .map(|rope| Rotations::new(driver, rope.dims / 2, capacity))
                .collect::<Result<_>>()?,
            alibi: alibi(driver, config, capacity)?,
            attention: attention::Scratch::new(driver, heads, gpu.dtype, batch, capacity)?,
            choosers: [chooser(false)?, chooser(true)?],
            greedy: [OnceCell::new(), OnceCell::new()],
            plain: OnceCell::new(),
        })
    }

    /// Whether a step has been recorded.
    pub(crate) fn is_recorded(&self) -> bool {
        self.graphs().next().is_some()
    }

    /// The steps that have been recorded.
    pub(crate) fn graphs(&self) -> impl Iterator<Item = &Graph> {
        self.greedy.iter().chain([&self.plain]).filter_map(OnceCell::get)
    }

    /// Brings the rotations for sequences of up to `longest` tokens into the tables.
    ///
    /// # Errors
    /// A failure of the device.
    pub(crate) fn rotate(&mut self, config: &Config, driver: &Driver, longest: usize) -> Result<()> {
        for (rope, rotations) in config.ropes.iter().zip(&mut self.tables) {
            let key = rope.key(longest);
            if rotations.key != Some(key) {
                let (cos, sin) = rope.table(key, self.capacity).into_parts();
                driver.write(&cos, &rotations.cos)?;
                driver.write(&sin, &rotations.sin)?;
                rotations.key = Some(key);
            }
        }
        Ok(())
    }

    /// Whether a batch of this size goes in without wasting much of it.
    pub(crate) fn fits(&self, batch: usize, columns: usize) -> bool {
        let needed = columns.next_multiple_of(COLUMNS);
        self.batch == batch && (needed..=2 * needed).contains(&self.capacity)
    }
}

impl Rotations {
    fn new(driver: &Driver, pairs: usize, capacity: usize) -> Result<Self> {
        let table = || driver.zeros(capacity * pairs, DType::F32);
        Ok(Self { key: None, pairs, cos: table()?, sin: table()? })
    }
}

/// Linear biases of each head by position.
fn alibi(driver: &Driver, config: &Config, capacity: usize) -> Result<Option<Buffer>> {
    let Some(alibi) = config.attention.alibi else { return Ok(None) };
    let scale = config.layers.first().map_or(1.0, |layer| layer.scale);
    let table = AlibiTable::new(alibi, &config.attention, scale, capacity);
    Ok(Some(driver.upload(table.biases())?))
}

impl Workspace {
    /// Room for the activations of `tokens` tokens.
    ///
    /// # Errors
    /// The device is full.
    pub(crate) fn new(driver: &Driver, config: &Config, tokens: usize, dtype: DType) -> Result<Self> {
        let heads = Heads::of(&config.attention);
        let (mut wide, mut inner) = (0, 0);
        for layer in &config.layers {
            let (first, second) = match layer.feed_forward {
                FeedForward::Gated { inner, .. } => (2 * inner, inner),
                FeedForward::Plain { inner, .. } => (inner, inner),
                // they have buffers of their own
                FeedForward::Experts(_) => (0, 0),
            };
            (wide, inner) = (wide.max(first), inner.max(second));
        }
        let buffer = |width: usize| driver.zeros(tokens * width, dtype);
        let hidden = config.hidden_size;
        Ok(Self {
            tokens,
            x: buffer(hidden)?,
            normed: buffer(hidden)?,
            second: buffer(hidden)?,
            qkv: buffer(heads.qkv())?,
            attended: buffer(heads.queries * heads.width)?,
            part: buffer(hidden)?,
            wide: buffer(wide)?,
            gated: buffer(inner)?,
            fed: buffer(hidden)?,
            mixture: mixture::Buffers::new(driver, config, tokens, dtype)?,
        })
    }
}
