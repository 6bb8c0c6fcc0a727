//! Who waits for a leased connection of one key, and which connections there are: first come, first
//! served.
//!
//! A waiter is not bound to the connection that is opened on its account. Whatever comes first, opened
//! or given back, goes to whoever has waited longest; one connection is being opened for each waiter,
//! and one too many stops being opened if it has not begun.
//!
//! No I/O and no clock: connections are names here.

use std::collections::VecDeque;
use std::rc::Rc;

/// The line of one key. `W` is a waiter, `C` a connection.
#[derive(Debug)]
pub struct Line<W, C> {
    /// With their numbers, which grow from front to back.
    waiting: VecDeque<(u64, W)>,
    /// Oldest first.
    opening: Vec<Rc<C>>,
    idle: Vec<Rc<C>>,
}

impl<W, C> Default for Line<W, C> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            opening: Vec::new(),
            idle: Vec::new(),
        }
    }
}

impl<W, C> Line<W, C> {
    /// Nothing and nobody is left.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.opening.is_empty() && self.idle.is_empty()
    }

    /// The one that has waited longest.
    pub fn first(&self) -> Option<&W> {
        self.waiting.front().map(|(_, waiter)| waiter)
    }

    /// An idle connection; there is none while somebody waits.
    pub fn take_idle(&mut self) -> Option<Rc<C>> {
        self.idle.pop()
    }

    /// Enters a waiter in its place: behind all with lower numbers. True if a connection must be opened
    /// on its account.
    pub fn join(&mut self, number: u64, waiter: W) -> bool {
        let place = self.waiting.partition_point(|(other, _)| *other < number);
        self.waiting.insert(place, (number, waiter));
        self.opening.len() < self.waiting.len()
    }

    /// This connection is being opened now.
    pub fn begin(&mut self, conn: Rc<C>) {
        self.opening.push(conn);
    }

    /// A connection is open and free: the waiter that gets it, or it is idle now. With the waiter goes
    /// a connection that need not be opened any more: one that `is_queueing`.
    pub fn offer(&mut self, conn: &Rc<C>, is_queueing: impl Fn(&C) -> bool) -> Offered<W, C> {
        self.opening.retain(|other| !Rc::ptr_eq(other, conn));
        match self.waiting.pop_front() {
            Some((_, waiter)) => Offered::Taken(waiter, self.spare(0, is_queueing)),
            None => {
                self.idle.push(conn.clone());
                Offered::Idle
            }
        }
    }

    /// A waiter goes. Returns it with a connection that nobody needs any more and that must be closed,
    /// however far it is; nothing if it does not wait.
    pub fn leave(
        &mut self,
        number: u64,
        is_queueing: impl Fn(&C) -> bool,
    ) -> Option<(W, Option<Rc<C>>)> {
        let place = self.place(number)?;
        let (_, waiter) = self.waiting.remove(place)?;
        let spare = self.spare(place, is_queueing).or_else(|| {
            (self.opening.len() > self.waiting.len())
                .then(|| self.opening.pop())
                .flatten()
        });
        Some((waiter, spare))
    }

    /// A connection could not be opened: the waiter that must be told, if it was opened on one's
    /// account.
    pub fn fail(&mut self, conn: &Rc<C>) -> Option<W> {
        let before = self.opening.len();
        self.opening.retain(|other| !Rc::ptr_eq(other, conn));
        let was_needed = before > self.opening.len() && self.opening.len() < self.waiting.len();
        let (_, waiter) = was_needed.then(|| self.waiting.pop_front()).flatten()?;
        Some(waiter)
    }

    /// A connection is gone.
    pub fn forget(&mut self, conn: &Rc<C>) {
        self.opening.retain(|other| !Rc::ptr_eq(other, conn));
        self.idle.retain(|other| !Rc::ptr_eq(other, conn));
    }

    /// One of the connections that are really being opened will be for this waiter.
    pub fn is_served(&self, number: u64, is_queueing: impl Fn(&C) -> bool) -> bool {
        let dialing = self
            .opening
            .iter()
            .filter(|conn| !is_queueing(conn))
            .count();
        self.place(number).is_some_and(|place| place < dialing)
    }

    fn place(&self, number: u64) -> Option<usize> {
        self.waiting
            .binary_search_by_key(&number, |(number, _)| *number)
            .ok()
    }

    /// Takes out a connection that is not needed and not begun. Those that were asked for before the
    /// waiter at `place` came keep their turn for the others.
    fn spare(&mut self, place: usize, is_queueing: impl Fn(&C) -> bool) -> Option<Rc<C>> {
        if self.opening.len() <= self.waiting.len() {
            return None;
        }
        let queueing = |(i, conn): &(usize, &Rc<C>)| *i >= place && is_queueing(conn);
        let (i, _) = self.opening.iter().enumerate().find(queueing)?;
        Some(self.opening.remove(i))
    }
}

/// What became of a free connection.
#[derive(Debug)]
pub enum Offered<W, C> {
    /// This waiter gets it; that connection need not be opened any more.
    Taken(W, Option<Rc<C>>),
    /// It is idle now.
    Idle,
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// A connection: true while it has no permit.
    type Fake = Cell<bool>;

    fn queueing(conn: &Fake) -> bool {
        conn.get()
    }

    /// A line of `n` waiters, each with a connection that waits for its permit.
    fn line(n: u64) -> (Line<u64, Fake>, Vec<Rc<Fake>>) {
        let mut line = Line::default();
        let mut conns = Vec::new();
        for number in 0..n {
            assert!(line.join(number, number));
            let conn = Rc::new(Cell::new(true));
            line.begin(conn.clone());
            conns.push(conn);
        }
        (line, conns)
    }

    fn index(conns: &[Rc<Fake>], conn: Option<Rc<Fake>>) -> Option<usize> {
        let conn = conn?;
        conns.iter().position(|other| Rc::ptr_eq(other, &conn))
    }

    #[test]
    fn what_comes_back_goes_to_whoever_has_waited_longest() {
        let (mut line, conns) = line(3);
        let lease = Rc::new(Cell::new(false));
        for expected in 0..3 {
            let Offered::Taken(waiter, spare) = line.offer(&lease, queueing) else {
                panic!("somebody waits");
            };
            assert_eq!(waiter, expected);
            assert_eq!(index(&conns, spare), Some(expected as usize));
        }
        assert!(matches!(line.offer(&lease, queueing), Offered::Idle));
        assert!(line.take_idle().is_some() && line.is_empty());
    }

    #[test]
    fn what_is_opened_goes_to_whoever_has_waited_longest() {
        let (mut line, conns) = line(3);
        conns[2].set(false);
        let Offered::Taken(waiter, spare) = line.offer(&conns[2], queueing) else {
            panic!("somebody waits");
        };
        assert_eq!((waiter, spare.is_none()), (0, true));
        // The other two have two left.
        assert_eq!((line.waiting.len(), line.opening.len()), (2, 2));
    }

    #[test]
    fn a_connection_under_way_is_left_for_the_next_and_then_idle() {
        let (mut line, conns) = line(2);
        conns[0].set(false);
        let lease = Rc::new(Cell::new(false));
        let Offered::Taken(0, spare) = line.offer(&lease, queueing) else {
            panic!("somebody waits");
        };
        assert_eq!(index(&conns, spare), Some(1), "the other one has not begun");
        let Offered::Taken(1, None) = line.offer(&lease, queueing) else {
            panic!("somebody waits");
        };
        assert!(matches!(line.offer(&conns[0], queueing), Offered::Idle));
        assert!(line.opening.is_empty() && line.take_idle().is_some());
    }

    #[test]
    fn who_leaves_takes_its_connection_along_and_harms_nobody() {
        let (mut line, conns) = line(3);
        let (waiter, spare) = line.leave(1, queueing).expect("it waits");
        assert_eq!((waiter, index(&conns, spare)), (1, Some(1)));
        assert!(line.leave(1, queueing).is_none());
        conns[0].set(false);
        // The one under way is for the next; the last one has not begun.
        let (_, spare) = line.leave(0, queueing).expect("it waits");
        assert_eq!(index(&conns, spare), Some(2));
        assert!(line.is_served(2, queueing));
        // Nobody is left for it: it is closed, however far it is.
        let (_, spare) = line.leave(2, queueing).expect("it waits");
        assert_eq!(index(&conns, spare), Some(0));
        assert!(line.is_empty());
    }

    #[test]
    fn a_failure_is_told_to_the_oldest_if_it_is_its_business() {
        let (mut line, conns) = line(2);
        assert_eq!(line.fail(&conns[1]), Some(0));
        conns[0].set(false);
        let lease = Rc::new(Cell::new(false));
        let _ = line.offer(&lease, queueing);
        assert_eq!(line.fail(&conns[0]), None, "nobody waits for it any more");
        assert_eq!(line.fail(&conns[0]), None);
        assert!(line.is_empty());
    }

    #[test]
    fn who_comes_back_has_its_old_place() {
        let (mut line, _) = line(3);
        let lease = Rc::new(Cell::new(false));
        let Offered::Taken(0, _) = line.offer(&lease, queueing) else {
            panic!("somebody waits");
        };
        assert!(line.join(0, 0), "one more is needed for it");
        assert_eq!(line.first(), Some(&0));
    }

    #[test]
    fn only_who_comes_next_is_served_by_what_is_under_way() {
        let (line, conns) = line(3);
        conns[0].set(false);
        assert!(line.is_served(0, queueing));
        assert!(!line.is_served(1, queueing) && !line.is_served(2, queueing));
    }

    /// Every order of events keeps the promise: one connection under way for each waiter, and nobody is
    /// passed by.
    #[test]
    fn whatever_happens_the_line_moves_in_order() {
        for seed in 0..2000_u64 {
            let mut random = seed;
            let mut next = |n: u64| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (random >> 33) % n
            };
            let mut line: Line<u64, Fake> = Line::default();
            let (mut number, mut held) = (0, Vec::new());
            for _ in 0..60 {
                match next(6) {
                    0 | 1 => match line.take_idle() {
                        Some(conn) => held.push(conn),
                        None => {
                            if line.join(number, number) {
                                line.begin(Rc::new(Cell::new(true)));
                            }
                            number += 1;
                        }
                    },
                    2 if !line.opening.is_empty() => {
                        let i = next(line.opening.len() as u64) as usize;
                        line.opening[i].set(false);
                    }
                    3 => {
                        let dialing = line.opening.iter().find(|conn| !conn.get()).cloned();
                        let conn = dialing.or_else(|| held.pop());
                        let oldest = line.first().copied();
                        if let Some(conn) = conn {
                            match line.offer(&conn, queueing) {
                                Offered::Taken(waiter, _) => {
                                    assert_eq!(Some(waiter), oldest);
                                    held.push(conn);
                                }
                                Offered::Idle => assert_eq!(oldest, None),
                            }
                        }
                    }
                    4 if number > 0 => {
                        line.leave(next(number), queueing);
                    }
                    5 if !line.opening.is_empty() => {
                        let oldest = line.first().copied();
                        let conn = line.opening[0].clone();
                        if let Some(told) = line.fail(&conn) {
                            assert_eq!(Some(told), oldest);
                        }
                    }
                    _ => {}
                }
                assert!(
                    line.opening.len() >= line.waiting.len(),
                    "seed {seed}: a hang"
                );
                assert!(
                    line.idle.is_empty() || line.waiting.is_empty(),
                    "seed {seed}"
                );
                let surplus = line.opening.len() - line.waiting.len();
                let dialing = line.opening.iter().filter(|conn| !conn.get()).count();
                assert!(
                    surplus <= dialing,
                    "seed {seed}: a needless wait for a permit"
                );
            }
        }
    }
}
