//! In which order the models of a block run, and the cells of a model: balanced over blocks, and random by a seed.
//!
//! Blocks come in pairs: one takes a row of a Williams square (Williams 1949), the next one the same row backwards. So
//! over each pair of blocks all items have the same mean place, and each comes before each other one exactly once: a
//! linear drift inside blocks cancels. Over a cycle of blocks every item has every place equally often and follows
//! every other one directly equally often, so that what ran before averages out as well. An odd number of items needs
//! the rows of its square and all of them backwards for that; with an even number, the rows backwards are the other
//! half of the square.

use rand::{RngCore as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// The order of `items` items in a block. Which item is which in the square, and in which order its rows come, is
/// random and drawn again for each cycle. Each `stream` of one seed has random numbers of its own.
pub(super) fn order(seed: u64, stream: u32, items: usize, block: u32) -> Vec<usize> {
    let rows = if items.is_multiple_of(2) { items / 2 } else { items }.max(1);
    let (pair, is_second) = (block as usize / 2, block % 2 == 1);
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream((u64::from(stream) << 32) | (pair / rows) as u64);
    let labels = permutation(items, &mut random);
    let row = permutation(rows, &mut random)[pair % rows];
    let mut order: Vec<usize> = (0..items).map(|place| labels[(zigzag(place, items) + row) % items]).collect();
    if is_second {
        order.reverse();
    }
    order
}

/// The first row of a Williams square: 0, 1, n − 1, 2, n − 2 …; the differences of neighbours are all different.
fn zigzag(place: usize, items: usize) -> usize {
    match place {
        0 => 0,
        odd if odd % 2 == 1 => odd.div_ceil(2),
        even => items - even / 2,
    }
}

/// Fisher and Yates's shuffle, written out: a library's may change, and with it the order of a run that is continued.
fn permutation(items: usize, random: &mut ChaCha8Rng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..items).collect();
    for last in (1..items).rev() {
        let chosen = (u64::from(random.next_u32()) * (last as u64 + 1)) >> 32;
        order.swap(last, chosen as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number of blocks after which every item has had every place, and followed every other one, equally often.
    fn cycle(items: usize) -> usize {
        if items.is_multiple_of(2) { items } else { 2 * items }
    }

    fn orders(seed: u64, items: usize, blocks: u32) -> Vec<Vec<usize>> {
        (0..blocks).map(|block| order(seed, 0, items, block)).collect()
    }

    /// How often each ordered pair of items has the relation in one of the orders.
    fn pairs(orders: &[Vec<usize>], items: usize, holds: impl Fn(usize, usize) -> bool) -> Vec<usize> {
        let place = |order: &[usize], item: usize| order.iter().position(|other| *other == item).unwrap();
        let all = (0..items).flat_map(|a| (0..items).map(move |b| (a, b))).filter(|(a, b)| a != b);
        let count = |(a, b)| orders.iter().filter(|order| holds(place(order, a), place(order, b))).count();
        all.map(count).collect()
    }

    fn all_equal(counts: &[usize]) -> bool {
        counts.windows(2).all(|pair| pair[0] == pair[1])
    }

    #[test]
    fn over_an_even_number_of_blocks_all_have_the_same_mean_place_and_precede_each_other_equally_often() {
        for items in 2..=7 {
            for blocks in (2..=16).step_by(2) {
                for seed in 0..20 {
                    let orders = orders(seed, items, blocks);
                    let sum = |item| -> usize {
                        orders.iter().map(|order| order.iter().position(|other| *other == item).unwrap()).sum()
                    };
                    let sums: Vec<usize> = (0..items).map(sum).collect();
                    assert!(all_equal(&sums), "{items} items, {blocks} blocks, seed {seed}: {sums:?}");
                    let before = pairs(&orders, items, |a, b| a < b);
                    assert!(before.iter().all(|count| *count == blocks as usize / 2), "{items}, {blocks}: {before:?}");
                }
            }
        }
    }

    #[test]
    fn over_a_cycle_each_has_each_place_and_directly_follows_each_other_one_equally_often() {
        for items in 2..=7 {
            for blocks in [cycle(items), 2 * items, 4 * items] {
                let orders = orders(5, items, blocks as u32);
                for place in 0..items {
                    let times = |item| orders.iter().filter(|order| order[place] == item).count();
                    assert_eq!((0..items).map(times).collect::<Vec<_>>(), vec![blocks / items; items]);
                }
                let follows = pairs(&orders, items, |a, b| b == a + 1);
                assert!(all_equal(&follows), "{items} items: {follows:?}");
            }
        }
    }

    #[test]
    fn any_order_of_three_can_come_first_and_different_seeds_give_different_ones() {
        let first: std::collections::BTreeSet<Vec<usize>> = (0..100).map(|seed| order(seed, 0, 3, 0)).collect();
        assert_eq!(first.len(), 6);
        assert_ne!(orders(1, 5, 10), orders(2, 5, 10));
        let cells = |stream| (0..10).map(|block| order(1, stream, 5, block)).collect::<Vec<_>>();
        assert_ne!(cells(1), cells(2), "models and cells are ordered independently");
    }

    #[test]
    fn a_seed_gives_the_same_order_on_every_machine_and_in_every_version() {
        assert_eq!(orders(42, 4, 2), [[1, 3, 0, 2], [2, 0, 3, 1]]);
    }

    #[test]
    fn a_single_item_needs_no_order() {
        assert_eq!(orders(3, 1, 3), [[0], [0], [0]]);
        assert_eq!(orders(3, 0, 1), [Vec::<usize>::new()]);
    }
}
