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
pub const CAPACITY: usize = 1 << 16;

/// A ticking source is read until this many of its ticks after `stop`, so that one tick lies past the window.
const LINGER_TICKS: f64 = 1.2;

/// Takes one reading, in joules or watts.
pub type Read = Box<dyn FnMut() -> Result<f64> + Send>;

/// Something to read again and again.
pub struct Source {
    /// `gpu0`, `package-0`, `cpu` …
    pub domain: String,
    /// What `read` gives.
    pub quantity: Quantity,
    /// How an energy from this source is to be labelled.
    pub method: EnergyMethod,
    /// Time between two updates of the source, where it is known.
    pub tick: Option<Seconds>,
    /// Time between two readings.
    pub period: Seconds,
    /// Takes one reading.
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
        stop: Sender<()>,
        thread: JoinHandle<(Vec<Channel>, Result<()>)>,
    },
    /// The thread panicked and took the sources along.
    Lost,
}

struct Channel {
    source: Source,
    samples: Vec<Sample>,
    capacity: usize,
    period: Duration,
    due: Instant,
}

impl Sampler {
    /// A sampler that doesn't run yet.
    pub fn new(sources: Vec<Source>, clock: Clock) -> Self {
        Self::with_capacity(sources, clock, CAPACITY)
    }

    /// The same with room for `capacity` readings of each source before they are thinned.
    pub fn with_capacity(sources: Vec<Source>, clock: Clock, capacity: usize) -> Self {
        let channels = sources.into_iter().map(|source| Channel::new(source, capacity.max(4))).collect();
        Self { clock, state: State::Idle(channels) }
    }

    /// Takes a first reading of every source before it returns, then goes on reading on a thread.
    ///
    /// A recording that was under way is dropped.
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
        let (stop, stopped) = mpsc::channel();
        let clock = self.clock.clone();
        let thread = thread::Builder::new()
            .name("sampler".into())
            .spawn(move || record(channels, &clock, &stopped))
            .context(|| "can't start the sampler thread");
        self.state = match thread {
            Ok(thread) => State::Recording { stop, thread },
            Err(error) => {
                self.state = State::Lost;
                return Err(error);
            }
        };
        Ok(())
    }

    /// Goes on until every ticking source has ticked once more, takes a last reading of every source, and gives what
    /// was recorded.
    ///
    /// # Errors
    /// A source failed while recording, or nothing was being recorded.
    pub fn stop(&mut self) -> Result<Trace> {
        let (stop, thread) = match mem::replace(&mut self.state, State::Lost) {
            State::Recording { stop, thread } => (stop, thread),
            other => {
                self.state = other;
                return Err(Error::new("the meter was stopped without having been started"));
            }
        };
        // the thread may have ended with an error already: then nobody listens, and `join` has that error
        let _ = stop.send(());
        let (mut channels, result) = thread.join().map_err(|_| lost())?;
        let trace = Trace { sources: channels.iter_mut().map(Channel::take_trace).collect() };
        self.state = State::Idle(channels);
        result.map(|()| trace)
    }
}

fn lost() -> Error {
    Error::new("the sampler thread broke down").hint("start again; please report this with the message above it")
}

/// Reads whatever is due until told to stop; a dropped sender ends the thread at once.
fn record(mut channels: Vec<Channel>, clock: &Clock, stopped: &Receiver<()>) -> (Vec<Channel>, Result<()>) {
    let result = sample_until_told(&mut channels, clock, stopped);
    (channels, result)
}

fn sample_until_told(channels: &mut [Channel], clock: &Clock, stopped: &Receiver<()>) -> Result<()> {
    let told = loop {
        match stopped.recv_timeout(until_due(channels)) {
            Err(RecvTimeoutError::Timeout) => take_due(channels, clock)?,
            told => break told,
        }
    };
    if told.is_err() {
        return Ok(());
    }
    linger(channels, clock)?;
    channels.iter_mut().try_for_each(|channel| channel.take(clock))
}

fn linger(channels: &mut [Channel], clock: &Clock) -> Result<()> {
    let longest = channels.iter().filter_map(|channel| channel.source.tick).map(|tick| tick.0).fold(0.0, f64::max);
    let end = Instant::now() + Duration::from_secs_f64(longest * LINGER_TICKS);
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
        let period = Duration::from_secs_f64(source.period.0);
        Self { source, samples: Vec::with_capacity(capacity), capacity, period, due: Instant::now() }
    }

    fn restart(&mut self) {
        self.samples.clear();
        self.samples.reserve(self.capacity);
        self.period = Duration::from_secs_f64(self.source.period.0);
        self.due = Instant::now();
    }

    /// Stamps the reading with the middle of the call, which can take milliseconds.
    fn take(&mut self, clock: &Clock) -> Result<()> {
        let before = clock.now();
        let value = (self.source.read)().map_err(|error| error.at(&self.source.domain))?;
        let t = Seconds((before.0 + clock.now().0) / 2.0);
        if self.samples.len() == self.capacity {
            self.thin();
        }
        self.samples.push(Sample { t, value });
        let now = Instant::now();
        // readings that were missed stay missing: catching up would only bunch them
        self.due = if self.due + self.period > now { self.due + self.period } else { now + self.period };
        Ok(())
    }

    fn thin(&mut self) {
        let mut index = 0;
        self.samples.retain(|_| {
            index += 1;
            index % 2 == 1
        });
        self.period *= 2;
    }

    fn take_trace(&mut self) -> SourceTrace {
        SourceTrace {
            domain: self.source.domain.clone(),
            quantity: self.source.quantity,
            method: self.source.method,
            tick: self.source.tick,
            samples: mem::take(&mut self.samples),
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
            period: Seconds(period),
            read: Box::new(read),
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
    fn a_ticking_source_is_read_past_its_next_tick() {
        let clock = Clock::monotonic();
        let ticking = Source { tick: Some(Seconds(0.05)), ..counting(0.005) };
        let mut sampler = Sampler::new(vec![ticking], clock.clone());
        sampler.start().unwrap();
        let asked = clock.now();
        let trace = sampler.stop().unwrap();
        assert!((trace.sources[0].samples.last().unwrap().t - asked).0 > 0.05);
    }
}
