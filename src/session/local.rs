//! Commands that the session answers itself, with Redis's replies and error texts.

use std::task::Poll;

use super::{Env, Query, Router, Session, Verdict, errors};
use crate::commands::Spec;
use crate::resp::encode;

/// Redis lets a client say these before it has authenticated.
pub(super) fn allowed_before_auth(spec: &Spec) -> bool {
    matches!(&*spec.name, "AUTH" | "HELLO" | "QUIT" | "RESET")
}

impl Session {
    /// Answers `args` into `reply`. With [`Verdict::Hold`] nothing has changed and nothing was written.
    pub(super) fn execute<R: Router>(
        &mut self,
        spec: &Spec,
        args: &[&[u8]],
        reply: &mut Vec<u8>,
        env: &Env<'_>,
        router: &mut R,
    ) -> Verdict {
        self.last_command = spec.id();
        match &*spec.name {
            "PING" => match args.get(1) {
                // The table says "any number", the command itself checks.
                _ if args.len() > 2 => encode::error(reply, errors::wrong_arity(&spec.name)),
                message if self.is_gated() => {
                    encode::array_header(reply, 2);
                    encode::bulk(reply, b"pong");
                    encode::bulk(reply, message.copied().unwrap_or_default());
                }
                Some(message) => encode::bulk(reply, message),
                None => encode::simple(reply, "PONG"),
            },
            "ECHO" => encode::bulk(reply, args[1]),
            "QUIT" => {
                encode::simple(reply, "OK");
                return Verdict::Close;
            }
            "SELECT" => return self.select(args, reply, router),
            "AUTH" => return self.auth(args, reply, env, router),
            "HELLO" => return self.hello(args, reply, env, router),
            "RESET" => return self.reset(reply, env, router),
            "CLIENT" => return self.client(spec, args, reply, env, router),
            "NEARKEY" => return self.nearkey(args, reply, router),
            "INFO" => return answer_query(&Query::ProxyInfo, reply, router),
            _ => encode::error(reply, errors::denied(spec, args)),
        }
        Verdict::Done
    }
}

/// Asks the outside; the answer is the reply.
pub(super) fn answer_query<R: Router>(
    query: &Query,
    reply: &mut Vec<u8>,
    router: &mut R,
) -> Verdict {
    match router.poll_query(query) {
        Poll::Pending => Verdict::Hold,
        Poll::Ready(answer) => {
            reply.extend_from_slice(&answer);
            Verdict::Done
        }
    }
}

/// The reply of a HELP subcommand.
pub(super) fn help(reply: &mut Vec<u8>, lines: &[&str]) {
    encode::array_header(reply, lines.len());
    for line in lines {
        encode::simple(reply, line);
    }
}
