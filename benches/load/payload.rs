//! The 512 bytes of JSON that everything here submits, to actiond and to its peers.
//!
//! Built once; for each submission only the digits of its resource are written anew, so that it costs the generator next to
//! nothing. Up to 8,999,999 submissions are for a resource of their own each: no lock makes one wait for another.

use std::ops::Range;

pub const BYTES: usize = 512;

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

pub struct Payload {
    text: Vec<u8>,
    resource: Range<usize>,
    note: Range<usize>,
    random: bool,
}

impl Payload {
    /// The same letter over and over, beside what identifies it.
    pub fn plain() -> Self {
        Self::new(false)
    }

    /// Anew at random each time: nothing below can compress it.
    pub fn random() -> Self {
        Self::new(true)
    }

    fn new(random: bool) -> Self {
        let mut text =
            br#"{"user":"john@example.com","resource_type":"Stack","action":"restart","resource_id":"#
                .to_vec();
        let resource = text.len()..text.len() + 7;
        text.extend_from_slice(br#"1000000,"started_via":"api","metadata":{"git_ref":"main","note":""#);
        let note = text.len()..BYTES - 3;
        text.resize(note.end, b'n');
        text.extend_from_slice(br#""}}"#);
        assert_eq!(text.len(), BYTES);
        Self { text, resource, note, random }
    }

    pub fn next(&mut self, number: u64) -> &[u8] {
        let mut left = number % 9_000_000 + 1_000_000;
        for digit in self.text[self.resource.clone()].iter_mut().rev() {
            *digit = b'0' + u8::try_from(left % 10).unwrap();
            left /= 10;
        }
        if self.random {
            for ten in self.text[self.note.clone()].chunks_mut(10) {
                let mut bits = fastrand::u64(..);
                for letter in ten {
                    *letter = DIGITS[usize::try_from(bits % 64).unwrap()];
                    bits >>= 6;
                }
            }
        }
        &self.text
    }
}
