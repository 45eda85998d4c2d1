//! Keys that nobody can find: those that lie on a node in slots which another one serves.
//!
//! Owns the counting on one node, and the doubt about it: what was found is counted again some
//! seconds later, because a slot may just have been on the move. Never touches a key.
//!
//! What surprises: the slots that a node does *not* serve are the ones counted. That is most of
//! them, but each count takes a microsecond there, they come in small portions, and no arithmetic
//! with a DBSIZE that changes meanwhile is needed.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use redis_protocol::resp2::types::BytesFrame;
use tokio::time::{sleep, timeout};

use super::ask;
use super::contact::Contact;
use super::view::Way;
use crate::route::slot::SLOTS;
use crate::topology::slots::MemberRole;

/// Keys of a slot, and how many.
pub type Found = (u16, u64);

/// Counts on the node of `contact`. `None` if it is no primary, or did not answer.
pub async fn take(contact: Rc<Contact>) -> Option<Vec<Found>> {
    let found = count(&contact, &foreign(&contact).await?).await?;
    if found.is_empty() {
        return Some(found);
    }
    sleep(DOUBT).await;
    let again = foreign(&contact).await?;
    let slots: Vec<u16> = found.iter().map(|(slot, _)| *slot).collect();
    let slots: Vec<u16> = slots.into_iter().filter(|slot| again.contains(slot)).collect();
    count(&contact, &slots).await
}

/// The slots that the node neither serves nor receives, by its own account.
async fn foreign(contact: &Contact) -> Option<Vec<u16>> {
    let replies = timeout(ANSWER_WITHIN, patiently(contact, &[ask::NODES])).await.ok()??;
    let view = ask::view_in(replies.first()?, &contact.node.settings.endpoint)?;
    let myself = view.myself().filter(|myself| myself.role == MemberRole::Primary)?;
    let served = myself.ranges.iter().flat_map(|&(first, last)| first..=last);
    let coming = view.open.iter().filter(|open| open.way == Way::In).map(|open| open.slot);
    let own: BTreeSet<u16> = served.chain(coming).collect();
    Some((0..SLOTS).filter(|slot| !own.contains(slot)).collect())
}

/// The slots of `slots` that have keys there.
async fn count(contact: &Contact, slots: &[u16]) -> Option<Vec<Found>> {
    let mut found = Vec::new();
    for portion in slots.chunks(PORTION) {
        let counts = keys_in(contact, portion).await?;
        found.extend(portion.iter().copied().zip(counts).filter(|(_, keys)| *keys > 0));
        // Its clients come first.
        sleep(PAUSE).await;
    }
    Some(found)
}

/// COUNTKEYSINSLOT of each slot, in their order. `None` if one of them is refused.
pub async fn keys_in(contact: &Contact, slots: &[u16]) -> Option<Vec<u64>> {
    let numbers: Vec<String> = slots.iter().map(u16::to_string).collect();
    let commands: Vec<[&[u8]; 3]> =
        numbers.iter().map(|slot| [&b"CLUSTER"[..], b"COUNTKEYSINSLOT", slot.as_bytes()]).collect();
    let commands: Vec<&[&[u8]]> = commands.iter().map(|words| &words[..]).collect();
    let replies = timeout(ANSWER_WITHIN, patiently(contact, &commands)).await.ok()??;
    let number = |frame| match frame {
        BytesFrame::Integer(number) => u64::try_from(number).ok(),
        _ => None,
    };
    replies.iter().map(|reply| ask::decode(reply).and_then(number)).collect()
}

/// Asks, and asks again where somebody else is being answered: no other node could say it, and a count that
/// is given up begins anew with the first slot.
async fn patiently(contact: &Contact, commands: &[&[&[u8]]]) -> Option<Vec<Bytes>> {
    while contact.is_up() {
        match contact.ask(commands) {
            Some(replies) => return replies.await.ok(),
            None => sleep(PAUSE).await,
        }
    }
    None
}

/// Slots that are counted at once.
const PORTION: usize = 512;
/// Between two portions.
const PAUSE: Duration = Duration::from_millis(20);
/// How long one answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// When what was found is counted again.
const DOUBT: Duration = Duration::from_secs(3);
