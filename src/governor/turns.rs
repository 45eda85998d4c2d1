//! Sessions whose scripts wait for their turn at a node.
//!
//! Owns the queues of one worker, a node each, in the order in which the scripts came. Never sends and
//! never refuses (`dispatch::turns` does).
//!
//! What surprises: nobody has to say that it leaves. A session that waits looks again twice a second
//! at least; one that is gone, or has not looked for a while because its command was answered
//! otherwise, has lost its place.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::clock::{MILLISECOND, Micros, SECOND};
use crate::session::replies::Sequence;
use crate::session::state::SessionId;
use crate::upstream::dial::Node;

/// Who waits for which node.
#[derive(Debug, Default)]
pub struct Turns(Vec<Queue>);

/// Those who wait for one node.
#[derive(Debug)]
struct Queue {
    node: Arc<Node>,
    /// In the order in which they came.
    waiting: VecDeque<Waiting>,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    session: SessionId,
    /// The reply slot that its script would get: another one is another script.
    slot: Sequence,
    /// When it came.
    since: Micros,
    /// When it looked last.
    looked_at: Micros,
}

// === impl Turns ===

impl Turns {
    /// Whether nobody waits.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many wait for a node in front of a session, and since when it waits itself.
    ///
    /// Looks through the queue, which is why those far behind look seldom ([`Self::wait`]).
    #[must_use]
    pub fn ahead(
        &self,
        node: &Arc<Node>,
        (session, slot): (SessionId, Sequence),
    ) -> (usize, Option<Micros>) {
        let Some(queue) = self.0.iter().find(|queue| Arc::ptr_eq(&queue.node, node)) else {
            return (0, None);
        };
        let is_it = |it: &Waiting| it.session == session && it.slot == slot;
        match queue.waiting.iter().position(is_it) {
            Some(place) => (place, queue.waiting.get(place).map(|it| it.since)),
            None => (queue.waiting.len(), None),
        }
    }

    /// The session waits, if it did not before at the end of the queue. It is to look again at the time
    /// that is returned.
    pub fn wait(
        &mut self,
        node: &Arc<Node>,
        (session, slot): (SessionId, Sequence),
        now: Micros,
    ) -> Micros {
        let queue = self.queue(node);
        let known = queue.waiting.iter().position(|it| it.session == session);
        let known = known.and_then(|place| queue.waiting.get_mut(place));
        // Another slot means that what it waited with was answered otherwise: its next script has not
        // waited at all, and queues anew.
        match known {
            Some(it) if it.slot == slot => it.looked_at = now,
            _ => {
                queue.waiting.retain(|it| it.session != session);
                queue.waiting.push_back(Waiting { session, slot, since: now, looked_at: now });
            }
        }
        // Whoever has many in front of it need not look often: a script that ends wakes the first.
        let patience = LOOK_FIRST * (1 + queue.waiting.len() as u64 / PER_STEP);
        now + patience.min(LOOK_LAST)
    }

    /// The session waits no more.
    pub fn leave(&mut self, node: &Arc<Node>, session: SessionId) {
        if let Some(queue) = self.0.iter_mut().find(|queue| Arc::ptr_eq(&queue.node, node)) {
            queue.waiting.retain(|it| it.session != session);
        }
        self.0.retain(|queue| !queue.waiting.is_empty());
    }

    /// Takes those out of a node's queue who stand in front and do not wait for that slot any more: they went, or
    /// were answered otherwise.
    pub fn pass(&mut self, node: &Arc<Node>, waits: impl Fn(SessionId, Sequence) -> bool) {
        let Some(queue) = self.0.iter_mut().find(|queue| Arc::ptr_eq(&queue.node, node)) else {
            return;
        };
        while queue.waiting.front().is_some_and(|it| !waits(it.session, it.slot)) {
            queue.waiting.pop_front();
        }
        self.0.retain(|queue| !queue.waiting.is_empty());
    }

    /// Takes those out who are gone, do not wait for that slot any more, or have not looked for too long.
    pub fn forget(&mut self, now: Micros, waits: impl Fn(SessionId, Sequence) -> bool) {
        for queue in &mut self.0 {
            let waits = |it: &Waiting| {
                waits(it.session, it.slot) && now.saturating_sub(it.looked_at) < LOST_AFTER
            };
            queue.waiting.retain(waits);
        }
        self.0.retain(|queue| !queue.waiting.is_empty());
    }

    /// The first who wait for a node, at most `count`.
    pub fn first(&self, node: &Arc<Node>, count: usize) -> impl Iterator<Item = SessionId> + '_ {
        let queue = self.0.iter().find(|queue| Arc::ptr_eq(&queue.node, node));
        queue.into_iter().flat_map(|queue| &queue.waiting).map(|it| it.session).take(count)
    }

    fn queue(&mut self, node: &Arc<Node>) -> &mut Queue {
        let place = self.0.iter().position(|queue| Arc::ptr_eq(&queue.node, node));
        let place = place.unwrap_or_else(|| {
            self.0.push(Queue { node: Arc::clone(node), waiting: VecDeque::new() });
            self.0.len() - 1
        });
        &mut self.0[place]
    }
}

/// How soon the first of a queue look again without being woken.
const LOOK_FIRST: Micros = 5 * MILLISECOND;
/// How late the last of a long one.
const LOOK_LAST: Micros = 400 * MILLISECOND;
/// So many more in a queue make each look later by as much as the first.
const PER_STEP: u64 = 32;
/// Who has not looked for so long does not wait any more.
const LOST_AFTER: Micros = SECOND;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::rig::Rig;

    #[test]
    fn each_keeps_its_place_until_it_leaves_or_looks_no_more() {
        let mut rig = Rig::new();
        let node = Arc::clone(&rig.worker.topology.load().node);
        let (ann, bob, eve) = (rig.client(), rig.client(), rig.client());
        let mut turns = Turns::default();
        for (session, now) in [(ann, 1), (bob, 2), (eve, 3), (bob, 4)] {
            assert_eq!(turns.wait(&node, (session, 7), now), now + LOOK_FIRST);
        }
        assert_eq!(turns.ahead(&node, (bob, 7)), (1, Some(2)));
        assert_eq!(turns.ahead(&node, (bob, 8)), (3, None), "its next script is another one");
        assert_eq!(turns.first(&node, 2).collect::<Vec<_>>(), [ann, bob]);
        turns.leave(&node, ann);
        assert_eq!(turns.ahead(&node, (bob, 7)), (0, Some(2)));
        turns.forget(LOST_AFTER + 3, |_, _| true);
        assert_eq!(turns.first(&node, 9).collect::<Vec<_>>(), [bob], "eve has not looked again");
        turns.wait(&node, (eve, 9), 5);
        turns.pass(&node, |session, _| session != eve);
        assert_eq!(
            turns.first(&node, 9).collect::<Vec<_>>(),
            [bob, eve],
            "bob is in front, and waits"
        );
        turns.pass(&node, |_, slot| slot == 9);
        assert_eq!(turns.first(&node, 9).collect::<Vec<_>>(), [eve]);
        turns.forget(5, |session, _| session != eve);
        assert!(turns.is_empty());
    }

    #[test]
    fn whoever_has_many_in_front_looks_less_often() {
        let mut rig = Rig::new();
        let node = Arc::clone(&rig.worker.topology.load().node);
        let mut turns = Turns::default();
        let last = (0..5_000).map(|_| turns.wait(&node, (rig.client(), 0), 0)).last();
        assert_eq!(last, Some(LOOK_LAST));
    }
}
