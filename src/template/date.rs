//! A calendar date, and `strftime` for it: what a chat template may learn about the time.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const MONTHS: [&str; 12] = [
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
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A day of the Gregorian calendar, in the years 1 to 9999; written `2024-07-26`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    year: u32,
    month: u32,
    day: u32,
}

impl Default for Date {
    /// The date that Llama 3's templates fall back to where they can't ask for today's.
    fn default() -> Self {
        Self { year: 2024, month: 7, day: 26 }
    }
}

impl Date {
    /// Reads `YYYY-MM-DD`; `None` for anything else, and for days that no calendar has.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '-');
        let mut next = |width: usize| {
            let part = parts.next()?;
            let digits = part.len() == width && part.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| part.parse::<u32>().ok()).flatten()
        };
        let (year, month, day) = (next(4)?, next(2)?, next(2)?);
        let exists = year >= 1 && (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day);
        exists.then_some(Self { year, month, day })
    }

    /// C's `strftime` at midnight of this date, with English names; `-` after `%` drops leading zeros (glibc).
    ///
    /// # Errors
    /// Names a directive that isn't one of C's for dates and times.
    pub fn strftime(self, format: &str) -> Result<String, String> {
        let mut out = String::with_capacity(format.len() * 2);
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut directive = chars.next();
            let plain = directive == Some('-');
            if plain {
                directive = chars.next();
            }
            let piece = directive.and_then(|directive| self.piece(directive));
            match (piece, directive) {
                (Some(piece), _) if plain => out.push_str(without_zeros(&piece)),
                (Some(piece), _) => out.push_str(&piece),
                (None, Some(unknown)) => return Err(format!("`%{unknown}` isn't a directive of strftime")),
                (None, None) => return Err("a lone `%` at the end of a strftime format".to_owned()),
            }
        }
        Ok(out)
    }

    fn piece(self, directive: char) -> Option<String> {
        let Self { year, month, day } = self;
        let month_name = MONTHS.get(month as usize - 1)?;
        let weekday = self.weekday();
        let weekday_name = WEEKDAYS.get(weekday as usize)?;
        Some(match directive {
            'Y' => format!("{year}"),
            'C' => format!("{:02}", year / 100),
            'y' => format!("{:02}", year % 100),
            'm' => format!("{month:02}"),
            'd' => format!("{day:02}"),
            'e' => format!("{day:2}"),
            'B' => (*month_name).to_owned(),
            'b' | 'h' => month_name[..3].to_owned(),
            'A' => (*weekday_name).to_owned(),
            'a' => weekday_name[..3].to_owned(),
            'j' => format!("{:03}", self.day_of_year()),
            'w' => weekday.to_string(),
            'u' => if weekday == 0 { 7 } else { weekday }.to_string(),
            'H' | 'M' | 'S' => "00".to_owned(),
            'I' => "12".to_owned(),
            'p' => "AM".to_owned(),
            'f' => "000000".to_owned(),
            'Z' | 'z' => String::new(),
            'F' => self.to_string(),
            'D' | 'x' => format!("{month:02}/{day:02}/{:02}", year % 100),
            'T' | 'X' => "00:00:00".to_owned(),
            'R' => "00:00".to_owned(),
            'c' => format!("{} {} {day:2} 00:00:00 {year}", &weekday_name[..3], &month_name[..3]),
            'n' => "\n".to_owned(),
            't' => "\t".to_owned(),
            '%' => "%".to_owned(),
            _ => return None,
        })
    }

    fn day_of_year(self) -> u32 {
        (1..self.month).map(|month| days_in(self.year, month)).sum::<u32>() + self.day
    }

    /// 0 for Sunday.
    fn weekday(self) -> u32 {
        let before = self.year - 1;
        // 1 January of the year 1 was a Monday in the proleptic Gregorian calendar
        (before * 365 + before / 4 - before / 100 + before / 400 + self.day_of_year()) % 7
    }
}

fn days_in(year: u32, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        _ => 31,
    }
}

/// A padded number without its padding; the last digit stays.
fn without_zeros(piece: &str) -> &str {
    let trimmed = piece.trim_start_matches(['0', ' ']);
    match trimmed.chars().next() {
        Some(first) if first.is_ascii_digit() => trimmed,
        Some(_) => piece,
        None => piece.get(piece.len().saturating_sub(1)..).unwrap_or(piece),
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl Serialize for Date {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::invalid_value(de::Unexpected::Str(&text), &"a date as 2024-07-26"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_days_of_the_calendar_are_dates() {
        for text in ["2024-02-29", "2000-02-29", "1999-12-31", "0001-01-01"] {
            assert_eq!(Date::parse(text).unwrap().to_string(), text);
        }
        for text in ["2023-02-29", "1900-02-29", "2024-13-01", "2024-00-10", "2024-04-31", "24-01-01", "2024-1-1"] {
            assert_eq!(Date::parse(text), None, "{text}");
        }
        for text in ["", "today", "2024-07-26T00:00", "2024/07/26", "+024-07-26", "0000-01-01"] {
            assert_eq!(Date::parse(text), None, "{text}");
        }
    }

    #[test]
    fn strftime_writes_what_c_writes() {
        // printed by Python's datetime(…).strftime, which calls the C library
        let cases = [
            ("2024-07-26", "%d %b %Y", "26 Jul 2024"),
            ("2024-07-05", "%A, %B %-d, %Y", "Friday, July 5, 2024"),
            ("2000-01-01", "%a %e %h %y %j %w %u", "Sat  1 Jan 00 001 6 6"),
            ("2023-12-31", "%F %D %T %H:%M:%S %I %p %%", "2023-12-31 12/31/23 00:00:00 00:00:00 12 AM %"),
            ("1970-01-04", "%a %j %-m/%-d %c", "Sun 004 1/4 Sun Jan  4 00:00:00 1970"),
            ("2024-12-31", "%j|%-H|%x|%X|%C", "366|0|12/31/24|00:00:00|20"),
        ];
        for (date, format, expected) in cases {
            assert_eq!(Date::parse(date).unwrap().strftime(format).unwrap(), expected);
        }
    }

    #[test]
    fn an_unknown_directive_is_an_error_that_names_it() {
        assert!(Date::default().strftime("%Q").unwrap_err().contains("`%Q`"));
        assert!(Date::default().strftime("100%").is_err());
    }
}
