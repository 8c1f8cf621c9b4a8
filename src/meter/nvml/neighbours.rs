//! Other processes that compute on a GPU.

/// Counts the compute processes of others.
pub(super) struct Neighbours {
    own: u32,
    /// The driver's number for this process, if it is a different one.
    alias: Option<u32>,
    before: Vec<u32>,
    /// This process computes on the GPU too.
    used: bool,
}

impl Neighbours {
    pub(super) fn new(before: &[u32], used: bool) -> Self {
        Self { own: std::process::id(), alias: None, before: before.to_vec(), used }
    }

    /// In a container the driver may call this process by another number than it knows itself: on a GPU that it uses,
    /// the first one that came after the meter was opened is then taken for it, until that one ends or this process's
    /// own number shows.
    pub(super) fn count(&mut self, running: &[u32]) -> u32 {
        if running.contains(&self.own) {
            self.alias = None;
        } else if self.used && self.alias.is_none_or(|alias| !running.contains(&alias)) {
            self.alias = running.iter().copied().find(|pid| !self.before.contains(pid));
        }
        running.iter().filter(|pid| **pid != self.own && Some(**pid) != self.alias).count() as u32
    }
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

    #[test]
    fn on_a_gpu_that_this_process_does_not_use_every_process_is_foreign() {
        assert_eq!(neighbours(&[], false).count(&[4711]), 1);
    }
}
