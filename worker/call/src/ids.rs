//! Names of things: calls, functions, leases.

use std::fmt;
use std::str::FromStr;

/// A call, for ever: 48 bits of Unix milliseconds, then 80 random bits, so that ids sort by birth.
///
/// The *client* makes it, before the first byte is sent. A client that did not hear an acknowledgement sends the
/// same bytes again and the queue recognises the id; nothing needs to be re-encoded to carry a server's number.
/// Printed as 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CallId(pub u128);

impl CallId {
    /// From a birth time and 80 bits of entropy (the higher 48 bits of `random` are ignored).
    pub fn new(unix_ms: u64, random: u128) -> CallId {
        CallId((u128::from(unix_ms) << 80) | (random & ((1 << 80) - 1)))
    }

    /// The id of the call that an idempotency key stands for: of one function and one text always the same, so that a
    /// second submit is the first one's duplicate, on whatever connection and node of the queue it comes. Its birth time
    /// is zero.
    pub fn of_key(function: FunctionId, key: &str) -> CallId {
        let scope = function.to_string();
        // Two hashes of the same text, under two names.
        let (FunctionId(low), FunctionId(high)) = (FunctionId::of(&scope, key), FunctionId::of(key, &scope));
        CallId::new(0, u128::from(high) << 64 | u128::from(low))
    }

    /// Milliseconds since the Unix epoch at which the client made the id.
    pub fn born_unix_ms(self) -> u64 {
        (self.0 >> 80) as u64
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdError(pub String);

impl fmt::Display for IdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not a call id: expected 32 hexadecimal digits", self.0)
    }
}

impl std::error::Error for IdError {}

impl FromStr for CallId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<CallId, IdError> {
        let plain = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let refuse = || IdError(text.chars().take(64).collect());
        if !plain {
            return Err(refuse());
        }
        u128::from_str_radix(text, 16).map(CallId).map_err(|_| refuse())
    }
}

/// What calls of one function have in common that must not be overtaxed: a user, an account, a file. 32 bits of a
/// stable hash of the text that the submitter gives; zero is no key.
///
/// Two texts of one number share what a key may have at once, so a limit is never exceeded for it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CallKey(pub u32);

impl CallKey {
    /// No key: the call is in nobody's way.
    pub const NONE: CallKey = CallKey(0);

    /// Of a text; none of an empty one.
    pub fn of(text: &str) -> CallKey {
        if text.is_empty() {
            return CallKey::NONE;
        }
        let FunctionId(hash) = FunctionId::of("", text);
        CallKey(((hash >> 32) as u32 ^ hash as u32).max(1))
    }

    /// Whether there is none.
    pub fn is_none(self) -> bool {
        self == CallKey::NONE
    }
}

impl fmt::Display for CallKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for CallKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A function: the first 64 bits of a stable hash of `namespace/name`.
///
/// The id stands in the fixed frame header so that a frame can be routed without reading its body. Two names with
/// one id cannot both be deployed: the catalog refuses the second.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FunctionId(pub u64);

impl FunctionId {
    /// The id of `namespace/name`: FNV-1a of the bytes, then a finaliser (murmur3's) so that all bits mix.
    pub fn of(namespace: &str, name: &str) -> FunctionId {
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        let bytes = namespace.bytes().chain(std::iter::once(b'/')).chain(name.bytes());
        for byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        FunctionId(hash ^ (hash >> 33))
    }
}

impl fmt::Display for FunctionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for FunctionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One lease of one call. An outcome that carries another epoch than the call's live lease changes nothing.
///
/// The higher 32 bits are the queue's incarnation (one more at each start, on disk before the first lease), the
/// lower 32 count leases, so that no epoch is ever given twice, not even after a crash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The `count`-th lease of `incarnation`.
    pub fn new(incarnation: u32, count: u32) -> Epoch {
        Epoch((u64::from(incarnation) << 32) | u64::from(count))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_id_prints_and_parses_back() {
        let id = CallId::new(1_700_000_000_123, 0xdead_beef);
        assert_eq!(id.to_string().parse::<CallId>().unwrap(), id);
        assert_eq!(id.born_unix_ms(), 1_700_000_000_123);
    }

    #[test]
    fn an_idempotency_key_is_always_the_same_call_of_its_function() {
        let (f, g) = (FunctionId::of("default", "f"), FunctionId::of("default", "g"));
        let id = CallId::of_key(f, "order-7");
        assert_eq!(id, CallId::of_key(f, "order-7"));
        assert!(id != CallId::of_key(g, "order-7") && id != CallId::of_key(f, "order-8"));
        assert_eq!(id.born_unix_ms(), 0);
    }

    #[test]
    fn a_wrong_call_id_is_named() {
        for wrong in ["", "12", "zz345678901234567890123456789012", "+0000000000000000000000000000001"] {
            let error = wrong.parse::<CallId>().unwrap_err();
            assert!(error.to_string().contains("32 hexadecimal digits"), "{error}");
        }
    }

    #[test]
    fn keys_do_not_change_and_only_an_empty_text_has_none() {
        assert!(CallKey::of("").is_none() && !CallKey::of("user-7").is_none());
        assert_eq!(CallKey::of("user-7").to_string(), "05213a07");
    }

    #[test]
    fn function_ids_do_not_change() {
        // Ids stand in logs on disk: a change of this hash would orphan every pending call.
        assert_eq!(FunctionId::of("default", "echo").to_string(), "964f331856303c6e");
        assert_ne!(FunctionId::of("a", "b/c"), FunctionId::of("a/b", "d"));
    }
}
