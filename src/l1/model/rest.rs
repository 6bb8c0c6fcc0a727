//! What must be true when everything has come to rest.

use super::client::Ask;
use super::link::Link;
use super::truth::{Fault, NO_STRING, Wrong};
use super::world::{KEYS, World};
use crate::commands::Spec;
use crate::l1::Rule;

/// How often everything is let happen until it must have come to rest.
const PATIENT_ROUNDS: usize = 200;

impl World {
    /// Lets all come to rest, and then looks at every entry and every key.
    pub fn rest(&mut self) -> Result<(), Fault> {
        self.settle()?;
        for track in &mut self.tracks {
            if let Some(tracked) = &mut track.tracked {
                tracked.ping(self.now);
                track.write();
            }
        }
        self.settle()?;
        if self.server.swapped {
            return Ok(());
        }
        let exists = self.setting.table.lookup(b"EXISTS").map(Spec::id);
        for entry in self.l1.store.iter() {
            let linked = entry.tracker.link() == entry.link || !self.l1.keeps(Rule::LostLink);
            let stands = self.l1.stamps.stands(&entry.stamp, entry.absent);
            if !linked || !stands || entry.is_expired(self.now) {
                continue;
            }
            let name = String::from_utf8_lossy(entry.key()).into_owned();
            let now = self.server.truth.current(&(entry.scope.db, name.clone()));
            let held = String::from_utf8_lossy(entry.reply()).into_owned();
            let agrees = match &now {
                _ if Some(entry.command) == exists => {
                    held == format!(":{}\r\n", i32::from(now.is_some()))
                }
                None => held == "_\r\n",
                Some(value) if value == NO_STRING => entry.unfit && held.starts_with(NO_STRING),
                Some(value) => held.lines().nth(1) == Some(value) && !entry.unfit,
            };
            if !agrees {
                let text = format!("an entry of {name} holds {held:?}, the server {now:?}");
                return Err((Wrong::Rest, text));
            }
        }
        self.read_all()
    }

    /// Everybody reads every key: what was kept aside must be right as well.
    fn read_all(&mut self) -> Result<(), Fault> {
        for who in 0..self.clients.len() {
            for name in KEYS {
                let key = self.key(who, name);
                let position = self.server.truth.position;
                let from = self.server.truth.current_at(&key, position);
                self.judge.floors.insert(key.clone(), from);
                self.say(who, Ask::Get(key), &["GET", name]);
                self.settle()?;
            }
        }
        Ok(())
    }

    pub fn settle(&mut self) -> Result<(), Fault> {
        for _ in 0..PATIENT_ROUNDS {
            let lanes = self.lanes.iter_mut().filter_map(|lane| lane.link.as_mut());
            let tracks = self
                .tracks
                .iter_mut()
                .filter_map(|track| track.link.as_mut());
            for link in lanes.chain(tracks).chain(&mut self.zombies) {
                link.silent = false;
                link.serve(link.up(), &mut self.server, &mut self.executed);
            }
            for at in 0..self.lanes.len() {
                if self.lanes[at].link.is_none() {
                    self.open_lane(at);
                }
                let link = self.lanes[at].link.as_ref();
                let n = link.map_or(0, |link| link.down(&self.server));
                self.receive(at, n)?;
            }
            for at in 0..self.tracks.len() {
                let link = self.tracks[at].link.as_ref();
                let n = link.map_or(0, |link| link.down(&self.server));
                self.hear(at, n)?;
            }
            while !self.orders.is_empty() || !self.answers.is_empty() {
                self.pass_order();
                self.pass_answer();
            }
            for who in 0..self.clients.len() {
                self.feed(who);
                self.check(who)?;
            }
            if self.is_at_rest() {
                return Ok(());
            }
        }
        let waiting: Vec<_> = self.clients.iter().map(|client| &client.records).collect();
        Err((Wrong::Stuck, format!("{waiting:?}")))
    }

    fn is_at_rest(&self) -> bool {
        let moves = |link: &Option<Link>| {
            let link = link.as_ref();
            link.is_some_and(|link| link.up() + link.down(&self.server) > 0)
        };
        let asks = self.clients.iter().any(|client| !client.records.is_empty());
        !asks
            && !self.lanes.iter().any(|lane| moves(&lane.link))
            && !self.tracks.iter().any(|track| moves(&track.link))
            && self.orders.is_empty()
    }
}
