//! How long a command that blocks wants to wait: an answer that is not there long after that will not come.

use crate::commands::Spec;
use crate::resp::request;

/// The longest wait that is kept in mind, in milliseconds: 49 days.
const LONGEST: f64 = u32::MAX as f64;

/// Milliseconds; 0 for as long as it takes, which is also said of what the server is going to refuse.
pub(super) fn asked_wait(spec: &Spec, command: &[u8]) -> u32 {
    let args: Vec<&[u8]> = request::args(command).collect();
    let (text, unit) = match &*spec.name {
        "BLMPOP" | "BZMPOP" => (args.get(1), 1000.0),
        "BLPOP" | "BRPOP" | "BZPOPMIN" | "BZPOPMAX" | "BLMOVE" | "BRPOPLPUSH" => {
            (args.last(), 1000.0)
        }
        "WAIT" | "WAITAOF" => (args.last(), 1.0),
        "XREAD" | "XREADGROUP" => {
            let block = args
                .iter()
                .position(|arg| arg.eq_ignore_ascii_case(b"BLOCK"));
            (block.and_then(|at| args.get(at + 1)), 1.0)
        }
        _ => (None, 1.0),
    };
    let number = text.and_then(|text| std::str::from_utf8(text).ok()?.parse::<f64>().ok());
    match number {
        Some(n) if n > 0.0 => (n * unit).ceil().min(LONGEST) as u32,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::CommandTable;
    use crate::resp::encode;

    #[test]
    fn a_wait_is_read_where_each_command_has_it() {
        let cases: &[(&str, u32)] = &[
            ("BLPOP a b 0.3", 300),
            ("BRPOP a 0", 0),
            ("BLMOVE a b LEFT RIGHT 2", 2000),
            ("BLMPOP 1.5 1 a LEFT", 1500),
            ("BZPOPMIN a 0.0001", 1),
            ("WAIT 1 50", 50),
            ("XREAD COUNT 2 block 70 STREAMS s $", 70),
            ("XREADGROUP GROUP g c BLOCK 0 STREAMS s >", 0),
            ("BLPOP a never", 0),
            ("BLPOP a -1", 0),
            ("BLPOP a 1e300", u32::MAX),
        ];
        let table = CommandTable::builtin();
        for (line, expected) in cases {
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            let mut command = Vec::new();
            encode::command(&mut command, &args);
            let spec = table.lookup(args[0]).expect("a known command");
            assert_eq!(asked_wait(spec, &command), *expected, "{line}");
        }
    }
}
