//! Mixtures of experts: tokens are routed, and the products of the chosen experts run, without the host's knowing which.
//!
//! The router sorts (token, slot) pairs by expert and cuts each expert's list into items of at most [`Plan::tile`] pairs;
//! a grid of blocks has room for as many items as there can be. With few pairs an item, the products are bound by reading
//! the weights of the chosen experts, once for each; with many, by the tensor cores.

use candle_core::DType;

use super::driver::{Buffer, Driver, Grid, NULL, Params, Pointer, suffix};
use super::gate;
use crate::engine::config::{Activation, Experts};
use crate::error::Result;

/// The most experts that the router chooses from.
const MOST_EXPERTS: usize = 512;

/// The most experts of a token.
const MOST_SLOTS: usize = 32;

const WARP: usize = 32;

/// Tokens that one block routes and sorts; more are routed by many blocks first.
const ONE_BLOCK: usize = 32;

/// The most pairs of an item: of the kernels that memory bounds, and of those that the tensor cores bound.
const FEW: usize = 8;
const MANY: usize = 128;

/// Pairs of an expert, on average, from which the tensor cores' kernels are quicker.
const MANY_FROM: usize = 4;

/// Dynamic shared memory of a block of them: three stages of two tiles of 128 rows of 128 bytes.
const TILES: u32 = 3 * 2 * 128 * 128;

/// Warps of a block of products.
const WARPS: usize = 4;

/// Warps that share rows of weights, for rows of gate and up and for those of down.
const ALONG: [usize; 2] = [4, 2];

#[repr(C)]
#[derive(Clone, Copy)]
struct RouteParams {
    logits: Pointer,
    shares: Pointer,
    chosen: Pointer,
    pairs: Pointer,
    items: Pointer,
    m: i32,
    experts: i32,
    slots: i32,
    tile: i32,
    normalise: i32,
    round_shares: i32,
    sorts: i32,
}

// SAFETY: the fields are those of `RouteParams` in experts_route.cu.
unsafe impl Params for RouteParams {}
const _: () = assert!(size_of::<RouteParams>() == 72);

#[repr(C)]
#[derive(Clone, Copy)]
struct ExpertsParams {
    inputs: Pointer,
    weights: Pointer,
    items: Pointer,
    pairs: Pointer,
    outputs: Pointer,
    shares: Pointer,
    shared: Pointer,
    shared_gate: Pointer,
    sums: Pointer,
    n: i32,
    k: i32,
    slots: i32,
    activation: i32,
    rounds: i32,
}

// SAFETY: the fields are those of `ExpertsParams` in experts.cuh.
unsafe impl Params for ExpertsParams {}
const _: () = assert!(size_of::<ExpertsParams>() == 96);

/// A mixture of experts on some tokens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Routed {
    pub(crate) experts: Experts,
    pub(crate) activation: Activation,
    /// Width of the residual stream.
    pub(crate) hidden: usize,
    /// The router's output `(m, experts)`.
    pub(crate) logits: Pointer,
    /// `(m, hidden)`.
    pub(crate) x: Pointer,
    /// `(experts, 2 · inner, hidden)`.
    pub(crate) gate_up: Pointer,
    /// `(experts, hidden, inner)`.
    pub(crate) down: Pointer,
    /// What the expert of all tokens gives `(m, hidden)`, and its gate before the sigmoid `(m)`.
    pub(crate) shared: Option<(Pointer, Pointer)>,
    /// `(m, hidden)`.
    pub(crate) y: Pointer,
}

/// Whether the router can choose among so many experts.
pub(crate) fn fits(experts: &Experts) -> bool {
    experts.count <= MOST_EXPERTS && experts.per_token <= MOST_SLOTS.min(experts.count)
}

/// Buffers for a mixture on so many tokens.
pub(crate) struct Scratch {
    /// `(m, slots)`.
    shares: Buffer,
    /// `(m, slots)`.
    chosen: Buffer,
    /// `(m · slots)`.
    pairs: Buffer,
    /// `(1 + items, 4)`.
    items: Buffer,
    /// `(m · slots, inner)`.
    inner: Buffer,
    /// `(m · slots, hidden)`.
    parts: Buffer,
}

/// How so many tokens run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Plan {
    /// The most pairs of an item.
    tile: usize,
    /// The most items.
    items: usize,
    /// One block routes and sorts.
    one_block: bool,
}

impl Plan {
    fn new(rows: usize, experts: &Experts, dtype: DType) -> Self {
        let pairs = rows * experts.per_token;
        let many = dtype != DType::F32 && pairs >= MANY_FROM * experts.count && rows > FEW;
        let tile = if many { MANY } else { FEW };
        Self { tile, items: pairs.min(experts.count) + pairs / tile, one_block: rows <= ONE_BLOCK }
    }
}

impl Scratch {
    /// Buffers for `rows` tokens.
    ///
    /// # Errors
    /// The device is full.
    pub(crate) fn new(driver: &Driver, experts: &Experts, hidden: usize, rows: usize, dtype: DType) -> Result<Self> {
        let pairs = rows * experts.per_token;
        let items = pairs.min(experts.count) + pairs / FEW;
        Ok(Self {
            shares: driver.zeros(pairs, DType::F32)?,
            chosen: driver.zeros(pairs, DType::U32)?,
            pairs: driver.zeros(pairs, DType::U32)?,
            items: driver.zeros(4 * (1 + items), DType::U32)?,
            inner: driver.zeros(pairs * experts.inner, dtype)?,
            parts: driver.zeros(pairs * hidden, dtype)?,
        })
    }
}

/// Runs a mixture on `rows` tokens; shares of experts are rounded to the data type, as transformers does for Qwen's.
///
/// # Errors
/// A failure of the device.
pub(crate) fn run(driver: &Driver, dtype: DType, rows: usize, routed: &Routed, scratch: &Scratch) -> Result<()> {
    let plan = Plan::new(rows, &routed.experts, dtype);
    route(driver, dtype, rows, routed, scratch, plan)?;
    let Experts { inner, per_token, .. } = routed.experts;
    let (hidden, suffix) = (routed.hidden, suffix(dtype)?);
    let (shared, shared_gate) = routed.shared.unwrap_or((NULL, NULL));
    let gate_up = ExpertsParams {
        inputs: routed.x,
        weights: routed.gate_up,
        items: scratch.items.pointer(),
        pairs: scratch.pairs.pointer(),
        outputs: scratch.inner.pointer(),
        shares: scratch.shares.pointer(),
        shared,
        shared_gate,
        sums: routed.y,
        n: inner as i32,
        k: hidden as i32,
        slots: per_token as i32,
        activation: gate::code(routed.activation),
        rounds: 1,
    };
    let down = ExpertsParams {
        inputs: scratch.inner.pointer(),
        weights: routed.down,
        outputs: scratch.parts.pointer(),
        n: hidden as i32,
        k: inner as i32,
        ..gate_up
    };
    // outputs of a block, of which gate and up have two rows of weights each
    let [(gated, up), (plain, along)] = match plan.tile {
        MANY => [(64, MANY), (128, MANY)],
        _ => [(8 * WARPS / ALONG[0], ALONG[0]), (16 * WARPS / ALONG[1], ALONG[1])],
    };
    let grid = |outputs: usize, each: usize| Grid {
        blocks: (outputs.div_ceil(each) as u32, plan.items as u32, 1),
        threads: (WARPS * WARP) as u32,
        shared: if plan.tile == MANY { TILES } else { 0 },
    };
    driver.launch(&format!("experts_gate_up_{suffix}_{up}"), grid(inner, gated), &gate_up)?;
    driver.launch(&format!("experts_down_{suffix}_{along}"), grid(hidden, plain), &down)?;
    let grid = Grid { blocks: (hidden.div_ceil(256) as u32, rows as u32, 1), threads: 256, shared: 0 };
    driver.launch(&format!("experts_combine_{suffix}"), grid, &down)
}

fn route(driver: &Driver, dtype: DType, rows: usize, routed: &Routed, scratch: &Scratch, plan: Plan) -> Result<()> {
    let Experts { count, per_token, normalise, .. } = routed.experts;
    let params = RouteParams {
        logits: routed.logits,
        shares: scratch.shares.pointer(),
        chosen: scratch.chosen.pointer(),
        pairs: scratch.pairs.pointer(),
        items: scratch.items.pointer(),
        m: rows as i32,
        experts: count as i32,
        slots: per_token as i32,
        tile: plan.tile as i32,
        normalise: i32::from(normalise),
        round_shares: 1,
        sorts: i32::from(plan.one_block),
    };
    // of the counts of each warp, and where each expert's pairs begin
    let counts = |warps: usize| (warps + 1) * count;
    let block = |blocks: usize, warps: usize, numbers: usize| Grid {
        blocks: (blocks as u32, 1, 1),
        threads: (warps * WARP) as u32,
        shared: (numbers * size_of::<u32>()) as u32,
    };
    let name = format!("experts_route_{}", suffix(dtype)?);
    if plan.one_block {
        let warps = if rows == 1 { 1 } else { rows.clamp(4, WARP) };
        return driver.launch(&name, block(1, warps, rows * per_token + counts(warps)), &params);
    }
    driver.launch(&name, block(rows.div_ceil(4), 4, 0), &params)?;
    driver.launch("experts_sort", block(1, WARP, counts(WARP)), &params)
}

#[cfg(all(test, feature = "cuda"))]
mod tests {
    use candle_core::{D, Device, Tensor};

    use super::*;

    /// The same by candle's operations in f32, one expert of one token after the other.
    fn expected(x: &Tensor, logits: &Tensor, gate_up: &Tensor, down: &Tensor, experts: &Experts) -> Tensor {
        let f32 = |tensor: &Tensor| tensor.to_dtype(DType::F32).unwrap();
        let (x, gate_up, down) = (f32(x), f32(gate_up), f32(down));
        let probabilities: Vec<Vec<f32>> = candle_nn::ops::softmax(&f32(logits), D::Minus1).unwrap().to_vec2().unwrap();
        let token = |(index, probabilities): (usize, &Vec<f32>)| {
            let mut order: Vec<usize> = (0..experts.count).collect();
            order.sort_by(|a, b| probabilities[*b].total_cmp(&probabilities[*a]));
            order.truncate(experts.per_token);
            let whole: f32 = order.iter().map(|expert| probabilities[*expert]).sum();
            let x = x.narrow(0, index, 1).unwrap();
            let part = |expert: &usize| {
                let wide = x.matmul(&gate_up.get(*expert).unwrap().t().unwrap()).unwrap();
                let gate = wide.narrow(1, 0, experts.inner).unwrap().silu().unwrap();
                let inner = (gate * wide.narrow(1, experts.inner, experts.inner).unwrap()).unwrap();
                let out = inner.matmul(&down.get(*expert).unwrap().t().unwrap()).unwrap();
                (out * f64::from(probabilities[*expert] / whole)).unwrap()
            };
            order.iter().map(part).reduce(|a, b| (a + b).unwrap()).unwrap()
        };
        let rows: Vec<Tensor> = probabilities.iter().enumerate().map(token).collect();
        Tensor::cat(&rows, 0).unwrap()
    }

    #[test]
    fn a_gpu_runs_the_experts_that_each_token_chooses() {
        let Ok(device) = Device::new_cuda(0) else { return };
        let driver = Driver::new(&device).unwrap();
        let experts = Experts { count: 12, per_token: 3, inner: 96, normalise: true, shared_inner: None };
        let hidden = 160;
        for (dtype, limit) in [(DType::F32, 1e-5), (DType::F16, 1e-3), (DType::BF16, 6e-3)] {
            for rows in [1, 5, 20, 40, 120, 700] {
                let random = |shape: &[usize], size: f32| {
                    let cpu = Tensor::randn(0f32, size, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
                    (cpu.to_dtype(DType::F32).unwrap(), Buffer::of(cpu.to_device(&device).unwrap()).unwrap())
                };
                let (x, logits) = (random(&[rows, hidden], 1.0), random(&[rows, experts.count], 2.0));
                let gate_up = random(&[experts.count, 2 * experts.inner, hidden], 0.1);
                let down = random(&[experts.count, hidden, experts.inner], 0.1);
                let y = driver.zeros(rows * hidden, dtype).unwrap();
                let scratch = Scratch::new(&driver, &experts, hidden, rows, dtype).unwrap();
                let routed = Routed {
                    experts,
                    activation: Activation::Silu,
                    hidden,
                    logits: logits.1.pointer(),
                    x: x.1.pointer(),
                    gate_up: gate_up.1.pointer(),
                    down: down.1.pointer(),
                    shared: None,
                    y: y.pointer(),
                };
                run(&driver, dtype, rows, &routed, &scratch).unwrap();
                driver.wait().unwrap();
                let found = y.tensor().to_device(&Device::Cpu).unwrap().to_dtype(DType::F32).unwrap();
                let expected = expected(&x.0, &logits.0, &gate_up.0, &down.0, &experts).flatten_all().unwrap();
                let norm =
                    |tensor: &Tensor| tensor.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap().sqrt();
                let apart = norm(&(&found - &expected).unwrap()) / norm(&expected);
                assert!(apart < limit, "{rows} tokens in {dtype:?}: off by {apart}");
            }
        }
    }
}
