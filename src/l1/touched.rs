//! Which keys commands in flight may change or show.

use super::stamps::Place;

/// Which keys commands in flight may change or show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    places: Places,
    flags: u8,
}

/// Most runs are of one command with one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Places {
    #[default]
    None,
    One(Place),
    Many(Vec<Place>),
}

/// What a row takes that has more than one: a usual pipeline does not make it grow.
const ROW: usize = 16;

const WRITES: u8 = 1;
const EVERYTHING: u8 = 2;
const PRESENCE: u8 = 4;

impl Touched {
    /// Any key may be changed.
    pub fn everything() -> Self {
        Self {
            places: Places::None,
            flags: WRITES | EVERYTHING,
        }
    }

    /// No key of any kind.
    pub fn is_nothing(&self) -> bool {
        self.flags == 0 && matches!(self.places, Places::None)
    }

    /// A key is touched as well.
    #[inline]
    pub fn add(&mut self, place: Place, writes: bool) {
        self.flags |= u8::from(writes);
        match &mut self.places {
            Places::None => self.places = Places::One(place),
            Places::One(first) => {
                let mut places = Vec::with_capacity(ROW);
                places.extend([*first, place]);
                self.places = Places::Many(places);
            }
            Places::Many(places) => places.push(place),
        }
    }

    /// Any key may be shown or, if `writes`, changed.
    pub fn add_everything(&mut self, writes: bool) {
        self.flags |= EVERYTHING | u8::from(writes);
    }

    /// Keys are shown to be there.
    pub fn add_presence(&mut self) {
        self.flags |= PRESENCE;
    }

    /// What `other` touches is touched as well.
    pub fn join(&mut self, other: &Self) {
        self.flags |= other.flags;
        for place in other.places() {
            self.add(*place, false);
        }
    }

    /// Keys may be changed, not only shown.
    pub fn writes(&self) -> bool {
        self.flags & WRITES != 0
    }

    /// Any key may be touched.
    pub fn is_everything(&self) -> bool {
        self.flags & EVERYTHING != 0
    }

    /// Keys may be shown that were thought missing.
    pub fn shows_presence(&self) -> bool {
        self.flags & PRESENCE != 0
    }

    /// Where the stamps of the known keys are.
    pub fn places(&self) -> &[Place] {
        match &self.places {
            Places::None => &[],
            Places::One(place) => std::slice::from_ref(place),
            Places::Many(places) => places,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_commands_touch_is_touched_by_their_run() {
        let mut touched = Touched::default();
        assert!(touched.is_nothing());
        touched.add(Place(3), false);
        assert!(!touched.writes());
        let mut more = Touched::default();
        more.add(Place(4), true);
        more.add_presence();
        touched.join(&more);
        assert_eq!(touched.places(), [Place(3), Place(4)]);
        assert!(touched.writes() && touched.shows_presence() && !touched.is_everything());
        touched.join(&Touched::everything());
        assert!(touched.is_everything());
        assert!(size_of::<Touched>() <= 32);
    }
}
