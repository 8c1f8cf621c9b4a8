//! The energy–accuracy plane and its Pareto front.

use super::accuracy::{Scores, exact_match};
use super::{CellSummary, Point};
use crate::record::EnergyMethod;

/// One point for each cell with an energy per output token and an accuracy of the same model, data type and output
/// length, in the order of the cells. Points of different energy methods don't dominate each other.
pub fn points(cells: &[CellSummary], scores: &Scores<'_>) -> Vec<Point> {
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

fn point(cell: &CellSummary, scores: &Scores<'_>) -> Option<Point> {
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
