//! Attention over a KV cache in panels, as two operations: rotate and store the new keys and values; rotate the
//! queries and attend. Padding is skipped rather than masked.

use candle_core::{CpuStorage, CustomOp2, InplaceOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::exp::exp;
use super::panel_cache::{CacheShape, PanelCache};
use super::panels::{PanelView, Rows, TILE, WIDTH, multiply_body};
use super::{threads_for, values, vectorised};
use crate::engine::config::RopeStyle;
use crate::engine::position_encoding::{AlibiTable, RopeTable};

/// How scores become weights.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scores {
    /// The factor of the scores before anything else.
    pub(crate) scale: f32,
    /// Scores s become c · tanh(s / c).
    pub(crate) softcap: Option<f32>,
    /// A query sees this many columns, its own included.
    pub(crate) window: Option<usize>,
}

/// Where the new tokens are, and how a layer attends.
#[derive(Clone, Copy)]
pub(crate) struct Query<'a> {
    /// How scores become weights.
    pub(crate) scores: Scores,
    /// Rotations by position.
    pub(crate) rope: Option<&'a RopeTable>,
    /// Biases by head and position.
    pub(crate) alibi: Option<&'a AlibiTable>,
    /// Columns in the cache.
    pub(crate) past: usize,
    /// Row r of the batch begins at column `starts[r]`.
    pub(crate) starts: &'a [usize],
}

#[derive(Clone, Copy)]
struct Step<'a> {
    shape: CacheShape,
    query: Query<'a>,
}

impl Step<'_> {
    /// Tokens of each row of the batch in a tensor with this many rows.
    fn tokens(&self, rows: usize) -> usize {
        rows / self.query.starts.len()
    }

    /// Rotates one head by the angles of a position and scales it.
    #[inline(always)]
    fn rotate(&self, head: &[f32], position: usize, scale: f32, mut set: impl FnMut(usize, f32)) {
        let Some(table) = self.query.rope else {
            head.iter().enumerate().for_each(|(i, value)| set(i, value * scale));
            return;
        };
        let (cos, sin) = table.at(position);
        let pairs = cos.len();
        let mut turn = |first: usize, second: usize, pair: usize| {
            let (a, b, cos, sin) = (head[first] * scale, head[second] * scale, cos[pair], sin[pair]);
            set(first, a * cos - b * sin);
            set(second, b * cos + a * sin);
        };
        match table.style() {
            RopeStyle::Halves => (0..pairs).for_each(|pair| turn(pair, pairs + pair, pair)),
            RopeStyle::Neighbours => (0..pairs).for_each(|pair| turn(2 * pair, 2 * pair + 1, pair)),
        }
        head.iter().enumerate().skip(2 * pairs).for_each(|(i, value)| set(i, value * scale));
    }

    /// First column that a query in this column sees.
    #[inline(always)]
    fn begin(&self, start: usize, column: usize) -> usize {
        match self.query.scores.window {
            Some(window) => start.max((column + 1).saturating_sub(window)),
            None => start,
        }
    }

    /// Turns scores of one head, from position `from` on, into logits.
    #[inline(always)]
    fn adjust(&self, scores: &mut [f32], head: usize, from: usize) {
        if let Some(cap) = self.query.scores.softcap {
            scores.iter_mut().for_each(|score| *score = (*score / cap).tanh() * cap);
        }
        if let Some(alibi) = self.query.alibi {
            for (score, bias) in scores.iter_mut().zip(&alibi.head(head)[from..]) {
                *score += bias;
            }
        }
    }
}

impl PanelCache {
    /// Stores the new keys and values and attends: `qkv` `(b · t, (h + 2 kv) · d)` gives `(b · t, h · d)`.
    ///
    /// The new tokens take the columns from `query.past` on.
    pub(crate) fn attend(&self, qkv: &Tensor, query: Query<'_>) -> Result<Tensor> {
        let step = Step { shape: self.shape, query };
        self.tensor.inplace_op2(qkv, &Store(step))?;
        qkv.apply_op2_no_bwd(&self.tensor, &Attend(step))
    }
}

struct Store<'a>(Step<'a>);

impl InplaceOp2 for Store<'_> {
    fn name(&self) -> &'static str {
        "store-keys-and-values"
    }

    fn cpu_fwd(&self, cache: &mut CpuStorage, _: &Layout, qkv: &CpuStorage, qkv_at: &Layout) -> Result<()> {
        let CpuStorage::F32(cache) = cache else { candle_core::bail!("the cache has to be f32") };
        let heads = self.0.shape.heads;
        let qkv = values(qkv, qkv_at)?;
        let tokens = self.0.tokens(qkv.len() / heads.qkv());
        for (row, rows) in qkv.chunks(tokens * heads.qkv()).enumerate() {
            let mut caches: Vec<&mut [f32]> = cache[row * heads.keys * self.0.shape.head()..]
                .chunks_mut(self.0.shape.head())
                .take(heads.keys)
                .collect();
            for (token, qkv) in rows.chunks(heads.qkv()).enumerate() {
                self.store(&mut caches, row, self.0.query.past + token, &qkv[heads.queries * heads.width..]);
            }
        }
        Ok(())
    }
}

impl Store<'_> {
    /// Stores one token: `kv` holds its keys, then its values. Padding isn't stored.
    fn store(&self, caches: &mut [&mut [f32]], row: usize, column: usize, kv: &[f32]) {
        let Some(position) = column.checked_sub(self.0.query.starts[row]) else { return };
        let shape = self.0.shape;
        let width = shape.heads.width;
        let (keys, values) = kv.split_at(shape.heads.keys * width);
        for ((cache, key), value) in caches.iter_mut().zip(keys.chunks(width)).zip(values.chunks(width)) {
            let slot = shape.key_slot(column);
            self.0.rotate(key, position, 1.0, |i, rotated| cache[slot + i * WIDTH] = rotated);
            for (panel, value) in value.chunks(WIDTH).enumerate() {
                cache[shape.value_slot(panel, column)..][..value.len()].copy_from_slice(value);
            }
        }
    }
}

struct Attend<'a>(Step<'a>);

impl CustomOp2 for Attend<'_> {
    fn name(&self) -> &'static str {
        "attend"
    }

    fn cpu_fwd(
        &self,
        qkv: &CpuStorage,
        qkv_at: &Layout,
        cache: &CpuStorage,
        cache_at: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let heads = self.0.shape.heads;
        let (qkv, cache) = (values(qkv, qkv_at)?, values(cache, cache_at)?);
        let rows = qkv.len() / heads.qkv();
        let tokens = self.0.tokens(rows);
        let mut attended = vec![0.0; rows * heads.queries * heads.width];
        // one token: a task for each key head of each row of the batch; several: a task for each row of the batch
        let heads_in_task = if tokens == 1 { 1 } else { heads.keys };
        let task = |(index, attended): (usize, &mut [f32])| {
            let (row, first) = (index * heads_in_task / heads.keys, index * heads_in_task % heads.keys);
            let qkv = &qkv[row * tokens * heads.qkv()..][..tokens * heads.qkv()];
            let cache = &cache[row * heads.keys * self.0.shape.head()..];
            for slot in 0..heads_in_task {
                let head = first + slot;
                let cache = &cache[head * self.0.shape.head()..];
                attend_head(HeadTask { step: &self.0, qkv, cache, row, head, slot }, attended);
            }
        };
        let chunk = tokens * heads_in_task * heads.shared() * heads.width;
        let work = 2 * attended.len() * (self.0.query.past + tokens);
        if threads_for(work) == 1 {
            attended.chunks_mut(chunk).enumerate().for_each(task);
        } else {
            attended.par_chunks_mut(chunk).enumerate().for_each(task);
        }
        Ok((CpuStorage::F32(attended), (rows, heads.queries * heads.width).into()))
    }
}

/// The queries that share one key head of one row of the batch.
struct HeadTask<'a> {
    step: &'a Step<'a>,
    /// Queries, keys and values of the row's new tokens.
    qkv: &'a [f32],
    /// From the head's keys on.
    cache: &'a [f32],
    /// Row of the batch.
    row: usize,
    /// Key head.
    head: usize,
    /// Which group of heads of each token the results are, in the part of the output that they go to.
    slot: usize,
}

vectorised! {
    /// Attends for one key head; the results go into `attended`.
    fn attend_head(task: HeadTask<'_>, attended: &mut [f32]) = attend_body
}

#[inline(always)]
fn attend_body<const FMA: bool>(task: HeadTask<'_>, attended: &mut [f32]) {
    let HeadTask { step, qkv, cache, row, head, slot } = task;
    let (width, shared) = (step.shape.heads.width, step.shape.heads.shared());
    let tokens = qkv.len() / step.shape.heads.qkv();
    let group = attended.len() / tokens;
    let (start, past) = (step.query.starts[row], step.query.past);
    let padding = start.saturating_sub(past);
    let queries = rotated_queries(step, qkv, head, start);
    let mut room = Room::new(step.shape);
    // queries in the order of tokens, the heads of a token side by side; padding has none
    for (block, queries) in queries.chunks(TILE * width).enumerate() {
        let token = |index: usize| padding + (block * TILE + index) / shared;
        let own_column = |index: usize| past + token(index);
        room.attend::<FMA>(cache, queries, |index| (step.begin(start, own_column(index)), own_column(index) + 1), {
            |index, from, scores| step.adjust(scores, head * shared + (block * TILE + index) % shared, from - start)
        });
        for (index, result) in room.results.chunks(width).take(queries.len() / width).enumerate() {
            let at = token(index) * group + (slot * shared + (block * TILE + index) % shared) * width;
            attended[at..][..width].copy_from_slice(result);
        }
    }
}

/// The queries of one key head, rotated and scaled, without those of padding.
fn rotated_queries(step: &Step<'_>, qkv: &[f32], head: usize, start: usize) -> Vec<f32> {
    let heads = step.shape.heads;
    let (width, group) = (heads.width, heads.shared() * heads.width);
    // scaling a query is cheaper than scaling each of its scores
    let scale = step.query.scores.scale;
    let mut queries = vec![0.0; qkv.len() / heads.qkv() * group];
    let mut used = 0;
    for (token, qkv) in qkv.chunks(heads.qkv()).enumerate() {
        let Some(position) = (step.query.past + token).checked_sub(start) else { continue };
        for query in qkv[head * group..][..group].chunks(width) {
            let rotated = &mut queries[used..][..width];
            step.rotate(query, position, scale, |i, value| rotated[i] = value);
            used += width;
        }
    }
    queries.truncate(used);
    queries
}

/// Room for a few queries of one key head.
struct Room {
    shape: CacheShape,
    scores: Vec<f32>,
    results: Vec<f32>,
}

impl Room {
    fn new(shape: CacheShape) -> Self {
        Self { shape, scores: vec![0.0; TILE * shape.capacity], results: vec![0.0; TILE * shape.heads.width] }
    }

    /// Up to [`TILE`] queries, each over the columns of its `range`, neither end of which may fall from one to the
    /// next. `adjust` turns the scores of a query from a column on into logits.
    #[inline(always)]
    fn attend<const FMA: bool>(
        &mut self,
        cache: &[f32],
        queries: &[f32],
        range: impl Fn(usize) -> (usize, usize),
        adjust: impl Fn(usize, usize, &mut [f32]),
    ) {
        let (width, capacity) = (self.shape.heads.width, self.shape.capacity);
        let count = queries.len() / width;
        let (start, last) = (range(0).0, range(count - 1).1);
        let first = start / WIDTH * WIDTH;
        let queries = Rows { data: queries, stride: width, length: width };
        let keys = PanelView { data: &cache[self.shape.key_slot(first)..], stride: width * WIDTH };
        let mut rows = rows_of(&mut self.scores, capacity, last - first);
        multiply_body::<FMA>(queries, keys, &mut rows[..count]);

        let mut sums = [1.0; TILE];
        for (index, scores) in self.scores.chunks_mut(capacity).take(count).enumerate() {
            let (from, to) = range(index);
            // columns that this query doesn't see get weight 0, so that one product serves the whole tile
            scores[start - first..from - first].fill(0.0);
            let seen = &mut scores[from - first..to - first];
            adjust(index, from, seen);
            sums[index] = exponentials::<FMA>(seen);
            scores[to - first..last - first].fill(0.0);
        }
        let scores = Rows { data: &self.scores[start - first..], stride: capacity, length: last - start };
        let values = PanelView { data: &cache[self.shape.value_slot(0, start)..], stride: capacity * WIDTH };
        let mut rows = rows_of(&mut self.results, width, width);
        multiply_body::<FMA>(scores, values, &mut rows[..count]);
        // dividing the results takes fewer divisions than dividing the weights
        for (result, sum) in self.results.chunks_mut(width).zip(sums) {
            result.iter_mut().for_each(|value| *value /= sum);
        }
    }
}

/// The beginnings of the rows of a buffer.
#[inline(always)]
fn rows_of(buffer: &mut [f32], stride: usize, length: usize) -> [&mut [f32]; TILE] {
    let mut rows = buffer.chunks_mut(stride);
    std::array::from_fn(|_| rows.next().map_or(&mut [][..], |row| &mut row[..length]))
}

/// Replaces scores by e^(score − largest score) and sums them up.
#[inline(always)]
fn exponentials<const FMA: bool>(scores: &mut [f32]) -> f32 {
    let largest = fold(scores, f32::MIN, |a, b| if a > b { a } else { b });
    for score in scores.iter_mut() {
        *score = exp::<FMA>(*score - largest);
    }
    fold(scores, 0.0, |a, b| a + b)
}

/// Folds values in 16 lanes, then the lanes. The order is fixed by the number of values alone, so that a row gives the
/// same bits in any batch.
#[inline(always)]
fn fold(values: &[f32], empty: f32, join: impl Fn(f32, f32) -> f32 + Copy) -> f32 {
    let mut lanes = [empty; WIDTH];
    let (whole, rest) = values.as_chunks::<WIDTH>();
    for values in whole {
        for (lane, value) in lanes.iter_mut().zip(values) {
            *lane = join(*lane, *value);
        }
    }
    lanes.iter().chain(rest).copied().fold(empty, join)
}
