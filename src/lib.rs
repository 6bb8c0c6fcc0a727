//! Nearkey: a Redis-protocol sidecar proxy.
//!
//! It runs next to an application, speaks to unchanged Redis clients, and carries all of them over a few
//! connections to the real server.
//!
//! # The life of a command
//!
//! ```text
//! client socket -> worker::client -> session -> worker::route -> upstream::conn -> server
//!                                       |  local reply                  |
//! client socket <- worker::deliver <----+<------------- upstream::pipe <-
//! ```
//!
//! A client's task reads into the worker's scratch buffer and feeds its [`session`]. The session cuts
//! the bytes into commands, looks each up in the table of [`commands`], and hands rows of them on as
//! they came. The row gets one place in the [`upstream::pipe`] of the session's connection, and its
//! bytes leave with the next write, together with those of every other client that was ready. When
//! replies come back, the task that reads them writes them straight to the clients' sockets. No task,
//! channel or allocation per command lies on that way, and on one worker no thread is changed.
//!
//! # The layers
//!
//! | layer | modules | may not |
//! |---|---|---|
//! | the wire | [`resp`] | know anything above |
//! | facts about commands | [`commands`] | know sessions or connections |
//! | state machines | [`session`], [`hub`], [`upstream::pipe`], [`upstream::outbox`], [`upstream::handshake`], [`upstream::loss`], [`upstream::backoff`] | do I/O or look at the clock |
//! | sockets and tasks | the rest of [`upstream`], [`downstream`], [`worker`] | know the configuration's form |
//! | the program | [`config`], [`cli`], [`proxy`], [`admin`], [`telemetry`], [`reload`], [`watchdog`], [`healthcheck`], [`limits`], [`check`], [`plan`], [`top`] | |
//!
//! `tests/tidy.rs` holds the code to this.
//!
//! # Words
//!
//! *downstream* / *upstream*: the client side and the Redis side. *session*: one client connection.
//! *pipe*: the in-flight queue of one upstream connection. *run*: commands of one client that entered a
//! pipe together. *lane*: one of the shared connections for one database, protocol and identity. *leased*
//! connection: one that serves one session at a time. *tombstone*: a run whose owner is gone or has got
//! its error; it swallows the replies that come late. *hub*: the one connection that carries the
//! subscriptions of all clients. *identity*: whose name a connection is opened in; *login*: a client's
//! user and password that stand for one. *worker*: a thread with its clients and its
//! connections.

pub mod admin;
pub mod ask;
pub mod check;
pub mod cli;
pub mod commands;
pub mod config;
pub mod control;
pub mod downstream;
pub mod events;
pub mod faults;
pub mod healthcheck;
pub mod hub;
pub mod l1;
pub mod limits;
pub mod plan;
pub mod proxy;
pub mod reload;
pub mod resp;
pub mod sabotage;
pub mod secret;
pub mod session;
pub mod stats;
pub mod telemetry;
pub mod top;
pub mod upstream;
pub mod watchdog;
pub mod worker;
