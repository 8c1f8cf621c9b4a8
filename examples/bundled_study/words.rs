//! Word pools and the seeded random source that the instruction generator draws from.

use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// First and second halves of invented given names (any first with any second).
const NAME_FIRST: [&str; 24] = [
    "Ba", "Ce", "Da", "El", "Fi", "Ga", "Ha", "Il", "Jo", "Ka", "Le", "Ma", "Ni", "Or", "Pe", "Ra", "Sa", "Ta", "Ul",
    "Vi", "Wen", "Xa", "Yo", "Zi",
];
const NAME_SECOND: [&str; 16] =
    ["ra", "lin", "do", "mira", "nek", "sha", "tor", "vin", "bel", "gan", "jan", "kos", "lia", "pha", "rik", "wen"];

/// First and second halves of invented towns.
const CITY_FIRST: [&str; 16] = [
    "Alder", "Brin", "Cold", "Dun", "Ester", "Fal", "Grim", "Holt", "Kings", "Lang", "Mill", "North", "Oster", "Pel",
    "Stone", "Tarn",
];
const CITY_SECOND: [&str; 10] = ["bridge", "by", "dale", "field", "ford", "ham", "mouth", "port", "ton", "wick"];

pub const JOBS: [&str; 16] = [
    "baker",
    "carpenter",
    "dentist",
    "driver",
    "farmer",
    "gardener",
    "lawyer",
    "miner",
    "nurse",
    "painter",
    "pilot",
    "plumber",
    "sailor",
    "singer",
    "teacher",
    "welder",
];
pub const COLOURS: [&str; 12] =
    ["black", "blue", "brown", "gold", "green", "grey", "orange", "pink", "purple", "red", "white", "yellow"];
pub const ANIMALS: [&str; 20] = [
    "badger", "beaver", "camel", "cat", "crow", "deer", "dog", "eagle", "fox", "frog", "goat", "goose", "hamster",
    "horse", "lizard", "otter", "parrot", "rabbit", "sheep", "turtle",
];
pub const VEGETABLES: [&str; 16] = [
    "bean", "beet", "cabbage", "carrot", "celery", "garlic", "kale", "leek", "lettuce", "onion", "parsnip", "pea",
    "potato", "radish", "spinach", "turnip",
];
pub const TOOLS: [&str; 16] = [
    "anvil", "axe", "chisel", "clamp", "drill", "file", "hammer", "lathe", "mallet", "plane", "pliers", "rake", "saw",
    "shovel", "spanner", "wrench",
];
pub const THINGS: [&str; 32] = [
    "apple", "bottle", "brick", "candle", "carpet", "chair", "clock", "coat", "cup", "desk", "flute", "glove",
    "guitar", "hat", "kettle", "key", "lamp", "ladder", "mirror", "needle", "oven", "pencil", "pillow", "plate",
    "ring", "rope", "shoe", "spoon", "table", "ticket", "vase", "wallet",
];
pub const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A seeded source of draws; item `index` of seed `seed` is the same on every machine and thread.
pub struct Draw(ChaCha8Rng);

impl Draw {
    pub fn new(seed: u64, index: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(index);
        Self(rng)
    }

    /// An integer in `low..=high`.
    pub fn int(&mut self, low: i64, high: i64) -> i64 {
        self.0.random_range(low..=high)
    }

    pub fn index(&mut self, len: usize) -> usize {
        self.0.random_range(0..len as u64) as usize
    }

    pub fn coin(&mut self) -> bool {
        self.index(2) == 0
    }

    pub fn pick<T: Clone>(&mut self, pool: &[T]) -> T {
        pool[self.index(pool.len())].clone()
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.index(i + 1));
        }
    }

    /// `n` values of `make`, no two alike.
    pub fn distinct<T: PartialEq>(&mut self, n: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let mut out: Vec<T> = Vec::with_capacity(n);
        while out.len() < n {
            let value = make(self);
            if !out.contains(&value) {
                out.push(value);
            }
        }
        out
    }

    pub fn name(&mut self) -> String {
        self.pick(&NAME_FIRST).to_string() + self.pick(&NAME_SECOND)
    }

    pub fn city(&mut self) -> String {
        self.pick(&CITY_FIRST).to_string() + self.pick(&CITY_SECOND)
    }

    /// A common noun out of all pools.
    pub fn word(&mut self) -> &'static str {
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

    pub fn words(&mut self, n: usize) -> Vec<&'static str> {
        self.distinct(n, Self::word)
    }
}
