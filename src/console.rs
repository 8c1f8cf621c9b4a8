//! Messages and progress on standard error: bars on a terminal, plain lines elsewhere, nothing with `--quiet`.

use std::cell::RefCell;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::error::Error;
use crate::format;
use crate::hub::{Event, Watch};
use crate::units::Seconds;

/// Time between two lines about a download if no bar is drawn.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// Standard error, with or without a terminal.
#[derive(Debug, Clone, Copy)]
pub struct Console {
    quiet: bool,
    terminal: bool,
    color: bool,
}

impl Console {
    /// A console for this process. `NO_COLOR` (<https://no-color.org>) turns colours off.
    pub fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { quiet, terminal, color: terminal && !no_color }
    }

    /// Prints a message, unless `--quiet`.
    pub(crate) fn say(&self, message: impl AsRef<str>) {
        if !self.quiet {
            write_line(message.as_ref());
        }
    }

    /// Prints a warning, unless `--quiet`.
    pub fn warn(&self, message: impl AsRef<str>) {
        if !self.quiet {
            write_line(&format!("{} {}", self.paint("warning:", "33"), message.as_ref()));
        }
    }

    /// Prints an error, even with `--quiet`.
    pub fn error(&self, error: &Error) {
        write_line(&format!("{} {}", self.paint("error:", "1;31"), error.message()));
        if let Some(hint) = error.hint() {
            write_line(&format!("{} {hint}", self.paint("hint:", "36")));
        }
    }

    /// Progress over `total` steps, of which earlier starts finished `done`.
    pub(crate) fn progress(&self, total: usize, done: usize) -> Progress {
        let drawn = self.terminal && !self.quiet;
        let target = if drawn { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total as u64), target).with_position(done as u64);
        // the templates are constants that the tests draw
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len} · {prefix} · {msg}")
            .unwrap_or(ProgressStyle::default_bar());
        bar.set_style(style);
        if drawn {
            bar.enable_steady_tick(Duration::from_millis(500));
        }
        Progress { bar, plain: !drawn && !self.quiet, total, done, before: done, started: Instant::now() }
    }

    /// Shows downloads from the hub; a download ends soon after `stop` is set.
    pub(crate) fn downloads(&self, stop: &Arc<AtomicBool>) -> Watch {
        let (console, under_way) = (*self, RefCell::new(None));
        Watch::new(move |event| console.show(event, &mut under_way.borrow_mut()), Arc::clone(stop))
    }

    fn show(&self, event: &Event, under_way: &mut Option<Download>) {
        match (event, under_way.as_mut()) {
            (Event::Begin { repository, files, bytes }, _) => {
                *under_way = Some(Download::new(self, repository, *files, *bytes));
            }
            (Event::Bytes(count), Some(download)) => download.advance(*count),
            (Event::Lost(count), Some(download)) => {
                download.bar.set_position(download.bar.position().saturating_sub(*count));
            }
            (Event::Note(text), Some(download)) if !download.plain => download.bar.println(text),
            (Event::Note(text), _) => self.say(text),
            (Event::End, Some(download)) => {
                download.bar.finish_and_clear();
                *under_way = None;
            }
            (Event::Bytes(_) | Event::Lost(_) | Event::End, None) => {}
        }
    }

    fn paint(&self, text: &str, code: &str) -> String {
        if self.color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// A reader of standard error who has left changes nothing about the work, nor about its exit code.
fn write_line(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Files that are being downloaded.
struct Download {
    bar: ProgressBar,
    plain: bool,
    repository: String,
    line: Instant,
}

impl Download {
    fn new(console: &Console, repository: &str, files: usize, bytes: u64) -> Self {
        let drawn = console.terminal && !console.quiet;
        let target = if drawn { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(bytes), target).with_message(repository.to_owned());
        let template = "{bar:16} {bytes}/{total_bytes} · {bytes_per_sec} · {eta} left · {wide_msg}";
        bar.set_style(ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar()));
        let plain = !drawn && !console.quiet;
        if plain {
            let files = if files == 1 { "1 file".to_owned() } else { format!("{files} files") };
            eprintln!("fetching `{repository}`: {files}, {}", format::bytes(bytes));
        }
        Self { bar, plain, repository: repository.to_owned(), line: Instant::now() }
    }

    fn advance(&mut self, count: u64) {
        self.bar.inc(count);
        if self.plain && self.line.elapsed() >= BETWEEN_LINES {
            self.line = Instant::now();
            let total = self.bar.length().unwrap_or_default();
            let (here, total) = (format::bytes(self.bar.position()), format::bytes(total));
            eprintln!("fetching `{}`: {here} of {total}", self.repository);
        }
    }
}

/// Progress of a sweep.
pub(crate) struct Progress {
    bar: ProgressBar,
    plain: bool,
    total: usize,
    done: usize,
    before: usize,
    started: Instant,
}

impl Progress {
    /// Names the step under way.
    pub(crate) fn begin(&self, what: &str) {
        self.bar.set_prefix(what.to_owned());
    }

    /// Counts a finished step, with its result.
    pub(crate) fn step(&mut self, what: &str, result: &str) {
        self.done += 1;
        let left = self.time_left();
        self.bar.set_position(self.done as u64);
        let left = left.map_or(String::new(), |left| format!("{left} left"));
        self.bar.set_message(left.clone());
        if self.plain {
            let left = if left.is_empty() { left } else { format!("  ({left})") };
            eprintln!("[{}/{}] {what}: {result}{left}", self.done, self.total);
        }
    }

    /// Ends the progress, whether all steps are done or not.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn time_left(&self) -> Option<String> {
        let now = self.done - self.before;
        let left = self.total.saturating_sub(self.done);
        if now == 0 || left == 0 {
            return None;
        }
        let seconds = self.started.elapsed().as_secs_f64() / now as f64 * left as f64;
        Some(format::duration(Seconds(seconds.round())))
    }
}
