//! The marks of a command: lines in a pipe or in a growing file, read on a thread of their own.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::lines::{Line, Lines};
use crate::clock::Clock;
use crate::error::{Context, Error, Result};
use crate::meter::stages::Mark;
use crate::units::Seconds;

/// The variable that names the pipe or file to the command.
pub(crate) const VARIABLE: &str = "EPT_SWEEP_MARKS";
/// More aren't kept.
const MOST: usize = 10_000;
/// How often a file is looked at: a look costs a microsecond.
const LOOK: Duration = Duration::from_millis(20);
/// How soon a thread that waits for a pipe learns that the command has ended.
const WAIT_MS: i32 = 50;

/// Where a command writes its marks.
#[derive(Debug)]
pub(crate) struct MarkFile {
    path: PathBuf,
    file: File,
    is_pipe: bool,
    /// Of a pipe that was made for this command: removed with the value.
    folder: Option<PathBuf>,
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Marks {
    /// In the order in which they were read.
    pub(crate) marks: Vec<Mark>,
    /// Lines that were too long, too many, or not finished.
    pub(crate) ignored: usize,
}

impl MarkFile {
    /// A pipe or file that the user names. What a file already holds isn't this command's; one that doesn't exist is
    /// made.
    ///
    /// # Errors
    /// It can't be opened, or is neither a pipe nor a file.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let what = || format!("can't read marks from `{}`", path.display());
        let path = std::path::absolute(path).input_context(what)?;
        let kind = fs::metadata(&path).ok();
        let is_pipe = kind.as_ref().is_some_and(is_pipe);
        if !is_pipe && kind.is_some_and(|kind| !kind.is_file()) {
            return Err(Error::input(what()).with_hint("name a file, or a pipe that `mkfifo` made"));
        }
        let mut file = if is_pipe { open_pipe(&path) } else { open_file(&path) }.input_context(what)?;
        if !is_pipe {
            file.seek(SeekFrom::End(0)).input_context(what)?;
        }
        Ok(Self { path, file, is_pipe, folder: None })
    }

    /// A pipe in a folder of its own, which only this user can open.
    ///
    /// # Errors
    /// The folder for temporary files can't be written.
    pub(crate) fn temporary() -> Result<Self> {
        let unique = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let folder = std::env::temp_dir().join(format!("ept-sweep-marks-{}-{unique}", std::process::id()));
        let what = || format!("can't make a pipe for marks in `{}`", folder.display());
        let elsewhere = |why: Error| why.with_hint("`--marks PATH` names another place");
        fs::DirBuilder::new().mode(0o700).create(&folder).context(what).map_err(elsewhere)?;
        let path = folder.join("marks");
        let made = make_pipe(&path).and_then(|()| open_pipe(&path)).context(what).map_err(elsewhere);
        if made.is_err() {
            let _ = fs::remove_dir_all(&folder);
        }
        Ok(Self { path, file: made?, is_pipe: true, folder: Some(folder) })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads marks on a thread until it is stopped; `on_mark` is called right after each.
    pub(super) fn watch(self, clock: Clock, on_mark: impl Fn() + Send + 'static) -> Result<Watching> {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = thread::Builder::new().name("marks".into()).spawn(move || {
            let reader = Reader { file: self, clock, lines: Lines::default(), found: Marks::default() };
            reader.read_until(&flag, &on_mark)
        });
        Ok(Watching { stop, thread: thread.context(|| "can't start the thread that reads marks")? })
    }
}

impl Drop for MarkFile {
    fn drop(&mut self) {
        if let Some(folder) = &self.folder {
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// A thread that reads marks.
#[derive(Debug)]
pub(super) struct Watching {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Marks>,
}

impl Watching {
    /// All marks, with those that were written and not read yet.
    pub(super) fn finish(self) -> Marks {
        self.stop.store(true, Ordering::Relaxed);
        // a panic is on standard error already
        self.thread.join().unwrap_or_default()
    }
}

struct Reader {
    file: MarkFile,
    clock: Clock,
    lines: Lines,
    found: Marks,
}

impl Reader {
    fn read_until(mut self, stop: &AtomicBool, on_mark: &dyn Fn()) -> Marks {
        loop {
            // looked at before the last reading: what was written before it is then read
            let last = stop.load(Ordering::Relaxed);
            self.take(on_mark);
            if last {
                break;
            }
            self.wait();
        }
        self.found.ignored += self.lines.ignored + usize::from(self.lines.is_open());
        self.found
    }

    fn wait(&self) {
        if self.file.is_pipe { wait_for(&self.file.file) } else { thread::sleep(LOOK) }
    }

    /// Everything that is there to be read.
    fn take(&mut self, on_mark: &dyn Fn()) {
        if !self.file.is_pipe {
            self.begin_again_if_shorter();
        }
        let mut bytes = [0; 4096];
        loop {
            match self.file.file.read(&mut bytes) {
                Ok(0) => return,
                Ok(count) => {
                    let lines = self.lines.push(&bytes[..count]);
                    lines.into_iter().for_each(|line| self.keep(line, on_mark));
                }
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                // nothing there, or the disk fails: the stages are then missing, and the energy isn't
                Err(_) => return,
            }
        }
    }

    /// A file that became shorter was written from its beginning (`>` in place of `>>`).
    fn begin_again_if_shorter(&mut self) {
        let file = &mut self.file.file;
        let length = file.metadata().map_or(0, |meta| meta.len());
        if file.stream_position().is_ok_and(|position| length < position) && file.rewind().is_ok() {
            self.lines.forget();
        }
    }

    fn keep(&mut self, line: Line, on_mark: &dyn Fn()) {
        if self.found.marks.len() >= MOST {
            self.found.ignored += 1;
            return;
        }
        let now = self.clock.now();
        self.found.marks.push(Mark { t: moment(line.time, now, unix_now()), name: line.name });
        on_mark();
    }
}

/// A time stamp on the run's clock; a mark without one, or with one in the future, is from now.
fn moment(stamp: Option<f64>, now: Seconds, unix_now: f64) -> Seconds {
    stamp.map_or(now, |stamp| Seconds(now.0 - (unix_now - stamp).max(0.0)))
}

fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn open_file(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).open(path)
}

fn is_pipe(kind: &fs::Metadata) -> bool {
    kind.file_type().is_fifo()
}

/// Open for writing as well: it then neither waits for a writer nor ends with one.
fn open_pipe(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)
}

fn make_pipe(path: &Path) -> std::io::Result<()> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path is a string that ends with a zero
    match unsafe { libc::mkfifo(path.as_ptr(), 0o600) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn wait_for(file: &File) {
    let mut poll = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, which lives through the call; an error is like nothing to read
    unsafe { libc::poll(&raw mut poll, 1, WAIT_MS) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_stamp_wins_over_the_moment_of_reading_unless_it_lies_in_the_future() {
        assert_eq!(moment(None, Seconds(7.0), 1e9), Seconds(7.0));
        assert_eq!(moment(Some(1e9 - 2.0), Seconds(7.0), 1e9), Seconds(5.0));
        assert_eq!(moment(Some(1e9 + 2.0), Seconds(7.0), 1e9), Seconds(7.0));
    }

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("ept-sweep-marks-test-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn names(marks: &Marks) -> Vec<&str> {
        marks.marks.iter().map(|mark| mark.name.as_str()).collect()
    }

    #[test]
    fn what_a_file_held_before_is_left_out_and_one_written_anew_is_read_from_its_beginning() {
        use std::io::Write;
        let folder = folder("file");
        let path = folder.join("marks");
        fs::write(&path, "an old and long line\n").unwrap();
        let file = MarkFile::open(&path).unwrap();
        let mut reader = Reader { file, clock: Clock::monotonic(), lines: Lines::default(), found: Marks::default() };
        reader.take(&|| ());
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"first\nhalf").unwrap();
        reader.take(&|| ());
        fs::write(&path, "second\n").unwrap();
        let found = reader.read_until(&AtomicBool::new(true), &|| ());
        assert_eq!((names(&found), found.ignored), (vec!["first", "second"], 0));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn no_more_than_ten_thousand_marks_are_kept() {
        let folder = folder("many");
        let path = folder.join("marks");
        let file = MarkFile::open(&path).unwrap();
        fs::write(&path, "x\n".repeat(MOST + 3) + "unfinished").unwrap();
        let watching = file.watch(Clock::monotonic(), || ()).unwrap();
        let found = watching.finish();
        assert_eq!((found.marks.len(), found.ignored), (MOST, 4));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_pipe_outlives_its_writers_and_is_removed_in_the_end() {
        let pipe = MarkFile::temporary().unwrap();
        let path = pipe.path().to_owned();
        let watching = pipe.watch(Clock::monotonic(), || ()).unwrap();
        for name in ["one", "two"] {
            fs::write(&path, format!("{name}\n")).unwrap();
        }
        assert_eq!(names(&watching.finish()), ["one", "two"]);
        assert!(!path.parent().unwrap().exists());
    }

    #[test]
    fn neither_a_folder_nor_a_device_is_a_file_for_marks() {
        assert!(MarkFile::open(Path::new("/")).unwrap_err().hint().is_some());
    }
}
