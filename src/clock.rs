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
    heat: Option<Heat>,
    steps: Vec<Step>,
}

/// How a simulated device warms up, and what its temperature does to the power of work.
///
/// Work takes its power at `ambient_c`, and `share_per_c` of it more for each degree above that; idling always takes the
/// same. The temperature approaches `ambient_c + c_per_w · power` with the time constant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Heating {
    /// More power for each °C, as a share.
    pub share_per_c: f64,
    /// How fast the temperature follows power.
    pub time_constant: Seconds,
    /// °C above the surroundings for each watt, in the steady state.
    pub c_per_w: f64,
    /// °C of the surroundings.
    pub ambient_c: f64,
}

#[derive(Debug)]
struct Heat {
    heating: Heating,
    /// °C now.
    temperature: f64,
}

/// Power and temperature of a device with heat are constant and linear for so long at most: four readings of its
/// thermometer a second.
const PIECE: f64 = 0.25;

impl Heating {
    /// Mean power over a time of work that takes `power` at ambient temperature, and the temperature at its end.
    ///
    /// Power follows temperature and temperature power, both linearly: the approach to the steady state is exponential.
    fn pass(&self, temperature: f64, duration: Seconds, power: Watts, share_per_c: f64) -> (Watts, f64) {
        let feedback = 1.0 - self.c_per_w * power.0 * share_per_c;
        let steady = self.ambient_c + self.c_per_w * power.0 / feedback;
        let x = feedback * duration.0 / self.time_constant.0;
        let above = temperature - steady;
        // the mean of exp(-x) over the time
        let mean = if x > 0.0 { -(-x).exp_m1() / x } else { 1.0 };
        let warmth = steady + above * mean - self.ambient_c;
        (power * (1.0 + share_per_c * warmth), steady + above * (-x).exp())
    }

    /// The temperature that a device has after a long time at `power` of idling.
    fn rest(&self, power: Watts) -> f64 {
        self.ambient_c + self.c_per_w * power.0
    }
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
    /// °C at its start and at its end, if the device has heat.
    pub(crate) temperatures: Option<[f64; 2]>,
}

impl SimulatedDevice {
    /// A device at time 0 that draws `idle_power` when it does nothing.
    pub fn new(idle_power: Watts) -> Self {
        Self(Arc::new(Mutex::new(State { idle_power, heat: None, steps: Vec::new() })))
    }

    /// The same device with heat; it has been idle for long.
    pub fn with_heat(idle_power: Watts, heating: Heating) -> Self {
        let heat = Some(Heat { heating, temperature: heating.rest(idle_power) });
        Self(Arc::new(Mutex::new(State { idle_power, heat, steps: Vec::new() })))
    }

    /// Works for `duration` at `power`, which is the power at ambient temperature if the device has heat.
    pub fn spend(&self, duration: Seconds, power: Watts) {
        let mut state = self.state();
        let share = state.heat.as_ref().map_or(0.0, |heat| heat.heating.share_per_c);
        state.pass(duration, power, share);
    }

    /// Does nothing for `duration`.
    pub fn idle(&self, duration: Seconds) {
        let mut state = self.state();
        let power = state.idle_power;
        state.pass(duration, power, 0.0);
    }

    /// °C now, if the device has heat.
    pub fn temperature(&self) -> Option<f64> {
        self.state().heat.as_ref().map(|heat| heat.temperature)
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

impl State {
    fn pass(&mut self, duration: Seconds, power: Watts, share_per_c: f64) {
        let Some(Heat { heating, .. }) = self.heat else {
            return self.push(duration, power, None);
        };
        let pieces = (duration.0 / PIECE).ceil().max(1.0);
        for _ in 0..pieces as usize {
            let piece = duration * (1.0 / pieces);
            let before = self.heat.as_ref().map_or(heating.ambient_c, |heat| heat.temperature);
            let (power, temperature) = heating.pass(before, piece, power, share_per_c);
            self.push(piece, power, Some([before, temperature]));
            self.heat = Some(Heat { heating, temperature });
        }
    }

    fn push(&mut self, duration: Seconds, power: Watts, temperatures: Option<[f64; 2]>) {
        let (end, energy) = self.steps.last().map_or((Seconds(0.0), Joules(0.0)), |step| (step.end, step.energy));
        self.steps.push(Step { end: end + duration, energy: energy + power * duration, power, temperatures });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEATING: Heating =
        Heating { share_per_c: 0.004, time_constant: Seconds(25.0), c_per_w: 0.03, ambient_c: 40.0 };

    fn warm(step: f64, steps: u32) -> SimulatedDevice {
        let device = SimulatedDevice::with_heat(Watts(60.0), HEATING);
        (0..steps).for_each(|_| device.spend(Seconds(step), Watts(300.0)));
        device
    }

    #[test]
    fn a_device_with_heat_approaches_the_temperature_at_which_its_power_holds_it() {
        let device = warm(1000.0, 1);
        // T = 40 + 0.03 P and P = 300 (1 + 0.004 (T - 40)): P = 300 / (1 - 0.004 · 0.03 · 300)
        let steady = 300.0 / (1.0 - 0.036);
        assert!((device.temperature().unwrap() - (40.0 + 0.03 * steady)).abs() < 1e-9);
        let last = device.steps_since(Seconds(999.0));
        assert!(last.iter().all(|step| (step.power.0 - steady).abs() < 1e-9), "{last:?}");
        device.idle(Seconds(1000.0));
        assert!((device.temperature().unwrap() - 41.8).abs() < 1e-9, "60 W of idling");
    }

    #[test]
    fn the_energy_of_a_warm_up_does_not_depend_on_the_steps_in_which_it_is_done() {
        let (fine, coarse) = (warm(0.01, 3000), warm(30.0, 1));
        assert!((fine.energy().0 / coarse.energy().0 - 1.0).abs() < 1e-12);
        assert!((fine.temperature().unwrap() - coarse.temperature().unwrap()).abs() < 1e-9);
        // in closed form: x = 0.964 · 30 / 25, from 41.8 °C
        let (steady, x) = (40.0 + 9.0 / 0.964, 0.964 * 30.0 / 25.0_f64);
        let mean = steady - 40.0 + (41.8 - steady) * (1.0 - (-x).exp()) / x;
        assert!((coarse.energy().0 - 9000.0 * (1.0 + 0.004 * mean)).abs() < 1e-6);
    }

    #[test]
    fn idling_always_takes_the_same_power() {
        let device = warm(60.0, 1);
        let before = device.energy();
        device.idle(Seconds(10.0));
        assert!((device.energy().0 - before.0 - 600.0).abs() < 1e-6);
    }

    #[test]
    fn a_simulated_device_spends_exactly_power_times_time() {
        let device = SimulatedDevice::new(Watts(60.0));
        device.spend(Seconds(2.0), Watts(300.0));
        device.idle(Seconds(1.0));
        assert_eq!(device.energy(), Joules(660.0));
        assert_eq!(device.now(), Seconds(3.0));
    }
}
