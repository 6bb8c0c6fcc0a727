//! A password that was changed on the server: what was read from a file is read there again.

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
        // Where secrets are mounted a file can be slow; nobody else of this worker waits for it.
        let read = tokio::task::spawn_blocking(move || Secret::read(&path)).await;
        let Ok(Ok(secret)) = read else {
            if let Ok(Err(reason)) = read {
                tracing::debug!(reason, "the password was refused and cannot be read again");
            }
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
}
