//! Products with matrices that lie in panels: 16 rows of the matrix side by side, so that one pass over a panel gives
//! 16 outputs for each of several rows of the other factor, with nothing to pack and nothing to sum across lanes.

use candle_core::{CpuStorage, CustomOp2, Device, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{multiply_add, threads_for, values, vectorised};

/// Rows of the matrix in a panel.
pub(crate) const WIDTH: usize = 16;

/// Rows of the other factor that go over a panel together.
pub(crate) const TILE: usize = 4;

/// A matrix W `(n, k)` in panels `(n / 16, k, 16)`, the last one filled up with zeros.
pub(crate) struct Panels {
    tensor: Tensor,
    rows: usize,
}

impl Panels {
    /// Packs a matrix `(n, k)`.
    pub(crate) fn pack(matrix: &Tensor) -> Result<Self> {
        let (rows, columns) = matrix.dims2()?;
        let (storage, layout) = matrix.storage_and_layout();
        let candle_core::Storage::Cpu(storage) = &*storage else {
            candle_core::bail!("panels are for the CPU");
        };
        let packed = pack(values(storage, layout)?, columns);
        let shape = (rows.div_ceil(WIDTH), columns, WIDTH);
        Ok(Self { tensor: Tensor::from_vec(packed, shape, &Device::Cpu)?, rows })
    }

    /// x · Wᵀ for x `(m, k)`: `(m, n)`.
    pub(crate) fn multiply(&self, x: &Tensor) -> Result<Tensor> {
        x.apply_op2_no_bwd(&self.tensor, &Multiply { rows: self.rows })
    }

    /// The rows of W with these indices `(m)`: `(m, k)`.
    pub(crate) fn select(&self, indices: &Tensor) -> Result<Tensor> {
        indices.apply_op2_no_bwd(&self.tensor, &Select)
    }
}

fn pack(matrix: &[f32], columns: usize) -> Vec<f32> {
    let panel = columns * WIDTH;
    let mut packed = vec![0.0; (matrix.len() / columns).div_ceil(WIDTH) * panel];
    let panels = packed.par_chunks_mut(panel).zip(matrix.par_chunks(panel));
    panels.for_each(|(panel, rows)| {
        for (lane, row) in rows.chunks(columns).enumerate() {
            for (value, slot) in row.iter().zip(panel[lane..].iter_mut().step_by(WIDTH)) {
                *slot = *value;
            }
        }
    });
    packed
}

struct Multiply {
    rows: usize,
}

impl CustomOp2 for Multiply {
    fn name(&self) -> &'static str {
        "multiply-panels"
    }

    fn cpu_fwd(&self, x: &CpuStorage, x_at: &Layout, w: &CpuStorage, w_at: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (values(x, x_at)?, values(w, w_at)?);
        let (m, k) = x_at.shape().dims2()?;
        if w_at.dims()[1] != k {
            candle_core::bail!("{:?} can't be multiplied by panels {:?}", x_at.dims(), w_at.dims());
        }
        let mut y = vec![0.0; m * self.rows];
        multiply_parallel(Rows { data: x, stride: k, length: k }, w, &mut y, self.rows);
        Ok((CpuStorage::F32(y), (m, self.rows).into()))
    }
}

/// Shares the panels out to threads; each writes its own columns of `y` `(m, n)`.
fn multiply_parallel(x: Rows<'_>, w: &[f32], y: &mut [f32], n: usize) {
    let panel = x.length * WIDTH;
    let threads = threads_for(w.len() * (y.len() / n));
    if threads == 1 {
        let mut rows: Vec<&mut [f32]> = y.chunks_mut(n).collect();
        return multiply(x, PanelView { data: w, stride: panel }, &mut rows);
    }
    let share = (w.len() / panel).div_ceil(threads);
    let mut parts: Vec<Vec<&mut [f32]>> = (0..threads).map(|_| Vec::new()).collect();
    for row in y.chunks_mut(n) {
        for (part, columns) in parts.iter_mut().zip(row.chunks_mut(share * WIDTH)) {
            part.push(columns);
        }
    }
    parts.par_iter_mut().zip(w.par_chunks(share * panel)).for_each(|(part, data)| {
        multiply(x, PanelView { data, stride: panel }, part);
    });
}

/// Rows of equal length, `stride` apart.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// Where they lie.
    pub(crate) data: &'a [f32],
    /// From one row to the next.
    pub(crate) stride: usize,
    /// Values in a row.
    pub(crate) length: usize,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    fn row(self, index: usize) -> &'a [f32] {
        &self.data[index * self.stride..][..self.length]
    }
}

/// Panels, `stride` apart, of which as many rows of 16 are read as the other factor is long.
#[derive(Clone, Copy)]
pub(crate) struct PanelView<'a> {
    /// Where they lie.
    pub(crate) data: &'a [f32],
    /// From one panel to the next.
    pub(crate) stride: usize,
}

impl<'a> PanelView<'a> {
    #[inline(always)]
    fn panel(self, index: usize, length: usize) -> &'a [[f32; WIDTH]] {
        self.data[index * self.stride..][..length * WIDTH].as_chunks().0
    }
}

vectorised! {
    /// y = x · Wᵀ, one slice of `y` for each row of `x`; as many columns as the slices are long.
    pub(crate) fn multiply(x: Rows<'_>, w: PanelView<'_>, y: &mut [&mut [f32]]) = multiply_body
}

/// [`multiply`], to be inlined into a function with vector instructions.
#[inline(always)]
pub(crate) fn multiply_body<const FMA: bool>(x: Rows<'_>, w: PanelView<'_>, y: &mut [&mut [f32]]) {
    let columns = y.first().map_or(0, |row| row.len());
    let panels = columns.div_ceil(WIDTH);
    if let [row] = y {
        let mut panel = 0;
        while panel + 4 <= panels {
            tile::<FMA, 1, 4>(x, 0, w, panel, std::slice::from_mut(row));
            panel += 4;
        }
        while panel < panels {
            tile::<FMA, 1, 1>(x, 0, w, panel, std::slice::from_mut(row));
            panel += 1;
        }
        return;
    }
    for panel in 0..panels {
        for (index, rows) in y.chunks_mut(TILE).enumerate() {
            let first = index * TILE;
            match rows.len() {
                1 => tile::<FMA, 1, 1>(x, first, w, panel, rows),
                2 => tile::<FMA, 2, 1>(x, first, w, panel, rows),
                3 => tile::<FMA, 3, 1>(x, first, w, panel, rows),
                _ => tile::<FMA, TILE, 1>(x, first, w, panel, rows),
            }
        }
    }
}

/// M rows of x by N panels, with all M · N · 16 sums in registers.
#[inline(always)]
fn tile<const FMA: bool, const M: usize, const N: usize>(
    x: Rows<'_>,
    first_row: usize,
    w: PanelView<'_>,
    first_panel: usize,
    y: &mut [&mut [f32]],
) {
    let rows: [&[f32]; M] = std::array::from_fn(|m| x.row(first_row + m));
    let panels: [&[[f32; WIDTH]]; N] = std::array::from_fn(|n| w.panel(first_panel + n, x.length));
    let mut sums = [[[0.0; WIDTH]; N]; M];
    for i in 0..x.length {
        for n in 0..N {
            // copied out on purpose: without it the compiler leaves the sums in memory, which is 25 times slower
            let w = panels[n][i];
            for m in 0..M {
                let value = rows[m][i];
                for lane in 0..WIDTH {
                    sums[m][n][lane] = multiply_add::<FMA>(value, w[lane], sums[m][n][lane]);
                }
            }
        }
    }
    for (row, sums) in y.iter_mut().zip(&sums) {
        for (columns, sums) in row[first_panel * WIDTH..].chunks_mut(WIDTH).zip(sums) {
            columns.copy_from_slice(&sums[..columns.len()]);
        }
    }
}

struct Select;

impl CustomOp2 for Select {
    fn name(&self) -> &'static str {
        "select-from-panels"
    }

    fn cpu_fwd(&self, ids: &CpuStorage, ids_at: &Layout, w: &CpuStorage, w_at: &Layout) -> Result<(CpuStorage, Shape)> {
        let Some((start, end)) = ids_at.contiguous_offsets() else {
            candle_core::bail!("indices have to be contiguous");
        };
        let ids = &ids.as_slice::<u32>()?[start..end];
        let (panels, columns, _) = w_at.shape().dims3()?;
        let w = values(w, w_at)?;
        let mut selected = Vec::with_capacity(ids.len() * columns);
        for id in ids.iter().map(|id| *id as usize) {
            if id / WIDTH >= panels {
                candle_core::bail!("row {id} is outside of a matrix with {} rows", panels * WIDTH);
            }
            let panel = &w[(id / WIDTH) * columns * WIDTH..][..columns * WIDTH];
            selected.extend(panel[id % WIDTH..].iter().step_by(WIDTH));
        }
        Ok((CpuStorage::F32(selected), (ids.len(), columns).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values without a pattern, in ±1.
    fn values_of(seed: usize, rows: usize, columns: usize) -> Tensor {
        let value = |i: usize| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.5 - 1.0;
        let values: Vec<f32> = (0..rows * columns).map(value).collect();
        Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
    }

    fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
        let difference = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
        difference.max(0).unwrap().to_scalar().unwrap()
    }

    #[test]
    fn a_product_with_panels_is_the_product_with_the_matrix() {
        for (m, n, k) in [(1, 1, 1), (1, 100, 24), (2, 16, 7), (3, 17, 8), (4, 33, 5), (9, 130, 40), (5, 300, 300)] {
            let (x, w) = (values_of(1, m, k), values_of(2, n, k));
            let expected = x.matmul(&w.t().unwrap()).unwrap();
            let product = Panels::pack(&w).unwrap().multiply(&x).unwrap();
            assert_eq!(product.dims(), [m, n]);
            assert!(largest_difference(&product, &expected) < 1e-4, "({m}, {k}) · ({n}, {k})");
        }
    }

    #[test]
    fn threads_share_the_panels_without_a_gap() {
        for n in [WIDTH, 5 * WIDTH + 3, 40 * WIDTH] {
            let (x, w) = (values_of(3, 64, 600), values_of(4, n, 600));
            let expected = x.matmul(&w.t().unwrap()).unwrap();
            let product = Panels::pack(&w).unwrap().multiply(&x).unwrap();
            assert!(largest_difference(&product, &expected) < 1e-3, "{n} columns");
        }
    }

    #[test]
    fn rows_can_be_read_back_out_of_panels() {
        let w = values_of(5, 20, 6);
        let ids = Tensor::new(&[19u32, 0, 7], &Device::Cpu).unwrap();
        let selected = Panels::pack(&w).unwrap().select(&ids).unwrap();
        assert_eq!(largest_difference(&selected, &w.index_select(&ids, 0).unwrap()), 0.0);
        let outside = Tensor::new(&[32u32], &Device::Cpu).unwrap();
        assert!(Panels::pack(&w).unwrap().select(&outside).is_err());
    }
}
