//! Networks that clients come from: `10.1.0.0/16`, `::1/128`.

use std::fmt;
use std::net::IpAddr;
use std::num::ParseIntError;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A network, or one address. One within `::ffff:0:0/96` is the IPv4 network that it maps; any other IPv6 one has no IPv4
/// client in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// What is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Before the slash there is no IP address.
    #[error("`{0}` is not an IP address")]
    Address(String),
    /// Behind the slash there is no length.
    #[error("`{0}` is not the length of a prefix")]
    Prefix(String),
    /// It is longer than an address.
    #[error("a prefix of {prefix} bits is longer than {address}, which has {longest}")]
    TooLong {
        /// The address.
        address: IpAddr,
        /// What was given.
        prefix: u8,
        /// The length of the address, bits.
        longest: u8,
    },
    /// The address has bits beyond the prefix.
    #[error("the address {address} has bits beyond its prefix of {}", .network.prefix)]
    HostBits {
        /// What was given.
        address: IpAddr,
        /// The network that it lies in.
        network: Network,
    },
}

impl NetworkError {
    /// What would mend it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Address(_) | Self::Prefix(_) => "write a network as `10.1.0.0/16` or `2001:db8::/32`".to_owned(),
            Self::TooLong { address, longest, .. } => format!("one address is `{address}/{longest}`"),
            Self::HostBits { address, network } => {
                format!("the network is `{network}`, the one address `{address}/{}`", bits(*address))
            }
        }
    }
}

impl Network {
    /// A network by its first address and the length of its prefix in bits.
    ///
    /// # Errors
    /// `TooLong` and `HostBits`.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self, NetworkError> {
        let longest = bits(address);
        if prefix > longest {
            return Err(NetworkError::TooLong { address, prefix, longest });
        }
        let first = first(address, prefix);
        let canonical = match first.to_canonical() {
            IpAddr::V4(v4) if longest == 128 && prefix >= 96 => Self { address: v4.into(), prefix: prefix - 96 },
            _ => Self { address: first, prefix },
        };
        if first == address { Ok(canonical) } else { Err(NetworkError::HostBits { address, network: canonical }) }
    }

    /// Its first address.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// The length of its prefix, bits.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether the address lies in it. An IPv4-mapped one counts as IPv4.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        bits(address) == bits(self.address) && first(address, self.prefix) == self.address
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn first(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & !u32::MAX.checked_shr(prefix.into()).unwrap_or(0)).into()),
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::MAX.checked_shr(prefix.into()).unwrap_or(0)).into()),
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError::Address(address.to_owned()))?;
        let prefix = match prefix {
            Some(text) => text.parse().map_err(|_: ParseIntError| NetworkError::Prefix(text.to_owned()))?,
            None => bits(address),
        };
        Self::new(address, prefix)
    }
}

impl TryFrom<String> for Network {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_read_as_they_are_written() {
        for (text, shown) in [
            ("10.1.0.0/16", "10.1.0.0/16"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("::1/128", "::1/128"),
            ("2001:db8::/33", "2001:db8::/33"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
        ] {
            let network: Network = text.parse().unwrap();
            assert_eq!(network.to_string(), shown);
            assert_eq!(shown.parse(), Ok(network));
        }
    }

    #[test]
    fn what_is_no_network_is_said() {
        let said = |text: &str| {
            let error = text.parse::<Network>().unwrap_err();
            format!("{error}; {}", error.hint())
        };
        assert_eq!(said("ten/8"), "`ten` is not an IP address; write a network as `10.1.0.0/16` or `2001:db8::/32`");
        assert_eq!(
            said("10.0.0.0/x"),
            "`x` is not the length of a prefix; write a network as `10.1.0.0/16` or `2001:db8::/32`"
        );
        assert_eq!(
            said("10.0.0.0/33"),
            "a prefix of 33 bits is longer than 10.0.0.0, which has 32; one address is `10.0.0.0/32`"
        );
        assert_eq!(
            said("10.1.2.3/16"),
            "the address 10.1.2.3 has bits beyond its prefix of 16; the network is `10.1.0.0/16`, the one address \
             `10.1.2.3/32`"
        );
    }

    #[test]
    fn addresses_are_in_them_or_not() {
        let network: Network = "10.1.0.0/16".parse().unwrap();
        let inside = ["10.1.0.0", "10.1.255.255", "::ffff:10.1.2.3", "10.2.0.0", "::a01:203", "9.255.0.1"]
            .map(|address| network.contains(address.parse().unwrap()));
        assert_eq!(inside, [true, true, true, false, false, false]);
        assert!("::/0".parse::<Network>().unwrap().contains("2001:db8::1".parse().unwrap()));
        assert!(!"::/0".parse::<Network>().unwrap().contains("10.0.0.1".parse().unwrap()));
    }
}
