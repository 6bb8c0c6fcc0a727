//! Which reads L1 holds, and how their replies look in both protocols.

use crate::commands::{CommandTable, Spec};

/// How the reply to a read differs between RESP3, as it is held, and RESP2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Nothing that [`render`](super::render) needs to be told.
    Plain,
}

/// The reads that L1 holds, by command.
#[derive(Debug)]
pub struct Shapes {
    by_command: Vec<Option<Shape>>,
}

impl Shapes {
    /// The reads among the commands of a table, and of those extended from it.
    pub fn new(table: &CommandTable) -> Self {
        let shape = |spec: &Spec| matches!(&*spec.name, "GET").then_some(Shape::Plain);
        let mut by_command = vec![None; table.len() + 1];
        for spec in table {
            by_command[spec.id().index()] = shape(spec);
        }
        Self { by_command }
    }

    /// How the reply to this call looks, if L1 holds such. `args` are the other arguments, as bulk
    /// strings.
    #[inline]
    pub fn of(&self, spec: &Spec, argc: u32, args: &[u8]) -> Option<Shape> {
        let _ = (argc, args);
        *self.by_command.get(spec.id().index())?
    }
}
