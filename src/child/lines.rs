//! Lines that a command writes to say which stage begins: bounded, and harmless to print.

/// Longest line in bytes.
const LONGEST: usize = 200;
/// A number from here on is a time (2001 or later), and no name such as `3 epochs`.
const FIRST_TIME: f64 = 1e9;
/// Stands for a character that could change what a terminal shows.
const REPLACEMENT: char = '\u{fffd}';

/// What a line says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    /// Unix time in seconds, if the line begins with one.
    pub(super) time: Option<f64>,
    /// Of the stage that begins; empty: none does.
    pub(super) name: String,
}

/// Puts bytes together to lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    begun: Vec<u8>,
    too_long: bool,
    /// Lines that were too long.
    pub(super) ignored: usize,
}

impl Lines {
    /// The lines that `bytes` complete.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<Line> {
        let mut complete = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            self.too_long |= self.begun.len() + text.len() > LONGEST;
            if !self.too_long {
                self.begun.extend_from_slice(text);
            }
            if ends {
                match self.too_long {
                    true => self.ignored += 1,
                    false => complete.push(parse(&String::from_utf8_lossy(&self.begun))),
                }
                self.forget();
            }
        }
        complete
    }

    /// Drops the beginning of a line.
    pub(super) fn forget(&mut self) {
        self.begun.clear();
        self.too_long = false;
    }

    /// Whether a line was begun that hasn't ended.
    pub(super) fn is_open(&self) -> bool {
        self.too_long || !self.begun.is_empty()
    }
}

fn parse(text: &str) -> Line {
    let text = text.trim();
    let (first, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    match time(first) {
        Some(time) => Line { time: Some(time), name: printable(rest.trim()) },
        None => Line { time: None, name: printable(text) },
    }
}

/// `1732480000.123`: digits, and perhaps a point among them.
fn time(word: &str) -> Option<f64> {
    let is_number = word.chars().all(|c| c.is_ascii_digit() || c == '.');
    word.parse().ok().filter(|time: &f64| is_number && *time >= FIRST_TIME && time.is_finite())
}

/// The text without characters that control a terminal or the direction of writing.
pub(crate) fn printable(text: &str) -> String {
    let controls = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if controls(c) { REPLACEMENT } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(pieces: &[&[u8]]) -> (Vec<(Option<f64>, String)>, usize) {
        let mut lines = Lines::default();
        let found = pieces.iter().flat_map(|piece| lines.push(piece)).map(|line| (line.time, line.name)).collect();
        (found, lines.ignored)
    }

    #[test]
    fn a_line_counts_once_it_is_complete_however_it_arrives() {
        let (found, ignored) = lines(&[b"tra", b"in\nev", b"al\r\n\n", b"unfinished"]);
        assert_eq!(found, [(None, "train".into()), (None, "eval".into()), (None, String::new())]);
        assert_eq!(ignored, 0);
    }

    #[test]
    fn a_time_stamp_comes_first_and_a_small_number_is_a_name() {
        let (found, _) = lines(&[b"1732480000.123 train\n1732480001\n3 epochs\n1e10 x\n1732480000.1.2 y\n"]);
        assert_eq!(found[0], (Some(1_732_480_000.123), "train".into()));
        assert_eq!(found[1], (Some(1_732_480_001.0), String::new()));
        let names: Vec<_> = found[2..].iter().map(|(time, name)| (*time, name.as_str())).collect();
        assert_eq!(names, [(None, "3 epochs"), (None, "1e10 x"), (None, "1732480000.1.2 y")]);
    }

    #[test]
    fn nonsense_is_bounded_and_cannot_control_a_terminal() {
        let long = [b'x'; 1000];
        let (found, ignored) = lines(&[&long, &long, b"\nnext\n", &[b'y'; 201], b"\n", &[b'z'; 200], b"\n"]);
        assert_eq!((found.len(), ignored), (2, 2));
        assert_eq!(found[0].1, "next");
        assert_eq!(found[1].1.len(), 200);
        let (found, _) = lines(&[b"\x1b[31mred\x07\xff\xc2\x9b\n"]);
        assert!(found[0].1.chars().all(|c| !c.is_control()), "{:?}", found[0].1);
        assert_eq!(printable("a\u{202e}b\u{1b}]0;x\u{7}"), "a\u{fffd}b\u{fffd}]0;x\u{fffd}");
    }
}
