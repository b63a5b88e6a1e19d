//! What is summed, as plain numbers.

use super::STATUSES;
use serde::{Deserialize, Serialize};

/// Sums of one function under one tenant, over some time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Sums {
    /// CPU time, ns.
    pub cpu_ns: u64,
    /// Time between the first instruction and the last, ns.
    pub run_ns: u64,
    /// Time in which sandboxes were initialised for calls, ns.
    pub init_ns: u64,
    /// Executions for which an instance or sandbox was made.
    pub cold_starts: u64,
    /// Bytes received from the network.
    pub bytes_in: u64,
    /// Bytes sent to the network.
    pub bytes_out: u64,
    /// Attempts to reach or to serve what no grant covers.
    pub denied: u64,
    /// Peak memory times run time, whole byte-seconds.
    pub memory_byte_s: u64,
    /// The rest of it, byte-nanoseconds, below 10^9.
    pub memory_rest_byte_ns: u64,
    /// Executions by the number of their status.
    #[serde(with = "counts")]
    pub executions: [u64; STATUSES],
    /// Calls that ended for good, by the number of their status.
    #[serde(with = "counts")]
    pub calls: [u64; STATUSES],
}

const NANOS: u128 = 1_000_000_000;

/// Byte-nanoseconds as whole byte-seconds and the rest.
pub fn seconds(byte_ns: u128) -> (u64, u64) {
    // The division of 64 bits by a constant is a multiplication; almost every call fits.
    match u64::try_from(byte_ns) {
        Ok(small) => (small / NANOS as u64, small % NANOS as u64),
        Err(_) => (u64::try_from(byte_ns / NANOS).unwrap_or(u64::MAX), (byte_ns % NANOS) as u64),
    }
}

impl Sums {
    /// Whether nothing was used.
    pub fn is_zero(&self) -> bool {
        *self == Sums::default()
    }

    /// Adds another time's or another function's.
    pub fn add(&mut self, other: &Sums) {
        self.combine(other, u64::saturating_add, u128::saturating_add);
    }

    /// What came since `earlier`, when these were smaller.
    #[must_use]
    pub fn since(mut self, earlier: &Sums) -> Sums {
        self.combine(earlier, u64::saturating_sub, u128::saturating_sub);
        self
    }

    fn combine(&mut self, other: &Sums, by: fn(u64, u64) -> u64, wide: fn(u128, u128) -> u128) {
        let memory = wide(self.memory_byte_ns(), other.memory_byte_ns());
        let scalars = [
            (&mut self.cpu_ns, other.cpu_ns),
            (&mut self.run_ns, other.run_ns),
            (&mut self.init_ns, other.init_ns),
            (&mut self.cold_starts, other.cold_starts),
            (&mut self.bytes_in, other.bytes_in),
            (&mut self.bytes_out, other.bytes_out),
            (&mut self.denied, other.denied),
        ];
        let executions = self.executions.iter_mut().zip(other.executions);
        let calls = self.calls.iter_mut().zip(other.calls);
        for (mine, theirs) in scalars.into_iter().chain(executions).chain(calls) {
            *mine = by(*mine, theirs);
        }
        (self.memory_byte_s, self.memory_rest_byte_ns) = seconds(memory);
    }

    fn memory_byte_ns(&self) -> u128 {
        u128::from(self.memory_byte_s) * NANOS + u128::from(self.memory_rest_byte_ns)
    }
}

/// Counts by status on disk: a list without the zeros at its end, so that statuses may be added. Their numbers stay.
mod counts {
    use super::STATUSES;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(counts: &[u64; STATUSES], to: S) -> Result<S::Ok, S::Error> {
        let used = counts.iter().rposition(|n| *n > 0).map_or(0, |last| last + 1);
        counts[..used].serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u64; STATUSES], D::Error> {
        let list = Vec::<u64>::deserialize(from)?;
        if list.len() > STATUSES {
            return Err(serde::de::Error::custom("a status of a later version"));
        }
        Ok(std::array::from_fn(|n| list.get(n).copied().unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_added_and_taken_apart_again() {
        let mut counts = [0; STATUSES];
        counts[2] = 5;
        let one = Sums {
            cpu_ns: 7,
            memory_byte_s: 3,
            memory_rest_byte_ns: 999_999_999,
            executions: counts,
            calls: counts,
            ..Sums::default()
        };
        let mut both = one;
        both.add(&one);
        assert_eq!((both.memory_byte_s, both.memory_rest_byte_ns), (7, 999_999_998));
        assert_eq!(both.since(&one), one);
        assert!(one.since(&both).is_zero(), "never below nothing");
    }

    #[test]
    fn on_disk_statuses_may_be_added_but_not_lost() {
        let mut sums = Sums { cpu_ns: 1, ..Sums::default() };
        sums.executions[1] = 4;
        let text = serde_json::to_string(&sums).unwrap();
        assert!(text.contains(r#""executions":[0,4],"calls":[]"#), "{text}");
        assert_eq!(serde_json::from_str::<Sums>(&text).unwrap(), sums);
        let later = text.replace("[0,4]", &format!("{:?}", vec![1; STATUSES + 1]));
        assert!(serde_json::from_str::<Sums>(&later).is_err());
    }

    #[test]
    fn the_longest_call_with_the_most_memory_fits() {
        let most = u128::from(u64::MAX) * u128::from(u64::MAX);
        assert_eq!(seconds(most).0, u64::MAX);
        assert_eq!(seconds((4u128 << 30) * 86_400 * NANOS), ((4u64 << 30) * 86_400, 0));
    }
}
