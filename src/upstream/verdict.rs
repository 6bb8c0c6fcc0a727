//! What is known of the upstream: the verdict that dialing leaves behind, for the log, `/health` and the
//! metrics.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::dial::Dialer;
use super::facts::Identity;
use super::handshake::Refusal;
use super::stream::Stream;
use crate::stats::UpstreamState;

impl Dialer {
    /// Draws the conclusions from one attempt to connect.
    pub(super) fn note(&self, result: &Result<(Stream, Identity), Refusal>) {
        let state = match result {
            Ok(_) => {
                self.stats.connects.fetch_add(1, Ordering::Relaxed);
                UpstreamState::Up
            }
            Err(refusal) if refusal.only_this_key => {
                self.count_failure(refusal);
                UpstreamState::Up
            }
            Err(refusal) => {
                self.count_failure(refusal);
                if self.established.load(Ordering::Relaxed) > 0 {
                    return; // The server is there; this connection is not to be had.
                }
                self.facts.fail();
                UpstreamState::Down {
                    cause: refusal.cause,
                    message: refusal.message.clone(),
                }
            }
        };
        self.set_state(state);
    }

    fn count_failure(&self, refusal: &Refusal) {
        self.stats.connect_failures[refusal.cause as usize].fetch_add(1, Ordering::Relaxed);
        tracing::debug!(
            cause = refusal.cause.as_str(),
            "connection refused: {}",
            refusal.message
        );
    }

    /// Publishes a verdict; logs when it changes, once and not per command.
    pub fn set_state(&self, new: UpstreamState) {
        let mut state = self
            .stats
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *state == new {
            return;
        }
        match (&*state, &new) {
            (_, UpstreamState::Down { cause, message }) => {
                tracing::warn!(cause = cause.as_str(), address = %self.config().address, "upstream unreachable: {message}");
            }
            (_, UpstreamState::Up) => {
                tracing::info!(address = %self.config().address, "upstream reachable");
            }
            (_, UpstreamState::Unknown) => {}
        }
        *state = new;
    }
}
