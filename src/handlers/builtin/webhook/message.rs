//! What is sent: an action as a message of the Standard Webhooks specification, 1.0.0.
//!
//! However often a message is sent, its id and its body are the same, byte by byte; time, signature and the number of the
//! attempt are of this time, and in the head.
//!
//! ```text
//! webhook-id: act_12_8f14e45fceea167a           made up once for an action
//! webhook-timestamp: 1674087231                 of this time
//! webhook-signature: v1,K5oZ... v1,9g8f...      HMAC-SHA256 of "id.timestamp.body", for each secret
//! idempotency-key: act_12_8f14e45fceea167a      the same id, for servers that know this name
//! actiond-attempt: 1
//!
//! {"type":"action.deploy","timestamp":"...","data":{"id":12,"user":...,"metadata":{...},"deadline":null}}
//! ```

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::Sha256;

use super::Failure;
use crate::handlers::builtin::run::Run;

/// What a secret begins with.
const PREFIX: &str = "whsec_";
/// Shortest and longest secret, by the specification.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// A secret that signs.
pub(super) struct Key(Vec<u8>);

impl Key {
    /// Reads `whsec_` and base64.
    ///
    /// # Errors
    ///
    /// It is none, without saying it.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let none = "it is no secret of the form whsec_BASE64";
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(none)?;
        let key = BASE64_STANDARD.decode(encoded).map_err(|_| none)?;
        if !KEY_BYTES.contains(&key.len()) {
            return Err(format!("a secret has {} to {} bytes", KEY_BYTES.start(), KEY_BYTES.end()));
        }
        Ok(Self(key))
    }

    fn sign(&self, signed: &[&[u8]]) -> Option<String> {
        // It takes keys of any length.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).ok()?;
        for part in signed {
            mac.update(part);
        }
        Some(format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes())))
    }
}

/// The header `webhook-signature`, if anything signs.
pub(super) fn signature(keys: &[Key], id: &str, timestamp: i64, body: &[u8]) -> Option<String> {
    let timestamp = timestamp.to_string();
    let signed = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body];
    let all: Vec<String> = keys.iter().filter_map(|key| key.sign(&signed)).collect();
    (!all.is_empty()).then(|| all.join(" "))
}

/// The action, as it came: numbers and the order of keys are as they were submitted.
#[derive(Deserialize, Serialize)]
struct Data<'a> {
    #[serde(borrow)]
    id: &'a RawValue,
    #[serde(borrow)]
    user: &'a RawValue,
    #[serde(borrow)]
    resource_type: &'a RawValue,
    #[serde(borrow)]
    action: &'a RawValue,
    #[serde(borrow)]
    resource_id: &'a RawValue,
    #[serde(borrow)]
    started_via: &'a RawValue,
    #[serde(borrow)]
    started_at: &'a RawValue,
    #[serde(borrow)]
    metadata: &'a RawValue,
    #[serde(borrow)]
    deadline: &'a RawValue,
}

#[derive(Serialize)]
struct Payload<'a> {
    r#type: String,
    timestamp: &'a RawValue,
    data: Data<'a>,
}

/// The body for the action that a program gets as `input`.
///
/// # Errors
///
/// It is no action.
pub(super) fn body(input: &str) -> Result<Vec<u8>, Failure> {
    let made = || {
        let data: Data<'_> = serde_json::from_str(input)?;
        let action: String = serde_json::from_str(data.action.get())?;
        serde_json::to_vec(&Payload { r#type: format!("action.{action}"), timestamp: data.started_at, data })
    };
    made().map_err(|error: serde_json::Error| Failure::permanent("internal", error.to_string()))
}

/// An id for a message: of no other action, on whatever host.
///
/// # Errors
///
/// The kernel has no random numbers.
pub(super) fn made_up(run: &Run) -> Result<String, Failure> {
    let mut bytes = [0; 8];
    let count = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Failure::transient("internal", format!("there are no random numbers: {error}")))?;
    if count < bytes.len() {
        return Err(Failure::transient("internal", "there are no random numbers"));
    }
    Ok(format!("act_{}_{:016x}", run.id, u64::from_ne_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signature_is_that_of_the_specification() {
        // By Python: hmac.new(bytes(range(1, 33)), b'act_7_0123456789abcdef.1700000000.{"a":1}', hashlib.sha256)
        let key = || Key::read("whsec_AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=").ok().unwrap();
        let expected = "v1,liTOQr1ChcGD7i1iylS8q4/vtE1U+A4SQlR1ElzE+SM=";
        let sign = |keys: &[Key]| signature(keys, "act_7_0123456789abcdef", 1_700_000_000, br#"{"a":1}"#);
        assert_eq!(sign(&[key()]).as_deref(), Some(expected));
        assert_eq!(sign(&[key(), key()]), Some(format!("{expected} {expected}")));
        assert_eq!(sign(&[]), None);
    }

    #[test]
    fn what_is_no_secret_is_not_told() {
        for bad in ["", "whsec_", "whsec_AAAA", "whsec_!", "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="] {
            let why = Key::read(bad).err().unwrap();
            assert!(bad.len() < 9 || !why.contains(bad), "{why}");
        }
    }

    #[test]
    fn body_holds_the_action_as_it_came() {
        let input = r#"{"id":12,"user":"a@b.c","resource_type":"Stack","action":"deploy","resource_id":3,"started_via":"api",
            "started_at":"2024-01-15T10:30:00Z","finished_at":null,"metadata":{"z":1.50,"a":"ü"},"attempt":4,"deadline":null}"#;
        let expected =
            r#"{"type":"action.deploy","timestamp":"2024-01-15T10:30:00Z","data":{"id":12,"user":"a@b.c","#
                .to_owned()
                + r#""resource_type":"Stack","action":"deploy","resource_id":3,"started_via":"api","#
                + r#""started_at":"2024-01-15T10:30:00Z","metadata":{"z":1.50,"a":"ü"},"deadline":null}}"#;
        assert_eq!(String::from_utf8(body(input).unwrap()).unwrap(), expected);
    }
}
