//! Whom to follow: what several Sentinels have said, weighed.
//!
//! Owns the rule by which an address becomes the candidate for the primary, and nothing else: no
//! socket, no clock. The follower brings what was heard, asks the candidate for its ROLE, and
//! publishes it only then (INV-10).
//!
//! What surprises: being right is not enough. A Sentinel that is alone with its word is not
//! believed, even where it names the better epoch, unless we heard it announce the switch from the
//! very primary that is in use: a Sentinel of another group, or one that was restored from an old
//! file, must not make us dial a stranger. And a majority is not enough either where it has
//! forgotten: see [`Verdict::Forgotten`].

use std::collections::BTreeMap;

use crate::config::Endpoint;

/// An address, and since which failover it is the master's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Where the master is.
    pub address: Endpoint,
    /// The config epoch.
    pub epoch: u64,
}

/// What is known of the primary in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Where it is, and the highest epoch under which Sentinels have named it.
    pub claim: Claim,
    /// It is certain, or as good as certain, that it is the master no longer: it says so itself, or
    /// has been silent for long.
    pub is_gone: bool,
}

/// What one Sentinel says. One that is reachable and knows no such master has no claim.
pub type Word = Option<Claim>;

/// A switch that was announced: whom to leave, and whom to turn to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Whom clients are to leave.
    pub from: Endpoint,
    /// Whom they are to turn to.
    pub to: Endpoint,
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The primary in use is the right one. The epoch is what the majority says; it may be a lower
    /// one than before, if the Sentinels were set up anew and name the same primary.
    Stay {
        /// The epoch to remember from here on.
        epoch: u64,
    },
    /// This one is to be asked for its ROLE, and used if it says `master`.
    Try {
        /// Whom.
        claim: Claim,
        /// It belongs to another generation: the Sentinels do not remember the primary in use, which
        /// is gone.
        is_new_generation: bool,
    },
    /// A majority names another primary than the verified one, under an epoch that is not higher,
    /// while the verified one has not been found gone. It is what Sentinels say that were started
    /// again from their first file: the verified one stays.
    Forgotten {
        /// Whom they name.
        named: Claim,
    },
    /// No majority of the reachable Sentinels names the same address.
    Divided,
    /// No Sentinel has said anything.
    Silent,
}

/// Weighs one word of each reachable Sentinel.
#[must_use]
pub fn decide(
    words: &[Word],
    remembered: Option<&Remembered>,
    announced: Option<&Announcement>,
) -> Verdict {
    if words.is_empty() {
        return Verdict::Silent;
    }
    let top = majority(words);
    let Some(remembered) = remembered else {
        // Nothing can be forgotten: whoever the majority names is asked.
        return match top {
            Some(claim) => Verdict::Try { claim, is_new_generation: false },
            None => Verdict::Divided,
        };
    };
    let mine = &remembered.claim;
    if let Some(claim) = freshly_switched(words, mine, announced) {
        return Verdict::Try { claim, is_new_generation: false };
    }
    match top {
        None => Verdict::Divided,
        Some(top) if top.address == mine.address => Verdict::Stay { epoch: top.epoch },
        Some(top) if top.epoch > mine.epoch => {
            Verdict::Try { claim: top, is_new_generation: false }
        }
        Some(top) if remembered.is_gone => Verdict::Try { claim: top, is_new_generation: true },
        Some(named) => Verdict::Forgotten { named },
    }
}

/// The address that more than half of the reachable Sentinels name, with the highest epoch under
/// which they do.
#[must_use]
pub fn majority(words: &[Word]) -> Option<Claim> {
    let mut votes: BTreeMap<String, (usize, &Claim)> = BTreeMap::new();
    for claim in words.iter().flatten() {
        let (count, highest) = votes.entry(claim.address.to_string()).or_insert((0, claim));
        *count += 1;
        if claim.epoch > highest.epoch {
            *highest = claim;
        }
    }
    let mut votes = votes.into_values();
    votes.find(|(count, _)| *count * 2 > words.len()).map(|(_, claim)| claim.clone())
}

/// The one that was announced, if it was announced as the successor of the primary in use and some
/// Sentinel now names it under an epoch that nobody else reaches. A failover becomes known to one
/// Sentinel first; waiting for the others would cost up to two seconds.
fn freshly_switched(
    words: &[Word],
    mine: &Claim,
    announced: Option<&Announcement>,
) -> Option<Claim> {
    let announced = announced.filter(|it| it.from == mine.address && it.to != mine.address)?;
    let of = |is_it: bool| {
        let claims = words.iter().flatten().filter(move |it| (it.address == announced.to) == is_it);
        claims.map(|it| it.epoch).max()
    };
    let epoch = of(true)?;
    let others = of(false).unwrap_or_default().max(mine.epoch);
    (epoch > others).then(|| Claim { address: announced.to.clone(), epoch })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str) -> Endpoint {
        Endpoint::Tcp { host: host.into(), port: 7 }
    }

    fn says(host: &str, epoch: u64) -> Word {
        Some(Claim { address: at(host), epoch })
    }

    fn using(host: &str, epoch: u64) -> Remembered {
        Remembered { claim: Claim { address: at(host), epoch }, is_gone: false }
    }

    fn tries(host: &str, epoch: u64, is_new_generation: bool) -> Verdict {
        Verdict::Try { claim: Claim { address: at(host), epoch }, is_new_generation }
    }

    #[test]
    fn at_first_the_majority_of_the_reachable_is_asked() {
        assert_eq!(decide(&[], None, None), Verdict::Silent);
        assert_eq!(decide(&[says("a", 0)], None, None), tries("a", 0, false));
        let two = [says("a", 3), says("b", 9), says("a", 2)];
        assert_eq!(decide(&two, None, None), tries("a", 3, false));
        assert_eq!(decide(&[says("a", 1), says("b", 2)], None, None), Verdict::Divided);
        // One that knows no such master is reachable all the same.
        assert_eq!(decide(&[says("a", 1), None], None, None), Verdict::Divided);
        assert_eq!(decide(&[None, None], None, None), Verdict::Divided);
    }

    #[test]
    fn a_higher_epoch_of_the_majority_wins() {
        let mine = using("a", 3);
        let words = [says("a", 3), says("b", 4), says("b", 4)];
        assert_eq!(decide(&words, Some(&mine), None), tries("b", 4, false));
        let words = [says("a", 3), says("a", 5), says("b", 4)];
        assert_eq!(decide(&words, Some(&mine), None), Verdict::Stay { epoch: 5 });
    }

    #[test]
    fn one_against_the_majority_is_not_dialled_whatever_its_epoch() {
        let mine = using("a", 3);
        let words = [says("a", 3), says("a", 3), says("x", 99)];
        assert_eq!(decide(&words, Some(&mine), None), Verdict::Stay { epoch: 3 });
        // Nor if it announces something else, or a switch from somebody else.
        for (from, to) in [("a", "y"), ("z", "x"), ("a", "a")] {
            let announced = Announcement { from: at(from), to: at(to) };
            let verdict = decide(&words, Some(&mine), Some(&announced));
            assert_eq!(verdict, Verdict::Stay { epoch: 3 }, "{from} {to}");
        }
    }

    #[test]
    fn the_first_to_announce_the_switch_is_believed_if_its_epoch_is_the_highest() {
        let mine = using("a", 3);
        let announced = Announcement { from: at("a"), to: at("b") };
        let words = [says("a", 3), says("a", 3), says("b", 4)];
        assert_eq!(decide(&words, Some(&mine), Some(&announced)), tries("b", 4, false));
        // Not confirmed by a poll yet, or under an epoch that another one reaches.
        for words in [
            vec![says("a", 3), says("a", 3), says("a", 3)],
            vec![says("a", 4), says("a", 3), says("b", 4)],
        ] {
            let verdict = decide(&words, Some(&mine), Some(&announced));
            assert!(matches!(verdict, Verdict::Stay { .. }), "{words:?}");
        }
    }

    #[test]
    fn sentinels_that_have_forgotten_do_not_move_us_while_the_primary_lives() {
        let mut mine = using("b", 4);
        let words = [says("a", 0), says("a", 0), says("a", 0)];
        let named = Claim { address: at("a"), epoch: 0 };
        assert_eq!(decide(&words, Some(&mine), None), Verdict::Forgotten { named });
        // Nor under the same epoch: then somebody has pointed them elsewhere.
        let words = [says("a", 4), says("a", 4), says("b", 4)];
        assert!(matches!(decide(&words, Some(&mine), None), Verdict::Forgotten { .. }));
        mine.is_gone = true;
        assert_eq!(decide(&words, Some(&mine), None), tries("a", 4, true));
        // A minority of them never does.
        let words = [says("a", 0), says("b", 4), None];
        assert_eq!(decide(&words, Some(&mine), None), Verdict::Divided);
    }

    #[test]
    fn a_lower_epoch_for_the_same_primary_is_taken() {
        // Sentinels that were set up anew begin at 0; the next failover will be 1.
        let words = [says("a", 0), says("a", 0)];
        assert_eq!(decide(&words, Some(&using("a", 7)), None), Verdict::Stay { epoch: 0 });
    }
}
