//! The thread that works on the [store](super::store).

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, fence};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use super::entry::Entry;
use super::store::{Shared, weight};

/// Entries that may wait to be taken in.
const QUEUE: usize = 1024;

/// How long it rests after work, without being woken for more.
const NAP: Duration = Duration::from_millis(5);

/// How often the sweep goes on, while there are entries.
const TICK: Duration = Duration::from_secs(1);

/// In so many ticks it has been everywhere.
const LAP: u64 = 10;

/// And looks at no fewer entries in each.
const LEAST: usize = 64;

/// Inserts between two times that moka puts itself in order. A worker's look-up has to do it where it is
/// overdue, and must find little to do.
const BATCH: usize = 16;

/// What the thread is asked to do.
#[derive(Debug)]
pub(super) enum Work {
    Insert(Arc<Entry>),
    /// Take out all that is good no more, at once.
    Sweep,
    /// Say when all this is done.
    Settle(SyncSender<()>),
}

/// Works on the store.
struct Keeper<'a> {
    shared: &'a Shared,
    /// It must be woken for new work.
    asleep: &'a AtomicBool,
    /// What the sweep has not come to on this lap.
    ahead: Option<Box<dyn Iterator<Item = Arc<Entry>> + 'a>>,
    /// How many of the fronts' samples were passed on.
    samples: usize,
    /// Weight taken in since moka put itself in order.
    fresh: usize,
}

/// The way to the thread; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Queue {
    /// Only taken when this is dropped.
    sender: Option<SyncSender<Work>>,
    thread: Thread,
    asleep: Arc<AtomicBool>,
}

impl Queue {
    /// Starts the thread; `None` if that cannot be.
    pub(super) fn start(shared: Arc<Shared>) -> Option<Self> {
        let (sender, works) = sync_channel(QUEUE);
        let asleep = Arc::new(AtomicBool::new(false));
        let sleeper = asleep.clone();
        let run = move || Keeper::new(&shared, &sleeper).run(&works);
        let builder = thread::Builder::new().name("l1-store".to_owned());
        match builder.spawn(run) {
            Ok(started) => Some(Self {
                sender: Some(sender),
                thread: started.thread().clone(),
                asleep,
            }),
            Err(error) => {
                tracing::warn!(
                    %error,
                    "L1 keeps nothing: its thread cannot be started; raise the limit on threads"
                );
                None
            }
        }
    }

    /// Hands work over, if there is room. While the thread is about this takes no system call.
    pub(super) fn try_send(&self, work: Work) -> bool {
        let sent = self
            .sender
            .as_ref()
            .is_some_and(|sender| sender.try_send(work).is_ok());
        // The thread looks into the queue once more between saying that it sleeps and doing so.
        fence(SeqCst);
        if sent && self.asleep.load(Relaxed) && self.asleep.swap(false, SeqCst) {
            self.thread.unpark();
        }
        sent
    }

    /// Waits until all that was handed over is done.
    pub(super) fn settle(&self) {
        let (done, is_done) = sync_channel(1);
        let mut work = Work::Settle(done);
        while let Some(Err(TrySendError::Full(again))) =
            self.sender.as_ref().map(|sender| sender.try_send(work))
        {
            work = again;
            thread::yield_now();
        }
        self.thread.unpark();
        // It cannot fail but with the thread, which is done then.
        let _ = is_done.recv();
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.sender = None;
        self.thread.unpark();
    }
}

impl<'a> Keeper<'a> {
    fn new(shared: &'a Shared, asleep: &'a AtomicBool) -> Self {
        Self {
            shared,
            asleep,
            ahead: None,
            samples: 0,
            fresh: 0,
        }
    }

    fn run(mut self, works: &Receiver<Work>) {
        let mut due = Instant::now() + TICK;
        loop {
            let mut busy = false;
            loop {
                match works.try_recv() {
                    Ok(work) => self.handle(work, works),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
                busy = true;
            }
            if Instant::now() >= due {
                due = Instant::now() + TICK;
                self.pass_samples();
                let part = self.shared.cache.entry_count() / LAP;
                self.sweep(usize::try_from(part).unwrap_or(usize::MAX).max(LEAST));
                self.shared.relax();
                self.shared.stamps.retire_idle(self.shared.clock.now());
            }
            if busy {
                // More will come soon: to be woken for each would cost workers more than this does.
                thread::park_timeout(NAP);
            } else if let Some(work) = self.sleep(due, works) {
                self.handle(work, works);
            }
        }
    }

    /// Sleeps until there is work, or until it is time for the sweep. Work that came just before.
    fn sleep(&mut self, due: Instant, works: &Receiver<Work>) -> Option<Work> {
        self.asleep.store(true, SeqCst);
        fence(SeqCst);
        let work = works.try_recv();
        match work {
            Ok(_) | Err(TryRecvError::Disconnected) => {}
            Err(TryRecvError::Empty) if self.shared.cache.entry_count() == 0 => thread::park(),
            Err(TryRecvError::Empty) => {
                thread::park_timeout(due.saturating_duration_since(Instant::now()));
            }
        }
        self.asleep.store(false, SeqCst);
        work.ok()
    }

    /// Does what is asked, and what else waits already, up to a batch.
    fn handle(&mut self, first: Work, works: &Receiver<Work>) {
        self.pass_samples();
        let rest = works.try_iter().take(BATCH - 1);
        for work in std::iter::once(first).chain(rest) {
            match work {
                Work::Insert(entry) => self.insert(entry),
                Work::Sweep => {
                    self.ahead = None;
                    self.sweep(usize::MAX);
                }
                Work::Settle(done) => {
                    self.settle();
                    let _ = done.send(());
                }
            }
        }
        self.settle();
    }

    fn insert(&mut self, entry: Arc<Entry>) {
        let shared = self.shared;
        let weight = weight(&entry);
        shared.queued.fetch_sub(weight, Relaxed);
        if shared.is_pressed() || !shared.keeps(&entry, shared.clock.now()) {
            return;
        }
        // Its key was seen before, which moka may not have heard of: a read of a key that nothing was
        // armed for is not looked up.
        shared.cache.get(&entry.hash);
        shared.cache.get(&entry.hash);
        shared.cache.insert(entry.hash, entry);
        self.fresh += weight;
        // Large entries are in memory before moka weighs them.
        if self.fresh > 1 << 20 {
            self.settle();
        }
    }

    fn settle(&mut self) {
        self.fresh = 0;
        self.shared.cache.run_pending_tasks();
    }

    /// Tells moka of hits that fronts gave.
    fn pass_samples(&mut self) {
        let shared = self.shared;
        self.samples = shared.link.drain(self.samples, |hash| {
            shared.cache.get(&hash);
        });
    }

    /// Looks at up to `limit` more entries and takes out those that are good no more.
    fn sweep(&mut self, limit: usize) {
        let shared = self.shared;
        let now = shared.clock.now();
        let ahead = self
            .ahead
            .get_or_insert_with(|| Box::new(shared.cache.iter().map(|(_, entry)| entry)));
        let mut looked = 0;
        for entry in ahead.take(limit) {
            looked += 1;
            // Only this thread puts entries in: none can have come in its place.
            if !shared.keeps(&entry, now) {
                shared.note_swept(&entry);
                shared.cache.invalidate(&entry.hash);
            }
        }
        if looked < limit {
            self.ahead = None;
        }
        self.settle();
    }
}
