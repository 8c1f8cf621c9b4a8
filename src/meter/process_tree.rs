//! The processor time of a command, with everything that it starts.
//!
//! Linux shows it in `/proc` (proc_pid_stat(5)): of each process its own time so far, and that of those descendants
//! that have ended and were waited for. Summed over the processes that are alive, every second is counted once.

use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::units::Seconds;

/// Looking for new processes may take one part in so many of a processor's time: a command with hundreds of threads
/// takes longer to look through.
const SHARE_OF_TIME: u32 = 50;
/// No chain of parents is followed further: the table of processes changes while it is read.
const DEEPEST: usize = 100;

/// A command and its descendants, known from the moment the command has been started. Clones are the same tree.
#[derive(Debug, Clone, Default)]
pub struct ProcessTree(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The command's own process.
    root: Option<u32>,
    /// Processes of the tree, parents before their children: a child that ends in between is then missed for a moment,
    /// and never counted twice.
    members: Vec<Member>,
    /// When to look for new processes again.
    survey: Option<Instant>,
    /// The most that was seen: a sum that misses a process for a moment is passed over.
    most: f64,
}

/// A process that was seen in the tree: a number alone may be given to another one later.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Member {
    pid: u32,
    started: u64,
}

/// What `/proc/PID/stat` says of a process.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stat {
    parent: u32,
    /// Clock ticks of the process and of its descendants that were waited for.
    ticks: u64,
    /// When it started, in clock ticks since the machine did.
    started: u64,
}

impl PartialEq for ProcessTree {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl ProcessTree {
    /// A command that is yet to be started: it has used no time.
    pub fn new() -> Self {
        Self::default()
    }

    /// The command has been started as this process, which stays known to the system, ended or not, for as long as
    /// its time is asked for.
    pub(crate) fn started(&self, pid: u32) {
        self.state().root = Some(pid);
    }

    /// Processor time of the command and its descendants so far. Lost is that of a process that ends without having
    /// been waited for, and of one that lives on after the command.
    ///
    /// # Errors
    /// This system doesn't show the processor time of another process.
    pub(super) fn processor_time(&self) -> Result<Seconds> {
        let mut state = self.state();
        if let Some(root) = state.root {
            state.look_around(root);
            let ticks: u64 = state.members.iter().filter_map(|member| member.stat()).map(|stat| stat.ticks).sum();
            state.most = state.most.max(ticks as f64 / ticks_per_second()?);
        }
        Ok(Seconds(state.most))
    }

    /// Whether a process is the command or descends from it, also if its parent has ended since it was first seen.
    pub(super) fn contains(&self, pid: u32) -> bool {
        let mut state = self.state();
        let Some(root) = state.root else { return false };
        state.look_around(root);
        state.members.iter().any(|member| member.pid == pid) || descends(pid, root)
    }

    /// # Errors
    /// This system doesn't show the processor time of another process.
    pub(super) fn check() -> Result<()> {
        ticks_per_second()?;
        stat(std::process::id()).map(drop).ok_or_else(|| {
            Error::new("can't read the processor time of another process: there is no `/proc/PID/stat`")
                .with_hint("a command can be modelled on Linux only; `--meter nvml` or `rapl` measures")
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Finds new processes, if it is time to.
    fn look_around(&mut self, root: u32) {
        let now = Instant::now();
        if self.survey.is_some_and(|next| now < next) {
            return;
        }
        let mut found = tree(root);
        // whose parent ended is a child of another process now, and still part of the command's work
        let orphans = self.members.iter().filter(|member| !found.contains(member) && member.stat().is_some());
        let orphans: Vec<Member> = orphans.copied().collect();
        found.extend(orphans);
        self.members = found;
        self.survey = Some(now + now.elapsed().max(Duration::from_micros(100)) * SHARE_OF_TIME);
    }
}

impl Member {
    /// `None` once it has ended and was waited for.
    fn stat(&self) -> Option<Stat> {
        stat(self.pid).filter(|stat| stat.started == self.started)
    }
}

/// The processes below and including `root` that exist now, parents before their children.
fn tree(root: u32) -> Vec<Member> {
    let mut members: Vec<Member> = Vec::new();
    let mut pids = vec![root];
    let mut next = 0;
    while let Some(&pid) = pids.get(next) {
        next += 1;
        let Some(stat) = stat(pid) else { continue };
        members.push(Member { pid, started: stat.started });
        let children = children(pid);
        pids.extend(children.into_iter().filter(|child| *child != root));
    }
    members
}

/// The children of all threads of a process.
fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let lists: Vec<String> = lists.collect();
    if lists.is_empty() {
        // a kernel without CONFIG_PROC_CHILDREN
        return all_pids().filter(|child| stat(*child).is_some_and(|stat| stat.parent == pid)).collect();
    }
    lists.iter().flat_map(|list| list.split_whitespace()).filter_map(|child| child.parse().ok()).collect()
}

fn all_pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn descends(pid: u32, root: u32) -> bool {
    let parents = std::iter::successors(Some(pid), |pid| stat(*pid).map(|stat| stat.parent));
    parents.take(DEEPEST).any(|ancestor| ancestor == root)
}

fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Reads `/proc/PID/stat`. The name in parentheses may itself contain spaces and parentheses.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    // fields 14 to 17: utime, stime, cutime, cstime; `rest` begins with field 3
    let ticks = (11..=14).map(number).sum::<Option<u64>>()?;
    Some(Stat { parent: number(1)?.try_into().ok()?, ticks, started: number(19)? })
}

#[cfg(unix)]
fn ticks_per_second() -> Result<f64> {
    // SAFETY: the call only reads a constant of the system
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    if ticks > 0 { Ok(ticks as f64) } else { Err(Error::new("the length of a clock tick is unknown")) }
}

#[cfg(not(unix))]
fn ticks_per_second() -> Result<f64> {
    Err(Error::new("the processor time of another process is known on Linux only"))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::process::{Child, Command, Stdio};

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let line = "868 (a) b (c) S 863 868 868 0 -1 4194560 6986 321056 0 213 3 2 893 217 20 0 1 0 1110781 52 8";
        assert_eq!(parse_stat(line), Some(Stat { parent: 863, ticks: 3 + 2 + 893 + 217, started: 1_110_781 }));
        for broken in ["", "868 (a", "868 (a) S 1", "868 (a) S x 1 1 0 0 0 0 0 0 0 1 1 1 1 0 0 0 0 1"] {
            assert_eq!(parse_stat(broken), None, "{broken}");
        }
    }

    fn shell(script: &str) -> Child {
        Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).stdin(Stdio::piped()).spawn().expect("sh starts")
    }

    /// Waits for a line of output.
    fn line(child: &mut Child) -> String {
        use std::io::BufRead;
        let mut line = String::new();
        let stdout = child.stdout.as_mut().expect("it is piped");
        std::io::BufReader::new(stdout).read_line(&mut line).expect("sh writes a line");
        line.trim().to_owned()
    }

    #[test]
    fn time_of_a_grandchild_counts_while_it_runs_and_after_it_was_waited_for() {
        let tree = ProcessTree::new();
        assert_eq!(tree.processor_time().unwrap(), Seconds(0.0), "before the start");
        let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let mut child = shell(&format!("sh -c '{busy}; echo done; read x' <&0; echo waited; read x"));
        tree.started(child.id());
        assert_eq!(line(&mut child), "done");
        let alive = tree.processor_time().unwrap();
        assert!(alive.0 >= 0.02, "{alive:?} while the grandchild is alive");
        use std::io::Write;
        child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        assert_eq!(line(&mut child), "waited");
        let waited = tree.processor_time().unwrap();
        assert!(waited.0 >= alive.0 && waited.0 < alive.0 + 0.5, "{waited:?} after {alive:?}: counted once");
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(tree.processor_time().unwrap() >= waited, "it never goes back");
    }

    #[test]
    fn a_descendant_whose_parent_has_ended_still_belongs_to_the_tree() {
        let tree = ProcessTree::new();
        let mut child = shell("sh -c 'sleep 60 & echo $!; read x' <&0; echo gone; read x");
        tree.started(child.id());
        let orphan: u32 = line(&mut child).parse().unwrap();
        assert!(tree.contains(orphan));
        use std::io::Write;
        child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        assert_eq!(line(&mut child), "gone");
        std::thread::sleep(Duration::from_millis(20));
        assert_ne!(stat(orphan).unwrap().parent, child.id());
        assert!(tree.contains(orphan), "it was seen while it had its parent");
        drop(child.stdin.take());
        // SAFETY: a call with plain values, to a process that this test has started
        unsafe { libc::kill(orphan as i32, libc::SIGKILL) };
        child.wait().unwrap();
    }

    #[test]
    fn descendants_belong_to_the_tree_and_others_do_not() {
        let tree = ProcessTree::new();
        let mut child = shell("sh -c 'echo $$; read x' <&0");
        let grandchild: u32 = line(&mut child).parse().unwrap();
        assert!(!tree.contains(child.id()), "nothing was started yet");
        tree.started(child.id());
        assert!(tree.contains(child.id()) && tree.contains(grandchild));
        assert!(!tree.contains(std::process::id()) && !tree.contains(1));
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
