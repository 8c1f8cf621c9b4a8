//! Other processes that compute on a GPU.

use std::path::Path;

use crate::meter::process_tree::ProcessTree;

/// Counts the compute processes of others.
pub(super) struct Neighbours {
    own: u32,
    /// The driver's number for this process, if it is a different one.
    alias: Option<u32>,
    before: Vec<u32>,
    /// This process computes on the GPU too.
    used: bool,
    /// The command whose processes aren't foreign.
    command: Option<ProcessTree>,
}

impl Neighbours {
    pub(super) fn new(before: &[u32], used: bool) -> Self {
        Self { own: std::process::id(), alias: None, before: before.to_vec(), used, command: None }
    }

    /// Those next to a command, which this process started.
    pub(super) fn of_command(before: &[u32], command: ProcessTree) -> Self {
        Self { command: Some(command), ..Self::new(before, false) }
    }

    /// In a container the driver may call this process by another number than it knows itself: on a GPU that it uses,
    /// the first one that came after the meter was opened is then taken for it, until that one ends or this process's
    /// own number shows.
    pub(super) fn count(&mut self, running: &[u32]) -> u32 {
        if let Some(command) = &self.command {
            let foreign = |pid: &&u32| self.before.contains(pid) || is_foreign(**pid, command);
            return running.iter().filter(foreign).count() as u32;
        }
        if running.contains(&self.own) {
            self.alias = None;
        } else if self.used && self.alias.is_none_or(|alias| !running.contains(&alias)) {
            self.alias = running.iter().copied().find(|pid| !self.before.contains(pid));
        }
        running.iter().filter(|pid| **pid != self.own && Some(**pid) != self.alias).count() as u32
    }
}

/// Whether a process that came after the meter was opened isn't the command's. In a container the driver may call
/// processes by numbers that mean nothing here: then it is taken for the command's own.
fn is_foreign(pid: u32, command: &ProcessTree) -> bool {
    !command.contains(pid) && Path::new("/proc").join(pid.to_string()).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn neighbours(before: &[u32], used: bool) -> Neighbours {
        Neighbours { own: 7, ..Neighbours::new(before, used) }
    }

    #[test]
    fn this_process_is_not_its_own_neighbour() {
        let mut neighbours = neighbours(&[3], true);
        assert_eq!(neighbours.count(&[3]), 1, "it was there before");
        assert_eq!(neighbours.count(&[3, 7]), 1);
        assert_eq!(neighbours.count(&[7]), 0);
        assert_eq!(neighbours.count(&[7, 9]), 1);
    }

    #[test]
    fn in_a_container_the_first_new_process_is_this_one() {
        let mut neighbours = neighbours(&[], true);
        assert_eq!(neighbours.count(&[]), 0);
        assert_eq!(neighbours.count(&[4711]), 0);
        assert_eq!(neighbours.count(&[4711, 4712]), 1);
        assert_eq!(neighbours.count(&[4712, 4711]), 1, "it is remembered");
    }

    #[test]
    fn a_foreign_process_that_came_first_is_known_as_such_once_this_one_shows() {
        let mut neighbours = neighbours(&[], true);
        assert_eq!(neighbours.count(&[9]), 0, "it could be this one");
        assert_eq!(neighbours.count(&[9, 7]), 1);
        assert_eq!(neighbours.count(&[7]), 0);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_commands_own_processes_are_no_neighbours() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let command = ProcessTree::new();
        command.started(child.id());
        let mut neighbours = Neighbours::of_command(&[3, u32::MAX], command);
        assert_eq!(neighbours.count(&[child.id()]), 0);
        assert_eq!(neighbours.count(&[child.id(), 1]), 1, "a process that the command didn't start");
        assert_eq!(neighbours.count(&[3, u32::MAX]), 2, "they were there before");
        assert_eq!(neighbours.count(&[u32::MAX - 1]), 0, "a number of another container's view");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn on_a_gpu_that_this_process_does_not_use_every_process_is_foreign() {
        assert_eq!(neighbours(&[], false).count(&[4711]), 1);
    }
}
