//! Whom a function may speak with: protocol, prefix and port.

use super::SpecError;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Rules of one `allow` or `listen` list: they become entries of a BPF map that is made once for all functions.
pub const RULES_MAX: usize = 64;

/// Network grants of a process function; without any it has a loopback interface of its own and nothing else.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkSpec {
    /// Where it may connect and send to. At most [`RULES_MAX`].
    pub allow: Vec<Rule>,
    /// Which local addresses and ports it may bind. At most [`RULES_MAX`].
    pub listen: Vec<Rule>,
    /// Bytes per second that it may send, per sandbox; 0 for no limit.
    pub egress_bytes_per_s: u64,
    /// Bytes per second that it may receive, per sandbox; 0 for no limit.
    pub ingress_bytes_per_s: u64,
}

impl NetworkSpec {
    /// Whether it lives in the host's network stack, under the host's BPF programs. Else it has a stack of its own.
    pub fn is_granted(&self) -> bool {
        !self.allow.is_empty() || !self.listen.is_empty()
    }
}

/// Which transport a [`Rule`] is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Protocol {
    /// TCP and UDP.
    Any,
    /// TCP only.
    Tcp,
    /// UDP only.
    Udp,
}

/// Addresses that begin with the same bits. Bits behind the prefix are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Prefix {
    address: IpAddr,
    bits: u8,
}

impl Prefix {
    /// A prefix, if `bits` are not more than the address has and all bits behind them are zero. IPv4 addresses mapped
    /// into IPv6 are none: they are matched as IPv4.
    pub fn new(address: IpAddr, bits: u8) -> Option<Prefix> {
        let mapped = matches!(address, IpAddr::V6(v6) if bits >= 96 && v6.to_ipv4_mapped().is_some());
        (!mapped && masked(address, bits)? == address).then_some(Prefix { address, bits })
    }

    /// The first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many leading bits count: up to 32 or 128.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Whether it begins with the same bits; addresses of the other family never do.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && masked(address, self.bits) == Some(self.address)
    }
}

/// `address` with all bits behind the first `bits` zero; `None` if it has not so many.
fn masked(address: IpAddr, bits: u8) -> Option<IpAddr> {
    let bits = u32::from(bits);
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32_u32.checked_sub(bits)?).unwrap_or(0);
            Some(Ipv4Addr::from_bits(v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128_u32.checked_sub(bits)?).unwrap_or(0);
            Some(Ipv6Addr::from_bits(v6.to_bits() & mask).into())
        }
    }
}

/// One grant, written `[tcp:|udp:]ADDRESS[/BITS]:PORT`, an IPv6 address in brackets, the port a number or `*`:
/// `10.0.0.0/8:443`, `[2001:db8::]/32:*`, `udp:10.0.0.53:53`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Rule {
    /// Which transport.
    pub protocol: Protocol,
    /// Which addresses.
    pub prefix: Prefix,
    /// Which port; 0 for any.
    pub port: u16,
}

impl Rule {
    /// Whether it grants this.
    pub fn matches(&self, protocol: Protocol, address: IpAddr, port: u16) -> bool {
        (self.protocol == Protocol::Any || self.protocol == protocol)
            && self.prefix.contains(address)
            && (self.port == 0 || self.port == port)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.protocol {
            Protocol::Any => "",
            Protocol::Tcp => "tcp:",
            Protocol::Udp => "udp:",
        })?;
        match self.prefix.address {
            IpAddr::V4(v4) => write!(f, "{v4}/{}:", self.prefix.bits)?,
            IpAddr::V6(v6) => write!(f, "[{v6}]/{}:", self.prefix.bits)?,
        }
        match self.port {
            0 => f.write_str("*"),
            port => write!(f, "{port}"),
        }
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> String {
        rule.to_string()
    }
}

impl TryFrom<String> for Rule {
    type Error = SpecError;

    fn try_from(text: String) -> Result<Rule, SpecError> {
        text.parse()
    }
}

impl FromStr for Rule {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Rule, SpecError> {
        let shown: String = text.chars().take(64).collect();
        read(text).map_err(|why| SpecError {
            place: format!("\"{shown}\""),
            message: format!("{why}; write `[tcp:|udp:]ADDRESS[/BITS]:PORT`, like \"10.0.0.0/8:443\" or \"[2001:db8::]/32:*\""),
        })
    }
}

fn read(text: &str) -> Result<Rule, String> {
    let (protocol, rest) = match text.split_once(':') {
        Some(("tcp", rest)) => (Protocol::Tcp, rest),
        Some(("udp", rest)) => (Protocol::Udp, rest),
        Some((word, _)) if !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphabetic()) => {
            return Err("the protocol must be \"tcp\" or \"udp\", or left out for both".into());
        }
        _ => (Protocol::Any, text),
    };
    let (prefix, port) = rest.rsplit_once(':').ok_or("the port is missing")?;
    Ok(Rule { protocol, prefix: read_prefix(prefix)?, port: read_port(port)? })
}

fn read_port(text: &str) -> Result<u16, String> {
    match text {
        "*" => Ok(0),
        _ => digits(text)
            .filter(|port| *port != 0)
            .ok_or("the port must be between 1 and 65535, or `*`".into()),
    }
}

fn read_prefix(text: &str) -> Result<Prefix, String> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let inner = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
    let address: IpAddr = match inner {
        Some(inner) => inner.parse::<Ipv6Addr>().map_err(|_| "in brackets stands no IPv6 address")?.into(),
        None => address
            .parse::<Ipv4Addr>()
            .map_err(|_| "before the port stands no IPv4 address, and no IPv6 address in brackets; names are not resolved here")?
            .into(),
    };
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = match bits {
        None => most,
        Some(bits) => digits(bits)
            .filter(|bits| *bits <= most)
            .ok_or_else(|| format!("the prefix must have between 0 and {most} bits"))?,
    };
    Prefix::new(address, bits).ok_or_else(|| match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() && bits >= 96 => {
            "an IPv4 address mapped into IPv6 is matched as IPv4; write it as IPv4".into()
        }
        _ => {
            let first = masked(address, bits).expect("as many bits as the family has");
            format!("bits behind the first {bits} are set; the prefix's address is {first}")
        }
    })
}

/// A number of digits only: `u16::from_str` takes a sign too.
fn digits<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rules_are_read_as_written() {
        for (text, shown) in [
            ("10.0.0.0/8:443", "10.0.0.0/8:443"),
            ("tcp:10.0.0.1:443", "tcp:10.0.0.1/32:443"),
            ("udp:10.0.0.53/32:53", "udp:10.0.0.53/32:53"),
            ("[2001:db8::]/32:*", "[2001:db8::]/32:*"),
            ("udp:[::1]:65535", "udp:[::1]/128:65535"),
            ("0.0.0.0/0:*", "0.0.0.0/0:*"),
            ("[::]/0:1", "[::]/0:1"),
        ] {
            assert_eq!(text.parse::<Rule>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn a_wrong_rule_is_told_why() {
        for (text, expected) in [
            ("", "the port is missing"),
            ("10.0.0.1", "the port is missing"),
            ("10.0.0.1:0", "between 1 and 65535"),
            ("10.0.0.1:+80", "between 1 and 65535"),
            ("10.0.0.1:65536", "between 1 and 65535"),
            ("10.0.0.1/33:80", "between 0 and 32 bits"),
            ("10.0.0.1/8:80", "bits behind the first 8 are set; the prefix's address is 10.0.0.0"),
            ("[2001:db8::1]/32:80", "the prefix's address is 2001:db8::"),
            ("[::ffff:10.0.0.1]:80", "write it as IPv4"),
            ("[10.0.0.1]:80", "no IPv6 address"),
            ("2001:db8::1:80", "no IPv4 address"),
            ("example.org:443", "names are not resolved"),
            ("icmp:10.0.0.1:1", "must be \"tcp\" or \"udp\""),
            ("localhost:1", "must be \"tcp\" or \"udp\""),
        ] {
            let error = text.parse::<Rule>().expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_rule_matches_its_protocol_prefix_and_port_only() {
        let rule: Rule = "tcp:10.1.0.0/16:443".parse().unwrap();
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(rule.matches(Protocol::Tcp, at("10.1.255.255"), 443));
        for (protocol, address, port) in [
            (Protocol::Udp, "10.1.0.1", 443),
            (Protocol::Tcp, "10.2.0.0", 443),
            (Protocol::Tcp, "10.1.0.1", 444),
            (Protocol::Tcp, "::ffff:10.1.0.1", 443),
        ] {
            assert!(!rule.matches(protocol, at(address), port), "{protocol:?} {address} {port}");
        }
        let all: Rule = "[::]/0:*".parse().unwrap();
        assert!(
            all.matches(Protocol::Udp, at("2001:db8::1"), 1)
                && !all.matches(Protocol::Udp, at("10.0.0.1"), 1)
        );
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(v6 in any::<bool>(), address in any::<u128>(), bits in 0..=128_u8, port in any::<u16>(), protocol in 0..3_usize) {
            let (address, bits): (IpAddr, u8) = if v6 { (Ipv6Addr::from_bits(address).into(), bits) } else { (Ipv4Addr::from_bits(address as u32).into(), bits % 33) };
            let prefix = Prefix::new(masked(address, bits).unwrap(), bits);
            prop_assume!(prefix.is_some());
            let protocol = [Protocol::Any, Protocol::Tcp, Protocol::Udp][protocol];
            let rule = Rule { protocol, prefix: prefix.unwrap(), port };
            prop_assert_eq!(rule.to_string().parse(), Ok(rule));
            prop_assert!(rule.prefix.contains(address));
        }

        #[test]
        fn arbitrary_text_is_a_rule_or_an_error(text in "(tcp:|udp:)?[0-9a-f:.\\[\\]/*]{0,40}|\\PC{0,40}") {
            if let Ok(rule) = text.parse::<Rule>() {
                prop_assert_eq!(rule.to_string().parse(), Ok(rule));
            }
        }
    }
}
