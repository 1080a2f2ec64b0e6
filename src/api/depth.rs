//! Looks through the JSON of a submission's metadata once, without recursion, and copies it compactly.
//!
//! The text is already known to be valid JSON. This pass refuses what is valid but harmful: nesting beyond the
//! limit, keys given twice (readers disagree on which one counts), NUL and lone surrogates in strings (many
//! programs cannot hold them), and numbers beyond a double. It drops the white space between tokens, so that no
//! line break can cut an NDJSON line; everything else stays as it was sent, to the digit.
//!
//! Called by `parse` only.

use std::borrow::Cow;

/// What is wrong with the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is not an object.
    NotAnObject,
    TooDeep,
    /// Said of the text, without its name.
    Content(String),
}

/// The object as compact text, if nothing in it is nested deeper than `depth_max` (the object itself is 1).
pub(super) fn compact(text: &str, depth_max: usize) -> Result<String, Fault> {
    if !text.starts_with('{') {
        return Err(Fault::NotAnObject);
    }
    let mut scan = Scan {
        text,
        at: 0,
        copied: 0,
        out: String::with_capacity(text.len()),
        levels: Vec::new(),
        keys: Vec::new(),
    };
    let mut objects = 0;
    while let Some(byte) = scan.peek() {
        match byte {
            b'{' | b'[' => {
                if scan.levels.len() >= depth_max {
                    return Err(Fault::TooDeep);
                }
                objects += 1;
                scan.levels.push(Level { object: (byte == b'{').then_some(objects), key_next: true });
                scan.at += 1;
            }
            b'}' | b']' => {
                scan.levels.pop();
                scan.at += 1;
            }
            b',' => {
                if let Some(level) = scan.levels.last_mut() {
                    level.key_next = true;
                }
                scan.at += 1;
            }
            b'"' => scan.string()?,
            b' ' | b'\t' | b'\n' | b'\r' => scan.drop_byte(),
            b':' => scan.at += 1,
            _ => scan.word()?,
        }
    }
    scan.finish()
}

struct Level {
    /// The object's number in the text; none for an array.
    object: Option<u32>,
    /// The next string of this object is a key.
    key_next: bool,
}

struct Scan<'a> {
    text: &'a str,
    at: usize,
    /// What stands before this is copied or dropped.
    copied: usize,
    out: String,
    levels: Vec<Level>,
    keys: Vec<(u32, Cow<'a, str>)>,
}

impl<'a> Scan<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Drops the byte here; all before it is copied, in one piece since the last that was dropped.
    fn drop_byte(&mut self) {
        self.copy();
        self.at += 1;
        self.copied = self.at;
    }

    fn copy(&mut self) {
        self.out.push_str(self.text.get(self.copied..self.at).unwrap_or_default());
    }

    /// Goes on to `end`; what it passes.
    fn pass_to(&mut self, end: usize) -> &'a str {
        let piece = self.text.get(self.at..end).unwrap_or_default();
        self.at = end;
        piece
    }

    fn string(&mut self) -> Result<(), Fault> {
        let bytes = self.text.as_bytes();
        let mut end = self.at + 1;
        let mut escaped = false;
        loop {
            let found = memchr::memchr2(b'"', b'\\', bytes.get(end..).unwrap_or_default());
            end = found.map_or(bytes.len(), |found| end + found);
            if bytes.get(end) != Some(&b'\\') {
                break;
            }
            escaped = true;
            end += 2;
        }
        let quoted = self.pass_to((end + 1).min(bytes.len()));
        let decoded = if escaped {
            let decoded: String = serde_json::from_str(quoted)
                .map_err(|_| Fault::Content("has a string with half a surrogate pair".into()))?;
            if decoded.contains('\0') {
                return Err(Fault::Content("has a string with a NUL in it".into()));
            }
            Cow::Owned(decoded)
        } else {
            Cow::Borrowed(quoted.get(1..quoted.len() - 1).unwrap_or_default())
        };
        if let Some(Level { object: Some(object), key_next }) = self.levels.last_mut()
            && std::mem::take(key_next)
        {
            self.keys.push((*object, decoded));
        }
        Ok(())
    }

    /// A number, `true`, `false` or `null`.
    fn word(&mut self) -> Result<(), Fault> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let length = rest
            .bytes()
            .position(|byte| !(byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')))
            .unwrap_or(rest.len())
            .max(1);
        let word = self.pass_to(self.at + length);
        let is_number = word.starts_with(|first: char| first == '-' || first.is_ascii_digit());
        if is_number && !word.parse::<f64>().is_ok_and(f64::is_finite) {
            return Err(Fault::Content(format!("has a number beyond what a double holds: {word:.40}")));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<String, Fault> {
        self.copy();
        self.keys.sort_unstable();
        for pair in self.keys.windows(2) {
            if let [one, other] = pair
                && one == other
            {
                return Err(Fault::Content(format!("has the key {:?} twice in one object", one.1)));
            }
        }
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn white_space_goes_and_everything_else_stays() {
        let sent = "{ \"b\" :\t[1.50, -0 ,\n1e3,true, null ], \"a b\": \"x \\\" { \\n y\" ,\"ü\":{}}";
        let kept = r#"{"b":[1.50,-0,1e3,true,null],"a b":"x \" { \n y","ü":{}}"#;
        assert_eq!(compact(sent, 9).as_deref(), Ok(kept));
    }

    #[test]
    fn nesting_is_counted_from_the_object_itself() {
        assert!(compact(r#"{"a":[{}]}"#, 3).is_ok());
        assert_eq!(compact(r#"{"a":[{}]}"#, 2), Err(Fault::TooDeep));
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(compact(&deep, 32), Err(Fault::TooDeep));
        assert_eq!(compact("[1]", 32), Err(Fault::NotAnObject));
    }

    #[test]
    fn harmful_content_is_refused() {
        for (text, word) in [
            (r#"{"a":1,"a":2}"#, "twice"),
            (r#"{"x":{"a":1,"b":[],"\u0061":2}}"#, "twice"),
            (r#"{"a":"\u0000"}"#, "NUL"),
            (r#"{"a":"\ud800"}"#, "surrogate"),
            (r#"{"a":1e400}"#, "double"),
        ] {
            match compact(text, 9) {
                Err(Fault::Content(said)) => assert!(said.contains(word), "{text}: {said}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        assert!(compact(r#"{"a":{"k":1},"b":{"k":1},"c":["k","k"],"k":"k"}"#, 9).is_ok());
    }
}
