//! What may happen next, and what must hold whenever nothing happens.
//!
//! Owns the choice of the next event, the commands that clients send, the last phase in which everything flows,
//! and the checks of memory (INV-4) and of ends. Never runs a task itself (`tasks` does).
//!
//! What surprises: commands with a `~` in their key are unlike all others, and the tape cannot say one: that is
//! how the ledger knows whose they are.

use std::sync::LazyLock;

use breakwater::buffer::{CHUNK_BYTES, Piece};
use breakwater::clock::{self, SECOND};
use breakwater::command::spec::Class;
use breakwater::resp::write;
use breakwater::server::tick;
use breakwater::session::feed;
use breakwater::session::local::auth;
use breakwater::stats::labels::ClosedReason;
use breakwater::upstream::pool::LANE_UNSENT_BYTES_MAX;
use breakwater::upstream::verify::Verdict;

use super::node::{PipeState, REPLY_BYTES_MAX};
use super::{GROUND, World};
use crate::tape::Tape;

// === impl World ===

impl World {
    /// The next event. Most of the time whoever was woken by it runs at once.
    pub(super) fn step(&mut self, tape: &mut Tape<'_>) {
        let event = tape.byte();
        self.now += 10;
        if *TRACE {
            self.trace(event);
        }
        match event & 0x3f {
            0..=15 => self.say_marked(tape),
            16..=19 => self.say_other(tape),
            20 | 21 => self.say_raw(tape),
            22..=25 => self.arrive(tape),
            26..=29 => self.take_replies(tape),
            30..=34 => self.write_some(tape),
            35..=39 => self.execute_some(tape),
            40..=45 => self.read_some(tape),
            46 | 47 => self.dial(tape),
            48 => self.lose_one(tape),
            49 => self.tick(tape),
            50 => self.connect(),
            51 => self.hang_up(tape),
            52 => self.cut_off(tape),
            53 | 54 => self.judge(tape),
            55 => self.go_mad(tape),
            56 => self.publish(),
            57 => self.now += SECOND,
            58 => self.write_read_all(tape),
            59 => tick::drain(&mut self.worker),
            _ => self.run_ready(),
        }
        if event & 0x40 == 0 {
            self.run_ready();
        }
    }

    /// Says what is there and what comes next: a finding is read with this.
    fn trace(&self, event: u8) {
        eprintln!("event {}{}", event & 0x3f, if event & 0x40 == 0 { ", and all run" } else { "" });
        for client in &self.clients {
            let Some(session) = self.worker.sessions.get(client.session) else { continue };
            eprintln!(
                "  client {}: {} on their way, {} arrived, {} in flight, {} pending, {} owed, {:?}",
                client.number,
                client.outbox.len(),
                client.arrived.len(),
                session.in_flight,
                session.replies.pending(),
                session.owed(),
                session.closing
            );
        }
        for pipe in &self.pipes {
            let lane = self.worker.lanes.get(pipe.lane);
            let queue = lane.map(|lane| (lane.waiters.len(), lane.send.unsent(), lane.has_orphans));
            let (inbound, outbound) = (pipe.inbound.len(), pipe.outbound.len());
            eprintln!("  {:?}: {queue:?} queued, {inbound} taken, {outbound} answered", pipe.state);
        }
    }

    fn client(&self, tape: &mut Tape<'_>) -> usize {
        // The last ones are here; the first may be long gone.
        self.clients.len() - 1 - tape.below(self.clients.len().min(4))
    }

    fn pipe(&self, tape: &mut Tape<'_>, state: PipeState) -> Option<usize> {
        let choices: Vec<usize> =
            (0..self.pipes.len()).filter(|&place| self.pipes[place].state == state).collect();
        (!choices.is_empty()).then(|| choices[tape.below(choices.len())])
    }

    fn say(&mut self, place: usize, bytes: &[u8]) {
        let client = &mut self.clients[place];
        if client.is_here() {
            client.say(bytes, &GROUND.table);
        }
    }

    /// A command unlike every other, so that its reply can be nobody else's.
    fn say_marked(&mut self, tape: &mut Tape<'_>) {
        let place = self.client(tape);
        let client = &mut self.clients[place];
        if client.has_hung_up || !client.is_here() {
            return;
        }
        let (mark, number) = (client.next_mark(), client.number);
        let key = format!("{number}~{mark}");
        let key = key.as_bytes();
        let large;
        let keys;
        let arguments: &[&[u8]] = match tape.below(11) {
            0..=2 => &[b"GET", key],
            3 | 4 => &[b"SET", key, b"value"],
            5 => &[b"incr", key],
            6 => {
                large = vec![b'v'; 10_000 + 150 * usize::from(tape.byte())];
                &[b"SET", key, &large]
            }
            7 => {
                // So many keys go to the bulk lane.
                keys = [&[&b"MGET"[..], key][..], &[&b"k"[..]; 40][..]].concat();
                &keys
            }
            8 => &[b"EXISTS", key],
            9 => {
                keys = [&[&b"DEL"[..], key][..], &[&b"k"[..]; 40][..]].concat();
                &keys
            }
            _ => &[b"PING", key],
        };
        let mut frame = Vec::new();
        write::command(&mut frame, arguments);
        // As the table sees it, so that the fuzzer cannot disagree with the proxy about what is a write.
        let name = String::from_utf8_lossy(arguments[0]).to_lowercase();
        let is_repeatable = GROUND.table.find(&name).is_some_and(|spec| spec.is_retry_safe());
        self.ledger.mark(&frame, number, mark, is_repeatable);
        self.say(place, &frame);
    }

    /// A command that needs no node, or that changes what the session is.
    fn say_other(&mut self, tape: &mut Tape<'_>) {
        let place = self.client(tape);
        let line: &[u8] = match tape.below(32) {
            0..=3 => b"ECHO hello\r\n",
            4 => b"SELECT 0\r\n",
            5 => b"SELECT 1\r\n",
            6 => b"SELECT 99\r\n",
            7 | 8 => b"HELLO 3\r\n",
            9 => b"HELLO 2\r\n",
            10 => b"HELLO 3 AUTH ann secret SETNAME x\r\n",
            11 => b"HELLO 3 AUTH ann secret AUTH bob secret\r\n",
            12 => b"AUTH ann secret\r\n",
            13 => b"AUTH secret\r\n",
            14 => b"CLIENT REPLY OFF\r\n",
            15 | 16 => b"CLIENT REPLY ON\r\n",
            17 => b"CLIENT REPLY SKIP\r\n",
            18 => b"CLIENT LIST\r\n",
            19 => b"CLIENT ID\r\n",
            20 => b"CLIENT KILL TYPE normal\r\n",
            21 => b"CLIENT KILL ID 1 SKIPME no\r\n",
            22 => b"RESET\r\n",
            23 => b"QUIT\r\n",
            24 => b"MULTI\r\n",
            25 => b"SUBSCRIBE news\r\n",
            26 => b"NOSUCH a b\r\n",
            27 => b"GET\r\n",
            28 => b"*0\r\n\r\n*-1\r\n",
            29 => b"CLIENT NOSUCH\r\n",
            30 => b"BLPOP k 0\r\n",
            _ => b"*1\r\n$4\r\nPING\r\n",
        };
        self.say(place, line);
    }

    /// Whatever the tape holds.
    fn say_raw(&mut self, tape: &mut Tape<'_>) {
        let place = self.client(tape);
        let length = tape.byte();
        let mut bytes = tape.bytes(usize::from(length)).to_vec();
        for byte in &mut bytes {
            // A mark belongs to the client that it names.
            *byte = if *byte == b'~' { b'-' } else { *byte };
        }
        self.say(place, &bytes);
    }

    /// Bytes arrive in the kernel of the proxy.
    fn arrive(&mut self, tape: &mut Tape<'_>) {
        let place = self.client(tape);
        let client = &mut self.clients[place];
        let count = tape.count().min(client.outbox.len());
        client.arrived.extend(client.outbox.drain(..count));
    }

    /// A client reads: its kernel takes more, and whoever waits for that is woken.
    fn take_replies(&mut self, tape: &mut Tape<'_>) {
        let place = self.client(tape);
        let count = tape.count();
        self.make_room(place, count);
    }

    fn make_room(&mut self, place: usize, count: usize) {
        let client = &mut self.clients[place];
        client.room = client.room.saturating_add(count);
        let session = self.worker.sessions.get(client.session);
        if session.is_some_and(|session| session.write_blocked) {
            client.flag.raise();
        }
    }

    fn write_some(&mut self, tape: &mut Tape<'_>) {
        if let Some(place) = self.pipe(tape, PipeState::Open) {
            let count = tape.count();
            self.write_lane(place, count);
        }
    }

    /// The node executes some commands; a connection that is lost still has some.
    fn execute_some(&mut self, tape: &mut Tape<'_>) {
        let state = if tape.below(8) == 0 { PipeState::Lost } else { PipeState::Open };
        if let Some(place) = self.pipe(tape, state) {
            for _ in 0..1 + tape.below(16) {
                self.pipes[place].execute(&mut self.ledger, tape);
            }
        }
    }

    fn read_some(&mut self, tape: &mut Tape<'_>) {
        if let Some(place) = self.pipe(tape, PipeState::Open) {
            let count = tape.count();
            self.read_lane(place, count, count % 2 == 0);
        }
    }

    /// One turn in which all that is queued goes to the node and all answers come back.
    fn write_read_all(&mut self, tape: &mut Tape<'_>) {
        if let Some(place) = self.pipe(tape, PipeState::Open) {
            self.write_lane(place, usize::MAX);
            while self.pipes[place].execute(&mut self.ledger, tape) {}
            while self.read_lane(place, usize::MAX, true) > 0 {}
        }
    }

    fn dial(&mut self, tape: &mut Tape<'_>) {
        if let Some(place) = self.pipe(tape, PipeState::Dialling) {
            if tape.below(4) == 3 { self.not_opened(place) } else { self.opened(place) }
        }
    }

    fn lose_one(&mut self, tape: &mut Tape<'_>) {
        if let Some(place) = self.pipe(tape, PipeState::Open) {
            self.lose(place);
        }
    }

    /// A tick in which the first commands of each lane are late.
    fn tick(&mut self, tape: &mut Tape<'_>) {
        for id in self.worker.lanes.keys().collect::<Vec<_>>() {
            let late = tape.below(4);
            let is_silent = tape.below(2) == 0;
            let Some(mut lane) = self.worker.lanes.lend(id) else { continue };
            lane.heard_at = if is_silent { 0 } else { clock::micros() };
            for (place, waiter) in lane.waiters.iter_mut().enumerate() {
                waiter.taken_at = if place < late { 0 } else { u64::MAX };
            }
            self.note_doubt(&lane, late);
            self.worker.lanes.restore(id, lane);
        }
        self.flush_touched(|world| tick::run(&mut world.worker));
        self.worker.now = self.now;
    }

    /// A client says nothing more, and waits for its replies.
    fn hang_up(&mut self, tape: &mut Tape<'_>) {
        let place = self.client(tape);
        self.clients[place].has_hung_up = true;
    }

    /// A client is gone at once: its socket fails.
    fn cut_off(&mut self, tape: &mut Tape<'_>) {
        let place = self.client(tape);
        if self.clients[place].is_here() {
            self.remove_session(place, ClosedReason::WriteError);
        }
    }

    /// The node has judged somebody's password.
    fn judge(&mut self, tape: &mut Tape<'_>) {
        if self.worker.to_verify.is_empty() {
            return;
        }
        let topology = self.begin_batch();
        let place = tape.below(self.worker.to_verify.len());
        let request = self.worker.to_verify.swap_remove(place);
        let identities = &self.worker.shared.identities;
        let verdict = match identities.confirm(&request.presented, self.now) {
            Ok(identity) if tape.below(4) != 3 => Verdict::Confirmed(identity),
            _ => Verdict::Refused(b"-WRONGPASS no\r\n".to_vec()),
        };
        let more = auth::conclude(&mut self.worker, &topology, request, verdict);
        self.worker.to_verify.extend(more);
        self.flush_touched(|_| {});
    }

    /// The node sends what is no reply, or a reply that nobody can have asked for.
    fn go_mad(&mut self, tape: &mut Tape<'_>) {
        let Some(place) = self.pipe(tape, PipeState::Open) else { return };
        let pipe = &mut self.pipes[place];
        let is_unsent = self.worker.lanes.get(pipe.lane).is_some_and(|lane| {
            lane.waiters.front().is_none_or(|first| first.end > lane.send.sent())
        });
        pipe.is_mad = true;
        if pipe.is_quiet() && is_unsent && tape.below(2) == 0 {
            // Read at once: behind a question that is sent meanwhile nobody could tell it from the answer.
            pipe.outbound.extend_from_slice(b"+OK\r\n");
            self.read_lane(place, usize::MAX, false);
            assert!(self.pipes[place].state != PipeState::Open, "an answer to no question passed");
        } else {
            pipe.outbound.extend_from_slice(b"?what\r\n");
        }
    }

    /// Everything flows until nothing moves.
    pub(super) fn settle_everything(&mut self) {
        let no_more = &mut Tape::new(&[]);
        for _ in 0..ROUNDS_MAX {
            let mut moved = 0;
            for place in 0..self.clients.len() {
                self.make_room(place, 1 << 40);
                let client = &mut self.clients[place];
                moved += client.outbox.len();
                client.arrived.extend(client.outbox.drain(..));
            }
            // A refused dial is void in time.
            self.now += SECOND;
            while !self.worker.to_verify.is_empty() {
                self.judge(no_more);
            }
            self.run_ready();
            for place in 0..self.pipes.len() {
                if self.pipes[place].state == PipeState::Dialling {
                    self.opened(place);
                    moved += 1;
                }
                self.run_ready();
                moved += self.write_lane(place, usize::MAX);
                while self.pipes[place].execute(&mut self.ledger, no_more) {
                    moved += 1;
                }
                moved += self.read_lane(place, usize::MAX, false);
                self.run_ready();
            }
            self.check();
            if moved == 0 && self.worker.to_verify.is_empty() {
                return;
            }
        }
        panic!("bytes move for ever");
    }

    /// Whoever is still here has got everything, and nothing is left of anybody.
    pub(super) fn check_the_end(&self) {
        for client in &self.clients {
            let Some(session) = self.worker.sessions.get(client.session) else { continue };
            assert!(!client.flag.is_raised(), "a session wants to run");
            assert!(session.closing.is_none(), "client {} is to be closed and is not", client.number);
            client.check_the_end();
            assert_eq!((session.replies.pending(), session.owed()), (0, 0), "replies are left");
            assert_eq!(session.in_flight, 0, "commands are in flight for ever");
        }
        for lane in self.worker.lanes.keys().filter_map(|id| self.worker.lanes.get(id)) {
            assert!(lane.is_idle() && lane.send.unsent() == 0, "a lane waits for ever");
            assert!(lane.carry.is_empty(), "a lane holds bytes of no reply");
        }
    }

    /// Bounds that hold at every moment.
    pub(super) fn check(&self) {
        let worker = &self.worker;
        let sessions = || worker.sessions.keys().filter_map(|id| worker.sessions.get(id));
        let here = self.clients.iter().filter(|client| client.is_here()).count();
        assert_eq!(sessions().count(), here, "a session is missing");
        let held: usize = sessions().map(feed::held_bytes).sum();
        assert_eq!(worker.request_bytes, held, "the sum of unfinished requests is wrong");
        for session in sessions() {
            let bounds = &session.gate.bounds;
            // The size of a reply is known when it comes: each command in flight may bring one surprise.
            let bound = bounds.reply_bytes as usize + bounds.commands as usize * REPLY_BYTES_MAX;
            assert!(session.owed() <= bound, "{} bytes of replies are held", session.owed());
            assert!(session.replies.pending() <= u64::from(bounds.commands), "the window was passed");
            assert!(u64::from(session.in_flight) <= session.replies.pending());
        }
        for lane in worker.lanes.keys().filter_map(|id| worker.lanes.get(id)) {
            let due: usize = lane.waiters.iter().map(|waiter| waiter.length as usize).sum();
            assert!(lane.send.held() <= due + 2 * CHUNK_BYTES, "a lane keeps what was answered");
            assert!(lane.send.unsent() <= LANE_UNSENT_BYTES_MAX + 512 * 1024);
            assert!(lane.carry.len() <= REPLY_BYTES_MAX, "{} bytes of a reply are held", lane.carry.len());
        }
        self.check_unsent();
    }

    /// Everything queued and not yet handed over is a command that may travel on a shared connection (INV-2).
    fn check_unsent(&self) {
        let worker = &self.worker;
        for lane in worker.lanes.keys().filter_map(|id| worker.lanes.get(id)) {
            let Some(last) = lane.waiters.back() else { continue };
            let start = last.end - u64::from(last.length);
            let is_there = matches!(
                lane.send.piece(start, last.end),
                Some(Piece::Borrowed(_) | Piece::Shared(_))
            );
            assert!(is_there, "the bytes of a waiting command are gone");
            let class = GROUND.table.spec(last.command).map(|spec| spec.class);
            assert_eq!(class, Some(Class::Shared), "not a command for a lane");
        }
    }
}

/// Whether events are written to standard error as they happen.
static TRACE: LazyLock<bool> = LazyLock::new(|| std::env::var_os("BREAKWATER_FUZZ_TRACE").is_some());
/// Rounds of the last phase; each moves all that can move.
const ROUNDS_MAX: usize = 10_000;
