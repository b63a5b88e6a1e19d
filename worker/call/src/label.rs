//! Labels of data flow, after Bell and LaPadula: data flows from a lower zone to a higher one and never back.
//!
//! The arguments of a call bear the label that their submitter says; a function has the label of its manifest. A call
//! may run in a function whose zone is at least as high and whose compartments hold all of the call's. Scheduler and
//! worker both ask [`Label::flows_to`], so that a fault in one of them gives nothing away.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The highest zone. 0 is the lowest: what anybody may read.
pub const ZONE_MAX: u8 = 7;
/// Compartments are numbered from 1 to this; what they stand for is for the operator to say.
pub const COMPARTMENT_MAX: u8 = 5;

/// A zone and a set of compartments in one byte of a frame: three bits of zone above five of compartments.
///
/// Zero is the lowest label: it flows everywhere.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Label(pub u8);

impl Label {
    /// What flows everywhere.
    pub const LOWEST: Label = Label(0);
    /// What reads everything.
    pub const HIGHEST: Label = Label(u8::MAX);

    /// Of a zone and a set of compartments. `None` if a number is out of range.
    pub fn new(zone: u8, compartments: &[u8]) -> Option<Label> {
        let bit = |number: &u8| (1..=COMPARTMENT_MAX).contains(number).then(|| 1u8 << (number - 1));
        let bits = compartments.iter().map(bit).try_fold(0, |all, bit| Some(all | bit?))?;
        (zone <= ZONE_MAX).then_some(Label(zone << COMPARTMENT_MAX | bits))
    }

    /// 0 to [`ZONE_MAX`].
    pub fn zone(self) -> u8 {
        self.0 >> COMPARTMENT_MAX
    }

    /// Numbers of its compartments, in order.
    pub fn compartments(self) -> impl Iterator<Item = u8> {
        (1..=COMPARTMENT_MAX).filter(move |number| self.0 >> (number - 1) & 1 != 0)
    }

    /// Whether data of this label may be read where `reader` is the label.
    pub const fn flows_to(self, reader: Label) -> bool {
        const COMPARTMENTS: u8 = (1 << COMPARTMENT_MAX) - 1;
        let is_held = self.0 & COMPARTMENTS & !reader.0 == 0;
        self.0 >> COMPARTMENT_MAX <= reader.0 >> COMPARTMENT_MAX && is_held
    }
}

/// `zone 3`, or `zone 3 (1, 4)` with compartments.
impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "zone {}", self.zone())?;
        let numbers: Vec<String> = self.compartments().map(|number| number.to_string()).collect();
        if numbers.is_empty() { Ok(()) } else { write!(f, " ({})", numbers.join(", ")) }
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_keeps_its_parts() {
        let label = Label::new(6, &[5, 1]).unwrap();
        assert_eq!((label.zone(), label.compartments().collect::<Vec<_>>()), (6, vec![1, 5]));
        assert_eq!((label.to_string(), Label::LOWEST.to_string()), ("zone 6 (1, 5)".into(), "zone 0".into()));
        assert_eq!((Label::new(8, &[]), Label::new(0, &[0]), Label::new(0, &[6])), (None, None, None));
    }

    /// All 2^24 triples would take seconds; pairs with each third are enough for transitivity of both parts, since
    /// each part is an order of its own.
    #[test]
    fn flowing_is_an_order() {
        for a in (0..=u8::MAX).map(Label) {
            assert!(a.flows_to(a) && Label::LOWEST.flows_to(a) && a.flows_to(Label::HIGHEST));
            for b in (0..=u8::MAX).map(Label) {
                assert!(a == b || !(a.flows_to(b) && b.flows_to(a)), "{a} and {b} flow both ways");
                let c = Label(a.0 ^ b.0.rotate_left(3));
                assert!(!(a.flows_to(b) && b.flows_to(c)) || a.flows_to(c), "{a}, {b}, {c}");
            }
        }
    }

    #[test]
    fn data_flows_upwards_and_only_into_its_compartments() {
        let label = |zone, of: &[u8]| Label::new(zone, of).unwrap();
        assert!(label(1, &[2]).flows_to(label(2, &[2, 3])));
        assert!(!label(3, &[]).flows_to(label(2, &[1, 2, 3, 4, 5])), "never down");
        assert!(!label(1, &[2]).flows_to(label(7, &[3])), "not into another compartment");
    }
}
