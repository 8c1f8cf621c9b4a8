//! How long training goes on, and the learning rate on the way.

use std::time::Duration;

const WARM_UP_STEPS: usize = 300;
/// Where the cosine ends, as a share of the highest rate.
const FINAL_RATE: f64 = 0.01;

/// When training ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Length<'a> {
    /// After so many steps, or earlier at the end of a time limit: the schedule is annealed to its end by whichever is
    /// further.
    Steps { steps: usize, time_limit: Option<Duration> },
    /// With the steps of an earlier training and their progress, whatever they take.
    Repeat { steps: usize, progress: &'a [f64] },
}

impl Length<'_> {
    /// How far step `step` is, from 0 to 1; `None` when training is over.
    pub(crate) fn progress(self, step: usize, elapsed: Duration) -> Option<f64> {
        match self {
            Length::Repeat { progress, .. } => progress.get(step).copied(),
            Length::Steps { steps, time_limit } => {
                let by_steps = step as f64 / steps.max(1) as f64;
                let by_time = time_limit.map_or(0.0, |limit| elapsed.as_secs_f64() / limit.as_secs_f64());
                Some(by_steps.max(by_time)).filter(|progress| *progress < 1.0)
            }
        }
    }

    /// Steps of the linear warm-up.
    pub(crate) fn warm_up(self) -> usize {
        let (Length::Steps { steps, .. } | Length::Repeat { steps, .. }) = self;
        WARM_UP_STEPS.min(steps / 10)
    }
}

/// The learning rate's factor: linear warm-up over steps, then a cosine over the progress.
pub(super) fn rate_factor(step: usize, warm_up: usize, progress: f64) -> f64 {
    let warm = ((step + 1) as f64 / warm_up.max(1) as f64).min(1.0);
    let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos());
    warm * (FINAL_RATE + (1.0 - FINAL_RATE) * cosine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_warms_up_and_anneals() {
        assert!(rate_factor(0, 100, 0.0) < 0.02);
        assert!((rate_factor(100, 100, 0.0) - 1.0).abs() < 1e-9);
        assert!((rate_factor(100, 100, 1.0) - FINAL_RATE).abs() < 1e-9);
    }

    #[test]
    fn training_is_as_far_as_the_further_of_steps_and_time() {
        let length = Length::Steps { steps: 100, time_limit: Some(Duration::from_secs(10)) };
        assert_eq!(length.progress(20, Duration::from_secs(1)), Some(0.2));
        assert_eq!(length.progress(20, Duration::from_secs(5)), Some(0.5));
        assert_eq!(length.progress(20, Duration::from_secs(10)), None);
        assert_eq!(length.progress(100, Duration::from_secs(1)), None);
    }

    #[test]
    fn a_repeated_training_takes_the_same_steps_whatever_they_take() {
        let length = Length::Repeat { steps: 100, progress: &[0.0, 0.4] };
        let hours = Duration::from_secs(10_000);
        assert_eq!([0, 1, 2].map(|step| length.progress(step, hours)), [Some(0.0), Some(0.4), None]);
    }
}
