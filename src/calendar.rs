//! Calendar dates and time stamps: the one door to chrono.

use std::fmt;

use chrono::format::{Item, StrftimeItems};
use chrono::{Datelike, NaiveDate, NaiveTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The time now in UTC, to the second, as RFC 3339 writes it.
pub fn timestamp() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// A day of the Gregorian calendar, in the years 1 to 9999; written `2024-07-26`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date(NaiveDate);

impl Default for Date {
    /// The date that Llama 3's templates fall back to if they can't ask for today's.
    fn default() -> Self {
        const FALLBACK: NaiveDate = NaiveDate::from_ymd_opt(2024, 7, 26).expect("a day of the calendar");
        Self(FALLBACK)
    }
}

impl Date {
    /// Reads `YYYY-MM-DD`; `None` for anything else, and for days that aren't in the calendar.
    pub fn parse(text: &str) -> Option<Self> {
        let date = Self(NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?);
        // chrono also reads signs and missing zeros
        (date.0.year() >= 1 && date.to_string() == text).then_some(date)
    }

    /// C's `strftime` at midnight of this date, with English names, as Python calls it: what a chat template may learn
    /// about the time. glibc's `-` after `%` drops leading zeros.
    ///
    /// # Errors
    /// Names a directive that isn't one of C's for dates and times.
    pub(crate) fn strftime(self, format: &str) -> Result<String, String> {
        let mut out = String::with_capacity(format.len() * 2);
        let mut rest = format;
        while let Some((text, after)) = rest.split_once('%') {
            out.push_str(text);
            let name = after.strip_prefix('-').unwrap_or(after).chars().next();
            let name = name.ok_or("a lone `%` at the end of a strftime format")?;
            let (directive, after) = after.split_at(after.find(name).unwrap_or(0) + name.len_utf8());
            out.push_str(&self.piece(name, directive)?);
            rest = after;
        }
        Ok(out + rest)
    }

    /// The text of one directive, such as `%-d`.
    fn piece(self, name: char, directive: &str) -> Result<String, String> {
        match name {
            // chrono counts nanoseconds, pads a year to four digits, and has no zone for a time without one
            'f' => return Ok("000000".to_owned()),
            'Y' => return Ok(self.0.year().to_string()),
            'Z' | 'z' => return Ok(String::new()),
            _ => {}
        }
        // glibc ignores `-` before a name of a month or a day, which chrono calls an error
        let spellings = [format!("%{directive}"), format!("%{name}")];
        let is_known = |spelling: &&String| StrftimeItems::new(spelling).all(|item| item != Item::Error);
        // `%+` and `%v` are chrono's own
        match spellings.iter().find(is_known).filter(|_| !"+v".contains(name)) {
            Some(spelling) => Ok(self.0.and_time(NaiveTime::MIN).format(spelling).to_string()),
            None => Err(format!("`%{name}` isn't a directive of strftime")),
        }
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
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
            ("2024-01-01", "%U %W %V %G %-j %f[%Z%z]", "00 01 01 2024 1 000000[]"),
            ("0007-03-01", "%Y-%m %-B %-a", "7-03 March Thu"),
        ];
        for (date, format, expected) in cases {
            assert_eq!(Date::parse(date).unwrap().strftime(format).unwrap(), expected);
        }
    }

    #[test]
    fn an_unknown_directive_is_an_error_that_names_it() {
        for name in ["Q", "+", "v", "é"] {
            assert!(Date::default().strftime(&format!("%d %{name}")).unwrap_err().contains(&format!("`%{name}`")));
        }
        assert!(Date::default().strftime("100%").is_err());
    }

    #[test]
    fn a_time_stamp_is_rfc_3339_in_utc_to_the_second() {
        let now = timestamp();
        assert!(now.len() == 20 && now.ends_with('Z') && Date::parse(&now[..10]).is_some(), "{now}");
    }
}
