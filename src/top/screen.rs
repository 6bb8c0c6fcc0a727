//! The terminal: taken, drawn on when something changes, and given back as it was.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use ratatui::crossterm::execute;
use tokio::signal::unix::{SignalKind, signal};

use super::app::{Act, App, Order};
use super::draw::{self, Theme};
use super::source::{Answer, Source};
use super::{get, now_ms};

/// Time between two questions: the process takes a sample as often.
const STEP: Duration = Duration::from_secs(2);

/// Longest wait for a key; what was told meanwhile is drawn then.
const LOOK: Duration = Duration::from_millis(100);

/// Ages are drawn anew as often.
const TICK: Duration = Duration::from_secs(1);

type Told = Result<Answer, String>;

/// Shows the process at `admin` until a key or a signal ends it.
pub(super) fn show(admin: SocketAddr) -> Result<(), String> {
    let ended = watch_signals()?;
    let (wish, wishes) = mpsc::channel();
    let (tell, told) = mpsc::channel();
    thread::Builder::new()
        .name("ask".to_owned())
        .spawn(move || keep_asking(admin, &wishes, &tell))
        .map_err(|e| format!("cannot start a thread: {e}"))?;
    // From here on a panic gives the terminal back before it is told.
    let shown = ratatui::try_init().and_then(|mut terminal| {
        let mut app = App::new(admin.to_string());
        turn(&mut terminal, &mut app, &wish, &told, &ended)
    });
    let restored = ratatui::try_restore().and_then(|()| execute!(io::stdout(), Show));
    match (shown, restored) {
        // The terminal is gone, and this was told to go: nothing is left to do.
        _ if ended.load(Relaxed) => Ok(()),
        (Err(e), _) | (Ok(()), Err(e)) => Err(format!(
            "cannot draw on this terminal: {e}; `nearkey top --once` needs none"
        )),
        (Ok(()), Ok(())) => Ok(()),
    }
}

fn turn(
    terminal: &mut DefaultTerminal,
    app: &mut App,
    wish: &Sender<Order>,
    told: &Receiver<Told>,
    ended: &AtomicBool,
) -> io::Result<()> {
    let theme = Theme::of_environment();
    let mut drawn: Option<Instant> = None;
    while !ended.load(Relaxed) {
        if drawn.is_none_or(|at| at.elapsed() >= TICK) {
            drawn = Some(Instant::now());
            terminal.draw(|frame| draw::draw(app, theme, now_ms(), frame))?;
        }
        if event::poll(LOOK)? {
            drawn = None;
            match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => match app.press(key) {
                    Some(Act::Quit) => return Ok(()),
                    Some(Act::Ask) => wish.send(app.order).map_err(io::Error::other)?,
                    None => {}
                },
                _ => {}
            }
        }
        loop {
            match told.try_recv() {
                Ok(told) => app.take(told, now_ms()),
                Err(TryRecvError::Empty) => break,
                // It ends with a panic alone, which was told.
                Err(e @ TryRecvError::Disconnected) => return Err(io::Error::other(e)),
            }
            drawn = None;
        }
    }
    Ok(())
}

/// Asks every two seconds and at each wish, until nobody listens.
fn keep_asking(admin: SocketAddr, wishes: &Receiver<Order>, tell: &Sender<Told>) {
    let mut source = Source::new(get(admin));
    let mut order = Order::default();
    loop {
        let asked = Instant::now();
        if tell.send(source.ask(order)).is_err() {
            return;
        }
        match wishes.recv_timeout(STEP.saturating_sub(asked.elapsed())) {
            Ok(wish) => order = wishes.try_iter().last().unwrap_or(wish),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Becomes true when a signal asks for the end; without that, the terminal would be left as it is.
fn watch_signals() -> Result<Arc<AtomicBool>, String> {
    let failed = |e: io::Error| format!("cannot listen for signals: {e}");
    let ended = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let kinds = [
        SignalKind::terminate(),
        SignalKind::hangup(),
        SignalKind::interrupt(),
    ];
    let inside = runtime.enter();
    let signals: io::Result<Vec<_>> = kinds.into_iter().map(signal).collect();
    drop(inside);
    let [mut terminate, mut hangup, mut interrupt] = signals
        .map_err(failed)?
        .try_into()
        .map_err(|_| "cannot listen for signals".to_owned())?;
    let told = Arc::clone(&ended);
    let wait = move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        told.store(true, Relaxed);
    };
    let name = "signals".to_owned();
    thread::Builder::new()
        .name(name)
        .spawn(wait)
        .map_err(failed)?;
    Ok(ended)
}
