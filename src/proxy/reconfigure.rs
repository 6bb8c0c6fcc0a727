//! Putting another configuration in force while the proxy runs.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use super::{Prepared, Proxy, clients_that_fit, prepared};
use crate::config::Config;
use crate::control::Control;
use crate::worker::{Mail, Worker};

impl Proxy {
    /// What operators steer.
    pub fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// Goes by `config` from here on, whose fixed settings are those in force. No connection of a client
    /// is lost by it. `moved` says that connections to the server have to be opened anew.
    pub async fn reconfigure(&self, config: Config, prepared: Prepared, moved: bool) {
        let config = Arc::new(config);
        let denied = self.gate.config.load().commands != config.commands;
        let table = prepared.table;
        self.gate.tls.store(prepared.acceptor.map(Arc::new));
        self.gate.config.store(config.clone());
        let fit = clients_that_fit(&config);
        self.gate.max_clients.store(fit, Ordering::Relaxed);
        self.dialer.reconfigure(
            config.upstream.clone(),
            prepared.connector,
            table.clone(),
            moved,
        );
        if let Some(l1) = &self.l1 {
            l1.reconfigure(config.cache.clone());
        }
        let settings = Arc::new(prepared::settings(&config, &self.budget));
        let table = denied.then_some(table);
        self.visit_all(|| {
            let (settings, limits, table) =
                (settings.clone(), prepared::limits(&config), table.clone());
            let (idle, late) = (config.listen.idle_timeout, config.listen.request_timeout);
            move |worker: &Rc<Worker>| {
                worker.reconfigure(settings, &limits, table);
                worker.watch_silence(idle);
                worker.watch_requests(late);
            }
        })
        .await;
        // Now that no worker goes by the old rules, nor reads where it has read before.
        if let Some(l1) = &self.l1 {
            l1.lose_all();
        }
    }

    /// Leaves the connections that lead elsewhere, those of one worker after those of the other.
    pub fn move_on(&self) -> impl Future<Output = ()> + use<> {
        let (gate, l1) = (self.gate.clone(), self.l1.clone());
        async move {
            let grace = gate.config.load().process.drain_timeout;
            for mailbox in &gate.mailboxes {
                let (send, receive) = oneshot::channel();
                let visit = move |worker: &Rc<Worker>| {
                    let worker = worker.clone();
                    tokio::task::spawn_local(async move {
                        worker.move_on(grace).await;
                        let _ = send.send(()); // nobody waits once the process ends
                    });
                };
                let _ = mailbox.send(Mail::Visit(Box::new(visit)));
                let _ = receive.await;
            }
            if let Some(l1) = l1 {
                l1.lose_all();
            }
            tracing::info!("connections lead to the configured server");
        }
    }

    /// Has something done on each worker's thread, and waits until it is.
    async fn visit_all<F>(&self, mut what: impl FnMut() -> F)
    where
        F: FnOnce(&Rc<Worker>) + Send + 'static,
    {
        let mut done = Vec::new();
        for mailbox in &self.gate.mailboxes {
            let (send, receive) = oneshot::channel();
            let act = what();
            let visit = move |worker: &Rc<Worker>| {
                act(worker);
                let _ = send.send(()); // nobody waits once the process ends
            };
            let _ = mailbox.send(Mail::Visit(Box::new(visit)));
            done.push(receive);
        }
        for done in done {
            let _ = done.await;
        }
    }
}
