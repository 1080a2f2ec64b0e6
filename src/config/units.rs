//! Sizes and durations as people write them, read and printed without loss.
//!
//! A size is an integer of bytes or a string of an integer and one of `B KiB MiB GiB TiB`; a duration is a
//! string as humantime reads it (`"1h 30m"`), in whole milliseconds. What `print_*` gives, `parse_*` takes
//! back as the same value. Called by the reader and the printer of the configuration.

use std::time::Duration;

const UNITS: [(&str, u32); 5] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];

/// Bytes of a size such as `16MiB`; decimal units are refused rather than guessed at.
pub(super) fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits_end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let number: u64 = digits.parse().map_err(|_| refused(text))?;
    let unit = unit.trim();
    let shift = if unit.is_empty() {
        0
    } else {
        UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(|| refused(text))?.1
    };
    number.checked_mul(1 << shift).ok_or_else(|| refused(text))
}

fn refused(text: &str) -> String {
    format!("{text:?} is not a size such as \"16MiB\" (units: B, KiB, MiB, GiB, TiB)")
}

/// The shortest exact form.
pub(super) fn print_bytes(bytes: u64) -> String {
    UNITS
        .iter()
        .find(|(_, shift)| bytes >= 1 << shift && bytes.is_multiple_of(1 << shift))
        .map_or_else(|| format!("{bytes}B"), |(unit, shift)| format!("{}{unit}", bytes >> shift))
}

/// Milliseconds of a duration such as `1h 30m`.
pub(super) fn parse_millis(text: &str) -> Result<u64, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|error| format!("{text:?} is not a duration such as \"1h 30m\": {error}"))?;
    if duration.subsec_nanos() % 1_000_000 != 0 {
        return Err(format!("{text:?} is finer than a millisecond"));
    }
    u64::try_from(duration.as_millis()).map_err(|_| format!("{text:?} is too long"))
}

/// The duration in humantime's units, but never in months or years, whose lengths surprise.
pub(super) fn print_millis(ms: u64) -> String {
    let days = ms / 86_400_000;
    let rest = Duration::from_millis(ms % 86_400_000);
    match (days, rest.is_zero()) {
        (0, _) => humantime::format_duration(rest).to_string(),
        (_, true) => format!("{days}d"),
        (_, false) => format!("{days}d {}", humantime::format_duration(rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_printed_is_read_back_as_itself() {
        for bytes in [0, 1, 1023, 1024, 1536, 16 << 20, 3 << 40, u64::MAX] {
            assert_eq!(parse_bytes(&print_bytes(bytes)), Ok(bytes));
        }
        assert_eq!(print_bytes(16 << 20), "16MiB");
        assert_eq!(parse_bytes("64 KiB"), Ok(65_536));
    }

    #[test]
    fn doubtful_size_is_refused() {
        for text in ["", "MiB", "-1", "16MB", "1.5MiB", "99999999TiB", "16mib"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn duration_printed_is_read_back_as_itself() {
        for ms in [0, 1, 999, 10_000, 90_061_001, 30 * 86_400_000, 400 * 86_400_000 + 5] {
            assert_eq!(parse_millis(&print_millis(ms)), Ok(ms), "{}", print_millis(ms));
        }
        assert_eq!(print_millis(30 * 86_400_000), "30d");
        assert!(parse_millis("10 apples").is_err());
        assert!(parse_millis("1us").is_err());
    }
}
