//! Skills that work on numbers and lists of words: sorting, arithmetic, counting, editing and continuing.

use super::draw::Draw;
use super::words::THINGS;
use super::{Drawn, drawn, join, phrase};

/// Four to six numbers or four or five words in order.
pub(super) fn sorting(d: &mut Draw) -> Drawn {
    if d.index(3) == 0 {
        let count = d.int(4, 5) as usize;
        let mut words = d.words(count);
        let context = join(&words);
        words.sort_unstable();
        let instruction = d.pick(&["Sort the words alphabetically.", "Put these words in alphabetical order."]);
        return drawn(instruction, context, join(&words));
    }
    let (count, high) = if d.index(3) == 0 { (d.int(4, 5), 999) } else { (d.int(4, 6), 99) };
    let mut numbers = d.distinct(count as usize, |d| d.int(1, high));
    let context = join(&numbers);
    numbers.sort_unstable();
    let instruction = if d.coin() {
        d.pick(&["Sort the numbers in ascending order.", "Order these numbers from smallest to largest."])
    } else {
        numbers.reverse();
        d.pick(&["Sort the numbers in descending order.", "Order these numbers from largest to smallest."])
    };
    drawn(instruction, context, join(&numbers))
}

/// Addition and subtraction up to three digits, bare or as a small story.
pub(super) fn arithmetic(d: &mut Draw) -> Drawn {
    let high = if d.index(3) == 0 { 99 } else { 999 };
    let (mut a, mut b) = (d.int(1, high), d.int(1, high));
    let add = d.coin();
    if !add && a < b {
        std::mem::swap(&mut a, &mut b);
    }
    let (result, x, y) = (if add { a + b } else { a - b }, a.to_string(), b.to_string());
    if d.index(4) == 0 {
        let (name, thing) = (d.name(), d.pick(&THINGS));
        let story = if add { "{0} has {2} {1}s and buys {3} more." } else { "{0} has {2} {1}s and sells {3} of them." };
        let context = phrase(d, &[story], &[&name, thing, &x, &y]);
        let instruction =
            phrase(d, &["How many {1}s does {0} have now?", "How many {1}s are there in the end?"], &[&name, thing]);
        return drawn(instruction, context, result);
    }
    let templates: &[&str] = if add {
        &["What is {0} + {1}?", "Add {0} and {1}.", "Calculate {0} plus {1}.", "Compute {0} + {1}."]
    } else {
        &["What is {0} - {1}?", "Subtract {1} from {0}.", "Calculate {0} minus {1}.", "Compute {0} - {1}."]
    };
    drawn(phrase(d, templates, &[&x, &y]), "", result)
}

/// How often a word occurs in a list, or how many words the list has.
pub(super) fn counting(d: &mut Draw) -> Drawn {
    let kinds = d.int(2, 3) as usize;
    let pool = d.words(kinds);
    let length = d.int(4, 8) as usize;
    let list: Vec<&str> = (0..length).map(|_| d.pick(&pool)).collect();
    let context = join(&list);
    if d.index(4) == 0 {
        let instruction = d.pick(&["How many words are in the list?", "Count the words in the list."]);
        return drawn(instruction, context, length);
    }
    let word = d.pick(&pool);
    let count = list.iter().filter(|w| **w == word).count();
    let instruction = phrase(
        d,
        &[
            "How often does the word {0} appear?",
            "Count how many times {0} is in the list.",
            "How many times is {0} listed?",
        ],
        &[word],
    );
    drawn(instruction, context, count)
}

/// Reversing, removing, replacing, upper-casing and spelling.
pub(super) fn string_edit(d: &mut Draw) -> Drawn {
    let count = d.int(4, 6) as usize;
    let words = d.words(count);
    let chosen = d.pick(&words);
    match d.index(5) {
        0 => {
            let reversed: Vec<&str> = words.iter().rev().copied().collect();
            drawn(
                d.pick(&["Reverse the order of the words.", "Write the list backwards."]),
                join(&words),
                join(&reversed),
            )
        }
        1 => {
            let rest: Vec<&str> = words.iter().filter(|w| **w != chosen).copied().collect();
            drawn(
                phrase(d, &["Remove {0} from the list.", "Write the list without {0}."], &[chosen]),
                join(&words),
                join(&rest),
            )
        }
        2 => {
            let other = d.name();
            let changed: Vec<&str> = words.iter().map(|w| if *w == chosen { other.as_str() } else { w }).collect();
            let instruction = phrase(d, &["Replace {0} with {1}.", "Put {1} in place of {0}."], &[chosen, &other]);
            drawn(instruction, join(&words), join(&changed))
        }
        3 => {
            let pair = &words[..3];
            let instruction = d.pick(&["Write the words in capital letters.", "Convert to upper case."]);
            drawn(instruction, pair.join(" "), pair.join(" ").to_uppercase())
        }
        _ => {
            let last = d.coin();
            let letters: Vec<char> =
                words.iter().filter_map(|w| if last { w.chars().last() } else { w.chars().next() }).collect();
            let instruction = phrase(
                d,
                &["Give the {0} letter of each word.", "Write down every word's {0} letter."],
                &[if last { "last" } else { "first" }],
            );
            drawn(instruction, join(&words), join(&letters))
        }
    }
}

/// The next element of an arithmetic sequence or of a repeating list of words.
pub(super) fn pattern(d: &mut Draw) -> Drawn {
    let shown = d.int(4, 6);
    if d.index(3) == 0 {
        let period = d.int(2, 4) as usize;
        let cycle = d.words(period);
        let length = shown as usize + period;
        let list: Vec<&str> = (0..length).map(|i| cycle[i % period]).collect();
        let instruction = d.pick(&["Which word comes next?", "Continue the pattern with one word."]);
        return drawn(instruction, join(&list), cycle[length % period]);
    }
    let step = d.int(2, 25);
    let start = d.int(1, 200);
    let mut terms: Vec<i64> = (0..=shown).map(|i| start + step * i).collect();
    if d.index(3) == 0 {
        terms.reverse();
    }
    let answer = terms[shown as usize];
    let instruction =
        d.pick(&["Which number comes next?", "Continue the sequence with one number.", "What is the next number?"]);
    drawn(instruction, join(&terms[..shown as usize]), answer)
}
