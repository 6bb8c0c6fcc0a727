//! Users and passwords that clients have presented, and what the server thinks of them.
//!
//! With `upstream.auth = "passthrough"` every client's commands travel on connections that were opened
//! in its own name. A [`Login`] is one pair of user and password with the number that stands for it in
//! a [`LaneKey`]: equal pairs have equal numbers while anybody uses them, another password is another
//! number, and a number is never given twice. So a connection that was opened with the right password
//! can never be reached with a wrong one.
//!
//! A login lives as long as somebody holds it: the sessions that it belongs to, a client that is just
//! presenting it, and the connections that are up or being opened in its name. Then it is forgotten.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::conn::Conn;
use super::handshake::Credentials;
use super::reply_to::{Failure, Owner, ReplyTo};
use super::serve::push_own;
use super::{IdentityId, LaneKey};
use crate::resp::encode;
use crate::secret::Secret;

/// For how long a refusal is repeated before the server is asked again.
pub(super) const SAME_ANSWER: Duration = Duration::from_millis(500);

/// So many refusals are remembered at most.
const MAX_REFUSALS: usize = 1024;

/// The user that a password alone is for.
const DEFAULT_USER: &[u8] = b"default";

/// A user and its password.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Pair {
    user: Box<[u8]>,
    password: Secret,
}

/// A user and password that somebody uses.
#[derive(Debug)]
pub struct Login {
    id: IdentityId,
    pair: Arc<Pair>,
    home: Weak<Logins>,
}

/// All logins of the process.
#[derive(Debug, Default)]
pub struct Logins {
    state: Mutex<State>,
    hasher: RandomState,
}

#[derive(Debug, Default)]
struct State {
    /// The last number given.
    last: u32,
    by_pair: HashMap<Arc<Pair>, (IdentityId, Weak<Login>)>,
    by_id: HashMap<IdentityId, Weak<Login>>,
    /// What the server said no to, by hash, until when that stands.
    refusals: HashMap<u64, (String, Instant)>,
}

impl Login {
    /// The number that stands for it in lane keys.
    pub fn id(&self) -> IdentityId {
        self.id
    }

    /// The user's name.
    pub fn user(&self) -> &[u8] {
        &self.pair.user
    }

    /// Whether it is of this user and password.
    pub fn is_of(&self, user: &[u8], password: &[u8]) -> bool {
        *self.pair.user == *user && self.pair.password.matches(password)
    }

    /// What a connection in its name has to prove.
    pub fn credentials(&self) -> Credentials {
        let user = &*self.pair.user;
        Credentials {
            // Servers before 6 know passwords only.
            username: (user != DEFAULT_USER).then(|| user.to_vec()),
            password: Some(self.pair.password.clone()),
        }
    }

    /// The command that has the server judge the pair anew; `None` if there is no such form.
    pub fn request(&self, form: Form) -> Option<Vec<u8>> {
        let (user, password) = (&*self.pair.user, self.pair.password.expose_bytes());
        let mut request = Vec::new();
        match form {
            Form::User => encode::command(&mut request, &[b"AUTH", user, password]),
            Form::PasswordAlone if user == DEFAULT_USER => {
                encode::command(&mut request, &[b"AUTH", password]);
            }
            Form::PasswordAlone => return None,
        }
        Some(request)
    }
}

/// The forms of AUTH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// With a user's name.
    User,
    /// Without: all that servers before 6 know.
    PasswordAlone,
}

impl Drop for Login {
    fn drop(&mut self) {
        if let Some(home) = self.home.upgrade() {
            home.forget(self);
        }
    }
}

impl Logins {
    /// The login of this pair: the one that is there, or a new one. `None` when all numbers are given.
    pub fn intern(self: &Arc<Self>, user: &[u8], password: &[u8]) -> Option<Arc<Login>> {
        let pair = Arc::new(Pair {
            user: user.into(),
            password: Secret::new(password),
        });
        let mut state = self.lock();
        if let Some((_, login)) = state.by_pair.get(&pair)
            && let Some(login) = login.upgrade()
        {
            return Some(login);
        }
        state.last = state.last.checked_add(1)?;
        let login = Arc::new(Login {
            id: IdentityId(state.last),
            pair: pair.clone(),
            home: Arc::downgrade(self),
        });
        let weak = Arc::downgrade(&login);
        state.by_id.insert(login.id, weak.clone());
        state.by_pair.insert(pair, (login.id, weak));
        Some(login)
    }

    /// The login of this number, while anybody uses it.
    pub fn get(&self, id: IdentityId) -> Option<Arc<Login>> {
        self.lock().by_id.get(&id)?.upgrade()
    }

    /// Somebody uses connections of this identity. Once no, never again yes.
    pub fn is_alive(&self, id: IdentityId) -> bool {
        id == IdentityId::OWN || self.lock().by_id.contains_key(&id)
    }

    /// What the server has said no with just now, when it was asked for a connection like this.
    /// With it, until when that is the answer.
    pub fn refusal(&self, login: &Login, key: LaneKey) -> Option<(String, Instant)> {
        let hash = self.hash(login, key);
        let refusal = self.lock().refusals.get(&hash).cloned();
        refusal.filter(|(_, until)| *until > Instant::now())
    }

    /// The server has said no; that stands for a moment, so that it is not asked by many at once.
    pub fn refuse(&self, login: &Login, key: LaneKey, text: &str) {
        let hash = self.hash(login, key);
        let now = Instant::now();
        let mut state = self.lock();
        state.refusals.retain(|_, (_, until)| *until > now);
        if state.refusals.len() < MAX_REFUSALS {
            state
                .refusals
                .insert(hash, (text.to_owned(), now + SAME_ANSWER));
        }
    }

    /// Of a refused pair nothing is kept but this.
    fn hash(&self, login: &Login, key: LaneKey) -> u64 {
        self.hasher.hash_one((&login.pair, key.db, key.protocol))
    }

    fn forget(&self, login: &Login) {
        let mut state = self.lock();
        state.by_id.remove(&login.id);
        // The pair may have been presented again since, under a new number.
        if state
            .by_pair
            .get(&login.pair)
            .is_some_and(|(id, _)| *id == login.id)
        {
            state.by_pair.remove(&login.pair);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the server says of a command, of whose reply only an error counts. Nothing comes when the
/// connection is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may be done.
    Yes,
    /// The error that the server gave.
    No(String),
    /// The server did not answer in time.
    Late,
}

/// A question to the server whose answer is for the proxy; shared by the copies of its run's owner.
#[derive(Clone, Debug)]
pub struct Question(Rc<RefCell<Option<oneshot::Sender<Verdict>>>>);

impl Question {
    /// Takes the whole reply.
    pub(super) fn answer(&self, reply: &[u8]) {
        self.settle(match reply.strip_prefix(b"-") {
            None => Verdict::Yes,
            Some(text) => Verdict::No(String::from_utf8_lossy(text).trim_end().to_owned()),
        });
    }

    /// There will be no reply.
    pub(super) fn fail(&self, failure: &Failure) {
        if let Failure::Timeout(_) = failure {
            self.settle(Verdict::Late);
        }
    }

    fn settle(&self, verdict: Verdict) {
        if let Some(asking) = self.0.take() {
            // Whoever asked may be gone.
            let _ = asking.send(verdict);
        }
    }
}

impl<W: ReplyTo> Conn<W> {
    /// Asks the server something on this connection that leaves no trace on it.
    pub fn ask(self: &Rc<Self>, command: &[u8], answer: oneshot::Sender<Verdict>) {
        let question = Question(Rc::new(RefCell::new(Some(answer))));
        {
            let mut core = self.core.borrow_mut();
            core.last_used = self.link.now();
            push_own(&mut core, &self.link, command, Owner::Question(question));
        }
        self.wake_or_start();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::Protocol;

    fn key(login: &Login, db: u32) -> LaneKey {
        LaneKey {
            db,
            protocol: Protocol::Resp2,
            identity: login.id(),
        }
    }

    #[test]
    fn equal_pairs_are_one_login_and_another_password_is_another() {
        let logins = Arc::new(Logins::default());
        let one = logins.intern(b"alice", b"right").expect("a number");
        let same = logins.intern(b"alice", b"right").expect("a number");
        let wrong = logins.intern(b"alice", b"wrong").expect("a number");
        // Nothing is joined that would make two pairs look alike.
        let moved = logins.intern(b"alic", b"eright").expect("a number");
        assert_eq!(one.id(), same.id());
        assert_ne!(one.id(), wrong.id());
        assert_ne!(one.id(), moved.id());
        assert!(one.is_of(b"alice", b"right") && !one.is_of(b"alice", b"wrong"));
        for login in [one, wrong, moved] {
            assert_ne!(login.id(), IdentityId::OWN);
        }
    }

    #[test]
    fn what_nobody_uses_is_forgotten_and_its_number_is_not_given_again() {
        let logins = Arc::new(Logins::default());
        let mut numbers = std::collections::HashSet::new();
        for _ in 0..3 {
            let login = logins.intern(b"alice", b"pw").expect("a number");
            let id = login.id();
            assert!(numbers.insert(id), "given twice");
            let held = logins.get(id).expect("alive");
            drop(login);
            assert!(logins.is_alive(id), "a connection still holds it");
            drop(held);
            assert!(!logins.is_alive(id) && logins.get(id).is_none());
        }
        let state = logins.lock();
        assert!(state.by_pair.is_empty() && state.by_id.is_empty());
        drop(state);
        assert!(logins.is_alive(IdentityId::OWN));
    }

    #[test]
    fn many_threads_agree_on_numbers() {
        let logins = Arc::new(Logins::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..2000_u32 {
                        let user = (round % 3).to_string();
                        let login = logins.intern(user.as_bytes(), b"pw").expect("a number");
                        let found = logins.get(login.id()).expect("held");
                        assert!(found.is_of(user.as_bytes(), b"pw"));
                    }
                });
            }
        });
        assert!(logins.lock().by_pair.is_empty() && logins.lock().by_id.is_empty());
    }

    #[test]
    fn a_refusal_is_of_one_pair_and_one_kind_of_connection() {
        let logins = Arc::new(Logins::default());
        let wrong = logins.intern(b"alice", b"wrong").expect("a number");
        let right = logins.intern(b"alice", b"right").expect("a number");
        logins.refuse(&wrong, key(&wrong, 0), "WRONGPASS no");
        let (text, until) = logins.refusal(&wrong, key(&wrong, 0)).expect("remembered");
        assert_eq!(text, "WRONGPASS no");
        assert!(until <= Instant::now() + SAME_ANSWER);
        assert_eq!(logins.refusal(&right, key(&right, 0)), None);
        assert_eq!(logins.refusal(&wrong, key(&wrong, 1)), None);
        drop(wrong);
        let again = logins.intern(b"alice", b"wrong").expect("a number");
        assert!(
            logins.refusal(&again, key(&again, 0)).is_some(),
            "a new number does not make it forgotten"
        );
        for round in 0..2 * MAX_REFUSALS {
            logins.refuse(&again, key(&again, round as u32), "WRONGPASS no");
        }
        assert!(logins.lock().refusals.len() <= MAX_REFUSALS);
    }

    #[test]
    fn no_password_is_printed() {
        let logins = Arc::new(Logins::default());
        let login = logins.intern(b"alice", b"c4n4ry").expect("a number");
        let text = format!("{login:?} {logins:?} {:?}", login.credentials());
        assert!(!text.contains("c4n4ry"), "{text}");
        // As bytes it would read "99, 52, 110".
        assert!(!text.contains("99, 52"), "{text}");
    }

    #[test]
    fn a_password_alone_is_the_default_users() {
        let logins = Arc::new(Logins::default());
        let default = logins.intern(b"default", b"pw").expect("a number");
        let alice = logins.intern(b"alice", b"\xff\x00").expect("a number");
        assert_eq!(default.credentials().username, None);
        assert_eq!(alice.credentials().username.as_deref(), Some(&b"alice"[..]));
        assert_eq!(
            alice.request(Form::User).expect("a form"),
            b"*3\r\n$4\r\nAUTH\r\n$5\r\nalice\r\n$2\r\n\xff\x00\r\n"
        );
        assert_eq!(alice.request(Form::PasswordAlone), None);
        assert_eq!(
            default.request(Form::PasswordAlone).expect("a form"),
            b"*2\r\n$4\r\nAUTH\r\n$2\r\npw\r\n"
        );
    }
}
