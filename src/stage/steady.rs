//! Whether work has become steady: whether the same cycle of batches still takes more or less energy each time.

use crate::meter::{self, Meter};
use crate::record::{Cycle, Heat, usual};
use crate::stats::{Approach, approach};
use crate::units::{Joules, Seconds};

/// Time constants in seconds with which a device may still be heating up: below them lie clocks and the die itself,
/// above them nothing that an H100's energy showed in a minute (its heat sink and memory take some 15 to 40 s).
const TIME_CONSTANTS: [f64; 11] = [1.5, 2.5, 4.0, 6.0, 9.0, 13.0, 18.0, 24.0, 30.0, 37.0, 45.0];
/// Standard deviation of a temperature that is read in whole degrees, in °C.
const WHOLE_DEGREES: f64 = 0.29;
/// What a degree of the core adds to the energy of the same work: about 0.4 % on four H100s. The memory warms with it, and
/// is taken to show as much …
const PER_DEGREE: f64 = 0.004;
/// … and half as much again for what isn't known of other GPUs.
const MOST_PER_DEGREE: f64 = 0.006;
/// Standard errors by which a remainder has to exceed what heat explains for the energies to show it.
const SHOWN: f64 = 2.0;
/// Entries that are recorded of a warm-up: neighbours are merged until there are no more.
const RECORDED: usize = 60;

/// Readings from so long before a cycle are looked at as well: a tick of the counter that is known closely lies in them.
const BEFORE: Seconds = Seconds(5.0);

/// The cycles of a warm-up under way.
#[derive(Debug, Default)]
pub(super) struct Warmth {
    cycles: Vec<Cycle>,
    /// Cycles whose end the meter's samples haven't reached yet.
    pending: Vec<(Seconds, Seconds)>,
}

/// What a warm-up shows.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Course {
    remainder: f64,
    at_most: f64,
    slope_per_10s: f64,
}

impl Warmth {
    /// A cycle was done between two instants.
    pub(super) fn note(&mut self, began: Seconds, ended: Seconds) {
        self.pending.push((began, ended));
    }

    /// Takes over what the meter has read by now.
    pub(super) fn look(&mut self, meter: &mut dyn Meter) {
        let Some((from, _)) = self.pending.first().copied() else { return };
        // a meter that fails says so when it is stopped
        let Some(trace) = meter.so_far(from - BEFORE) else { return };
        let info = meter.info();
        let reached = self.pending.iter().take_while(|(_, ended)| meter::reaches(&trace, info, *ended)).count();
        let known = self.pending.drain(..reached);
        self.cycles.extend(known.filter_map(|(began, ended)| meter::cycle(&trace, info, began, ended)));
    }

    /// Whether what is still to come is within this share of a cycle's energy.
    pub(super) fn is_steady(&self, allowed: f64) -> bool {
        self.heat(allowed).is_steady()
    }

    /// The record of the warm-up.
    pub(super) fn into_heat(self, allowed: f64) -> Heat {
        Heat { cycles: merged(&self.cycles), ..self.heat(allowed) }
    }

    /// What the cycles show, without them.
    fn heat(&self, allowed: f64) -> Heat {
        let course = self.course();
        Heat {
            remainder: course.map(|course| course.remainder),
            remainder_at_most: course.map(|course| course.at_most),
            slope_per_10s: course.map(|course| course.slope_per_10s),
            allowed,
            cycles: Vec::new(),
        }
    }

    fn course(&self) -> Option<Course> {
        let usual = usual(&self.cycles);
        let energies: Vec<(f64, f64)> = usual.iter().map(|cycle| (cycle.t_s.0, cycle.energy_j.0)).collect();
        let by_energy = approach(&energies, &TIME_CONSTANTS, 0.0)?;
        Some(Course::by_heat(&usual, &by_energy).unwrap_or(Course {
            remainder: by_energy.remainder,
            at_most: by_energy.at_most,
            slope_per_10s: by_energy.slope * 10.0,
        }))
    }
}

impl Course {
    /// By the temperatures of core and memory, where they bound the remainder more closely than the scatter of the energies
    /// does, and the energies don't show that more than heat is at work.
    fn by_heat(cycles: &[&Cycle], by_energy: &Approach) -> Option<Self> {
        let fitted = |get: fn(&Cycle) -> Option<f64>| {
            let points: Option<Vec<(f64, f64)>> = cycles.iter().map(|cycle| Some((cycle.t_s.0, get(cycle)?))).collect();
            approach(&points?, &TIME_CONSTANTS, WHOLE_DEGREES)
        };
        let core = fitted(|cycle| cycle.temperature_c)?;
        let memory = fitted(|cycle| cycle.memory_temperature_c);
        let warmer = |of: &Approach| of.at_most * of.now;
        let last = memory.filter(|memory| warmer(memory) > warmer(&core)).unwrap_or(core);
        let at_most = warmer(&last) * MOST_PER_DEGREE;
        let more_than_heat = by_energy.remainder.abs() > at_most + SHOWN * by_energy.standard_error;
        (at_most < by_energy.at_most && !more_than_heat).then_some(Self {
            remainder: last.remainder * last.now * PER_DEGREE,
            at_most,
            slope_per_10s: last.slope * last.now * PER_DEGREE * 10.0,
        })
    }
}

/// No more than [`RECORDED`] entries: neighbours are averaged, the last of an odd number stays as it is.
fn merged(cycles: &[Cycle]) -> Vec<Cycle> {
    let mut cycles = cycles.to_vec();
    while cycles.len() > RECORDED {
        cycles = cycles.chunks(2).map(average).collect();
    }
    cycles
}

fn average(cycles: &[Cycle]) -> Cycle {
    let n = cycles.len() as f64;
    let mean = |get: fn(&Cycle) -> f64| cycles.iter().map(get).sum::<f64>() / n;
    let known = |get: fn(&Cycle) -> Option<f64>| {
        let values: Option<Vec<f64>> = cycles.iter().map(get).collect();
        values.map(|values| values.iter().sum::<f64>() / n)
    };
    Cycle {
        t_s: Seconds(mean(|cycle| cycle.t_s.0)),
        duration_s: Seconds(mean(|cycle| cycle.duration_s.0)),
        energy_j: Joules(mean(|cycle| cycle.energy_j.0)),
        temperature_c: known(|cycle| cycle.temperature_c),
        memory_temperature_c: known(|cycle| cycle.memory_temperature_c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One cycle a second, of which each says its duration and energy.
    fn warmth(cycles: impl IntoIterator<Item = (f64, f64)>) -> Warmth {
        let cycle = |(index, (duration, energy)): (u32, (f64, f64))| Cycle {
            t_s: Seconds(f64::from(index)),
            duration_s: Seconds(duration),
            energy_j: Joules(energy),
            temperature_c: None,
            memory_temperature_c: Some(f64::from(index)),
        };
        Warmth { cycles: (0..).zip(cycles).map(cycle).collect(), pending: Vec::new() }
    }

    fn rising(seconds: u32, share: f64) -> Warmth {
        warmth((0..seconds).map(|t| (1.0, 300.0 * (1.0 - share * (-f64::from(t) / 25.0).exp()))))
    }

    #[test]
    fn work_is_steady_when_the_rest_of_its_rise_is_below_the_allowed_share() {
        // 2.5 % of rise in all: 0.75 % are left after 30 s, 0.23 % after 60 s
        assert!(!rising(30, 0.025).is_steady(0.005));
        assert!(rising(60, 0.025).is_steady(0.005) && rising(30, 0.025).is_steady(0.01));
        assert!(!rising(5, 0.0).is_steady(0.5), "five cycles say nothing");
        let heat = rising(30, 0.025).into_heat(0.005);
        let left = 0.025 * (-29.0f64 / 25.0).exp();
        assert!((heat.remainder.unwrap() - left).abs() < 7e-4, "{:?}", heat.remainder);
        assert!((heat.slope_per_10s.unwrap() - left * 10.0 / 25.0).abs() < 5e-4);
    }

    /// A cycle a second whose energy scatters by 0.8 %, as an engine whose speed isn't quite even makes it, on a core that
    /// warms by 12 °C; with `beyond` its energy rises by more than that explains.
    fn scattered(seconds: u32, beyond: f64) -> Warmth {
        let cycle = |t: u32| {
            let approach = (-f64::from(t) / 15.0).exp();
            let scatter = 0.008 * f64::from(t * 7919 % 13) / 6.0 - 0.008;
            Cycle {
                t_s: Seconds(f64::from(t)),
                duration_s: Seconds(1.0),
                energy_j: Joules(300.0 * (1.0 + scatter - (0.05 + beyond) * approach)),
                temperature_c: Some((57.0 - 12.0 * approach).round()),
                memory_temperature_c: None,
            }
        };
        Warmth { cycles: (0..seconds).map(cycle).collect(), pending: Vec::new() }
    }

    #[test]
    fn the_thermometer_bounds_what_is_to_come_where_the_energies_scatter_too_much_to_show_it() {
        // 0.8 °C are left after 40 s: 0.5 % at most
        let heat = scattered(41, 0.0).into_heat(0.01);
        assert!((0.003..0.01).contains(&heat.remainder_at_most.unwrap()), "{:?}", heat.remainder_at_most);
        assert!(scattered(12, 0.0).into_heat(0.01).remainder_at_most.unwrap() > 0.02, "5 °C are left");
        let beyond = scattered(20, 0.4).into_heat(0.01);
        assert!(beyond.remainder_at_most.unwrap() > 0.08, "more than heat is at work: {beyond:?}");
    }

    #[test]
    fn cycles_that_did_something_else_are_left_out() {
        let with_hiccup = (0..40).map(|t| if t == 0 { (1.4, 420.0) } else { (1.0, 300.0) });
        assert!(warmth(with_hiccup).into_heat(0.01).remainder_at_most.unwrap() < 1e-9);
    }

    #[test]
    fn a_long_warm_up_is_recorded_in_few_entries() {
        let heat = warmth((0..250).map(|_| (1.0, 300.0))).into_heat(0.01);
        assert!((30..=RECORDED).contains(&heat.cycles.len()), "{}", heat.cycles.len());
        assert_eq!(heat.cycles[0].t_s, Seconds(3.5), "the mean of eight cycles");
        assert_eq!((heat.cycles[0].temperature_c, heat.cycles[0].memory_temperature_c), (None, Some(3.5)));
    }
}
