//! What a call does to keys, as far as those care who keep copies of their values.

use super::flags::Flags;
use super::keys::Keys;
use super::{CommandId, Spec};

/// What a call does to keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effect {
    /// Nothing, and its reply tells nothing of any.
    #[default]
    None,
    /// Its reply tells of the keys it names.
    Reads,
    /// It may change the keys it names.
    Writes,
    /// Its reply tells of keys that are there.
    Finds,
    /// Its reply may tell of any key.
    ReadsAny,
    /// It may change any key.
    WritesAny,
    /// A script: it names the keys it should keep to, and could reach others.
    Script {
        /// The server lets it change nothing.
        reads_only: bool,
    },
}

impl Spec {
    /// What a call does to keys. A container is judged by its subcommands.
    #[inline]
    pub fn effect(&self) -> Effect {
        self.effect
    }

    pub(super) fn set_effect(&mut self, id: CommandId) {
        self.id = id;
        self.effect = self.judge_effect();
    }

    fn judge_effect(&self) -> Effect {
        let has = |flags| self.flags.intersects(flags);
        let named = !matches!(
            self.keys,
            Keys::None | Keys::Channels { .. } | Keys::Unknown
        );
        let is_read = self.is_read();
        match &*self.name {
            "EVAL" | "EVALSHA" | "FCALL" => return Effect::Script { reads_only: false },
            "EVAL_RO" | "EVALSHA_RO" | "FCALL_RO" => return Effect::Script { reads_only: true },
            "SCAN" | "RANDOMKEY" | "DBSIZE" => return Effect::Finds,
            "KEYS" => return Effect::ReadsAny, // it tells of those that are not there, too
            // Its other key has the same name, in another database.
            "MOVE" => return Effect::Writes,
            name if name.starts_with("FUNCTION|") => return Effect::None,
            _ => {}
        }
        if has(Flags::OTHER_KEYS) || self.keys == Keys::Unknown {
            return match is_read {
                true => Effect::ReadsAny,
                false => Effect::WritesAny,
            };
        }
        match (is_read, named) {
            (true, true) => Effect::Reads,
            (true, false) => Effect::None,
            (false, true) => Effect::Writes,
            (false, false) if has(Flags::WRITE | Flags::LEARNED) => Effect::WritesAny,
            (false, false) => Effect::None,
        }
    }
}
