//! What the server declares of a command, as a small bit set.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};

/// A set of command flags. The names are those of Redis's `COMMAND`, upper case.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Flags(u32);

impl Flags {
    /// No flag at all.
    pub const EMPTY: Self = Self(0);

    pub(super) const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// Whether every flag of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any flag of `other` is in this set.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The flag that a `COMMAND` reply spells `name`, in any case. Flags that decide nothing here
    /// (`skip_monitor`, `module`, those of the future) have none.
    pub fn named(name: &str) -> Option<Self> {
        // `movablekeys` is the one that Redis spells without an underscore.
        if name.eq_ignore_ascii_case("movablekeys") {
            return Some(Self::MOVABLE_KEYS);
        }
        NAMES
            .iter()
            .find(|(known, flag)| known.eq_ignore_ascii_case(name) && !OURS.contains(*flag))
            .map(|(_, flag)| *flag)
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.union(other)
    }
}

impl BitOrAssign for Flags {
    fn bitor_assign(&mut self, other: Self) {
        *self = self.union(other);
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = NAMES.iter().filter(|(_, flag)| self.contains(*flag));
        f.debug_set().entries(held.map(|(name, _)| name)).finish()
    }
}

/// Flags that no server declares.
const OURS: Flags = Flags(bits::OTHER_KEYS | bits::LEARNED);

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal;)*) => {
        /// The flags as plain numbers: `|` on them works where the table is built at compile time.
        pub(super) mod bits {
            $(pub(in super::super) const $name: u32 = 1 << $bit;)*
        }

        impl Flags {
            $($(#[$doc])* pub const $name: Self = Self(bits::$name);)*
        }

        const NAMES: &[(&str, Flags)] = &[$((stringify!($name), Flags::$name)),*];
    };
}

flags! {
    /// Reads keys and changes none.
    READONLY = 0;
    /// May change keys.
    WRITE = 1;
    /// Refused by a server that is out of memory.
    DENYOOM = 2;
    /// Administers the server.
    ADMIN = 3;
    /// Belongs to publish/subscribe.
    PUBSUB = 4;
    /// Not allowed in scripts.
    NOSCRIPT = 5;
    /// May wait.
    BLOCKING = 6;
    /// Allowed while the server loads its data.
    LOADING = 7;
    /// Allowed on a replica whose data is stale.
    STALE = 8;
    /// Constant or logarithmic time.
    FAST = 9;
    /// Allowed before authentication.
    NO_AUTH = 10;
    /// May be replicated although it is not a write: it can change something all the same.
    MAY_REPLICATE = 11;
    /// Not allowed between MULTI and EXEC.
    NO_MULTI = 12;
    /// The key positions depend on the arguments.
    MOVABLE_KEYS = 13;
    /// Answered even while a script keeps the server busy.
    ALLOW_BUSY = 14;
    /// Works on a slot that is being imported, without ASKING.
    ASKING = 15;
    /// Off unless the server's configuration allows it.
    PROTECTED = 16;
    /// Not allowed while a replica loads in the background.
    NO_ASYNC_LOADING = 17;
    /// Has key arguments, but may be called with none.
    NO_MANDATORY_KEYS = 18;
    /// Reads or changes values of keys that are not among its arguments (scripts, `SORT ... GET`,
    /// FLUSHALL), or that are in another database (MOVE, SWAPDB). No server declares this.
    OTHER_KEYS = 19;
    /// Not built in: known from the server's COMMAND reply alone. No server declares this.
    LEARNED = 20;
}
