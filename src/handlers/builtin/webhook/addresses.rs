//! Which addresses an endpoint may have.
//!
//! The URL is the configuration's, but what its name stands for is not: a name that suddenly leads to a cloud's metadata
//! service must not get a signed request there, nor have its answer shown in a result.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Addresses with the same first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Net {
    address: IpAddr,
    bits: u8,
}

/// Those that may be connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Addresses {
    /// All but those that no endpoint has unless somebody says so.
    Usual,
    Only(Vec<Net>),
}

const fn v4(a: u8, b: u8, c: u8, d: u8, bits: u8) -> Net {
    Net { address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), bits }
}

const fn v6(first: u16, second: u16, last: u16, bits: u8) -> Net {
    Net { address: IpAddr::V6(Ipv6Addr::new(first, second, 0, 0, 0, 0, 0, last)), bits }
}

/// Addresses of no single host, of the link, and of metadata services of clouds that are elsewhere.
const UNUSUAL: [Net; 12] = [
    v4(0, 0, 0, 0, 8),
    v4(169, 254, 0, 0, 16),
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
    v4(100, 100, 100, 200, 32), // Alibaba Cloud
    v4(168, 63, 129, 16, 32),   // Azure
    v4(192, 0, 0, 192, 32),     // Oracle Cloud
    v6(0, 0, 0, 128),
    v6(0xfe80, 0, 0, 10),
    v6(0xff00, 0, 0, 8),
    v6(0xfd00, 0x0ec2, 0x254, 128), // AWS
    v6(0xfd20, 0x00ce, 0x254, 128), // Google Cloud
];

impl Addresses {
    /// Reads a list of addresses and nets, such as `10.0.0.0/8`.
    ///
    /// # Errors
    ///
    /// The first that is none.
    pub(super) fn only(list: &[String]) -> Result<Self, String> {
        list.iter().map(|text| text.parse()).collect::<Result<_, _>>().map(Self::Only)
    }

    /// Whether that one may be connected to.
    pub(super) fn has(&self, address: IpAddr) -> bool {
        let address = embedded(address);
        match self {
            Self::Usual => !UNUSUAL.iter().any(|net| net.has(address)),
            Self::Only(nets) => nets.iter().any(|net| net.has(address)),
        }
    }
}

/// The address of IPv4 within one of IPv6, which leads to the same host: mapped (RFC 4291), or by NAT64 (RFC 6052).
fn embedded(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            let bits = (u32::from(high) << 16) | u32::from(low);
            IpAddr::V4(Ipv4Addr::from_bits(bits))
        }
        _ => address.to_canonical(),
    }
}

impl Net {
    fn has(self, address: IpAddr) -> bool {
        let is_same = |own: u128, other: u128, of: u32| {
            let rest = of.saturating_sub(u32::from(self.bits));
            own.checked_shr(rest).unwrap_or(0) == other.checked_shr(rest).unwrap_or(0)
        };
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => is_same(own.to_bits().into(), other.to_bits().into(), 32),
            (IpAddr::V6(own), IpAddr::V6(other)) => is_same(own.to_bits(), other.to_bits(), 128),
            _ => false,
        }
    }
}

impl FromStr for Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is neither an address nor a net such as 10.0.0.0/8");
        let (address, bits) =
            text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), |bits| bits.parse().map_err(|_| wrong()))?;
        if bits > most { Err(wrong()) } else { Ok(Self { address, bits }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(addresses: &Addresses, address: &str) -> bool {
        addresses.has(address.parse().unwrap())
    }

    #[test]
    fn metadata_services_and_the_link_are_no_endpoint_however_they_are_written() {
        for bad in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "fe80::1",
            "febf::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "100.100.100.200",
            "0.0.0.0",
            "::",
            "255.255.255.255",
            "ff02::1",
        ] {
            assert!(!has(&Addresses::Usual, bad), "{bad}");
        }
        for good in
            ["127.0.0.1", "::1", "10.1.2.3", "192.168.0.1", "100.100.100.201", "2001:db8::1", "fd00::1"]
        {
            assert!(has(&Addresses::Usual, good), "{good}");
        }
    }

    #[test]
    fn list_is_all_that_may_be_connected_to() {
        let list =
            |list: &[&str]| Addresses::only(&list.iter().map(|net| (*net).to_owned()).collect::<Vec<_>>());
        let only = list(&["10.0.0.0/8", "169.254.10.20", "2001:db8::/32"]).unwrap();
        for good in ["10.255.0.1", "::ffff:10.0.0.1", "169.254.10.20", "2001:db8:ffff::1"] {
            assert!(has(&only, good), "{good}");
        }
        for bad in ["11.0.0.1", "169.254.10.21", "127.0.0.1", "2001:db9::1"] {
            assert!(!has(&only, bad), "{bad}");
        }
        assert!(has(&list(&["0.0.0.0/0"]).unwrap(), "169.254.169.254"), "as it is configured");
        assert!(!has(&list(&[]).unwrap(), "10.0.0.1"));
        for bad in ["example.com", "10.0.0.0/33", "10.0.0.0/x", "::/129", ""] {
            assert!(list(&[bad]).unwrap_err().contains("neither"), "{bad}");
        }
    }
}
