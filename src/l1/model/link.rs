//! The network: bytes in order, in pieces of any size, at any time, or never.

use std::collections::{BTreeMap, VecDeque};

use super::server::Server;
use super::truth::Position;
use crate::resp::request::{self, Limits, RequestScanner, Scan};

/// When writes that were numbered were executed.
pub type Executed = BTreeMap<usize, Position>;

/// One connection between proxy and server.
#[derive(Debug)]
pub struct Link {
    /// What the server calls it.
    pub conn: usize,
    /// On its way to the server.
    up: VecDeque<u8>,
    /// What the server has of a command that is not whole.
    begun: Vec<u8>,
    /// The numbers of the commands on their way, where they have one.
    numbers: VecDeque<Option<usize>>,
    /// Nothing moves.
    pub silent: bool,
}

impl Link {
    pub fn new(conn: usize) -> Self {
        Self {
            conn,
            up: VecDeque::new(),
            begun: Vec::new(),
            numbers: VecDeque::new(),
            silent: false,
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.up.extend(bytes);
    }

    pub fn number(&mut self, numbers: impl IntoIterator<Item = Option<usize>>) {
        self.numbers.extend(numbers);
    }

    /// Bytes on their way to the server.
    pub fn up(&self) -> usize {
        if self.silent { 0 } else { self.up.len() }
    }

    /// Bytes on their way to the proxy.
    pub fn down(&self, server: &Server) -> usize {
        match self.silent {
            true => 0,
            false => server.conns[self.conn].out.len(),
        }
    }

    /// So many bytes reach the server, which executes what is whole.
    pub fn serve(&mut self, n: usize, server: &mut Server, executed: &mut Executed) {
        self.begun.extend(self.up.drain(..n));
        loop {
            let mut scanner = RequestScanner::new();
            let scan = scanner.scan(&self.begun, &Limits::default());
            let Ok(Scan::Complete { consumed, .. }) = scan else {
                return;
            };
            let command: Vec<u8> = self.begun.drain(..consumed).collect();
            let words = words(&command);
            server.note(self.conn, &words);
            server.execute(self.conn, words);
            if let Some(number) = self.numbers.pop_front().flatten() {
                executed.insert(number, server.truth.position);
            }
        }
    }

    /// So many bytes reach the proxy.
    pub fn take(&self, n: usize, server: &mut Server) -> Vec<u8> {
        let out = &mut server.conns[self.conn].out;
        let n = n.min(out.len());
        out.drain(..n).collect()
    }
}

/// The words of a whole command.
pub fn words(command: &[u8]) -> Vec<String> {
    let text = |word: &[u8]| String::from_utf8_lossy(word).into_owned();
    request::args(command).map(text).collect()
}

/// Whole commands in a row.
pub fn commands(mut bytes: &[u8]) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    while let Ok(Scan::Complete { consumed, .. }) =
        RequestScanner::new().scan(bytes, &Limits::default())
    {
        all.push(words(&bytes[..consumed]));
        bytes = &bytes[consumed..];
    }
    all
}
