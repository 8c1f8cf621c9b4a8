//! The seeded random source that the instruction generator draws from.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::words::{ANIMALS, CITY_FIRST, CITY_SECOND, NAME_FIRST, NAME_SECOND, THINGS, TOOLS, VEGETABLES};

/// A seeded source of draws; item `index` of seed `seed` is the same on every machine and thread.
pub(crate) struct Draw(ChaCha8Rng);

impl Draw {
    pub(crate) fn new(seed: u64, index: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(index);
        Self(rng)
    }

    /// An integer in `low..=high`.
    pub(crate) fn int(&mut self, low: i64, high: i64) -> i64 {
        self.0.random_range(low..=high)
    }

    pub(crate) fn index(&mut self, len: usize) -> usize {
        self.0.random_range(0..len as u64) as usize
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.index(2) == 0
    }

    pub(crate) fn pick<T: Clone>(&mut self, pool: &[T]) -> T {
        pool[self.index(pool.len())].clone()
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.index(i + 1));
        }
    }

    /// `n` values of `make`, no two alike.
    pub(crate) fn distinct<T: PartialEq>(&mut self, n: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let mut out: Vec<T> = Vec::with_capacity(n);
        while out.len() < n {
            let value = make(self);
            if !out.contains(&value) {
                out.push(value);
            }
        }
        out
    }

    pub(crate) fn name(&mut self) -> String {
        self.pick(&NAME_FIRST).to_string() + self.pick(&NAME_SECOND)
    }

    pub(crate) fn city(&mut self) -> String {
        self.pick(&CITY_FIRST).to_string() + self.pick(&CITY_SECOND)
    }

    /// A common noun out of all pools.
    pub(crate) fn word(&mut self) -> &'static str {
        let pools: [&[&'static str]; 4] = [&ANIMALS, &VEGETABLES, &TOOLS, &THINGS];
        let total: usize = pools.iter().map(|p| p.len()).sum();
        let mut i = self.index(total);
        for pool in pools {
            if i < pool.len() {
                return pool[i];
            }
            i -= pool.len();
        }
        THINGS[0]
    }

    pub(crate) fn words(&mut self, n: usize) -> Vec<&'static str> {
        self.distinct(n, Self::word)
    }
}
