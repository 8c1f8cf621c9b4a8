//! A thread that reads sources at their periods into a [`Trace`]. Knows no device: a source is a closure.

use std::mem;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::error::{Context, Error, Result};
use crate::record::{EnergyMethod, Quantity, Sample, SourceTrace, Trace};
use crate::units::Seconds;

/// Readings kept for one source (1 MiB): eleven minutes at 10 ms.
///
/// When they are full every second one is dropped and the period doubles, so that memory stays bounded however long
/// a window lasts: counters lose nothing by it, and for power `max_gap` and `coverage` say what it cost.
pub(crate) const CAPACITY: usize = 1 << 16;

/// Room that is made before a recording, so that none is made while it runs: more than most windows need.
const RESERVED: usize = 1 << 13;

/// A ticking source is read until this many of its ticks after `stop`, so that one tick lies past the window.
const LINGER_TICKS: f64 = 1.2;

/// Adds what is new since the last call to the readings, in order of time.
pub(crate) type Read = Box<dyn FnMut(&Clock, &mut Vec<Sample>) -> Result<()> + Send>;

/// A read of one value, stamped with the middle of the call, which can take milliseconds.
pub fn scalar(mut read: impl FnMut() -> Result<f64> + Send + 'static) -> Read {
    Box::new(move |clock, samples| {
        let before = clock.now();
        let value = read()?;
        samples.push(Sample { t: Seconds((before.0 + clock.now().0) / 2.0), value });
        Ok(())
    })
}

/// When a source is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// At a fixed interval.
    Every(Seconds),
    /// At a fixed interval, each time for everything new; not less often, since what isn't taken in time is lost.
    Drain(Seconds),
    /// One of its ticks at a fixed interval, and closely around the edges of a window: for a counter whose readings
    /// cost so much that they would show in what is measured.
    Ticks(Seconds),
}

/// A window's edge, as announced to a meter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// The edge is near: sample finely from now on.
    Soon,
    /// The edge has passed: sample finely for one more tick.
    Passed,
}

/// Something that is read at a pace.
pub struct Source {
    /// `gpu0`, `package-0`, `cpu` …
    pub domain: String,
    /// What its values are, and in what unit.
    pub quantity: Quantity,
    /// How an energy from this source is to be labelled.
    pub method: EnergyMethod,
    /// Time between two updates of the source, if it is known.
    pub tick: Option<Seconds>,
    /// How much earlier than its reading a value was true.
    pub lag: Seconds,
    /// How often it is read: depends on what a reading costs and on how long the source keeps values.
    pub pace: Pace,
    /// Adds what is new since the last call, in order of time; an error ends the recording.
    pub read: Read,
}

/// Reads its sources on a thread of its own between `start` and `stop`.
pub struct Sampler {
    clock: Clock,
    state: State,
}

enum State {
    Idle(Vec<Channel>),
    Recording {
        orders: Sender<Order>,
        thread: JoinHandle<(Vec<Channel>, Result<()>)>,
    },
    /// The thread panicked and took the sources along.
    Lost,
}

enum Order {
    Edge(Edge),
    /// Send the readings since an instant, with what comes in batches fetched first.
    SoFar(Seconds, Sender<Trace>),
    Stop,
}

struct Channel {
    source: Source,
    samples: Vec<Sample>,
    capacity: usize,
    period: Duration,
    due: Instant,
    chase: Chase,
    /// When a tick was last seen to come.
    ticked: Option<Instant>,
    last_read: Option<Instant>,
    /// Ticks of this chase that came between two readings too far apart.
    missed: u32,
    /// One of so many samples of [`Pace::Drain`] is kept.
    stride: usize,
    /// Samples of [`Pace::Drain`] that were dropped since the last one that was kept.
    skipped: usize,
}

/// How closely a source of [`Pace::Ticks`] is being read.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Chase {
    /// Not at all, until the next period.
    Rest,
    /// Until the edge has passed.
    Open,
    /// Until one more tick has come.
    Next,
}

/// Rest between two close readings: the driver's lock is free in between.
const CLOSE: Duration = Duration::from_millis(2);
/// How long before an expected tick close reading begins: an H100's come up to 8 ms early, and a call takes 3 to 5 ms.
const AHEAD: Duration = Duration::from_millis(12);
/// Readings that are further apart than this share of a tick don't show when it came.
const CLOSE_SHARE: f64 = 0.2;
/// Ticks that a chase may miss, on a machine too busy for close readings, before it is given up.
const PATIENCE: u32 = 5;

impl Pace {
    fn period(self) -> Seconds {
        match self {
            Pace::Every(period) | Pace::Drain(period) | Pace::Ticks(period) => period,
        }
    }
}

impl Sampler {
    /// A sampler that doesn't run yet.
    pub fn new(sources: Vec<Source>, clock: Clock) -> Self {
        Self::with_capacity(sources, clock, CAPACITY)
    }

    /// The same with room for `capacity` readings of each source before they are thinned.
    pub(crate) fn with_capacity(sources: Vec<Source>, clock: Clock, capacity: usize) -> Self {
        let channels = sources.into_iter().map(|source| Channel::new(source, capacity.max(4))).collect();
        Self { clock, state: State::Idle(channels) }
    }

    /// Takes a first reading of every source before it returns, then goes on reading on a thread.
    ///
    /// A recording in progress is dropped.
    ///
    /// # Errors
    /// A source can't be read, or an earlier recording lost the sources.
    pub fn start(&mut self) -> Result<()> {
        if matches!(self.state, State::Recording { .. }) {
            // a failure of the dropped recording says nothing about the next one
            let _ = self.stop();
        }
        let State::Idle(channels) = &mut self.state else { return Err(lost()) };
        for channel in channels.iter_mut() {
            channel.restart();
            channel.take(&self.clock)?;
        }
        let channels = mem::take(channels);
        let (orders, received) = mpsc::channel();
        let clock = self.clock.clone();
        let thread = thread::Builder::new()
            .name("sampler".into())
            .spawn(move || record(channels, &clock, &received))
            .context(|| "can't start the sampler thread");
        self.state = match thread {
            Ok(thread) => State::Recording { orders, thread },
            Err(error) => {
                self.state = State::Lost;
                return Err(error);
            }
        };
        Ok(())
    }

    /// Announces an approaching or passed window edge; ignored unless a recording is in progress.
    pub(crate) fn edge(&mut self, edge: Edge) {
        if let State::Recording { orders, .. } = &self.state {
            // a thread that has ended with an error says so at `stop`
            let _ = orders.send(Order::Edge(edge));
        }
    }

    /// A copy of the readings since `from`, with the last one before it of each source; those that come in batches are
    /// fetched first.
    ///
    /// `None` unless a recording is in progress, or when it has failed: `stop` says why.
    pub(crate) fn so_far(&self, from: Seconds) -> Option<Trace> {
        let State::Recording { orders, .. } = &self.state else { return None };
        let (reply, received) = mpsc::channel();
        orders.send(Order::SoFar(from, reply)).ok()?;
        received.recv().ok()
    }

    /// Continues until every ticking source has ticked once more, takes a last reading of every source, and returns the
    /// recording.
    ///
    /// # Errors
    /// A source failed while recording, or nothing was being recorded.
    pub fn stop(&mut self) -> Result<Trace> {
        let (orders, thread) = match mem::replace(&mut self.state, State::Lost) {
            State::Recording { orders, thread } => (orders, thread),
            other => {
                self.state = other;
                return Err(Error::new("the meter was stopped without having been started"));
            }
        };
        // the thread may have ended with an error already: then nobody listens, and `join` has that error
        let _ = orders.send(Order::Stop);
        let (mut channels, result) = thread.join().map_err(|_| lost())?;
        let trace = Trace { sources: channels.iter_mut().map(Channel::take_trace).collect() };
        self.state = State::Idle(channels);
        result.map(|()| trace)
    }
}

fn lost() -> Error {
    Error::new("the sampler thread panicked").with_hint("start again; please report this with the message above it")
}

/// Reads whatever is due until a stop is sent; a dropped sender ends the thread at once.
fn record(mut channels: Vec<Channel>, clock: &Clock, orders: &Receiver<Order>) -> (Vec<Channel>, Result<()>) {
    let result = sample_until_stopped(&mut channels, clock, orders);
    (channels, result)
}

fn sample_until_stopped(channels: &mut [Channel], clock: &Clock, orders: &Receiver<Order>) -> Result<()> {
    loop {
        match orders.recv_timeout(until_due(channels)) {
            Err(RecvTimeoutError::Timeout) => take_due(channels, clock)?,
            Ok(Order::Edge(edge)) => channels.iter_mut().for_each(|channel| channel.edge(edge)),
            Ok(Order::SoFar(from, reply)) => {
                let mut drained = channels.iter_mut().filter(|channel| matches!(channel.source.pace, Pace::Drain(_)));
                drained.try_for_each(|channel| channel.take(clock))?;
                // who asked may have given up
                let _ = reply.send(Trace { sources: channels.iter().map(|channel| channel.since(from)).collect() });
            }
            Ok(Order::Stop) => break,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
    linger(channels, clock)?;
    channels.iter_mut().try_for_each(|channel| channel.take(clock))
}

fn linger(channels: &mut [Channel], clock: &Clock) -> Result<()> {
    let past_tick = |channel: &Channel| channel.source.tick.map_or(0.0, |tick| tick.0) * LINGER_TICKS;
    let longest = channels.iter().map(|channel| past_tick(channel) + channel.source.lag.0).fold(0.0, f64::max);
    let end = Instant::now() + Duration::from_secs_f64(longest);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(until_due(channels).min(left));
        take_due(channels, clock)?;
    }
}

fn until_due(channels: &[Channel]) -> Duration {
    let next = channels.iter().map(|channel| channel.due).min();
    next.map_or(Duration::from_secs(1), |due| due.saturating_duration_since(Instant::now()))
}

fn take_due(channels: &mut [Channel], clock: &Clock) -> Result<()> {
    let now = Instant::now();
    channels.iter_mut().filter(|channel| channel.due <= now).try_for_each(|channel| channel.take(clock))
}

impl Channel {
    fn new(source: Source, capacity: usize) -> Self {
        let period = Duration::from_secs_f64(source.pace.period().0);
        let samples = Vec::with_capacity(capacity.min(RESERVED));
        Self {
            source,
            samples,
            capacity,
            period,
            due: Instant::now(),
            chase: Chase::Rest,
            ticked: None,
            last_read: None,
            missed: 0,
            stride: 1,
            skipped: 0,
        }
    }

    fn restart(&mut self) {
        self.samples.clear();
        self.samples.reserve(self.capacity.min(RESERVED));
        self.period = Duration::from_secs_f64(self.source.pace.period().0);
        self.due = Instant::now();
        self.chase = Chase::Rest;
        (self.missed, self.stride, self.skipped) = (0, 1, 0);
    }

    fn take(&mut self, clock: &Clock) -> Result<()> {
        let (start, before) = (Instant::now(), self.samples.len());
        (self.source.read)(clock, &mut self.samples).map_err(|error| error.at(&self.source.domain))?;
        if self.stride > 1 {
            self.keep_few(before);
        }
        let changed = self.samples[before.saturating_sub(1)..].windows(2).any(|pair| pair[0].value != pair[1].value);
        if self.samples.len() >= self.capacity {
            self.thin();
        }
        match self.source.pace {
            Pace::Every(_) | Pace::Drain(_) => self.next_period(),
            Pace::Ticks(_) => self.next_tick(changed, start),
        }
        Ok(())
    }

    fn next_period(&mut self) {
        let now = Instant::now();
        // readings that were missed stay missing: catching up would only bunch them
        self.due = if self.due + self.period > now { self.due + self.period } else { now + self.period };
    }

    fn next_tick(&mut self, changed: bool, read_at: Instant) {
        let gap = self.last_read.replace(read_at).map(|last| read_at.saturating_duration_since(last).as_secs_f64());
        let close = self.source.tick.zip(gap).is_some_and(|(tick, gap)| gap <= tick.0 * CLOSE_SHARE);
        let seen = changed && close;
        if seen {
            self.ticked = Some(read_at);
        }
        self.chase = match self.chase {
            // a period has passed: follow one tick
            Chase::Rest => {
                self.missed = 0;
                Chase::Next
            }
            Chase::Next if seen || (changed && self.missed >= PATIENCE) => Chase::Rest,
            same => {
                self.missed += u32::from(changed && !close);
                same
            }
        };
        let now = Instant::now();
        self.due = match self.chase {
            Chase::Rest => now + self.period,
            Chase::Open => now + CLOSE,
            Chase::Next if changed && self.missed == 0 => self.expected_tick(now),
            // a tick came before it was expected: read closely until the next one, since ticks that drift against their
            // nominal rhythm would be missed every time
            Chase::Next => now + CLOSE,
        };
    }

    fn edge(&mut self, edge: Edge) {
        if !matches!(self.source.pace, Pace::Ticks(_)) {
            return;
        }
        let now = Instant::now();
        self.missed = 0;
        (self.chase, self.due) = match edge {
            Edge::Soon => (Chase::Open, now),
            Edge::Passed => (Chase::Next, self.expected_tick(now)),
        };
    }

    /// Shortly before the next tick is expected; at once if that isn't known.
    fn expected_tick(&self, now: Instant) -> Instant {
        let (Some(last), Some(tick)) = (self.ticked, self.source.tick) else { return now };
        let since = now.saturating_duration_since(last).as_secs_f64();
        let ahead = last + Duration::from_secs_f64((since / tick.0).ceil() * tick.0);
        ahead.checked_sub(AHEAD).unwrap_or(now).max(now)
    }

    fn thin(&mut self) {
        let mut index = 0;
        self.samples.retain(|_| {
            index += 1;
            index % 2 == 1
        });
        match self.source.pace {
            Pace::Drain(_) => self.stride *= 2,
            Pace::Every(_) | Pace::Ticks(_) => self.period *= 2,
        }
    }

    /// Keeps one of `stride` of the samples from `before` on, as if the buffer had been thinned after them.
    fn keep_few(&mut self, before: usize) {
        let (stride, mut skipped, mut index) = (self.stride, self.skipped, 0);
        self.samples.retain(|_| {
            index += 1;
            if index <= before {
                return true;
            }
            skipped += 1;
            let keep = skipped >= stride;
            if keep {
                skipped = 0;
            }
            keep
        });
        self.skipped = skipped;
    }

    /// A copy of the samples from the last one before `from` on.
    fn since(&self, from: Seconds) -> SourceTrace {
        let first = self.samples.partition_point(|sample| sample.t <= from).saturating_sub(1);
        self.trace(self.samples.get(first..).unwrap_or_default().to_vec())
    }

    fn take_trace(&mut self) -> SourceTrace {
        let samples = mem::take(&mut self.samples);
        self.trace(samples)
    }

    fn trace(&self, samples: Vec<Sample>) -> SourceTrace {
        SourceTrace {
            domain: self.source.domain.clone(),
            quantity: self.source.quantity,
            method: self.source.method,
            tick: self.source.tick,
            lag: self.source.lag,
            samples,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(period: f64, read: impl FnMut() -> Result<f64> + Send + 'static) -> Source {
        Source {
            domain: "cpu".into(),
            quantity: Quantity::EnergyCounter,
            method: EnergyMethod::Modelled,
            tick: None,
            lag: Seconds(0.0),
            pace: Pace::Every(Seconds(period)),
            read: scalar(read),
        }
    }

    fn counting(period: f64) -> Source {
        let mut count = 0.0;
        source(period, move || {
            count += 1.0;
            Ok(count)
        })
    }

    fn wait(seconds: f64) {
        thread::sleep(Duration::from_secs_f64(seconds));
    }

    #[test]
    fn readings_bracket_everything_between_start_and_stop() {
        let clock = Clock::monotonic();
        let mut sampler = Sampler::new(vec![counting(3600.0), counting(0.002)], clock.clone());
        sampler.start().unwrap();
        let t0 = clock.now();
        wait(0.1);
        let t1 = clock.now();
        let trace = sampler.stop().unwrap();
        for source in &trace.sources {
            assert!(source.samples[0].t <= t0 && source.samples.last().unwrap().t >= t1);
            assert!(source.samples.is_sorted_by(|a, b| a.t < b.t));
        }
        assert_eq!(trace.sources[0].samples.len(), 2, "a slow source is read at both edges only");
        assert!(trace.sources[1].samples.len() > 10);
    }

    #[test]
    fn a_source_that_fails_while_recording_fails_the_stop_and_names_itself() {
        let mut count = 0;
        let failing = source(0.001, move || {
            count += 1;
            if count > 3 { Err(Error::new("gpu is lost")) } else { Ok(0.0) }
        });
        let mut sampler = Sampler::new(vec![failing], Clock::monotonic());
        sampler.start().unwrap();
        wait(0.05);
        assert_eq!(sampler.stop().unwrap_err().message(), "cpu: gpu is lost");
        assert!(sampler.start().is_err(), "it still fails at the first reading");
    }

    #[test]
    fn a_second_recording_starts_empty() {
        let mut sampler = Sampler::new(vec![counting(3600.0)], Clock::monotonic());
        sampler.start().unwrap();
        sampler.start().unwrap();
        let trace = sampler.stop().unwrap();
        let values: Vec<f64> = trace.sources[0].samples.iter().map(|sample| sample.value).collect();
        // 1 and 2 belong to the recording that was dropped
        assert_eq!(values, [3.0, 4.0]);
    }

    #[test]
    fn the_readings_so_far_can_be_looked_at_while_the_recording_goes_on() {
        let clock = Clock::monotonic();
        let mut sampler = Sampler::new(vec![counting(0.002), counting(3600.0)], clock.clone());
        assert_eq!(sampler.so_far(Seconds(0.0)), None, "nothing is being recorded");
        sampler.start().unwrap();
        wait(0.05);
        let from = clock.now();
        wait(0.05);
        let seen = sampler.so_far(from).unwrap();
        let fast = &seen.sources[0].samples;
        assert!(fast.len() > 5 && fast[0].t <= from && fast[1].t > from, "from the reading before on");
        assert_eq!(seen.sources[1].samples.len(), 1, "the last reading of a slow source is older");
        let whole = sampler.stop().unwrap();
        assert!(whole.sources[0].samples.len() > fast.len());
        let last = fast[fast.len() - 1];
        assert!(whole.sources[0].samples.contains(&last), "a copy: nothing was taken away");
    }

    #[test]
    fn stopping_without_starting_is_an_error() {
        let mut sampler = Sampler::new(vec![counting(0.01)], Clock::monotonic());
        assert!(sampler.stop().is_err());
        assert!(sampler.start().is_ok());
    }

    #[test]
    fn a_full_buffer_is_thinned_and_keeps_both_ends() {
        let mut sampler = Sampler::with_capacity(vec![counting(0.001)], Clock::monotonic(), 8);
        sampler.start().unwrap();
        wait(0.1);
        let samples = sampler.stop().unwrap().sources.remove(0).samples;
        assert!(samples.len() <= 8);
        assert_eq!(samples[0].value, 1.0);
        assert!(samples.last().unwrap().value > 8.0);
    }

    #[test]
    fn a_source_that_is_drained_is_thinned_evenly_and_read_as_often_as_before() {
        let clock = Clock::monotonic();
        let mut count = 0.0;
        let read: Read = Box::new(move |_, samples| {
            samples.extend((1..=4).map(|i| Sample { t: Seconds(count + f64::from(i)), value: 1.0 }));
            count += 4.0;
            Ok(())
        });
        let source = Source { pace: Pace::Drain(Seconds(3600.0)), read, ..counting(1.0) };
        let mut channel = Channel::new(source, 16);
        for _ in 0..40 {
            channel.take(&clock).unwrap();
        }
        assert!(channel.samples.len() < 16);
        assert_eq!(channel.period, Duration::from_secs(3600));
        let gaps: Vec<f64> = channel.samples.windows(2).map(|pair| (pair[1].t - pair[0].t).0).collect();
        let widest = gaps.iter().copied().fold(0.0, f64::max);
        assert!(widest <= 2.0 * channel.stride as f64 && gaps.len() > 5, "{gaps:?}");
    }

    #[test]
    fn a_tick_that_came_early_is_not_taken_for_one_that_was_followed() {
        let source = Source { tick: Some(Seconds(0.1)), pace: Pace::Ticks(Seconds(60.0)), ..counting(1.0) };
        let mut channel = Channel::new(source, 16);
        let at = |milliseconds: u32| Duration::from_millis(milliseconds.into());
        let start = Instant::now();
        (channel.chase, channel.last_read) = (Chase::Next, Some(start));
        channel.next_tick(true, start + at(88));
        assert_eq!((channel.chase, channel.ticked), (Chase::Next, None), "it could have come any time before");
        assert!(channel.due <= Instant::now() + CLOSE, "the next one isn't missed again");
        channel.next_tick(false, start + at(97));
        channel.next_tick(true, start + at(100));
        assert_eq!((channel.chase, channel.ticked), (Chase::Rest, Some(start + at(100))));
        channel.edge(Edge::Passed);
        for busy in 2..=PATIENCE + 2 {
            channel.next_tick(true, start + at(100) * busy);
        }
        assert_eq!(channel.chase, Chase::Rest, "a busy machine isn't made busier for long");
    }

    #[test]
    fn a_ticking_source_is_read_past_its_next_tick() {
        let clock = Clock::monotonic();
        let ticking = Source { tick: Some(Seconds(0.05)), ..counting(0.005) };
        let mut sampler = Sampler::new(vec![ticking], clock.clone());
        sampler.start().unwrap();
        let asked = clock.now();
        let trace = sampler.stop().unwrap();
        assert!((trace.sources[0].samples.last().unwrap().t - asked).0 > 0.05);
    }

    #[test]
    fn a_costly_counter_is_read_seldom_but_closely_around_an_edge() {
        let start = Instant::now();
        let ticking = Source {
            tick: Some(Seconds(0.1)),
            pace: Pace::Ticks(Seconds(60.0)),
            read: scalar(move || Ok((start.elapsed().as_secs_f64() / 0.1).floor())),
            ..counting(1.0)
        };
        let clock = Clock::monotonic();
        let mut sampler = Sampler::new(vec![ticking], clock.clone());
        sampler.start().unwrap();
        wait(0.3);
        sampler.edge(Edge::Soon);
        wait(0.25);
        sampler.edge(Edge::Passed);
        let edge = clock.now();
        wait(0.6);
        let samples = sampler.stop().unwrap().sources.remove(0).samples;
        let ticks: Vec<_> = samples.windows(2).filter(|pair| pair[0].value != pair[1].value).collect();
        let close = |pair: &&&[Sample]| (pair[1].t - pair[0].t).0 < 0.05;
        assert!(ticks.iter().filter(close).any(|pair| pair[1].t <= edge), "a tick before the edge is known closely");
        assert!(ticks.iter().filter(close).any(|pair| pair[1].t > edge), "and one after it");
        let late = samples.iter().filter(|sample| (sample.t - edge).0 > 0.35).count();
        assert!(late <= 2, "{late} readings where nothing is near: the last one of `stop` is enough");
    }
}
