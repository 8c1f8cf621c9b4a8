//! Simulated power sources whose true energy is known in closed form, read as the real meter reads them.
//!
//! A [`Curve`] is the true power; a [`Rig`] is a window of work on it with sensors of random offset, from which traces
//! are taken. Times are in seconds, power in watts, energy in joules. What the sensors do is what was measured on an
//! H100 (driver 580): a counter that ticks every 70 to 108 ms and takes 3 to 5.5 ms to read, a ring of instantaneous
//! samples 7.8 to 43 ms apart of which 11 % repeat the one before, power fields that are renewed ten times a second.

use ept_sweep::meter::sampler::Edge;
use ept_sweep::record::{Domain, EnergyMethod, GpuInfo, MeterInfo, Quantity, Sample, SourceTrace, Trace};
use ept_sweep::units::Seconds;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The one domain.
pub(crate) const GPU: &str = "gpu0";
/// Start of every window.
pub(crate) const T0: f64 = 10.0;
/// Windows are whole batches: this much longer than their nominal length.
pub(crate) const STRETCH: f64 = 1.011;
/// Power without work.
pub(crate) const IDLE: f64 = 100.0;
/// Nominal tick of the counter, and time between two updates of the power fields.
pub(crate) const TICK: f64 = 0.1;
/// Nominal spacing of the ring's samples.
pub(crate) const RING: f64 = 0.02;
/// Power of steady work isn't quite steady: no two new samples are equal.
const NOISE: f64 = 2.0;
/// Load before a window: warm-up and guard.
pub(crate) const WARM: f64 = 3.0;

/// True power over time: pieces of linear power, so that the energy is a closed form.
#[derive(Debug, Clone)]
pub(crate) struct Curve {
    pieces: Vec<Piece>,
    end: f64,
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    from: f64,
    watts: f64,
    slope: f64,
    /// Energy by `from`.
    joules: f64,
}

impl Piece {
    fn energy(&self, t: f64) -> f64 {
        let dt = t - self.from;
        self.joules + self.watts * dt + self.slope * dt * dt / 2.0
    }
}

impl Curve {
    /// Nothing yet, from `start` on; before it the first power that follows is held.
    pub(crate) fn new(start: f64) -> Self {
        Self { pieces: Vec::new(), end: start }
    }

    /// Goes on linearly from `from_w` to `to_w` until `until`; nothing where that has passed.
    pub(crate) fn ramp(mut self, until: f64, from_w: f64, to_w: f64) -> Self {
        if until > self.end {
            let joules = self.pieces.last().map_or(0.0, |piece| piece.energy(self.end));
            let slope = (to_w - from_w) / (until - self.end);
            self.pieces.push(Piece { from: self.end, watts: from_w, slope, joules });
            self.end = until;
        }
        self
    }

    /// Goes on with constant power until `until`.
    pub(crate) fn hold(self, until: f64, watts: f64) -> Self {
        self.ramp(until, watts, watts)
    }

    fn piece(&self, t: f64) -> &Piece {
        let after = self.pieces.partition_point(|piece| piece.from <= t);
        &self.pieces[after.saturating_sub(1)]
    }

    /// Power at `t`.
    pub(crate) fn power(&self, t: f64) -> f64 {
        let piece = self.piece(t);
        piece.watts + piece.slope * (t - piece.from)
    }

    /// Energy between two instants.
    pub(crate) fn energy(&self, from: f64, to: f64) -> f64 {
        self.piece(to).energy(to) - self.piece(from).energy(from)
    }

    /// What a sensor says that looks for `look` in each `period`, first from `offset` on: the mean of each look, or the
    /// power at one instant if `look` is 0, held until the next look has ended.
    pub(crate) fn looked_at(&self, period: f64, look: f64, offset: f64) -> Curve {
        let seen = |end: f64| if look > 0.0 { self.energy(end - look, end) / look } else { self.power(end) };
        let start = self.pieces[0].from;
        let end = |n: u32| start + offset + look + f64::from(n) * period;
        let looks = ((self.end - start - offset - look) / period).floor() as u32;
        let held = Curve::new(start).hold(end(0), seen(end(0)));
        (0..looks).fold(held, |held, n| held.hold(end(n + 1), seen(end(n))))
    }
}

/// A part of a batch: until when, and power at its start and its end.
type Part = (f64, f64, f64);

/// Work with a known course of power.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Workload {
    /// 400 W.
    Constant,
    /// 300 W in the first half of the window, 500 W in the second.
    Step,
    /// 250 W to 550 W over the window.
    Ramp,
    /// 390 W to 410 W from the warm-up's start to the end.
    Drift,
    /// Idle, but 900 W for half a second from half a second after the start.
    Burst,
    /// Batches of 0.337 s: 60 ms of prefill at 650 W, decoding from 420 W to 360 W, 8 ms at 180 W.
    ShortBatches,
    /// Batches of 1.011 s: 300 ms of prefill at 680 W, decoding from 430 W to 340 W, 12 ms at 180 W.
    LongBatches,
}

impl Workload {
    /// In the order of the table.
    pub(crate) const ALL: [Workload; 7] = [
        Workload::Constant,
        Workload::Step,
        Workload::Ramp,
        Workload::Drift,
        Workload::Burst,
        Workload::ShortBatches,
        Workload::LongBatches,
    ];

    /// Duration of a batch, and its parts.
    fn batch(self) -> Option<(f64, &'static [Part])> {
        match self {
            Workload::ShortBatches => {
                Some((0.337, &[(0.06, 650.0, 650.0), (0.329, 420.0, 360.0), (0.337, 180.0, 180.0)]))
            }
            Workload::LongBatches => {
                Some((1.011, &[(0.3, 680.0, 680.0), (0.999, 430.0, 340.0), (1.011, 180.0, 180.0)]))
            }
            _ => None,
        }
    }

    /// Its power from 0 to 5 s after a window of `length` from [`T0`]. With `guard` the load lasts from before the
    /// window until so long after it; without, only as long as the window.
    pub(crate) fn curve(self, length: f64, guard: Option<f64>) -> Curve {
        let (t0, t1) = (T0, T0 + length);
        let (begin, end) = guard.map_or((t0, t1), |guard| (t0 - WARM, t1 + guard));
        let curve = Curve::new(0.0);
        let curve = match self {
            Workload::Constant => curve.hold(begin, IDLE).hold(end, 400.0),
            Workload::Step => curve.hold(begin, IDLE).hold((t0 + t1) / 2.0, 300.0).hold(end, 500.0),
            Workload::Ramp => curve.hold(begin, IDLE).hold(t0, 250.0).ramp(t1, 250.0, 550.0).hold(end, 550.0),
            Workload::Drift => curve.hold(begin, IDLE).ramp(end, 390.0, 410.0),
            Workload::Burst => curve.hold(t0 + 0.5, IDLE).hold(t0 + 1.0, 900.0),
            Workload::ShortBatches | Workload::LongBatches => self.repeated(curve, begin, end),
        };
        curve.hold(t1 + 5.0, IDLE)
    }

    /// Whole batches, one of which starts at [`T0`]; the last one ends at or after `end`, as a guard's does.
    fn repeated(self, mut curve: Curve, begin: f64, end: f64) -> Curve {
        let (period, pieces) = self.batch().unwrap_or((1.0, &[]));
        let first = ((begin - T0) / period).round() as i64;
        let last = ((end - T0) / period - 1e-6).ceil() as i64;
        curve = curve.hold(T0 + first as f64 * period, IDLE);
        for batch in first..last {
            let start = T0 + batch as f64 * period;
            for &(until, from_w, to_w) in pieces {
                curve = curve.ramp(start + until, from_w, to_w);
            }
        }
        curve
    }
}

/// When the sampler thread gets no processor time.
pub(crate) type Starved = Option<(f64, f64)>;

/// How the meter follows the counter's ticks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Following {
    /// Time between two ticks that are followed where no edge is near.
    pub rest: f64,
    /// Ticks that are followed after an edge.
    pub after_edge: u32,
    /// How long before an expected tick close reading begins.
    pub ahead: f64,
}

impl Following {
    /// One tick every 3 s, two after an edge.
    pub(crate) const OFTEN: Following = Following { rest: 3.0, after_edge: 2, ahead: 0.006 };
    /// One tick every 6 s, one after an edge: a window of 5 s has none of its own before its end.
    pub(crate) const SELDOM: Following = Following { rest: 6.0, after_edge: 1, ahead: 0.012 };
}

/// A window of work and the sensors that look at it.
pub(crate) struct Rig<'a> {
    /// What the sensors sense: the true power, or what a sensor with a rhythm makes of it.
    pub sensed: &'a Curve,
    /// The window.
    pub t0: f64,
    /// The window's end.
    pub t1: f64,
    /// Guard work at both edges.
    pub guard: f64,
    /// When the sampler gets no processor time.
    pub starved: Starved,
    /// How the counter is followed.
    pub following: Following,
    /// Where its random numbers come from.
    pub seed: u64,
}

impl<'a> Rig<'a> {
    /// A window of `length` from [`T0`], with sensors whose offsets come from `seed`.
    pub(crate) fn new(sensed: &'a Curve, length: f64, guard: f64, seed: u64) -> Self {
        Self { sensed, t0: T0, t1: T0 + length, guard, starved: None, following: Following::SELDOM, seed }
    }

    /// Each sensor has random numbers of its own, so that leaving one out changes no other.
    fn random(&self, sensor: u64) -> ChaCha8Rng {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(sensor);
        random
    }

    fn start(&self) -> f64 {
        self.t0 - 2.5
    }

    fn stop(&self) -> f64 {
        self.t1 + self.guard
    }

    /// Instants from before the recording to after it, with these steps between them.
    fn instants(&self, random: &mut ChaCha8Rng, mut step: impl FnMut(&mut ChaCha8Rng) -> f64) -> Vec<f64> {
        let mut at = self.start() - 1.0 - step(random) * random.random::<f64>();
        let mut all = Vec::new();
        while at < self.stop() + 1.5 {
            all.push(at);
            at += step(random);
        }
        all
    }

    /// The energy counter itself, before anyone reads it.
    pub(crate) fn counter(&self) -> Staircase {
        let times = self.instants(&mut self.random(1), tick);
        // what was counted before doesn't matter, but isn't 0
        let joules = |t: &f64| ((5000.0 + self.sensed.energy(0.0, *t)) * 1e3).round() / 1e3;
        Staircase { values: times.iter().map(joules).collect(), times }
    }

    /// (a) the counter as the meter reads it: closely around the window's edges, seldom otherwise.
    pub(crate) fn followed(&self, counter: &Staircase) -> SourceTrace {
        let told = [(self.t0 - self.guard, Edge::Soon), (self.t0, Edge::Passed), (self.t1, Edge::Passed)];
        let samples = self.follow(counter, &told);
        source(Quantity::EnergyCounter, EnergyMethod::Counter, Some(TICK), samples)
    }

    /// Reads a counter as `meter::sampler` does with `Pace::Ticks`, in simulated time: calls take 3 to 5.5 ms, and
    /// close readings rest for 2 ms between them. Now and then other work delays a reading.
    fn follow(&self, counter: &Staircase, told: &[(f64, Edge)]) -> Vec<Sample> {
        const CLOSE: f64 = 0.002;
        const CLOSELY: f64 = 0.02;
        let Following { rest, after_edge, ahead } = self.following;
        let mut random = self.random(2);
        let expected = |ticked: Option<f64>, now: f64| {
            ticked.map_or(now, |last| (last + ((now - last) / TICK).ceil() * TICK - ahead).max(now))
        };
        let end = self.stop() + 1.2 * TICK;
        let (mut now, mut due, mut chase) = (self.start(), self.start(), Chase::Rest);
        let (mut ticked, mut last_read) = (None, f64::NEG_INFINITY);
        let mut told = told.iter().peekable();
        let mut samples: Vec<Sample> = Vec::new();
        loop {
            let next = now.max(due).min(end.max(now));
            if let Some((at, edge)) = told.next_if(|(at, _)| *at <= next) {
                now = now.max(*at);
                (chase, due) = match edge {
                    Edge::Soon => (Chase::Open, now),
                    Edge::Passed => (Chase::For(after_edge), expected(ticked, now)),
                };
                continue;
            }
            let delayed = if random.random::<f64>() < 0.03 { random.random_range(0.0..0.015) } else { 0.0 };
            let begin = rested(next + delayed, self.starved);
            let call = random.random_range(0.003..0.0055);
            let value = counter.at(begin + random.random::<f64>() * call);
            let changed = samples.last().is_some_and(|last| last.value != value);
            samples.push(Sample { t: Seconds(begin + call / 2.0), value });
            if begin >= end {
                return samples;
            }
            let seen = changed && begin - last_read <= CLOSELY;
            (now, last_read) = (begin + call, begin);
            if seen {
                ticked = Some(begin);
            }
            chase = match chase {
                Chase::Rest => Chase::For(1),
                Chase::For(0 | 1) if seen => Chase::Rest,
                Chase::For(left) if seen => Chase::For(left - 1),
                same => same,
            };
            due = match chase {
                Chase::Rest => now + rest,
                Chase::For(_) if changed => expected(ticked, now),
                Chase::Open | Chase::For(_) => now + CLOSE,
            };
        }
    }

    /// (b) the counter read every 50 ms.
    pub(crate) fn polled(&self, counter: &Staircase) -> SourceTrace {
        let samples = self.poll(0.05, 3, |t| counter.at(t));
        source(Quantity::EnergyCounter, EnergyMethod::Counter, Some(TICK), samples)
    }

    /// (c) the driver's ring: instantaneous samples, of which 11 % say what the one before said.
    pub(crate) fn ring(&self) -> SourceTrace {
        let mut random = self.random(4);
        let times = self.instants(&mut random, |random| match random.random_range(0..10) {
            0 => random.random_range(0.0078..0.018),
            1 => random.random_range(0.022..0.043),
            _ => random.random_range(0.018..0.022),
        });
        let mut last = self.sensed.power(times[0]);
        let (from, to) = (self.start() - 0.5, self.stop() + 1.2 * TICK);
        let mut samples = Vec::new();
        for t in times {
            if random.random::<f64>() >= 0.11 {
                last = self.sensed.power(t) + random.random_range(-NOISE..NOISE);
            }
            if (from..=to).contains(&t) {
                samples.push(Sample { t: Seconds(t), value: milli(last) });
            }
        }
        source(Quantity::Power, EnergyMethod::PowerIntegral, Some(RING), samples)
    }

    /// The ring of a sensor with an exact rhythm: a sample each [`RING`] from `first` on.
    pub(crate) fn ring_in_rhythm(&self, first: f64) -> SourceTrace {
        let mut random = self.random(4);
        let (from, to) = (self.start() - 0.5, self.stop() + 1.2 * TICK);
        let samples = (((from - first) / RING).ceil() as u32..).map(|n| first + f64::from(n) * RING);
        let sample = |t: f64| {
            // just after the look has ended, not just before
            let power = self.sensed.power(t + 1e-6) + random.random_range(-NOISE..NOISE);
            Sample { t: Seconds(t), value: milli(power) }
        };
        let samples = samples.take_while(|t| *t <= to).map(sample).collect();
        source(Quantity::Power, EnergyMethod::PowerIntegral, Some(RING), samples)
    }

    /// (d) POWER_INSTANT, read every 20 ms and renewed every 100 ms.
    pub(crate) fn instant(&self) -> SourceTrace {
        let field = self.renewed(5, |t| self.sensed.power(t));
        source(Quantity::Power, EnergyMethod::PowerIntegral, Some(TICK), self.poll(0.02, 6, |t| field.at(t)))
    }

    /// POWER_INSTANT with an exact rhythm: a look at one instant each [`TICK`] from `offset` on.
    pub(crate) fn instant_in_rhythm(&self, offset: f64) -> SourceTrace {
        let looks = ((self.stop() + 1.5) / TICK) as u32;
        let times: Vec<f64> = (0..looks).map(|n| offset + f64::from(n) * TICK).collect();
        let field = Staircase { values: times.iter().map(|t| milli(self.sensed.power(*t))).collect(), times };
        source(Quantity::Power, EnergyMethod::PowerIntegral, Some(TICK), self.poll(0.02, 6, |t| field.at(t)))
    }

    /// (e) power_usage: the average of the last second, renewed and read every 100 ms.
    pub(crate) fn usage(&self) -> SourceTrace {
        let field = self.renewed(7, |t| self.sensed.energy(t - 1.0, t));
        let samples = self.poll(0.1, 8, |t| field.at(t));
        let averaged = source(Quantity::PowerUsage, EnergyMethod::PowerIntegral, Some(TICK), samples);
        SourceTrace { lag: Seconds(0.5), ..averaged }
    }

    fn renewed(&self, sensor: u64, value: impl Fn(f64) -> f64) -> Staircase {
        let times = self.instants(&mut self.random(sensor), tick);
        Staircase { values: times.iter().map(|t| milli(value(*t))).collect(), times }
    }

    /// Readings at a steady period, a little late each time, until the sampler has lingered.
    fn poll(&self, period: f64, sensor: u64, value: impl Fn(f64) -> f64) -> Vec<Sample> {
        let mut random = self.random(sensor);
        let mut due = self.start();
        let mut samples = Vec::new();
        // the lag of power_usage makes the sampler linger for half a second more, for all sources
        while due < self.stop() + 1.2 * TICK + 0.5 {
            let t = rested(due + random.random_range(0.0..0.002), self.starved);
            samples.push(Sample { t: Seconds(t), value: value(t) });
            due = (due + period).max(t);
        }
        samples
    }

    /// Counter and ring, as on an H100.
    pub(crate) fn trace(&self) -> Trace {
        Trace { sources: vec![self.followed(&self.counter()), self.ring()] }
    }
}

/// Time between two updates of the counter and of the fields.
fn tick(random: &mut ChaCha8Rng) -> f64 {
    match random.random_range(0..20) {
        0 => random.random_range(0.070..0.098),
        1 => random.random_range(0.102..0.108),
        _ => random.random_range(0.098..0.102),
    }
}

/// NVML counts in milliwatts.
fn milli(watts: f64) -> f64 {
    (watts * 1e3).round() / 1e3
}

fn rested(t: f64, starved: Starved) -> f64 {
    starved.filter(|(from, to)| (*from..*to).contains(&t)).map_or(t, |(_, to)| to)
}

/// A value that changes at known instants only.
#[derive(Debug, Clone)]
pub(crate) struct Staircase {
    times: Vec<f64>,
    values: Vec<f64>,
}

impl Staircase {
    /// What a reading at `t` shows.
    pub(crate) fn at(&self, t: f64) -> f64 {
        self.values[self.times.partition_point(|tick| *tick <= t).saturating_sub(1)]
    }

    /// What the first reading after the next tick from `t` shows.
    pub(crate) fn after_next_tick(&self, t: f64) -> f64 {
        self.values[self.times.partition_point(|tick| *tick < t)]
    }

    /// Counts from 0 again from `t` on.
    pub(crate) fn reset_at(mut self, t: f64) -> Self {
        let before = self.at(t);
        self.each(|time, value| if time > t { value - before } else { value });
        self
    }

    /// Stands still from `t` on.
    pub(crate) fn stuck_at(mut self, t: f64) -> Self {
        let before = self.at(t);
        self.each(|time, value| if time > t { before } else { value });
        self
    }

    /// Shows everything later.
    pub(crate) fn later(mut self, lag: f64) -> Self {
        self.times.iter_mut().for_each(|time| *time += lag);
        self
    }

    /// Counts too much by a factor.
    pub(crate) fn scaled(mut self, factor: f64) -> Self {
        self.each(|_, value| value * factor);
        self
    }

    fn each(&mut self, change: impl Fn(f64, f64) -> f64) {
        self.times.iter().zip(&mut self.values).for_each(|(time, value)| *value = change(*time, *value));
    }
}

/// How closely the counter is being read: the states of `meter::sampler`.
#[derive(Clone, Copy, PartialEq)]
enum Chase {
    Rest,
    Open,
    For(u32),
}

fn source(quantity: Quantity, method: EnergyMethod, tick: Option<f64>, samples: Vec<Sample>) -> SourceTrace {
    SourceTrace { domain: GPU.into(), quantity, method, tick: tick.map(Seconds), lag: Seconds(0.0), samples }
}

/// The samples outside `from … to`: what a set wall clock or a starved sampler leaves of a ring.
pub(crate) fn without(source: SourceTrace, from: f64, to: f64) -> SourceTrace {
    let samples = source.samples.iter().copied().filter(|sample| !(from..to).contains(&sample.t.0)).collect();
    SourceTrace { samples, ..source }
}

/// Only samples that differ from the one before.
pub(crate) fn deduplicated(source: SourceTrace) -> SourceTrace {
    let mut samples = source.samples.clone();
    samples.dedup_by(|later, earlier| later.value == earlier.value);
    SourceTrace { samples, ..source }
}

/// What the meter of such a GPU says of itself.
pub(crate) fn info() -> MeterInfo {
    MeterInfo {
        name: "nvml".into(),
        method: EnergyMethod::Counter,
        domains: vec![Domain { name: GPU.into(), description: "simulated".into() }],
        tick_s: Some(Seconds(TICK)),
        min_window_s: Seconds(5.0),
        guard_s: Seconds(0.3),
        idle_s: Seconds(20.0),
        notes: vec![],
        host_domains: vec![],
        sensing_period_s: Some(Seconds(RING)),
        sources: vec![],
        gpus: vec![GpuInfo { domain: GPU.into(), ..GpuInfo::default() }],
    }
}
