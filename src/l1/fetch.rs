//! A fill on its way: what is asked of the tracked connection, and who waits for the answer.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use super::clock::Now;
use super::entry::{Entry, Name, Read};
use super::rules::Terms;
use super::stamps::Stamp;
use super::tracker::Tracker;

/// What is asked of a tracked connection: one read, and how long its key will live.
#[derive(Clone, Debug)]
pub struct Order {
    /// What the answer will be known by.
    pub name: Name,
    /// The read as the client sent it: a whole command.
    pub command: Box<[u8]>,
    /// What must stand when the answer comes.
    pub stamp: Stamp,
    /// The connection that it is for.
    pub tracker: Arc<Tracker>,
    /// How often that had been lost by then.
    pub link: u64,
    /// What its rule says.
    pub terms: Arc<Terms>,
    /// When it was ordered: its answer is no older.
    pub since: Now,
    /// How many fills of it were of no use lately.
    pub waste: u8,
    /// What the one who ordered it knows it by.
    pub ticket: u64,
}

/// What became of an order: the answer, whether it was kept or not. `None` if there is none, or it is too
/// long: the read must travel like any other.
pub type Answer = Option<Arc<Entry>>;

/// Where orders go.
pub trait Fetcher {
    /// Passes an order on to its connection, of this thread or another; [`Reader::handle_answer`] is
    /// called in the end, whatever happens.
    ///
    /// [`Reader::handle_answer`]: super::reader::Reader::handle_answer
    fn fetch(&mut self, order: Order);

    /// A connection is wanted that is not open.
    fn open(&mut self, tracker: &Arc<Tracker>);

    /// The server cannot be reached.
    fn is_down(&self) -> bool;
}

/// An order that has not been answered, and who waits for it.
#[derive(Debug)]
pub struct Fetch {
    pub(super) name: Name,
    pub(super) stamp: Stamp,
    pub(super) link: u64,
    /// When it was ordered.
    pub(super) since: Now,
    state: RefCell<State>,
}

#[derive(Debug)]
enum State {
    Waiting(Vec<Waker>),
    Answered(Answer),
}

impl Fetch {
    pub(super) fn new(name: Name, stamp: Stamp, link: u64, since: Now) -> Rc<Self> {
        Rc::new(Self {
            name,
            stamp,
            link,
            since,
            state: RefCell::new(State::Waiting(Vec::new())),
        })
    }

    /// It is a fetch of this read.
    pub fn is_of(&self, read: &Read<'_>) -> bool {
        self.name.is_of(read)
    }

    /// The answer, if it has come; else `waker` is called when it does.
    pub fn poll(&self, waker: &Waker) -> Option<Answer> {
        match &mut *self.state.borrow_mut() {
            State::Answered(answer) => Some(answer.clone()),
            State::Waiting(wakers) => {
                if !wakers.iter().any(|known| known.will_wake(waker)) {
                    wakers.push(waker.clone());
                }
                None
            }
        }
    }

    pub(super) fn answer(&self, answer: Answer) {
        let before = self.state.replace(State::Answered(answer));
        if let State::Waiting(wakers) = before {
            wakers.into_iter().for_each(Waker::wake);
        }
    }
}
