//! What two primaries claim at once, so that whatever is written to one of them will be lost.
//!
//! Owns [`Claims`], which a follower publishes while it lasts and the operator wants writes refused,
//! and the question whether a command may write there. Never finds out who is right: that needs
//! somebody who knows what was written where.
//!
//! What surprises: a command that may write and names no key (FLUSHALL, a script without keys) may
//! write anywhere, so any claim stands in its way.

use std::collections::BTreeMap;

use crate::refusal::Refusal;
use crate::refusal::guarded::Guarded;

/// What is claimed twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claims {
    /// Slots of a cluster, each with the names of two that say that they serve it. Never empty.
    Slots(BTreeMap<u16, [String; 2]>),
    /// All that a Sentinel group has.
    Group {
        /// What the Sentinels call it.
        master_name: String,
        /// The verified primary, and another that says that it is one.
        claimants: [String; 2],
    },
}

// === impl Claims ===

impl Claims {
    /// Those of these slots; `None` if there are none.
    #[must_use]
    pub fn of_slots(slots: BTreeMap<u16, [String; 2]>) -> Option<Self> {
        (!slots.is_empty()).then_some(Self::Slots(slots))
    }

    /// What stands in the way of a write to keys in `slots`; of one that names no keys if there are
    /// none.
    #[must_use]
    pub fn bar(&self, slots: &[u16]) -> Option<Refusal> {
        let guarded = match self {
            Self::Slots(claimed) => {
                let of_any = || claimed.first_key_value();
                let of_these = slots.iter().find_map(|slot| claimed.get_key_value(slot));
                let found = if slots.is_empty() { of_any() } else { of_these };
                let (&slot, claimants) = found?;
                Guarded::SlotClaimed { slot, claimants: claimants.clone() }
            }
            Self::Group { master_name, claimants } => Guarded::GroupClaimed {
                master_name: master_name.clone(),
                claimants: claimants.clone(),
            },
        };
        Some(Refusal::Guarded(Box::new(guarded)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_write_to_a_claimed_slot_is_in_its_way() {
        let claimants = ["a:1".to_owned(), "b:2".to_owned()];
        let claims = Claims::of_slots(BTreeMap::from([(7, claimants)])).unwrap();
        assert_eq!(claims.bar(&[6, 8]), None);
        let text = claims.bar(&[6, 7]).unwrap().text();
        assert!(text.starts_with("ERR breakwater: not executed: slot 7 is claimed by 2 masters"));
        assert_eq!(claims.bar(&[]), claims.bar(&[7]));
        assert_eq!(Claims::of_slots(BTreeMap::new()), None);
    }
}
