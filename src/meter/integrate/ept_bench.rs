//! EPT-Bench's own estimator, for comparison only.

use crate::record::SourceTrace;
use crate::units::{Joules, Seconds};

/// How long EPT-Bench sleeps between two readings, in seconds.
const INTERVAL: f64 = 0.1;

/// `E_sum_J` of one domain: what EPT-Bench's own loop gives, which sleeps 0.1 s, reads `power_usage` and adds
/// power × 0.1 s, and drops what is left at the end. At each of those instants the latest reading counts.
///
/// `None` without a reading at or before the first of those instants, or for an empty window.
pub fn ept_bench_sum(usage: &SourceTrace, t0: Seconds, t1: Seconds) -> Option<Joules> {
    let steps = ((t1 - t0).0 / INTERVAL + 1e-9).floor();
    if steps.is_nan() || steps < 0.0 {
        return None;
    }
    let mut sum = 0.0;
    for step in 1..=steps as u64 {
        let t = t0.0 + step as f64 * INTERVAL;
        let after = usage.samples.partition_point(|sample| sample.t.0 <= t);
        sum += usage.samples.get(after.checked_sub(1)?)?.value * INTERVAL;
    }
    Some(Joules(sum))
}
