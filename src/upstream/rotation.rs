//! A password that was changed on the server: what was read from a file is read there again.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::timeout;

use super::dial::Dialer;
use super::handshake::Refusal;
use super::{IdentityId, LaneKey};
use crate::secret::Secret;
use crate::stats::ConnectFailure;

impl Dialer {
    /// The server has refused the proxy's own password, and the file holds another one by now, which is
    /// used from here on.
    pub(super) async fn is_password_renewed(&self, key: LaneKey, refusal: &Refusal) -> bool {
        let config = self.config().clone();
        let Some(path) = config.password_file.clone() else {
            return false;
        };
        if key.identity != IdentityId::OWN || refusal.cause != ConnectFailure::Auth {
            return false;
        }
        let Some(secret) = self.read_again(path, config.connect_timeout).await else {
            return false;
        };
        // Another connection may have been quicker.
        let current = self.config();
        if current.password.as_ref() == Some(&secret) {
            return config.password.as_ref() != Some(&secret);
        }
        drop(current);
        self.replace_password(&secret);
        tracing::info!("the password was read again: the server had refused the one before");
        true
    }

    /// What the file holds now. Where secrets are mounted it can be slow, or hang: nobody waits for longer
    /// than `limit`, and there is one read at a time.
    async fn read_again(&self, path: PathBuf, limit: Duration) -> Option<Secret> {
        let reading = self.reading.clone();
        if reading.swap(true, Ordering::AcqRel) {
            return None;
        }
        let read = tokio::task::spawn_blocking(move || {
            let secret = Secret::read(&path);
            reading.store(false, Ordering::Release);
            secret
        });
        match timeout(limit, read).await {
            Ok(Ok(Ok(secret))) => Some(secret),
            Ok(Ok(Err(reason))) => {
                tracing::debug!(reason, "the password was refused and cannot be read again");
                None
            }
            Ok(Err(_)) => None, // the process is ending
            Err(_) => {
                tracing::warn!(
                    "the password was refused, and upstream.password_file cannot be read: nothing comes"
                );
                None
            }
        }
    }
}
