//! The energy–accuracy plane and its Pareto front.

use super::accuracy::{Evaluations, exact_match};
use super::cells::CellSummary;
use crate::record::{EnergyMethod, Role};
use crate::stats::Estimate;

/// One point of the energy–accuracy plane.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// The cell.
    pub cell: String,
    /// Label of the model.
    pub model: String,
    /// What the model is.
    pub role: Role,
    /// Batch size.
    pub batch_size: usize,
    /// Output length.
    pub max_new_tokens: usize,
    /// Joules per output token.
    pub ept_out_j: Estimate,
    /// Exact match.
    pub accuracy: Estimate,
    /// No other point has less energy and at least the accuracy, or the same energy and more accuracy.
    pub on_front: bool,
}

/// One point for each cell with an energy per output token and an accuracy of the same model, data type and output
/// length, in the order of the cells. Points of different energy methods don't dominate each other.
pub(super) fn points(cells: &[CellSummary], scores: &Evaluations<'_>) -> Vec<Point> {
    let mut points: Vec<(Point, Option<EnergyMethod>)> =
        cells.iter().filter_map(|cell| Some((point(cell, scores)?, cell.method))).collect();
    let on_front: Vec<bool> = points
        .iter()
        .map(|(point, method)| !points.iter().any(|(other, by)| by == method && dominates(other, point)))
        .collect();
    for ((point, _), on_front) in points.iter_mut().zip(on_front) {
        point.on_front = on_front;
    }
    points.into_iter().map(|(point, _)| point).collect()
}

fn point(cell: &CellSummary, scores: &Evaluations<'_>) -> Option<Point> {
    Some(Point {
        cell: cell.id.clone(),
        model: cell.model.clone(),
        role: cell.role,
        batch_size: cell.batch_size,
        max_new_tokens: cell.max_new_tokens,
        ept_out_j: cell.ept_out_j?,
        accuracy: exact_match(scores.find(&cell.model, &cell.dtype, cell.max_new_tokens)?)?,
        on_front: false,
    })
}

/// At least as good in both, and better in one.
fn dominates(a: &Point, b: &Point) -> bool {
    let (energy, accuracy) = (a.ept_out_j.value - b.ept_out_j.value, a.accuracy.value - b.accuracy.value);
    energy <= 0.0 && accuracy >= 0.0 && (energy < 0.0 || accuracy > 0.0)
}
