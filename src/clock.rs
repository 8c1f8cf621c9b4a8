//! The clock of a run: the monotonic clock of the host, or the clock of a simulated device.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::units::{Joules, Seconds, Watts};

/// The time of a run; windows and traces are stamped with it.
#[derive(Debug, Clone)]
pub enum Clock {
    /// Seconds since the clock was made.
    Monotonic(Instant),
    /// The time of a simulated device: it passes only while the device works or idles.
    Simulated(SimulatedDevice),
}

impl Clock {
    /// A clock that starts now.
    pub fn monotonic() -> Self {
        Clock::Monotonic(Instant::now())
    }

    /// The time now.
    pub fn now(&self) -> Seconds {
        match self {
            Clock::Monotonic(start) => Seconds(start.elapsed().as_secs_f64()),
            Clock::Simulated(device) => device.now(),
        }
    }

    /// Lets time pass without work: sleeps, or advances the simulated device at idle power.
    pub fn idle(&self, duration: Seconds) {
        match self {
            Clock::Monotonic(_) => std::thread::sleep(std::time::Duration::from_secs_f64(duration.0.max(0.0))),
            Clock::Simulated(device) => device.idle(duration),
        }
    }
}

/// A device whose power is known at every instant, so that tests have exact answers.
///
/// The synthetic engine spends time and power on it; the synthetic meter reads its history.
#[derive(Debug, Clone)]
pub struct SimulatedDevice(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    idle_power: Watts,
    steps: Vec<Step>,
}

/// Constant power between the previous step's end and this one's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Step {
    /// When the step ends.
    pub(crate) end: Seconds,
    /// Energy spent since the device was made, at the end of the step.
    pub(crate) energy: Joules,
    /// Power during the step.
    pub(crate) power: Watts,
}

impl SimulatedDevice {
    /// A device at time 0 that draws `idle_power` when it does nothing.
    pub fn new(idle_power: Watts) -> Self {
        Self(Arc::new(Mutex::new(State { idle_power, steps: Vec::new() })))
    }

    /// Works for `duration` at `power`.
    pub(crate) fn spend(&self, duration: Seconds, power: Watts) {
        let mut state = self.state();
        let (end, energy) = state.steps.last().map_or((Seconds(0.0), Joules(0.0)), |step| (step.end, step.energy));
        state.steps.push(Step { end: end + duration, energy: energy + power * duration, power });
    }

    /// Does nothing for `duration`.
    pub fn idle(&self, duration: Seconds) {
        let power = self.state().idle_power;
        self.spend(duration, power);
    }

    /// The time of the device.
    pub fn now(&self) -> Seconds {
        self.state().steps.last().map_or(Seconds(0.0), |step| step.end)
    }

    /// Energy spent since the device was made.
    pub fn energy(&self) -> Joules {
        self.state().steps.last().map_or(Joules(0.0), |step| step.energy)
    }

    /// The steps that ended after `since`, oldest first.
    pub(crate) fn steps_since(&self, since: Seconds) -> Vec<Step> {
        let state = self.state();
        let first = state.steps.partition_point(|step| step.end.0 <= since.0);
        state.steps[first..].to_vec()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // a panic while the lock is held can't leave the history half written: `push` is the last thing done
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulated_device_spends_exactly_power_times_time() {
        let device = SimulatedDevice::new(Watts(60.0));
        device.spend(Seconds(2.0), Watts(300.0));
        device.idle(Seconds(1.0));
        assert_eq!(device.energy(), Joules(660.0));
        assert_eq!(device.now(), Seconds(3.0));
    }
}
