//! NumPy's `default_rng(seed).permutation(n)`: the draw that Hugging Face `datasets` makes in `shuffle(seed)`.
//!
//! Implements `SeedSequence` and `PCG64` (XSL-RR 128/64, O'Neill 2014) as NumPy's random module documents them, and its
//! shuffle by masked rejection, so that a published prompt selection can be drawn again.

/// `numpy.random.default_rng(seed).permutation(n)`.
pub(crate) fn permutation(seed: u64, n: usize) -> Vec<usize> {
    let mut generator = Pcg64::from_seed(seed);
    let mut order: Vec<usize> = (0..n).collect();
    for last in (1..n).rev() {
        let other = generator.bounded(last as u64);
        order.swap(last, other as usize);
    }
    order
}

struct Pcg64 {
    state: u128,
    increment: u128,
    /// The upper half of the last 64 bits, if only the lower half was used.
    spare: Option<u32>,
}

impl Pcg64 {
    const MULTIPLIER: u128 = 0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645;

    fn from_seed(seed: u64) -> Self {
        let words = seed_sequence(seed);
        let wide = |high: usize, low: usize| (u128::from(words[high]) << 64) | u128::from(words[low]);
        let mut generator = Self { state: 0, increment: (wide(2, 3) << 1) | 1, spare: None };
        generator.step();
        generator.state = generator.state.wrapping_add(wide(0, 1));
        generator.step();
        generator
    }

    fn step(&mut self) {
        self.state = self.state.wrapping_mul(Self::MULTIPLIER).wrapping_add(self.increment);
    }

    fn next_u64(&mut self) -> u64 {
        self.step();
        let folded = ((self.state >> 64) ^ self.state) as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }

    fn next_u32(&mut self) -> u32 {
        self.spare.take().unwrap_or_else(|| {
            let wide = self.next_u64();
            self.spare = Some((wide >> 32) as u32);
            wide as u32
        })
    }

    /// Uniform in 0..=`most`: bits of the smallest mask that covers `most`, drawn again while they are above it.
    fn bounded(&mut self, most: u64) -> u64 {
        let mask = u64::MAX.checked_shr(most.leading_zeros()).unwrap_or(0);
        loop {
            let bits = if most <= u64::from(u32::MAX) { u64::from(self.next_u32()) } else { self.next_u64() };
            if bits & mask <= most {
                return bits & mask;
            }
        }
    }
}

const POOL: usize = 4;

/// `SeedSequence(seed).generate_state(4, uint64)`.
fn seed_sequence(seed: u64) -> [u64; 4] {
    let pool = entropy_pool(seed);
    let mut constant: u32 = 0x8b51_f9dd;
    let mut half = |index: usize| {
        let mut word = pool[index % POOL] ^ constant;
        constant = constant.wrapping_mul(0x58f3_8ded);
        word = word.wrapping_mul(constant);
        u64::from(word ^ (word >> 16))
    };
    std::array::from_fn(|index| half(2 * index) | (half(2 * index + 1) << 32))
}

fn entropy_pool(seed: u64) -> [u32; POOL] {
    let mut constant: u32 = 0x43b0_d7e5;
    let mut hash = |word: u32| {
        let mut word = word ^ constant;
        constant = constant.wrapping_mul(0x931e_8875);
        word = word.wrapping_mul(constant);
        word ^ (word >> 16)
    };
    let mut pool = [hash(seed as u32), hash((seed >> 32) as u32), hash(0), hash(0)];
    for source in 0..POOL {
        for target in (0..POOL).filter(|target| *target != source) {
            let hashed = hash(pool[source]);
            let mixed = 0xca01_f9dd_u32.wrapping_mul(pool[target]).wrapping_sub(0x4973_f715_u32.wrapping_mul(hashed));
            pool[target] = mixed ^ (mixed >> 16);
        }
    }
    pool
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_permutation_is_numpys() {
        // printed by numpy 2: np.random.default_rng(seed).permutation(n)
        assert_eq!(permutation(42, 10), [5, 6, 0, 7, 3, 2, 4, 9, 1, 8]);
        assert_eq!(permutation((1 << 40) + 7, 6), [5, 4, 3, 1, 0, 2]);
        assert_eq!(permutation(42, 15_011)[..5], [13_384, 10_119, 423, 10_112, 12_021]);
    }

    #[test]
    fn permutations_of_nothing_and_of_one_are_trivial() {
        assert_eq!(permutation(42, 0), [0usize; 0]);
        assert_eq!(permutation(42, 1), [0]);
    }
}
