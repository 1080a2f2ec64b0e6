//! Connection strings of libpq in their form `keyword = value` (PostgreSQL 15, 34.1.1.1).

use std::fmt;

/// Pairs in their order; the last of a keyword counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Conninfo(Vec<(String, String)>);

impl Conninfo {
    /// Reads one.
    ///
    /// # Errors
    ///
    /// It is a URI, or no connection string.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        if is_uri(text) {
            return Err("must be keywords and values, not a URI".to_owned());
        }
        let mut pairs = Vec::new();
        let mut letters = text.chars().peekable();
        loop {
            while letters.next_if(char::is_ascii_whitespace).is_some() {}
            if letters.peek().is_none() {
                return Ok(Self(pairs));
            }
            let mut keyword = String::new();
            while let Some(letter) = letters.next_if(|letter| *letter != '=' && !letter.is_ascii_whitespace())
            {
                keyword.push(letter);
            }
            while letters.next_if(char::is_ascii_whitespace).is_some() {}
            let has_value = letters.next_if_eq(&'=').is_some();
            if keyword.is_empty() || !has_value {
                return Err(format!("has no value after {keyword:?}"));
            }
            while letters.next_if(char::is_ascii_whitespace).is_some() {}
            let is_quoted = letters.next_if_eq(&'\'').is_some();
            let mut value = String::new();
            loop {
                match letters.next() {
                    Some('\\') => value.extend(letters.next()),
                    Some('\'') if is_quoted => break,
                    Some(letter) if !is_quoted && letter.is_ascii_whitespace() => break,
                    Some(letter) => value.push(letter),
                    None if is_quoted => return Err(format!("has no closing quote after {keyword:?}")),
                    None => break,
                }
            }
            pairs.push((keyword, value));
        }
    }

    pub(super) fn value(&self, keyword: &str) -> Option<&str> {
        let mut from_the_end = self.0.iter().rev();
        from_the_end.find(|(name, _)| name == keyword).map(|(_, value)| value.as_str())
    }

    /// With that value in the place of any earlier one.
    #[must_use]
    pub(super) fn with(&self, keyword: &str, value: &str) -> Self {
        let mut pairs = self.0.clone();
        pairs.retain(|(name, _)| name != keyword);
        pairs.push((keyword.to_owned(), value.to_owned()));
        Self(pairs)
    }
}

impl fmt::Display for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (keyword, value)) in self.0.iter().enumerate() {
            let space = if number == 0 { "" } else { " " };
            let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/_.-:,".contains(letter);
            if !value.is_empty() && value.chars().all(is_plain) {
                write!(f, "{space}{keyword}={value}")?;
            } else {
                let escaped = value.replace('\\', "\\\\").replace('\'', "\\'");
                write!(f, "{space}{keyword}='{escaped}'")?;
            }
        }
        Ok(())
    }
}

fn is_uri(text: &str) -> bool {
    let text = text.trim_start();
    text.starts_with("postgresql://") || text.starts_with("postgres://")
}

/// Whether a connection string of either form may have a password in it.
pub(super) fn has_password(text: &str) -> bool {
    match Conninfo::read(text) {
        Ok(conninfo) => ["password", "sslpassword"].iter().any(|keyword| conninfo.value(keyword).is_some()),
        // Of a URI only that is seen for which no rules have to be known.
        Err(_) => text.contains('@') || text.contains("password"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_string_is_read_as_libpq_reads_it() {
        let read =
            Conninfo::read(r"host = '/run/a b' port=5433 user=x\'y password='it\'s' port=5434").unwrap();
        assert_eq!(read.value("host"), Some("/run/a b"));
        assert_eq!(read.value("port"), Some("5434"));
        assert_eq!(read.value("user"), Some("x'y"));
        assert_eq!(read.value("password"), Some("it's"));
        assert_eq!(Conninfo::read(&read.to_string()), Ok(read.clone()));
        assert_eq!(read.with("port", "1").value("port"), Some("1"));
        assert_eq!(Conninfo::read(""), Ok(Conninfo::default()));
        for wrong in ["host", "host x", "=x", "host='x", "postgresql://a/b"] {
            assert!(Conninfo::read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn password_is_seen_in_either_form() {
        for with in ["host=a password=b", "password = ''", "postgres://u:p@h/", "postgresql://h/?password=x"]
        {
            assert!(has_password(with), "{with}");
        }
        for without in ["", "host=a user=b passfile=/p", "postgresql://h:5433/"] {
            assert!(!has_password(without), "{without}");
        }
    }
}
