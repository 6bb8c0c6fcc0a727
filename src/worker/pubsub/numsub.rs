//! PUBSUB NUMSUB over this proxy's clients.

use crate::hub::{Census, Kind};
use crate::resp::encode;
use crate::resp::reply::{self, Value};

/// The server's reply with this proxy's clients counted instead of its hubs; anything but pairs of
/// name and number passes unchanged.
pub fn adjust(frame: &[u8], kind: Kind, census: &Census) -> Vec<u8> {
    let Ok(Value::Array(elements)) = reply::decode(frame, 1) else {
        return frame.to_vec();
    };
    let mut adjusted = Vec::with_capacity(frame.len() + 16);
    encode::array_header(&mut adjusted, elements.len());
    for pair in elements.chunks(2) {
        let [Value::Bulk(name), Value::Int(count)] = pair else {
            return frame.to_vec();
        };
        encode::bulk(&mut adjusted, name);
        encode::integer(&mut adjusted, census.adjust(kind, name, *count));
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Name;

    #[test]
    fn clients_of_this_proxy_are_counted_and_errors_pass() {
        let census = Census::default();
        let name = Name {
            kind: Kind::Channel,
            bytes: (*b"a").into(),
        };
        census.count_client(&name, 2);
        let reply = b"*4\r\n$1\r\na\r\n:5\r\n$1\r\nb\r\n:1\r\n";
        assert_eq!(
            adjust(reply, Kind::Channel, &census),
            b"*4\r\n$1\r\na\r\n:7\r\n$1\r\nb\r\n:1\r\n"
        );
        assert_eq!(adjust(reply, Kind::Shard, &census), reply);
        assert_eq!(adjust(b"*0\r\n", Kind::Channel, &census), b"*0\r\n");
        let error = b"-NOPERM no\r\n";
        assert_eq!(adjust(error, Kind::Channel, &census), error);
    }
}
