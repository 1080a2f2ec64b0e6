//! Reads what stands in a URI: percent-escapes in the path, and the query's parameters.
//!
//! A parameter that a route does not know is refused by name, like an unknown field of a submission: a typing
//! error in a filter must not answer with everything.

use std::borrow::Cow;

use super::parse::shortened;
use super::problem::{Problem, Word};

/// The parameters of one request; each is taken out by its route, and what is left over is refused.
pub(super) struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    pub(super) fn parse(text: Option<&'a str>) -> Result<Self, Problem> {
        let mut pairs = Vec::new();
        for pair in text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (Some(name), Some(value)) = (unescaped(name, true), unescaped(value, true)) else {
                return Err(Problem::new(
                    Word::BadQuery,
                    format!("{:?} is not escaped well", shortened(pair)),
                ));
            };
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(Problem::new(Word::BadQuery, format!("{:?} is given twice", shortened(&name))));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    pub(super) fn take(&mut self, name: &str) -> Option<Cow<'a, str>> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// A parameter read by `read`; `what` says what it should have been.
    pub(super) fn take_as<T>(
        &mut self,
        name: &str,
        what: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        let Some(text) = self.take(name) else { return Ok(None) };
        read(&text).map(Some).ok_or_else(|| {
            Problem::new(Word::BadQuery, format!("{name}={:?} is not {what}", shortened(&text)))
        })
    }

    pub(super) fn finish(self) -> Result<(), Problem> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => {
                Err(Problem::new(Word::BadQuery, format!("there is no parameter {:?} here", shortened(name))))
            }
        }
    }
}

/// The text with its `%XX` resolved; none if an escape is broken or the result is not clean UTF-8.
pub(super) fn unescaped(text: &str, plus_is_space: bool) -> Option<Cow<'_, str>> {
    let is_plain = |byte| byte != b'%' && (byte != b'+' || !plus_is_space);
    if text.bytes().all(is_plain) {
        return Some(Cow::Borrowed(text));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let high = char::from(bytes.next()?).to_digit(16)?;
                let low = char::from(bytes.next()?).to_digit(16)?;
                u8::try_from(high * 16 + low).ok()?
            }
            b'+' if plus_is_space => b' ',
            other => other,
        });
    }
    let text = String::from_utf8(out).ok()?;
    (!text.contains('\0')).then_some(Cow::Owned(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_resolved_and_broken_ones_refused() {
        assert_eq!(unescaped("/v1/actions/5%3Acancel", false).as_deref(), Some("/v1/actions/5:cancel"));
        assert_eq!(unescaped("a+b%2B", true).as_deref(), Some("a b+"));
        assert_eq!(unescaped("a+b", false).as_deref(), Some("a+b"));
        for broken in ["%", "%2", "%zz", "%00", "%ff"] {
            assert_eq!(unescaped(broken, false), None, "{broken}");
        }
    }

    #[test]
    fn parameter_that_no_route_takes_is_refused_by_name() {
        let mut query = Query::parse(Some("state=queued&colour=red")).ok().unwrap();
        assert_eq!(query.take("state").as_deref(), Some("queued"));
        assert!(query.finish().unwrap_err().detail.contains("colour"));
        assert!(Query::parse(Some("a=1&a=2")).is_err());
        assert!(Query::parse(None).ok().unwrap().finish().is_ok());
    }
}
