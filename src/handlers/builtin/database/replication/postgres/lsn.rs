//! A place in the log of a server: how many bytes of it are before (PostgreSQL 15, 8.20).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Written as the servers write it: `16/B374D848`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Lsn(pub(super) u64);

impl Lsn {
    /// How many bytes it lacks to `to`.
    pub(super) fn lag_to(self, to: Self) -> u64 {
        to.0.saturating_sub(self.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let (high, low) = text.split_once('/')?;
            let part = |digits: &str| u32::from_str_radix(digits, 16).ok().map(u64::from);
            Some(Self(part(high)? << 32 | part(low)?))
        };
        read().ok_or_else(|| format!("{text:?} is no place in a log"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_is_read_and_written_as_the_server_does() {
        let place: Lsn = "16/B374D848".parse().unwrap();
        assert_eq!(place.to_string(), "16/B374D848");
        assert_eq!("16/B374D840".parse::<Lsn>().unwrap().lag_to(place), 8);
        assert_eq!(place.lag_to(Lsn(0)), 0);
        for wrong in ["", "1", "x/1", "1/123456789"] {
            assert!(wrong.parse::<Lsn>().is_err(), "{wrong}");
        }
    }
}
