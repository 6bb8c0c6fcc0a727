//! The one gate through which every connection of the process is opened, whatever it is for.
//!
//! Opening is what hurts a server that has just come back: TLS handshakes cost it more than commands
//! do. So there is a rate (`upstream.opens_per_second`), a number of dials at a time, and an order:
//! shared connections first, which everybody waits for. Logins of clients' own users have the same rate
//! once more for themselves: wrong passwords take nothing from those who are known.
//!
//! A dial that fails says something about the server, not about whoever asked. The process pauses as a
//! whole then, at random between nothing and a bound that doubles, and afterwards one wish dials and all
//! others wait for its verdict. It is the same while no connection is up: the first one finds out for
//! all. Whoever asks during a pause gets the last verdict at once, and decides how long to wait.
//!
//! A server at its connection limit is no server that is down. The process works on with what it has,
//! and asks again after longer pauses.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep_until;

use super::Config;
use super::backoff::Backoff;
use super::handshake::Refusal;
use crate::stats::{ConnectFailure, UpstreamStats};

/// Dials at a time.
const MAX_DIALS: usize = 8;

/// For so long a connection that was opened proves that the server is there, also if none is up now.
const PROOF: Duration = Duration::from_secs(1);

/// Pauses at a server's connection limit are so many times longer: the first, and the longest while
/// there are connections to work with, or none.
const FULL_MIN: u32 = 10;
const FULL_MAX: u32 = 6;
const FULL_MAX_WITHOUT: u32 = 2;

/// What a connection is wanted for; earlier ones are served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wish {
    /// Many sessions.
    Shared,
    /// One session, or all subscribers.
    Leased,
    /// Somebody who says who he is, and has not shown it yet.
    Login,
    /// L1.
    Tracked,
}

/// The settings that matter here.
#[derive(Clone, Copy, Debug)]
struct Terms {
    per_second: usize,
    backoff_min: Duration,
    backoff_max: Duration,
}

impl Terms {
    fn of(config: &Config) -> Self {
        Self {
            per_second: config.opens_per_second.max(1),
            backoff_min: config.backoff_min,
            backoff_max: config.backoff_max,
        }
    }

    /// Opens that need not wait after a quiet time.
    fn burst(self) -> f64 {
        self.per_second.div_ceil(2) as f64
    }
}

/// The gate.
#[derive(Debug)]
pub struct Gate {
    book: Mutex<Book>,
    /// Something in the book has changed.
    changed: Notify,
    stats: Arc<UpstreamStats>,
}

impl Gate {
    /// An open gate; `seed` decides the jitter.
    pub fn new(stats: Arc<UpstreamStats>, seed: u64) -> Self {
        Self {
            book: Mutex::new(Book::new(Instant::now(), seed)),
            changed: Notify::new(),
            stats,
        }
    }

    /// Waits for the right to dial. `is_alone` tells whether no connection is up.
    ///
    /// # Errors
    /// The verdict of somebody else's dial, or of an earlier one while the pause after it lasts.
    pub async fn enter(
        &self,
        wish: Wish,
        config: impl Fn() -> Arc<Config>,
        is_alone: impl Fn() -> bool,
    ) -> Result<Pass<'_>, Refusal> {
        let waiting = Waiting::new(self, wish);
        loop {
            let mut changed = pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            let terms = Terms::of(&config());
            let look = self
                .book()
                .look(Instant::now(), waiting.place, terms, is_alone());
            match look {
                Look::Go => {
                    let failures = self.book().failures;
                    drop(waiting);
                    return Ok(Pass {
                        gate: self,
                        failures,
                    });
                }
                Look::Refused(refusal) => return Err(refusal),
                Look::Later => changed.await,
                Look::At(at) => {
                    tokio::select! {
                        () = changed => {}
                        () = sleep_until(at.into()) => {}
                    }
                }
            }
        }
    }

    /// When the next dial may be made, while dials fail.
    pub fn retry_at(&self) -> Option<Instant> {
        self.book().trouble.as_ref().map(|trouble| trouble.until)
    }

    /// Since when dials fail.
    pub fn down_since(&self) -> Option<Instant> {
        self.book().trouble.as_ref().map(|trouble| trouble.since)
    }

    /// Nobody dials now: dials fail.
    pub fn is_pausing(&self) -> bool {
        self.retry_at().is_some_and(|at| at > Instant::now())
    }

    /// What the server says while it has no room for another connection.
    pub fn limit(&self) -> Option<String> {
        let book = self.book();
        let trouble = book.trouble.as_ref().filter(|trouble| trouble.is_full)?;
        Some(trouble.refusal.message.clone())
    }

    /// An established connection was lost, and perhaps those of a hundred other processes with it: they
    /// shall not all come back in the same moment.
    pub fn note_loss(&self, config: &Config) {
        self.book().scatter(Instant::now(), Terms::of(config));
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the line, left in whatever way the wait ends.
struct Waiting<'a> {
    gate: &'a Gate,
    place: Place,
}

impl<'a> Waiting<'a> {
    fn new(gate: &'a Gate, wish: Wish) -> Self {
        gate.stats.opens_waiting.fetch_add(1, Relaxed);
        let place = gate.book().join(wish);
        Self { gate, place }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.gate.book().leave(self.place);
        self.gate.stats.opens_waiting.fetch_sub(1, Relaxed);
        self.gate.changed.notify_waiters();
    }
}

/// The right to dial once. Dropping it gives it back; what the dial has found out is told with
/// [`Pass::settle`].
#[derive(Debug)]
pub struct Pass<'a> {
    gate: &'a Gate,
    /// Verdicts against the server before this dial.
    failures: u64,
}

impl Pass<'_> {
    /// The dial has ended; `refusal` is what it says against the server as such. `connections` are up.
    pub fn settle(self, refusal: Option<&Refusal>, config: &Config, connections: i64) {
        let (now, terms) = (Instant::now(), Terms::of(config));
        let mut book = self.gate.book();
        match refusal {
            None => book.succeed(now),
            Some(refusal) => book.fail(now, refusal, self.failures, terms, connections),
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.gate.book().dialing -= 1;
        self.gate.changed.notify_waiters();
    }
}

/// A place in the line: who is first, and what had failed when the wait began.
#[derive(Clone, Copy, Debug)]
struct Place {
    rank: (Wish, u64),
    failures: u64,
}

/// What is to be done with a wish.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    Go,
    /// Look again when something has changed.
    Later,
    /// Or then.
    At(Instant),
    Refused(Refusal),
}

/// Who dials, who waits, and how it went: the rules, without a clock.
#[derive(Debug)]
struct Book {
    waiting: BTreeSet<(Wish, u64)>,
    next: u64,
    dialing: usize,
    opens: Bucket,
    logins: Bucket,
    /// Verdicts against the server so far.
    failures: u64,
    trouble: Option<Trouble>,
    /// When a connection was opened last.
    proved_at: Option<Instant>,
    /// Nobody dials before.
    scattered_until: Instant,
    seed: u64,
}

/// Dials fail.
#[derive(Debug)]
struct Trouble {
    since: Instant,
    until: Instant,
    refusal: Refusal,
    /// It is the number of connections that the server does not want.
    is_full: bool,
    backoff: Backoff,
}

impl Book {
    fn new(now: Instant, seed: u64) -> Self {
        Self {
            waiting: BTreeSet::new(),
            next: 0,
            dialing: 0,
            opens: Bucket::default(),
            logins: Bucket::default(),
            failures: 0,
            trouble: None,
            proved_at: None,
            scattered_until: now,
            seed,
        }
    }

    fn join(&mut self, wish: Wish) -> Place {
        self.next += 1;
        let rank = (wish, self.next);
        self.waiting.insert(rank);
        Place {
            rank,
            failures: self.failures,
        }
    }

    fn leave(&mut self, place: Place) {
        self.waiting.remove(&place.rank);
    }

    fn look(&mut self, now: Instant, place: Place, terms: Terms, is_alone: bool) -> Look {
        if let Some(trouble) = &self.trouble
            && (self.failures > place.failures || now < trouble.until)
        {
            return Look::Refused(trouble.refusal.clone());
        }
        let is_proved = self.proved_at.is_some_and(|at| now < at + PROOF);
        let one_at_a_time = self.trouble.is_some() || is_alone && !is_proved;
        let most = if one_at_a_time { 1 } else { MAX_DIALS };
        if self.dialing >= most || self.first_beside(place.rank.0) != Some(place.rank) {
            return Look::Later;
        }
        if now < self.scattered_until {
            return Look::At(self.scattered_until);
        }
        let bucket = match place.rank.0 {
            Wish::Login => &mut self.logins,
            _ => &mut self.opens,
        };
        if let Some(at) = bucket.take(now, terms) {
            return Look::At(at);
        }
        self.dialing += 1;
        Look::Go
    }

    /// Whose turn it is among those who take from the same bucket.
    fn first_beside(&self, wish: Wish) -> Option<(Wish, u64)> {
        let logins = || self.waiting.range((Wish::Login, 0)..(Wish::Tracked, 0));
        if wish == Wish::Login {
            return logins().next().copied();
        }
        let before = self.waiting.range(..(Wish::Login, 0)).next();
        let behind = || self.waiting.range((Wish::Tracked, 0)..).next();
        before.or_else(behind).copied()
    }

    fn succeed(&mut self, now: Instant) {
        self.proved_at = Some(now);
        self.trouble = None;
    }

    /// A dial that began after `failures` verdicts has failed.
    fn fail(
        &mut self,
        now: Instant,
        refusal: &Refusal,
        failures: u64,
        terms: Terms,
        connections: i64,
    ) {
        if failures != self.failures {
            return; // it began before the verdict that is in force, and says nothing new
        }
        self.failures += 1;
        let is_full = refusal.cause == ConnectFailure::MaxClients;
        let seed = self.next_seed();
        let known = self.trouble.take();
        let since = known.as_ref().map_or(now, |known| known.since);
        let mut backoff = match known {
            Some(known) if known.is_full == is_full => known.backoff,
            _ => terms.backoff(is_full, connections, seed),
        };
        let mut pause = backoff.next_pause();
        if is_full {
            pause += terms.backoff_min; // never at once: nothing has changed
        }
        self.trouble = Some(Trouble {
            since,
            until: now + pause,
            refusal: refusal.clone(),
            is_full,
            backoff,
        });
    }

    fn scatter(&mut self, now: Instant, terms: Terms) {
        if now < self.scattered_until {
            return;
        }
        let seed = self.next_seed();
        let (min, max) = (terms.backoff_min, terms.backoff_max);
        self.scattered_until = now + Backoff::new(min, max, seed).next_pause();
    }

    fn next_seed(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.seed
    }
}

/// Opens that may be made now.
#[derive(Debug, Default)]
struct Bucket {
    /// Grows with time up to the burst.
    tokens: f64,
    counted_at: Option<Instant>,
}

impl Bucket {
    /// Takes one; else when there will be one.
    fn take(&mut self, now: Instant, terms: Terms) -> Option<Instant> {
        let rate = terms.per_second as f64;
        let grown = match self.counted_at.replace(now) {
            None => terms.burst(),
            Some(before) => now.saturating_duration_since(before).as_secs_f64() * rate,
        };
        self.tokens = (self.tokens + grown).min(terms.burst());
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return None;
        }
        let missing = Duration::from_secs_f64((1.0 - self.tokens) / rate);
        // Rounding must not make it an instant too early, again and again.
        Some(now + missing + Duration::from_millis(1))
    }
}

impl Terms {
    fn backoff(self, is_full: bool, connections: i64, seed: u64) -> Backoff {
        let (min, max) = (self.backoff_min, self.backoff_max);
        match (is_full, connections > 0) {
            (false, _) => Backoff::new(min, max, seed),
            (true, true) => Backoff::new(min * FULL_MIN, max * FULL_MAX, seed),
            (true, false) => Backoff::new(min * FULL_MIN, max * FULL_MAX_WITHOUT, seed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms {
        per_second: 20,
        backoff_min: Duration::from_millis(50),
        backoff_max: Duration::from_secs(5),
    };

    fn refusal(cause: ConnectFailure) -> Refusal {
        Refusal {
            cause,
            message: "no".to_owned(),
            only_this_key: false,
        }
    }

    fn book() -> (Book, Instant) {
        let now = Instant::now();
        (Book::new(now, 42), now)
    }

    /// Enters and leaves the line.
    fn go(book: &mut Book, now: Instant, is_alone: bool) -> Look {
        let place = book.join(Wish::Shared);
        let look = book.look(now, place, TERMS, is_alone);
        book.leave(place);
        look
    }

    /// Dials that are made within `seconds` if there is always somebody who wants one; `outcome` is what
    /// they find.
    fn dials(book: &mut Book, from: Instant, seconds: u64, outcome: Option<ConnectFailure>) -> u64 {
        let (mut now, mut made) = (from, 0);
        while now < from + Duration::from_secs(seconds) {
            match go(book, now, outcome.is_some()) {
                Look::Go => {
                    made += 1;
                    match outcome {
                        None => book.succeed(now),
                        Some(cause) => {
                            let failures = book.failures;
                            book.fail(now, &refusal(cause), failures, TERMS, 0);
                        }
                    }
                    book.dialing -= 1;
                }
                Look::Later => panic!("nobody else is there"),
                Look::At(_) | Look::Refused(_) => now += Duration::from_millis(1),
            }
        }
        made
    }

    #[test]
    fn a_healthy_server_sees_the_rate_and_a_burst() {
        let (mut book, now) = book();
        let made = dials(&mut book, now, 10, None);
        assert!((200..=211).contains(&made), "{made}");
        let (mut fresh, now) = super::tests::book();
        let mut at_once = 0;
        while go(&mut fresh, now, false) == Look::Go {
            fresh.dialing -= 1;
            at_once += 1;
        }
        assert_eq!(at_once, 10);
    }

    #[test]
    fn a_server_that_is_down_for_a_minute_sees_few_dials_however_many_ask() {
        for seed in 0..200 {
            let (mut book, now) = book();
            book.seed = seed;
            let made = dials(&mut book, now, 60, Some(ConnectFailure::Tcp));
            assert!((15..=45).contains(&made), "{made} with seed {seed}");
        }
    }

    #[test]
    fn a_connection_limit_is_asked_about_less_often() {
        for seed in 0..200 {
            let (mut book, now) = book();
            book.seed = seed;
            let made = dials(&mut book, now, 60, Some(ConnectFailure::MaxClients));
            assert!((5..=27).contains(&made), "{made} with seed {seed}");
        }
    }

    #[test]
    fn while_nothing_is_up_one_dials_and_its_verdict_is_everybodys() {
        let (mut book, now) = book();
        let first = book.join(Wish::Shared);
        let second = book.join(Wish::Shared);
        assert_eq!(book.look(now, first, TERMS, true), Look::Go);
        book.leave(first);
        assert_eq!(book.look(now, second, TERMS, true), Look::Later);
        book.fail(now, &refusal(ConnectFailure::Tcp), 0, TERMS, 0);
        book.dialing -= 1;
        let refused = Look::Refused(refusal(ConnectFailure::Tcp));
        // Also who looks only after the pause.
        let late = now + Duration::from_secs(60);
        assert_eq!(book.look(late, second, TERMS, true), refused);
        book.leave(second);
        // After it, one again; a success lets the others go.
        let (third, fourth) = (book.join(Wish::Shared), book.join(Wish::Leased));
        assert_eq!(book.look(late, third, TERMS, true), Look::Go);
        book.leave(third);
        assert_eq!(book.look(late, fourth, TERMS, true), Look::Later);
        book.succeed(late);
        assert_eq!(book.look(late, fourth, TERMS, true), Look::Go);
    }

    #[test]
    fn shared_connections_pass_those_of_single_sessions() {
        let (mut book, now) = book();
        let (lease, shared) = (book.join(Wish::Leased), book.join(Wish::Shared));
        assert_eq!(book.look(now, lease, TERMS, false), Look::Later);
        assert_eq!(book.look(now, shared, TERMS, false), Look::Go);
        book.leave(shared);
        assert_eq!(book.look(now, lease, TERMS, false), Look::Go);
    }

    #[test]
    fn no_more_than_a_few_dials_are_in_flight() {
        let (mut book, now) = book();
        let fast = Terms {
            per_second: 1000,
            ..TERMS
        };
        for _ in 0..MAX_DIALS {
            let place = book.join(Wish::Leased);
            assert_eq!(book.look(now, place, fast, false), Look::Go);
            book.leave(place);
        }
        let place = book.join(Wish::Leased);
        assert_eq!(book.look(now, place, fast, false), Look::Later);
    }

    #[test]
    fn dials_that_fail_together_count_once() {
        let (mut book, now) = book();
        for _ in 0..MAX_DIALS {
            book.fail(now, &refusal(ConnectFailure::Timeout), 0, TERMS, 0);
        }
        assert_eq!(book.failures, 1);
        let until = book.trouble.as_ref().expect("trouble").until;
        assert!(until <= now + TERMS.backoff_min);
    }

    #[tokio::test]
    async fn a_wish_that_is_given_up_leaves_the_line_and_a_dial_its_place() {
        let gate = Gate::new(Arc::default(), 1);
        let config = Arc::new(crate::upstream::tests::config());
        let enter = |wish| gate.enter(wish, || config.clone(), || true);
        let first = enter(Wish::Shared).await.expect("nobody else is there");
        let brief = tokio::time::timeout(Duration::from_millis(5), enter(Wish::Shared));
        assert!(brief.await.is_err());
        assert_eq!(gate.stats.opens_waiting.load(Relaxed), 0);
        assert!(gate.book().waiting.is_empty());
        let (second, ()) = tokio::join!(enter(Wish::Leased), async {
            tokio::task::yield_now().await;
            drop(first);
        });
        assert!(second.is_ok());
    }
}
