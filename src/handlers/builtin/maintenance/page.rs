//! What nginx reads while a site is in maintenance: two files, made of parameters that cannot say anything but themselves.
//!
//! `http.conf` says who is let through, and is included at the top of `http`; `server.conf` answers all others, and is
//! included by each `server` of the site.

use std::fmt::{self, Write as _};
use std::net::IpAddr;

/// The header that names the link which nginx has read.
pub(super) const MARK: &str = "x-actiond-maintenance";

pub(super) const RETRY_AFTER_S: u32 = 120;

const MESSAGE: &str = "We are working on this site and will be back soon.";

/// The parameters.
pub(super) struct Page {
    /// The target's name.
    pub(super) site: String,
    /// Name of the directory that has the files.
    pub(super) link: String,
    pub(super) retry_after_s: u32,
    pub(super) message: Option<String>,
    pub(super) networks: Vec<Network>,
    /// As it was given: another one makes another page.
    pub(super) until: Option<String>,
}

/// Addresses with a common beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    fn read(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) if bits.bytes().all(|digit| digit.is_ascii_digit()) => {
                (address, Some(bits.parse().ok()?))
            }
            Some(_) => return None,
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        (bits <= most).then_some(Self { address, bits })
    }

    pub(super) fn has(&self, other: IpAddr) -> bool {
        let most = if self.address.is_ipv4() { 32 } else { 128 };
        if self.address.is_ipv4() != other.is_ipv4() {
            return false;
        }
        let number = |address| match address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        let different = number(self.address) ^ number(other);
        different.checked_shr(most - u32::from(self.bits)).unwrap_or(0) == 0
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// Reads addresses and networks.
///
/// # Errors
///
/// The first that is none.
pub(super) fn networks(texts: &[String]) -> Result<Vec<Network>, String> {
    let read = |text: &String| {
        Network::read(text)
            .ok_or_else(|| format!("allow_ips: {text:?} is no address and no network such as 10.0.0.0/8"))
    };
    texts.iter().map(read).collect()
}

impl Page {
    /// Its files: names and texts.
    pub(super) fn files(&self) -> [(&'static str, String); 2] {
        [("http.conf", self.http()), ("server.conf", self.server())]
    }

    fn http(&self) -> String {
        let mut text = format!("geo ${} {{\n    default 1;\n", self.variable());
        for network in &self.networks {
            // Into a string nothing can fail to be written.
            let _ = writeln!(text, "    {network} 0;");
        }
        text.push_str("}\n");
        text
    }

    fn server(&self) -> String {
        let name = self.variable();
        let message = escaped(self.message.as_deref().unwrap_or(MESSAGE));
        let until = escaped(self.until.as_deref().unwrap_or("it is turned off"));
        format!(
            "# Written by actiond, until {until}.\n\
             error_page 503 @{name};\n\
             if (${name}) {{\n    return 503;\n}}\n\
             location @{name} {{\n    \
             add_header Retry-After \"{}\" always;\n    \
             add_header {MARK} \"{}\" always;\n    \
             add_header Cache-Control \"no-store\" always;\n    \
             types {{ }}\n    \
             default_type \"text/html; charset=utf-8\";\n    \
             return 503 \"<!doctype html><html><head><title>Maintenance</title></head><body><h1>Maintenance</h1>\
             <p>{message}</p></body></html>\";\n}}\n",
            self.retry_after_s, self.link
        )
    }

    /// Name of a variable and of a location that is the target's alone.
    fn variable(&self) -> String {
        let mut name = "actiond_maintenance_".to_owned();
        for letter in self.site.chars() {
            if letter.is_ascii_alphanumeric() {
                name.push(letter);
            } else {
                let _ = write!(name, "_{:x}_", u32::from(letter));
            }
        }
        name
    }
}

/// Text as it stands in HTML within a string of nginx: what either would take for its own is a character reference. A `$`
/// begins a variable in such a string and cannot be escaped there at all.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        match letter {
            '\n' => escaped.push_str("<br>"),
            '&' | '<' | '>' | '"' | '\'' | '\\' | '$' | '{' | '}' | ';' | '#' => {
                let _ = write!(escaped, "&#{};", u32::from(letter));
            }
            letter if letter.is_control() => {}
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_addresses_and_nothing_else() {
        let read = |text: &str| Network::read(text).map(|network| network.to_string());
        assert_eq!(read("10.0.0.0/8").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(read("10.1.2.3").as_deref(), Some("10.1.2.3/32"));
        assert_eq!(read("2001:db8::/32").as_deref(), Some("2001:db8::/32"));
        for text in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "example.org",
            "1.1.1.1; }",
            "10.0.0.0/8 0;",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
        let has =
            |network: &str, address: &str| Network::read(network).unwrap().has(address.parse().unwrap());
        assert!(has("127.0.0.0/8", "127.0.0.1") && has("0.0.0.0/0", "127.0.0.1") && has("::/0", "::1"));
        assert!(
            !has("10.0.0.0/8", "127.0.0.1") && !has("::/0", "127.0.0.1") && !has("127.0.0.2", "127.0.0.1")
        );
    }

    #[test]
    fn message_can_only_be_text() {
        let text = "\"; } $host \\ <script> & '\n{}#";
        let escaped = escaped(text);
        assert!(!escaped.contains(['"', '$', '\\', '{', '}', '\'', '\n']), "{escaped}");
        assert!(!escaped.contains("<script"));
    }
}
