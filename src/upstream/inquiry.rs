//! INFO, asked of the server now and then for those who watch: a command in line with all others.

use std::cell::RefCell;
use std::rc::Rc;

use super::conn::Conn;
use super::link::Link;
use super::reply_to::{Owner, ReplyTo};
use super::serve::push_own;
use super::status::State;
use crate::resp::reply::{self, ReplyScan, ReplyScanner};
use crate::stats::ServerInfo;

/// A longer answer is not INFO's.
const MAX_ANSWER: usize = 1024 * 1024;

/// The answer as far as it has come.
#[derive(Clone, Debug, Default)]
pub struct Inquiry(Rc<RefCell<Vec<u8>>>);

impl Inquiry {
    /// Takes a part of the answer; the last one publishes what it says.
    pub(super) fn take(&self, part: &[u8], last: bool, link: &Link) {
        let mut answer = self.0.borrow_mut();
        if answer.len() + part.len() <= MAX_ANSWER {
            answer.extend_from_slice(part);
        }
        if !last {
            return;
        }
        let mut scanner = ReplyScanner::default();
        let is_whole = matches!(scanner.scan(&answer), Ok(ReplyScan::Complete { .. }));
        // A user may not be allowed to ask: then nobody knows.
        if is_whole
            && let Ok(value) = reply::decode(&answer, scanner.depth())
            && value.as_error().is_none()
            && let Some(text) = value.as_bytes()
        {
            let info = ServerInfo::parse(text);
            link.dialer.stats.set_server(info);
        }
    }
}

impl<W: ReplyTo> Conn<W> {
    /// Asks for INFO, if the connection is up; false if it is not.
    pub fn inquire(&self) -> bool {
        if self.state() != State::Open || self.is_closing() || self.is_outdated() {
            return false;
        }
        let mut core = self.core.borrow_mut();
        let question = Owner::Inquiry(Inquiry::default());
        push_own(&mut core, &self.link, b"*1\r\n$4\r\nINFO\r\n", question);
        drop(core);
        self.wake();
        true
    }
}
