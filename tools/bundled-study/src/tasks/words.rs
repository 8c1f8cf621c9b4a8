//! The words that instructions are made of.

/// First and second halves of invented given names (any first with any second).
pub(super) const NAME_FIRST: [&str; 24] = [
    "Ba", "Ce", "Da", "El", "Fi", "Ga", "Ha", "Il", "Jo", "Ka", "Le", "Ma", "Ni", "Or", "Pe", "Ra", "Sa", "Ta", "Ul",
    "Vi", "Wen", "Xa", "Yo", "Zi",
];
pub(super) const NAME_SECOND: [&str; 16] =
    ["ra", "lin", "do", "mira", "nek", "sha", "tor", "vin", "bel", "gan", "jan", "kos", "lia", "pha", "rik", "wen"];

/// First and second halves of invented towns.
pub(super) const CITY_FIRST: [&str; 16] = [
    "Alder", "Brin", "Cold", "Dun", "Ester", "Fal", "Grim", "Holt", "Kings", "Lang", "Mill", "North", "Oster", "Pel",
    "Stone", "Tarn",
];
pub(super) const CITY_SECOND: [&str; 10] =
    ["bridge", "by", "dale", "field", "ford", "ham", "mouth", "port", "ton", "wick"];

pub(super) const JOBS: [&str; 16] = [
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
pub(super) const COLOURS: [&str; 12] =
    ["black", "blue", "brown", "gold", "green", "grey", "orange", "pink", "purple", "red", "white", "yellow"];
pub(super) const ANIMALS: [&str; 20] = [
    "badger", "beaver", "camel", "cat", "crow", "deer", "dog", "eagle", "fox", "frog", "goat", "goose", "hamster",
    "horse", "lizard", "otter", "parrot", "rabbit", "sheep", "turtle",
];
pub(super) const VEGETABLES: [&str; 16] = [
    "bean", "beet", "cabbage", "carrot", "celery", "garlic", "kale", "leek", "lettuce", "onion", "parsnip", "pea",
    "potato", "radish", "spinach", "turnip",
];
pub(super) const TOOLS: [&str; 16] = [
    "anvil", "axe", "chisel", "clamp", "drill", "file", "hammer", "lathe", "mallet", "plane", "pliers", "rake", "saw",
    "shovel", "spanner", "wrench",
];
pub(super) const THINGS: [&str; 32] = [
    "apple", "bottle", "brick", "candle", "carpet", "chair", "clock", "coat", "cup", "desk", "flute", "glove",
    "guitar", "hat", "kettle", "key", "lamp", "ladder", "mirror", "needle", "oven", "pencil", "pillow", "plate",
    "ring", "rope", "shoe", "spoon", "table", "ticket", "vase", "wallet",
];
pub(super) const MONTHS: [&str; 12] = [
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
