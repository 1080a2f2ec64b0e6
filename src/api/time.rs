//! Times and durations as the wire has them, written without going through a calendar library for each field.
//!
//! A time is RFC 3339 in UTC: `2024-01-15T10:30:00.123Z`, and plain `2024-01-15T10:30:00Z` when the milliseconds
//! are zero, as the user document's example shows. A duration is words, such as `30m` or `1s 500ms`.
//! Times outside the years 0000 to 9999 are shown as the nearest that fits.

use std::time::Duration;

use chrono::DateTime;

use crate::action::Timestamp;

const MS_PER_DAY: i64 = 86_400_000;
/// 0000-01-01T00:00:00.000Z and 9999-12-31T23:59:59.999Z.
const FIRST_MS: i64 = -62_167_219_200_000;
const LAST_MS: i64 = 253_402_300_799_999;

/// Appends the time, without quotes.
pub(super) fn write(out: &mut Vec<u8>, at: Timestamp) {
    let ms = at.0.clamp(FIRST_MS, LAST_MS);
    let (year, month, day) = civil(ms.div_euclid(MS_PER_DAY));
    let of_day = ms.rem_euclid(MS_PER_DAY);
    digits::<4>(out, year);
    out.push(b'-');
    digits::<2>(out, month);
    out.push(b'-');
    digits::<2>(out, day);
    out.push(b'T');
    clock(out, of_day);
    if of_day % 1_000 != 0 {
        out.push(b'.');
        digits::<3>(out, of_day % 1_000);
    }
    out.push(b'Z');
}

/// Hours, minutes and seconds of a millisecond of the day.
fn clock(out: &mut Vec<u8>, of_day: i64) {
    digits::<2>(out, of_day / 3_600_000);
    out.push(b':');
    digits::<2>(out, of_day / 60_000 % 60);
    out.push(b':');
    digits::<2>(out, of_day / 1_000 % 60);
}

/// Appends the time as HTTP has it: `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, section 5.6.7).
pub(super) fn write_http(out: &mut Vec<u8>, at: Timestamp) {
    // The epoch began on a Thursday.
    const DAYS: [&str; 7] = ["Thu, ", "Fri, ", "Sat, ", "Sun, ", "Mon, ", "Tue, ", "Wed, "];
    const MONTHS: [&str; 12] = [
        " Jan ", " Feb ", " Mar ", " Apr ", " May ", " Jun ", " Jul ", " Aug ", " Sep ", " Oct ", " Nov ",
        " Dec ",
    ];
    let name =
        |names: &[&'static str], at: i64| usize::try_from(at).ok().and_then(|at| names.get(at).copied());
    let ms = at.0.clamp(FIRST_MS, LAST_MS);
    let days = ms.div_euclid(MS_PER_DAY);
    let (year, month, day) = civil(days);
    let of_day = ms.rem_euclid(MS_PER_DAY);
    out.extend_from_slice(name(&DAYS, days.rem_euclid(7)).unwrap_or_default().as_bytes());
    digits::<2>(out, day);
    out.extend_from_slice(name(&MONTHS, month - 1).unwrap_or_default().as_bytes());
    digits::<4>(out, year);
    out.push(b' ');
    clock(out, of_day);
    out.extend_from_slice(b" GMT");
}

pub(super) fn text(at: Timestamp) -> String {
    let mut out = Vec::with_capacity(24);
    write(&mut out, at);
    String::from_utf8_lossy(&out).into_owned()
}

/// Appends the last `COUNT` digits of `value`.
fn digits<const COUNT: usize>(out: &mut Vec<u8>, value: i64) {
    let mut text = [b'0'; COUNT];
    let mut left = value;
    for digit in text.iter_mut().rev() {
        *digit += u8::try_from(left % 10).unwrap_or(0);
        left /= 10;
    }
    out.extend_from_slice(&text);
}

/// Year, month and day of a count of days since 1970-01-01 (H. Hinnant, "chrono-compatible low-level date
/// algorithms", `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// A time of a request; anything below a millisecond is dropped.
pub(super) fn parse(text: &str) -> Result<Timestamp, &'static str> {
    let time = DateTime::parse_from_rfc3339(text)
        .map_err(|_| "is not an RFC 3339 time such as 2024-01-15T10:30:00Z")?;
    let ms = time.timestamp_millis();
    if !(FIRST_MS..=LAST_MS).contains(&ms) {
        return Err("lies outside the years 0000 to 9999");
    }
    Ok(Timestamp(ms))
}

/// A duration of a request, in whole milliseconds.
pub(super) fn parse_duration_ms(text: &str) -> Result<u64, &'static str> {
    const WRONG: &str = "is not a duration such as 30s, 5m or 1h 30m";
    let duration = humantime::parse_duration(text).map_err(|_| WRONG)?;
    u64::try_from(duration.as_millis()).map_err(|_| WRONG)
}

pub(super) fn duration_text(ms: u64) -> String {
    humantime::format_duration(Duration::from_millis(ms)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_calendar_library_writes_them() {
        let mut at = FIRST_MS;
        while at <= LAST_MS {
            let whole = at - at.rem_euclid(1_000);
            for (ms, form) in [(whole, "%Y-%m-%dT%H:%M:%SZ"), (whole + 7, "%Y-%m-%dT%H:%M:%S%.3fZ")] {
                let expected = DateTime::from_timestamp_millis(ms).unwrap().format(form).to_string();
                assert_eq!(text(Timestamp(ms)), expected);
                assert_eq!(parse(&expected), Ok(Timestamp(ms)));
                let of_http =
                    DateTime::from_timestamp_millis(ms).unwrap().format("%a, %d %b %Y %H:%M:%S GMT");
                let mut out = Vec::new();
                write_http(&mut out, Timestamp(ms));
                assert_eq!(String::from_utf8(out).unwrap(), of_http.to_string());
            }
            at += 9_876_543_210_987;
        }
        assert_eq!(text(Timestamp(i64::MAX)), "9999-12-31T23:59:59.999Z");
        assert_eq!(text(Timestamp(i64::MIN)), "0000-01-01T00:00:00Z");
        assert_eq!(text(Timestamp(951_782_400_000)), "2000-02-29T00:00:00Z");
    }

    #[test]
    fn what_is_no_time_or_duration_is_refused() {
        for text in ["", "2024-01-15", "2024-13-01T00:00:00Z", "2024-01-15T10:30:00", "1705314600", "now"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("2024-01-15T12:30:00+02:00"), parse("2024-01-15T10:30:00Z"));
        for text in ["", "10", "-1s", "1 parsec", "99999999999999999999s"] {
            assert!(parse_duration_ms(text).is_err(), "{text}");
        }
        assert_eq!(parse_duration_ms("1m 1s 5ms"), Ok(61_005));
        assert_eq!(duration_text(61_005), "1m 1s 5ms");
    }
}
