//! One session and its outside, driven as a worker drives them.

use std::mem::take;

use nearkey::session::{Env, Session, Settings, Status};
use nearkey::upstream::pipe::Handling;

use super::outside::Outside;
use super::{Terms, world};

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Once everything has left.
    Close,
    /// Without a word.
    Drop,
    /// It stood for something that is lost.
    Broken,
}

/// One client connection.
pub struct Play {
    session: Session,
    pub outside: Outside,
    with_l1: bool,
    input: Vec<u8>,
    /// What the client reads.
    pub out: Vec<u8>,
    given: usize,
    status: Status,
    torn: bool,
    /// Replies that were replaced by errors.
    pub failures: u32,
    pub end: Option<End>,
}

impl Play {
    pub fn new(settings: &Settings, terms: Terms, hesitates: Option<u8>) -> Self {
        Self {
            session: Session::new(settings),
            outside: Outside::new(terms, hesitates.unwrap_or(0)),
            with_l1: terms.with_l1,
            input: Vec::new(),
            out: Vec::new(),
            given: 0,
            status: Status::NeedInput,
            torn: false,
            failures: 0,
            end: None,
        }
    }

    /// What the client reads that no server said.
    pub fn own_bytes(&self) -> usize {
        self.out.len().saturating_sub(self.given)
    }

    /// The client says something.
    pub fn say(&mut self, chunk: &[u8], settings: &Settings) {
        self.input.extend_from_slice(chunk);
        self.feed(settings);
    }

    fn feed(&mut self, settings: &Settings) {
        if self.end.is_some() {
            return;
        }
        let before = (self.out.len(), self.outside.has_lease);
        let env = Env {
            id: 7,
            settings,
            table: &world().table,
            counters: &world().counters,
            l1: self.with_l1.then_some(&*world().l1),
            hot: None,
            paused: nearkey::control::Paused::No,
        };
        let fed = self
            .session
            .feed(&self.input, &mut self.out, &env, &mut self.outside);
        assert!(fed.consumed <= self.input.len());
        self.input.drain(..fed.consumed);
        assert!(
            !self.torn || self.out.len() == before.0,
            "nothing gets into a reply"
        );
        assert_eq!(self.session.pending().owed() as usize, self.outside.owed());
        self.status = fed.status;
        match fed.status {
            Status::NeedInput | Status::Hold => {}
            Status::Close => self.end = Some(End::Close),
            Status::Drop => self.end = Some(End::Drop),
        }
        let uses_lease = self.session.needs_lease() || self.lease_owes();
        assert!(
            before.1 || !self.outside.has_lease || uses_lease,
            "a lease is used at once"
        );
        self.return_lease();
    }

    fn lease_owes(&self) -> bool {
        self.outside
            .flights
            .iter()
            .any(|flight| flight.lane.is_none())
    }

    fn return_lease(&mut self) {
        if !self.session.needs_lease() && !self.lease_owes() {
            self.outside.has_lease = false;
        }
    }

    /// What was held is tried again.
    pub fn resume(&mut self, settings: &Settings) {
        if self.status == Status::Hold {
            self.feed(settings);
        }
    }

    pub fn hesitate(&mut self, how: u8) {
        self.outside.hesitates = how;
    }

    pub fn stop_failing(&mut self) {
        self.outside.hesitates = 0;
    }

    /// Replies to some commands come, no more than to one row.
    pub fn answer_some(&mut self, most: usize, settings: &Settings) {
        self.answer(most);
        self.resume(settings);
    }

    fn answer(&mut self, most: usize) {
        if matches!(self.end, Some(End::Drop | End::Broken)) {
            return;
        }
        let Some(flight) = self.outside.flights.front_mut() else {
            return;
        };
        let replies: Vec<Vec<u8>> = flight
            .replies
            .drain(..most.min(flight.replies.len()))
            .collect();
        let handling = flight.handling;
        if flight.replies.is_empty() {
            self.outside.flights.pop_front();
        }
        let count = u32::try_from(replies.len()).expect("few");
        let bytes = replies.concat();
        if self.session.is_judging() {
            self.session.judge(&bytes);
        }
        if handling != Handling::Discard {
            self.given += bytes.len();
            self.out.extend_from_slice(&bytes);
        }
        if count > 0 {
            self.torn = false;
            self.session.handle_replies(count, &mut self.out);
        }
        self.return_lease();
    }

    /// The beginning of a reply comes.
    pub fn answer_partly(&mut self, most: usize) {
        let is_judging = self.session.is_judging();
        let Some(flight) = self.outside.flights.front_mut() else {
            return;
        };
        let Some(reply) = flight.replies.front_mut() else {
            return;
        };
        if most < reply.len() && flight.handling != Handling::Discard && !is_judging {
            let part: Vec<u8> = reply.drain(..most).collect();
            self.given += part.len();
            self.out.extend_from_slice(&part);
            self.torn = true;
        }
    }

    /// Everything is answered, and what waited for that goes on.
    pub fn answer_all(&mut self, settings: &Settings) {
        loop {
            while !self.outside.flights.is_empty() {
                self.answer(usize::MAX);
                if self.end == Some(End::Drop) || self.end == Some(End::Broken) {
                    return;
                }
            }
            let before = (
                self.input.len(),
                self.outside.sent.len(),
                self.outside.hesitates,
            );
            self.resume(settings);
            let after = (
                self.input.len(),
                self.outside.sent.len(),
                self.outside.hesitates,
            );
            if before == after && self.outside.flights.is_empty() {
                return;
            }
        }
    }

    /// The oldest row gets no reply in time.
    pub fn time_out(&mut self, settings: &Settings) {
        self.fail_front("ERR Nearkey: no reply from upstream within 5s");
        self.resume(settings);
    }

    fn fail_front(&mut self, text: &str) {
        if self.torn {
            self.end = Some(End::Broken);
        }
        if self.end.is_some_and(|end| end != End::Close) {
            return;
        }
        let Some(flight) = self.outside.flights.pop_front() else {
            return;
        };
        let count = u32::try_from(flight.replies.len()).expect("few");
        let visible = flight.handling != Handling::Discard;
        self.failures += 1;
        self.session
            .handle_failure(count, text, visible, &mut self.out);
        self.return_lease();
    }

    /// The shared connection is gone.
    pub fn lose_shared(&mut self, settings: &Settings) {
        while self
            .outside
            .flights
            .front()
            .is_some_and(|flight| flight.lane.is_some())
        {
            self.fail_front("ERR Nearkey: lost");
            if self.end.is_some() {
                break;
            }
        }
        self.resume(settings);
    }

    /// The leased connection is gone.
    pub fn lose_leased(&mut self, settings: &Settings) {
        if self.end.is_some() || !self.outside.has_lease {
            return;
        }
        self.failures += 1;
        if self.outside.lose_stream() {
            self.session.abort_large("ERR Nearkey: lost");
        }
        if self.session.needs_lease() {
            self.end = Some(End::Broken);
            return;
        }
        while self.lease_owes() && self.end.is_none() {
            self.fail_front("ERR Nearkey: lost");
        }
        self.outside.has_lease = false;
        self.resume(settings);
    }

    /// Nothing more is said. Everything has been answered, or the session is closed.
    pub fn finish(&mut self) {
        if matches!(self.end, Some(End::Drop | End::Broken)) {
            return;
        }
        assert!(
            self.end.is_some() || self.status == Status::NeedInput,
            "nothing waits for nothing"
        );
        let rest = String::from_utf8_lossy(&self.input).into_owned();
        assert!(
            self.session.pending().is_empty(),
            "a reply is missing before {rest:?}"
        );
        assert_eq!(self.session.pending().held_bytes(), 0);
        take(&mut self.input);
    }
}
